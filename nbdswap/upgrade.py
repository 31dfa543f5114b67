"""Replacing the running server by another version of itself, under its clients.

The new program takes our place in the same process, by exec. That keeps what belongs to a process
and could not be given to another one: the process id that the service manager, the pid file and an
exit-with-parent know, the descriptors with their locks (no moment in which another server could
take the state directory or the backing file), the mark of an I/O flusher and the score of the
out-of-memory killer. The memory lock alone ends with the old program; the new one takes it again,
as at any start. A second process would serve a little sooner, and have none of this.

1. The new program is asked whether it can take over (`successor`). Nothing has changed yet.
2. Nobody is accepted any more; who connects waits in the backlog. Handshakes end, or are cut.
3. Every connection is given up between two requests, or in the middle of a write that has not come
   whole. From here to the end of 5 clients wait.
4. What is to be known is written down (`handover`), and the new program takes over.
5. It adopts the memory, as after a crash, goes on with every connection, and accepts.

Whatever fails before exec has succeeded is taken back: the same connections, the same sockets.
Pool and table need no step of their own, since they can be adopted at every moment.

Not here: what a new program does at its start (`lifecycle`).
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from nbdswap import __version__, systemd
from nbdswap.engine import Engine
from nbdswap.errors import UpgradeError
from nbdswap.handover import HandedConnection, Handover, Predecessor, close_descriptors
from nbdswap.handover import variable_for as handover_variable
from nbdswap.listeners import Listener
from nbdswap.logs import EventLog
from nbdswap.server import Server
from nbdswap.snapshots import UpgradeCounts
from nbdswap.state import StateDir
from nbdswap.successor import Program

log = EventLog("upgrade")

# Requests that read the store may take so long; then the upgrade is called off.
HAND_OVER_S: Final = 5.0
# The disk may have been silent for so long: replacing the program would wait for it.
UNANSWERED_MAX_S: Final = 1.0
# They wait from before exec until the new program can obey them.
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgradable:
    """What a server has that its successor will have."""

    server: Server
    engine: Engine
    state_dir: StateDir
    listeners: list[Listener]
    admin: list[Listener]
    predecessor: Predecessor
    """What the successor has to fit: ourselves."""
    obstacle: str
    """Why this server can have no successor; "" if it can."""


Answer = Callable[[str], Awaitable[None]]


class Upgrader:
    """Upgrades of one server, one at a time."""

    def __init__(self, parts: Upgradable, counts: UpgradeCounts, program: Program) -> None:
        self._parts = parts
        self.counts = counts
        self._program = program
        self._under_way = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None

    def start_in(self, tasks: asyncio.TaskGroup) -> None:
        """From now on it can be asked; an upgrade belongs to these tasks, whoever asked."""
        self._tasks = tasks

    async def ask(self, answer: Answer | None = None) -> None:
        """As `run`, and goes on with it if the asking is given up."""
        if self._tasks is None:
            raise UpgradeError("the server is not ready")
        done = self._tasks.create_task(self._run_to_end(answer))
        error = await asyncio.shield(done)
        if error is not None:
            raise error

    def ask_by_signal(self) -> None:
        """SIGUSR2 came; what becomes of it is in the log."""
        assert self._tasks is not None, "the signal is not handled before"
        if self._parts.server.stopping:
            log.warning("not upgrading: the server is stopping")
            return
        self._tasks.create_task(self._run_to_end(None))

    async def _run_to_end(self, answer: Answer | None) -> UpgradeError | None:
        try:
            await self.run(answer)
        except UpgradeError as error:
            return error
        except Exception as error:
            # Ours, but no reason to end a server that serves.
            log.unexpected("upgrade broke")
            return self._failed(UpgradeError(f"unexpected error, please report it: {error!r}"))
        return None

    async def run(self, answer: Answer | None = None) -> None:
        """Checks and replaces; does not return if all goes well. Raises UpgradeError.

        `answer` hears the new program's version when the check is passed, before anything else.
        """
        if self._under_way.locked():
            raise UpgradeError("an upgrade is under way already")
        async with self._under_way:
            try:
                version = await self._check()
                if answer is not None:
                    with suppress(OSError):
                        await answer(version)
                await self._replace(version)
            except UpgradeError as error:
                log.error("not upgraded, the server goes on as it was", reason=error)
                raise self._failed(error) from None

    def _failed(self, error: UpgradeError) -> UpgradeError:
        """Counts it."""
        failed_total = self.counts.failed_total + 1
        self.counts = replace(self.counts, failed_total=failed_total, last_failure=str(error))
        return error

    async def _check(self) -> str:
        if self._parts.obstacle:
            raise UpgradeError(self._parts.obstacle)
        store = self._parts.engine.snapshot()["store"]
        if store is not None and store["unanswered_seconds"] > UNANSWERED_MAX_S:
            # Replacing the program ends its threads, which the kernel does not let go.
            raise UpgradeError(f"{store['path']} does not answer; try again when it does")
        # A child by vfork and not by the event loop, which would copy the page table.
        version = await asyncio.to_thread(self._program.check, self._parts.predecessor)
        log.info("upgrading", program=self._program.path, version=version, before=__version__)
        return version

    async def _replace(self, version: str) -> None:
        server, loop = self._parts.server, asyncio.get_running_loop()
        microseconds = time.monotonic_ns() // 1000
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=upgrading")
        await server.stop_accepting()
        began_s, broken_before = time.monotonic(), server.counts.connections_broken_total
        ended, late = await loop.run_in_executor(None, self._parts.engine.hand_over, HAND_OVER_S)
        server.reap()
        connections = server.give_up(ended)
        dropped = server.counts.connections_broken_total - broken_before
        self.counts = replace(
            self.counts,
            connections_dropped_total=self.counts.connections_dropped_total + dropped,
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            # Signals that came before are obeyed: their handlers run on the loop.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if late:
                raise UpgradeError(
                    f"requests of {late} connections waited {HAND_OVER_S:g} s for the store; "
                    "try again when it is faster"
                )
            if server.stopping:
                raise UpgradeError("the server was told to stop")
            log.info("handing over", version=version, connections=len(connections))
            self._execute(connections, began_s)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            server.take_back(connections)
            server.accept_again()
            systemd.notify("READY=1", "STATUS=serving")
            raise

    def _execute(self, connections: list[HandedConnection], began_s: float) -> None:
        """Returns only by raising UpgradeError, and has changed nothing then."""
        opened: list[int] = []
        inherited: list[int] = []
        try:
            store_fd = self._parts.engine.store_descriptor()
            opened += [] if store_fd is None else [store_fd]
            handover = Handover(
                version=__version__,
                began_s=began_s,
                lock_fd=self._parts.state_dir.lock_fd,
                store_fd=store_fd,
                listeners=self._parts.listeners,
                admin=self._parts.admin,
                connections=connections,
                counts=self.counts,
            )
            written_fd = handover.write()
            opened.append(written_fd)
            inherited = [*handover.descriptors(), written_fd]
            _set_inheritable(inherited, inheritable=True)
            sys.stdout.flush()
            sys.stderr.flush()
            self._program.execute(handover_variable(written_fd))
        except OSError as error:
            _set_inheritable(inherited, inheritable=False)
            close_descriptors(opened)
            problem = f"{self._program.path} cannot take over: {error.strerror or error}"
            raise UpgradeError(problem) from None


def _set_inheritable(descriptors: Iterable[int], *, inheritable: bool) -> None:
    for fd in descriptors:
        os.set_inheritable(fd, inheritable)
