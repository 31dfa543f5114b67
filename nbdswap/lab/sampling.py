"""Which pages of a process to take: runs of neighbours, chosen by chance.

Neighbours, because pages of 16 KiB are only real if their four parts lay side by side in memory.
So runs begin and end at multiples of 16 KiB; they are 32 to 256 KiB long.

Not here: /proc (`process_memory`).
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from .process_memory import Mapping

GROUP_BYTES = 16 << 10
RUN_BYTES_LEAST = 32 << 10
RUN_BYTES_MOST = 256 << 10


class Memory(Protocol):
    """What is asked of a process."""

    page_bytes: int
    mappings: tuple[Mapping, ...]

    def swappable_pages(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Memory to read in one piece."""

    address: int
    bytes: int


@dataclass(slots=True)
class Survey:
    """What there is in a process."""

    runs: list[Run] = field(default_factory=list)
    """In the order of their addresses."""
    mappings: int = 0
    resident_bytes: int = 0
    """Private, anonymous and in memory: what swap would get."""
    not_resident_bytes: int = 0
    """Private and anonymous, but swapped out or never touched."""
    scattered_bytes: int = 0
    """Of the resident ones, those in stretches shorter than the shortest run."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Mappings of other kinds, by kind."""


def survey(memory: Memory, seed: int) -> Survey:
    """Looks at every mapping; cuts what swap would get into runs of random length."""
    found, chance = Survey(), random.Random(seed)  # noqa: S311 -- no secret depends on it
    group_bytes = max(GROUP_BYTES, memory.page_bytes)
    for mapping in memory.mappings:
        if mapping.kind != "anonymous":
            found.left_out[mapping.kind] += 1
            continue
        found.mappings += 1
        resident_before = found.resident_bytes
        for stretch in _stretches(memory, mapping, group_bytes, found):
            _cut(stretch, group_bytes, chance, found)
        in_memory = found.resident_bytes - resident_before
        found.not_resident_bytes += mapping.end - mapping.start - in_memory
    found.scattered_bytes = found.resident_bytes - sum(run.bytes for run in found.runs)
    return found


def choose(runs: list[Run], size_bytes: int | None, seed: int) -> Iterator[Run]:
    """Runs in random order, as long as somebody asks; the caller knows when it has enough.

    With None all of them, in the order of their addresses.
    """
    if size_bytes is None:
        yield from runs
        return
    order = list(runs)
    random.Random(seed).shuffle(order)  # noqa: S311 -- no secret depends on it
    yield from order


def _stretches(memory: Memory, mapping: Mapping, group_bytes: int, found: Survey) -> Iterator[Run]:
    """Whole groups without a gap between them."""
    page_bytes, start, end = memory.page_bytes, 0, 0
    for address, there in memory.swappable_pages(mapping):
        found.resident_bytes += sum(there) * page_bytes
        if not any(there):
            continue
        for group in _whole_groups(address, there, page_bytes, group_bytes):
            if group != end:
                if end > start:
                    yield Run(start, end - start)
                start = group
            end = group + group_bytes
    if end > start:
        yield Run(start, end - start)


def _whole_groups(address: int, there: bytes, page_bytes: int, group_bytes: int) -> Iterator[int]:
    """Addresses of aligned groups of which every page is there.

    A group over the edge of two chunks is lost; chunks are large.
    """
    pages = group_bytes // page_bytes
    first = -(-address // group_bytes) * group_bytes
    whole = b"\1" * pages
    for at in range((first - address) // page_bytes, len(there) - pages + 1, pages):
        if there[at : at + pages] == whole:
            yield address + at * page_bytes


def _cut(stretch: Run, group_bytes: int, chance: random.Random, found: Survey) -> None:
    least = max(RUN_BYTES_LEAST, group_bytes) // group_bytes
    most = max(RUN_BYTES_MOST, group_bytes) // group_bytes
    address, left = stretch.address, stretch.bytes // group_bytes
    while left >= least:
        groups = min(chance.randint(least, most), left)
        found.runs.append(Run(address, groups * group_bytes))
        address, left = address + groups * group_bytes, left - groups
