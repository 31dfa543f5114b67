"""libnbd's programs: nbdinfo describes the export, nbdcopy moves data there and back."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import pytest

from tests.interop.conftest import check_placement
from tests.support.servers import EXPORT, Server
from tests.support.tools import require, run

PACKAGE = "libnbd-bin"


@pytest.fixture
def nbdinfo() -> str:
    return require("nbdinfo", PACKAGE)


@pytest.fixture
def nbdcopy() -> str:
    return require("nbdcopy", PACKAGE)


def test_nbdinfo_describes_the_export(nbdinfo: str, placed: Server, uri: str) -> None:
    info = json.loads(run([nbdinfo, "--json", uri]).stdout)
    (export,) = info["exports"]
    assert info["protocol"] == "newstyle-fixed"
    assert info["structured"] is True
    assert export["export-size"] == placed.settings.size_bytes
    assert export["contexts"] == ["base:allocation"]
    assert export["is_read_only"] is False


@pytest.mark.only_nbdswap
def test_nbdinfo_sees_the_block_sizes_and_the_name(nbdinfo: str, uri: str) -> None:
    (export,) = json.loads(run([nbdinfo, "--json", uri]).stdout)["exports"]
    names = ("block_minimum", "block_preferred", "block_maximum")
    assert [export[name] for name in names] == [1, 4096, 64 << 20]
    assert export["export-name"] == EXPORT


def test_nbdinfo_gets_the_size(nbdinfo: str, placed: Server, uri: str) -> None:
    assert run([nbdinfo, "--size", uri]).stdout.strip() == str(placed.settings.size_bytes)


@pytest.mark.only_nbdswap
def test_nbdinfo_lists_the_exports(nbdinfo: str, uri: str) -> None:
    exports = json.loads(run([nbdinfo, "--list", "--json", uri]).stdout)["exports"]
    assert [export["export-name"] for export in exports] == [EXPORT]


@pytest.mark.only_nbdswap
def test_nbdinfo_is_refused_an_unknown_export(nbdinfo: str, uri: str) -> None:
    result = run([nbdinfo, "--size", uri.replace(EXPORT, "unknown", 1)], status=1)
    assert "unknown" in result.stderr


def test_nbdinfo_sees_every_ability(nbdinfo: str, uri: str) -> None:
    wanted = "connect read write flush fua trim zero fast-zero multi-conn cache df"
    refused = [
        what
        for what in wanted.split()
        if run([nbdinfo, "--can", what, uri], status=None).returncode
    ]
    assert refused == []
    run([nbdinfo, "--is", "rotational", uri], status=2)
    run([nbdinfo, "--is", "read-only", uri], status=2)


def test_nbdcopy_brings_data_there_and_back(
    nbdcopy: str, placed: Server, uri: str, image: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    run([nbdcopy, "--flush", str(image), uri])
    check_placement(placed)
    run([nbdcopy, uri, str(back)])
    with back.open("r+b") as file:
        file.truncate(image.stat().st_size)  # The export is larger than the image.
    assert filecmp.cmp(image, back, shallow=False)


@pytest.mark.parametrize(
    "options",
    [
        ["--connections=4", "--requests=32"],
        ["--connections=4", "--requests=32", "--request-size=65536"],
        ["--synchronous"],
        ["--no-extents"],
        ["--allocated"],
    ],
    ids=" ".join,
)
def test_nbdcopy_copies_right_whatever_its_options(
    nbdcopy: str, placed: Server, image: Path, tmp_path: Path, options: list[str]
) -> None:
    back = tmp_path / "back"
    run([nbdcopy, *options, "--flush", str(image), placed.unix_uri])
    run([nbdcopy, *options, placed.tcp_uri, str(back)])
    with back.open("r+b") as file:
        file.truncate(image.stat().st_size)
    assert filecmp.cmp(image, back, shallow=False)


def test_the_map_shows_what_was_never_written_as_a_hole(
    nbdinfo: str, nbdcopy: str, placed: Server, image: Path
) -> None:
    run([nbdcopy, str(image), placed.unix_uri])
    extents = json.loads(run([nbdinfo, "--map", "--json", placed.unix_uri]).stdout)
    data_bytes = sum(extent["length"] for extent in extents if extent["type"] == 0)
    last = extents[-1]
    assert sum(extent["length"] for extent in extents) == placed.settings.size_bytes
    assert 0 < data_bytes <= image.stat().st_size, "zero pages of the image may be holes too"
    assert (last["type"], last["offset"] + last["length"]) == (3, placed.settings.size_bytes)
