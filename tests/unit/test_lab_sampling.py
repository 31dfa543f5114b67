"""Runs are aligned, whole, of the right kind of memory, and chosen by the seed alone."""

from collections.abc import Iterator

import pytest

from nbdswap.lab.process_memory import Mapping
from nbdswap.lab.sampling import (
    GROUP_BYTES,
    RUN_BYTES_LEAST,
    RUN_BYTES_MOST,
    Run,
    choose,
    survey,
)

PAGE = 4096
BASE = 0x7F00_0000_0000


def mapping(pages: int, *, start: int = BASE, permissions: str = "rw-p", name: str = "") -> Mapping:
    """So many pages."""
    inode = 7 if name.startswith("/") else 0
    return Mapping(start, start + pages * PAGE, permissions, inode, name)


class FakeMemory:
    """A process; `there` says of every page of the first mapping whether it is in memory."""

    page_bytes = PAGE

    def __init__(self, there: str, *more: Mapping, start: int = BASE, chunk: int = 1 << 16) -> None:
        self.there = bytes(flag == "#" for flag in there)
        self.mappings = (mapping(len(there), start=start), *more)
        self.chunk = chunk

    def swappable_pages(self, asked: Mapping) -> Iterator[tuple[int, bytes]]:
        """In chunks, as the real one."""
        assert asked.kind == "anonymous", "looked where it has no business"
        flags = self.there if asked is self.mappings[0] else bytes(0)
        for at in range(0, len(flags), self.chunk):
            yield asked.start + at * PAGE, flags[at : at + self.chunk]


@pytest.mark.parametrize("seed", range(20))
def test_runs_cover_what_is_there_aligned_and_without_overlap(seed: int) -> None:
    there = "#" * 400 + "." + "#" * 203 + "....." + "#" * 11 + "." * 20 + "#" * 64
    # The mapping itself begins one page after a multiple of 16 KiB.
    found = survey(FakeMemory(there, start=BASE + PAGE), seed)
    taken: set[int] = set()
    for run in found.runs:
        assert run.address % GROUP_BYTES == 0
        assert run.bytes % GROUP_BYTES == 0
        assert RUN_BYTES_LEAST <= run.bytes <= RUN_BYTES_MOST
        pages = set(range(run.address // PAGE, (run.address + run.bytes) // PAGE))
        assert not pages & taken
        taken |= pages
    first = BASE // PAGE + 1
    resident = {first + at for at, flag in enumerate(there) if flag == "#"}
    assert taken <= resident
    assert found.resident_bytes == len(resident) * PAGE
    assert found.not_resident_bytes == there.count(".") * PAGE
    assert found.scattered_bytes == (len(resident) - len(taken)) * PAGE
    # Little is lost: what is not aligned, and what is too short for a run.
    assert len(taken) > len(resident) - 40


def test_the_size_of_a_chunk_makes_no_difference_where_groups_fit_into_it() -> None:
    there = "#" * 300 + ".." + "#" * 98
    whole, chunked = survey(FakeMemory(there), 1), survey(FakeMemory(there, chunk=64), 1)
    assert whole == chunked


def test_other_kinds_of_memory_are_counted_and_not_looked_at() -> None:
    found = survey(
        FakeMemory(
            "#" * 64,
            mapping(8, name="/usr/lib/libc.so"),
            mapping(8, name="/dev/shm/x", permissions="rw-s"),
            mapping(8, permissions="rw-s"),
            mapping(2, permissions="r-xp", name="[vdso]"),
        ),
        1,
    )
    assert found.mappings == 1
    assert found.left_out == {"file-backed": 1, "shared": 2, "kernel": 1}
    assert found.resident_bytes == 64 * PAGE


@pytest.mark.parametrize("there", ["", "." * 100, "#" * 7, "#.#.#.#." * 20, "####" * 1])
def test_what_is_too_little_or_too_scattered_gives_no_run(there: str) -> None:
    found = survey(FakeMemory(there), 1)
    assert found.runs == []
    assert found.scattered_bytes == there.count("#") * PAGE


def test_the_seed_alone_decides_which_runs_come_first() -> None:
    runs = [Run(at << 20, RUN_BYTES_LEAST) for at in range(100)]
    assert list(choose(runs, 1 << 20, 3)) == list(choose(runs, 1 << 20, 3))
    assert list(choose(runs, 1 << 20, 3)) != list(choose(runs, 1 << 20, 4))
    assert sorted(choose(runs, 1 << 20, 3), key=lambda run: run.address) == runs
    assert list(choose(runs, None, 3)) == runs


def test_a_line_of_maps_is_understood() -> None:
    found = Mapping.parse("7f10-7f20 rw-p 00000000 00:00 0                  [anon: my heap]")
    assert found == Mapping(0x7F10, 0x7F20, "rw-p", 0, "[anon: my heap]")
    assert found.kind == "anonymous"
    assert Mapping.parse("7f10-7f20 rw-p 00000000 00:00 0 ").kind == "anonymous"
    assert Mapping.parse("7f10-7f20 r--p 00001000 fe:00 99 /a b (deleted)").kind == "file-backed"
