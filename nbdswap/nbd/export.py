"""What a handshake needs to know about an export.

Values only: whether the numbers are true (is there such a device, is it that large) is the
caller's business, and so is which exports this peer may see.
"""

from dataclasses import dataclass
from typing import Final

from .constants import STRING_BYTES_MAX, TransmissionFlag
from .events import BlockSizesGiven

READ_WRITE_FLAGS: Final = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.CAN_MULTI_CONN
    | TransmissionFlag.SEND_CACHE
    | TransmissionFlag.SEND_FAST_ZERO
)
"""All that a full server offers to clients with simple replies; nbdkit and qemu-nbd say the same.

ROTATIONAL is left out on purpose: one rotational swap device switches off the kernel's per-VMA
readahead for all of them.
"""

READ_ONLY_FLAGS: Final = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.READ_ONLY
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.CAN_MULTI_CONN
    | TransmissionFlag.SEND_CACHE
)
"""What is left of them when nothing may be written."""

SIZE_BYTES_MAX: Final = (1 << 63) - 1
"""Clients keep offsets in signed 64-bit numbers."""

BLOCK_MINIMUM_BYTES_MAX: Final = 64 << 10
BLOCK_PREFERRED_BYTES_MIN: Final = 512
PAYLOAD_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportInfo:
    """One export as clients are told about it.

    Raises ValueError if a field is outside of what the protocol allows.
    """

    name: str
    size_bytes: int
    description: str = ""
    flags: TransmissionFlag = READ_WRITE_FLAGS
    """Without SEND_DF, which belongs to structured replies: see `flags_for`."""
    block_minimum_bytes: int = 1
    block_preferred_bytes: int = 4096
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    """Largest READ or WRITE; the specification calls it the maximum block size."""

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("description", self.description)):
            if len(text.encode()) > STRING_BYTES_MAX or "\0" in text:
                raise ValueError(f"export {field} must be at most {STRING_BYTES_MAX} bytes, no NUL")
        if not 0 <= self.size_bytes <= SIZE_BYTES_MAX:
            raise ValueError(f"export size is {self.size_bytes}, must be 0 to {SIZE_BYTES_MAX}")
        if TransmissionFlag.HAS_FLAGS not in self.flags or TransmissionFlag.SEND_DF in self.flags:
            raise ValueError(f"export flags are {self.flags!r}, want HAS_FLAGS and no SEND_DF")
        self._check_block_sizes()

    def _check_block_sizes(self) -> None:
        minimum, preferred = self.block_minimum_bytes, self.block_preferred_bytes
        if not (_is_power_of_two(minimum) and minimum <= BLOCK_MINIMUM_BYTES_MAX):
            raise ValueError(f"minimum block size is {minimum}, want a power of two up to 64 KiB")
        floor = max(minimum, BLOCK_PREFERRED_BYTES_MIN)
        if not (_is_power_of_two(preferred) and preferred >= floor):
            raise ValueError(f"preferred block size is {preferred}, want a power of two >= {floor}")
        if not preferred <= self.payload_bytes_max < 1 << 32:
            raise ValueError(f"maximum payload is {self.payload_bytes_max}, want >= {preferred}")

    @property
    def block_sizes(self) -> BlockSizesGiven:
        """The three block sizes as one piece of information."""
        sizes = (self.block_minimum_bytes, self.block_preferred_bytes, self.payload_bytes_max)
        return BlockSizesGiven(*sizes)

    def flags_for(self, *, structured_replies: bool) -> TransmissionFlag:
        """The flags to tell a client: READ may be asked for unfragmented only where it can be."""
        return self.flags | TransmissionFlag.SEND_DF if structured_replies else self.flags


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
