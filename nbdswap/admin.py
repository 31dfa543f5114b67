"""The admin HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status`, and what changes: `/set`,
`/upgrade`.

Whoever reaches it may read. Only this machine may change, and only a program that means to: a
browser on this machine runs what strangers wrote, so a request must carry what no page of another
origin can send, and must not carry what every page's request has.

It shares the event loop with the listeners and never with requests of clients, which are served in
the engine's threads. Not here: binding its socket (`listeners`), what a change does (`changes`).
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from nbdswap.addresses import TcpAddress
from nbdswap.admin_client import CHANGE_HEADER
from nbdswap.changes import Change, Changed, read_change
from nbdswap.errors import UpgradeError, UsageError
from nbdswap.logs import EventLog
from nbdswap.metrics import registry_of
from nbdswap.snapshots import Snapshot
from nbdswap.status import status_of

log = EventLog("admin")

SHUTDOWN_TIMEOUT_S = 1.0
REQUEST_BYTES_MAX = 4096

Answer = Callable[[str], Awaitable[None]]
"""Called with the version of the program that is about to take over."""


class AdminSite:
    """HTTP on one socket, from `start` to `stop`."""

    def __init__(
        self,
        take: Callable[[], Snapshot],
        apply: Callable[[Change], Awaitable[Changed]],
        upgrade: Callable[[Answer], Awaitable[None]],
    ) -> None:
        self._take = take
        self._apply = apply
        self._upgrade = upgrade
        self._registry: CollectorRegistry = registry_of(take)
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=REQUEST_BYTES_MAX)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/status", self._status)
        application.router.add_post("/set", self._set)
        application.router.add_post("/upgrade", self._post_upgrade)
        return application

    async def start(self, sock: socket.socket) -> None:
        """Serves on a listening socket that stays the caller's to close."""
        assert self._runner is None, "started twice"
        self._runner = web.AppRunner(
            self.application(), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def stop(self) -> None:
        """Ends open requests and stops. Once is enough, twice does no harm."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        # That the event loop comes round to answer is the whole of the statement.
        await asyncio.sleep(0)
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        server = self._take().server
        if server.stopping:
            return web.Response(status=503, text="stopping\n")
        if not server.ready:
            return web.Response(status=503, text="starting\n")
        return web.Response(text="ready\n")

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(status_of(self._take()))

    async def _set(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            change = read_change(json.loads(await request.text()))
            return web.json_response(await self._apply(change))
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _error(HTTPStatus.BAD_REQUEST, "a change is no JSON")
        except UsageError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))

    async def _post_upgrade(self, request: web.Request) -> web.StreamResponse:
        """Answers when the new program was found good; it answers itself what is asked next."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        answers: list[web.Response] = []

        async def answer(version: str) -> None:
            before = self._take().server.version
            answers.append(web.json_response({"before": before, "version": version}))
            await answers[0].prepare(request)
            await answers[0].write_eof()

        try:
            await self._upgrade(answer)
        except UpgradeError as error:
            if not answers:
                return _error(HTTPStatus.CONFLICT, str(error))
        return answers[0]

    def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that may not change anything, or not now."""
        problem = why_forbidden(request)
        if problem is not None:
            log.warning("change refused", reason=problem)
            return _error(HTTPStatus.FORBIDDEN, problem)
        server = self._take().server
        if server.stopping or not server.ready:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "it is not serving")
        return None


def why_forbidden(request: web.Request) -> str | None:
    """Why this request may not change anything, or None if it may."""
    transport = request.transport
    # A client that has left may do nothing.
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or (sock.family != socket.AF_UNIX and not _is_here(request.remote)):
        return f"a change comes from {request.remote}, wanted a unix socket or a loopback address"
    if "Origin" in request.headers:
        return "a change has an Origin, wanted a program and no web page"
    if CHANGE_HEADER not in request.headers or request.content_type != "application/json":
        return f"a change lacks the header {CHANGE_HEADER} or the type application/json"
    # The last way in for a page: a name of its own that leads to this machine.
    if not _is_here(_host_of(request)):
        return f"a change is for host {request.host}, wanted localhost or a loopback address"
    return None


def _host_of(request: web.Request) -> str | None:
    """The name in the Host header, without the port."""
    try:
        return request.url.host
    except ValueError:
        return None


def _is_here(host: str | None) -> bool:
    return host is not None and TcpAddress(host, 0).is_loopback


def _error(status: HTTPStatus, words: str) -> web.Response:
    return web.json_response({"error": words}, status=status)
