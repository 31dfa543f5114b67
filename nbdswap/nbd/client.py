"""Commands over one connection, for tools and tests, on asyncio.

Any number of tasks may call a `Client` at once; each gets its own answer. Nothing here has a time
limit of its own: put `asyncio.timeout` around a call. A command that was given up keeps its cookie
until its answer comes, so the connection stays usable.

Not here: how a connection gets this far (`negotiator`), TLS, reconnecting, the kernel's device.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from . import events
from .client_transmission import ClientTransmission
from .constants import Command, CommandFlag, TransmissionFlag
from .errors import CommandError, ConnectionLostError, NbdError, ProtocolError

RECEIVE_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportDetails:
    """What a server told about an export; None where it did not."""

    size_bytes: int
    flags: TransmissionFlag
    name: str | None = None
    description: str | None = None
    block_sizes: events.BlockSizesGiven | None = None


class Client:
    """Commands on one connection. Offsets and lengths are in bytes.

    Each command raises CommandError when the server answers with an error (the connection stays
    good), ConnectionLostError or ProtocolError when there will be no answer. As a context manager
    it disconnects in good order, or closes at once if the block raised.
    """

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        transmission: ClientTransmission,
        export: ExportDetails,
        contexts: Mapping[str, int],
    ) -> None:
        self._reader, self._writer = streams
        self._transmission = transmission
        self.export = export
        self.contexts: Mapping[str, int] = dict(contexts)
        """Ids of the metadata contexts in use, by name; empty: `block_status` is an error."""
        self._waiting: dict[int, asyncio.Future[events.CommandDone | None]] = {}
        self._failure: NbdError | None = None
        self._receiver = asyncio.create_task(self._receive_replies(), name="nbd client receiver")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await (self.disconnect() if kind is None else self.close())

    async def read(self, offset: int, length: int, *, flags: int = 0) -> bytes:
        """`length` bytes from `offset`."""
        return (await self.command(Command.READ, offset, length, flags=flags)).data

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        """Write `data`; with `fua` the answer means that it is on stable storage."""
        await self.command(Command.WRITE, offset, len(data), flags=_fua(fua), data=data)

    async def flush(self) -> None:
        """Every write answered before this was sent is on stable storage afterwards."""
        await self.command(Command.FLUSH)

    async def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """The bytes are of no more use; what they read as afterwards is the server's choice."""
        await self.command(Command.TRIM, offset, length, flags=_fua(fua))

    async def write_zeroes(self, offset: int, length: int, *, flags: int = 0) -> None:
        """Make the bytes zero. `flags`: CommandFlag FUA, NO_HOLE, FAST_ZERO."""
        await self.command(Command.WRITE_ZEROES, offset, length, flags=flags)

    async def cache(self, offset: int, length: int) -> None:
        """Have the server prepare for reads of these bytes."""
        await self.command(Command.CACHE, offset, length)

    async def block_status(
        self, offset: int, length: int, *, flags: int = 0
    ) -> dict[str, tuple[events.Extent, ...]]:
        """The extents from `offset` on, by name of the metadata context."""
        done = await self.command(Command.BLOCK_STATUS, offset, length, flags=flags)
        names = {context_id: name for name, context_id in self.contexts.items()}
        if not done.extents.keys() <= names.keys():
            raise ProtocolError(f"block status for contexts {list(done.extents)}, set were {names}")
        return {names[context_id]: extents for context_id, extents in done.extents.items()}

    async def command(
        self,
        command: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        data: bytes = b"",
    ) -> events.CommandDone:
        """Any command that has a reply, even one that no server knows."""
        self._check()
        cookie, header = self._transmission.send(command, offset, length, flags)
        waiting: asyncio.Future[events.CommandDone | None]
        waiting = self._waiting[cookie] = asyncio.get_running_loop().create_future()
        # No await between the two: another task's command must not come between header and data.
        self._writer.write(header)
        if data:
            self._writer.write(data)
        # A connection that breaks here is seen by the receiver as well, which tells all who wait.
        with suppress(OSError):
            await self._writer.drain()
        done = await waiting
        if done is None:
            self._check()
            raise AssertionError("a command was given up although the connection is good")
        if done.error:
            raise CommandError(command, done.error, done.text)
        return done

    async def disconnect(self) -> None:
        """Tell the server that no command follows, wait until it closes, and close.

        The server answers what is under way first.
        """
        try:
            if self._failure is None:
                self._writer.write(self._transmission.send(Command.DISC)[1])
                await asyncio.wait({self._receiver})
        finally:
            await self.close()

    async def close(self) -> None:
        """Close at once. Commands under way raise ConnectionLostError. May be called again."""
        self._receiver.cancel()
        await asyncio.wait({self._receiver})
        await close_writer(self._writer)
        if not self._receiver.cancelled():
            self._receiver.result()

    async def _receive_replies(self) -> None:
        failure: NbdError = ConnectionLostError("the connection was closed")
        try:
            while True:
                while (done := self._transmission.next_event()) is not None:
                    waiting = self._waiting.pop(done.cookie)
                    if not waiting.done():  # it is when its caller was cancelled
                        waiting.set_result(done)
                self._transmission.receive_data(await receive_some(self._reader))
        except NbdError as error:
            failure = error
        finally:
            self._failure = failure
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()

    def _check(self) -> None:
        if self._failure is not None:
            # A new one each time: many tasks may raise it, each with a traceback of its own.
            raise type(self._failure)(str(self._failure)) from self._failure


def _fua(wanted: bool) -> int:
    return CommandFlag.FUA if wanted else 0


async def receive_some(reader: asyncio.StreamReader) -> bytes:
    """The next bytes of a connection; raises ConnectionLostError when there are no more."""
    try:
        data = await reader.read(RECEIVE_BYTES)
    except OSError as error:
        raise ConnectionLostError(f"the connection broke: {error}") from error
    if not data:
        raise ConnectionLostError("the server closed the connection")
    return data


async def close_writer(writer: asyncio.StreamWriter) -> None:
    """Close a connection; that it was broken before does not matter any more."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
