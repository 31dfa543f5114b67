"""Several reads of the store at once: in an io_uring where that is allowed, else by threads."""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import replace
from pathlib import Path

import pytest

from nbdswap.nbd.negotiator import connect
from tests.conftest import ServerFactory
from tests.support.io_uring import ENTER, IOS, SETUP, io_uring_problem, sandbox, skip_unless_allowed
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, Server
from tests.support.trouble import events

PAGES = 3072
DEPTH = 32
SAID = "several reads of the store at once"

pytestmark = pytest.mark.only_nbdswap


async def write_and_read_at_random(server: Server) -> None:
    """Pages of noise, most of which leave the pool; then many single reads under way, and writes
    between them, so that pages leave and come back at the same time.
    """
    chance = random.Random(11)
    held = [chance.randbytes(PAGE_BYTES) for _ in range(PAGES)]
    async with await connect(str(server.unix_path), EXPORT) as client:
        for first in range(0, PAGES, DEPTH):
            await client.write(first * PAGE_BYTES, b"".join(held[first : first + DEPTH]))
        for _ in range(100):
            pages = chance.sample(range(PAGES), DEPTH)
            found = await asyncio.gather(
                *(client.read(page * PAGE_BYTES, PAGE_BYTES) for page in pages)
            )
            for page, data in zip(pages, found, strict=True):
                assert data == held[page], f"page {page} is wrong"
            for page in pages[:4]:
                held[page] = chance.randbytes(PAGE_BYTES)
                await client.write(page * PAGE_BYTES, held[page])


def serve(server: ServerFactory, io: str, program: Path | None = None, **more: object) -> Server:
    return server(
        size_bytes=PAGES * PAGE_BYTES,
        pool_bytes=2 * MIB,
        store_config={"io": io, "capacity_bytes": 32 * MIB},
        program=program,
        **more,
    )


@pytest.mark.parametrize("io", IOS)
def test_pages_are_read_back_under_load_and_after_a_kill(server: ServerFactory, io: str) -> None:
    skip_unless_allowed(io)
    running = serve(server, io)
    asyncio.run(write_and_read_at_random(running))
    store = running.status()["store"]
    assert store["io"] == io
    assert store["records_read"] > PAGES / 2
    assert (store["checksum_errors"], store["read_errors"]) == (0, 0)
    assert len(events(running, SAID, f"io={io}")) == 1
    running.kill()
    running.start()
    asyncio.run(write_and_read_at_random(running))


@pytest.mark.parametrize("io", IOS)
def test_an_upgrade_takes_another_way_of_reading(server: ServerFactory, io: str) -> None:
    skip_unless_allowed("io_uring")
    (other,) = set(IOS) - {io}
    running = serve(server, other)
    asyncio.run(write_and_read_at_random(running))
    store_config = {**running.settings.store_config, "io": io}
    running.configure(replace(running.settings, store_config=store_config))
    upgraded = running.upgrade()
    assert upgraded.returncode == 0, upgraded.stderr
    assert running.status()["store"]["io"] == io
    asyncio.run(write_and_read_at_random(running))


def test_auto_is_io_uring_where_it_is_allowed(server: ServerFactory) -> None:
    problem = io_uring_problem()
    store = serve(server, "auto").status()["store"]
    assert store["io"] == ("io_uring" if problem is None else "threads")
    assert (store["io_reason"] == "") is (problem is None)


# Docker's default profile, and others that pretend to be an older kernel.
FILTERS = [
    (SETUP, errno.EPERM, "forbidden by a seccomp filter"),
    (SETUP, errno.ENOSYS, "the kernel has no io_uring"),
]
# A ring that can be made and not be used. The event loop's own library ends the process later.
USELESS = (ENTER, errno.EPERM, "forbidden by a seccomp filter")


@pytest.mark.parametrize(("blocked", "number", "reason"), FILTERS)
def test_a_sandbox_that_forbids_it_gets_threads_and_is_told(
    server: ServerFactory, tmp_path: Path, blocked: int, number: int, reason: str
) -> None:
    running = serve(server, "auto", sandbox(tmp_path, blocked, number))
    asyncio.run(write_and_read_at_random(running))
    store = running.status()["store"]
    assert store["io"] == "threads"
    assert reason in store["io_reason"]
    (line,) = events(running, SAID)
    assert "io=threads" in line
    assert reason in line


@pytest.mark.parametrize(("blocked", "number", "reason"), [*FILTERS, USELESS])
def test_who_insists_on_it_where_it_is_forbidden_is_refused_and_nothing_is_touched(
    server: ServerFactory, tmp_path: Path, blocked: int, number: int, reason: str
) -> None:
    program = sandbox(tmp_path, blocked, number)
    refused = serve(server, "io_uring", program, start=False)
    refused.launch()
    assert refused.running.wait() == 5
    (line,) = events(refused, "store.io is io_uring")
    assert reason in line
    assert "set store.io to auto" in line
    assert not refused.store_path.exists()
    assert refused.memory_files() == []
