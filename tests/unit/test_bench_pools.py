"""The report on the zpools: its tables, its verdicts, and that its measuring runs on the sample."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import cells
import claims
import figures
import originals
import report
from markdown_table import table
from results import Densities, Held, Pack
from tests.unit.process import ROOT, environment

POOLS = ROOT / "bench" / "pools"
TIMEOUT_S = 60


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A script of the benchmark."""
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment(),
    )  # fmt: skip


def pack(zpool: str, pool_bytes: int) -> Pack:
    """A zpool that took so much for a thousand bytes, in every phase."""
    held = Held(objects=1, object_bytes=1000, slot_bytes=1000, pool_bytes=pool_bytes)
    return Pack(
        codec="lz4", level=1, page_bytes=4096, frame_bytes=4096, stored_bytes=4096, zpool=zpool,
        phases=dict.fromkeys(("fresh", "overwritten", "compacted"), held),
        objects_copied_twice=0, bytes_copied_twice=0, objects_moved=0,
    )  # fmt: skip


def packed(*packs: Pack) -> figures.Figures:
    """Results with no more than these."""
    densities = Densities(nbdswap="1", seed=1, files={}, codecs=(), packs=packs)
    return figures.Figures(densities=densities)


def test_a_table_lines_up() -> None:
    assert table(["zpool", "n"], [["zfit", "1.25"], ["zblock", "3"]]).splitlines() == [
        "| zpool  |    n |",
        "| ------ | ---: |",
        "| zfit   | 1.25 |",
        "| zblock |    3 |",
    ]


@pytest.mark.parametrize(
    ("zblock_bytes", "verdict"),
    [(1000, "confirmed"), (1019, "confirmed"), (1030, "refuted"), (970, "refuted")],
)
def test_alike_is_within_the_margin(zblock_bytes: int, verdict: str) -> None:
    found = packed(pack("zblock", zblock_bytes), pack("zsmalloc", 1000))
    figured = list(claims.CLAIMS[0].cells(found))
    assert [cell.value for cell in figured] == [zblock_bytes / 1000] * 2
    assert claims.verdict(figured) == verdict


@pytest.mark.parametrize(
    ("bears_out", "verdict"),
    [
        ([True, True], "confirmed"),
        ([False, False], "refuted"),
        ([True, False, False], "in part (1 of 3)"),
        ([], "not measured"),
    ],
)
def test_a_verdict_follows_from_its_cells(bears_out: Sequence[bool], verdict: str) -> None:
    assert claims.verdict([cells.Cell("cell", 1.0, one) for one in bears_out]) == verdict


@pytest.mark.parametrize(
    ("page_bytes", "chain", "largest"),
    [(4096, 4, 3264), (4096, 8, 3632), (4096, 16, 3840), (16384, 4, 13088), (16384, 8, 14560)],
)
def test_zsmallocs_largest_size_is_that_of_its_documentation(
    page_bytes: int, chain: int, largest: int
) -> None:
    shapes = originals.zsmalloc_shapes(page_bytes, chain)
    assert shapes[-1].object_bytes_max + originals.HANDLE_BYTES == largest
    assert all(shape.frames <= chain for shape in shapes)
    assert len({(shape.frames, shape.slots) for shape in shapes}) == len(shapes)


def test_a_filled_pool_has_one_part_filled_block_a_class() -> None:
    shapes = [originals.Shape(1000, 4, 1), originals.Shape(2000, 2, 1)]
    held = originals.filled(shapes, Counter({900: 5, 1500: 2, 3000: 3}), 4096)
    assert held == {
        "classes": 2,
        "object_bytes": 5 * 900 + 2 * 1500 + 3 * 4096,
        "slot_bytes": 5 * 1024 + 2 * 2048 + 3 * 4096,
        "pool_bytes": (2 + 1 + 3) * 4096,
    }


def test_the_authors_header_is_read(tmp_path: Path) -> None:
    header = tmp_path / "zblock.h"
    header.write_text(
        "#if PAGE_SIZE == 0x1000\n#define SLOT_BITS 6\n#else\n#endif\n"
        "#if PAGE_SIZE == 0x1000\n\t{ SLOT_SIZE(2, 1), 2, 1 },\n\t{ SLOT_SIZE(7, 2), 7, 2 },\n"
        "#else\n\t{ SLOT_SIZE(8, 3), 8, 3 },\n#endif\n"
    )
    assert originals.read_zblock(header) == {
        4096: [originals.Shape(1160, 7, 2), originals.Shape(2024, 2, 1)],
        16384: [originals.Shape(6128, 8, 3)],
    }


def test_every_figure_has_its_place_and_no_other_is_touched() -> None:
    readme = report.README.read_text()
    names = [place["name"] for place in report.PLACE.finditer(readme)]
    assert sorted(names) == sorted(report.SECTIONS)
    with pytest.raises(ValueError, match="wanted"):
        report.filled_in("no place", packed())


def test_the_report_has_the_figures_of_its_results() -> None:
    checked = run(POOLS / "report.py", "--check")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_sample_can_be_measured(tmp_path: Path) -> None:
    measured = run(
        POOLS / "measure.py", "--density", "--originals", "--speed", "--quick",
        "--rounds", 1, "--stored-mib", 2, "--out", tmp_path,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    found = figures.load(tmp_path)
    assert found.densities is not None
    assert found.originals is not None
    assert found.speeds is not None
    for held in (held for one in found.densities.packs for held in one.phases.values()):
        assert held.object_bytes <= held.slot_bytes <= held.pool_bytes
    assert found.timed_zpools == found.packed_zpools
    assert "## " not in measured.stdout
    assert "other programs used" in measured.stdout
