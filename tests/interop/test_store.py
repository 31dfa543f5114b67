"""The backing file of a real server: encrypted or not, and looked at while no server runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbdswap.nbd.negotiator import connect
from tests.conftest import ServerFactory
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, Server, nbdswap_command
from tests.support.tools import require

PAGES = 2048
COMMAND_TIMEOUT_S = 60.0
SCRUB_TIMEOUT_S = 60.0

pytestmark = pytest.mark.only_nbdswap


def page(index: int) -> bytes:
    """Half of it compresses; what it says is found in a store that is in clear."""
    words = f"secret page {index:05d} of a client ".encode() * 64
    return (words + os.urandom(PAGE_BYTES))[:PAGE_BYTES]


async def write_all(server: Server) -> list[bytes]:
    pages = [page(index) for index in range(PAGES)]
    async with await connect(str(server.unix_path), EXPORT) as client:
        for first in range(0, PAGES, 32):
            await client.write(first * PAGE_BYTES, b"".join(pages[first : first + 32]))
    return pages


async def read_all(server: Server) -> list[bytes]:
    pages: list[bytes] = []
    async with await connect(str(server.unix_path), EXPORT) as client:
        for first in range(0, PAGES, 32):
            data = await client.read(first * PAGE_BYTES, 32 * PAGE_BYTES)
            pages += [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
    return pages


def store_file(server: Server) -> Path:
    return server.directory / "store"


def command(server: Server, *words: str) -> tuple[int, dict[str, Any] | str]:
    """`nbdswap store ...` on the files of a server; JSON, or what it said against it."""
    line = [
        *nbdswap_command(),
        "store",
        *words,
        f"--config={server.directory / 'config.yaml'}",
        f"--state-dir={server.state_directory}",
        f"--store={store_file(server)}",
        "--json",
    ]
    result = subprocess.run(
        line, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    return result.returncode, json.loads(result.stdout) if result.stdout else result.stderr


def refusal(server: Server) -> str:
    """Why a server does not start."""
    server.launch()
    assert server.running.wait() == 3
    return (server.directory / "log").read_text()


@pytest.mark.parametrize("key", [None, "memory"])
def test_a_kill_keeps_the_key_and_a_store_in_clear_is_readable(
    server: ServerFactory, key: str | None
) -> None:
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB, key=key)
    pages = asyncio.run(write_all(running))
    assert running.pages()["store"] > PAGES // 2
    assert running.status()["store"]["encrypted"] is (key is not None)
    running.kill()
    holds = b" of a client " in store_file(running).read_bytes()
    assert holds is (key is None)
    code, verdict = command(running, "verify")
    assert code == 0, verdict
    assert isinstance(verdict, dict)
    assert verdict["records"] > PAGES // 2
    running.start()
    assert asyncio.run(read_all(running)) == pages
    if key is not None:
        (kept,) = [path for path in running.memory_files() if path.suffix == ".key"]
        assert (kept.stat().st_mode & 0o777, kept.stat().st_size) == (0o600, 32)


def test_another_key_is_refused_and_the_first_one_still_works(
    server: ServerFactory, tmp_path: Path
) -> None:
    keys = [tmp_path / "first", tmp_path / "second"]
    for key in keys:
        key.write_bytes(os.urandom(32))
        key.chmod(0o600)
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB, key=f"file:{keys[0]}")
    pages = asyncio.run(write_all(running))
    running.kill()
    before = store_file(running).read_bytes()
    right = running.settings
    for wrong, words in (
        (replace(right, key=f"file:{keys[1]}"), "another key"),
        (replace(right, key=None), "no key was given"),
    ):
        running.settings = wrong
        assert words in refusal(running)
        assert store_file(running).read_bytes() == before
    keys[0].chmod(0o644)
    running.settings = right
    assert "has mode 644" in refusal(running)
    keys[0].chmod(0o600)
    running.start(right)
    assert asyncio.run(read_all(running)) == pages


def keyctl(*words: str, data: bytes = b"") -> str:
    done = subprocess.run(["keyctl", *words], check=False, capture_output=True, input=data)
    if done.returncode != 0:
        pytest.skip(f"no keyrings here: {done.stderr.decode().strip()}")
    return done.stdout.decode().strip()


def test_a_key_in_the_keyring_is_found_by_every_server_while_it_is_there(
    server: ServerFactory,
) -> None:
    require("keyctl", "keyutils")
    name, key = f"nbdswap-test:{os.getpid()}", os.urandom(32)
    planted = keyctl("padd", "user", name, "@u", data=key)
    try:
        running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB, key=f"keyring:{name}")
        pages = asyncio.run(write_all(running))
        assert running.upgrade().returncode == 0
        running.kill()
        assert b" of a client " not in store_file(running).read_bytes()
        code, verdict = command(running, "verify")
        assert code == 0, verdict
        running.start()
        assert asyncio.run(read_all(running)) == pages
        running.kill()
    finally:
        keyctl("unlink", planted, "@u")
    assert f"keyctl padd user {name}" in refusal(running)
    keyctl("padd", "user", name, "@u", data=key)
    try:
        running.start()
        assert asyncio.run(read_all(running)) == pages
    finally:
        keyctl("purge", "user", name)


def test_a_damaged_record_is_named_with_its_page_and_a_superblock_is_repaired(
    server: ServerFactory,
) -> None:
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=2 * MIB)
    asyncio.run(write_all(running))
    code, words = command(running, "verify")
    assert (code, "in use by another server" in str(words)) == (3, True)
    running.kill()
    with store_file(running).open("r+b") as file:
        image = file.read()
        at = image.index(b"secret page ", 3 * MIB)
        file.seek(at)
        file.write(b"sEcret")
    code, verdict = command(running, "verify")
    assert isinstance(verdict, dict)
    assert (code, verdict["records_damaged"]) == (3, 1)
    (damage,) = verdict["damaged"]
    assert damage["export"] == EXPORT
    assert damage["export_page"] == int(image[at + 12 : at + 17])
    assert damage["in_use"] is True
    with store_file(running).open("r+b") as file:
        file.write(bytes(range(64)))
    code, found = command(running, "inspect")
    assert isinstance(found, dict)
    assert (code, found["superblock"], found["copy_byte"]) == (3, None, MIB - 4096)
    assert command(running, "repair")[1] == {
        "path": str(store_file(running)),
        "action": "restore the superblock from its copy",
        "written": False,
    }
    assert command(running, "inspect")[0] == 3
    assert command(running, "repair", "--write")[0] == 0
    assert command(running, "inspect")[0] == 0
    running.start()
    scrubbed = running.status()["store"]["scrub"]
    deadline_s = time.monotonic() + SCRUB_TIMEOUT_S
    while scrubbed["passes"] == 0 and time.monotonic() < deadline_s:
        time.sleep(0.1)
        scrubbed = running.status()["store"]["scrub"]
    assert (scrubbed["passes"], scrubbed["pages_lost"]) == (1, 1)
    assert running.pages()["lost"] == 1
    running.stop()
    log = (running.directory / "log").read_text()
    assert f"export=swap page={damage['export_page']} " in log
