"""The server's half of the fixed newstyle negotiation, without I/O.

Theory of operation, in order of what binds most:

1. Bytes in, bytes out. The handshake holds a read-only mapping of exports and therefore answers
   everything by itself; the caller moves bytes until `result` is set and then acts on it. What
   policy there is (which exports this peer may see, when the server is leaving, how long a
   handshake may take) comes from the caller as data or stays with the caller.
2. A peer cannot make it raise. What the protocol lets us answer is answered; the rest ends with a
   `Failed` result, which never goes away: the stream has no known position any more.
3. A peer cannot make it grow. `OptionReader` bounds what is kept and how many options there are,
   LISTED_BYTES_MAX what is sent back. A handshake that merely dawdles is the caller's to end:
   there is no clock here.
4. The answer depends on the bytes, never on how they were cut into pieces.

Error codes follow nbdkit where the specification leaves a choice, export information follows
qemu-nbd. TLS is not spoken. When it is, STARTTLS gets a result of its own beside `Negotiated`:
all that was agreed before it is forgotten, so the caller starts a new handshake inside.

Locking: none. One handshake belongs to one connection's task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from . import events, wire
from .constants import (
    BASE_ALLOCATION,
    ClientFlag,
    HandshakeFlag,
    Info,
    Option,
    Reply,
    TransmissionFlag,
)
from .errors import ProtocolError
from .export import ExportInfo
from .option_reader import OPTION_BYTES_MAX, OptionReader

LISTED_BYTES_MAX: Final = 1 << 20
"""Sum of the answers to LIST and INFO in one handshake, some 15,000 exports. They are the only
answers that may be much larger than their questions."""

ALLOCATION_CONTEXT_ID: Final = 1
"""The id that stands for base:allocation in SET_META_CONTEXT and in BLOCK_STATUS replies."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The client may start transmission; `ServerHandshake.trailing_data` is its beginning."""

    export: ExportInfo
    structured_replies: bool
    allocation_context_id: int | None
    """Id of base:allocation for BLOCK_STATUS. None: the client did not select it for this export,
    and BLOCK_STATUS is EINVAL."""

    @property
    def flags(self) -> TransmissionFlag:
        """The transmission flags that the client was told."""
        return self.export.flags_for(structured_replies=self.structured_replies)


@dataclass(frozen=True, slots=True)
class Aborted:
    """The client left in good order: send what is to be sent, then close."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The connection must be closed. `reason` is one line for the log, plain ASCII."""

    reason: str


Result = Negotiated | Aborted | Failed


class ServerHandshake:
    """One client's negotiation.

    Send `greeting`, then feed what is received to `receive_data` and send what it returns, until
    `result` is set. `exports` are the exports that this client may see, by name; `default` is the
    name of the one it gets when it asks for the empty name and none is called so.

    Raises ValueError if there is no export called `default`.
    """

    def __init__(self, exports: Mapping[str, ExportInfo], default: str | None = None) -> None:
        if default is not None and default not in exports:
            raise ValueError(f"default export {default!r} is not among the exports")
        self._exports = exports
        self._default = default
        self._reader = OptionReader()
        self._result: Result | None = None
        self._client_flags = ClientFlag(0)
        self._listed_bytes_left = LISTED_BYTES_MAX
        self._list_fits = True
        self._structured_replies = False
        self._allocation_name: str | None = None
        self.shutting_down = False
        """Set by the caller when the server is leaving: each further option is refused."""

    @property
    def greeting(self) -> bytes:
        """What the server sends first, 18 bytes."""
        return wire.encode_greeting(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)

    @property
    def result(self) -> Result | None:
        """How the handshake ended; None while it goes on. Once set it does not change."""
        return self._result

    @property
    def trailing_data(self) -> bytes:
        """What was received behind a successful end: the first bytes of transmission."""
        return self._reader.trailing_data if isinstance(self._result, Negotiated) else b""

    def receive_data(self, data: bytes) -> bytes:
        """Take bytes from the client and return the bytes to send back, possibly none.

        The last reply comes from the call that sets `result` and must be sent before the caller
        acts on it. Raises RuntimeError when `result` was set before: the bytes are not for us.
        """
        if self._result is not None:
            raise RuntimeError("the handshake is over")
        self._reader.receive_data(data)
        replies: list[bytes] = []
        try:
            while self._result is None and (event := self._reader.next_event()) is not None:
                if isinstance(event, events.ClientGreeted):
                    self._client_flags = event.flags
                else:
                    replies.append(self._answer(event))
        except ProtocolError as error:
            self._fail(str(error))
        return b"".join(replies)

    def _answer(self, request: events.Request) -> bytes:
        """What goes before the meaning of an option: who asks, and whether we still serve."""
        option = self._reader.option
        if ClientFlag.FIXED_NEWSTYLE not in self._client_flags and option != Option.EXPORT_NAME:
            # Such a client knows no option replies: an answer would be taken for something else.
            return self._fail(f"option {option} from a client that is not fixed newstyle")
        if option == Option.SET_META_CONTEXT:
            # Whatever comes of it, it replaces what was set before.
            self._allocation_name = None
        if isinstance(request, events.AbortRequested):
            self._result = Aborted()
            return self._ack()
        if option == Option.EXPORT_NAME:
            return self._answer_export_name(request)
        if self.shutting_down:
            return self._refuse(Reply.ERR_SHUTDOWN, "the server is shutting down")
        return self._answer_option(request)

    def _answer_option(self, request: events.Request) -> bytes:  # noqa: PLR0911 (one an option)
        match request:
            case events.ListRequested():
                return self._list()
            case events.InfoRequested(name, infos):
                return self._info(name, infos)
            case events.GoRequested(name, infos):
                return self._go(name, infos)
            case events.StructuredReplyRequested():
                self._structured_replies = True
                return self._ack()
            case events.MetaContextsListed(name, queries):
                return self._list_meta_contexts(name, queries)
            case events.MetaContextsSet(name, queries):
                return self._set_meta_contexts(name, queries)
            case events.StartTlsRequested():
                return self._refuse(Reply.ERR_POLICY, "TLS is not available")
            case events.MalformedRequested(_, reason):
                return self._refuse(Reply.ERR_INVALID, reason)
            case events.OversizeRequested(_, length_bytes):
                text = f"option has {length_bytes} bytes, at most {OPTION_BYTES_MAX} are read"
                return self._refuse(Reply.ERR_TOO_BIG, text)
            case _:
                return self._refuse(Reply.ERR_UNSUP, "option is not supported")

    def _answer_export_name(self, request: events.Request) -> bytes:
        """EXPORT_NAME has no error reply: what cannot be served closes the connection."""
        if not isinstance(request, events.ExportNameRequested):
            return self._fail(f"EXPORT_NAME cannot be answered: {request}")
        if self.shutting_down:
            return self._fail("EXPORT_NAME while the server is shutting down")
        export = self._find(request.name)
        if export is None:
            return self._fail(f"EXPORT_NAME: {_no_export(request.name)}")
        flags = self._negotiated(request.name, export).flags
        zeroes = ClientFlag.NO_ZEROES not in self._client_flags
        return wire.encode_export_name_answer(export.size_bytes, flags, zeroes=zeroes)

    def _list(self) -> bytes:
        replies: list[bytes] = []
        bytes_left = self._listed_bytes_left if self._list_fits else 0
        for export in self._exports.values():
            data = wire.encode_listed(export.name, export.description)
            replies.append(wire.encode_reply(self._reader.option, Reply.SERVER, data))
            bytes_left -= len(replies[-1])
            if bytes_left < 0:
                # What is left only shrinks: the next LIST is refused without building it again.
                self._list_fits = False
                return self._refuse(Reply.ERR_TOO_BIG, "the list of exports is too long")
        self._listed_bytes_left = bytes_left
        return b"".join([*replies, self._ack()])

    def _info(self, name: str, infos: tuple[int, ...]) -> bytes:
        export = self._find(name)
        if export is None:
            return self._refuse(Reply.ERR_UNKNOWN, _no_export(name))
        reply = self._describe(export, infos)
        if len(reply) > self._listed_bytes_left:
            return self._refuse(Reply.ERR_TOO_BIG, "asked for information too often")
        self._listed_bytes_left -= len(reply)
        return reply

    def _go(self, name: str, infos: tuple[int, ...]) -> bytes:
        export = self._find(name)
        if export is None:
            return self._refuse(Reply.ERR_UNKNOWN, _no_export(name))
        self._negotiated(name, export)
        return self._describe(export, infos)

    def _describe(self, export: ExportInfo, infos: tuple[int, ...]) -> bytes:
        """The same pieces for INFO and GO; size and flags always, the others when asked for."""
        flags = export.flags_for(structured_replies=self._structured_replies)
        datas = [wire.encode_info_export(export.size_bytes, flags)]
        if Info.NAME in infos:
            datas.append(wire.encode_info_text(Info.NAME, export.name))
        if Info.DESCRIPTION in infos and export.description:
            datas.append(wire.encode_info_text(Info.DESCRIPTION, export.description))
        if Info.BLOCK_SIZE in infos:
            datas.append(wire.encode_info_block_size(export.block_sizes))
        return wire.join_replies(self._reader.option, Reply.INFO, datas)

    def _list_meta_contexts(self, name: str, queries: tuple[str, ...]) -> bytes:
        refusal = self._refuse_meta_contexts(name)
        if refusal is not None:
            return refusal
        # The namespace alone is a wildcard, but only when contexts are listed.
        found = not queries or "base:" in queries or BASE_ALLOCATION in queries
        datas = [wire.encode_meta_context(0, BASE_ALLOCATION)] if found else []
        return wire.join_replies(self._reader.option, Reply.META_CONTEXT, datas)

    def _set_meta_contexts(self, name: str, queries: tuple[str, ...]) -> bytes:
        refusal = self._refuse_meta_contexts(name)
        if refusal is not None:
            return refusal
        if BASE_ALLOCATION not in queries:
            return self._ack()
        self._allocation_name = name
        data = wire.encode_meta_context(ALLOCATION_CONTEXT_ID, BASE_ALLOCATION)
        return wire.join_replies(self._reader.option, Reply.META_CONTEXT, [data])

    def _refuse_meta_contexts(self, name: str) -> bytes | None:
        if not self._structured_replies:
            return self._refuse(Reply.ERR_INVALID, "structured replies were not negotiated")
        if self._find(name) is None:
            return self._refuse(Reply.ERR_UNKNOWN, _no_export(name))
        return None

    def _find(self, name: str) -> ExportInfo | None:
        export = self._exports.get(name)
        if export is None and name == "" and self._default is not None:
            return self._exports.get(self._default)
        return export

    def _negotiated(self, name: str, export: ExportInfo) -> Negotiated:
        # The names are compared as the client wrote them, as the specification has it: contexts
        # set for "" are not contexts set for the default export's own name.
        context_id = ALLOCATION_CONTEXT_ID if self._allocation_name == name else None
        self._result = Negotiated(export, self._structured_replies, context_id)
        return self._result

    def _ack(self) -> bytes:
        return wire.encode_reply(self._reader.option, Reply.ACK)

    def _refuse(self, error: Reply, text: str) -> bytes:
        return wire.encode_refusal(self._reader.option, error, text)

    def _fail(self, reason: str) -> bytes:
        self._result = Failed(reason.encode("ascii", "backslashreplace").decode())
        return b""


def _no_export(name: str) -> str:
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    return f"no export named {shown!a}"
