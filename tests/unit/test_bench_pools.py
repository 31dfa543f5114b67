"""The report on the zpools: its tables, its verdicts, and that its measuring runs on the sample."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

import cells
import claims
import figures
import kernel_tables
import originals
import plan
import published
import report
import zram
from markdown_table import table
from results import Densities, Held, Kernel, KernelHeld, KernelRun, Pack
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


def rows_of(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


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


def test_the_readme_has_the_figures_of_the_results() -> None:
    readme, found = (ROOT / "README.md").read_text(), figures.load(report.RESULTS)
    assert found.kernel is not None
    phases = (figures.FRESH, figures.OVERWRITTEN, figures.COMPACTED)
    size, codec = found.sizes[-1], figures.SHOWN_CODEC
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| .* \| (1\.\d+) \| (1\.\d+) \| (1\.\d+) \|$",
                      readme, re.MULTILINE)  # fmt: skip
    assert sorted(row[0] for row in rows) == sorted(found.packed_zpools)
    for zpool, *shown in rows:
        held = [found.held(zpool, codec, plan.G4, size, phase) for phase in phases]
        assert shown == [f"{one.overhead:.3f}" for one in held], zpool
    run = found.zram(codec, size)
    assert run is not None
    fresh, overwritten, compacted = (f"{run.phases[phase].overhead:.3f}" for phase in phases)
    words = " ".join(readme.split())
    assert f"zsmalloc in zram takes {fresh}, {overwritten} and {compacted} for" in words
    for time in cells.TIMES.values():
        small, large = (
            found.against("zfit", "zblock", g, time).middle for g in (plan.G4, plan.G16)
        )
        assert f"({small:.2f} of its time, {large:.2f} with pages of 16K)" in words


def test_the_report_counts_what_zfit_is_densest_in() -> None:
    words, found = " ".join(report.README.read_text().split()), figures.load(report.RESULTS)

    def least(phases: Sequence[str], zpools: Sequence[str]) -> list[tuple[str, plan.Geometry, int]]:
        """Which of them takes the fewest bytes, for each codec, geometry, size and phase."""
        return [
            (min(zpools, key=lambda one: found.held(one, codec, g, size, phase).overhead), g, size)
            for codec in found.packed_codecs for g in plan.GEOMETRIES for size in found.sizes
            for phase in phases
        ]  # fmt: skip

    gone = [phase for phase in figures.LIFE if phase.startswith("discarded")]
    full = least([phase for phase in figures.LIFE if phase not in gone], found.packed_zpools)
    others = [one for one in full if one[0] != "zfit"]
    assert f"the densest in {len(full) - len(others)} of {len(full)} figures" in words
    assert {(zpool, g.name, size) for zpool, g, size in others} == {
        ("z3fold", "64K", 16 * plan.MIB)
    }
    assert len(others) == 2
    assert "z3fold is in two of 16 MiB with pages of 64K" in words
    thin = least(gone, ["zfit", "zsmalloc"])
    won = sum(zpool == "zfit" for zpool, *_ in thin)
    assert f"less than zblock always and than zsmalloc in {won} of {len(thin)}" in words
    assert all(zpool == "zfit" for zpool, *_ in least(gone, ["zfit", "zblock"]))


class FakeZram:
    """What a run does to a device; the kernel compacts it unasked after so many changes."""

    def __init__(self, unasked_after: int | None = None) -> None:
        self.changes: list[str] = []
        self.unasked_after = unasked_after

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.changes.append(name)

    def figures(self) -> dict[str, int]:
        """What the kernel says."""
        compacted = self.unasked_after is not None and len(self.changes) > self.unasked_after
        return {"pages_compacted": int(compacted or "compact" in self.changes)}


def zram_run(device: FakeZram) -> zram.Run:
    """Two copies of ten pages."""
    return zram.Run(cast("zram.Zram", device), [bytes([n]) * 4096 for n in range(10)], 20, seed=1)


def test_zram_lives_as_our_pools_do() -> None:
    device, changes = FakeZram(), {}
    for name, _ in zram_run(device).phases():
        changes[name] = Counter(device.changes)
        device.changes.clear()
    assert changes == {
        "fresh": {"write": 20},
        "overwritten": {"write": 40},
        "discarded50": {"discard": 10},
        "refilled50": {"write": 10},
        "discarded90": {"discard": 18},
        "refilled90": {"write": 18},
        "worn": {"write": 40},
        "compacted": {"compact": 1},
    }
    found = figures.load(report.RESULTS)
    assert found.densities is not None
    assert tuple(changes) == figures.LIFE == tuple(found.densities.packs[0].phases)


def test_a_kernel_that_compacts_unasked_spoils_a_run() -> None:
    with pytest.raises(zram.ZramError, match="compacted 1 pages by itself up to phase refilled50"):
        list(zram_run(FakeZram(unasked_after=75)).phases())


def lived(ours: Mapping[str, int], kernels: Mapping[str, int]) -> figures.Figures:
    """Our zsmalloc and zfit, and the kernel's; bytes for a thousand in phases that are named."""

    def bytes_in(phase: str, named: Mapping[str, int]) -> int:
        return named.get(phase, 1010)

    packs = []
    for zpool in ("zsmalloc", "zfit"):
        one = pack(zpool, 1010)
        held = one.phases["fresh"]
        phases = {p: held._replace(pool_bytes=bytes_in(p, ours)) for p in figures.LIFE}
        packs.append(one.model_copy(update={"phases": phases}))
    run = KernelRun(
        codec="lz4", stored_bytes=4096,
        phases={
            p: KernelHeld(1000, bytes_in(p, kernels), 0, 0) for p in figures.LIFE
        },
    )  # fmt: skip
    found = packed(*packs)
    found.kernel = Kernel(kernel="Linux", seed=1, runs=(run,))
    return found


def test_phases_in_which_ours_takes_more_than_zram_are_named() -> None:
    (row,) = rows_of(kernel_tables.zram_life(lived({"refilled50": 1021, "worn": 1009}, {})))
    assert row[2:5] == ["refilled50 (+1.09%)", "1.0100 / 1.0100", "1.0100 / 1.0100"]
    (row,) = rows_of(kernel_tables.zram_life(lived({}, {"worn": 1011})))
    assert row[2] == "none"


def test_our_zsmalloc_is_compared_with_zram_to_the_last_digit() -> None:
    found = list(cells.zsmalloc_over_zram(lived({"worn": 1011}, {"fresh": 1011})))
    assert len(found) == len(figures.LIFE)
    assert [cell.name for cell in found if not cell.bears_out] == ["lz4, 0.00390625 MiB, worn"]


def test_the_worst_after_churn_is_the_worst_of_all_that_follow_the_first_fill() -> None:
    found = lived({"refilled90": 1026}, {"worn": 1033, "discarded90": 5000, "compacted": 1050})
    ours, kernels = rows_of(kernel_tables.targets(found))
    assert ours[2:] == ["1.0100", "reached", "1.0260 (refilled90)", "missed", "", ""]
    assert kernels[2:] == ["1.0100", "", "1.0330 (worn)", "", "", ""]
    (size,) = found.sizes
    found.kept_dense["lz4", plan.G4, size] = lived({"worn": 1024}, {}).pack(
        "zfit", "lz4", plan.G4, size
    )
    ours, _ = rows_of(kernel_tables.targets(found))
    assert ours[6:] == ["1.0240 (worn)", "reached"]


def test_a_published_quotient_is_met_within_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    one = published.Published("somewhere", plan.G4, "lz4", zblock=2.2, zsmalloc=2.0)
    monkeypatch.setattr(published, "PUBLISHED", [one])

    def row(zblock_bytes: int) -> list[str]:
        found = packed(pack("zblock", zblock_bytes), pack("zsmalloc", 1100))
        (only,) = rows_of(published.published(found))
        return only

    theirs = ["somewhere", "4K", "lz4", "2.20 / 2.00", "1.100"]
    assert row(1000) == [*theirs, "1.100", "confirmed", "", "not measured"]
    assert row(1020)[5:7] == ["1.078", "confirmed"]
    assert row(1100)[5:7] == ["1.000", "refuted"]


def test_the_sample_can_be_measured(tmp_path: Path) -> None:
    measured = run(
        POOLS / "measure.py", "--density", "--originals", "--speed", "--quick",
        "--rounds", 1, "--stored-mib", 2, "--speed-stored-mib", 4, "--out", tmp_path,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    found = figures.load(tmp_path)
    assert found.densities is not None
    assert found.originals is not None
    assert found.speeds is not None
    assert found.speeds.stored_bytes == 4 * plan.MIB
    for held in (held for one in found.densities.packs for held in one.phases.values()):
        assert held.object_bytes <= held.slot_bytes <= held.pool_bytes
    assert found.timed_zpools == found.packed_zpools
    assert "## " not in measured.stdout
    assert "other programs used" in measured.stdout


@pytest.mark.parametrize("option", ["--stored-mib", "--speed-stored-mib", "--rounds"])
def test_a_size_or_count_of_nothing_is_refused(option: str) -> None:
    refused = run(POOLS / "measure.py", option, 0)
    assert refused.returncode == 2
    assert refused.stderr.endswith(f"argument {option}: found 0, wanted at least 1\n")
