"""A small NBD client over a plain socket, which lets a test break any rule it likes.

Written against the protocol's text and sharing no code with the server: a misreading must not
cancel itself out. It checks each reply's magic and cookie, so a server out of step is noticed.

Not here: TLS, extended headers, and the listing of exports (the peers' tools cover them).
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_S = 20.0

_SERVER_MAGIC = b"NBDMAGIC" + b"IHAVEOPT"
_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_STRUCTURED_MAGIC = 0x668E33EF
_OPT_GO, _OPT_STRUCTURED_REPLY, _OPT_SET_META_CONTEXT = 7, 8, 10
_REP_ACK, _REP_INFO, _REP_META_CONTEXT = 1, 3, 4
_CHUNK_DATA, _CHUNK_HOLE, _CHUNK_STATUS, _CHUNK_ERROR, _CHUNK_ERROR_OFFSET = 1, 2, 5, 0x8001, 0x8002
_CHUNK_DONE = 1


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class Flag(IntEnum):
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class ConnectionClosedError(Exception):
    """The server closed the connection."""


@dataclass(slots=True)
class Reply:
    """One whole reply: a simple one, or all chunks of a structured one."""

    cookie: int
    error: int = 0
    data: bytes = b""
    chunk_types: list[int] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)

    @property
    def error_name(self) -> str:
        return errno.errorcode.get(self.error, str(self.error)) if self.error else "ok"


class RawClient:
    """A connection in the transmission phase."""

    def __init__(self, sock: socket.socket, *, size_bytes: int, flags: int, structured: bool):
        self.socket = sock
        self.size_bytes = size_bytes
        self.flags = flags
        self.structured = structured
        self.next_cookie = 0x0123_4567_89AB_0000
        self._reads: dict[int, tuple[int, int]] = {}

    @classmethod
    def connect(
        cls, path: Path, export: str, *, structured: bool = False, contexts: tuple[str, ...] = ()
    ) -> Self:
        """Connects and negotiates as the kernel's client does, unless asked for more."""
        sock = dial(path)
        try:
            size_bytes, flags = _attach(sock, export.encode(), structured, contexts)
        except BaseException:
            sock.close()
            raise
        return cls(sock, size_bytes=size_bytes, flags=flags, structured=structured)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(
        self, command: int, offset: int, length: int, *, flags: int = 0, data: bytes = b""
    ) -> int:
        """Sends one request and returns its cookie. Nothing is checked: that is the point."""
        cookie = self.next_cookie
        self.next_cookie += 1
        if command == Command.READ:
            self._reads[cookie] = (offset, length)
        self.socket.sendall(encode_request(command, offset, length, cookie, flags) + data)
        return cookie

    def receive(self) -> Reply:
        """The next reply, whichever request it answers."""
        magic = int.from_bytes(_receive_exactly(self.socket, 4), "big")
        if magic == _SIMPLE_MAGIC:
            return self._receive_simple()
        assert magic == _STRUCTURED_MAGIC, f"reply magic is {magic:#x}"
        assert self.structured, "a structured reply that was not negotiated"
        reply = self._receive_chunk(None)
        while reply.chunk_types[-1] is not _LAST:
            magic = int.from_bytes(_receive_exactly(self.socket, 4), "big")
            assert magic == _STRUCTURED_MAGIC, f"chunk magic is {magic:#x}"
            reply = self._receive_chunk(reply)
        reply.chunk_types.pop()
        self._reads.pop(reply.cookie, None)
        return reply

    def call(
        self, command: int, offset: int, length: int, *, flags: int = 0, data: bytes = b""
    ) -> Reply:
        """One request and its reply."""
        cookie = self.send(command, offset, length, flags=flags, data=data)
        reply = self.receive()
        assert reply.cookie == cookie, f"cookie {reply.cookie:#x}, wanted {cookie:#x}"
        return reply

    def read(self, offset: int, length: int) -> bytes:
        reply = self.call(Command.READ, offset, length)
        assert reply.error == 0, f"read of {length} at {offset}: {reply.error_name}"
        return reply.data

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> None:
        reply = self.call(Command.WRITE, offset, len(data), flags=flags, data=data)
        assert reply.error == 0, f"write of {len(data)} at {offset}: {reply.error_name}"

    def disconnect(self) -> None:
        """Says goodbye and waits until the server has closed."""
        self.send(Command.DISC, 0, 0)
        self.expect_closed()

    def expect_closed(self) -> None:
        """Returns when the server has closed; fails if it answers or keeps the connection."""
        try:
            rest = self.socket.recv(1)
        except ConnectionError:
            rest = b""
        assert rest == b"", f"the server answered {rest!r}"

    def _receive_simple(self) -> Reply:
        error, cookie = struct.unpack(">IQ", _receive_exactly(self.socket, 12))
        _, length = self._reads.pop(cookie, (0, 0))
        assert not (self.structured and length), "a simple reply to a structured read"
        return Reply(cookie, error, _receive_exactly(self.socket, 0 if error else length))

    def _receive_chunk(self, reply: Reply | None) -> Reply:
        flags, kind, cookie, length = struct.unpack(">HHQI", _receive_exactly(self.socket, 16))
        payload = _receive_exactly(self.socket, length)
        if reply is None:
            _, wanted = self._reads.get(cookie, (0, 0))
            reply = Reply(cookie, data=bytes(wanted))
        assert reply.cookie == cookie, "chunks of two replies are mixed on one cookie"
        reply.chunk_types.append(kind)
        self._take_payload(reply, kind, payload)
        if flags & _CHUNK_DONE:
            reply.chunk_types.append(_LAST)
        return reply

    def _take_payload(self, reply: Reply, kind: int, payload: bytes) -> None:
        start, _ = self._reads.get(reply.cookie, (0, 0))
        if kind in (_CHUNK_ERROR, _CHUNK_ERROR_OFFSET):
            (reply.error,) = struct.unpack_from(">I", payload)
        elif kind == _CHUNK_DATA:
            at = int.from_bytes(payload[:8], "big") - start
            reply.data = reply.data[:at] + payload[8:] + reply.data[at + len(payload) - 8 :]
        elif kind == _CHUNK_STATUS:
            reply.extents = list(struct.iter_unpack(">II", payload[4:]))
        elif kind != _CHUNK_HOLE:
            assert not payload, f"chunk type {kind} with {len(payload)} bytes"


# Stands in Reply.chunk_types behind the last chunk while a reply is being put together.
_LAST = -1


def dial(path: Path) -> socket.socket:
    """A connection on which nothing was said yet."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT_S)
    sock.connect(str(path))
    return sock


def greet(sock: socket.socket) -> None:
    """The greeting, with fixed newstyle and without the 124 zeroes."""
    hello = _receive_exactly(sock, 18)
    assert hello == _SERVER_MAGIC + b"\0\3", f"greeting is {hello!r}"
    sock.sendall(struct.pack(">I", 3))


def encode_request(command: int, offset: int, length: int, cookie: int, flags: int = 0) -> bytes:
    """The 28 bytes of a request header."""
    return struct.pack(">IHHQQI", _REQUEST_MAGIC, flags, command, cookie, offset, length)


def _attach(
    sock: socket.socket, name: bytes, structured: bool, contexts: tuple[str, ...]
) -> tuple[int, int]:
    """Negotiates from the greeting to GO; the size and the transmission flags."""
    greet(sock)
    if structured:
        assert _negotiate(sock, _OPT_STRUCTURED_REPLY, b"")[-1][0] == _REP_ACK
    for context in contexts:
        query = struct.pack(">I", len(name)) + name + struct.pack(">I", 1)
        query += struct.pack(">I", len(context)) + context.encode()
        kinds = [kind for kind, _ in _negotiate(sock, _OPT_SET_META_CONTEXT, query)]
        assert kinds == [_REP_META_CONTEXT, _REP_ACK]
    replies = _negotiate(sock, _OPT_GO, struct.pack(">I", len(name)) + name + bytes(2))
    assert replies[-1][0] == _REP_ACK, f"GO was answered with {replies[-1][0]:#x}"
    info = next(data for kind, data in replies if kind == _REP_INFO and data[:2] == b"\0\0")
    _, size_bytes, flags = struct.unpack(">HQH", info)
    return size_bytes, flags


def _negotiate(sock: socket.socket, option: int, data: bytes) -> list[tuple[int, bytes]]:
    """Sends an option and returns its replies up to the one that ends it."""
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)
    replies: list[tuple[int, bytes]] = []
    while True:
        header = _receive_exactly(sock, 20)
        magic, echoed, kind, length = struct.unpack(">QIII", header)
        assert (magic, echoed) == (_OPTION_REPLY_MAGIC, option), f"option reply {header!r}"
        replies.append((kind, _receive_exactly(sock, length)))
        if kind == _REP_ACK or kind & 1 << 31:
            return replies


def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        try:
            received = sock.recv_into(view)
        except ConnectionError as error:
            raise ConnectionClosedError from error
        if received == 0:
            raise ConnectionClosedError
        view = view[received:]
    return bytes(buffer)
