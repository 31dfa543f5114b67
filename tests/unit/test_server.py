"""Clients come, negotiate, are handed over with every byte, and end; nobody disturbs anybody."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nbdswap import server
from nbdswap.addresses import TcpAddress, UnixAddress
from nbdswap.errors import RefusedError
from nbdswap.exports import default_name, export_infos
from nbdswap.listeners import Listener, bind_all, close_all
from nbdswap.nbd import ExportInfo, Negotiator, OptionError
from nbdswap.server import Limits, Server
from tests.unit.conftest import MakeConfig
from tests.unit.fake_core import FakeCore, fake_exports
from tests.unit.loop import run, until

GO = b"IHAVEOPT" + struct.pack(">II", 7, 4 + 4 + 2) + struct.pack(">I4sH", 4, b"swap", 0)
LIST = b"IHAVEOPT" + struct.pack(">II", 3, 0)
ERR_SHUTDOWN = struct.pack(">I", (1 << 31) + 7)
CLIENT_FLAGS = struct.pack(">I", 3)


class Bench:
    """A server on a fake engine, with a unix and a TCP listener."""

    def __init__(self, make_config: MakeConfig, tmp_path: Path, limits: Limits) -> None:
        exports = [{"name": name, "size_bytes": "1M"} for name in ("swap", "other")]
        config = make_config({"exports": exports})
        self.core = FakeCore({"exports": fake_exports("swap", "other")}, adopted=False)
        self.marked: list[str] = []
        self.mark: Callable[[ExportInfo], None] = lambda export: self.marked.append(export.name)
        self.server = Server(
            self.core,
            export_infos(config),
            default_name(config),
            limits,
            self._before_attach,
        )
        self.path = tmp_path / "nbd.sock"
        self.listeners: list[Listener] = bind_all(
            [UnixAddress(self.path), TcpAddress("127.0.0.1", 0)]
        )

    def _before_attach(self, export: ExportInfo) -> None:
        self.mark(export)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Stops the server at the end and waits for it."""
        serving = asyncio.create_task(self.server.run(self.listeners, None))
        try:
            yield
        finally:
            self.server.stop()
            await serving
            close_all(self.listeners)
            self.core.close(forget=False)

    async def client(self) -> socket.socket:
        """A raw connection that has been greeted."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await loop.sock_connect(sock, str(self.path))
        greeting = b""
        while len(greeting) < 18:
            greeting += await loop.sock_recv(sock, 18 - len(greeting))
        assert greeting.startswith(b"NBDMAGICIHAVEOPT")
        return sock

    async def go(self, trailing: bytes = b"") -> socket.socket:
        """A client that was handed over."""
        before = len(self.core.connections)
        sock = await self.client()
        await asyncio.get_running_loop().sock_sendall(sock, CLIENT_FLAGS + GO + trailing)
        await until(lambda: len(self.core.connections) == before + 1)
        return sock


@pytest.fixture
def limits() -> Limits:
    """Generous."""
    return Limits(handshake_timeout_s=30, connections_max=8)


@pytest.fixture
def bench(make_config: MakeConfig, tmp_path: Path, limits: Limits) -> Bench:
    """See Bench."""
    return Bench(make_config, tmp_path, limits)


async def ended(sock: socket.socket) -> bool:
    """True once the other side has closed; False if it speaks instead."""
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionResetError:
        return True


def test_bytes_behind_the_handshake_go_to_the_engine(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.go(trailing=b"first request"):
                assert bench.core.received == {1: b"first request"}
                assert bench.core.attached_to == {1: "swap"}
                assert bench.marked == ["swap"]

    run(scenario())


def test_a_handed_over_descriptor_is_watched_by_nobody_else(bench: Bench) -> None:
    """A reader that was left in the event loop would wake it for every request of the client."""

    def watched() -> set[int]:
        descriptors = set()
        for info in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):
                lines = info.read_text().splitlines()
                descriptors |= {int(line.split()[1]) for line in lines if line.startswith("tfd:")}
        return descriptors

    async def scenario() -> None:
        async with bench.running():
            with await bench.client() as client:
                await until(lambda: bench.server.handshakes_open == 1)
                await asyncio.sleep(0)
                during = watched()
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, CLIENT_FLAGS + GO)
                await until(lambda: bool(bench.core.connections))
                # One turn, so that what was changed reaches the kernel.
                await asyncio.sleep(0)
                served = bench.core.connections[1]
                assert served.fileno() in during, "the check sees nothing at all"
                assert served.fileno() not in watched()
                assert not os.get_blocking(served.fileno())

    run(scenario())


def test_tcp_clients_get_replies_without_delay_and_are_probed_when_silent(bench: Bench) -> None:
    async def scenario() -> None:
        address = bench.listeners[1].address
        assert isinstance(address, TcpAddress)
        async with bench.running():
            reader, writer = await asyncio.open_connection(address.host, address.port)
            await reader.readexactly(18)
            writer.write(CLIENT_FLAGS + GO)
            await until(lambda: bool(bench.core.connections))
            served = bench.core.connections[1]
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            writer.close()

    run(scenario())


def test_the_empty_name_is_the_first_export(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            negotiator = await Negotiator.open_unix(str(bench.path))
            client = await negotiator.go("")
            assert bench.core.attached_to == {1: "swap"}
            assert client.export.size_bytes == 1 << 20
            await client.close()

    run(scenario())


def test_an_unknown_export_is_refused_and_the_client_may_ask_again(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            negotiator = await Negotiator.open_unix(str(bench.path))
            with pytest.raises(OptionError, match="no export named"):
                await negotiator.go("nothing")
            client = await negotiator.go("other")
            assert bench.core.attached_to == {1: "other"}
            await client.close()

    run(scenario())


def test_garbage_ends_one_connection_and_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.go() as good, await bench.client() as bad:
                await asyncio.get_running_loop().sock_sendall(bad, b"\xff" * 64)
                assert await ended(bad)
                assert bench.core.connections
                assert bench.server.counts.handshakes_failed_total == 1
                assert good.fileno() >= 0

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert [record.getMessage() for record in caplog.records] == ["negotiation failed"]


@pytest.mark.parametrize("limits", [Limits(handshake_timeout_s=0.05, connections_max=8)])
def test_a_client_that_dawdles_is_dropped(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.client() as client:
                assert await ended(client)
                assert bench.server.counts.handshakes_failed_total == 1

    run(scenario())


@pytest.mark.parametrize("limits", [Limits(handshake_timeout_s=30, connections_max=2)])
def test_clients_beyond_the_limit_are_closed_at_once(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.go(), await bench.client() as negotiating:
                reader, writer = await asyncio.open_unix_connection(str(bench.path))
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
                assert bench.server.counts.connections_refused_total == 1
                assert bench.server.handshakes_open == 1
                assert negotiating.fileno() >= 0

    run(scenario())


def test_an_ended_connection_makes_room(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.go():
                assert len(bench.server.attached) == 1
                bench.core.end(1, "wrong request magic")
                await until(lambda: not bench.server.attached)

    run(scenario())


@pytest.mark.parametrize("reason", ["engine", "state"])
def test_a_refused_handover_closes_the_client_and_nothing_else(bench: Bench, reason: str) -> None:
    def cannot_mark(export: ExportInfo) -> None:
        raise RefusedError(f"state.json cannot be written for {export.name}")

    async def scenario() -> None:
        async with bench.running():
            if reason == "engine":
                bench.core.refuses_attach = True
            else:
                bench.mark = cannot_mark
            with await bench.client() as client:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, CLIENT_FLAGS + GO)
                while not await ended(client):
                    pass
            assert not bench.server.attached
            bench.core.refuses_attach = False
            bench.mark = lambda _: None
            (await bench.go()).close()

    run(scenario())


def test_clients_in_mid_handshake_hear_that_the_server_leaves(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            with await bench.client() as client:
                bench.server.stop()
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, CLIENT_FLAGS + LIST)
                assert ERR_SHUTDOWN in await loop.sock_recv(client, 1024)

    run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_who_connects_while_accepting_stops_is_greeted_now_or_when_it_goes_on(
    make_config: MakeConfig, tmp_path: Path, limits: Limits, turns: int
) -> None:
    """However far the loop has come with it: a client that connected is not forgotten."""

    async def scenario() -> None:
        bench = Bench(make_config, tmp_path, limits)
        async with bench.running():
            (await bench.client()).close()
            await until(lambda: bench.server.handshakes_open == 0)
            with socket.socket(socket.AF_UNIX) as newcomer:
                newcomer.connect(str(bench.path))
                newcomer.setblocking(False)
                for _ in range(turns):
                    await asyncio.sleep(0)
                stopping = asyncio.create_task(bench.server.stop_accepting())
                await asyncio.sleep(0)
                bench.server.accept_again()
                greeting = await asyncio.get_running_loop().sock_recv(newcomer, 18)
                assert greeting.startswith(b"NBDMAGICIHAVEOPT")
                await asyncio.get_running_loop().sock_sendall(newcomer, CLIENT_FLAGS)
            await stopping

    run(scenario())


class Reluctant(socket.socket):
    """Has no descriptor for its first client."""

    failures = 1

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_where_accepting_fails_it_is_tried_again_after_a_pause(
    make_config: MakeConfig,
    tmp_path: Path,
    limits: Limits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(server, "ACCEPT_PAUSE_S", 0.0)

    async def scenario() -> None:
        bench = Bench(make_config, tmp_path, limits)
        first = bench.listeners[0]
        reluctant = Reluctant(fileno=first.sock.detach())
        reluctant.setblocking(False)
        bench.listeners[0] = replace(first, sock=reluctant)
        async with bench.running():
            (await bench.client()).close()
        assert reluctant.failures == 0

    run(scenario())
    assert caplog.text.count("accept failed") == 1
