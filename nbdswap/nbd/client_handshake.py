"""The client's half of the fixed newstyle negotiation, without I/O.

One option is out at a time, since that is how replies are told apart. `send_*` returns the bytes
to send; feed what comes back to `receive_data` and take events with `next_event` until it returns
None. An option is over with OptionAcknowledged or OptionRefused.

    GREETING --flags sent--> IDLE --option sent--> WAITING --replied--> IDLE ... OVER | FAILED

After a ProtocolError the state is FAILED for good. Not here: which options are worth asking
(`client`); oldstyle servers, which are refused.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from . import events, wire
from .constants import (
    EXPORT_NAME_ANSWER_BYTES,
    EXPORT_NAME_ZEROES_BYTES,
    GREETING_BYTES,
    OPTION_REPLY_HEADER_BYTES,
    REPLY_ERROR_BIT,
    ClientFlag,
    HandshakeFlag,
    Option,
    Reply,
)
from .cursor import WireError
from .errors import ProtocolError

REPLY_BYTES_MAX: Final = 64 << 10
"""Data of one reply. The longest that is defined is a SERVER reply with two full strings."""


class _State(Enum):
    GREETING = auto()
    IDLE = auto()
    WAITING = auto()
    OVER = auto()
    FAILED = auto()


class ClientHandshake:
    """The negotiation with one server. `send_*` raises RuntimeError when it is not its turn."""

    def __init__(self) -> None:
        self._state = _State.GREETING
        self._buffer = bytearray()
        self._option = 0
        self._zeroes = True
        self._flags: ClientFlag | None = None

    @property
    def is_over(self) -> bool:
        """Whether the server has entered transmission; then `trailing_data` counts."""
        return self._state is _State.OVER

    @property
    def trailing_data(self) -> bytes:
        """What was received behind the end of the negotiation."""
        return bytes(self._buffer) if self.is_over else b""

    def receive_data(self, data: bytes) -> None:
        """Keep bytes from the server for `next_event`."""
        self._buffer += data

    def next_event(self) -> events.Answer | None:
        """The next thing the server said, or None when more bytes are needed.

        Raises ProtocolError when the server breaks the protocol, or did so before.
        """
        if self._state is _State.FAILED:
            raise ProtocolError("the handshake failed before")
        try:
            return self._read_event()
        except WireError as error:
            self._state = _State.FAILED
            raise ProtocolError(str(error)) from error

    def _read_event(self) -> events.Answer | None:
        if self._state is _State.GREETING:
            return self._read_greeting()
        if self._state is _State.WAITING:
            if self._option == Option.EXPORT_NAME:
                return self._read_export_name_answer()
            return self._read_reply()
        if self._state is _State.IDLE and self._buffer:
            raise WireError(f"{len(self._buffer)} bytes that nobody asked for")
        return None

    # ------------------------------------------------------------ requests

    def send_client_flags(self, flags: ClientFlag) -> bytes:
        """Answer the greeting, once; `flags` must have been offered in it."""
        if self._state is not _State.IDLE or self._flags is not None:
            raise RuntimeError("client flags follow the greeting, once")
        self._flags = flags
        self._zeroes = ClientFlag.NO_ZEROES not in flags
        return wire.encode_client_flags(flags)

    def send_option(self, option: int, data: bytes = b"") -> bytes:
        """Any option with any data. Well-formed ones have methods of their own."""
        if self._state is not _State.IDLE or self._flags is None:
            raise RuntimeError("an option was sent out of turn")
        self._option = option
        self._state = _State.WAITING
        return wire.encode_option(option, data)

    def send_info(self, name: str, infos: Sequence[int] = ()) -> bytes:
        """Ask about an export."""
        return self.send_option(Option.INFO, wire.encode_info_request(name, infos))

    def send_go(self, name: str, infos: Sequence[int] = ()) -> bytes:
        """Ask about an export and start transmission."""
        return self.send_option(Option.GO, wire.encode_info_request(name, infos))

    def send_export_name(self, name: str) -> bytes:
        """Start transmission the old way: the server answers with ExportSized or closes."""
        return self.send_option(Option.EXPORT_NAME, name.encode())

    def send_list_meta_context(self, name: str, queries: Sequence[str] = ()) -> bytes:
        """Ask which metadata contexts there are."""
        return self.send_option(Option.LIST_META_CONTEXT, wire.encode_meta_request(name, queries))

    def send_set_meta_context(self, name: str, queries: Sequence[str] = ()) -> bytes:
        """Select metadata contexts for the export that is asked for later."""
        return self.send_option(Option.SET_META_CONTEXT, wire.encode_meta_request(name, queries))

    # ------------------------------------------------------------ answers

    def _take(self, length_bytes: int) -> bytes:
        raw = bytes(self._buffer[:length_bytes])
        del self._buffer[:length_bytes]
        return raw

    def _read_greeting(self) -> events.Answer | None:
        if len(self._buffer) < GREETING_BYTES:
            return None
        flags = wire.decode_greeting(self._take(GREETING_BYTES))
        if HandshakeFlag.FIXED_NEWSTYLE not in flags:
            raise WireError(f"server flags are {flags:#x}, only fixed newstyle is understood")
        self._state = _State.IDLE
        return events.ServerGreeted(flags)

    def _read_export_name_answer(self) -> events.Answer | None:
        zeroes_bytes = EXPORT_NAME_ZEROES_BYTES if self._zeroes else 0
        if len(self._buffer) < EXPORT_NAME_ANSWER_BYTES + zeroes_bytes:
            return None
        answer = wire.decode_export_name_answer(self._take(EXPORT_NAME_ANSWER_BYTES))
        self._take(zeroes_bytes)
        self._state = _State.OVER
        return answer

    def _read_reply(self) -> events.Answer | None:
        if len(self._buffer) < OPTION_REPLY_HEADER_BYTES:
            return None
        header = bytes(self._buffer[:OPTION_REPLY_HEADER_BYTES])
        option, reply, length_bytes = wire.decode_reply_header(header)
        if option != self._option:
            raise WireError(f"a reply to option {option}, asked was {self._option}")
        if length_bytes > REPLY_BYTES_MAX:
            raise WireError(f"a reply of {length_bytes} bytes, at most {REPLY_BYTES_MAX} allowed")
        if len(self._buffer) < OPTION_REPLY_HEADER_BYTES + length_bytes:
            return None
        self._take(OPTION_REPLY_HEADER_BYTES)
        answer = wire.decode_answer(option, reply, self._take(length_bytes))
        if reply == Reply.ACK or reply & REPLY_ERROR_BIT:
            ended = reply == Reply.ACK and option in (Option.GO, Option.ABORT)
            self._state = _State.OVER if ended else _State.IDLE
        return answer
