"""From an address to a `Client`, for tools and tests, on asyncio.

    async with await connect("/run/nbdswap.sock") as client:
        await asyncio.gather(client.write(0, page), client.write(4096, page))
        await client.flush()

`connect` is the short way; a `Negotiator` asks single questions before transmission. Nothing here
has a time limit of its own: put `asyncio.timeout` around a call. A negotiation whose question was
given up is of no more use than to be closed.

Not here: the rules of the negotiation (`client_handshake`), TLS.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Self

from . import events
from .client import RECEIVE_BYTES, Client, ExportDetails, close_writer, receive_some
from .client_handshake import ClientHandshake
from .client_transmission import ClientTransmission
from .constants import BASE_ALLOCATION, DEFAULT_PORT, ClientFlag, Info, Option, Reply
from .errors import ConnectionLostError, OptionError, ProtocolError

ALL_INFOS: Final = (Info.EXPORT, Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE)


async def connect(
    address: str | tuple[str, int],
    export: str = "",
    *,
    structured_replies: bool = True,
    contexts: Sequence[str] = (BASE_ALLOCATION,),
) -> Client:
    """Negotiate everything this client can use and start transmission.

    `address` is the path of a unix socket, or host and port. The server may lack structured
    replies or contexts; the client's attributes tell. Raises OptionError if it does not serve
    `export`, OSError if it cannot be reached, ProtocolError or ConnectionLostError.
    """
    if isinstance(address, str):
        negotiator = await Negotiator.open_unix(address)
    else:
        negotiator = await Negotiator.open_tcp(*address)
    try:
        if structured_replies and await negotiator.use_structured_replies() and contexts:
            with suppress(OptionError):
                await negotiator.set_meta_contexts(export, contexts)
        return await negotiator.go(export)
    except BaseException:
        await negotiator.close()
        raise


class Negotiator:
    """The questions before transmission, one at a time.

    Each raises OptionError when the server refuses, and negotiation goes on; ProtocolError or
    ConnectionLostError when it cannot. `go` and `export_name` hand the connection to a Client;
    otherwise `abort` or `close` ends it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._handshake = ClientHandshake()
        self._structured_replies = False
        self._contexts: dict[str, int] = {}
        self._contexts_export: str | None = None

    @classmethod
    async def open_unix(cls, path: str) -> Self:
        """Connect to a unix socket and exchange greetings."""
        return await cls.start(*await asyncio.open_unix_connection(path, limit=RECEIVE_BYTES))

    @classmethod
    async def open_tcp(cls, host: str, port: int = DEFAULT_PORT) -> Self:
        """Connect over TCP and exchange greetings."""
        return await cls.start(*await asyncio.open_connection(host, port, limit=RECEIVE_BYTES))

    @classmethod
    async def start(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Self:
        """Exchange greetings on streams that are connected already; closes them on failure."""
        negotiator = cls(reader, writer)
        try:
            greeted = await negotiator._next_event()
            assert isinstance(greeted, events.ServerGreeted)
            # The client's flags have the server's values, and none is set that was not offered.
            wanted = ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES
            flags = ClientFlag(wanted & greeted.flags)
            writer.write(negotiator._handshake.send_client_flags(flags))
        except BaseException:
            await negotiator.close()
            raise
        return negotiator

    async def list_exports(self) -> list[events.ExportListed]:
        """All exports that the server shows."""
        answers = await self._ask(self._handshake.send_option(Option.LIST))
        return [answer for answer in answers if isinstance(answer, events.ExportListed)]

    async def use_structured_replies(self) -> bool:
        """Agree on structured replies; False if the server has none."""
        try:
            await self._ask(self._handshake.send_option(Option.STRUCTURED_REPLY))
        except OptionError as error:
            if error.error != Reply.ERR_UNSUP:
                raise
            return False
        self._structured_replies = True
        return True

    async def list_meta_contexts(self, export: str = "", queries: Sequence[str] = ()) -> list[str]:
        """Names of the metadata contexts that match; all of them without queries."""
        answers = await self._ask(self._handshake.send_list_meta_context(export, queries))
        return [answer.name for answer in answers if isinstance(answer, events.MetaContextGiven)]

    async def set_meta_contexts(self, export: str, queries: Sequence[str]) -> Mapping[str, int]:
        """Select metadata contexts for a later `go` with the same name: their ids by name."""
        self._contexts, self._contexts_export = {}, None
        answers = await self._ask(self._handshake.send_set_meta_context(export, queries))
        given = [answer for answer in answers if isinstance(answer, events.MetaContextGiven)]
        self._contexts = {context.name: context.context_id for context in given}
        self._contexts_export = export
        return dict(self._contexts)

    async def info(self, export: str = "", infos: Sequence[int] = ALL_INFOS) -> ExportDetails:
        """What the server tells about an export."""
        return _details(await self._ask(self._handshake.send_info(export, infos)))

    async def go(self, export: str = "", infos: Sequence[int] = ALL_INFOS) -> Client:
        """Start transmission."""
        return self._client(export, await self._ask(self._handshake.send_go(export, infos)))

    async def export_name(self, export: str = "") -> Client:
        """Start transmission the old way; a server without the export just closes."""
        return self._client(export, await self._ask(self._handshake.send_export_name(export)))

    async def abort(self) -> None:
        """Leave in good order. Servers that close without a word are forgiven."""
        with suppress(ConnectionLostError):
            await self._ask(self._handshake.send_option(Option.ABORT))
        await self.close()

    async def close(self) -> None:
        """Close the connection without ceremony."""
        await close_writer(self._writer)

    async def _ask(self, message: bytes) -> list[events.Answer]:
        """All answers to one option; raises OptionError for the one that refuses it."""
        self._writer.write(message)
        answers: list[events.Answer] = []
        while not self._handshake.is_over:
            answer = await self._next_event()
            if isinstance(answer, events.OptionRefused):
                raise OptionError(answer.option, answer.error, answer.text)
            if isinstance(answer, events.OptionAcknowledged):
                break
            answers.append(answer)
        return answers

    async def _next_event(self) -> events.Answer:
        while (event := self._handshake.next_event()) is None:
            self._handshake.receive_data(await receive_some(self._reader))
        return event

    def _client(self, export: str, answers: Sequence[events.Answer]) -> Client:
        structured = self._structured_replies
        received = self._handshake.trailing_data
        transmission = ClientTransmission(structured_replies=structured, received=received)
        contexts = self._contexts if export == self._contexts_export else {}
        return Client((self._reader, self._writer), transmission, _details(answers), contexts)


def _details(answers: Sequence[events.Answer]) -> ExportDetails:
    sized = named = described = sizes = None
    for answer in answers:
        match answer:
            case events.ExportSized():
                sized = answer
            case events.ExportNamed(name):
                named = name
            case events.ExportDescribed(description):
                described = description
            case events.BlockSizesGiven():
                sizes = answer
    if sized is None:
        raise ProtocolError("the server accepted an export without telling its size")
    return ExportDetails(
        size_bytes=sized.size_bytes,
        flags=sized.flags,
        name=named,
        description=described,
        block_sizes=sizes,
    )
