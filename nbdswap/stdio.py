"""The one client of `--stdio`: whoever is on standard input and output.

A socket there is served as it is. Two pipes are joined to one end of a socket pair, whose other end
is served, so that everything behind this file knows only sockets.
"""

import asyncio
import os
import socket
import stat
import sys
from dataclasses import dataclass

from nbdswap.errors import UsageError

COPY_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Stdio:
    """The client's socket, and the far end of the pair if pipes have to be joined to it."""

    client: socket.socket
    bridge: socket.socket | None


def open_stdio(stdin_fd: int = 0, stdout_fd: int = 1) -> Stdio:
    """Takes standard input and output for a client; raises UsageError if they cannot be one."""
    modes = [_mode(fd) for fd in (stdin_fd, stdout_fd)]
    if all(stat.S_ISSOCK(mode) for mode in modes):
        client = socket.socket(fileno=os.dup(stdin_fd))
        if client.type != socket.SOCK_STREAM:
            client.close()
            raise UsageError("--stdio needs a stream socket, found another kind of socket")
        return Stdio(client, None)
    if all(stat.S_ISFIFO(mode) for mode in modes):
        client, bridge = socket.socketpair()
        return Stdio(client, bridge)
    found = " and ".join(_kind(mode) for mode in modes)
    raise UsageError(f"--stdio needs one socket or two pipes on input and output, found {found}")


async def carry(bridge: socket.socket, stdin_fd: int = 0, stdout_fd: int = 1) -> None:
    """Moves bytes between the pipes and the socket pair until the server's side has ended."""
    bridge.setblocking(False)
    loop = asyncio.get_running_loop()
    from_pipe = asyncio.StreamReader(limit=COPY_BYTES)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(from_pipe), os.fdopen(os.dup(stdin_fd), "rb")
    )
    transport, protocol = await loop.connect_write_pipe(
        # A reader's protocol for the sake of its flow control; nothing is read from this pipe.
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(os.dup(stdout_fd), "wb"),
    )
    to_pipe = asyncio.StreamWriter(transport, protocol, None, loop)
    from_server, to_server = await asyncio.open_connection(sock=bridge)
    inward = asyncio.create_task(_copy(from_pipe, to_server))
    try:
        await _copy(from_server, to_pipe)
    finally:
        # The client may keep its end open for ever; nobody listens to it any more.
        inward.cancel()
        await asyncio.gather(inward, return_exceptions=True)
        # The loop waits for its transports before it ends.
        reading.close()
        to_pipe.close()
        to_server.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(COPY_BYTES):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        # One side has gone; its end is the end of the connection, which the server reports.
        return


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError as error:
        raise UsageError(f"--stdio: descriptor {fd}: {error.strerror}") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFCHR: "a device", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a socket" if stat.S_ISSOCK(mode) else "something else")


def say(line: str) -> None:
    """One line for people on standard output, at once even if that is a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
