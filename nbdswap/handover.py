"""What a server leaves to the program that takes its place: descriptors and what they are.

Told twice. Before: a `Predecessor`, so that the next program can say whether it can take over; it
is JSON on its standard input. Then the `Handover` itself: the descriptors stay open through exec,
and a sealed file in memory, named by one variable of the environment, says what they are:

    magic    8 bytes  "NBDSWAPH"
    head     u32      bytes of the JSON that follows
    JSON              "format" and "descriptors" (all of them) in every format, ours besides
    bytes             of each connection, in order: received, then unsent

A handover of another format, or that is not whole, is refused: its descriptors are closed and the
server starts as after a crash. A client then sees its connection end, and nothing that is wrong.

Not here: when and how (`upgrade`), and what goes on with the connections (`server`).
"""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from nbdswap import __version__
from nbdswap.config import Config
from nbdswap.listeners import Listener, address_of
from nbdswap.logs import EventLog
from nbdswap.snapshots import UpgradeCounts

log = EventLog("upgrade")

FORMAT: Final = 1
MAGIC: Final = b"NBDSWAPH"
# PID:FD, as the service manager's LISTEN_PID: a child that inherits the variable is not meant.
VARIABLE: Final = "NBDSWAP_HANDOVER"
_HEAD: Final = struct.Struct("<8sI")
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """The backing file that a server has open."""

    path: str
    segment_bytes: int
    capacity_bytes: int
    encryption: str
    key: str
    """Where the key is, `store.key`; the key itself is never told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """What the next program has to fit, since pages and connections depend on it."""

    version: str
    state_dir: str
    pool_bytes_max: int
    frame_bytes: int
    store: StoreFacts | None
    listening: tuple[str, ...]
    """Addresses as they were asked for; the next program gets these sockets."""
    sockets_passed_in: bool
    """By a service manager; the next program serves on them, whatever its configuration says."""

    def encode(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT} | asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError for another format or what is not whole."""
        try:
            plain: dict[str, Any] = json.loads(text)
            if plain.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            store = plain.pop("store")
            listening = tuple(plain.pop("listening"))
            return cls(store=store and StoreFacts(**store), listening=listening, **plain)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedConnection:
    """A connection in transmission. Its descriptor belongs to whoever holds this."""

    fd: int
    export: str
    peer: str
    structured: bool
    base_allocation_id: int | None
    received: bytes
    """From the client, not handled yet."""
    unsent: bytes
    """To the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """All that goes from one program to the next."""

    version: str
    """Of the program that hands over."""
    began_s: float
    """When clients were last served, on the monotonic clock."""
    lock_fd: int
    """Of the state directory."""
    store_fd: int | None
    listeners: Sequence[Listener]
    admin: Sequence[Listener]
    connections: Sequence[HandedConnection]
    counts: UpgradeCounts

    def descriptors(self) -> list[int]:
        """All that have to stay open."""
        listening = [listener.sock.fileno() for listener in (*self.listeners, *self.admin)]
        store = [] if self.store_fd is None else [self.store_fd]
        return [self.lock_fd, *store, *listening, *(one.fd for one in self.connections)]

    def write(self) -> int:
        """Into a new sealed file in memory, whose descriptor is the caller's."""
        head = json.dumps(
            {
                "format": FORMAT,
                "descriptors": self.descriptors(),
                "version": self.version,
                "began_s": self.began_s,
                "lock_fd": self.lock_fd,
                "store_fd": self.store_fd,
                "listeners": [_listener_to_plain(one) for one in self.listeners],
                "admin": [_listener_to_plain(one) for one in self.admin],
                "connections": [_connection_to_plain(one) for one in self.connections],
                "counts": asdict(self.counts),
            }
        ).encode()
        fd = os.memfd_create("nbdswap-handover", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(_HEAD.pack(MAGIC, len(head)) + head)
            for one in self.connections:
                file.write(one.received)
                file.write(one.unsent)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd


def predecessor_of(config: Config, listeners: Iterable[Listener]) -> Predecessor:
    """A server of this version with this configuration."""
    asked = [listener.asked for listener in listeners]
    store = config.store
    return Predecessor(
        version=__version__,
        state_dir=str(config.state_dir),
        pool_bytes_max=config.pool.bytes_max,
        frame_bytes=config.pool.frame_bytes,
        store=None
        if store.path is None
        else StoreFacts(
            path=str(store.path),
            segment_bytes=store.segment_bytes,
            encryption=store.encryption,
            key=store.key,
            capacity_bytes=store.capacity_bytes,
        ),
        listening=tuple(address for address in asked if address is not None),
        sockets_passed_in=None in asked,
    )


def receive(environ: MutableMapping[str, str]) -> Handover | None:
    """What the program before us left in this process; None if we came by a plain start."""
    pid, _, fd_text = environ.pop(VARIABLE, "").partition(":")
    if pid != str(os.getpid()) or not fd_text.isdecimal():
        return None
    fd = int(fd_text)
    try:
        with os.fdopen(fd, "rb") as file:
            # Its writer may have left the position at the end.
            file.seek(0)
            content = file.read()
    except OSError as error:
        log.error("the handover cannot be read, starting as after a crash", reason=error.strerror)
        return None
    try:
        head, rest = _split(content)
    except (ValueError, struct.error) as error:
        log.error("the handover is not whole, starting as after a crash", reason=error)
        return None
    try:
        return _decode(head, rest)
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        log.error("the handover is refused, starting as after a crash", reason=reason)
        close_descriptors(head["descriptors"])
        return None


def variable_for(fd: int) -> dict[str, str]:
    """How the next program in this process finds what `Handover.write` wrote."""
    return {VARIABLE: f"{os.getpid()}:{fd}"}


def close_descriptors(descriptors: Iterable[int]) -> None:
    """Closes all that are open."""
    for fd in descriptors:
        try:
            os.close(fd)
        except OSError:
            # It was closed by its owner already.
            continue


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The head, of which only what every format has is known to be there, and the rest."""
    magic, head_bytes = _HEAD.unpack_from(content)
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic!r}, wanted {MAGIC!r}")
    at = _HEAD.size + head_bytes
    head: dict[str, Any] = json.loads(content[_HEAD.size : at])
    if not all(isinstance(fd, int) for fd in head.get("descriptors", [None])):
        raise ValueError("it names no descriptors")
    return head, content[at:]


def _decode(head: Mapping[str, Any], rest: bytes) -> Handover:
    if head["format"] != FORMAT:
        raise ValueError(f"the format is {head['format']}, wanted {FORMAT}")
    sizes = [one["received_bytes"] + one["unsent_bytes"] for one in head["connections"]]
    if sum(sizes) != len(rest):
        raise ValueError(f"{len(rest)} bytes of connections, wanted {sum(sizes)}")
    connections = []
    for one, size in zip(head["connections"], sizes, strict=True):
        connections.append(_connection_of(one, rest[:size]))
        rest = rest[size:]
    for fd in head["descriptors"]:
        os.set_inheritable(fd, False)
    return Handover(
        version=head["version"],
        began_s=head["began_s"],
        lock_fd=head["lock_fd"],
        store_fd=head["store_fd"],
        listeners=[_listener_of(plain) for plain in head["listeners"]],
        admin=[_listener_of(plain) for plain in head["admin"]],
        connections=connections,
        counts=UpgradeCounts(**head["counts"]),
    )


def _listener_to_plain(listener: Listener) -> dict[str, Any]:
    return {"fd": listener.sock.fileno(), "asked": listener.asked, "inode": listener.inode}


def _listener_of(plain: Mapping[str, Any]) -> Listener:
    sock = socket.socket(fileno=plain["fd"])
    sock.setblocking(False)
    inode = plain["inode"]
    return Listener(sock, address_of(sock), inode and (inode[0], inode[1]), plain["asked"])


def _connection_to_plain(connection: HandedConnection) -> dict[str, Any]:
    return {
        "fd": connection.fd,
        "export": connection.export,
        "peer": connection.peer,
        "structured": connection.structured,
        "base_allocation_id": connection.base_allocation_id,
        "received_bytes": len(connection.received),
        "unsent_bytes": len(connection.unsent),
    }


def _connection_of(plain: Mapping[str, Any], data: bytes) -> HandedConnection:
    known = dict(plain)
    received_bytes = known.pop("received_bytes")
    del known["unsent_bytes"]
    return HandedConnection(**known, received=data[:received_bytes], unsent=data[received_bytes:])
