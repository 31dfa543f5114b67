"""How long the next program takes to take over, in an upgrade and after a kill.

    python bench/upgrade.py --pool 256M --pool 1G --upgrades 5 --kills 5

For each size a server is started and its pool filled with real pages (bench/pages), each written
to a place of its own. Then one connection keeps 16 random reads of 4 KiB in flight, compares every
page, and the server is upgraded several times. Printed for each upgrade: the longest that any
request took, the pause that the server measured itself, and from its log how long it took to adopt
the memory. Then it is killed with SIGKILL and started again, several times: how long the adoption
took, and how long it was from the start of the program to "ready". At the end every page is read.
No store: every page is in the pool.
"""

from __future__ import annotations

import argparse
import asyncio
import lzma
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from nbdswap.nbd.client import Client
from nbdswap.nbd.negotiator import connect
from nbdswap.units import parse_size

PAGE_BYTES = 4096
WRITE_PAGES = 32
DEPTH = 16
# As full as a pool with a store would be at most.
FULL = 0.95
MEMORY_PARENT = "/dev/shm"  # noqa: S108 -- a directory of its own is made there
PAGES_DIRECTORY = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where its things are."""

    process: subprocess.Popen[bytes]
    directory: Path
    ready_s: float
    """From the start of the program on."""

    @property
    def admin(self) -> UnixAddress:
        return UnixAddress(self.directory / "admin")

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()


def real_pages() -> list[bytes]:
    """All whole pages of the sample."""
    data = b"".join(lzma.decompress(path.read_bytes()) for path in PAGES_DIRECTORY.glob("*.xz"))
    whole = range(0, len(data) - PAGE_BYTES + 1, PAGE_BYTES)
    return [data[at : at + PAGE_BYTES] for at in whole]


def start(directory: Path, memory_dir: Path, pool_bytes: int) -> Server:
    (directory / "config.yaml").write_text(f"memory_dir: {memory_dir}\npool: {{populate: on}}\n")
    command = [str(Path(sys.executable).parent / "nbdswap"), "serve", "-c", "config.yaml"]
    command += ["--unix", "nbd", "--admin", "unix:admin", "--state-dir", "state", "--store", "none"]
    command += [f"--export=swap={8 * pool_bytes}", f"--pool-size={pool_bytes}"]
    began_s = time.monotonic()
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"ready"):
            return Server(process, directory, time.monotonic() - began_s)
    raise SystemExit((directory / "log").read_text())


async def fill(server: Server, client: Client, pages: list[bytes], pool_bytes: int) -> int:
    """Writes until the pool is full; how many pages."""
    count = 0
    while True:
        for _ in range(64):
            run = [pages[index % len(pages)] for index in range(count, count + WRITE_PAGES)]
            await client.write(count * PAGE_BYTES, b"".join(run))
            count += WRITE_PAGES
        pool = (await asyncio.to_thread(admin_client.ask, server.admin))["pool"]
        if pool["block_bytes"] > FULL * pool_bytes:
            return count


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What the upgrades came to."""

    pages: int
    """That were written before."""
    results: list[tuple[float, float]]
    """Longest request and the server's own pause of each, seconds."""


class Readers:
    """Reads in flight, and the longest of them."""

    def __init__(self, client: Client, pages: list[bytes], count: int) -> None:
        self._client = client
        self._pages = pages
        self._count = count
        self.longest_s = 0.0
        self.stopping = False

    async def read(self, rng: random.Random) -> None:
        while not self.stopping:
            index = rng.randrange(self._count)
            began_s = time.monotonic()
            data = await self._client.read(index * PAGE_BYTES, PAGE_BYTES)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            if data != self._pages[index % len(self._pages)]:
                raise SystemExit(f"page {index} is wrong")


async def measure(server: Server, pool_bytes: int, upgrades: int) -> Upgraded:
    """Fills the pool and upgrades the server under reads."""
    pages, results = real_pages(), []
    async with await connect(str(server.directory / "nbd"), "swap") as client:
        count = await fill(server, client, pages, pool_bytes)
        print(f"{count} pages written")
        readers = Readers(client, pages, count)
        async with asyncio.TaskGroup() as tasks:
            for seed in range(DEPTH):
                tasks.create_task(readers.read(random.Random(seed)))  # noqa: S311
            await asyncio.sleep(1)
            print(f"without upgrade, 1 s: longest request {readers.longest_s * 1000:.0f} ms")
            for _ in range(upgrades):
                readers.longest_s = 0.0
                upgraded = await asyncio.to_thread(admin_client.upgrade, server.admin)
                results.append((readers.longest_s, upgraded.pause_s))
            readers.stopping = True
    return Upgraded(count, results)


async def check_all(server: Server, count: int) -> None:
    pages = real_pages()
    async with await connect(str(server.directory / "nbd"), "swap") as client:
        for first in range(0, count, WRITE_PAGES):
            data = await client.read(first * PAGE_BYTES, WRITE_PAGES * PAGE_BYTES)
            run = [pages[index % len(pages)] for index in range(first, first + WRITE_PAGES)]
            if data != b"".join(run):
                raise SystemExit(f"one of the pages from {first} on is wrong")


def run(pool_bytes: int, upgrades: int, kills: int) -> None:
    directories = [
        Path(tempfile.mkdtemp(prefix="nbdswap-bench.", dir=parent))
        for parent in (None, MEMORY_PARENT)
    ]
    server = start(*directories, pool_bytes)
    try:
        print(f"pool of {pool_bytes >> 20} MiB")
        done = asyncio.run(measure(server, pool_bytes, upgrades))
        adopted = re.findall(r"adopted the memory .* pages=(\d+) ms=(\d+)", server.log)
        for (longest_s, pause_s), (pages, adopt_ms) in zip(done.results, adopted, strict=True):
            print(
                f"longest request {longest_s * 1000:5.0f} ms, pause {pause_s * 1000:5.0f} ms, "
                f"of which {adopt_ms} ms to adopt {pages} pages"
            )
        for what, column in (("longest request", 0), ("pause", 1)) if upgrades else ():
            report(what, [result[column] * 1000 for result in done.results])
        ready_ms = []
        for _ in range(kills):
            server.process.kill()
            server.process.wait()
            server = start(*directories, pool_bytes)
            ready_ms.append(server.ready_s * 1000)
        adopted = re.findall(r"adopted the memory .* pages=(\d+) ms=(\d+)", server.log)[upgrades:]
        for (pages, adopt_ms), ready in zip(adopted, ready_ms, strict=True):
            print(f"killed: {adopt_ms} ms to adopt {pages} pages, ready after {ready:.0f} ms")
        if kills:
            report("adoption after a kill", [float(ms) for _, ms in adopted])
            report("from start to ready", ready_ms)
            asyncio.run(check_all(server, done.pages))
            print("every page is right")
    finally:
        server.process.terminate()
        server.process.wait()
        for each in directories:
            shutil.rmtree(each)


def report(what: str, values_ms: list[float]) -> None:
    print(f"{what}: median {statistics.median(values_ms):.0f} ms, most {max(values_ms):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pool", action="append", help="size of the pool; repeatable")
    parser.add_argument("--upgrades", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    arguments = parser.parse_args()
    for size in arguments.pool or ["256M", "1G"]:
        run(parse_size(size), arguments.upgrades, arguments.kills)


if __name__ == "__main__":
    main()
