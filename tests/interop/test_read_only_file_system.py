"""State directory and store on a file system that became read-only, as some do after an error."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.pages import MIB
from tests.support.rawnbd import RawClient
from tests.support.servers import EXPORT
from tests.support.trouble import NoiseClient, events, wait_until

EXPORT_BYTES = 24 * MIB
STORE_BYTES = 32 * MIB
POOL_BYTES = 4 * MIB
PAGES = range(3072)
EARLY, LATE = PAGES[:2048], PAGES[2048:]

pytestmark = pytest.mark.only_nbdswap

Remount = Callable[[str], None]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Remount]]:
    """A file system, and what makes it read-only (`ro`) and writable (`rw`)."""
    path = tmp_path / "mounted"
    path.mkdir()
    with ExitStack() as undo:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "none", path], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        undo.callback(partial(subprocess.run, ["umount", "--lazy", path], check=True))

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", path], check=True)

        yield path, remount


def test_pages_are_served_from_it_and_written_to_it_when_it_can_be(
    server: ServerFactory, mounted: tuple[Path, Remount]
) -> None:
    path, remount = mounted
    running = server(
        size_bytes=EXPORT_BYTES,
        pool_bytes=POOL_BYTES,
        store_path=path / "store",
        store_config={"capacity_bytes": STORE_BYTES},
        arguments=(f"--state-dir={path / 'state'}",),
    )
    with closing(NoiseClient(RawClient.connect(running.unix_path, EXPORT))) as client:
        assert {client.write(page) for page in EARLY} == {"ok"}
        running.kill()
        remount("ro")
        running.start()
        client.reconnect(running)
        client.check()
        assert events(running, "warning", "write superblock", "Read-only file system")
        assert running.status()["store"]["degraded"]
        # The next one gets the file as it is open.
        assert running.upgrade().returncode == 0
        client.check()
        assert running.status()["store"]["degraded"]
        assert {client.write(page) for page in LATE} == {"ok", "ENOSPC"}
        remount("rw")
        wait_until(lambda: not running.status()["store"]["degraded"], "it is not noticed")
        assert {client.write(page) for page in LATE} == {"ok"}
        client.check()
        assert running.status()["store"]["written_bytes"] > 0
        assert running.upgrade().returncode == 0
        client.check()
        assert not running.status()["store"]["degraded"]
    # Without its memory there is nothing to serve.
    running.kill()
    running.delete_memory_files()
    remount("ro")
    running.launch()
    assert running.running.wait() == 8
    remount("rw")
    running.start()
    # Before its state directory is gone.
    running.stop()
