"""A server that is loaded by several clients, while all that may happen to it happens.

What comes next, and what the clients ask for, follows from a seed; how it interleaves does not.
Every answer is compared with a model, and after every start every page is: exports that survive
the loss of the host as what was flushed or later, the others as errors.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from tests.kills.life import kill_while_starting
from tests.soak.damage import copy_remains, find_failed, flip_bytes, verify
from tests.soak.last_words import last_words
from tests.soak.tally import Tally
from tests.soak.tenants import TASKS, Fleet, attached, tenants_of
from tests.support.file_systems import fill, mounted
from tests.support.fragile_disk import FragileDisk, fragile_disk
from tests.support.load import FAILING_DISK, FULL_DISK, FULL_POOL, NO_EXCUSE, SILENT_DISK
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import ServerSettings, new_server
from tests.support.trouble import events, wait_until

ALL_BYTES = 64 * MIB
POOL_BYTES = 6 * MIB
FILE_SYSTEM_BYTES = 72 * MIB
# The pages come to about 35 MiB when compressed.
CAPACITY_BYTES = 56 * MIB
STORE = {
    "capacity_bytes": CAPACITY_BYTES,
    "segment_bytes": 256 << 10,
    "scrub_bytes_per_s": 1 * MIB,
}
BUDGET = {"write_bytes_per_day_max": 1 * MIB, "write_burst_bytes": 2 * MIB}
KEY_BYTES = 32
# The fixed part has buffers for so many pages.
BUFFERED_PAGES = 1024
# Requests between two events.
REQUESTS = (200, 3000)
# Requests that meet a store without room, at most: each waits for what may still come.
REQUESTS_WITHOUT_ROOM = 600
FLIPS = 40
STEP_TIMEOUT_S = 120.0
SAMPLE_S = 1.0
REQUEST_TIMEOUT_S = 5.0
# For so long a disk answers nothing: until that is known, and a while after.
SILENCE_S = 8.0
ZPOOLS = ("zfit", "zblock", "zsmalloc", "zbud", "z3fold")
CODECS = ("lz4", "zstd", "none", "lzo", "deflate", "lz4hc")

Happening = Callable[[Fleet], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the backing file is, which decides what can be done to it."""

    file_system: Path | None = None
    """Of FILE_SYSTEM_BYTES, to be filled up."""
    disk: FragileDisk | None = None
    """Of CAPACITY_BYTES, to refuse writes and to fall silent."""

    @property
    def store_path(self) -> Path | None:
        if self.disk is not None:
            return self.disk.path
        return self.file_system / "store" if self.file_system is not None else None


@contextmanager
def small_file_system(directory: Path) -> Iterator[Place]:
    """Skips where none can be mounted."""
    with mounted("ext4", FILE_SYSTEM_BYTES, directory) as path:
        yield Place(file_system=path)


@contextmanager
def failing_disk(directory: Path) -> Iterator[Place]:
    """Skips where FUSE or what shows it is missing."""
    with fragile_disk(directory, CAPACITY_BYTES) as disk:
        yield Place(disk=disk)


class Soak:
    """One server, its clients' models, and what happens to it."""

    def __init__(self, seed: int, page_bytes: int, place: Place) -> None:
        self._rng = random.Random(seed)
        self._place = place
        self._tenants = tenants_of(self._rng, page_bytes, ALL_BYTES)
        self._connections = sum(tenant.connections for tenant in self._tenants)
        self._settings = ServerSettings(
            pool_bytes=POOL_BYTES,
            store_config=STORE,
            store_path=place.store_path,
            page_bytes=page_bytes,
            request_timeout_s=REQUEST_TIMEOUT_S if place.disk else None,
            exports=tuple(tenant.config for tenant in self._tenants),
        )
        self._server = new_server("nbdswap", self._settings)
        if seed % 2:
            key = self._server.directory / "key"
            key.touch(mode=0o600)
            key.write_bytes(random.Random(seed).randbytes(KEY_BYTES))
            self._settings = replace(self._settings, key=f"file:{key}")
            self._server.settings = self._settings
        self._admin = UnixAddress(self._server.admin_path)
        self._killed_connections = 0
        # As the README has it: a fixed part, 1.1 MiB a connection, 8 bytes a page in use and as
        # many again for exports that survive the host, the pool.
        fixed_bytes = 105 * MIB + BUFFERED_PAGES * (page_bytes - PAGE_BYTES)
        table_bytes = 16 * ALL_BYTES // page_bytes
        connection_bytes = self._connections * 11 * MIB // 10
        self.tally = Tally(
            resident_bytes_max=fixed_bytes + table_bytes + connection_bytes + POOL_BYTES
        )

    def ends(self) -> dict[str, Callable[[], None]]:
        """How a life may end, and what is done before the next one begins."""
        ends: dict[str, Callable[[], None]] = {
            "kill": self._nothing,
            "kill in an upgrade": self._nothing,
            "kill in adoption": self._kill_again,
            "damage to the file": self._damage,
            "stop and start": self._nothing,
            "stop and loss of the host": self._lose_host,
            "loss of the host": self._lose_host,
            "loss of the host, kills in recovery": self._lose_host_and_kill,
        }
        if self._place.file_system:
            ends["kill on a full disk"] = self._nothing
            ends["loss of the host on a full disk"] = self._lose_host
        return ends

    def run(self, minutes: float) -> None:
        """Raises for the first answer that was wrong."""
        deadline_s = time.monotonic() + 60 * minutes
        ends = list(self.ends())

        def lives() -> Iterator[str]:
            while True:
                self._rng.shuffle(ends)
                for end in ends:
                    if time.monotonic() >= deadline_s:
                        return
                    yield end

        self.run_lives(lives())

    def run_lives(self, ends: Iterable[str], meddle: Callable[[Path], None] | None = None) -> None:
        """One life for each end. `meddle` is called with the backing file of a dead server."""
        between = self.ends()
        self._start()
        try:
            for end in ends:
                asyncio.run(self._live(end))
                between[end]()
                if meddle is not None:
                    meddle(self._server.store_path)
                self._start()
                asyncio.run(self._check(end))
                self.tally.events[end] += 1
            self._ballast.unlink(missing_ok=True)
            self._until_nobody_is_attached()
        except Exception:
            print(last_words(self._admin, self._server.running.log_text), flush=True)
            raise
        finally:
            if self._place.disk is not None:
                self._place.disk.answer()
            self._server.remove()

    # ------------------------------------------------------------ one life

    async def _live(self, end: str) -> None:
        """Loads the server while things happen, and ends it."""
        socket, is_full = self._server.unix_path, self._ballast.exists()
        excuses = FULL_DISK if is_full else NO_EXCUSE
        work = self.tally.work
        async with (
            attached(self._tenants, socket, self._rng, work, excuses) as fleet,
            asyncio.TaskGroup() as tasks,
        ):
            sampler = tasks.create_task(self._sample())
            tasks.create_task(fleet.run())
            if is_full:
                await self._pass(fleet, REQUESTS_WITHOUT_ROOM)
                async with asyncio.timeout(STEP_TIMEOUT_S):
                    await self._empty_disk(fleet)
                self.tally.end_event("start on a full disk")
            for name, happen in self._events():
                await self._pass(fleet, self._rng.randint(*REQUESTS))
                self.tally.end_event("nothing else")
                async with asyncio.timeout(STEP_TIMEOUT_S):
                    await happen(fleet)
                self.tally.end_event(name)
            await self._pass(fleet, self._rng.randint(*REQUESTS))
            self.tally.end_event("nothing else")
            sampler.cancel()
            await self._die(fleet, end)
        if end.startswith("stop"):
            self._until_nobody_is_attached()
            self._server.stop()
        else:
            self._server.kill()
        self.tally.pages_in_doubt += sum(tenant.pages.in_doubt for tenant in self._tenants)

    def _events(self) -> list[tuple[str, Happening]]:
        """What happens in one life."""
        events: list[tuple[str, Happening]] = [
            ("switch", self._switch),
            ("switch", self._switch),
            ("upgrade", self._upgrade),
            ("budget used up", self._use_up_budget),
        ]
        if self._place.file_system:
            events.append(("full disk", self._fill_disk))
        if self._place.disk:
            events.append(("failing disk", self._fail_disk))
            events.append(("silent disk", self._silence_disk))
        return self._rng.sample(events, 2)

    async def _die(self, fleet: Fleet, end: str) -> None:
        """Ends the load, and with it the server, unless that is told to stop later."""
        if end.startswith("stop"):
            fleet.stop()
            return
        if end.endswith("on a full disk"):
            fleet.excuse(FULL_DISK)
            await asyncio.to_thread(fill, self._ballast)
            await self._pass(fleet, REQUESTS_WITHOUT_ROOM)
        fleet.end()
        if end == "kill in an upgrade":
            os.kill(self._server.pid, signal.SIGUSR2)
            # Not a wait for something: any moment of it will do.
            await asyncio.sleep(self._rng.uniform(0, 2.5))
        os.kill(self._server.pid, signal.SIGKILL)

    async def _check(self, end: str) -> None:
        """Looks at every page once the next server is there."""
        socket = self._server.unix_path
        is_lost = "loss of the host" in end
        self.tally.losses += is_lost
        async with asyncio.timeout(STEP_TIMEOUT_S):
            for tenant in self._tenants:
                if is_lost and not tenant.is_durable:
                    tenant.pages.lose_host()
                    refused = await tenant.begin_anew(socket, self._rng)
                    self.tally.pages_refused += refused
                    continue
                if is_lost and end != "stop and loss of the host":
                    # What an orderly stop has written down is as it was, not just as flushed.
                    tenant.pages.lose_host()
                await tenant.check(socket)
                self.tally.pages_compared += tenant.pages.count
                if is_lost and tenant.is_durable:
                    self.tally.pages_survived += tenant.pages.count
                    self.tally.pages_newer += tenant.pages.settle()

    async def _sample(self) -> None:
        while True:
            self.tally.look_at(self._server.pid)
            await asyncio.sleep(SAMPLE_S)

    async def _pass(self, fleet: Fleet, requests: int) -> None:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            await fleet.pass_requests(requests)

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(admin_client.ask, self._admin)

    def _start(self) -> None:
        self._server.start()
        self._killed_connections = self._attached_by_log()

    def _attached_by_log(self) -> int:
        """Connections whose begin the log tells and whose end it does not."""
        attached, left = (
            events(self._server, f"server: client {what}") for what in ("attached", "left")
        )
        return len(attached) - len(left)

    def _until_nobody_is_attached(self) -> None:
        """A stop under a client of a volatile export has to be asked for twice."""
        wait_until(
            lambda: self._attached_by_log() == self._killed_connections, "a client does not leave"
        )

    # ------------------------------------------------------------ while it lives

    async def _switch(self, fleet: Fleet) -> None:
        asked = {"zpool": self._rng.choice(ZPOOLS), "codec": self._rng.choice(CODECS)}
        await asyncio.to_thread(admin_client.change, self._admin, asked)
        await fleet.pass_requests(500)

    async def _upgrade(self, fleet: Fleet) -> None:
        upgraded = await asyncio.to_thread(admin_client.upgrade, self._admin)
        assert (upgraded.handed_over, upgraded.dropped) == (self._connections, 0), upgraded
        await fleet.pass_requests(100)

    async def _use_up_budget(self, fleet: Fleet) -> None:
        """Upgrades to a configuration that lets next to nothing be written, and back. Flushes are
        not its business."""
        fleet.excuse(FULL_POOL)
        self._server.configure(replace(self._settings, store_config=STORE | BUDGET))
        await asyncio.to_thread(admin_client.upgrade, self._admin)
        refused = self.tally.work.refused
        before = refused.total()
        await fleet.pass_requests(REQUESTS_WITHOUT_ROOM)
        for _ in range(40):
            if refused.total() > before:
                break
            await fleet.pass_requests(REQUESTS_WITHOUT_ROOM)
        assert refused.total() > before, "the budget was never used up"
        self._server.configure(self._settings)
        await asyncio.to_thread(admin_client.upgrade, self._admin)
        await self._until_there_is_room(fleet)

    async def _fill_disk(self, fleet: Fleet) -> None:
        fleet.excuse(FULL_DISK)
        await asyncio.to_thread(fill, self._ballast)
        await fleet.pass_requests(REQUESTS_WITHOUT_ROOM)
        await self._empty_disk(fleet)

    async def _empty_disk(self, fleet: Fleet) -> None:
        self._ballast.unlink()
        await self._until_there_is_room(fleet)

    async def _fail_disk(self, fleet: Fleet) -> None:
        assert self._place.disk is not None
        fleet.excuse(FAILING_DISK)
        self._place.disk.refuse_writes()
        await fleet.pass_requests(REQUESTS_WITHOUT_ROOM)
        self._place.disk.take_writes()
        await self._until_there_is_room(fleet)

    async def _silence_disk(self, fleet: Fleet) -> None:
        assert self._place.disk is not None
        fleet.excuse(SILENT_DISK)
        self._place.disk.fall_silent()
        # For all that the clients know it may be for ever.
        await asyncio.sleep(SILENCE_S)
        self._place.disk.answer()
        await self._until_there_is_room(fleet)

    async def _until_there_is_room(self, fleet: Fleet) -> None:
        """Nobody tells the server that there is room again, or that its disk works."""
        while await self._is_in_trouble():
            await fleet.pass_requests(self._connections * TASKS)
        # Those that were refused meanwhile have their answer then.
        await fleet.pass_requests(2 * self._connections * TASKS)
        fleet.excuse(NO_EXCUSE)

    async def _is_in_trouble(self) -> bool:
        status = await self._status()
        store = status["store"]
        return bool(status["pool"]["is_stuck"] or store["degraded"] or store["silent"])

    @property
    def _ballast(self) -> Path:
        """What fills the file system, while it is there."""
        return (self._place.file_system or self._server.directory) / "ballast"

    # ------------------------------------------------------------ while it is dead

    def _nothing(self) -> None:
        pass

    def _kill_again(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            kill_while_starting(self._server, self._rng.uniform(0, 0.03))

    def _lose_host(self) -> None:
        self._server.delete_memory_files()

    def _lose_host_and_kill(self) -> None:
        self._lose_host()
        for _ in range(self._rng.randint(1, 3)):
            kill_while_starting(self._server, self._rng.uniform(0, 0.2))

    def _damage(self) -> None:
        """Flips bytes in the backing file; pages of the records that this hits answer EIO."""
        before = verify(self._server)
        assert not before.damaged, f"pages {before.damaged} were damaged by the server"
        flips = flip_bytes(self._server.store_path, FLIPS, self._rng)
        self.tally.bytes_flipped += FLIPS
        after = verify(self._server)
        remains = copy_remains(self._server)
        self._server.start()

        async def find() -> set[tuple[str, int]]:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                return await find_failed(self._server.unix_path, self._tenants, self._rng)

        failed = asyncio.run(find())
        self.tally.errors_expected += len(failed)
        # Where a list of records is hit as well as one of them, nobody can tell whose that is.
        unnamed = failed - after.damaged
        assert len(unnamed) <= after.missing - before.missing, (
            f"pages {unnamed} are errors and not damaged; flipped {flips}, before {before}, "
            f"after {after}, the files are in {remains}"
        )
        shutil.rmtree(remains)
        assert len(failed) <= FLIPS, f"{len(failed)} pages are damaged by {FLIPS} flips"
        self._server.kill()
