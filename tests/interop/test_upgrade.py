"""The server is replaced under its clients: they wait for a moment and go on.

Every page that is read is compared with what was acknowledged last, no connection may end, and
what keeps a new program from taking over leaves the old one as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from nbdswap.errors import UnreachableError, UpgradeError
from nbdswap.nbd.negotiator import connect
from tests.conftest import ServerFactory
from tests.support.load import Load, check_all
from tests.support.model import Pages
from tests.support.pages import MIB, PAGE_BYTES, make_data, make_distinct_page
from tests.support.rawnbd import Command, RawClient, dial, encode_request, greet
from tests.support.servers import EXPORT, Server
from tests.support.tools import require

UPGRADES = 10
CONNECTIONS = 3
TASKS = 16
PAGES = 6144
# Of all connections, between two upgrades.
REQUESTS = 600
TIMEOUT_S = 150.0
NOT_UPGRADED = 7
SEED = 5

Json = dict[str, Any]

pytestmark = [pytest.mark.only_nbdswap, pytest.mark.timeout(240)]


def status_of(server: Server) -> Json:
    return admin_client.ask(UnixAddress(server.admin_path))


async def upgrade_by_signal(server: Server, done_before: int) -> None:
    os.kill(server.pid, signal.SIGUSR2)
    while True:
        try:
            status = await asyncio.to_thread(status_of, server)
        except UnreachableError:
            continue  # The connection was open when the program was replaced.
        assert status["upgrades"]["failed_total"] == 0, status["upgrades"]["last_failure"]
        if status["upgrades"]["done_total"] > done_before:
            return
        await asyncio.sleep(0.02)


async def upgrade_by_command(server: Server) -> None:
    result = await asyncio.to_thread(server.upgrade)
    assert result.returncode == 0, result.stderr
    assert f": {CONNECTIONS} connections go on; clients waited for " in result.stdout


async def upgrade_under_load(server: Server, pages: Pages, rng: random.Random) -> None:
    clients = [await connect(str(server.unix_path), EXPORT) for _ in range(CONNECTIONS)]
    load = Load(clients, pages, rng, tasks=TASKS)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.run())
        for done in range(UPGRADES):
            await load.pass_requests(REQUESTS)
            if done == 0:
                await upgrade_by_command(server)
            elif done % 2:
                await upgrade_by_signal(server, done)
            else:
                await asyncio.to_thread(upgrade, server)
            assert not running.done()
        await load.pass_requests(REQUESTS)
        load.stop()
    assert await check_all(clients[0], pages) > PAGES // 3
    for client in clients:
        await client.disconnect()


@pytest.mark.parametrize("store", [True, False], ids=["store", "no-store"])
def test_upgrades_under_load_lose_no_connection_and_no_page(
    server: ServerFactory, rng: random.Random, *, store: bool
) -> None:
    # With a store the pool holds a small part of the pages, so that reads wait for the store.
    pool_bytes = 2 * MIB if store else 32 * MIB
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=pool_bytes, store=store)
    pid, pages = running.pid, Pages(rng, PAGES)

    async def scenario() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await upgrade_under_load(running, pages, rng)

    asyncio.run(scenario())
    upgrades = status_of(running)["upgrades"]
    assert (upgrades["done_total"], upgrades["failed_total"]) == (UPGRADES, 0)
    assert upgrades["connections_handed_over_total"] == UPGRADES * CONNECTIONS
    assert upgrades["connections_dropped_total"] == 0
    assert running.running.running
    assert running.pid == pid
    by_place = running.pages()
    assert (by_place["store"] > 0, by_place["lost"]) == (store, 0)


def test_fio_notices_nothing(server: ServerFactory, tmp_path: Path) -> None:
    fio = require("fio", "fio")
    running = server(size_bytes=64 * MIB, pool_bytes=8 * MIB)
    command = [fio, "--name=job", "--ioengine=nbd", f"--uri={running.unix_uri}", "--thread"]
    command += ["--numjobs=2", "--size=24m", "--offset_increment=32m", "--bs=4k", "--iodepth=32"]
    # Until it is told to end; what was written is verified soon afterwards, again and again.
    command += ["--rw=randwrite", "--time_based", "--runtime=1h", "--verify=crc32c"]
    command += ["--verify_fatal=1", "--verify_backlog=512", f"--aux-path={tmp_path}"]
    command += ["--buffer_compress_percentage=60", "--output-format=json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as fio_process:
        try:
            for _ in range(3):
                before = requests_of(running)
                upgrade(running)
                while requests_of(running) == 0:
                    assert fio_process.poll() is None, f"fio ended after {before} requests"
        finally:
            fio_process.send_signal(signal.SIGINT)
            output = fio_process.communicate(timeout=TIMEOUT_S)[0].decode()
    jobs = json.loads(output[output.index("{") :])["jobs"]
    assert [job["error"] for job in jobs] == [0, 0], output
    assert all(job["read"]["total_ios"] > 0 for job in jobs), "nothing was verified"


def requests_of(running: Server) -> int:
    """Requests that the program that serves now has answered."""
    (export,) = status_of(running)["exports"]
    return sum(export["requests"].values())


def upgrade(running: Server) -> None:
    """What the command does, without another interpreter's start."""
    admin_client.upgrade(UnixAddress(running.admin_path))


def test_requests_that_came_in_part_are_finished_by_the_next_program(
    server: ServerFactory,
) -> None:
    running = server(pool_bytes=4 * MIB)
    data = make_data(SEED, 1024)
    with (
        RawClient.connect(running.unix_path, EXPORT) as whole,
        RawClient.connect(running.unix_path, EXPORT) as cut_in_header,
        RawClient.connect(running.unix_path, EXPORT) as cut_in_data,
        RawClient.connect(running.unix_path, EXPORT, structured=True) as unread,
    ):
        # A large write over parts of pages, some of them in the store, that ends in one.
        whole.write(0, make_data(SEED + 1, 1024))
        header = encode_request(Command.WRITE, 100, len(data) - 200, 77, 0)
        payload = data[100:-100]
        cut_in_data.socket.sendall(header + payload[: 1 << 20])
        asked = encode_request(Command.WRITE, 2048 * PAGE_BYTES, PAGE_BYTES, 78, 0)
        cut_in_header.socket.sendall(asked[:17])
        # More replies than the socket takes.
        wanted = [index % 1024 for index in range(400)]
        for index in wanted:
            unread.send(Command.READ, (4096 + index) * PAGE_BYTES, PAGE_BYTES)
        upgrade(running)
        cut_in_data.socket.sendall(payload[1 << 20 : 3 << 20])
        upgrade(running)
        cut_in_data.socket.sendall(payload[3 << 20 :])
        reply = cut_in_data.receive()
        assert (reply.cookie, reply.error_name) == (77, "ok")
        cut_in_header.socket.sendall(asked[17:] + data[:PAGE_BYTES])
        reply = cut_in_header.receive()
        assert (reply.cookie, reply.error_name) == (78, "ok")
        for _ in wanted:
            assert unread.receive().data == bytes(PAGE_BYTES)
        old = make_data(SEED + 1, 1024)
        assert whole.read(0, len(data)) == old[:100] + payload + old[-100:]
        assert whole.read(2048 * PAGE_BYTES, PAGE_BYTES) == data[:PAGE_BYTES]
        assert unread.read(0, PAGE_BYTES) == old[:100] + data[100:PAGE_BYTES]
    assert status_of(running)["upgrades"]["connections_handed_over_total"] == 8


def test_who_connects_meanwhile_is_served_by_the_next_program(server: ServerFactory) -> None:
    running = server(pool_bytes=8 * MIB)

    async def scenario() -> None:
        upgrading = asyncio.create_task(asyncio.to_thread(running.upgrade))
        served = 0
        while not upgrading.done():
            async with await connect(str(running.unix_path), EXPORT) as newcomer:
                await newcomer.write(0, make_distinct_page(SEED, served))
            served += 1
        assert (await upgrading).returncode == 0
        assert served > 0

    asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))


def test_sockets_of_a_service_manager_go_on(server: ServerFactory, rng: random.Random) -> None:
    """It holds them open, too: who connects while no server runs waits for the next one."""
    running = server(start=False, size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB)
    pages = Pages(rng, PAGES)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", running.port)) as tcp,
    ):
        manager.bind(str(running.directory / "notify"))
        manager.settimeout(TIMEOUT_S)
        unix.bind(str(running.unix_path))
        unix.listen()

        def start() -> None:
            running.launch_activated((unix, tcp), running.directory / "notify")
            running.running.wait_until_ready()
            assert manager.recv(1000).startswith(b"READY=1\n")

        async def serve_and_upgrade() -> None:
            over_tcp = ("127.0.0.1", running.port)
            clients = [
                await connect(address, EXPORT) for address in (str(running.unix_path), over_tcp)
            ]
            load = Load(clients, pages, rng, tasks=TASKS)
            async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                for _ in range(3):
                    await load.pass_requests(REQUESTS)
                    await asyncio.to_thread(upgrade, running)
                    assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                    assert manager.recv(1000).startswith(b"READY=1\n")
                    # New clients are served as well.
                    for address in (str(running.unix_path), over_tcp):
                        async with await connect(address, EXPORT) as newcomer:
                            await newcomer.flush()
                await load.pass_requests(REQUESTS)
                load.is_ending = True
                os.kill(running.pid, signal.SIGKILL)
            for client in clients:
                await client.close()

        start()
        asyncio.run(serve_and_upgrade())
        running.kill()
        with dial(running.unix_path) as early:
            start()
            greet(early)

        async def check() -> None:
            async with await connect(str(running.unix_path), EXPORT) as client:
                assert await check_all(client, pages) > PAGES // 3

        asyncio.run(check())
        assert running.pages()["lost"] == 0
        running.stop()


# ---------------------------------------------------------------- upgrades that are not done

GOOD = "from nbdswap.cli import main\nmain()\n"
# Good while it is asked, and gone when it is wanted.
VANISHING = f"import os, sys\nif '--check-upgrade' in sys.argv: os.unlink(sys.argv[0])\n{GOOD}"


def write_program(path: Path, body: str) -> Path:
    new = path.with_suffix(".new")
    new.write_text(f"#!{sys.executable}\n{body}")
    new.chmod(0o755)
    new.replace(path)
    return path


def check_old_serves_on(running: Server, client: RawClient, reason: str) -> None:
    """The upgrade is refused for that reason, and the connection goes on."""
    page = make_distinct_page(SEED, running.running.pid)
    client.write(0, page)
    before = status_of(running)["upgrades"]["failed_total"]
    # Half of a request is with the server meanwhile.
    asked = encode_request(Command.WRITE, PAGE_BYTES, PAGE_BYTES, 79, 0) + page
    client.socket.sendall(asked[:1000])
    with pytest.raises(UpgradeError, match=re.escape(reason)):
        upgrade(running)
    client.socket.sendall(asked[1000:])
    assert client.receive().error_name == "ok"
    assert client.read(0, 2 * PAGE_BYTES) == page + page
    upgrades = status_of(running)["upgrades"]
    assert (upgrades["done_total"], upgrades["failed_total"]) == (0, before + 1)
    assert reason in upgrades["last_failure"]
    # New clients are served, too.
    with RawClient.connect(running.unix_path, EXPORT) as newcomer:
        assert newcomer.read(0, PAGE_BYTES) == page


def test_a_broken_program_is_refused(server: ServerFactory, tmp_path: Path) -> None:
    program = write_program(tmp_path / "nbdswap", GOOD)
    running = server(program=program, pool_bytes=8 * MIB)
    with RawClient.connect(running.unix_path, EXPORT) as client:
        write_program(program, "raise SystemExit('library is missing')\n")
        check_old_serves_on(running, client, "ended with status 1: library is missing")
        result = running.upgrade()
        assert result.returncode == NOT_UPGRADED
        assert result.stderr.startswith(f"not upgraded: {program} cannot take over, ")
        write_program(program, GOOD)
        upgrade(running)
        assert client.read(0, PAGE_BYTES) != bytes(PAGE_BYTES)


def test_a_program_that_cannot_be_executed_leaves_the_old_one(
    server: ServerFactory, tmp_path: Path
) -> None:
    program = write_program(tmp_path / "nbdswap", GOOD)
    running = server(program=program, pool_bytes=8 * MIB)
    with RawClient.connect(running.unix_path, EXPORT) as client:
        write_program(program, VANISHING)
        check_old_serves_on(running, client, "cannot take over: No such file or directory")
        write_program(program, GOOD)
        upgrade(running)
        assert client.read(0, PAGE_BYTES) != bytes(PAGE_BYTES)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pool": {"populate": "on", "frame_bytes": "16K"}}, "pool.frame_bytes was changed from"),
        ({"page_bytes": "16K"}, "changed from 4096 to 16384"),
        ({"pool": {"codek": "lz4"}}, "codek"),
        ({"memory_dir": "/nowhere"}, "memory_dir was changed from"),
    ],
    ids=["frames", "pages", "typing-error", "memory"],
)
def test_a_configuration_that_would_lose_pages_is_refused(
    server: ServerFactory, changed: Json, reason: str
) -> None:
    running = server(pool_bytes=8 * MIB)
    path = running.directory / "config.yaml"
    with RawClient.connect(running.unix_path, EXPORT) as client:
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        check_old_serves_on(running, client, reason)


def test_what_the_new_configuration_says_is_so(server: ServerFactory) -> None:
    running = server(pool_bytes=8 * MIB)
    path = running.directory / "config.yaml"
    with RawClient.connect(running.unix_path, EXPORT) as client:
        page = make_distinct_page(SEED, 1)
        client.write(0, page)
        config = json.loads(path.read_text())
        config["pool"] |= {"codec": "zstd", "zpool": "zblock"}
        path.write_text(json.dumps(config))
        upgrade(running)
        assert client.read(0, PAGE_BYTES) == page
    pool = status_of(running)["pool"]
    assert (pool["codec"], pool["zpool"]) == ("zstd", "zblock")
