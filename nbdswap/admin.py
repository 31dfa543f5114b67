"""The admin HTTP server: `/metrics`, `/healthz`, `/readyz` and `/status`, all of them read-only.

It shares the event loop with the listeners and never with requests of clients, which are served in
the engine's threads. Not here: binding its socket (`listeners`).
"""

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from nbdswap.logs import EventLog
from nbdswap.metrics import registry_of
from nbdswap.snapshots import Snapshot
from nbdswap.status import status_of

log = EventLog("admin")

SHUTDOWN_TIMEOUT_S = 1.0


class AdminSite:
    """HTTP on one socket, from `start` to `stop`."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._registry: CollectorRegistry = registry_of(take)
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/status", self._status)
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
