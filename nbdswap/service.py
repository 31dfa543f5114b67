"""A server between its start and its end: what runs on the event loop, and how it comes to rest.

Not here: what has to be there before (`lifecycle`), one client (`server`).
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from nbdswap import __version__, systemd
from nbdswap.addresses import TcpAddress
from nbdswap.changes import Changer
from nbdswap.config import Config
from nbdswap.errors import RefusedError
from nbdswap.exports import default_name, export_infos
from nbdswap.guide import guide
from nbdswap.handover import Handover, predecessor_of
from nbdswap.hardening import Kernel, Protection, is_orphan, verify
from nbdswap.incidents import IncidentLog
from nbdswap.listeners import Listener, close_all
from nbdswap.logs import EventLog
from nbdswap.nbd import ExportInfo
from nbdswap.server import Limits, Server
from nbdswap.snapshots import ServerSnapshot, Snapshot, UpgradeCounts
from nbdswap.state import StateDir
from nbdswap.stdio import Stdio, carry, say
from nbdswap.stop_request import StopRequest
from nbdswap.store_key import forget_key
from nbdswap.succession import after_stop
from nbdswap.successor import Program
from nbdswap.takeover import TakenOver
from nbdswap.upgrade import SIGNALS, Upgradable, Upgrader
from nbdswap.watch import Watch

log = EventLog("service")

# For changes, upgrades and stops, which come one at a time.
EXECUTOR_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What concerns this one process and nothing that it serves."""

    protections: Sequence[Protection]
    """Those that were asked for."""
    swappable_pool_bytes: int
    """Of the pool, what the system would swap out if it were not locked."""
    kernel: Kernel | None = None
    """Another one than Linux, in tests."""
    pidfile: Path | None = None
    parent: int | None = None
    """Process id, if we end with it."""
    handover: Handover | None = None
    """What the program before us in this process left, if we came by an upgrade."""


class Service:
    """A server between its start and its end."""

    def __init__(
        self,
        config: Config,
        state_dir: StateDir,
        taken: TakenOver,
        process: Process,
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._state = taken.state
        self._lost = taken.lost
        self._engine = taken.engine
        self._incidents = IncidentLog(taken.engine)
        self._watch = Watch(taken.engine.snapshot, config.store.path)
        self._process = process
        self._protections = list(process.protections)
        self._started_s = time.monotonic()
        self._ready = False
        self._adopted = taken.adopted
        self._stopped_in_order = False
        self._upgrader: Upgrader | None = None
        self._upgrades = process.handover.counts if process.handover else UpgradeCounts()
        self._server = Server(
            self._engine,
            export_infos(config),
            default_name(config),
            Limits(
                handshake_timeout_s=config.handshake_timeout_s,
                connections_max=config.connections_max,
            ),
            self._before_attach,
        )

    async def run(
        self, listeners: Sequence[Listener], admin: Sequence[Listener], stdio: Stdio | None
    ) -> None:
        """Serves until a stop is asked for, then stops in good order."""
        stop = StopRequest(self._server.stop, self._volatile_clients, self._parent_is_gone)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.ask, signal.Signals(number).name)
        self._start_engine(loop)
        self._verify_protections()
        if self._process.handover is not None:
            self._go_on(self._process.handover)
        # Loaded only now: its HTTP server takes longer than all else, and clients may be waiting.
        from nbdswap.admin import AdminSite

        upgrader = self._make_upgrader(listeners, admin, stdio)
        site = AdminSite(self.snapshot, Changer(self._engine).apply, upgrader.ask)
        for listener in admin:
            await site.start(listener.sock)
        try:
            self._announce(listeners, admin, stdio)
            async with asyncio.TaskGroup() as tasks:
                upgrader.start_in(tasks)
                loop.add_signal_handler(signal.SIGUSR2, upgrader.ask_by_signal)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                naming = tasks.create_task(self._incidents.run(), name="incidents")
                if stdio is not None and stdio.bridge is not None:
                    # It ends by itself when the engine closes its side.
                    tasks.create_task(carry(stdio.bridge))
                watcher = tasks.create_task(self._watch.run(), name="watch")
                await self._server.run(listeners, stdio.client if stdio else None)
                close_all(listeners)
                await self._finish(stop)
                watcher.cancel()
                naming.cancel()
            self._stopped_in_order = True
        finally:
            await site.stop()
            if self._process.pidfile is not None and self._ready:
                self._process.pidfile.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the engine and writes what the next server has to know."""
        if not self._stopped_in_order:
            # Broken off. What was adopted, or could be written to, is the next server's.
            self._engine.close(forget=not self._adopted and not self._ready)
            return
        self._incidents.close()
        store = self._engine.snapshot()["store"]
        if store is not None and store["silent"]:
            log.error(
                "the backing file does not answer: this process ends when the kernel lets it go, "
                "and no other server can have the file before",
                path=store["path"],
            )
        else:
            self._settle()
        state, forget = after_stop(self._state, self._config, self._engine.snapshot())
        self._engine.close(forget=forget)
        if forget:
            forget_key(self._config.memory_dir, state.instance)
        # After the memory is as it shall be: a crash before this line reads as a crash.
        self._state_dir.write(state)
        log.info("stopped", memory="forgotten" if forget else "kept")

    def _settle(self) -> None:
        """Nothing of a durable export is to hang on this host's memory any more."""
        try:
            self._engine.settle()
        except OSError as error:
            log.error("not everything could be written down: a reboot now loses it", reason=error)

    def snapshot(self) -> Snapshot:
        """Engine and server at this moment."""
        server = ServerSnapshot(
            version=__version__,
            ready=self._ready,
            stopping=self._server.stopping,
            uptime_seconds=time.monotonic() - self._started_s,
            generation=self._state.generation,
            handshakes_open=self._server.handshakes_open,
            handshakes_failed_total=self._server.counts.handshakes_failed_total,
            connections_refused_total=self._server.counts.connections_refused_total,
            hardening={kept.what: kept.in_force for kept in self._protections},
            upgrades=self._upgrader.counts if self._upgrader else self._upgrades,
            room=self._watch.room,
            troubles=self._watch.troubles,
        )
        return Snapshot(self._engine.snapshot(), server)

    def _start_engine(self, loop: asyncio.AbstractEventLoop) -> None:
        """Signals are this thread's alone: one that another took could be lost in an upgrade."""
        block = partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS)
        loop.set_default_executor(ThreadPoolExecutor(EXECUTOR_THREADS, initializer=block))
        block()
        self._engine.start()
        if self._process.handover is None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _go_on(self, handover: Handover) -> None:
        """Serves the connections of the program before us: all that clients have waited for."""
        dropped = self._server.take_back(handover.connections)
        pause_s = time.monotonic() - handover.began_s
        handed_over = len(handover.connections) - dropped
        self._upgrades = self._upgrades.with_done(handed_over, dropped, pause_s)
        log.info(
            "upgraded",
            version=__version__,
            before=handover.version,
            connections=handed_over,
            dropped=dropped,
            pause_ms=round(pause_s * 1000),
        )

    def _make_upgrader(
        self, listeners: Sequence[Listener], admin: Sequence[Listener], stdio: Stdio | None
    ) -> Upgrader:
        obstacle = ""
        if stdio is not None:
            obstacle = "the client is on standard input and output and cannot be handed over"
        elif self._config.memory_dir is None:
            obstacle = "memory_dir is none: the pages are memory of this program alone"
        parts = Upgradable(
            server=self._server,
            engine=self._engine,
            state_dir=self._state_dir,
            listeners=list(listeners),
            admin=list(admin),
            predecessor=predecessor_of(self._config, [*listeners, *admin]),
            obstacle=obstacle,
        )
        self._upgrader = Upgrader(parts, self._upgrades, Program.of_this_process())
        return self._upgrader

    def _verify_protections(self) -> None:
        """At the end of start-up, when every thread that serves is there."""
        verified = verify(
            self._protections,
            self._config.hardening,
            threads=[os.getpid(), *self._engine.thread_ids()],
            pool_bytes=self._process.swappable_pool_bytes,
            kernel=self._process.kernel,
        )
        before, self._protections = self._protections, verified
        say_what_is_unprotected(new for new in verified if new not in before)

    def _announce(
        self, listeners: Sequence[Listener], admin: Sequence[Listener], stdio: Stdio | None
    ) -> None:
        """Pid file, guide, `ready`, service manager: in this order, since `ready` means all."""
        if self._process.pidfile is not None:
            _write_pidfile(self._process.pidfile)
        addresses = [listener.address for listener in listeners]
        for address in addresses:
            if isinstance(address, TcpAddress) and not address.is_loopback:
                log.warning(
                    "whoever reaches this address can read and write every export", address=address
                )
        self._ready = True
        words = " ".join(str(address) for address in addresses)
        # Whoever read this of the program before us may not read any more.
        if stdio is None and self._process.handover is None:
            for line in guide(self._config.exports, addresses, self._lost):
                say(line)
            say(f"ready {words}")
        where = ",".join(str(listener.address) for listener in admin) or "none"
        log.info("ready", listen=words or "stdio", admin=where, generation=self._state.generation)
        systemd.notify("READY=1", f"STATUS=serving on {words}")

    async def _finish(self, stop: StopRequest) -> None:
        """Lets requests in flight finish, for as long as one may take; less if hurried."""
        systemd.notify("STOPPING=1", "STATUS=finishing requests")
        loop = asyncio.get_running_loop()
        deadline_s = self._config.request_timeout_s
        detached = loop.run_in_executor(None, self._engine.detach_all, deadline_s)
        hurried = asyncio.create_task(stop.hurried.wait())
        either: set[asyncio.Future[None] | asyncio.Task[Literal[True]]] = {detached, hurried}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not detached.done():
            log.warning("hurried: requests in flight are dropped")
            self._engine.detach_all(0.0)
        await detached
        self._server.reap()

    def _before_attach(self, export: ExportInfo) -> None:
        """From now on the export may hold data, and the next server has to know it."""
        writable = not next(
            known.read_only for known in self._config.exports if known.name == export.name
        )
        marked = self._state.with_data_in(export.name)
        if writable and marked != self._state:
            self._state_dir.write(marked)
            self._state = marked

    def _volatile_clients(self) -> list[str]:
        """Volatile exports that a client is attached to: a stop forgets what they hold."""
        volatile = {e.name for e in self._config.exports if e.durability == "volatile"}
        return sorted(volatile & {attached.export for attached in self._server.attached})

    def _parent_is_gone(self) -> bool:
        parent = self._process.parent
        return parent is not None and is_orphan(parent)


def say_what_is_unprotected(protections: Iterable[Protection]) -> None:
    """Aloud, with the cure."""
    for protection in protections:
        if not protection.in_force:
            log.warning(
                "not protected: a client on this machine can deadlock it",
                what=protection.what,
                problem=protection.problem,
                cure=protection.cure,
            )


def _write_pidfile(path: Path) -> None:
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError as error:
        raise RefusedError(f"pidfile {path} cannot be written: {error.strerror}") from None
