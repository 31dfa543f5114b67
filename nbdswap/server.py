"""Clients from their connecting to their end: accept, negotiate, hand over, remember.

asyncio owns a socket until its handshake is done. Then the descriptor, with the bytes that came
behind the handshake, belongs to the engine, and this side only hears of the end of the connection.
At every moment exactly one of the two closes it.

One client's failure is one line in the log and never ends another's connection. Not here: binding
(`listeners`), order of starting and stopping (`lifecycle`).
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbdswap.engine import Engine
from nbdswap.errors import NbdswapError, RefusedError
from nbdswap.handover import HandedConnection
from nbdswap.listeners import Listener
from nbdswap.logs import EventLog
from nbdswap.nbd import Aborted, ExportInfo, Failed, Negotiated, ServerHandshake
from nbdswap.negotiation import negotiate

if TYPE_CHECKING:
    from nbdswap._core import HandedOver

log = EventLog("server")

# Out of descriptors or memory: trying again at once would only burn the processor.
ACCEPT_PAUSE_S = 0.5
# How long clients in mid-handshake may take to hear that the server is leaving.
FAREWELL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take."""

    handshake_timeout_s: float
    connections_max: int


@dataclass(frozen=True, slots=True)
class Attached:
    """A connection that the engine serves."""

    peer: str
    export: str


@dataclass(slots=True)
class ServerCounts:
    """Events that the engine does not see."""

    handshakes_failed_total: int = 0
    connections_refused_total: int = 0
    connections_broken_total: int = 0
    """Ended otherwise than by their clients."""


class Server:
    """Serves clients until `stop`. Everything runs on one event loop; no locks."""

    def __init__(
        self,
        engine: Engine,
        exports: Mapping[str, ExportInfo],
        default_export: str,
        limits: Limits,
        before_attach: Callable[[ExportInfo], None],
    ) -> None:
        self._engine = engine
        self._exports = exports
        self._default_export = default_export
        self._limits = limits
        self._before_attach = before_attach
        self._handshakes: dict[asyncio.Task[None], ServerHandshake] = {}
        self._attached: dict[int, Attached] = {}
        self._stopping = asyncio.Event()
        self._listeners: Sequence[Listener] = ()
        self._clients: asyncio.TaskGroup | None = None
        self._pauses: dict[int, asyncio.TimerHandle] = {}
        self._only_client: socket.socket | None = None
        self.counts = ServerCounts()

    @property
    def handshakes_open(self) -> int:
        """Clients that have not chosen an export yet."""
        return len(self._handshakes)

    @property
    def attached(self) -> Collection[Attached]:
        """Connections in transmission."""
        return self._attached.values()

    @property
    def stopping(self) -> bool:
        """No new client is served any more."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Accept nobody else; those in mid-handshake are told. `run` returns soon after."""
        self._stopping.set()
        for handshake in self._handshakes.values():
            handshake.shutting_down = True

    async def run(self, listeners: Sequence[Listener], only_client: socket.socket | None) -> None:
        """Serves until `stop`, or until `only_client` (a connected socket) has left."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._engine.ended_fd, self.reap)
        try:
            async with asyncio.TaskGroup() as clients:
                self._clients, self._listeners = clients, listeners
                self.accept_again()
                if only_client is not None:
                    self._only_client = only_client
                    self._welcome(only_client, clients)
                await self._stopping.wait()
                await self.stop_accepting()
        finally:
            self._accept_nobody()
            loop.remove_reader(self._engine.ended_fd)

    def reap(self) -> None:
        """Takes note of connections that have ended."""
        for number, reason in self._engine.take_ended():
            ended = self._attached.pop(number)
            fields = {"connection": number, "export": ended.export, "peer": ended.peer}
            if reason:
                self.counts.connections_broken_total += 1
                log.warning("connection ended", **fields, reason=reason)
            else:
                log.info("client left", **fields)
        if self._only_client is not None:
            self._stop_without_client()

    # ------------------------------------------------------------ from one server to the next

    async def stop_accepting(self) -> None:
        """Who connects from now on waits; handshakes have a moment to end, then they are cut."""
        self._accept_nobody()
        await self._say_farewell()

    def accept_again(self) -> None:
        """Ends what `stop_accepting` began, unless the server is to stop."""
        if self._clients is None or self.stopping:
            return
        for listener in self._listeners:
            self._accept_from(listener, self._clients)

    def give_up(self, connections: "Iterable[HandedOver]") -> list[HandedConnection]:
        """Connections that the engine gave up, with what only we know of them."""
        return [
            HandedConnection(
                fd=one["fd"],
                export=one["export"],
                peer=self._attached.pop(one["number"]).peer,
                structured=one["structured"],
                base_allocation_id=one["base_allocation_id"],
                received=one["received"],
                unsent=one["unsent"],
            )
            for one in connections
        ]

    def take_back(self, connections: Iterable[HandedConnection]) -> int:
        """Goes on with connections that were given up, here or by a predecessor.

        One that cannot go on is closed; how many these were.
        """
        dropped = 0
        for one in connections:
            try:
                self._go_on(one)
            except (NbdswapError, OSError, ValueError) as error:
                dropped += 1
                log.error("connection dropped", export=one.export, peer=one.peer, reason=error)
        return dropped

    def _go_on(self, one: HandedConnection) -> None:
        export = self._exports.get(one.export)
        if export is None:
            os.close(one.fd)
            raise RefusedError("the export is not there any more")
        try:
            self._before_attach(export)
        except NbdswapError:
            os.close(one.fd)
            raise
        number = self._engine.attach(
            one.fd,
            one.export,
            structured=one.structured,
            base_allocation_id=one.base_allocation_id,
            received=one.received,
            unsent=one.unsent,
        )
        self._attached[number] = Attached(one.peer, one.export)

    # ------------------------------------------------------------ accepting

    def _accept_nobody(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener.sock)
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()

    def _accept_from(self, listener: Listener, clients: asyncio.TaskGroup) -> None:
        # Not a task that waits in `sock_accept`: cancelled at the wrong moment, it would lose a
        # client that is accepted already.
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.sock, self._accept, listener, clients)

    def _accept(self, listener: Listener, clients: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock, _ = listener.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # The client was faster in leaving than we in accepting.
            return
        except OSError as error:
            log.error("accept failed", address=listener.address, reason=error.strerror)
            loop.remove_reader(listener.sock)
            later = loop.call_later(ACCEPT_PAUSE_S, self._accept_from, listener, clients)
            self._pauses[listener.sock.fileno()] = later
            return
        self._welcome(sock, clients)

    def _welcome(self, sock: socket.socket, clients: asyncio.TaskGroup) -> None:
        count = len(self._attached) + len(self._handshakes)
        if count >= self._limits.connections_max:
            log.warning("client refused", peer=peer_name(sock), connections=count, reason="full")
            self.counts.connections_refused_total += 1
            sock.close()
            return
        handshake = ServerHandshake(self._exports, self._default_export)
        task = clients.create_task(self._serve(sock, handshake))
        self._handshakes[task] = handshake
        task.add_done_callback(self._handshake_over)

    def _handshake_over(self, task: asyncio.Task[None]) -> None:
        del self._handshakes[task]
        if self._only_client is not None:
            self._stop_without_client()

    def _stop_without_client(self) -> None:
        if not self._handshakes and not self._attached:
            self.stop()

    async def _say_farewell(self) -> None:
        """Clients in mid-handshake hear ERR_SHUTDOWN with their next option; then they are cut."""
        if self._handshakes:
            _, late = await asyncio.wait(self._handshakes, timeout=FAREWELL_S)
            for task in late:
                task.cancel()

    # ------------------------------------------------------------ one client

    async def _serve(self, sock: socket.socket, handshake: ServerHandshake) -> None:
        """Negotiates and hands over. Lets nothing escape but cancellation."""
        peer = peer_name(sock)
        with sock:
            try:
                prepare(sock)
                async with asyncio.timeout(self._limits.handshake_timeout_s):
                    result = await negotiate(sock, handshake)
                match result:
                    case Negotiated():
                        self._hand_over(sock, result, handshake.trailing_data, peer)
                    case Failed(reason):
                        self._failed(peer, reason)
                    case Aborted() | None:
                        log.debug("client left during negotiation", peer=peer)
            except TimeoutError:
                self._failed(peer, f"no export chosen in {self._limits.handshake_timeout_s:g} s")
            except OSError as error:
                self._failed(peer, error.strerror or str(error))
            except NbdswapError as error:
                self._failed(peer, str(error))
            except Exception:
                self.counts.handshakes_failed_total += 1
                log.unexpected("negotiation broke", peer=peer)

    def _failed(self, peer: str, reason: str) -> None:
        self.counts.handshakes_failed_total += 1
        log.warning("negotiation failed", peer=peer, reason=reason)

    def _hand_over(
        self, sock: socket.socket, negotiated: Negotiated, received: bytes, peer: str
    ) -> None:
        export = negotiated.export
        self._before_attach(export)
        # From here on the descriptor is the engine's, which closes it even if it refuses; the
        # `with` of our caller closes an empty shell.
        number = self._engine.attach(
            sock.detach(),
            export.name,
            structured=negotiated.structured_replies,
            base_allocation_id=negotiated.allocation_context_id,
            received=received,
            unsent=b"",
        )
        self._attached[number] = Attached(peer, export.name)
        log.info("client attached", connection=number, export=export.name, peer=peer)


def prepare(sock: socket.socket) -> None:
    """Non-blocking; on TCP replies go out at once, and a peer that vanished is found out."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # A reply is one send: Nagle's delay would gain nothing.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A client whose machine lost power says nothing, and would keep its place for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def peer_name(sock: socket.socket) -> str:
    """Who is on the other end: HOST:PORT, or process and user on a unix socket."""
    try:
        if sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("3i", credentials)
            return f"unix:pid={pid},uid={uid}"
        host, port, *_ = sock.getpeername()
    except OSError:
        # It has left already.
        return "unknown"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
