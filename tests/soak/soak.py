"""A server that is loaded by several clients, while all that may happen to it happens.

What comes next, and what the clients ask for, follows from a seed; how it interleaves does not.
Every answer is compared with a model, and after every start every page is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from nbdswap.nbd.client import Client
from nbdswap.nbd.constants import Error
from nbdswap.nbd.errors import CommandError
from nbdswap.nbd.negotiator import connect
from tests.kills.life import kill_while_starting
from tests.soak.tally import Tally
from tests.support.file_systems import fill
from tests.support.load import READ_PAGES, Load, check_all
from tests.support.model import Pages
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, ServerSettings, nbdswap_command, new_server

PAGES = 16384
POOL_BYTES = 6 * MIB
FILE_SYSTEM_BYTES = 72 * MIB
# The pages come to about 35 MiB when compressed.
STORE = {"capacity_bytes": 56 * MIB, "segment_bytes": 256 << 10, "scrub_bytes_per_s": 1 * MIB}
BUDGET = {"write_bytes_per_day_max": 1 * MIB, "write_burst_bytes": 2 * MIB}
CONNECTIONS = 3
TASKS = 8
# Requests between two events.
REQUESTS = (200, 3000)
# Requests that meet a store without room, at most: each waits for what may still come.
REQUESTS_WITHOUT_ROOM = 600
FLIPS = 40
STEP_TIMEOUT_S = 120.0
SAMPLE_S = 1.0
# As the README has it: a fixed part, 1.1 MiB a connection, 8 bytes a page, the pool.
RESIDENT_BYTES_MAX = 100 * MIB + CONNECTIONS * 11 * MIB // 10 + 8 * PAGES + POOL_BYTES
ZPOOLS = ("zfit", "zblock", "zsmalloc", "zbud", "z3fold")
CODECS = ("lz4", "zstd", "none", "lzo", "deflate", "lz4hc")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a store that no server has."""

    damaged: set[int]
    """Pages whose record is damaged."""
    missing: int
    """Records that a damaged list names no more, dead ones and those of torn writes included."""


class Soak:
    """One server, its clients' model, and what happens to it."""

    def __init__(self, seed: int, minutes: float, place: Path | None) -> None:
        """`place`: a file system of FILE_SYSTEM_BYTES to be filled up; None: that is left out."""
        self._rng = random.Random(seed)
        self._minutes = minutes
        self._place = place
        self._pages = Pages(self._rng, PAGES)
        self._settings = ServerSettings(
            size_bytes=PAGES * PAGE_BYTES,
            pool_bytes=POOL_BYTES,
            key="memory" if seed % 2 else None,
            store_config=STORE,
            store_path=place / "store" if place else None,
        )
        self._server = new_server("nbdswap", self._settings)
        self._admin = UnixAddress(self._server.admin_path)
        self.tally = Tally(resident_bytes_max=RESIDENT_BYTES_MAX)
        self._deadline_s = time.monotonic() + 60 * minutes

    def run(self) -> None:
        """Raises for the first answer that was wrong."""
        ends: list[tuple[str, Callable[[], None]]] = [
            ("kill", self._nothing),
            ("kill in an upgrade", self._nothing),
            ("kill in adoption", self._kill_again),
            ("damage to the file", self._damage),
            ("stop and start", self._nothing),
        ]
        if self._place:
            ends.append(("kill on a full disk", self._nothing))
        self._server.start()
        try:
            while time.monotonic() < self._deadline_s:
                self._rng.shuffle(ends)
                for name, between in ends:
                    if time.monotonic() < self._deadline_s:
                        asyncio.run(self._live(name))
                        self.tally.pages_in_doubt += self._pages.in_doubt
                        between()
                        self._server.start()
                        self.tally.events[name] += 1
            self._ballast.unlink(missing_ok=True)
            asyncio.run(self._check_all())
        finally:
            self._server.remove()

    # ------------------------------------------------------------ one life

    async def _live(self, end: str) -> None:
        """Checks every page, loads the server while things happen, and ends it."""
        clients = [await connect(str(self._server.unix_path), EXPORT) for _ in range(CONNECTIONS)]
        load = Load(clients, self._pages, self._rng, tasks=TASKS, work=self.tally.work)
        load.may_be_refused = self._ballast.exists()
        try:
            self.tally.pages_compared += PAGES
            await check_all(clients[0], self._pages)
            async with asyncio.TaskGroup() as tasks:
                sampler = tasks.create_task(self._sample())
                tasks.create_task(load.run())
                if self._ballast.exists():
                    await self._pass(load, REQUESTS_WITHOUT_ROOM)
                    async with asyncio.timeout(STEP_TIMEOUT_S):
                        await self._empty_disk(load)
                    self.tally.end_event("start on a full disk")
                for name, happen in self._events():
                    await self._pass(load, self._rng.randint(*REQUESTS))
                    self.tally.end_event("nothing else")
                    async with asyncio.timeout(STEP_TIMEOUT_S):
                        await happen(load)
                    self.tally.end_event(name)
                await self._pass(load, self._rng.randint(*REQUESTS))
                self.tally.end_event("nothing else")
                sampler.cancel()
                await self._die(load, end)
        finally:
            for client in clients:
                await client.close()
        if end == "stop and start":
            self._server.stop()
        else:
            self._server.kill()

    def _events(self) -> list[tuple[str, Callable[[Load], Awaitable[None]]]]:
        """What happens in one life."""
        events: list[tuple[str, Callable[[Load], Awaitable[None]]]] = [
            ("switch", self._switch),
            ("switch", self._switch),
            ("upgrade", self._upgrade),
            ("budget used up", self._use_up_budget),
        ]
        if self._place:
            events.append(("full disk", self._fill_disk))
        return self._rng.sample(events, 2)

    async def _die(self, load: Load, end: str) -> None:
        """Ends the load, and with it the server, unless that is told to stop later."""
        if end == "stop and start":
            load.stop()
            return
        if end == "kill on a full disk":
            load.may_be_refused = True
            await asyncio.to_thread(fill, self._ballast)
            await self._pass(load, REQUESTS_WITHOUT_ROOM)
        load.is_ending = True
        if end == "kill in an upgrade":
            os.kill(self._server.pid, signal.SIGUSR2)
            # Not a wait for something: any moment of it will do.
            await asyncio.sleep(self._rng.uniform(0, 2.5))
        os.kill(self._server.pid, signal.SIGKILL)

    async def _sample(self) -> None:
        while True:
            self.tally.look_at(self._server.pid)
            await asyncio.sleep(SAMPLE_S)

    async def _pass(self, load: Load, requests: int) -> None:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            await load.pass_requests(requests)

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(admin_client.ask, self._admin)

    # ------------------------------------------------------------ while it lives

    async def _switch(self, load: Load) -> None:
        asked = {"zpool": self._rng.choice(ZPOOLS), "codec": self._rng.choice(CODECS)}
        await asyncio.to_thread(admin_client.change, self._admin, asked)
        await load.pass_requests(500)

    async def _upgrade(self, load: Load) -> None:
        upgraded = await asyncio.to_thread(admin_client.upgrade, self._admin)
        assert (upgraded.handed_over, upgraded.dropped) == (CONNECTIONS, 0), upgraded
        await load.pass_requests(100)

    async def _use_up_budget(self, load: Load) -> None:
        """Upgrades to a configuration that lets next to nothing be written, and back."""
        load.may_be_refused = True
        self._server.configure(replace(self._settings, store_config=STORE | BUDGET))
        await asyncio.to_thread(admin_client.upgrade, self._admin)
        refused = self.tally.work.refused
        await load.pass_requests(REQUESTS_WITHOUT_ROOM)
        for _ in range(20):
            if self.tally.work.refused > refused:
                break
            await load.pass_requests(REQUESTS_WITHOUT_ROOM)
        assert self.tally.work.refused > refused, "the budget was never used up"
        self._server.configure(self._settings)
        await asyncio.to_thread(admin_client.upgrade, self._admin)
        await self._until_there_is_room(load)

    async def _fill_disk(self, load: Load) -> None:
        load.may_be_refused = True
        await asyncio.to_thread(fill, self._ballast)
        await load.pass_requests(REQUESTS_WITHOUT_ROOM)
        await self._empty_disk(load)

    async def _empty_disk(self, load: Load) -> None:
        self._ballast.unlink()
        await self._until_there_is_room(load)

    async def _until_there_is_room(self, load: Load) -> None:
        """Nobody tells the server that there is room again."""
        while await self._has_no_room():
            await load.pass_requests(CONNECTIONS * TASKS)
        # Those that were refused meanwhile have their answer then.
        await load.pass_requests(2 * CONNECTIONS * TASKS)
        load.may_be_refused = False

    async def _has_no_room(self) -> bool:
        status = await self._status()
        return bool(status["pool"]["is_stuck"] or status["store"]["degraded"])

    @property
    def _ballast(self) -> Path:
        """What fills the file system, while it is there."""
        return (self._place or self._server.directory) / "ballast"

    # ------------------------------------------------------------ while it is dead

    def _nothing(self) -> None:
        pass

    def _kill_again(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            kill_while_starting(self._server, self._rng.uniform(0, 0.03))

    def _damage(self) -> None:
        """Flips bytes in the backing file; pages of the records that this hits answer EIO."""
        path = self._server.store_path
        before = self._verify()
        assert not before.damaged, f"pages {before.damaged} were damaged by the server"
        flips = []
        with path.open("r+b", buffering=0) as file:
            for _ in range(FLIPS):
                at = self._rng.randrange(MIB, path.stat().st_size)
                flips.append(at)
                file.seek(at)
                (byte,) = file.read(1)
                file.seek(at)
                file.write(bytes((byte ^ 1 << self._rng.randrange(8),)))
        self.tally.bytes_flipped += FLIPS
        after = self._verify()
        self._server.start()
        failed = asyncio.run(self._check_damage())
        # Where a list of records is hit as well as one of them, nobody can tell whose that is.
        unnamed = failed - after.damaged
        assert len(unnamed) <= after.missing - before.missing, (
            f"pages {unnamed} are errors and not damaged; flipped {flips}, before {before}, "
            f"after {after}: {self._server.running.log_text}"
        )
        assert len(failed) <= FLIPS, f"{len(failed)} pages are damaged by {FLIPS} flips"
        self._server.kill()

    def _verify(self) -> Verdict:
        """What `nbdswap store verify` says."""
        command = [
            *nbdswap_command(), "store", "verify", "--json",
            f"--config={self._server.directory / 'config.yaml'}",
            f"--state-dir={self._server.state_directory}",
            f"--store={self._server.store_path}",
        ]  # fmt: skip
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=STEP_TIMEOUT_S
        )
        assert result.returncode in (0, 3), result.stderr
        verdict = json.loads(result.stdout)
        in_use = {damage["export_page"] for damage in verdict["damaged"] if damage["in_use"]}
        return Verdict(in_use, verdict["records_missing"])

    async def _check_damage(self) -> set[int]:
        """Pages that are errors, and good again when written; every other one is right."""
        failed = set()
        async with (
            asyncio.timeout(STEP_TIMEOUT_S),
            await connect(str(self._server.unix_path), EXPORT) as client,
        ):
            for first in range(0, PAGES, READ_PAGES):
                with contextlib.suppress(CommandError):
                    data = await client.read(first * PAGE_BYTES, READ_PAGES * PAGE_BYTES)
                    self._pages.check(first, data)
                    continue
                failed |= await self._check_each(client, first)
            for page in failed:
                content = self._pages.new_page(self._rng)
                await client.write(page * PAGE_BYTES, content)
                self._pages.acknowledge(page, [content])
        self.tally.pages_compared += PAGES
        self.tally.errors_expected += len(failed)
        return failed

    async def _check_each(self, client: Client, first: int) -> set[int]:
        """Pages that answer EIO; the others are compared."""
        failed = set()
        for page in range(first, first + READ_PAGES):
            try:
                self._pages.check(page, await client.read(page * PAGE_BYTES, PAGE_BYTES))
            except CommandError as error:
                if error.errno != Error.EIO:
                    raise
                failed.add(page)
        return failed

    async def _check_all(self) -> None:
        async with await connect(str(self._server.unix_path), EXPORT) as client:
            await check_all(client, self._pages)
            self.tally.pages_compared += PAGES
            self.tally.look_at(self._server.pid)
