"""qemu-img and qemu-io: the block layer that virtual machines use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interop.conftest import check_placement
from tests.support.servers import Server
from tests.support.tools import require, run

PACKAGE = "qemu-utils"


@pytest.fixture
def qemu_img() -> str:
    return require("qemu-img", PACKAGE)


@pytest.fixture
def qemu_io() -> str:
    return require("qemu-io", PACKAGE)


def test_qemu_img_knows_the_size(qemu_img: str, placed: Server, uri: str) -> None:
    info = json.loads(run([qemu_img, "info", "-f", "raw", "--output=json", uri]).stdout)
    assert info["virtual-size"] == placed.settings.size_bytes


def test_qemu_img_converts_and_compares(
    qemu_img: str, placed: Server, uri: str, image: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    run([qemu_img, "convert", "-n", "-f", "raw", "-O", "raw", str(image), uri])
    check_placement(placed)
    run([qemu_img, "convert", "-f", "raw", "-O", "raw", uri, str(back)])
    # The export is larger than the image: the rest of it must read as zeroes.
    run([qemu_img, "compare", "-f", "raw", "-F", "raw", str(image), str(back)])
    run([qemu_img, "compare", "-f", "raw", "-F", "raw", str(image), uri])


def test_qemu_img_compare_would_notice_a_wrong_byte(
    qemu_img: str, placed: Server, image: Path, tmp_path: Path
) -> None:
    wrong = bytearray(image.read_bytes())
    wrong[len(wrong) // 2] ^= 1
    copy = tmp_path / "wrong"
    copy.write_bytes(wrong)
    run([qemu_img, "convert", "-n", "-f", "raw", "-O", "raw", str(image), placed.unix_uri])
    run([qemu_img, "compare", "-f", "raw", "-F", "raw", str(copy), placed.unix_uri], status=1)


def test_qemu_img_maps_the_whole_export(qemu_img: str, placed: Server, uri: str) -> None:
    extents = json.loads(run([qemu_img, "map", "-f", "raw", "--output=json", uri]).stdout)
    assert sum(extent["length"] for extent in extents) == placed.settings.size_bytes


@pytest.mark.parametrize(
    "commands",
    [
        ["write -P 0xab 4k 64k", "read -P 0xab 4k 64k"],
        [
            "write -P 0xab 0 1m",
            "write -P 0xcd 1000 3000",
            "read -P 0xab 0 1000",
            "read -P 0xcd 1000 3000",
        ],
        ["write -P 0xab 4k 64k", "write -z 4k 4k", "read -P 0 4k 4k", "read -P 0xab 8k 4k"],
        ["write -P 0xab 8k 8k", "discard 8k 4k", "read -P 0 8k 4k", "read -P 0xab 12k 4k"],
        ["write -f -P 0x11 0 4k", "flush", "read -P 0x11 0 4k"],
        ["write -z -u 0 2m", "read -P 0 0 2m"],
        [
            "aio_write -P 1 0 64k",
            "aio_write -P 2 64k 64k",
            "aio_flush",
            "read -P 1 0 64k",
            "read -P 2 64k 64k",
        ],
    ],
    ids=", ".join,
)
def test_qemu_io_reads_the_patterns_that_it_wrote(
    qemu_io: str, uri: str, commands: list[str]
) -> None:
    arguments = [word for command in commands for word in ("-c", command)]
    output = run([qemu_io, "-f", "raw", "-d", "unmap", *arguments, uri]).stdout
    assert "Pattern verification failed" not in output


def test_qemu_io_would_notice_a_wrong_pattern(qemu_io: str, placed: Server) -> None:
    commands = ["-c", "write -P 1 0 4k", "-c", "read -P 2 0 4k"]
    result = run([qemu_io, "-f", "raw", *commands, placed.unix_uri], status=None)
    assert "Pattern verification failed" in result.stdout
