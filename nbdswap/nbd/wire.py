"""Bytes of the negotiation to values and back, as pure functions.

All integers are big endian. An encoder trusts its caller; a decoder trusts nobody and raises
WireError when bytes do not follow the layout, including bytes left over.

    option         magic u64 | option u32 | length u32 | data
    option reply   magic u64 | option u32 | type u32 | length u32 | data
    INFO and GO    length u32 | name | count u16 | info u16 ...
    LIST/SET_META  length u32 | name | count u32 | (length u32 | query) ...

Not here: which message may come when (`handshake`, `client_handshake`), and the structures of the
transmission phase (`wire_transmission`).
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from . import events
from .constants import (
    EXPORT_NAME_ZEROES_BYTES,
    INIT_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    REPLY_ERROR_BIT,
    ClientFlag,
    HandshakeFlag,
    Info,
    Option,
    Reply,
    TransmissionFlag,
)
from .cursor import Cursor, WireError

_GREETING: Final = struct.Struct(">QQH")
_OPTION: Final = struct.Struct(">QII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_EXPORT: Final = struct.Struct(">QH")
_BLOCK_SIZE: Final = struct.Struct(">III")
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")

ERROR_TEXT_BYTES_MAX: Final = 199
"""nbd-client loses its place in the stream when an error text reaches 4096 bytes and writes a NUL
over the last byte of any; 199 leaves room on its screen, too."""


# ---------------------------------------------------------------- greeting


def encode_greeting(flags: HandshakeFlag) -> bytes:
    """The first 18 bytes of a server."""
    return _GREETING.pack(INIT_MAGIC, OPTION_MAGIC, flags)


def decode_greeting(raw: bytes) -> HandshakeFlag:
    """Flags of the first 18 bytes of a newstyle server."""
    magic, style, flags = _GREETING.unpack(raw)
    if magic != INIT_MAGIC:
        raise WireError(f"greeting starts with {magic:#018x}, not with NBDMAGIC")
    if style != OPTION_MAGIC:
        raise WireError(f"greeting goes on with {style:#018x}, only newstyle is understood")
    return HandshakeFlag(flags)


def encode_client_flags(flags: ClientFlag) -> bytes:
    """The client's four bytes after the greeting."""
    return _U32.pack(flags)


# ---------------------------------------------------------------- options, client to server


def encode_option(option: int, data: bytes = b"") -> bytes:
    """One option with its header."""
    return _OPTION.pack(OPTION_MAGIC, option, len(data)) + data


def decode_option_header(raw: bytes) -> tuple[int, int]:
    """Number and data length (bytes) of an option, from its 16-byte header."""
    magic, option, length_bytes = _OPTION.unpack(raw)
    if magic != OPTION_MAGIC:
        raise WireError(f"option starts with {magic:#018x}, not with IHAVEOPT")
    return option, length_bytes


def encode_string(text: str) -> bytes:
    """A string behind its 32-bit length."""
    raw = text.encode()
    return _U32.pack(len(raw)) + raw


def encode_info_request(name: str, infos: Sequence[int] = ()) -> bytes:
    """Data of INFO and GO."""
    pieces = struct.pack(f">H{len(infos)}H", len(infos), *infos)
    return encode_string(name) + pieces


def encode_meta_request(name: str, queries: Sequence[str] = ()) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    head = encode_string(name) + _U32.pack(len(queries))
    return head + b"".join(encode_string(query) for query in queries)


def decode_request(option: int, data: bytes) -> events.Request:  # noqa: PLR0911 (one an option)
    """What the client asks for. Never raises: bad data is an event, too."""
    try:
        match option:
            case Option.EXPORT_NAME:
                return events.ExportNameRequested(Cursor(data).rest("export name"))
            case Option.ABORT:  # its data means nothing, and the client is owed an ACK
                return events.AbortRequested()
            case Option.STARTTLS:  # refused whatever its data is
                return events.StartTlsRequested()
            case Option.LIST:
                Cursor(data).end()
                return events.ListRequested()
            case Option.STRUCTURED_REPLY:
                Cursor(data).end()
                return events.StructuredReplyRequested()
            case Option.INFO:
                return events.InfoRequested(*_decode_info_request(data))
            case Option.GO:
                return events.GoRequested(*_decode_info_request(data))
            case Option.LIST_META_CONTEXT:
                return events.MetaContextsListed(*_decode_meta_request(data))
            case Option.SET_META_CONTEXT:
                return events.MetaContextsSet(*_decode_meta_request(data))
            case _:
                return events.UnsupportedRequested(option)
    except WireError as error:
        return events.MalformedRequested(option, str(error))


def _decode_info_request(data: bytes) -> tuple[str, tuple[int, ...]]:
    cursor = Cursor(data)
    name = cursor.string(cursor.u32("length of the export name"), "export name")
    count = cursor.u16("number of information requests")
    infos = struct.unpack(f">{count}H", cursor.take(2 * count, "list of information requests"))
    cursor.end()
    return name, infos


def _decode_meta_request(data: bytes) -> tuple[str, tuple[str, ...]]:
    cursor = Cursor(data)
    name = cursor.string(cursor.u32("length of the export name"), "export name")
    count = cursor.u32("number of queries")
    # Each query takes four bytes at least, so a false count ends at the end of the data.
    queries = tuple(cursor.string(cursor.u32("query length"), "query") for _ in range(count))
    cursor.end()
    return name, queries


# ---------------------------------------------------------------- replies, server to client


def encode_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    """One reply to an option with its header."""
    return _OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def encode_refusal(option: int, error: Reply, text: str) -> bytes:
    """An error reply; the text is cut to ERROR_TEXT_BYTES_MAX and made plain ASCII."""
    raw = text.encode("ascii", "backslashreplace")
    return encode_reply(option, error, raw[:ERROR_TEXT_BYTES_MAX])


def encode_listed(name: str, description: str) -> bytes:
    """Data of a SERVER reply."""
    return encode_string(name) + description.encode()


def encode_info_export(size_bytes: int, flags: TransmissionFlag) -> bytes:
    """Data of an INFO reply about size and flags."""
    return _U16.pack(Info.EXPORT) + _EXPORT.pack(size_bytes, flags)


def encode_info_text(info: Info, text: str) -> bytes:
    """Data of an INFO reply about the name or the description."""
    return _U16.pack(info) + text.encode()


def encode_info_block_size(sizes: events.BlockSizesGiven) -> bytes:
    """Data of an INFO reply about block sizes."""
    packed = _BLOCK_SIZE.pack(sizes.minimum_bytes, sizes.preferred_bytes, sizes.payload_bytes_max)
    return _U16.pack(Info.BLOCK_SIZE) + packed


def encode_meta_context(context_id: int, name: str) -> bytes:
    """Data of a META_CONTEXT reply."""
    return _U32.pack(context_id) + name.encode()


def encode_export_name_answer(size_bytes: int, flags: TransmissionFlag, *, zeroes: bool) -> bytes:
    """The whole answer to EXPORT_NAME, which has no header."""
    return _EXPORT.pack(size_bytes, flags) + bytes(EXPORT_NAME_ZEROES_BYTES if zeroes else 0)


def decode_export_name_answer(raw: bytes) -> events.ExportSized:
    """The first ten bytes of the answer to EXPORT_NAME."""
    size_bytes, flags = _EXPORT.unpack(raw)
    return events.ExportSized(size_bytes, TransmissionFlag(flags))


def decode_reply_header(raw: bytes) -> tuple[int, int, int]:
    """Option, reply type and data length (bytes), from the 20-byte header."""
    magic, option, reply, length_bytes = _OPTION_REPLY.unpack(raw)
    if magic != OPTION_REPLY_MAGIC:
        raise WireError(f"option reply starts with {magic:#018x}")
    return option, reply, length_bytes


def decode_answer(option: int, reply: int, data: bytes) -> events.Answer:
    """What the server says; raises WireError."""
    cursor = Cursor(data)
    match reply:
        case Reply.ACK:
            cursor.end()
            return events.OptionAcknowledged(option)
        case Reply.SERVER:
            name = cursor.string(cursor.u32("length of the export name"), "export name")
            return events.ExportListed(name, cursor.rest("export description"))
        case Reply.INFO:
            return _decode_info(cursor)
        case Reply.META_CONTEXT:
            context_id = cursor.u32("metadata context id")
            return events.MetaContextGiven(context_id, cursor.rest("metadata context name"))
        case _ if reply & REPLY_ERROR_BIT:
            # The text is for humans: bad characters in it are no reason to hide the error.
            return events.OptionRefused(option, reply, data.decode(errors="replace"))
        case _:
            raise WireError(f"unknown reply type {reply}")


def _decode_info(cursor: Cursor) -> events.Answer:
    info = cursor.u16("information type")
    match info:
        case Info.EXPORT:
            size_bytes = cursor.u64("export size")
            flags = TransmissionFlag(cursor.u16("transmission flags"))
            cursor.end()
            return events.ExportSized(size_bytes, flags)
        case Info.NAME:
            return events.ExportNamed(cursor.rest("export name"))
        case Info.DESCRIPTION:
            return events.ExportDescribed(cursor.rest("export description"))
        case Info.BLOCK_SIZE:
            sizes = _BLOCK_SIZE.unpack(cursor.take(_BLOCK_SIZE.size, "block sizes"))
            cursor.end()
            return events.BlockSizesGiven(*sizes)
        case _:
            return events.UnknownInfoGiven(info)


def join_replies(option: int, reply: Reply, datas: Iterable[bytes]) -> bytes:
    """Replies of one type, and the ACK that ends them."""
    replies = [encode_reply(option, reply, data) for data in datas]
    return b"".join([*replies, encode_reply(option, Reply.ACK)])
