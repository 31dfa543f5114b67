"""Requests that go on while something is done to the server, every answer compared with a model.

Tasks on one or several connections change and read pages, each in a stripe of its own, one request
at a time: whole pages, parts of pages, discards, zeroes, flushes. How the tasks interleave is up to
the machine; what each of them asks for follows from the seed, and nothing else does.

Not here: what is done to the server meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence

from nbdswap.nbd.client import Client
from nbdswap.nbd.errors import ConnectionLostError
from tests.support.model import ZEROES, Pages
from tests.support.pages import PAGE_BYTES

RUN_PAGES_MAX = 8
READ_PAGES = 64
# Of a hundred requests; the rest write whole pages.
_READ, _PATCH, _DISCARD, _ZERO, _FLUSH = 45, 6, 5, 3, 2


class Load:
    """Tasks at work until `stop`, or until the server ends and `is_ending` says that it may."""

    def __init__(
        self, clients: Sequence[Client], pages: Pages, rng: random.Random, *, tasks: int = 16
    ) -> None:
        """`tasks` of each client."""
        self._clients = clients
        self._pages = pages
        self._rng = rng
        self._tasks = tasks
        self._stripe_pages = pages.count // (tasks * len(clients))
        assert self._stripe_pages > RUN_PAGES_MAX, "too few pages for so many tasks"
        self._stopping = False
        self._passed = asyncio.Condition()
        self.requests = 0
        """Requests that were answered."""
        self.is_ending = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for stripe, (client, _) in enumerate(
                itertools.product(self._clients, range(self._tasks))
            ):
                rng = random.Random(self._rng.getrandbits(64))
                tasks.create_task(self._work(client, stripe * self._stripe_pages, rng))

    def stop(self) -> None:
        self._stopping = True

    async def pass_requests(self, count: int) -> None:
        """Returns when so many more requests were answered."""
        wanted = self.requests + count
        async with self._passed:
            await self._passed.wait_for(lambda: self.requests >= wanted)

    async def _work(self, client: Client, first: int, rng: random.Random) -> None:
        try:
            while not self._stopping:
                start = first + rng.randrange(self._stripe_pages - RUN_PAGES_MAX)
                await self._one(client, start, rng)
                self.requests += 1
                async with self._passed:
                    self._passed.notify_all()
        except ConnectionLostError:
            assert self.is_ending, "the connection ended before the server was meant to"

    async def _one(self, client: Client, first: int, rng: random.Random) -> None:
        count = rng.randint(1, RUN_PAGES_MAX)
        offset, length = first * PAGE_BYTES, count * PAGE_BYTES
        kind = rng.randrange(100)
        if (kind := kind - _READ) < 0:
            self._pages.check(first, await client.read(offset, length))
        elif (kind := kind - _PATCH) < 0:
            await self._patch(client, first, count, rng)
        elif (kind := kind - _DISCARD) < 0:
            contents = [ZEROES] * count
            self._pages.begin(first, contents)
            await client.trim(offset, length)
            self._pages.acknowledge(first, contents)
        elif (kind := kind - _ZERO) < 0:
            contents = [ZEROES] * count
            self._pages.begin(first, contents)
            await client.write_zeroes(offset, length)
            self._pages.acknowledge(first, contents)
        elif kind - _FLUSH < 0:
            await client.flush()
        else:
            contents = [self._pages.new_page(rng) for _ in range(count)]
            self._pages.begin(first, contents)
            await client.write(offset, b"".join(contents))
            self._pages.acknowledge(first, contents)

    async def _patch(self, client: Client, first: int, count: int, rng: random.Random) -> None:
        """Writes bytes that begin and end inside of pages."""
        old = self._pages.current(first, count)
        at = rng.randrange(PAGE_BYTES)
        new = (self._pages.new_stamp() * 200)[: rng.randint(1, PAGE_BYTES)]
        new = new[: len(old) - at]
        whole = old[:at] + new + old[at + len(new) :]
        contents = [whole[at : at + PAGE_BYTES] for at in range(0, len(whole), PAGE_BYTES)]
        self._pages.begin(first, contents)
        await client.write(first * PAGE_BYTES + at, new)
        self._pages.acknowledge(first, contents)


async def check_all(client: Client, pages: Pages) -> int:
    """Compares every page; how many are not zeroes."""
    used = 0
    for first in range(0, pages.count, READ_PAGES):
        count = min(READ_PAGES, pages.count - first)
        used += pages.check(first, await client.read(first * PAGE_BYTES, count * PAGE_BYTES))
    return used
