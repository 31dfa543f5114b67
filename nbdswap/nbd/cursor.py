"""Reading fields off the front of a message that nobody vouches for.

Every read is bounded by what is left, every string by the protocol's limit. Not here: which fields
a message has (`wire`, `wire_transmission`).
"""

from .constants import STRING_BYTES_MAX


class WireError(ValueError):
    """Bytes that do not follow the layout; the text says what was wanted and found."""


class Cursor:
    """Reads fields off the front of a message; every read is bounded by what is left."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def left_bytes(self) -> int:
        """What has not been read."""
        return len(self._data) - self._offset

    def take(self, length_bytes: int, what: str) -> bytes:
        """The next bytes; raises WireError when fewer are left."""
        if length_bytes > self.left_bytes:
            raise WireError(f"{what} needs {length_bytes} bytes, {self.left_bytes} are left")
        start = self._offset
        self._offset += length_bytes
        return self._data[start : self._offset]

    def u16(self, what: str) -> int:
        """The next 16-bit number."""
        return int.from_bytes(self.take(2, what))

    def u32(self, what: str) -> int:
        """The next 32-bit number."""
        return int.from_bytes(self.take(4, what))

    def u64(self, what: str) -> int:
        """The next 64-bit number."""
        return int.from_bytes(self.take(8, what))

    def string(self, length_bytes: int, what: str) -> str:
        """The next string: bounded, UTF-8, without NUL."""
        # The bound is looked at before what is left, so that an absurd length is named as such.
        if length_bytes > STRING_BYTES_MAX:
            raise WireError(f"{what} has {length_bytes} bytes, at most {STRING_BYTES_MAX} allowed")
        raw = self.take(length_bytes, what)
        if 0 in raw:
            raise WireError(f"{what} contains a NUL")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise WireError(f"{what} is not UTF-8") from None

    def rest(self, what: str) -> str:
        """All that is left, as one string."""
        return self.string(self.left_bytes, what)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left_bytes:
            raise WireError(f"{self.left_bytes} bytes after the end")
