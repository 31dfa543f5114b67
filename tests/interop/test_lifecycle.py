"""What survives which end of the server, and what is refused rather than made up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.pages import MIB, PAGE_BYTES, make_data, make_distinct_page
from tests.support.rawnbd import Command, ConnectionClosedError, RawClient
from tests.support.servers import EXPORT, Server, ServerSettings, free_port

PAGES = 8192
SEED = 40
BATCH_BYTES = 256 * 1024
STATE_REFUSED = 3

pytestmark = pytest.mark.only_nbdswap

# 32 MiB of realistic pages are about 17 MiB when compressed.
PLACEMENTS = {
    "in-pool": ServerSettings(pool_bytes=64 * MIB, store=False),
    "in-store": ServerSettings(pool_bytes=4 * MIB),
}
placements = pytest.mark.parametrize("settings", PLACEMENTS.values(), ids=PLACEMENTS)


def start(server: ServerFactory, settings: ServerSettings) -> Server:
    prepared = server(start=False)
    prepared.start(settings)
    return prepared


def write_all(running: Server, data: bytes) -> None:
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for offset in range(0, len(data), BATCH_BYTES):
            client.write(offset, data[offset : offset + BATCH_BYTES])
        client.disconnect()


def check_all(running: Server, data: bytes) -> None:
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for offset in range(0, len(data), BATCH_BYTES):
            got = client.read(offset, BATCH_BYTES)
            assert got == data[offset : offset + BATCH_BYTES], f"{BATCH_BYTES} bytes at {offset}"
        assert client.read(len(data), PAGE_BYTES) == bytes(PAGE_BYTES), "never written"
        client.disconnect()


@placements
def test_all_pages_are_there_after_a_stop(server: ServerFactory, settings: ServerSettings) -> None:
    data = make_data(SEED, PAGES)
    running = start(server, settings)
    write_all(running, data)
    running.stop()
    running.start()
    check_all(running, data)


@placements
def test_all_pages_are_there_after_several_kills(
    server: ServerFactory, settings: ServerSettings
) -> None:
    running = start(server, settings)
    for generation in range(3):
        data = make_data(SEED + generation, PAGES)
        write_all(running, data)
        running.kill()
        running.start()
        check_all(running, data)


@placements
def test_a_kill_among_writes_loses_none_that_was_acknowledged(
    server: ServerFactory, settings: ServerSettings
) -> None:
    old, new = (
        [make_distinct_page(SEED, i, generation) for i in range(PAGES)] for generation in (0, 1)
    )
    running = start(server, settings)
    write_all(running, b"".join(old))
    acknowledged = write_until_killed(running, new, kill_after=PAGES // 3)
    assert PAGES // 3 <= len(acknowledged) < PAGES, "the kill came too early or too late"
    running.start()
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for index in range(PAGES):
            got = client.read(index * PAGE_BYTES, PAGE_BYTES)
            allowed = (new[index],) if index in acknowledged else (old[index], new[index])
            assert got in allowed, f"page {index}, acknowledged: {index in acknowledged}"


def write_until_killed(running: Server, pages: list[bytes], *, kill_after: int) -> set[int]:
    """Writes as fast as it can, kills the server, and returns the pages it had confirmed."""
    acknowledged: set[int] = set()
    with RawClient.connect(running.unix_path, EXPORT) as client:
        pending: dict[int, int] = {}

        def send_all() -> None:
            try:
                for index, page in enumerate(pages):
                    # The number is known before the request is out: its reply may come at once.
                    pending[client.next_cookie] = index
                    client.send(Command.WRITE, index * PAGE_BYTES, PAGE_BYTES, data=page)
            except ConnectionError:
                pass  # That is the kill.

        sender = threading.Thread(target=send_all)
        sender.start()
        try:
            while True:
                reply = client.receive()
                assert reply.error == 0, reply.error_name
                acknowledged.add(pending[reply.cookie])
                if len(acknowledged) == kill_after:
                    os.kill(running.pid, signal.SIGKILL)
        except ConnectionClosedError:
            sender.join()
    running.kill()
    return acknowledged


@placements
def test_another_pool_size_loses_what_was_in_the_pool_and_nothing_else(
    server: ServerFactory, settings: ServerSettings
) -> None:
    written = [make_distinct_page(SEED, index) for index in range(PAGES)]
    running = start(server, settings)
    write_all(running, b"".join(written))
    stored_count = running.pages()["store"]
    running.stop()
    running.start(replace(running.settings, pool_bytes=running.settings.pool_bytes // 2))
    kept_count = 0
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for index, page in enumerate(written):
            reply = client.call(Command.READ, index * PAGE_BYTES, PAGE_BYTES)
            if reply.error_name == "ok":
                assert client.read(index * PAGE_BYTES, PAGE_BYTES) == page, f"page {index}"
                kept_count += 1
            else:
                assert reply.error_name == "EIO", f"page {index}"
    # What was written back between the count and the stop is kept, too.
    assert stored_count <= kept_count < PAGES


@placements
def test_pages_that_were_lost_are_errors_until_they_are_written_again(
    server: ServerFactory, settings: ServerSettings
) -> None:
    written = [make_distinct_page(SEED, index) for index in range(PAGES)]
    running = start(server, settings)
    write_all(running, b"".join(written))
    running.stop()
    running.delete_memory_files()
    running.start()
    with RawClient.connect(running.unix_path, EXPORT) as client:
        answers = {
            client.call(Command.READ, index * PAGE_BYTES, PAGE_BYTES).error_name
            for index in range(PAGES)
        }
        assert answers == {"EIO"}, "neither zeroes nor old data"
        fresh = make_distinct_page(SEED, 7, generation=1)
        client.write(7 * PAGE_BYTES, fresh)
        assert client.read(7 * PAGE_BYTES, PAGE_BYTES) == fresh
        assert client.call(Command.TRIM, 8 * PAGE_BYTES, PAGE_BYTES).error_name == "ok"
        assert client.read(8 * PAGE_BYTES, PAGE_BYTES) == bytes(PAGE_BYTES), "discarded"


def damage_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not ours")


@pytest.mark.parametrize("suffix", [".table", ".pool"])
@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (lambda path: path.chmod(0o644), "and mode 644, wanted owner"),
        (damage_head, "it is left as it is"),
        (lambda path: os.chown(path, 12345, -1), "found owner 12345"),
    ],
    ids=["rights", "head", "owner"],
)
def test_memory_that_somebody_changed_is_refused_and_can_be_set_right(
    server: ServerFactory, suffix: str, meddle: Callable[[Path], None], words: str
) -> None:
    if words.startswith("found owner") and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    data = make_data(SEED, 256)
    running = server(pool_bytes=8 * MIB, store=False)
    write_all(running, data)
    running.kill()
    (path,) = [path for path in running.memory_files() if path.suffix == suffix]
    whole, owner = path.read_bytes(), path.stat().st_uid
    meddle(path)
    changed = path.read_bytes()
    running.launch()
    assert running.running.wait() == STATE_REFUSED, running.running.log_text
    assert words in running.running.log_text
    assert path.read_bytes() == changed
    os.chown(path, owner, -1)
    path.chmod(0o600)
    path.write_bytes(whole)
    running.start()
    check_all(running, data)


def test_other_exports_are_refused_while_pages_are_held(server: ServerFactory) -> None:
    data = make_data(SEED, 256)
    running = server(pool_bytes=8 * MIB)
    write_all(running, data)
    running.stop()
    right = running.settings
    running.launch(replace(right, arguments=("--export=other=64M",)))
    assert running.running.wait() == STATE_REFUSED
    assert "names, sizes or order of the exports were changed" in running.running.log_text
    running.start(right)
    check_all(running, data)
    running.stop()
    # Forgotten when it is asked for, and not before.
    running.start(replace(right, arguments=("--export=other=64M", "--fresh")))


def test_a_second_server_on_the_same_state_is_refused(server: ServerFactory) -> None:
    first = server()
    write_all(first, make_data(SEED, 64))
    second = replace(first, process=None, port=free_port())
    second.launch()
    assert second.running.wait() == STATE_REFUSED, second.running.log_text
    check_all(first, make_data(SEED, 64))


def cpu_ticks(pid: int) -> int:
    """Processor time, user and system, of all threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[11]) + int(after_name[12])


def test_an_idle_server_with_an_idle_client_takes_no_processor_time(server: ServerFactory) -> None:
    running = server(pool_bytes=8 * MIB)
    with RawClient.connect(running.unix_path, EXPORT) as client:
        for offset in range(0, 64 * PAGE_BYTES, PAGE_BYTES):
            client.write(offset, make_distinct_page(SEED, offset))
        before = cpu_ticks(running.pid)
        # Not a wait for something: a second without work is what is measured.
        time.sleep(1)
        assert cpu_ticks(running.pid) - before <= 1
