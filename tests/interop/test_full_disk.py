"""A file system that others fill up under the backing file, and that gets room again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerFactory
from tests.support.file_systems import fill, mounted
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.rawnbd import TIMEOUT_S, Command, RawClient
from tests.support.servers import EXPORT, Server

FILE_SYSTEM_BYTES = 24 * MIB
STORE_BYTES = 64 * MIB
POOL_BYTES = 4 * MIB
EXPORT_BYTES = 32 * MIB
# Of noise, so that a page takes a page. This much has to go to the store, and fits there.
EARLY_PAGES = 3072
# And these find the disk full.
LATE_PAGES = 3072
NOTICED_WITHIN_S = 30.0
OVER = "over trouble=store_out_of_space"

pytestmark = pytest.mark.only_nbdswap


class Client:
    """Writes noise and knows what was acknowledged."""

    def __init__(self, raw: RawClient) -> None:
        self._raw = raw
        self._random = random.Random(7)
        self.held: dict[int, bytes] = {}

    def write(self, page: int) -> str:
        """The reply's error, or ok."""
        data = self._random.randbytes(PAGE_BYTES)
        reply = self._raw.call(Command.WRITE, page * PAGE_BYTES, PAGE_BYTES, data=data)
        if not reply.error:
            self.held[page] = data
        return reply.error_name

    def zero(self, page: int) -> None:
        """A page that takes no room."""
        self._raw.write(page * PAGE_BYTES, bytes(PAGE_BYTES))
        self.held.pop(page, None)

    def check(self) -> None:
        """Every page is what was acknowledged last, or zeros."""
        pages = EXPORT_BYTES // PAGE_BYTES
        for first in range(0, pages, 256):
            data = self._raw.read(first * PAGE_BYTES, 256 * PAGE_BYTES)
            for page in range(first, first + 256):
                at = (page - first) * PAGE_BYTES
                wanted = self.held.get(page, bytes(PAGE_BYTES))
                assert data[at : at + PAGE_BYTES] == wanted, f"page {page} is wrong"


def events(server: Server, *words: str) -> list[str]:
    """Lines of the log with all of these words."""
    lines = (server.directory / "log").read_text().splitlines()
    return [line for line in lines if all(word in line for word in words)]


def errors_of(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Failed requests by what they were and by what they were told."""
    (export,) = status["exports"]
    return {op: by_errno for op, by_errno in export["errors"].items() if by_errno}


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + NOTICED_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_others_fill_refuses_at_once_loses_nothing_and_is_used_again(
    server: ServerFactory, kind: str, tmp_path: Path
) -> None:
    with mounted(kind, FILE_SYSTEM_BYTES, tmp_path) as place:
        running = server(
            size_bytes=EXPORT_BYTES,
            pool_bytes=POOL_BYTES,
            store_path=place / "store",
            store_config={"capacity_bytes": STORE_BYTES},
        )
        try:
            with RawClient.connect(running.unix_path, EXPORT) as raw:
                fill_and_free(running, Client(raw), place / "ballast")
        finally:
            running.stop()


def fill_and_free(running: Server, client: Client, ballast: Path) -> None:
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
