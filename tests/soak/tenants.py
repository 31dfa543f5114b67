"""The exports of a soak, each with a promise of its own, what is in them, and who loads them.

Not here: what happens to the server meanwhile (`soak`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from nbdswap.nbd.client import Client
from nbdswap.nbd.constants import Error
from nbdswap.nbd.errors import CommandError
from nbdswap.nbd.negotiator import connect
from tests.support.load import NO_EXCUSE, Excuses, Load, Progress, Work, check_all
from tests.support.model import DurablePages, Pages

TASKS = 8
# Of the pages of an export whose old bytes are gone, the share that is written before the rest.
WRITTEN_ANEW_SHARE = 16


@dataclass(frozen=True, slots=True)
class Tenant:
    """One export and what its client knows of it."""

    name: str
    durability: str
    connections: int
    pages: Pages

    @property
    def is_durable(self) -> bool:
        return self.pages.is_durable

    @property
    def config(self) -> dict[str, str | int]:
        return {
            "name": self.name,
            "size_bytes": self.pages.count * self.pages.page_bytes,
            "durability": self.durability,
        }

    async def check(self, socket: Path) -> None:
        """Compares every page."""
        async with await connect(str(socket), self.name) as client:
            await check_all(client, self.pages)

    async def begin_anew(self, socket: Path, rng: random.Random) -> int:
        """After a loss of the host that this export does not survive: every page is an error until
        it is written or discarded. Discards all in the end. How many pages were errors."""
        pages, size = self.pages, self.pages.page_bytes
        written = {
            page: pages.new_page(rng)
            for page in rng.sample(range(pages.count), pages.count // WRITTEN_ANEW_SHARE)
        }
        async with await connect(str(socket), self.name) as client:
            for page, content in written.items():
                # A part of a page that is not there cannot be changed.
                assert await _errno(client.write(page * size + 8, b"x")) == Error.EIO, (
                    f"part of page {page} of {self.name} was taken after a loss of the host"
                )
                await client.write(page * size, content)
            for page in range(pages.count):
                if page in written:
                    found = await client.read(page * size, size)
                    assert found == written[page], f"page {page} of {self.name} is wrong"
                    continue
                errno = await _errno(client.read(page * size, size))
                assert errno == Error.EIO, f"page {page} of {self.name} is served after a loss"
            await client.trim(0, pages.count * size)
        pages.acknowledge(0, [pages.zeroes] * pages.count)
        return pages.count - len(written)


async def _errno(request: object) -> int:
    """The error of a request, 0 if it succeeds."""
    assert asyncio.iscoroutine(request)
    try:
        await request
    except CommandError as error:
        return error.errno
    return 0


def tenants_of(rng: random.Random, page_bytes: int, all_bytes: int) -> list[Tenant]:
    """Four exports of `all_bytes` together: swap, scratch, and two for what has to stay."""

    def tenant(name: str, durability: str, eighths: int, connections: int) -> Tenant:
        kind = DurablePages if durability == "disk" else Pages
        count = all_bytes // page_bytes * eighths // 8
        pages = kind(rng, count, page_bytes=page_bytes, label=name)
        return Tenant(name, durability, connections, pages)

    return [
        tenant("swap", "process", 4, 2),
        tenant("scratch", "volatile", 1, 1),
        tenant("files", "disk", 2, 1),
        tenant("image", "disk", 1, 1),
    ]


class Fleet:
    """The loads of all tenants while the server lives once."""

    def __init__(self, loads: Sequence[Load], progress: Progress) -> None:
        self._loads = loads
        self._progress = progress

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for load in self._loads:
                tasks.create_task(load.run())

    def stop(self) -> None:
        for load in self._loads:
            load.stop()

    def end(self) -> None:
        """The server may be gone from now on."""
        for load in self._loads:
            load.is_ending = True

    def excuse(self, excuses: Excuses) -> None:
        """Errors that are right from now on, in place of those before."""
        for load in self._loads:
            load.excuses = excuses

    async def pass_requests(self, count: int) -> None:
        await self._progress.pass_requests(count)


@asynccontextmanager
async def attached(
    tenants: Sequence[Tenant],
    socket: Path,
    rng: random.Random,
    work: Work,
    excuses: Excuses = NO_EXCUSE,
) -> AsyncIterator[Fleet]:
    """Connects all; every connection is closed in the end."""
    clients: list[Client] = []
    progress = Progress()
    loads = []
    try:
        for tenant in tenants:
            own = [await connect(str(socket), tenant.name) for _ in range(tenant.connections)]
            clients += own
            load = Load(own, tenant.pages, rng, tasks=TASKS, work=work)
            load.progress = progress
            load.excuses = excuses
            loads.append(load)
        yield Fleet(loads, progress)
    finally:
        for client in clients:
            await client.close()
