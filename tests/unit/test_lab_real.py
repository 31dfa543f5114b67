"""The lab with nothing made up: the real core, real pages, a real process."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from nbdswap.errors import ExitCode
from nbdswap.lab.core import core_of_extension
from nbdswap.lab.results import LabResults, key_of, read_results
from tests.unit.process import ROOT, environment

SAMPLES = sorted((ROOT / "bench" / "pages").glob("*.xz"))[:3]
TIMEOUT_S = 60


def nbdswap(*arguments: object) -> str:
    """What the command prints."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "nbdswap", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment(),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (ExitCode.OK, "")
    return result.stdout


def run_on(files: Sequence[Path], out: Path, *flags: object) -> LabResults:
    """A short run."""
    nbdswap("lab", "run", *files, "--stored", "4M", "--json", out, *flags)
    return read_results(out)


def sizes(results: LabResults) -> list[object]:
    """All that must be the same each time: everything but times."""
    codecs = [(key_of(c), c.pages, c.same_filled, c.object_bytes) for c in results.codecs]
    packs = [(p.zpool, p.densities, p.timeline, p.bytes_copied_twice) for p in results.packs]
    return [codecs, packs]


def test_real_pages_give_results_that_hold_together(tmp_path: Path) -> None:
    assert len(SAMPLES) == 3
    flags = ("--codec", "lz4", "--codec", "zstd:3", "--page-size", "4K", "--page-size", "16K")
    results = run_on(SAMPLES, tmp_path / "a.json", *flags, "--seed", "3")
    zpools = core_of_extension().zpools()
    assert len(results.codecs) == 4
    assert [pack.zpool for pack in results.packs] == [*zpools] * 4
    for codec in results.codecs:
        assert codec.all_pages * codec.page_bytes == 3 * 128 * 4096
        assert codec.ratio is not None
        assert codec.ratio > 1.5
    for pack in results.packs:
        assert [density.phase for density in pack.densities] == [
            *("fresh", "overwritten", "discarded50", "refilled50", "discarded90", "refilled90"),
            *("worn", "compacted"),
        ]
        for density in pack.densities:
            assert density.objects > 0
            assert density.object_bytes <= density.block_bytes <= density.held_bytes
        assert pack.alloc_ns.count > 0
    assert sizes(run_on(SAMPLES, tmp_path / "b.json", *flags, "--seed", "3")) == sizes(results)
    assert sizes(run_on(SAMPLES, tmp_path / "c.json", *flags, "--seed", "4")) != sizes(results)


def test_speed_is_measured_on_one_and_two_threads(tmp_path: Path) -> None:
    flags = ("--codec", "lz4", "--zpool", "zblock", "--speed")
    results = run_on(SAMPLES[:1], tmp_path / "a.json", *flags)
    assert [speed.threads for speed in results.speeds] == [1, 2]
    assert all(speed.ns_per_cycle > 0 for speed in results.speeds)


def test_from_a_live_process_to_advice(tmp_path: Path) -> None:
    child = (
        "import sys; text = [b'%d: some text that shrinks' % n * 9 for n in range(20000)]; "
        "print(flush=True); sys.stdin.read()"
    )
    path = tmp_path / "child.pages"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        nbdswap("lab", "grab", process.pid, "--size", "2M", "-o", path)
        process.kill()
    said = nbdswap("advise", path, "--memory", "1G")
    assert said.startswith("Take ")
    assert "A pool of 1.00 GiB holds " in said
    assert "    page_bytes: 4K\n    pool:\n      bytes_max: 1G\n" in said
