"""A server of one export over asyncio, as small as one can be: the glue that a real one needs.

Transmission keeps the bytes in memory and knows READ, WRITE, FLUSH and BLOCK_STATUS. A test can
withhold replies (`gate`) or end the connection in the middle of one (`break_after_bytes`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from nbdswap.nbd import ExportInfo, Negotiated, ServerHandshake
from nbdswap.nbd import wire_transmission as wt
from nbdswap.nbd.client import close_writer
from nbdswap.nbd.constants import REQUEST_BYTES, AllocationFlag, Command, Error
from nbdswap.nbd.events import Extent


class ToyServer:
    """Serves `exports`; all of them share the bytes of one disk of 64 KiB."""

    def __init__(self) -> None:
        toy = ExportInfo(name="toy", size_bytes=64 << 10, description="a toy")
        self.exports = {"toy": toy, "other": ExportInfo(name="other", size_bytes=64 << 10)}
        self.disk = bytearray(64 << 10)
        self.gate = asyncio.Event()
        self.gate.set()
        self.break_after_bytes: int | None = None
        self.commands: asyncio.Queue[int] = asyncio.Queue()
        """What was asked, in order, for a test to wait for."""
        self.results: list[object] = []
        self.left = asyncio.Event()
        """Set when a connection has ended."""

    @asynccontextmanager
    async def listen(self, path: Path) -> AsyncIterator[str]:
        """Serve on a unix socket; connections end with the server."""
        server = await asyncio.start_unix_server(self.serve, path)
        async with server:
            yield str(path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from the greeting to its end."""
        try:
            handshake = ServerHandshake(self.exports, "toy")
            writer.write(handshake.greeting)
            while handshake.result is None:
                data = await reader.read(65536)
                if not data:
                    return
                writer.write(handshake.receive_data(data))
            self.results.append(handshake.result)
            if isinstance(handshake.result, Negotiated):
                await self._transmit(reader, writer, handshake)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            await close_writer(writer)
            self.left.set()

    async def _transmit(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handshake: ServerHandshake,
    ) -> None:
        result = handshake.result
        assert isinstance(result, Negotiated)
        received = bytearray(handshake.trailing_data)

        async def take(size: int) -> bytes:
            while len(received) < size:
                received.extend(await reader.readexactly(size - len(received)))
            data = bytes(received[:size])
            del received[:size]
            return data

        while True:
            request = wt.decode_request_header(await take(REQUEST_BYTES))
            self.commands.put_nowait(request.command)
            if request.command == Command.DISC:
                return
            written = await take(request.length_bytes) if request.command == Command.WRITE else b""
            await self.gate.wait()
            reply = self._answer(request, written, result)
            if self.break_after_bytes is not None:
                writer.write(reply[: self.break_after_bytes])
                return
            writer.write(reply)

    def _answer(self, request: wt.RequestHeader, written: bytes, result: Negotiated) -> bytes:
        start, end = request.offset_bytes, request.offset_bytes + request.length_bytes
        error = Error.EINVAL if end > len(self.disk) else 0
        if request.command == Command.WRITE and not error:
            self.disk[start:end] = written
        structured = result.structured_replies
        if request.command == Command.READ:
            data = bytes(self.disk[start:end])
            if not structured:
                head = wt.encode_simple_reply(wt.SimpleReply(request.cookie, error))
                return head + (b"" if error else data)
            chunk = wt.ErrorChunk(error, "beyond") if error else wt.DataChunk(start, data)
            return wt.encode_chunk(request.cookie, chunk, done=True)
        if request.command == Command.BLOCK_STATUS and result.allocation_context_id is not None:
            extent = Extent(request.length_bytes, AllocationFlag.HOLE | AllocationFlag.ZERO)
            status = wt.StatusChunk(result.allocation_context_id, (extent,))
            return wt.encode_chunk(request.cookie, status, done=True)
        return wt.encode_simple_reply(wt.SimpleReply(request.cookie, error))
