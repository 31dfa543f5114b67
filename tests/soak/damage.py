"""Flipping bytes in the backing file of a server that is dead: what `store verify` says of it, and
what its clients find.

A page whose record is hit answers EIO, every other one is right.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbdswap.nbd.client import Client
from nbdswap.nbd.constants import Error
from nbdswap.nbd.errors import CommandError
from nbdswap.nbd.negotiator import connect
from tests.soak.tenants import Tenant
from tests.support.load import READ_PAGES
from tests.support.pages import MIB
from tests.support.servers import Server, nbdswap_command

VERIFY_TIMEOUT_S = 120.0

# An export and the number of a page in it.
Name = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a store that no server has."""

    damaged: set[Name]
    """Pages whose record is damaged."""
    missing: int
    """Records that are not named, dead ones and those of torn writes included: a damaged list names
    them no more, or there are more than are told."""


def verify(server: Server) -> Verdict:
    """What `nbdswap store verify` says."""
    command = [
        *nbdswap_command(), "store", "verify", "--json",
        f"--config={server.directory / 'config.yaml'}",
        f"--state-dir={server.state_directory}",
        f"--store={server.store_path}",
    ]  # fmt: skip
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S
    )
    assert result.returncode in (0, 3), result.stderr
    verdict = json.loads(result.stdout)
    in_use = {
        (damage["export"], damage["export_page"])
        for damage in verdict["damaged"]
        if damage["in_use"]
    }
    return Verdict(in_use, verdict["records_missing"] + verdict["damaged_left_out"])


def flip_bytes(path: Path, count: int, rng: random.Random) -> list[int]:
    """Flips a bit in so many bytes of the segments; where."""
    flips = []
    with path.open("r+b", buffering=0) as file:
        for _ in range(count):
            at = rng.randrange(MIB, path.stat().st_size)
            flips.append(at)
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes((byte ^ 1 << rng.randrange(8),)))
    return flips


def copy_remains(server: Server) -> Path:
    """Copies of the files of a dead server, to compare them with what the next one says."""
    directory = Path(tempfile.mkdtemp(prefix="nbdswap-soak-remains."))
    for path in [server.store_path, *server.memory_files()]:
        shutil.copy(path, directory)
    return directory


async def find_failed(socket: Path, tenants: Sequence[Tenant], rng: random.Random) -> set[Name]:
    """Pages that are errors, and good again when written; every other one is compared.

    All pages of durable exports are written again and flushed: what of their log is damaged and
    nobody has asked for yet (an older version, a mark, a list of records) is of no use any more.
    """
    failed: set[Name] = set()
    for tenant in tenants:
        async with await connect(str(socket), tenant.name) as client:
            pages, size = tenant.pages, tenant.pages.page_bytes
            mine = await _failed_pages(client, tenant)
            for page in mine:
                content = pages.new_page(rng)
                await client.write(page * size, content)
                pages.acknowledge(page, [content])
            failed |= {(tenant.name, page) for page in mine}
            if tenant.is_durable:
                for page in range(pages.count):
                    content = pages.current(page, 1)
                    if content == pages.zeroes:
                        # Zeros over zeros are no change, and their mark may be damaged.
                        content = pages.new_page(rng)
                    await client.write(page * size, content)
                    pages.acknowledge(page, [content])
                covered = pages.begin_flush()
                await client.flush()
                pages.end_flush(covered)
    return failed


async def _failed_pages(client: Client, tenant: Tenant) -> set[int]:
    failed: set[int] = set()
    pages, size = tenant.pages, tenant.pages.page_bytes
    for first in range(0, pages.count, READ_PAGES):
        with contextlib.suppress(CommandError):
            pages.check(first, await client.read(first * size, READ_PAGES * size))
            continue
        for page in range(first, first + READ_PAGES):
            try:
                pages.check(page, await client.read(page * size, size))
            except CommandError as error:
                if error.errno != Error.EIO:
                    raise
                failed.add(page)
    return failed
