"""One server after the other on the same files: each is killed, and the next one is checked.

A life begins with the adoption of what the one before it left, and with a check of every page
against what was acknowledged: pages of a request that was under way are old or new. After a loss of
the host they are what was flushed, or something newer. Then there is load, until it ends at the
moment that was planned. Of the host nothing but the memory is lost here: what the backing file was
given is in it, synced or not.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from nbdswap.nbd.negotiator import connect
from tests.kills.plan import PAGES, Machine, Moment
from tests.support.load import Load, check_all
from tests.support.model import DurablePages, Pages
from tests.support.servers import EXPORT, Server, new_server

RUN_TIMEOUT_S = 90.0
# How long a moment is waited for, with requests going on, before the kill comes anyway.
MOMENT_TIMEOUT_S = 20.0
REQUESTS = (100, 800)
# An upgrade takes about so long, from the wish to the new program.
UPGRADE_S = 2.5
_ADOPTED = re.compile(
    r"(?:adopted the memory|recovered what was flushed from the store) .*pages=(\d+) ms=(\d+)"
)


class MissedError(Exception):
    """What the server was to be doing when it is killed did not come."""


@dataclass(slots=True)
class Kill:
    """One kill and what became of it."""

    machine: Machine
    moment: Moment
    note: str = ""
    requests: int = 0
    """Answered in this life."""
    in_doubt: int = 0
    """Pages of requests under way at the kill."""
    pages_adopted: int = 0
    adoption_ms: int = 0
    """By the next server."""
    pages: dict[str, int] = field(default_factory=dict)
    """Where the next server found them."""
    pages_newer: int = 0
    """After a loss of the host: pages that are something newer than what was flushed."""
    pages_used: int = 0
    """Of those that were compared, the ones with other contents than zeroes."""


class Lives:
    """The servers of one machine."""

    def __init__(
        self, machine: Machine, rng: random.Random, meddle: Callable[[Server], None] | None = None
    ) -> None:
        """`meddle` is called when a server is dead: a test does damage there."""
        self._machine = machine
        self._meddle = meddle
        self._rng = rng
        self._pages = (DurablePages if machine.is_durable else Pages)(rng, PAGES)
        self._server = new_server("nbdswap", machine.settings)
        self._admin = UnixAddress(self._server.admin_path)

    def kills(self) -> Iterator[Kill]:
        """Each kill, once the next server was checked. Raises AssertionError for a wrong page."""
        unchecked: list[Kill] = []
        try:
            for moment in self._machine.moments:
                kill = Kill(self._machine, moment)
                if moment is Moment.ADOPTION:
                    kill.note = self._die_while_starting()
                else:
                    yield from self._come_back(unchecked)
                    unchecked = []
                    asyncio.run(self._live_and_die(kill))
                    self._server.kill()
                if moment is Moment.LOSS:
                    self._server.delete_memory_files()
                    self._pages.lose_host()
                if self._meddle is not None:
                    self._meddle(self._server)
                kill.in_doubt = self._pages.in_doubt
                unchecked.append(kill)
            yield from self._come_back(unchecked)
        finally:
            self._server.remove()

    def _come_back(self, kills: list[Kill]) -> list[Kill]:
        """Starts the next server and compares every page; the kills before it, now with results."""
        adoptions = len(self._adoptions())
        self._server.start()
        used = asyncio.run(self._check())
        is_lost = any(kill.moment is Moment.LOSS for kill in kills)
        newer = self._pages.settle() if is_lost else 0
        if not kills:
            return []
        done = self._adoptions()[adoptions:]
        assert len(done) == 1, f"{len(done)} adoptions: {self._server.running.log_text}"
        pages = self._server.pages()
        assert pages["lost"] == 0, pages
        for kill in kills:
            kill.pages_adopted, kill.adoption_ms = done[0]
            kill.pages, kill.pages_used, kill.pages_newer = pages, used, newer
        return kills

    def _adoptions(self) -> list[tuple[int, int]]:
        """Pages and milliseconds of each adoption that the log tells of."""
        log = self._server.directory / "log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return [(int(pages), int(ms)) for pages, ms in _ADOPTED.findall(text)]

    async def _check(self) -> int:
        async with (
            asyncio.timeout(RUN_TIMEOUT_S),
            await connect(str(self._server.unix_path), EXPORT) as client,
        ):
            return await check_all(client, self._pages)

    async def _live_and_die(self, kill: Kill) -> None:
        clients = [
            await connect(str(self._server.unix_path), EXPORT)
            for _ in range(self._machine.connections)
        ]
        load = Load(clients, self._pages, self._rng, tasks=16 // len(clients))
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                await load.pass_requests(self._rng.randint(*REQUESTS))
                try:
                    async with asyncio.timeout(MOMENT_TIMEOUT_S):
                        await self._reach(kill.moment)
                except (TimeoutError, MissedError):
                    kill.note = "missed"
                load.is_ending = True
                os.kill(self._server.pid, signal.SIGKILL)
        finally:
            for client in clients:
                await client.close()
        kill.requests = load.requests

    async def _reach(self, moment: Moment) -> None:
        """Returns in the middle of it."""
        match moment:
            case Moment.WRITE_BACK:
                await self._when_more("pages_written_back")
            case Moment.CLEANING:
                await self._when_more("pages_cleaned")
            case Moment.SWITCH:
                await self._switch()
            case Moment.UPGRADE:
                os.kill(self._server.pid, signal.SIGUSR2)
                # Not a wait for something: any moment of it will do.
                await asyncio.sleep(self._rng.uniform(0, UPGRADE_S))

    async def _when_more(self, counter: str) -> None:
        before = (await self._status())["store"][counter]
        while (await self._status())["store"][counter] == before:
            pass

    async def _switch(self) -> None:
        pool = (await self._status())["pool"]
        zpool = self._rng.choice([z for z in ("zfit", "zblock", "zsmalloc") if z != pool["zpool"]])
        codec = self._rng.choice([c for c in ("lz4", "zstd", "none") if c != pool["codec"]])
        asked = {"zpool": zpool, "codec": codec}
        await asyncio.to_thread(admin_client.change, self._admin, asked)
        while (pool := (await self._status())["pool"])["pages_moved"] == 0:
            if not pool["former_objects"]:
                raise MissedError

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(admin_client.ask, self._admin)

    def _die_while_starting(self) -> str:
        """Kills a server soon after it has mapped the memory; how far it had got."""
        adoptions = self._adoptions()
        took_s = adoptions[-1][1] / 1000 if adoptions else 0.01
        kill_while_starting(self._server, self._rng.uniform(0, took_s))
        return "after it" if len(self._adoptions()) > len(adoptions) else "in it"


def kill_while_starting(server: Server, delay_s: float) -> None:
    """Starts a server and kills it so long after it has mapped the memory."""
    server.launch()
    maps = Path(f"/proc/{server.pid}/maps")
    deadline_s = time.monotonic() + MOMENT_TIMEOUT_S
    while f"{server.memory_directory}/" not in maps.read_text():
        assert server.running.running, server.running.log_text
        assert time.monotonic() < deadline_s, "it never mapped the memory"
    time.sleep(delay_s)
    server.kill()
