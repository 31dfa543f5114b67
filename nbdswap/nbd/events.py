"""What one side of a connection understood from the other's bytes.

Three families, each a closed union so that `match` can be checked for completeness:

* `Request`: what a client asked for with one option, as the server sees it;
* `Answer`: what a server said during negotiation, as the client sees it;
* `CommandDone`: the end of one command of the transmission phase, as the client sees it.

Values only. How bytes become events is in `wire`, which of them may come when is in `handshake`,
`client_handshake` and `client_transmission`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .constants import ClientFlag, HandshakeFlag, TransmissionFlag

# ---------------------------------------------------------------- a client's requests


@dataclass(frozen=True, slots=True)
class ClientGreeted:
    """The client's answer to the greeting: the parts of newstyle that it wants."""

    flags: ClientFlag


@dataclass(frozen=True, slots=True)
class ExportNameRequested:
    """Serve this export, or close: the one option that has no room for an error reply."""

    name: str


@dataclass(frozen=True, slots=True)
class AbortRequested:
    """The client is leaving and wants that acknowledged."""


@dataclass(frozen=True, slots=True)
class ListRequested:
    """Name all exports."""


@dataclass(frozen=True, slots=True)
class StartTlsRequested:
    """Go on encrypted."""


@dataclass(frozen=True, slots=True)
class InfoRequested:
    """Describe an export. `infos` are the wanted pieces, unknown numbers included."""

    name: str
    infos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GoRequested:
    """Describe an export and then serve it."""

    name: str
    infos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StructuredReplyRequested:
    """Answer READ in chunks; also the condition for metadata contexts."""


@dataclass(frozen=True, slots=True)
class MetaContextsListed:
    """Which metadata contexts match the queries? No queries ask for all of them."""

    name: str
    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetaContextsSet:
    """Use the metadata contexts that match, in place of all that were set before."""

    name: str
    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UnsupportedRequested:
    """An option that this package does not know or does not serve."""

    option: int


@dataclass(frozen=True, slots=True)
class MalformedRequested:
    """A known option whose data does not follow its layout."""

    option: int
    reason: str


@dataclass(frozen=True, slots=True)
class OversizeRequested:
    """A known option with more data than is kept; the data was skipped."""

    option: int
    length_bytes: int


Request = (
    ExportNameRequested
    | AbortRequested
    | ListRequested
    | StartTlsRequested
    | InfoRequested
    | GoRequested
    | StructuredReplyRequested
    | MetaContextsListed
    | MetaContextsSet
    | UnsupportedRequested
    | MalformedRequested
    | OversizeRequested
)

# ---------------------------------------------------------------- a server's answers


@dataclass(frozen=True, slots=True)
class ServerGreeted:
    """The server speaks fixed newstyle; answer with the client flags."""

    flags: HandshakeFlag


@dataclass(frozen=True, slots=True)
class ExportListed:
    """One export of the server."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class ExportSized:
    """Size and abilities of the export: NBD_INFO_EXPORT, or the whole answer to EXPORT_NAME."""

    size_bytes: int
    flags: TransmissionFlag


@dataclass(frozen=True, slots=True)
class ExportNamed:
    """The export's canonical name."""

    name: str


@dataclass(frozen=True, slots=True)
class ExportDescribed:
    """The export's description for humans."""

    description: str


@dataclass(frozen=True, slots=True)
class BlockSizesGiven:
    """What requests should look like, in bytes."""

    minimum_bytes: int
    preferred_bytes: int
    payload_bytes_max: int


@dataclass(frozen=True, slots=True)
class UnknownInfoGiven:
    """A piece of information that this package does not know; to be ignored."""

    info: int


@dataclass(frozen=True, slots=True)
class MetaContextGiven:
    """A metadata context; `context_id` means something only in the answer to a SET."""

    context_id: int
    name: str


@dataclass(frozen=True, slots=True)
class OptionAcknowledged:
    """The option is done."""

    option: int


@dataclass(frozen=True, slots=True)
class OptionRefused:
    """The option is over without success; `error` is a Reply with the top bit set."""

    option: int
    error: int
    text: str


Answer = (
    ServerGreeted
    | ExportListed
    | ExportSized
    | ExportNamed
    | ExportDescribed
    | BlockSizesGiven
    | UnknownInfoGiven
    | MetaContextGiven
    | OptionAcknowledged
    | OptionRefused
)

# ---------------------------------------------------------------- transmission


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in one state; for base:allocation the bits are `AllocationFlag`."""

    length_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class CommandDone:
    """A command is over.

    `error` is 0 or the protocol's error number, `data` what a READ without error brought, and
    `extents` the answer to BLOCK_STATUS by context id.
    """

    cookie: int
    error: int
    text: str = ""
    data: bytes = b""
    extents: Mapping[int, tuple[Extent, ...]] = field(default_factory=dict)
