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
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

from nbdswap.nbd.client import Client
from nbdswap.nbd.constants import Error
from nbdswap.nbd.errors import CommandError, ConnectionLostError
from tests.support.model import ZEROES, Pages
from tests.support.pages import PAGE_BYTES

RUN_PAGES_MAX = 8
READ_PAGES = 64
# What is asked for, and how often.
_KINDS = (("read", "write", "patch", "discard", "zero", "flush"), (45, 39, 6, 5, 3, 2))


@dataclass(slots=True)
class Work:
    """What was done, over one load or several."""

    requests: Counter[str] = field(default_factory=Counter)
    """Those that were answered, by what they were."""
    refused: int = 0
    """Of these: changes that found no room, where that was allowed."""
    bytes_read: int = 0
    bytes_written: int = 0
    slowest_s: float = 0.0
    """The longest that a request took. Whoever looks may set it back."""


class Load:
    """Tasks at work until `stop`, or until the server ends and `is_ending` says that it may."""

    def __init__(
        self,
        clients: Sequence[Client],
        pages: Pages,
        rng: random.Random,
        *,
        tasks: int = 16,
        work: Work | None = None,
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
        self.work = work or Work()
        self.requests = 0
        """Requests that were answered, of this load."""
        self.is_ending = False
        self.may_be_refused = False
        """There may be no room: changes may fail with ENOSPC."""

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
                began_s = time.monotonic()
                kind = await self._one(client, start, rng)
                took_s = time.monotonic() - began_s
                self.work.slowest_s = max(self.work.slowest_s, took_s)
                self.work.requests[kind] += 1
                self.requests += 1
                async with self._passed:
                    self._passed.notify_all()
        except ConnectionLostError:
            assert self.is_ending, "the connection ended before the server was meant to"

    async def _one(self, client: Client, first: int, rng: random.Random) -> str:
        """One request; what it was."""
        count = rng.randint(1, RUN_PAGES_MAX)
        offset, length = first * PAGE_BYTES, count * PAGE_BYTES
        kind = rng.choices(*_KINDS)[0]
        match kind:
            case "read":
                self._pages.check(first, await client.read(offset, length))
                self.work.bytes_read += length
            case "flush":
                await client.flush()
            case "discard":
                await self._change(client, first, [ZEROES] * count, client.trim(offset, length))
            case "zero":
                zeroing = client.write_zeroes(offset, length)
                await self._change(client, first, [ZEROES] * count, zeroing)
            case "patch":
                at, data, contents = self._patch(first, count, rng)
                await self._change(client, first, contents, client.write(offset + at, data))
                self.work.bytes_written += len(data)
            case _:
                contents = [self._pages.new_page(rng) for _ in range(count)]
                writing = client.write(offset, b"".join(contents))
                await self._change(client, first, contents, writing)
                self.work.bytes_written += length
        return kind

    async def _change(
        self,
        client: Client,
        first: int,
        contents: list[bytes],
        request: Coroutine[None, None, None],
    ) -> None:
        self._pages.begin(first, contents)
        try:
            await request
        except CommandError as error:
            if error.errno != Error.ENOSPC or not self.may_be_refused:
                raise
            # Of a request for several pages some may have found room.
            self.work.refused += 1
            length = len(contents) * PAGE_BYTES
            self._pages.check(first, await client.read(first * PAGE_BYTES, length))
        else:
            self._pages.acknowledge(first, contents)

    def _patch(self, first: int, count: int, rng: random.Random) -> tuple[int, bytes, list[bytes]]:
        """Bytes that begin and end inside of pages: where, which, and what becomes of the pages."""
        old = self._pages.current(first, count)
        at = rng.randrange(PAGE_BYTES)
        data = (self._pages.new_stamp() * 200)[: rng.randint(1, PAGE_BYTES)][: len(old) - at]
        new = old[:at] + data + old[at + len(data) :]
        return at, data, [new[at : at + PAGE_BYTES] for at in range(0, len(new), PAGE_BYTES)]


async def check_all(client: Client, pages: Pages) -> int:
    """Compares every page; how many are not zeroes."""
    used = 0
    for first in range(0, pages.count, READ_PAGES):
        count = min(READ_PAGES, pages.count - first)
        used += pages.check(first, await client.read(first * PAGE_BYTES, count * PAGE_BYTES))
    return used
