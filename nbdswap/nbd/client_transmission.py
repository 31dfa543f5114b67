"""The client's half of the transmission phase, without I/O.

`send` turns a command into bytes under a fresh cookie; replies may come in any order and in many
chunks, and `next_event` tells when a command is over. What a server sends is checked against what
was asked: a reply that fits no command, covers a READ twice or leaves a part of it out is a
ProtocolError, since believing it would hand out bytes nobody wrote.

Memory: the data of the READs that are under way, twice at most, plus one chunk. Locking: none.
"""

from dataclasses import dataclass, field
from typing import Final

from . import wire_transmission as wire
from .constants import (
    CHUNK_HEADER_BYTES,
    SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkFlag,
    Command,
    Error,
)
from .cursor import WireError
from .errors import ProtocolError
from .events import CommandDone, Extent

CHUNK_BYTES_MAX: Final = 4 + 8 * (1 << 20)
"""Payload of a chunk that is not data: BLOCK_STATUS with the most extents that are allowed."""

DATA_OFFSET_BYTES: Final = 8


@dataclass(slots=True)
class _Pending:
    request: wire.RequestHeader
    data: bytearray = field(default_factory=bytearray)
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Start and end, within the request, of what chunks have brought so far."""
    extents: dict[int, tuple[Extent, ...]] = field(default_factory=dict)
    error: int = 0
    text: str = ""

    def fill(self, offset_bytes: int, data: bytes | None, length_bytes: int) -> None:
        """Put a piece of a READ in its place; None stands for zeroes."""
        start = offset_bytes - self.request.offset_bytes
        end = start + length_bytes
        if self.request.command != Command.READ or not length_bytes:
            raise WireError("data that was not asked for")
        if start < 0 or end > self.request.length_bytes:
            raise WireError(f"data for {offset_bytes}+{length_bytes} outside of {self.request}")
        if not self.data:
            self.data = bytearray(self.request.length_bytes)
        if data is not None:
            self.data[start:end] = data
        self.spans.append((start, end))

    def check_filled(self) -> None:
        """Every byte of a READ came, and came once."""
        position = 0
        for start, end in sorted(self.spans):
            if start != position:
                raise WireError(f"read is covered to {position} and then from {start}")
            position = end
        if position != self.request.length_bytes:
            raise WireError(f"read ends at {position} of {self.request.length_bytes} bytes")


class ClientTransmission:
    """The commands of one connection that are under way.

    `structured_replies` tells what was negotiated; `received` is what the handshake left over.
    """

    def __init__(self, *, structured_replies: bool, received: bytes = b"") -> None:
        self._structured_replies = structured_replies
        self._buffer = bytearray(received)
        self._pending: dict[int, _Pending] = {}
        self._cookie = 0
        self._failed = False

    @property
    def pending_count(self) -> int:
        """Commands without a complete reply."""
        return len(self._pending)

    def send(
        self, command: int, offset_bytes: int = 0, length_bytes: int = 0, flags: int = 0
    ) -> tuple[int, bytes]:
        """Begin a command: its cookie, and the header to send; a WRITE's data goes behind it."""
        self._cookie += 1
        request = wire.RequestHeader(self._cookie, command, offset_bytes, length_bytes, flags)
        header = wire.encode_request(request)
        if command != Command.DISC:  # the one command without a reply
            self._pending[self._cookie] = _Pending(request)
        return self._cookie, header

    def receive_data(self, data: bytes) -> None:
        """Keep bytes from the server for `next_event`."""
        self._buffer += data

    def next_event(self) -> CommandDone | None:
        """The next command that is over, or None when more bytes are needed.

        Raises ProtocolError when the server breaks the protocol, or did so before.
        """
        if self._failed:
            raise ProtocolError("the server broke the protocol before")
        try:
            while (step := self._read_reply()) is True:
                pass
        except WireError as error:
            self._failed = True
            raise ProtocolError(str(error)) from error
        return step or None

    def _read_reply(self) -> CommandDone | bool:
        """A finished command, True after a chunk that finished none, False for want of bytes."""
        if len(self._buffer) < 4:
            return False
        magic = int.from_bytes(self._buffer[:4])
        if magic == SIMPLE_REPLY_MAGIC:
            return self._read_simple_reply()
        if magic == STRUCTURED_REPLY_MAGIC and self._structured_replies:
            return self._read_chunk()
        raise WireError(f"reply starts with {magic:#010x}")

    def _read_simple_reply(self) -> CommandDone | bool:
        if len(self._buffer) < SIMPLE_REPLY_BYTES:
            return False
        reply = wire.decode_simple_reply(bytes(self._buffer[:SIMPLE_REPLY_BYTES]))
        request = self._find(reply.cookie).request
        reads = request.command == Command.READ
        if self._structured_replies and (reads or request.command == Command.BLOCK_STATUS):
            raise WireError(f"simple reply to {request} although structured ones were agreed")
        data_bytes = request.length_bytes if reads and not reply.error else 0
        if len(self._buffer) < SIMPLE_REPLY_BYTES + data_bytes:
            return False
        data = self._take(SIMPLE_REPLY_BYTES, data_bytes)
        del self._pending[reply.cookie]
        return CommandDone(reply.cookie, reply.error, data=data)

    def _read_chunk(self) -> CommandDone | bool:
        if len(self._buffer) < CHUNK_HEADER_BYTES:
            return False
        header = wire.decode_chunk_header(bytes(self._buffer[:CHUNK_HEADER_BYTES]))
        pending = self._find(header.cookie)
        # Looked at before the payload is waited for: a false length must not make us buffer.
        longest = max(CHUNK_BYTES_MAX, pending.request.length_bytes + DATA_OFFSET_BYTES)
        if header.length_bytes > longest:
            raise WireError(f"chunk of {header.length_bytes} bytes, at most {longest} expected")
        if len(self._buffer) < CHUNK_HEADER_BYTES + header.length_bytes:
            return False
        payload = self._take(CHUNK_HEADER_BYTES, header.length_bytes)
        self._apply(pending, wire.decode_chunk(header.type, payload))
        if ChunkFlag.DONE not in header.flags:
            return True
        return self._finish(pending)

    def _apply(self, pending: _Pending, chunk: wire.Chunk) -> None:
        match chunk:
            case wire.DataChunk(offset_bytes, data):
                pending.fill(offset_bytes, data, len(data))
            case wire.HoleChunk(offset_bytes, length_bytes):
                pending.fill(offset_bytes, None, length_bytes)
            case wire.StatusChunk(context_id, extents):
                if pending.request.command != Command.BLOCK_STATUS:
                    raise WireError("block status that was not asked for")
                if context_id in pending.extents:
                    raise WireError(f"second block status for context {context_id}")
                pending.extents[context_id] = extents
            case wire.ErrorChunk(error, text):
                # An error of 0 is nonsense, but it is not a success either.
                pending.error = pending.error or error or Error.EINVAL
                pending.text = pending.text or text
            case wire.EmptyChunk():
                pass

    def _finish(self, pending: _Pending) -> CommandDone:
        request = pending.request
        del self._pending[request.cookie]
        if pending.error:
            return CommandDone(request.cookie, pending.error, pending.text)
        if request.command == Command.READ:
            pending.check_filled()
        if request.command == Command.BLOCK_STATUS and not pending.extents:
            raise WireError("block status without extents")
        data = bytes(pending.data)
        return CommandDone(request.cookie, 0, data=data, extents=pending.extents)

    def _find(self, cookie: int) -> _Pending:
        pending = self._pending.get(cookie)
        if pending is None:
            raise WireError(f"reply with cookie {cookie}, which is not under way")
        return pending

    def _take(self, skip_bytes: int, length_bytes: int) -> bytes:
        end = skip_bytes + length_bytes
        with memoryview(self._buffer) as view:
            data = bytes(view[skip_bytes:end])
        del self._buffer[:end]
        return data
