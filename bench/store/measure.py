"""Measures what write-back costs a real device: `python bench/store/measure.py --help`.

Each figure beside what is wanted: bytes that the device was given for a page written back, from
the kernel's own count; how fast the pool drains, against fio's sequential writes to the same file
system in the same run; what reading ahead gains and costs; what it gains to have several reads
under way in an io_uring; how long a read takes beside write-back
and cleaning, against fio's beside as many writes; and write amplification under random overwrites.
bench/store/README.md says what they are.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
PROGRAM = HERE.parent / "target/release/nbdstore"
OUT = HERE.parent / "target/store"

MIB = 1 << 20
# Of the segments, seven eighths are capacity and one is what cleaning works with.
LIVE_PERCENT_AT_80 = 70


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and whether it is what was wanted; None: nothing was."""

    what: str
    found: str
    wanted: str = ""
    is_met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "met", False: "MISSED"}[self.is_met]
        return f"{self.what:<58} {self.found:>16}  {self.wanted:<26} {verdict}"


def drain(directory: Path, pool_mib: int, seed: int) -> dict[str, Any]:
    """A pool that is written back as fast as it goes."""
    return _engine(directory, "drain", pool_mib, seed)


def read_back(directory: Path, pool_mib: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Stored pages that are read in order and at random, with and without reading ahead."""
    reads: list[dict[str, Any]] = _engine(directory, "readback", pool_mib, rounds, seed)["reads"]
    return reads


# Ways to do several reads at once, and requests under way.
IOS = ("threads", "io_uring")
DEPTHS = (1, 4, 32)
READERS = 4


def depths(directory: Path, pool_mib: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Stored pages that are read at random at each depth through the reader threads of a server."""
    found = _engine(directory, "depth", pool_mib, READERS, rounds, seed)
    rounds_and_depths: list[dict[str, Any]] = found["depths"]
    return rounds_and_depths


def churn(directory: Path, plan: "Churn", seed: int) -> dict[str, Any]:
    """A store that is overwritten at random."""
    numbers = (plan.store_mib, plan.live_percent, int(plan.is_skewed), plan.rounds, seed)
    return _engine(directory, "churn", *numbers)


@dataclass(frozen=True, slots=True)
class Churn:
    """How the store is filled and overwritten."""

    store_mib: int
    live_percent: int
    is_skewed: bool
    rounds: int


def _engine(directory: Path, what: str, *numbers: int) -> dict[str, Any]:
    path = directory / "nbdstore.bench"
    try:
        command = [str(PROGRAM), what, str(path), *map(str, numbers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".second").unlink(missing_ok=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def fio(directory: Path, mib: int) -> float:
    """Bytes a second that fio writes in order, as write-back does: 1 MiB at once, direct."""
    path = directory / "fio.bench"
    command = [
        "fio", "--name=write", f"--filename={path}", f"--size={mib}M", "--rw=write", "--bs=1M",
        "--direct=1", "--ioengine=psync", "--fallocate=posix", "--output-format=json",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        path.unlink(missing_ok=True)
    return float(json.loads(done.stdout)["jobs"][0]["write"]["bw_bytes"])


@dataclass(frozen=True, slots=True)
class Load:
    """Pages that are overwritten at random, while others are read back."""

    store_mib: int
    seconds: int = 8
    pages_per_s: int = 40_000


def tail(directory: Path, load: Load, seed: int) -> dict[str, Any]:
    """Stored pages that are read at random beside write-back and cleaning."""
    return _engine(directory, "tail", load.store_mib, load.seconds, load.pages_per_s, seed)


def fio_tail(directory: Path, load: Load, found: dict[str, Any]) -> float:
    """Microseconds in which 99.9 % of fio's reads are done: of 4 and 8 KiB, as ours are, beside
    writes in order of as many bytes a second, and reads of as many as cleaning moved, 128 KiB at
    once.
    """
    read, write = directory / "fio-read.bench", directory / "fio-write.bench"
    command = [
        "fio", "--direct=1", "--ioengine=psync", "--time_based", f"--runtime={load.seconds}",
        "--fallocate=posix", "--output-format=json",
        "--name=read", f"--filename={read}", f"--size={load.store_mib}M", "--rw=randread",
        "--bssplit=4k/50:8k/50",
        "--name=write", f"--filename={write}", f"--size={load.store_mib}M", "--rw=write",
        "--bs=1M", f"--rate={found['written_bytes_per_s']:.0f}",
        "--name=clean", f"--filename={read}", f"--size={load.store_mib}M", "--rw=randread",
        "--bs=128k", f"--rate={found['cleaned_bytes'] / load.seconds:.0f}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        read.unlink(missing_ok=True)
        write.unlink(missing_ok=True)
    job = json.loads(done.stdout)["jobs"][0]["read"]
    return float(job["clat_ns"]["percentile"]["99.900000"]) / 1000


def of_page(found: dict[str, Any]) -> Figure:
    """Bytes of the device for a page written back, as the kernel counts them."""
    page, device = (found[key] / found["pages"] for key in ("object_bytes", "kernel_bytes"))
    allowed = 1.05 * page + 24
    return Figure(
        f"bytes on the device for a page of {page:.0f} compressed bytes",
        f"{device:.1f}",
        f"at most {allowed:.1f}",
        device <= allowed,
    )


def of_churn(plan: Churn, found: dict[str, Any]) -> Figure:
    """Bytes of the device over compressed bytes that left the pool."""
    live = found["live_bytes"] / found["segments_bytes"] * 100
    spread = "4/5 of them to 1/5 of the pages" if plan.is_skewed else "uniform"
    amplification = found["kernel_bytes"] / found["object_bytes"]
    what = f"write amplification, {live:.1f} % of segments live, {spread}"
    if plan.live_percent > LIVE_PERCENT_AT_80:
        return Figure(what, f"{amplification:.2f}")
    return Figure(what, f"{amplification:.2f}", "at most 2.00", amplification <= 2)


def of_speed(rounds: list[tuple[dict[str, Any], float]]) -> Iterator[Figure]:
    """Write-back against fio, in the median of the rounds."""
    ours = [found["kernel_bytes"] / found["seconds"] for found, _ in rounds]
    theirs = [bytes_s for _, bytes_s in rounds]
    yield Figure("write-back, MiB/s", f"{median(ours) / MIB:.0f}")
    yield Figure("fio, MiB/s", f"{median(theirs) / MIB:.0f}")
    ratio = median(own / other for own, other in zip(ours, theirs, strict=True))
    yield Figure("write-back over fio", f"{ratio:.2f}", "at least 0.80", ratio >= 0.8)


def of_reads(reads: list[dict[str, Any]]) -> Iterator[Figure]:
    """What reading ahead changes, in the medians of the rounds."""

    def of(key: str, in_order: bool, ahead: bool) -> list[float]:
        return [
            read[key] for read in reads if (read["in_order"], read["ahead"]) == (in_order, ahead)
        ]

    for in_order, what in ((True, "in order"), (False, "at random")):
        without, with_it = (of("mean_us", in_order, ahead) for ahead in (False, True))
        found = f"{median(without):.0f} and {median(with_it):.0f}"
        yield Figure(f"a page read back {what}, us, without and with ahead", found)
        gain = median(before / after for before, after in zip(without, with_it, strict=True))
        if in_order:
            yield Figure("in order, time without over with", f"{gain:.2f}")
        else:
            yield Figure(
                "at random, time without over with", f"{gain:.2f}", "at least 0.95", gain >= 0.95
            )


def of_depths(measured: list[dict[str, Any]]) -> Iterator[Figure]:
    """One read after the other on each thread, against all in a ring: medians of the rounds."""
    for depth in DEPTHS:
        rounds = [found["io"] for found in measured if found["depth"] == depth]
        for key, what in (
            ("reads_per_s", "reads/s"),
            ("cpu_us", "processor time, us"),
            ("p50_us", "median, us"),
            ("p99_us", "99 %, us"),
        ):
            threads, ring = ([found[io][key] for found in rounds] for io in IOS)
            ratio = median(after / before for before, after in zip(threads, ring, strict=True))
            yield Figure(
                f"depth {depth}, {what}: threads, io_uring; ratio",
                f"{median(threads):,.0f}, {median(ring):,.0f}; {ratio:.2f}",
            )


def of_tail(rounds: list[tuple[dict[str, Any], float]]) -> Iterator[Figure]:
    """99.9 % of reads beside writes, in the median of the rounds."""
    ours = [found["p999_us"] for found, _ in rounds]
    theirs = [us for _, us in rounds]
    written = median(found["written_bytes_per_s"] for found, _ in rounds) / MIB
    yield Figure(
        f"99.9 % of reads at random beside {written:.0f} MiB/s written, us",
        f"{median(ours):.0f}, fio {median(theirs):.0f}",
    )
    ratio = median(own / other for own, other in zip(ours, theirs, strict=True))
    yield Figure("the same, over fio", f"{ratio:.2f}", "at most 3.00", ratio <= 3)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=OUT, help="on the disk to be measured")
    parser.add_argument("--pool-mib", type=int, default=1024, help="size of the pool that drains")
    parser.add_argument("--store-mib", type=int, default=2048, help="size of what is overwritten")
    parser.add_argument("--rounds", type=int, default=5, help="drains, each with one run of fio")
    parser.add_argument("--overwrites", type=int, default=2, help="of all pages, before and while")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices")
    parser.add_argument("--json", type=Path, help="write everything measured")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a figure is missed")
    return parser.parse_args()


def main() -> int:
    """Builds, measures, prints."""
    options = arguments()
    if shutil.which("fio") is None:
        print("fio is not installed (Debian's fio)", file=sys.stderr)
        return 2
    build = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "nbdstore"]
    subprocess.run(build, cwd=HERE.parent, check=True)
    directory: Path = options.directory
    directory.mkdir(parents=True, exist_ok=True)

    rounds = []
    for number in range(options.rounds):
        found = drain(directory, options.pool_mib, options.seed + number)
        rounds.append((found, fio(directory, found["kernel_bytes"] // MIB)))
    figures = [of_page(rounds[0][0]), *of_speed(rounds)]
    for figure in figures:
        print(figure, flush=True)
    reads = read_back(directory, options.pool_mib // 2, options.rounds, options.seed)
    for figure in of_reads(reads):
        figures.append(figure)
        print(figure, flush=True)
    deep = depths(directory, options.pool_mib // 4, 2 * options.rounds, options.seed)
    for figure in of_depths(deep):
        figures.append(figure)
        print(figure, flush=True)
    load = Load(options.store_mib // 2)
    tails = []
    for number in range(options.rounds):
        found = tail(directory, load, options.seed + number)
        tails.append((found, fio_tail(directory, load, found)))
    for figure in of_tail(tails):
        figures.append(figure)
        print(figure, flush=True)
    churns = []
    for live_percent, is_skewed in ((70, False), (70, True), (80, False), (80, True)):
        plan = Churn(options.store_mib, live_percent, is_skewed, options.overwrites)
        churns.append(churn(directory, plan, options.seed))
        figures.append(of_churn(plan, churns[-1]))
        print(figures[-1], flush=True)
    if options.json is not None:
        options.json.write_text(
            json.dumps(
                {
                    "drains": rounds,
                    "reads": reads,
                    "depths": deep,
                    "tails": tails,
                    "churns": churns,
                },
                indent=1,
            )
        )
    return int(options.strict and any(figure.is_met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
