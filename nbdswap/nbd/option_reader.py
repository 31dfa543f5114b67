"""A client's bytes to requests: the receiving end of the server's negotiation, bounded.

    CLIENT_FLAGS --4 bytes--> HEADER --16 bytes--> DATA | SKIP --decoded--> HEADER ...

It keeps at most one option of OPTION_BYTES_MAX. More than that is skipped as it comes and reported
as OversizeRequested; an absurd length or too many options break the protocol.

Not here: what is answered (`handshake`), how data is laid out (`wire`).
"""

from enum import Enum, auto
from typing import Final

from . import events, wire
from .constants import CLIENT_FLAGS_BYTES, OPTION_HEADER_BYTES, ClientFlag
from .cursor import WireError
from .errors import ProtocolError

OPTION_BYTES_MAX: Final = 64 << 10
"""Data of one option that is kept. The longest that real clients send is a GO of some 4 KiB."""

OPTION_SKIPPED_BYTES_MAX: Final = 1 << 20
"""Data of one option that is skipped and then refused. Beyond it the connection is closed, as by
nbdkit and qemu-nbd (both at 32 MiB or more, which is a long time to read what nobody wants)."""

OPTIONS_MAX: Final = 1024
"""Options in one handshake. A client that asks about each export of a large server needs two for
each; none is known to need more than a few dozen."""

KNOWN_CLIENT_FLAGS: Final = ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES


class _State(Enum):
    CLIENT_FLAGS = auto()
    HEADER = auto()
    DATA = auto()
    SKIP = auto()


class OptionReader:
    """Feed bytes with `receive_data`, take events with `next_event` until it returns None.

    After the event that ends the negotiation the caller stops asking, and what was received
    behind it is `trailing_data`.
    """

    def __init__(self) -> None:
        self._state = _State.CLIENT_FLAGS
        self._buffer = bytearray()
        self._option_bytes = 0
        self._skip_bytes_left = 0
        self._options_count = 0
        self.option = 0
        """Number of the option that the last request came from."""

    @property
    def trailing_data(self) -> bytes:
        """What was received and not read."""
        return bytes(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Keep bytes for `next_event`, which should be called until None before the next ones."""
        self._buffer += data

    def next_event(self) -> events.ClientGreeted | events.Request | None:
        """The next thing the client said, or None when more bytes are needed.

        Raises ProtocolError when there can be no further event on this stream.
        """
        try:
            if self._state is _State.CLIENT_FLAGS:
                return self._read_client_flags()
            if self._state is _State.HEADER and not self._read_header():
                return None
            return self._read_data() if self._state is _State.DATA else self._skip_data()
        except WireError as error:
            raise ProtocolError(str(error)) from error

    def _take(self, length_bytes: int) -> bytes | None:
        if len(self._buffer) < length_bytes:
            return None
        raw = bytes(self._buffer[:length_bytes])
        del self._buffer[:length_bytes]
        return raw

    def _read_client_flags(self) -> events.ClientGreeted | None:
        raw = self._take(CLIENT_FLAGS_BYTES)
        if raw is None:
            return None
        bits = int.from_bytes(raw)
        if bits & ~int(KNOWN_CLIENT_FLAGS):  # as a number: ~ of an IntFlag keeps to its known bits
            raise ProtocolError(f"client flags are {bits:#x}, offered were {KNOWN_CLIENT_FLAGS:#x}")
        self._state = _State.HEADER
        return events.ClientGreeted(ClientFlag(bits))

    def _read_header(self) -> bool:
        raw = self._take(OPTION_HEADER_BYTES)
        if raw is None:
            return False
        self.option, self._option_bytes = wire.decode_option_header(raw)
        self._options_count += 1
        if self._options_count > OPTIONS_MAX:
            raise ProtocolError(f"more than {OPTIONS_MAX} options")
        if self._option_bytes > OPTION_SKIPPED_BYTES_MAX:
            raise ProtocolError(f"option {self.option} announces {self._option_bytes} bytes")
        self._skip_bytes_left = self._option_bytes
        kept = self._option_bytes <= OPTION_BYTES_MAX
        self._state = _State.DATA if kept else _State.SKIP
        return True

    def _read_data(self) -> events.Request | None:
        raw = self._take(self._option_bytes)
        if raw is None:
            return None
        self._state = _State.HEADER
        return wire.decode_request(self.option, raw)

    def _skip_data(self) -> events.Request | None:
        skipped_bytes = min(self._skip_bytes_left, len(self._buffer))
        del self._buffer[:skipped_bytes]
        self._skip_bytes_left -= skipped_bytes
        if self._skip_bytes_left:
            return None
        self._state = _State.HEADER
        # Where the data means nothing its size means nothing either: those are told as ever.
        request = wire.decode_request(self.option, b"")
        if isinstance(request, events.AbortRequested | events.UnsupportedRequested):
            return request
        return events.OversizeRequested(self.option, self._option_bytes)
