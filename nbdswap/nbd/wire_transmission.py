"""Bytes of the transmission phase to values and back, as pure functions.

    request        magic u32 | flags u16 | command u16 | cookie u64 | offset u64 | length u32
    simple reply   magic u32 | error u32 | cookie u64
    chunk          magic u32 | flags u16 | type u16 | cookie u64 | length u32 | payload
      OFFSET_DATA  offset u64 | data
      OFFSET_HOLE  offset u64 | length u32
      BLOCK_STATUS context u32 | (length u32 | flags u32) ...
      ERROR        error u32 | length u16 | text            ERROR_OFFSET: ... | offset u64

Not here: which reply belongs to which request (`client_transmission`). Extended headers are not
spoken.
"""

import struct
from dataclasses import dataclass
from typing import Final

from .constants import (
    CHUNK_ERROR_BIT,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkFlag,
    ChunkType,
)
from .cursor import Cursor, WireError
from .events import Extent

_REQUEST: Final = struct.Struct(">IHHQQI")
_SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_CHUNK: Final = struct.Struct(">IHHQI")
_OFFSET: Final = struct.Struct(">Q")
_HOLE: Final = struct.Struct(">QI")
_EXTENT: Final = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """One request of a client; a WRITE is followed by `length_bytes` of data."""

    cookie: int
    command: int
    offset_bytes: int = 0
    length_bytes: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class SimpleReply:
    """A reply that tells nothing about its length: after a good READ the data follows."""

    cookie: int
    error: int


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """The head of one structured reply chunk, whose payload has `length_bytes`."""

    cookie: int
    flags: ChunkFlag
    type: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class DataChunk:
    """A piece of what was read, at its offset in the export."""

    offset_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HoleChunk:
    """A piece of what was read that is all zeroes, at its offset in the export."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class StatusChunk:
    """Consecutive extents in one metadata context, from the request's offset on."""

    context_id: int
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class ErrorChunk:
    """The command failed, or will have when its last chunk arrives."""

    error: int
    text: str


@dataclass(frozen=True, slots=True)
class EmptyChunk:
    """Nothing but the header, which may say that the reply is done."""


Chunk = DataChunk | HoleChunk | StatusChunk | ErrorChunk | EmptyChunk


def encode_request(request: RequestHeader) -> bytes:
    """The 28 bytes of a request."""
    place = (request.cookie, request.offset_bytes, request.length_bytes)
    return _REQUEST.pack(REQUEST_MAGIC, request.flags, request.command, *place)


def decode_request_header(raw: bytes) -> RequestHeader:
    """A request, from its 28 bytes."""
    magic, flags, command, cookie, offset_bytes, length_bytes = _REQUEST.unpack(raw)
    if magic != REQUEST_MAGIC:
        raise WireError(f"request starts with {magic:#010x}")
    return RequestHeader(cookie, command, offset_bytes, length_bytes, flags)


def encode_simple_reply(reply: SimpleReply) -> bytes:
    """The 16 bytes of a simple reply."""
    return _SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, reply.error, reply.cookie)


def decode_simple_reply(raw: bytes) -> SimpleReply:
    """A simple reply, from its 16 bytes, the magic of which was looked at already."""
    _, error, cookie = _SIMPLE_REPLY.unpack(raw)
    return SimpleReply(cookie, error)


def encode_chunk(cookie: int, chunk: Chunk, *, done: bool) -> bytes:
    """One structured reply chunk; `done` marks the last of a reply."""
    kind, payload = _encode_payload(chunk)
    flags = ChunkFlag.DONE if done else ChunkFlag(0)
    return _CHUNK.pack(STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(payload)) + payload


def _encode_payload(chunk: Chunk) -> tuple[ChunkType, bytes]:
    match chunk:
        case DataChunk(offset_bytes, data):
            return ChunkType.OFFSET_DATA, _OFFSET.pack(offset_bytes) + data
        case HoleChunk(offset_bytes, length_bytes):
            return ChunkType.OFFSET_HOLE, _HOLE.pack(offset_bytes, length_bytes)
        case StatusChunk(context_id, extents):
            pairs = b"".join(_EXTENT.pack(extent.length_bytes, extent.flags) for extent in extents)
            return ChunkType.BLOCK_STATUS, context_id.to_bytes(4) + pairs
        case ErrorChunk(error, text):
            raw = text.encode()
            return ChunkType.ERROR, error.to_bytes(4) + len(raw).to_bytes(2) + raw
        case EmptyChunk():
            return ChunkType.NONE, b""


def decode_chunk_header(raw: bytes) -> ChunkHeader:
    """The head of a chunk, from its 20 bytes, the magic of which was looked at already."""
    _, flags, kind, cookie, length_bytes = _CHUNK.unpack(raw)
    return ChunkHeader(cookie, ChunkFlag(flags), kind, length_bytes)


def decode_chunk(kind: int, payload: bytes) -> Chunk:
    """The payload of a chunk of this type; raises WireError."""
    cursor = Cursor(payload)
    if kind & CHUNK_ERROR_BIT:
        # Of an unknown kind of error at least these two fields can be trusted to be there.
        error = cursor.u32("error number")
        text = cursor.take(cursor.u16("length of the error text"), "error text")
        return ErrorChunk(error, text.decode(errors="replace"))
    match kind:
        case ChunkType.OFFSET_DATA:
            offset_bytes = cursor.u64("offset of the data")
            return DataChunk(offset_bytes, cursor.take(cursor.left_bytes, "data"))
        case ChunkType.OFFSET_HOLE:
            hole = HoleChunk(cursor.u64("offset of the hole"), cursor.u32("length of the hole"))
            cursor.end()
            return hole
        case ChunkType.BLOCK_STATUS:
            context_id = cursor.u32("metadata context id")
            pairs = cursor.take(cursor.left_bytes, "extents")
            if not pairs or len(pairs) % _EXTENT.size:
                raise WireError(f"{len(pairs)} bytes are not a list of extents")
            return StatusChunk(
                context_id, tuple(Extent(*pair) for pair in _EXTENT.iter_unpack(pairs))
            )
        case ChunkType.NONE:
            cursor.end()
            return EmptyChunk()
        case _:
            raise WireError(f"unknown type of chunk {kind}")
