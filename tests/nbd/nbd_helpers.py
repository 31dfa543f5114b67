"""Both ends of a negotiation as data: scripts of bytes in, parsed replies out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from nbdswap.nbd import ExportInfo, Failed, Negotiated, Result, ServerHandshake, wire
from nbdswap.nbd.constants import REPLY_ERROR_BIT, ClientFlag

SWAP: Final = ExportInfo(name="swap0", size_bytes=1 << 30, description="of web-1")
OTHER: Final = ExportInfo(name="other", size_bytes=4096)
EXPORTS: Final = {export.name: export for export in (SWAP, OTHER)}

FIXED: Final = wire.encode_client_flags(ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES)
FIXED_WITH_ZEROES: Final = wire.encode_client_flags(ClientFlag.FIXED_NEWSTYLE)

Replies = list[tuple[int, int, bytes]]


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a conversation."""

    sent: bytes
    result: Result | None
    trailing_data: bytes

    @property
    def replies(self) -> Replies:
        """What the server sent, as (option, reply, data)."""
        return split_replies(self.sent)

    @property
    def kinds(self) -> list[int]:
        """The reply types alone."""
        return [reply for _, reply, _ in self.replies]

    @property
    def reason(self) -> str:
        """Why it failed."""
        assert isinstance(self.result, Failed), self.result
        return self.result.reason


def server(
    exports: Mapping[str, ExportInfo] = EXPORTS, default: str | None = "swap0"
) -> ServerHandshake:
    """A handshake over two exports, the first of which is the default."""
    return ServerHandshake(exports, default)


def feed(handshake: ServerHandshake, pieces: Iterable[bytes]) -> Heard:
    """Play pieces; what comes after the end belongs to transmission."""
    sent = b""
    late = b""
    for piece in pieces:
        if handshake.result is None:
            sent += handshake.receive_data(piece)
        else:
            late += piece
    transmits = isinstance(handshake.result, Negotiated)
    trailing_data = handshake.trailing_data + (late if transmits else b"")
    return Heard(sent, handshake.result, trailing_data)


def talk(*messages: bytes, flags: bytes = FIXED, default: str | None = "swap0") -> Heard:
    """Client flags and messages to a fresh server."""
    return feed(server(default=default), [flags + b"".join(messages)])


def split_replies(raw: bytes) -> Replies:
    """A stream of option replies; fails the test if it is not exactly that."""
    replies: Replies = []
    at = 0
    while at < len(raw):
        option, reply, length_bytes = wire.decode_reply_header(raw[at : at + 20])
        data = raw[at + 20 : at + 20 + length_bytes]
        at += 20 + length_bytes
        assert len(data) == length_bytes
        assert not reply & REPLY_ERROR_BIT or len(data) < 200, data
        replies.append((option, reply, data))
    return replies


def random_pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]
