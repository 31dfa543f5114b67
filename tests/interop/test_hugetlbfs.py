"""Pool and page table on hugetlbfs: memory by whole huge pages, of which there are few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.file_systems import huge_pages, mounted
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.rawnbd import Command, RawClient
from tests.support.servers import EXPORT, Server
from tests.support.trouble import NoiseClient, events

PLACE_BYTES = 24 * MIB
POOL_BYTES = 16 * MIB
EXPORT_BYTES = 64 * MIB
# Of noise, so that a page takes a page: more than the pool, so that some go to the store.
PAGES = 6000
REFUSED = 3

pytestmark = pytest.mark.only_nbdswap


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A hugetlbfs of PLACE_BYTES."""
    with huge_pages(PLACE_BYTES), mounted("hugetlbfs", PLACE_BYTES, tmp_path) as place:
        yield place


@contextmanager
def stopped_at_last(running: Server) -> Iterator[None]:
    """Nothing can be unmounted while a server has files there."""
    try:
        yield
    finally:
        running.stop()


def taken_bytes(running: Server, suffix: str) -> int:
    (path,) = [path for path in running.memory_files() if path.suffix == suffix]
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("populate", [False, True], ids=["on-demand", "populated"])
def test_all_pages_are_adopted_from_huge_pages_after_a_kill(
    server: ServerFactory, populate: bool, place: Path
) -> None:
    running = server(
        size_bytes=EXPORT_BYTES,
        pool_bytes=POOL_BYTES,
        populate=populate,
        memory_parent=place,
        key="memory",
    )
    with stopped_at_last(running):
        assert {path.suffix for path in running.memory_files()} == {".pool", ".table", ".key"}
        at_start = running.status()["pool"]["used_bytes"]
        assert at_start == taken_bytes(running, ".pool")
        assert (at_start == POOL_BYTES) is populate, "grows on demand"
        with RawClient.connect(running.unix_path, EXPORT) as raw:
            client = NoiseClient(raw)
            assert {client.write(page) for page in range(PAGES)} == {"ok"}
            held = client.held
        assert running.pages()["store"] > 0
        for _ in range(2):
            running.kill()
            running.start()
            assert events(running, "adopted the memory of the last server")
            with RawClient.connect(running.unix_path, EXPORT) as raw:
                client = NoiseClient(raw)
                client.held = held
                client.check()
                for page in range(0, PAGES, 3):
                    raw.call(Command.TRIM, page * PAGE_BYTES, PAGE_BYTES)
                    held.pop(page, None)
                assert {client.write(page) for page in range(0, PAGES, 6)} == {"ok"}
                client.check()
            status = running.status()
            assert status["pool"]["used_bytes"] == taken_bytes(running, ".pool") <= POOL_BYTES
            assert status["pool"]["huge_bytes"] == status["pool"]["used_bytes"]
            assert status["memory"]["table_resident_bytes"] == taken_bytes(running, ".table")
        assert not events(running, "is not in force"), "huge pages need no lock"
        upgraded = running.upgrade()
        assert upgraded.returncode == 0, upgraded.stderr
        with RawClient.connect(running.unix_path, EXPORT) as raw:
            client = NoiseClient(raw)
            client.held = held
            client.check()


def test_too_few_huge_pages_are_one_line_at_start(server: ServerFactory, place: Path) -> None:
    running = server(
        start=False, size_bytes=EXPORT_BYTES, pool_bytes=2 * PLACE_BYTES, memory_parent=place
    )
    running.launch()
    assert running.running.wait() == REFUSED
    *_, line = running.running.log_text.splitlines()
    assert "pool, page table and key take 50.00 MiB at start, but only 24.00 MiB of huge" in line
    assert "hugepages-2048kB/nr_hugepages" in line
    assert not running.memory_files()


def test_when_huge_pages_run_out_writes_are_refused_and_nothing_is_lost(
    server: ServerFactory, place: Path
) -> None:
    running = server(
        size_bytes=EXPORT_BYTES,
        pool_bytes=2 * PLACE_BYTES,
        populate=False,
        store=False,
        memory_parent=place,
    )
    with stopped_at_last(running):
        assert events(running, "warning", "writes may fail before the pool is full")
        with RawClient.connect(running.unix_path, EXPORT) as raw:
            client = NoiseClient(raw)
            answers = [client.write(page) for page in range(PAGES)]
            first = answers.index("ENOSPC")
            assert set(answers[:first]) == {"ok"}
            assert set(answers[first:]) == {"ENOSPC"}
            client.check()
            held = client.held
        status = running.status()
        free_bytes = PLACE_BYTES - taken_bytes(running, ".table")
        assert status["pool"]["used_bytes"] == taken_bytes(running, ".pool") == free_bytes
        running.kill()
        running.start()
        with RawClient.connect(running.unix_path, EXPORT) as raw:
            client = NoiseClient(raw)
            client.held = held
            client.check()
            for page in list(held)[: len(held) // 2]:
                raw.call(Command.TRIM, page * PAGE_BYTES, PAGE_BYTES)
                del held[page]
            assert {client.write(page) for page in range(first, first + 256)} == {"ok"}
            client.check()
