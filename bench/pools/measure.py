"""Measures the zpools with real memory pages: `python bench/pools/measure.py --help`.

Densities are the same each time, speeds are not, and the kernel's zram stands beside them where
there is one. bench/pools/README.md says what the figures are; report.py makes tables of them.
"""

import argparse
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import density
import figures
import kernel
import originals
import plan
import report
import results
import speed
import zram
from nbdswap._core import ConfigError
from nbdswap.errors import NbdswapError
from nbdswap.lab.environment import available_memory_bytes
from nbdswap.lab.pages import PageFile, read_files

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "pages"
OUT = HERE.parent / "target/pools"


def at_least_one(text: str) -> int:
    """A size or count of the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, wanted at least 1")
    return number


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE",
        help="pages of 4 KiB, back to back, raw or packed by xz (the sample in bench/pages)",
    )  # fmt: skip
    parts = parser.add_argument_group("parts to measure; all of them if none is named")
    parts.add_argument("--density", action="store_true", help="bytes of the zpools")
    parts.add_argument("--originals", action="store_true", help="bytes of the kernel's, computed")
    parts.add_argument("--speed", action="store_true", help="times of the zpools")
    parts.add_argument("--zram", action="store_true", help="bytes of the kernel's zram; as root")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the result files")
    parser.add_argument("--seed", type=int, default=plan.SEED, help="of all random choices (1)")
    parser.add_argument(
        "--stored-mib", type=at_least_one, nargs="+", default=plan.STORED_MIB, metavar="N",
        help="sizes of the stores whose density is measured (16 96 768)",
    )  # fmt: skip
    parser.add_argument(
        "--zblock-header", type=Path, metavar="FILE",
        help="mm/zblock.h as its author published it, for the shapes of the original",
    )  # fmt: skip
    parser.add_argument(
        "--speed-stored-mib", type=at_least_one, metavar="N",
        help="size of the stores whose speed is measured (768, or 16 with --quick)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=at_least_one, default=plan.SPEED_ROUNDS, help="of speed (5)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of speed: too short to quote"
    )
    args = parser.parse_args()
    if not (args.density or args.originals or args.speed or args.zram):
        args.density = args.originals = args.speed = args.zram = True
    return args


def say(text: str) -> None:
    """Progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)


def read_pages(paths: list[Path]) -> tuple[PageFile, ...]:
    """The files, or the sample."""
    return read_files(
        paths or sorted(SAMPLE.glob("*.pages.xz")),
        page_bytes_least=max(geometry.page_bytes for geometry in plan.GEOMETRIES),
        memory_bytes=available_memory_bytes() // 4,
    )


def measure(args: argparse.Namespace) -> None:
    """Measures what is asked for, and writes a file of each part."""
    files = read_pages(args.files)
    if args.density:
        found = density.measure(files, args.stored_mib, args.seed, say)
        results.write(found, args.out / results.DENSITY_FILE)
    if args.originals:
        zblock = originals.read_zblock(args.zblock_header) if args.zblock_header else {}
        models = originals.measure(files, args.stored_mib, zblock, say)
        results.write(models, args.out / results.ORIGINALS_FILE)
    if args.zram and (reason := kernel.missing()):
        say(f"the kernel's zram is left out: {reason}")
    elif args.zram:
        runs = kernel.measure(files, args.stored_mib, args.seed, say)
        results.write(runs, args.out / results.KERNEL_FILE)
    if args.speed:
        effort = speed.Effort(rounds=args.rounds)
        if args.quick:
            effort = replace(effort, stored_mib=16, cycles=20_000)
        if args.speed_stored_mib is not None:
            effort = replace(effort, stored_mib=args.speed_stored_mib)
        speeds = speed.measure(files, effort, args.seed, say)
        results.write(speeds, args.out / results.SPEED_FILE)


def main() -> None:
    """The program."""
    args = arguments()
    signal.signal(signal.SIGTERM, zram.stop)
    began_s = time.monotonic()
    try:
        measure(args)
    except (NbdswapError, ConfigError, zram.ZramError, OSError) as error:
        sys.exit(f"measure.py: {error}")
    say(f"{time.monotonic() - began_s:.0f} s; results are in {args.out}")
    print(report.text(figures.load(args.out)))


if __name__ == "__main__":
    main()
