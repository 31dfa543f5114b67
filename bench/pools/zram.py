"""Measures how densely the kernel's zram stores pages: `sudo python3 bench/pools/zram.py --help`.

Makes a zram device of its own, writes real pages to it, changes them, and reads after each phase
what the kernel says of its pool (mm_stat). `overhead` is mem_used_total / compr_data_size, bytes of
memory for a byte stored; zram counts a page that it could not compress as a whole page in both, and
its table of slots and handles in neither.

Needs root and a kernel with zram; changes nothing that was there before. Not here: our own pools.
"""

import argparse
import fcntl
import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from life import Life

CONTROL = Path("/sys/class/zram-control")
CODECS = ("lz4", "lzo", "lzo-rle")
PAGE_BYTES = 4096
BLKDISCARD = 0x1277
COMPACTED = "compacted"
# Fields of mm_stat in the kernel's order, of which the ones wanted have a name in the figures.
MM_STAT = (
    "orig_data_size",
    "compr_data_size",
    "mem_used_total",
    "mem_limit",
    "mem_used_max",
    "same_pages",
    "pages_compacted",
    "huge_pages",
)


class ZramError(Exception):
    """This machine cannot do it, in words for its user."""


@contextmanager
def device(codec: str, size_bytes: int) -> Iterator["Zram"]:
    """A zram device of its own, which is gone afterwards whatever happens."""
    number = int((CONTROL / "hot_add").read_text())
    settings = Path(f"/sys/block/zram{number}")
    try:
        offered = (settings / "comp_algorithm").read_text().replace("[", "").replace("]", "")
        if codec not in offered.split():
            raise ZramError(f"this kernel's zram has {offered.strip()}, wanted {codec}")
        (settings / "comp_algorithm").write_text(codec)
        (settings / "disksize").write_text(str(size_bytes))
        file = os.open(f"/dev/zram{number}", os.O_RDWR | os.O_DIRECT)
        try:
            yield Zram(settings, file)
        finally:
            os.close(file)
    finally:
        (settings / "reset").write_text("1")
        (CONTROL / "hot_remove").write_text(str(number))


class Zram:
    """Slots of a page each, in the kernel's zram."""

    def __init__(self, settings: Path, file: int) -> None:
        self._settings = settings
        self._file = file
        # O_DIRECT wants aligned memory.
        self._page = mmap.mmap(-1, PAGE_BYTES)

    def write(self, slot: int, page: bytes) -> None:
        """Writes one page."""
        self._page[:] = page
        written = os.pwrite(self._file, self._page, slot * PAGE_BYTES)
        if written != PAGE_BYTES:
            raise ZramError(f"zram took {written} bytes of {PAGE_BYTES} at slot {slot}")

    def discard(self, slot: int) -> None:
        """Frees one slot."""
        fcntl.ioctl(self._file, BLKDISCARD, struct.pack("=QQ", slot * PAGE_BYTES, PAGE_BYTES))

    def compact(self) -> None:
        """Has the kernel move objects together."""
        (self._settings / "compact").write_text("1")

    def figures(self) -> dict[str, int]:
        """What the kernel says of its pool."""
        words = (self._settings / "mm_stat").read_text().split()
        return dict(zip(MM_STAT, map(int, words), strict=False))


class Run:
    """Phases over one device: the same writes as those of our pools, in the same order (life.py).

    `pages` are a set; the device is filled with `slots` of them.
    """

    def __init__(self, zram: Zram, pages: Sequence[bytes], slots: int, seed: int) -> None:
        self._zram = zram
        self._pages = pages
        self._life = Life(len(pages), slots, seed)

    def phases(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Name of each phase, and what the kernel says at its end.

        Raises ZramError if the kernel compacted unasked, which it does when memory runs short.
        """
        for name, changes in self._life.phases():
            for slot, page in changes:
                if page is None:
                    self._zram.discard(slot)
                else:
                    self._zram.write(slot, self._pages[page])
            found = self._zram.figures()
            if found["pages_compacted"]:
                raise ZramError(
                    f"the kernel compacted {found['pages_compacted']} pages by itself up to phase "
                    f"{name}, wanted none: too little memory is free to measure"
                )
            yield name, found
        self._zram.compact()
        yield COMPACTED, self._zram.figures()


def with_ratios(figures: dict[str, int]) -> dict[str, float]:
    """mm_stat, and the ratios that it is read for."""
    found: dict[str, float] = dict(figures)
    found["overhead"] = round(found["mem_used_total"] / max(found["compr_data_size"], 1), 4)
    found["ratio"] = round(found["orig_data_size"] / max(found["mem_used_total"], 1), 3)
    return found


def read_pages(files: list[Path]) -> list[bytes]:
    """All pages of all files."""
    pages = []
    for path in files:
        content = path.read_bytes()
        if not content or len(content) % PAGE_BYTES:
            raise ZramError(f"{path} has {len(content)} bytes, wanted whole pages of {PAGE_BYTES}")
        starts = range(0, len(content), PAGE_BYTES)
        pages += [content[at : at + PAGE_BYTES] for at in starts]
    return pages


def stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the program by an exception, so that the device is removed."""
    sys.exit(128 + number)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="raw pages of 4 KiB, back to back")
    parser.add_argument("--codec", choices=CODECS, default="lz4")
    parser.add_argument("--slots", type=int, help="pages that the device holds (all of the files)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Runs all phases and prints a line after each."""
    pages = read_pages(args.files)
    slots = args.slots or len(pages)
    stored = slots * PAGE_BYTES
    phases = {}
    with device(args.codec, stored) as zram:
        for name, figures in Run(zram, pages, slots, args.seed).phases():
            found = phases[name] = with_ratios(figures)
            print(
                f"{args.codec} {stored / (1 << 20):g} MiB {name}: overhead {found['overhead']:.4f}"
                f" ratio {found['ratio']:.3f} huge {found['huge_pages']:.0f}"
                f" same {found['same_pages']:.0f}",
                flush=True,
            )
    return {"codec": args.codec, "stored_bytes": stored, "seed": args.seed, "phases": phases}


def main() -> None:
    """The program."""
    args = arguments()
    signal.signal(signal.SIGTERM, stop)
    try:
        if os.geteuid() != 0:
            raise ZramError("only root can make a zram device")
        if not CONTROL.is_dir():
            raise ZramError(f"this kernel has no zram: there is no {CONTROL} (modprobe zram?)")
        report = measure(args)
    except (ZramError, OSError) as error:
        sys.exit(f"zram.py: {error}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
