"""Makes the sample of memory pages that the benchmark writes: runs taken evenly from page files.

    python bench/pages/sample.py CORPUS.pages ... --out bench/pages

A corpus is a file of raw 4 KiB pages, in the order of their addresses. From each one comes the
same number of runs of consecutive pages, at equal distances. Where the first run starts is
chosen so that the sample is the nearest to its whole corpus in what lz4 makes of it: mean size,
share of pages of one repeated word, share of pages that do not compress. A sample that compressed
better or worse than the memory it stands for would flatter or blame every codec.

Not here: reading the memory of processes. Needs the package lz4 (in the extra `dev`).
"""

import argparse
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]

PAGE_BYTES = 4096
RUN_PAGES = 16
RUNS = 8


def stored_bytes(page: bytes) -> int:
    """What a page takes in a pool: nothing for one repeated 32-bit word, else lz4 or raw."""
    if page[:4] * (PAGE_BYTES // 4) == page:
        return 0
    return min(len(lz4.block.compress(page, store_size=False)), PAGE_BYTES)


def phases(page_count: int) -> Iterator[list[int]]:
    """Every way to lay the runs at equal distances: the page numbers of each."""
    stride = page_count // RUNS
    for phase in range(stride - RUN_PAGES + 1):
        yield [run * stride + phase + page for run in range(RUNS) for page in range(RUN_PAGES)]


def shape(sizes: list[int]) -> tuple[float, float, float]:
    """What lz4 makes of some pages, as shares of 1: mean size, pages of one word, raw pages."""
    count = len(sizes)
    return (
        sum(sizes) / count / PAGE_BYTES,
        sizes.count(0) / count,
        sizes.count(PAGE_BYTES) / count,
    )


def choose(corpus: bytes, refused: re.Pattern[bytes] | None) -> bytes:
    """The sample of one corpus, as raw pages."""
    pages = [corpus[at : at + PAGE_BYTES] for at in range(0, len(corpus), PAGE_BYTES)]
    sizes = [stored_bytes(page) for page in pages]
    banned = {at for at, page in enumerate(pages) if refused and refused.search(page)}
    whole = shape(sizes)

    def distance(numbers: list[int]) -> float:
        part = shape([sizes[at] for at in numbers])
        return sum(abs(a - b) for a, b in zip(part, whole, strict=True))

    allowed = [numbers for numbers in phases(len(pages)) if not banned.intersection(numbers)]
    if not allowed:
        raise SystemExit("every choice of runs holds a page that --refuse matches")
    return b"".join(pages[at] for at in min(allowed, key=distance))


def main() -> None:
    parser = argparse.ArgumentParser(description="sample memory pages for the benchmark")
    parser.add_argument("corpus", type=Path, nargs="+", help="files of raw 4 KiB pages")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.pages.xz")
    parser.add_argument("--refuse", help="take no page that this regular expression matches")
    arguments = parser.parse_args()
    refused = re.compile(arguments.refuse.encode()) if arguments.refuse else None
    for path in arguments.corpus:
        sample = choose(path.read_bytes(), refused)
        packed = lzma.compress(sample, preset=9)
        (arguments.out / f"{path.stem}.pages.xz").write_bytes(packed)
        print(f"{path.stem}: {len(sample) // PAGE_BYTES} pages, {len(packed)} bytes packed")


if __name__ == "__main__":
    main()
