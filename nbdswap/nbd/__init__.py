"""The NBD protocol without I/O, and a small asyncio client.

Server: `ServerHandshake` negotiates (bytes in, bytes out, a `Result` at the end) over a mapping
of `ExportInfo`:

    handshake = ServerHandshake(exports, default="swap0")
    await send(handshake.greeting)
    while handshake.result is None:
        await send(handshake.receive_data(await receive_or_leave()))
    match handshake.result:
        case Negotiated(export, structured_replies, allocation_context_id):
            transmit(export, first_bytes=handshake.trailing_data)
        case Failed(reason):
            log(reason)

Client: `connect`, or `ClientHandshake` and `ClientTransmission` without I/O.
The numbers of the protocol are in `constants`, what was understood from bytes in `events`.

Depends on the standard library only, and but for `client` and `negotiator` does no I/O.
"""

from . import constants, events
from .client import Client, ExportDetails
from .client_handshake import ClientHandshake
from .client_transmission import ClientTransmission
from .errors import CommandError, ConnectionLostError, NbdError, OptionError, ProtocolError
from .export import READ_ONLY_FLAGS, READ_WRITE_FLAGS, ExportInfo
from .handshake import ALLOCATION_CONTEXT_ID, Aborted, Failed, Negotiated, Result, ServerHandshake
from .negotiator import Negotiator, connect

__all__ = [
    "ALLOCATION_CONTEXT_ID",
    "READ_ONLY_FLAGS",
    "READ_WRITE_FLAGS",
    "Aborted",
    "Client",
    "ClientHandshake",
    "ClientTransmission",
    "CommandError",
    "ConnectionLostError",
    "ExportDetails",
    "ExportInfo",
    "Failed",
    "NbdError",
    "Negotiated",
    "Negotiator",
    "OptionError",
    "ProtocolError",
    "Result",
    "ServerHandshake",
    "connect",
    "constants",
    "events",
]
