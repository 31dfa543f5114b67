"""Kills at random moments under load: what was acknowledged before one is there after it.

Tasks on one connection write and discard runs of pages, each in a stripe of its own, until the
server is killed; the next server adopts what it left, and every page is compared. The pool holds
a small part of the pages, so most kills meet write-back at work.

The number of requests before each kill follows from the seed; how they interleave does not. Run
with SEED=... to repeat one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from nbdswap.nbd.client import Client
from nbdswap.nbd.errors import ConnectionLostError
from nbdswap.nbd.negotiator import connect
from tests.conftest import ServerFactory
from tests.support.model import ZEROES, Pages
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, Server

KILLS = 5
TASKS = 16
PAGES = 4096
STRIPE_PAGES = PAGES // TASKS
RUN_PAGES_MAX = 8
REQUESTS_BEFORE_KILL = (100, 1000)
READ_PAGES = 64
RUN_TIMEOUT_S = 60.0

pytestmark = pytest.mark.only_nbdswap


class Load:
    """The tasks of one server's life, and the kill that ends it."""

    def __init__(self, server: Server, client: Client, pages: Pages, requests: int) -> None:
        self._server = server
        self._client = client
        self._pages = pages
        self._requests_left = requests

    async def run(self, rngs: list[random.Random]) -> None:
        """Returns when the server is dead and every task knows it."""
        async with asyncio.TaskGroup() as tasks:
            for stripe, rng in enumerate(rngs):
                tasks.create_task(self._change_stripe(stripe * STRIPE_PAGES, rng))

    async def _change_stripe(self, first: int, rng: random.Random) -> None:
        try:
            while True:
                start = first + rng.randrange(STRIPE_PAGES - RUN_PAGES_MAX)
                await self._change(start, rng.randint(1, RUN_PAGES_MAX), rng)
                self._requests_left -= 1
                if self._requests_left == 0:
                    os.kill(self._server.pid, signal.SIGKILL)
        except ConnectionLostError:
            assert self._requests_left <= 0, "the connection ended before the kill"

    async def _change(self, first: int, count: int, rng: random.Random) -> None:
        discard = rng.random() < 0.1
        contents = [ZEROES if discard else self._pages.new_page(rng) for _ in range(count)]
        self._pages.begin(first, contents)
        offset = first * PAGE_BYTES
        if discard:
            await self._client.trim(offset, count * PAGE_BYTES)
        else:
            await self._client.write(offset, b"".join(contents))
        self._pages.acknowledge(first, contents)


async def live_and_die(server: Server, pages: Pages, rng: random.Random) -> None:
    """Checks all pages, then loads the server until it is killed."""
    async with asyncio.timeout(RUN_TIMEOUT_S):
        client = await connect(str(server.unix_path), EXPORT)
        try:
            await check_all(client, pages)
            rngs = [random.Random(rng.getrandbits(64)) for _ in range(TASKS)]
            await Load(server, client, pages, rng.randint(*REQUESTS_BEFORE_KILL)).run(rngs)
        finally:
            await client.close()


async def check_all(client: Client, pages: Pages) -> int:
    """Compares every page; how many are not zeroes."""
    used = 0
    for first in range(0, PAGES, READ_PAGES):
        data = await client.read(first * PAGE_BYTES, READ_PAGES * PAGE_BYTES)
        used += pages.check(first, data)
    return used


async def check_and_leave(server: Server, pages: Pages) -> int:
    async with (
        asyncio.timeout(RUN_TIMEOUT_S),
        await connect(str(server.unix_path), EXPORT) as client,
    ):
        return await check_all(client, pages)


@pytest.mark.parametrize("zpool", ["zfit", "zblock", "zsmalloc"])
def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(
    server: ServerFactory, rng: random.Random, zpool: str
) -> None:
    running = server(
        size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB, arguments=(f"--zpool={zpool}",)
    )
    pages = Pages(rng, PAGES)
    for _ in range(KILLS):
        asyncio.run(live_and_die(running, pages, rng))
        running.kill()
        running.start()
    used = asyncio.run(check_and_leave(running, pages))
    assert used > PAGES // 2, "too few pages were written"
    by_place = running.pages()
    assert by_place["store"] > by_place["pool"] > 0, f"both were meant to be used: {by_place}"
    assert by_place["lost"] == 0
