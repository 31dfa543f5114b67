"""One client's handshake over a real socket: bytes between the socket and the state machine.

Not here: what is said (`nbd.handshake`), how long it may take and what comes of it (`server`).
"""

import asyncio
import socket

from nbdswap.nbd import Result, ServerHandshake

RECEIVE_BYTES = 64 << 10


async def negotiate(sock: socket.socket, handshake: ServerHandshake) -> Result | None:
    """How the handshake ended; None if the client just left. Raises OSError."""
    try:
        return await _negotiate(sock, handshake)
    except ConnectionError:
        # Clients that only wanted the list do not wait for the answer to their ABORT.
        return None


async def _negotiate(sock: socket.socket, handshake: ServerHandshake) -> Result | None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, handshake.greeting)
    while handshake.result is None:
        received = await loop.sock_recv(sock, RECEIVE_BYTES)
        if not received:
            return None
        reply = handshake.receive_data(received)
        if reply:
            await loop.sock_sendall(sock, reply)
    return handshake.result
