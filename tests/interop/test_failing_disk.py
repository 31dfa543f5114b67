"""A disk that refuses writes, and one that answers nothing, under a real server.

Simulated, there are all faults against all operations (rust/src/engine/tests/matrix.rs).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.fragile_disk import FragileDisk, fragile_disk
from tests.support.io_uring import IOS, skip_unless_allowed
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.rawnbd import TIMEOUT_S, Command, Flag, RawClient
from tests.support.servers import EXPORT, Server
from tests.support.trouble import NoiseClient, errors_of, events, wait_until

STORE_BYTES = 64 * MIB
POOL_BYTES = 4 * MIB
EXPORT_BYTES = 32 * MIB
EARLY = range(3072)
LATE = range(3072, 6144)
REQUEST_TIMEOUT_S = 1.0

pytestmark = pytest.mark.only_nbdswap


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FragileDisk]:
    with fragile_disk(tmp_path, STORE_BYTES) as found:
        yield found


@pytest.fixture(params=IOS)
def io(request: pytest.FixtureRequest) -> str:
    """How a reader does several reads at once."""
    io: str = request.param
    skip_unless_allowed(io)
    return io


@pytest.fixture
def running(server: ServerFactory, disk: FragileDisk, io: str) -> Iterator[Server]:
    """A server most of whose pages are on the disk."""
    started = server(
        size_bytes=EXPORT_BYTES,
        pool_bytes=POOL_BYTES,
        store_path=disk.path,
        store_config={"capacity_bytes": STORE_BYTES, "io": io},
        request_timeout_s=REQUEST_TIMEOUT_S,
    )
    yield started
    disk.answer()
    started.stop()


def test_a_disk_that_refuses_writes_costs_no_page_and_is_used_again(
    running: Server, disk: FragileDisk
) -> None:
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        client = NoiseClient(raw)
        assert {client.write(page) for page in EARLY} == {"ok"}
        disk.refuse_writes()
        began_s = time.monotonic()
        errors = [client.write(page) for page in LATE]
        assert time.monotonic() - began_s < TIMEOUT_S
        refused = errors.count("ENOSPC")
        assert refused > len(LATE) / 2
        assert errors.count("ok") == len(LATE) - refused
        client.check()
        status = running.status()
        assert errors_of(status) == {"write": {"ENOSPC": refused}}
        assert (status["store"]["degraded"], status["store"]["out_of_space"]) == (True, False)
        # Three places were tried before, and few times since.
        assert 3 <= status["store"]["write_errors"] <= 8
        begun = partial(events, running, "warning", "trouble=store_fails")
        wait_until(begun, "the failing disk is not told")
        assert any("cannot be written" in hint for hint in running.status()["hints"])

        disk.take_writes()
        over = partial(events, running, "over trouble=store_fails")
        wait_until(over, "that it works again is not noticed")
        assert {client.write(page) for page in LATE[:2048]} == {"ok"}
        client.check()
        assert len(begun()) == 1


Ends = Callable[[Server, NoiseClient], None]


def upgraded(running: Server, client: NoiseClient) -> None:
    """The connection of the client goes on."""
    done = running.upgrade()
    assert done.returncode == 0, done.stderr
    client.check()


def killed_and_started(running: Server, client: NoiseClient) -> None:
    running.kill()
    running.start()
    client.reconnect(running)


@pytest.mark.parametrize(
    ("end", "durability"), [(upgraded, "disk"), (killed_and_started, "process")]
)
def test_the_next_server_serves_all_pages_of_a_disk_that_refuses_writes_and_writes_when_it_can(
    server: ServerFactory, disk: FragileDisk, end: Ends, durability: str
) -> None:
    running = server(
        exports=({"name": EXPORT, "size_bytes": EXPORT_BYTES, "durability": durability},),
        pool_bytes=POOL_BYTES,
        store_path=disk.path,
        store_config={"capacity_bytes": STORE_BYTES},
        request_timeout_s=REQUEST_TIMEOUT_S,
    )
    with closing(NoiseClient(RawClient.connect(running.unix_path, EXPORT))) as client:
        assert {client.write(page) for page in EARLY} == {"ok"}
        assert client.flush() == "ok"
        disk.refuse_writes()
        assert {client.write(page) for page in LATE} == {"ok", "ENOSPC"}
        # Twice: what the first one could not write the second one cannot either.
        for told in (1, 2):
            end(running, client)
            client.check()
            store = running.status()["store"]
            assert (store["degraded"], store["out_of_space"]) == (True, False)
            assert store["written_bytes"] == 0
            begun = events(running, "warning", "write superblock", "Input/output error")
            assert len(begun) == told
            assert any("cannot be written" in hint for hint in running.status()["hints"])
            assert {client.write(page) for page in LATE} <= {"ok", "ENOSPC"}
            assert client.flush() == ("ok" if durability == "process" else "EIO")
            client.check()
        disk.take_writes()
        wait_until(lambda: not running.status()["store"]["degraded"], "it is not noticed")
        assert {client.write(page) for page in LATE[:2048]} == {"ok"}
        assert client.flush() == "ok"
        client.check()
        end(running, client)
        client.check()
        assert not running.status()["store"]["degraded"]
        if durability == "disk":
            running.kill()
            running.delete_memory_files()
            running.start()
            client.reconnect(running)
            client.check()


def test_a_disk_that_answers_nothing_holds_up_nothing_that_does_not_need_it(
    running: Server, disk: FragileDisk
) -> None:
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        client = NoiseClient(raw)
        assert {client.write(page) for page in EARLY} == {"ok"}
        disk.fall_silent()
        # The first one waits for its deadline; then it is known.
        reads = [raw.call(Command.READ, page * PAGE_BYTES, PAGE_BYTES) for page in EARLY]
        failed = [page for page, reply in zip(EARLY, reads, strict=True) if reply.error]
        assert {reads[page].error_name for page in failed} == {"EIO"}
        assert len(EARLY) / 2 < len(failed) < len(EARLY)
        for page in set(EARLY) - set(failed):
            assert reads[page].data == client.held[page], f"page {page} is wrong"
        errors = [client.write(page) for page in LATE]
        assert set(errors) == {"ok", "ENOSPC"}
        wait_until(partial(events, running, "trouble=store_silent"), "it is not told")
        assert running.status()["store"]["silent"] is True
        refused = running.upgrade()
        assert (refused.returncode, "does not answer" in refused.stderr) == (7, True)

        disk.answer()
        wait_until(partial(events, running, "over trouble=store_silent"), "its end is not told")
        client.check()
        wait_until(lambda: client.write(LATE[-1]) == "ok", "there is no room")
        client.check()


def test_a_flush_behind_a_disk_that_answers_nothing_fails_and_holds_up_nobody(
    server: ServerFactory, disk: FragileDisk
) -> None:
    running = server(
        exports=({"name": EXPORT, "size_bytes": EXPORT_BYTES, "durability": "disk"},),
        store_path=disk.path,
        store_config={"capacity_bytes": STORE_BYTES},
        request_timeout_s=REQUEST_TIMEOUT_S,
    )
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        client = NoiseClient(raw)
        assert client.write(0) == "ok"
        assert raw.call(Command.FLUSH, 0, 0).error_name == "ok"
        disk.fall_silent()
        assert client.write(1) == "ok"
        assert raw.call(Command.FLUSH, 0, 0).error_name == "EIO"
        wait_until(partial(events, running, "trouble=store_silent"), "it is not told")
        began_s = time.monotonic()
        for _ in range(10):
            assert raw.call(Command.FLUSH, 0, 0).error_name == "EIO"
            reply = raw.call(
                Command.WRITE, 2 * PAGE_BYTES, PAGE_BYTES, data=bytes(PAGE_BYTES), flags=Flag.FUA
            )
            assert reply.error_name == "EIO"
            assert client.write(3) == "ok"
        # Not one of them waited for its deadline.
        assert time.monotonic() - began_s < REQUEST_TIMEOUT_S
        disk.answer()
        wait_until(lambda: raw.call(Command.FLUSH, 0, 0).error_name == "ok", "it never flushes")
        assert raw.read(3 * PAGE_BYTES, PAGE_BYTES) == client.held[3]
    running.kill()
    running.delete_memory_files()
    running.start()
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        after = NoiseClient(raw)
        after.held = client.held
        after.check()


def test_a_server_stops_although_its_disk_answers_nothing(
    running: Server, disk: FragileDisk
) -> None:
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        client = NoiseClient(raw)
        assert {client.write(page) for page in EARLY} == {"ok"}
        disk.fall_silent()
        errors = {raw.call(Command.READ, page * PAGE_BYTES, PAGE_BYTES).error for page in EARLY}
        assert len(errors) == 2
    os.kill(running.pid, signal.SIGTERM)
    # All of ours has ended then. FUSE lets nobody go who closes a file before it has said so.
    wait_until(partial(events, running, "stopped memory=kept"), "it waits for the disk")
    assert events(running, "error", "the backing file does not answer")
    assert events(running, "left thread")
    disk.answer()
    assert running.running.wait() == 0
    running.start()
    with RawClient.connect(running.unix_path, EXPORT) as raw:
        after = NoiseClient(raw)
        after.held = client.held
        after.check()
