"""Asking a running server over its admin address, and telling it what to change.

Not here: what answers mean (`snapshots`, `changes`) and how they look (`status_view`).
"""

import asyncio
from http import HTTPStatus
from typing import Any

import aiohttp

from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.errors import UnreachableError, UsageError

ASK_TIMEOUT_S = 5.0
# No web page can send this without being allowed to, which nobody is.
CHANGE_HEADER = "X-Nbdswap-Change"

Json = dict[str, Any]


def ask(address: Address) -> Json:
    """The status of the server behind an admin address; raises UnreachableError."""
    code, answer = _call(address, "GET", "/status")
    if code != HTTPStatus.OK:
        raise _unreachable(address, f"HTTP status {code}")
    return answer


def change(address: Address, asked: Json) -> Json:
    """Asks for a change; raises UnreachableError, and UsageError if it is refused."""
    code, answer = _call(address, "POST", "/set", json=asked, headers={CHANGE_HEADER: "yes"})
    if code == HTTPStatus.OK:
        return answer
    refusal = answer.get("error")
    if code == HTTPStatus.SERVICE_UNAVAILABLE or refusal is None:
        raise _unreachable(address, refusal or f"HTTP status {code}")
    raise UsageError(refusal)


def _unreachable(address: Address, reason: str) -> UnreachableError:
    return UnreachableError(f"no nbdswap answers on {address}: {reason}")


def _call(address: Address, method: str, path: str, **request: Any) -> tuple[int, Json]:
    """The answer's HTTP status and its JSON, empty if it has none."""
    try:
        return asyncio.run(_call_async(address, method, path, **request))
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        # aiohttp's own words speak of TLS and of its internals.
        cause = getattr(error, "os_error", error)
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise _unreachable(address, reason) from None


async def _call_async(address: Address, method: str, path: str, **request: Any) -> tuple[int, Json]:
    match address:
        case UnixAddress(socket_path):
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(str(socket_path))
            url = f"http://localhost{path}"
        case TcpAddress(host, port):
            connector = aiohttp.TCPConnector()
            reachable = "localhost" if host == "*" else host
            url = f"http://{TcpAddress(reachable, port)}{path}"
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.request(method, url, **request) as response,
    ):
        is_json = response.content_type == "application/json"
        answer: Json = await response.json() if is_json else {}
        return response.status, answer
