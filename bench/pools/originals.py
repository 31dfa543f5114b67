"""What the kernel's own allocators would take for the same objects, filled once: computed.

Our pools bear the names of the kernel's allocators but compute block shapes of their own, so what
was said of the originals is judged by the originals' shapes, too. A pool that was only filled is
simple: every class has as many blocks as its objects need, one of them part-filled. The model of
zsmalloc can be checked against zram, which is the real one.

zsmalloc's shapes follow from a rule. zblock's are a table in its source, whose licence keeps it out
of this repository: whoever has the file gives it.

Not here: what becomes of them when objects are overwritten.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import plan
from figures import CHAIN_DEFAULT, CHAINS
from nbdswap import _core
from nbdswap.errors import UsageError
from nbdswap.lab.pages import PageFile, joined
from results import Original, Originals

PAGE_SIZES = (plan.G4.page_bytes, plan.G16.page_bytes)
# zsmalloc: sizes from 32 bytes in steps of 1/256 page, and a handle in front of each object.
SIZE_MIN = 32
STEPS = 256
HANDLE_BYTES = 8
# zblock: slots are multiples of 8 bytes behind a head that has a bit a slot.
SLOT_SIZE = re.compile(r"SLOT_SIZE\((\d+), (\d+)\)")
HEAD_BYTES = {4096: 48, 16384: 72}


@dataclass(frozen=True, slots=True)
class Shape:
    """A class of blocks."""

    object_bytes_max: int
    slots: int
    frames: int


def zsmalloc_shapes(page_bytes: int, chain_frames_max: int) -> list[Shape]:
    """Each size has the chain that wastes least; sizes with the same chain share the largest's."""
    largest: dict[tuple[int, int], int] = {}
    for size in range(SIZE_MIN, page_bytes, page_bytes // STEPS):
        is_power_of_two = size & (size - 1) == 0
        frames = min(
            [1] if is_power_of_two else range(1, chain_frames_max + 1),
            key=lambda frames: (frames * page_bytes % size, frames),
        )
        largest[frames, frames * page_bytes // size] = size
    # An object alone in its frame is stored as the page.
    return sorted(
        (
            Shape(size - HANDLE_BYTES, slots, frames)
            for (frames, slots), size in largest.items()
            if slots > 1
        ),
        key=lambda shape: shape.object_bytes_max,
    )


def read_zblock(header: Path) -> dict[int, list[Shape]]:
    """Shapes by page size from mm/zblock.h, which has one table for 4 KiB and one for the rest."""
    _, begin, tables = header.read_text().partition("#if PAGE_SIZE == 0x1000\n\t{ SLOT_SIZE(")
    small, middle, large = tables.partition("#else")
    if not (begin and middle):
        raise UsageError(f"{header}: no table of 4 KiB and one of other pages, wanted mm/zblock.h")
    shapes = {}
    for page_bytes, text in zip(PAGE_SIZES, (f"SLOT_SIZE({small}", large), strict=True):
        found = []
        for slots, frames in SLOT_SIZE.findall(text):
            data_bytes = int(frames) * page_bytes - HEAD_BYTES[page_bytes]
            slot_bytes = data_bytes // int(slots) // 8 * 8
            found.append(Shape(slot_bytes, int(slots), int(frames)))
        shapes[page_bytes] = sorted(found, key=lambda shape: shape.object_bytes_max)
    return shapes


def object_sizes(data: bytes, page_bytes: int, codec: str, level: int) -> list[int]:
    """The size of every page's object; 0 for a page of one repeated word."""
    sizes = []
    for at in range(0, len(data) - page_bytes + 1, page_bytes):
        page = data[at : at + page_bytes]
        if page == page[:8] * (page_bytes // 8):
            sizes.append(0)
        else:
            packed = _core.compress_page(codec, level, page)
            sizes.append(page_bytes if packed is None else len(packed))
    return sizes


def laid_out(sizes: Sequence[int], pages: int) -> Counter[int]:
    """How many objects of each size there are in a store of so many pages, as in our pools."""
    sets, rest = divmod(pages, len(sizes))
    counts = Counter({size: count * sets for size, count in Counter(sizes).items()})
    counts.update(sizes[index * len(sizes) // rest] for index in range(rest))
    del counts[0]
    if not +counts:
        raise UsageError("all pages are of one repeated word, wanted some that are not")
    return +counts


def filled(shapes: Sequence[Shape], counts: Counter[int], page_bytes: int) -> dict[str, int]:
    """Bytes of a pool of these shapes that was filled once with these objects."""
    limits = [shape.object_bytes_max for shape in shapes]
    objects_of: Counter[Shape] = Counter()
    object_bytes = 0
    whole = Shape(page_bytes, 1, 1)
    for size, count in counts.items():
        place = bisect_left(limits, size)
        shape = shapes[place] if place < len(shapes) else whole
        objects_of[shape] += count
        object_bytes += count * (page_bytes if shape is whole else size)
    blocks = {shape: -(-count // shape.slots) for shape, count in objects_of.items()}
    return {
        "classes": len(shapes),
        "object_bytes": object_bytes,
        "slot_bytes": round(
            sum(
                count * shape.frames * page_bytes / shape.slots
                for shape, count in objects_of.items()
            )
        ),
        "pool_bytes": sum(count * shape.frames * page_bytes for shape, count in blocks.items()),
    }


def measure(
    files: Sequence[PageFile],
    stored_mib: Sequence[int],
    zblock: dict[int, list[Shape]],
    say: plan.Say,
) -> Originals:
    """Both allocators with every codec and size."""
    found = []
    for page_bytes in PAGE_SIZES:
        data = joined(files, page_bytes)
        for codec, level in plan.CODECS:
            say(f"the originals, {codec}:{level} on pages of {page_bytes}")
            sizes = object_sizes(data, page_bytes, codec, level)
            crossing = plan.CROSSING_MIB if codec == plan.CROSSING_CODEC else ()
            for mib in sorted({*stored_mib, *crossing}):
                stored_bytes = mib * plan.MIB
                counts = laid_out(sizes, stored_bytes // page_bytes)
                chains = CHAINS if mib in stored_mib else (CHAIN_DEFAULT,)
                for name, chain, shapes in _allocators(page_bytes, chains, zblock):
                    held = filled(shapes, counts, page_bytes)
                    found.append(
                        Original(
                            allocator=name, chain_frames_max=chain, codec=codec, level=level,
                            page_bytes=page_bytes, stored_bytes=stored_bytes, **held,
                        )
                    )  # fmt: skip
    return Originals(models=tuple(found))


def _allocators(
    page_bytes: int, chains: Sequence[int], zblock: dict[int, list[Shape]]
) -> Iterator[tuple[str, int, list[Shape]]]:
    for chain in chains:
        yield "zsmalloc", chain, zsmalloc_shapes(page_bytes, chain)
    if page_bytes in zblock:
        yield "zblock", 0, zblock[page_bytes]
