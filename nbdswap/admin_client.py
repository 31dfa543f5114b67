"""Asking a running server over its admin address, and telling it what to change.

Not here: what answers mean (`snapshots`, `changes`, `upgrade`) and how they look (`status_view`).
"""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.errors import UnreachableError, UpgradeError, UsageError

ASK_TIMEOUT_S = 5.0
# The new program is started once to be checked, and once to serve.
CHECK_TIMEOUT_S = 75.0
SUCCESSOR_TIMEOUT_S = 60.0
POLL_S = 0.05
# No web page can send this without being allowed to, which nobody is.
CHANGE_HEADER = "X-Nbdswap-Change"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """What an upgrade came to."""

    before: str
    now: str
    """Versions."""
    handed_over: int
    dropped: int
    """Connections."""
    pause_s: float


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


def upgrade(address: Address) -> Upgraded:
    """Has the server replaced and waits for the new one.

    Raises UnreachableError, and UpgradeError if the server goes on as it was.
    """
    before = ask(address)["upgrades"]
    code, answer = _call(
        address,
        "POST",
        "/upgrade",
        timeout_s=CHECK_TIMEOUT_S,
        json={},
        headers={CHANGE_HEADER: "yes"},
    )
    if code != HTTPStatus.OK:
        refusal = answer.get("error")
        if code == HTTPStatus.SERVICE_UNAVAILABLE or refusal is None:
            raise _unreachable(address, refusal or f"HTTP status {code}")
        raise UpgradeError(f"not upgraded: {refusal}")
    status = _status_after(address, before)
    now = status["upgrades"]
    dropped = "connections_dropped_total"
    handed_over = "connections_handed_over_total"
    return Upgraded(
        before=answer["before"],
        now=status["version"],
        handed_over=now[handed_over] - before[handed_over],
        dropped=now[dropped] - before[dropped],
        pause_s=now["last_pause_seconds"],
    )


def _status_after(address: Address, before: Json) -> Json:
    """The new server's status; raises UpgradeError if the old one tells that it failed."""
    deadline_s = time.monotonic() + SUCCESSOR_TIMEOUT_S
    while True:
        try:
            status = ask(address)
        except UnreachableError as error:
            # A connection that was open at the change ends with it.
            if time.monotonic() > deadline_s:
                words = "the new server does not answer; look at its log"
                raise UnreachableError(f"{words} ({error})") from None
        else:
            upgrades = status["upgrades"]
            if upgrades["done_total"] > before["done_total"]:
                return status
            if upgrades["failed_total"] > before["failed_total"]:
                raise UpgradeError(f"not upgraded: {upgrades['last_failure']}")
            if time.monotonic() > deadline_s:
                raise UpgradeError("not upgraded: the server does not say what became of it")
        time.sleep(POLL_S)


def _unreachable(address: Address, reason: str) -> UnreachableError:
    return UnreachableError(f"no nbdswap answers on {address}: {reason}")


def _call(
    address: Address, method: str, path: str, *, timeout_s: float = ASK_TIMEOUT_S, **request: Any
) -> tuple[int, Json]:
    """The answer's HTTP status and its JSON, empty if it has none."""
    try:
        return asyncio.run(_call_async(address, method, path, timeout_s, **request))
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        # aiohttp's own words speak of TLS and of its internals.
        cause = getattr(error, "os_error", error)
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise _unreachable(address, reason) from None


async def _call_async(
    address: Address, method: str, path: str, timeout_s: float, **request: Any
) -> tuple[int, Json]:
    match address:
        case UnixAddress(socket_path):
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(str(socket_path))
            url = f"http://localhost{path}"
        case TcpAddress(host, port):
            connector = aiohttp.TCPConnector()
            reachable = "localhost" if host == "*" else host
            url = f"http://{TcpAddress(reachable, port)}{path}"
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.request(method, url, **request) as response,
    ):
        is_json = response.content_type == "application/json"
        answer: Json = await response.json() if is_json else {}
        return response.status, answer
