"""A file system that others fill up under the backing file, and that gets room again."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.file_systems import fill, mounted
from tests.support.io_uring import IOS, skip_unless_allowed
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.rawnbd import TIMEOUT_S, RawClient
from tests.support.servers import EXPORT, Server
from tests.support.trouble import NoiseClient, errors_of, events, wait_until

FILE_SYSTEM_BYTES = 24 * MIB
STORE_BYTES = 64 * MIB
POOL_BYTES = 4 * MIB
EXPORT_BYTES = 32 * MIB
# Of noise, so that a page takes a page. This much has to go to the store, and fits there.
EARLY_PAGES = 3072
# And these find the disk full.
LATE_PAGES = 3072
OVER = "over trouble=store_out_of_space"

pytestmark = pytest.mark.only_nbdswap


@pytest.mark.parametrize("io", IOS)
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_others_fill_refuses_at_once_loses_nothing_and_is_used_again(
    server: ServerFactory, kind: str, io: str, tmp_path: Path
) -> None:
    skip_unless_allowed(io)
    with mounted(kind, FILE_SYSTEM_BYTES, tmp_path) as place:
        running = server(
            size_bytes=EXPORT_BYTES,
            pool_bytes=POOL_BYTES,
            store_path=place / "store",
            store_config={"capacity_bytes": STORE_BYTES, "io": io},
        )
        try:
            with RawClient.connect(running.unix_path, EXPORT) as raw:
                fill_and_free(running, NoiseClient(raw), place / "ballast")
        finally:
            running.stop()


def fill_and_free(running: Server, client: NoiseClient, ballast: Path) -> None:
    late = range(EARLY_PAGES, EARLY_PAGES + LATE_PAGES)
    assert {client.write(page) for page in range(EARLY_PAGES)} == {"ok"}
    before = running.status()["store"]
    assert before["write_errors"] == 0
    assert fill(ballast) > MIB

    # A request has a deadline. All of these together take less: none of them waited for its own.
    began_s = time.monotonic()
    errors = [client.write(page) for page in late]
    assert time.monotonic() - began_s < TIMEOUT_S
    assert set(errors) == {"ok", "ENOSPC"}
    # Those that fitted into the pool came first.
    refused = errors.count("ENOSPC")
    assert refused > LATE_PAGES / 2
    for page in range(0, EARLY_PAGES, 100):
        client.zero(page)
    client.check()

    status = running.status()
    assert status["store"]["write_errors"] > 0
    assert status["store"]["degraded"] is True
    assert status["pool"]["is_stuck"] is True
    assert errors_of(status) == {"write": {"ENOSPC": refused}}
    for trouble in ("file_system_nearly_full", "store_out_of_space", "pool_stuck"):
        begun = partial(events, running, "warning", f"trouble={trouble}")
        wait_until(begun, f"{trouble} is not told")
    assert any("may still grow" in hint for hint in running.status()["hints"])

    # Nobody tells the server. It has to find out.
    ballast.unlink()
    wait_until(
        lambda: client.write(late[-1]) == "ok" and events(running, OVER),
        "the room is not noticed",
    )
    # What is free now takes some more: the file system is smaller than the store.
    more = late[: (FILE_SYSTEM_BYTES - POOL_BYTES) // PAGE_BYTES - EARLY_PAGES]
    assert {client.write(page) for page in more} == {"ok"}
    client.check()
    status = running.status()
    assert status["store"]["degraded"] is False
    assert {*errors_of(status)["write"]} == {"ENOSPC"}
    assert running.pages()["lost"] == 0
    for trouble in ("store_out_of_space", "pool_stuck"):
        assert len(events(running, "warning", f"trouble={trouble}")) == 1
    assert len(events(running, OVER)) == 1
