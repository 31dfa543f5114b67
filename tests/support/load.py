"""Requests that go on while something is done to the server, every answer compared with a model.

Tasks on one or several connections change and read pages, each in a stripe of its own, one request
at a time: whole pages, parts of pages, discards, zeroes, flushes, some of them with FUA. How the
tasks interleave is up to the machine; what each of them asks for follows from the seed, and nothing
else does.

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
from typing import TypeAlias

from nbdswap.nbd.client import Client
from nbdswap.nbd.constants import CommandFlag, Error
from nbdswap.nbd.errors import CommandError, ConnectionLostError
from tests.support.model import Pages

RUN_PAGES_MAX = 8
READ_PAGES = 64
# What is asked for, and how often.
_KINDS = (("read", "write", "patch", "discard", "zero", "flush"), (45, 39, 6, 5, 3, 2))
# Changes with FUA, of all changes, where that is more than a flag that is taken.
_FUA_SHARE = 0.04
# A disk that does not answer is asked again after that time.
_AGAIN_S = 0.05

Excuses: TypeAlias = frozenset[tuple[str, int]]
"""Errors that are right at the moment: of "read", "change" or "flush", and which."""

NO_EXCUSE: Excuses = frozenset()
FULL_POOL: Excuses = frozenset({("change", Error.ENOSPC)})
FULL_DISK: Excuses = FULL_POOL | {("flush", Error.ENOSPC)}
FAILING_DISK: Excuses = FULL_DISK | {("flush", Error.EIO)}
SILENT_DISK: Excuses = FAILING_DISK | {("read", Error.EIO), ("change", Error.EIO)}


@dataclass(slots=True)
class Work:
    """What was done, over one load or several."""

    requests: Counter[str] = field(default_factory=Counter)
    """Those that were answered, by what they were."""
    refused: Counter[str] = field(default_factory=Counter)
    """Of these: by what they were and by error, the ones that failed while they might."""
    fua: int = 0
    """Of these: changes with FUA."""
    bytes_read: int = 0
    bytes_written: int = 0
    slowest: tuple[float, str] = (0.0, "")
    """The longest a request took in seconds, and what it was. Whoever looks may set it back."""


class Progress:
    """Requests that were answered, of one load or several."""

    def __init__(self) -> None:
        self.requests = 0
        self._passed = asyncio.Condition()

    async def count(self) -> None:
        self.requests += 1
        async with self._passed:
            self._passed.notify_all()

    async def pass_requests(self, count: int) -> None:
        """Returns when so many more requests were answered."""
        wanted = self.requests + count
        async with self._passed:
            await self._passed.wait_for(lambda: self.requests >= wanted)


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
        self._fua_share = _FUA_SHARE if pages.is_durable else 0.0
        self.work = work or Work()
        self.progress = Progress()
        self.is_ending = False
        self.excuses = NO_EXCUSE

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for stripe, (client, _) in enumerate(
                itertools.product(self._clients, range(self._tasks))
            ):
                rng = random.Random(self._rng.getrandbits(64))
                tasks.create_task(self._work(client, stripe * self._stripe_pages, rng))

    def stop(self) -> None:
        self._stopping = True

    @property
    def requests(self) -> int:
        """Requests that were answered."""
        return self.progress.requests

    async def pass_requests(self, count: int) -> None:
        """Returns when so many more requests were answered."""
        await self.progress.pass_requests(count)

    async def _work(self, client: Client, first: int, rng: random.Random) -> None:
        try:
            while not self._stopping:
                start = first + rng.randrange(self._stripe_pages - RUN_PAGES_MAX)
                kind = await self._one(client, start, rng)
                self.work.requests[kind] += 1
                await self.progress.count()
        except ConnectionLostError:
            assert self.is_ending, "the connection ended before the server was meant to"

    async def _one(self, client: Client, first: int, rng: random.Random) -> str:
        """One request; what it was."""
        pages = self._pages
        count = rng.randint(1, RUN_PAGES_MAX)
        offset, length = first * pages.page_bytes, count * pages.page_bytes
        kind = rng.choices(*_KINDS)[0]
        fua = rng.random() < self._fua_share
        match kind:
            case "read":
                await self._read(client, first, count)
            case "flush":
                covered = pages.begin_flush()
                if await self._succeeds(kind, client.flush()):
                    pages.end_flush(covered)
            case "discard":
                request = client.trim(offset, length, fua=fua)
                await self._change(client, first, [pages.zeroes] * count, request, fua=fua)
            case "zero":
                flags = CommandFlag.FUA if fua else 0
                request = client.write_zeroes(offset, length, flags=flags)
                await self._change(client, first, [pages.zeroes] * count, request, fua=fua)
            case "patch":
                at, data, contents = self._patch(first, count, rng)
                request = client.write(offset + at, data, fua=fua)
                await self._change(client, first, contents, request, fua=fua)
                self.work.bytes_written += len(data)
            case _:
                contents = [pages.new_page(rng) for _ in range(count)]
                request = client.write(offset, b"".join(contents), fua=fua)
                await self._change(client, first, contents, request, fua=fua)
                self.work.bytes_written += length
        return kind

    async def _read(self, client: Client, first: int, count: int) -> bool:
        """Reads and compares pages. False: an error that was right came instead."""
        size = self._pages.page_bytes

        async def request() -> None:
            self._pages.check(first, await client.read(first * size, count * size))
            self.work.bytes_read += count * size

        return await self._succeeds("read", request())

    async def _succeeds(self, kind: str, request: Coroutine[None, None, None]) -> bool:
        """False: it failed as it may at the moment."""
        excuses, began_s = self.excuses, time.monotonic()
        try:
            await request
        except CommandError as error:
            # What was begun before the trouble was over may still tell of it.
            kinds = ("change", "flush") if kind == "durable change" else (kind,)
            if not any((kind, error.errno) in excuses | self.excuses for kind in kinds):
                raise
            self.work.refused[f"{kind} {error.errno_name}"] += 1
            return False
        finally:
            self.work.slowest = max(self.work.slowest, (time.monotonic() - began_s, kind))
        return True

    async def _change(
        self,
        client: Client,
        first: int,
        contents: list[bytes],
        request: Coroutine[None, None, None],
        *,
        fua: bool,
    ) -> None:
        self._pages.begin(first, contents)
        self.work.fua += fua
        if await self._succeeds("durable change" if fua else "change", request):
            self._pages.acknowledge(first, contents, fua=fua)
            return
        # Of a request for several pages some may have been changed.
        while True:
            if await self._read(client, first, len(contents)):
                return
            await asyncio.sleep(_AGAIN_S)

    def _patch(self, first: int, count: int, rng: random.Random) -> tuple[int, bytes, list[bytes]]:
        """Bytes that begin and end inside of pages: where, which, and what becomes of the pages."""
        old = self._pages.current(first, count)
        size = self._pages.page_bytes
        at = rng.randrange(size)
        data = (self._pages.new_stamp() * (size // 16))[: rng.randint(1, size)][: len(old) - at]
        new = old[:at] + data + old[at + len(data) :]
        return at, data, [new[at : at + size] for at in range(0, len(new), size)]


async def check_all(client: Client, pages: Pages) -> int:
    """Compares every page; how many are not zeroes."""
    used = 0
    for first in range(0, pages.count, READ_PAGES):
        count = min(READ_PAGES, pages.count - first)
        size = pages.page_bytes
        used += pages.check(first, await client.read(first * size, count * size))
    return used
