"""Exports whose flushed pages survive loss of the host: a server is killed, its memory is gone.

That is a reboot. What a drive's cache loses is simulated in `rust/src/engine/tests/power.rs`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerFactory
from tests.interop.test_nbdsh import nbdsh
from tests.support.file_systems import CutOffDisk
from tests.support.pages import MIB, PAGE_BYTES, make_data, make_distinct_page
from tests.support.rawnbd import Command, Flag, RawClient
from tests.support.servers import Server, ServerSettings, nbdswap_command
from tests.support.tools import require

DISK, PLAIN = "disk", "plain"
EXPORT_BYTES = 64 * MIB
BATCH_BYTES = 256 * 1024
PAGES = 4096
EIO = 5
SEED = 60

pytestmark = pytest.mark.only_nbdswap


def exports(durability: str = "disk") -> tuple[dict[str, str | int], ...]:
    return (
        {"name": PLAIN, "size_bytes": EXPORT_BYTES},
        {"name": DISK, "size_bytes": EXPORT_BYTES, "durability": durability},
    )


SETTINGS = ServerSettings(
    exports=exports(),
    pool_bytes=64 * MIB,
    populate=False,
    store_config={"capacity_bytes": "256M"},
)


def start(server: ServerFactory, settings: ServerSettings = SETTINGS) -> Server:
    prepared = server(start=False)
    prepared.start(settings)
    return prepared


def flush(client: RawClient) -> None:
    assert client.call(Command.FLUSH, 0, 0).error == 0


def write(running: Server, export: str, data: bytes, offset: int = 0, *, then_flush: bool) -> None:
    with RawClient.connect(running.unix_path, export) as client:
        for at in range(0, len(data), BATCH_BYTES):
            client.write(offset + at, data[at : at + BATCH_BYTES])
        if then_flush:
            flush(client)
        client.disconnect()


def read(running: Server, export: str, offset: int, length: int) -> bytes:
    with RawClient.connect(running.unix_path, export) as client:
        parts = [
            client.read(at, min(BATCH_BYTES, offset + length - at))
            for at in range(offset, offset + length, BATCH_BYTES)
        ]
        client.disconnect()
    return b"".join(parts)


def flush_counts(running: Server) -> int:
    """Checkpoints that flushes had."""
    checkpoints: int = running.status()["store"]["durable"]["checkpoints"]
    return checkpoints


def lose_host(running: Server, settings: ServerSettings | None = None) -> None:
    running.kill()
    running.delete_memory_files()
    running.start(settings)


def test_flushed_pages_are_there_and_others_fail(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(1, PAGES)
    write(running, DISK, data, then_flush=True)
    write(running, PLAIN, data[:MIB], then_flush=True)
    lose_host(running)
    assert read(running, DISK, 0, len(data)) == data
    assert read(running, DISK, len(data), MIB) == bytes(MIB), "never written"
    with RawClient.connect(running.unix_path, PLAIN) as client:
        assert client.call(Command.READ, 0, PAGE_BYTES).error == EIO
        client.disconnect()
    durable = running.status()["store"]["durable"]
    assert durable["recovered_pages"] >= PAGES * 9 // 10  # Pages of zeros may be neighbours.
    assert durable["recovery_seconds"] > 0


def test_what_came_after_the_flush_is_old_or_new_and_never_a_mixture(server: ServerFactory) -> None:
    running = start(server)
    old = b"".join(make_distinct_page(SEED, index) for index in range(PAGES))
    new = b"".join(make_distinct_page(SEED, PAGES + index) for index in range(PAGES))
    write(running, DISK, old, then_flush=True)
    for _ in range(3):
        write(running, DISK, new[: len(new) // 2], then_flush=False)
        lose_host(running)
        found = read(running, DISK, 0, len(old))
        for at in range(0, len(found), PAGE_BYTES):
            page = found[at : at + PAGE_BYTES]
            assert page in (old[at : at + PAGE_BYTES], new[at : at + PAGE_BYTES]), f"byte {at}"
        assert found[len(new) // 2 :] == old[len(new) // 2 :]


def test_memory_of_another_boot_is_not_believed(server: ServerFactory) -> None:
    """It is there, and newer than what was flushed: a file system may bring it back at any age."""
    running = start(server)
    data = make_data(12, 1024)
    newer = make_distinct_page(SEED, 1)
    write(running, PLAIN, data, then_flush=True)
    write(running, DISK, data, then_flush=True)
    write(running, DISK, newer, then_flush=False)
    running.kill()
    names = {path.name for path in running.memory_files()}
    assert {Path(name).suffix for name in names} == {".pool", ".table"}
    path = running.state_directory / "state.json"
    state = json.loads(path.read_text())
    boot_id, state["boot_id"] = state["boot_id"], "another"
    path.write_text(json.dumps(state))
    running.start()
    found = read(running, DISK, 0, len(data))
    assert found[:PAGE_BYTES] in (data[:PAGE_BYTES], newer)
    assert found[PAGE_BYTES:] == data[PAGE_BYTES:]
    assert running.status()["store"]["durable"]["recovered_pages"] > 0, "it was adopted"
    with RawClient.connect(running.unix_path, PLAIN) as client:
        for offset in range(0, MIB, PAGE_BYTES):
            assert client.call(Command.READ, offset, PAGE_BYTES).error == EIO
        client.disconnect()
    assert json.loads(path.read_text())["boot_id"] == boot_id
    # Of this boot now, so that a kill alone loses nothing.
    write(running, PLAIN, newer, then_flush=False)
    running.kill()
    running.start()
    assert read(running, PLAIN, 0, PAGE_BYTES) == newer
    assert read(running, DISK, 0, len(data)) == found


def test_flushed_discards_stay_discarded(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(2, 1024)
    write(running, DISK, data, then_flush=True)
    with RawClient.connect(running.unix_path, DISK) as client:
        assert client.call(Command.TRIM, 0, MIB).error == 0
        flush(client)
        client.disconnect()
    lose_host(running)
    assert read(running, DISK, 0, MIB) == bytes(MIB)
    assert read(running, DISK, MIB, len(data) - MIB) == data[MIB:]


def test_a_write_with_fua_needs_no_flush(server: ServerFactory) -> None:
    running = start(server)
    page = make_distinct_page(SEED, 3)
    with RawClient.connect(running.unix_path, DISK) as client:
        client.write(8 * PAGE_BYTES, page, flags=Flag.FUA)
        client.disconnect()
    lose_host(running)
    assert read(running, DISK, 8 * PAGE_BYTES, PAGE_BYTES) == page


def test_a_flush_covers_what_other_connections_wrote(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(4, 256)
    with (
        RawClient.connect(running.unix_path, DISK) as writer,
        RawClient.connect(running.unix_path, DISK) as flusher,
    ):
        writer.write(0, data)
        flush(flusher)
    lose_host(running)
    assert read(running, DISK, 0, len(data)) == data


def test_everything_is_there_after_a_stop_and_a_reboot(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(5, 1024)
    write(running, DISK, data, then_flush=False)
    running.stop()
    running.delete_memory_files()
    running.start()
    assert read(running, DISK, 0, len(data)) == data


def test_a_kill_alone_loses_nothing_and_the_next_reboot_neither(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(6, PAGES)
    write(running, DISK, data, then_flush=False)
    running.kill()
    running.start()
    assert read(running, DISK, 0, len(data)) == data
    write(running, DISK, b"", then_flush=True)
    lose_host(running)
    assert read(running, DISK, 0, len(data)) == data


def test_an_export_that_becomes_durable_is_written_down_at_the_start(server: ServerFactory) -> None:
    settings = replace(SETTINGS, exports=exports("process"))
    running = start(server, settings)
    data = make_data(7, PAGES)
    write(running, DISK, data, then_flush=True)
    with RawClient.connect(running.unix_path, DISK) as client:
        assert client.call(Command.TRIM, 0, MIB).error == 0
        client.disconnect()
    running.stop()
    running.start(SETTINGS)
    lose_host(running)
    assert read(running, DISK, 0, MIB) == bytes(MIB)
    assert read(running, DISK, MIB, len(data) - MIB) == data[MIB:]


def test_an_upgrade_keeps_what_was_flushed_and_what_was_not(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(8, PAGES)
    with RawClient.connect(running.unix_path, DISK) as client:
        client.write(0, data[:MIB])
        flush(client)
        client.write(MIB, data[MIB:])
        assert running.upgrade().returncode == 0
        assert client.read(MIB, MIB) == data[MIB : 2 * MIB]
        flush(client)
        client.disconnect()
    lose_host(running)
    assert read(running, DISK, 0, len(data)) == data


def test_an_encrypted_store_is_recovered_with_its_key(
    server: ServerFactory, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    running = start(server, replace(SETTINGS, key=f"file:{key}"))
    data = make_data(9, PAGES)
    write(running, DISK, data, then_flush=True)
    assert data[:64] not in running.store_path.read_bytes()
    lose_host(running)
    assert read(running, DISK, 0, len(data)) == data


def test_fio_verifies_what_it_wrote_with_fsync_after_a_loss(
    server: ServerFactory, tmp_path: Path
) -> None:
    require("fio", "fio")
    running = start(server)
    uri = f"nbd+unix:///{DISK}?socket={running.unix_path}"
    job = [
        "fio",
        "--name=flushes",
        "--ioengine=nbd",
        f"--uri={uri}",
        "--rw=randwrite",
        "--bs=4k",
        "--size=16M",
        "--iodepth=8",
        "--randseed=1",
        "--verify=crc32c",
        f"--aux-path={tmp_path}",
    ]
    written = [*job, "--fsync=64", "--end_fsync=1", "--do_verify=0"]
    subprocess.run(written, check=True, capture_output=True, cwd=tmp_path, timeout=120)
    lose_host(running)
    verified = subprocess.run(
        [*job, "--verify_only=1"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_qemu_flushed_or_wrote_with_fua_is_there_after_a_loss(server: ServerFactory) -> None:
    """qemu is how a virtual machine's FLUSH gets here; with a write-through cache it sends FUA."""
    program = require("qemu-io", "qemu-utils")
    running = start(server)

    def qemu_io(cache: str, *commands: str) -> str:
        options = [program, "-f", "raw", "-t", cache]
        options += [word for command in commands for word in ("-c", command)]
        options.append(f"nbd+unix:///{DISK}?socket={running.unix_path}")
        done = subprocess.run(options, check=True, capture_output=True, text=True, timeout=60)
        assert "failed" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done.stdout

    qemu_io("writeback", "write -P 0x11 0 1m", "flush")
    lose_host(running)
    qemu_io("writeback", "read -P 0x11 0 1m", "write -P 0x22 64k 64k", "flush")
    lose_host(running)
    qemu_io("writeback", "read -P 0x22 64k 64k", "write -f -P 0x33 128k 4k", "write -z -f 0 64k")
    lose_host(running)
    qemu_io("writeback", "read -P 0 0 64k", "read -P 0x33 128k 4k", "read -P 0x11 132k 892k")
    fua = flush_counts(running)
    qemu_io("writethrough", "write -P 0x44 2m 64k")
    assert flush_counts(running) > fua, "no flush reached the disk"
    lose_host(running)
    qemu_io("writeback", "read -P 0x44 2m 64k")


def test_what_libnbd_flushed_or_wrote_with_fua_is_there_after_a_loss(server: ServerFactory) -> None:
    running = start(server)
    uri = f"nbd+unix:///{DISK}?socket={running.unix_path}"
    nbdsh(
        uri,
        """
        assert h.can_flush() and h.can_fua()
        data = random.Random(1).randbytes(64 * P)
        h.pwrite(data, 0)
        h.flush()
        h.pwrite(data[:P], M, nbd.CMD_FLAG_FUA)
        h.trim(8 * P, 8 * P, nbd.CMD_FLAG_FUA)
        h.zero(8 * P, 32 * P, nbd.CMD_FLAG_FUA)
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), 2 * M)
        while h.aio_in_flight():
            h.poll(-1)
        cookie = h.aio_flush()
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        """,
    )
    lose_host(running)
    nbdsh(
        uri,
        """
        data = random.Random(1).randbytes(64 * P)
        zeros = bytes(8 * P)
        wanted = data[:8 * P] + zeros + data[16 * P:32 * P] + zeros + data[40 * P:]
        assert h.pread(64 * P, 0) == wanted
        assert h.pread(P, M) == data[:P]
        assert h.pread(64 * P, 2 * M) == data
        """,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[CutOffDisk]:
    found = CutOffDisk(300 * MIB, tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("preallocate", [False, True], ids=["sparse", "preallocated"])
def test_what_was_flushed_is_there_although_the_file_system_was_cut_off(
    server: ServerFactory, disk: CutOffDisk, *, preallocate: bool
) -> None:
    """The backing file is new: its name, its size and its blocks have to be there too."""
    config = {**SETTINGS.store_config, "preallocate": preallocate}
    settings = replace(SETTINGS, store_path=disk.path / "store", store_config=config)
    running = start(server, settings)
    data = make_data(10, 1024)
    for part in range(4):
        at = part * MIB
        write(running, DISK, data[at : at + MIB], at, then_flush=True)
        with RawClient.connect(running.unix_path, DISK) as client:
            client.write(16 * MIB, make_distinct_page(SEED, part))
            disk.cut_off()
            assert client.call(Command.FLUSH, 0, 0).error == EIO
        running.kill()
        running.delete_memory_files()
        disk.come_back()
        running.start()
        assert read(running, DISK, 0, at + MIB) == data[: at + MIB]
    running.kill()


def test_inspect_foresees_what_a_start_finds(server: ServerFactory) -> None:
    running = start(server)
    data = make_data(11, PAGES)
    write(running, DISK, data, then_flush=True)
    with RawClient.connect(running.unix_path, DISK) as client:
        assert client.call(Command.TRIM, 0, MIB).error == 0
        flush(client)
        client.disconnect()
    running.kill()
    running.delete_memory_files()
    before = running.store_path.stat().st_mtime_ns
    found = store_command(running, "inspect")
    assert running.store_path.stat().st_mtime_ns == before, "it was touched"
    plain, durable = found["recovery"]["exports"]
    assert (plain["name"], plain["pages"]) == (PLAIN, None)
    assert durable["pages"]["discarded"] == MIB // PAGE_BYTES
    assert durable["pages"]["lost"] == 0
    verdict = store_command(running, "verify")
    assert verdict["records"] >= durable["pages"]["stored"]
    assert verdict["marks"] >= durable["pages"]["filled"] + durable["pages"]["discarded"]
    running.start()
    recovered = running.status()["store"]["durable"]["recovered_pages"]
    assert recovered == sum(durable["pages"].values())


def test_inspect_says_what_is_lost_of_a_damaged_store(server: ServerFactory) -> None:
    running = start(server)
    page = make_distinct_page(SEED, 1)
    with RawClient.connect(running.unix_path, DISK) as client:
        for index in range(64):
            client.write(index * PAGE_BYTES, make_distinct_page(SEED, index))
        flush(client)
        client.write(70 * PAGE_BYTES, page)
        flush(client)
        client.disconnect()
    running.kill()
    running.delete_memory_files()
    (whole,) = store_command(running, "verify")["damaged"] or [None]
    assert whole is None
    with running.store_path.open("r+b") as file:
        # In the first segment, of 1 MiB behind the superblock's: an object, which the list names.
        file.seek(MIB + 300)
        (byte,) = file.read(1)
        file.seek(MIB + 300)
        file.write(bytes((byte ^ 1,)))
    before = running.store_path.stat().st_mtime_ns
    verdict = store_command(running, "verify", status=3)
    (damage,) = verdict["damaged"]
    assert (damage["export"], damage["kind"], damage["fault"]) == (DISK, "object", "damaged")
    found = store_command(running, "inspect")["recovery"]
    assert (found["lists_damaged"], found["heads_damaged"]) == (0, 0)
    # Its record is listed, so that only reading it shows that it is damaged: an error, then.
    assert found["exports"][1]["pages"]["stored"] == 65
    assert running.store_path.stat().st_mtime_ns == before, "it was touched"
    running.start()
    with RawClient.connect(running.unix_path, DISK) as client:
        offset = damage["export_page"] * PAGE_BYTES
        assert client.call(Command.READ, offset, PAGE_BYTES).error == EIO
        assert client.read(70 * PAGE_BYTES, PAGE_BYTES) == page
        client.disconnect()


def store_command(running: Server, command: str, *, status: int = 0) -> dict[str, Any]:
    """What `nbdswap store` says of the store of a server that does not run."""
    words = [
        *nbdswap_command(), "store", command, "--json",
        f"--config={running.directory / 'config.yaml'}",
        f"--state-dir={running.state_directory}",
        f"--store={running.store_path}",
    ]  # fmt: skip
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
