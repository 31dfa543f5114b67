"""Every number of the NBD protocol, under the specification's own names.

The prefixes of the specification (NBD_OPT_, NBD_REP_, ...) became class names, so NBD_OPT_GO is
Option.GO. Magics and the sizes of fixed structures are plain integers.

Not here: how the numbers are laid out in bytes (`wire`), and what a server does about them
(`handshake`). Extended headers are named, so that they can be refused by name, but not used.
"""

from enum import IntEnum, IntFlag
from typing import Final

INIT_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC", the first eight bytes a server sends
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT", newstyle; also in front of each option
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

GREETING_BYTES: Final = 18
CLIENT_FLAGS_BYTES: Final = 4
OPTION_HEADER_BYTES: Final = 16
OPTION_REPLY_HEADER_BYTES: Final = 20
EXPORT_NAME_ANSWER_BYTES: Final = 10
EXPORT_NAME_ZEROES_BYTES: Final = 124
REQUEST_BYTES: Final = 28
SIMPLE_REPLY_BYTES: Final = 16
CHUNK_HEADER_BYTES: Final = 20

STRING_BYTES_MAX: Final = 4096
"""No name, description, query or error text may be longer (specification, "Values")."""

BASE_ALLOCATION: Final = "base:allocation"
"""The one metadata context that the specification itself defines."""

DEFAULT_PORT: Final = 10809


class HandshakeFlag(IntFlag):
    """16 bits that the server offers in its greeting (NBD_FLAG_)."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class ClientFlag(IntFlag):
    """32 bits with which the client answers the greeting (NBD_FLAG_C_)."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class Option(IntEnum):
    """What a client may ask while options are haggled over (NBD_OPT_)."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Reply(IntEnum):
    """Types of the server's replies to options (NBD_REP_); errors have the top bit set."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009
    ERR_EXT_HEADER_REQD = 0x8000000A


REPLY_ERROR_BIT: Final = 1 << 31


class Info(IntEnum):
    """Pieces of information about an export, asked for with INFO and GO (NBD_INFO_)."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    """16 bits that tell what an export can do (NBD_FLAG_)."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Command(IntEnum):
    """Requests of the transmission phase (NBD_CMD_)."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    """16 bits that modify one request (NBD_CMD_FLAG_)."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class ChunkType(IntEnum):
    """Types of structured reply chunks (NBD_REPLY_TYPE_); errors have bit 15 set."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


CHUNK_ERROR_BIT: Final = 1 << 15


class ChunkFlag(IntFlag):
    """Flags of structured reply chunks (NBD_REPLY_FLAG_)."""

    DONE = 1 << 0


class Error(IntEnum):
    """The only error numbers that may travel in a reply (NBD_E...)."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


class AllocationFlag(IntFlag):
    """State bits of an extent in the context base:allocation (NBD_STATE_)."""

    HOLE = 1 << 0
    ZERO = 1 << 1
