"""The memory budget: pool limit, a fixed part and 8 bytes a page, also when much more comes in."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.rawnbd import RawClient
from tests.support.servers import EXPORT, Server

POOL_BYTES = 64 * MIB
FILL_BYTES = 4 * POOL_BYTES
WRITE_BYTES = MIB
# The program itself: interpreter, libraries, buffers of workers, readers and connections.
FIXED_BYTES = 96 * MIB
TABLE_BYTES_PER_PAGE = 8

pytestmark = pytest.mark.only_nbdswap


def own_bytes(server: Server) -> int:
    """Memory of the process without that of its shared files."""
    rollup = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
    sizes = {key: int(size) * 1024 for key, size in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.M)}
    return sizes["Rss"] - sizes["Pss_Shmem"]


def shared_bytes(server: Server) -> int:
    """Memory that the pool and the table take, mapped or not."""
    return sum(path.stat().st_blocks * 512 for path in server.memory_files())


def test_a_fill_of_four_times_the_pool_stays_within_the_budget(server: ServerFactory) -> None:
    running = server(size_bytes=2 * FILL_BYTES, pool_bytes=POOL_BYTES)
    assert own_bytes(running) <= FIXED_BYTES, "before the first client"
    # Half of each page is noise: it compresses to half, and no two pages are the same.
    rng = random.Random(30)
    pages_written = 0
    largest = 0
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for offset in range(0, 2 * FILL_BYTES, WRITE_BYTES):
            half = PAGE_BYTES // 2
            count = WRITE_BYTES // PAGE_BYTES
            client.write(offset, b"".join(rng.randbytes(half) + bytes(half) for _ in range(count)))
            pages_written += count
            if offset % (16 * MIB) == 0:
                own, shared = own_bytes(running), shared_bytes(running)
                budget = POOL_BYTES + FIXED_BYTES + TABLE_BYTES_PER_PAGE * pages_written
                assert own + shared <= budget, (
                    f"{own} own + {shared} shared bytes after {pages_written} pages"
                )
                largest = max(largest, own + shared)
    pages = running.pages()
    assert pages["store"] > pages["pool"] > 0, "the fill was meant to go through the pool"
    assert largest > POOL_BYTES // 2, "what was measured does not contain the pool"


def test_the_pool_says_of_itself_that_it_keeps_its_limit(server: ServerFactory) -> None:
    running = server(size_bytes=FILL_BYTES, pool_bytes=16 * MIB)
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for offset in range(0, FILL_BYTES // 4, WRITE_BYTES):
            client.write(offset, random.Random(offset).randbytes(WRITE_BYTES))
            if offset % (8 * MIB) == 0:
                pool = running.status()["pool"]
                assert pool["used_bytes"] <= pool["limit_bytes"] == 16 * MIB
