"""Zpool and codec change under a client's load, by the command an operator uses.

One client writes, discards and reads pages in many tasks at a time while the server goes through
every ordered pair of zpools and all codecs. Each read is compared with what was acknowledged
last; in the end every page is, and again after a kill in the middle of moving.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from nbdswap import admin_client
from nbdswap.addresses import UnixAddress
from nbdswap.errors import UsageError
from nbdswap.nbd.client import Client
from nbdswap.nbd.negotiator import connect
from tests.conftest import ServerFactory
from tests.support.load import READ_PAGES, Load, check_all
from tests.support.model import Pages
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, Server, nbdswap_command

TASKS = 8
PAGES = 4096
# Of 64 MiB under load, moving takes the better part of a second: time to kill it in.
KILLS = 6
PAGES_TO_KILL = 16384
# Requests between two changes: some hundred pages of the new codec in the new zpool.
REQUESTS_PER_CHANGE = 80
# Four for each task: those that were under way at the change are not enough.
SERVED_WHILE_MOVING = 4 * TASKS
TIMEOUT_S = 60.0
MOVED_TIMEOUT_S = 20.0

Json = dict[str, Any]

pytestmark = pytest.mark.only_nbdswap


async def change(server: Server, **asked: object) -> Json:
    """The answer to a change, asked for as `nbdswap set` does."""
    return await asyncio.to_thread(admin_client.change, UnixAddress(server.admin_path), asked)


async def names_of(server: Server, what: str) -> list[str]:
    """All zpools or codecs, as a refusal lists them."""
    try:
        await change(server, **{what: "?"})
    except UsageError as refusal:
        _, _, names = str(refusal).partition("wanted one of ")
        return names.split(", ")
    raise AssertionError(f"{what} ? was accepted")


def walk_over_pairs(names: list[str]) -> Iterator[str]:
    """Names in an order in which each follows each other one once; begins behind the first."""
    left = {name: [other for other in names if other != name] for name in names}
    # Hierholzer: an Eulerian walk over the complete directed graph.
    trail, walk = [names[0]], []
    while trail:
        if left[trail[-1]]:
            trail.append(left[trail[-1]].pop())
        else:
            walk.append(trail.pop())
    walk.reverse()
    assert len(set(itertools.pairwise(walk))) == len(names) * (len(names) - 1)
    return iter(walk[1:])


async def fill(client: Client, pages: Pages, rng: random.Random) -> None:
    for first in range(0, pages.count, READ_PAGES):
        contents = [pages.new_page(rng) for _ in range(READ_PAGES)]
        await client.write(first * PAGE_BYTES, b"".join(contents))
        pages.acknowledge(first, contents)


async def pool_of(server: Server) -> Json:
    status = await asyncio.to_thread(admin_client.ask, UnixAddress(server.admin_path))
    pool: Json = status["pool"]
    return pool


async def pool_when_moved(server: Server) -> Json:
    """The pool when no former zpool holds anything."""
    async with asyncio.timeout(MOVED_TIMEOUT_S):
        while (pool := await pool_of(server))["former_objects"]:
            pass
    return pool


async def switch_under_load(server: Server, client: Client, pages: Pages) -> set[str]:
    """Every pair of zpools and of codecs, while requests go on; codecs that were seen at work."""
    load = Load([client], pages, random.Random(0), tasks=TASKS)
    seen = set()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(load.run())
        zpools = list(walk_over_pairs(await names_of(server, "zpool")))
        codecs = list(walk_over_pairs(await names_of(server, "codec")))
        changes = max(len(zpools), len(codecs))
        for number, zpool, codec in zip(
            range(changes), itertools.cycle(zpools), itertools.cycle(codecs), strict=False
        ):
            before = await pool_of(server)
            answer = await change(server, zpool=zpool, codec=codec)
            assert answer["before"]["zpool"] == before["zpool"], f"change {number}"
            now = answer["now"]
            assert (now["zpool"], now["codec"]) == (zpool, codec)
            await load.pass_requests(REQUESTS_PER_CHANGE)
            seen |= {
                name for name, count in (await pool_of(server))["codec_pages"].items() if count
            }
        assert not running.done()
        load.stop()
    return seen


@pytest.mark.parametrize("store", [True, False], ids=["store", "no-store"])
def test_every_pair_of_zpools_and_codecs_under_load(
    server: ServerFactory, rng: random.Random, *, store: bool
) -> None:
    # With a store the pool is a fraction of the pages, so that writing back goes on as well.
    pool_bytes = 4 * MIB if store else 32 * MIB
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=pool_bytes, store=store)
    pages = Pages(rng, PAGES)

    async def scenario() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            await connect(str(running.unix_path), EXPORT) as client,
        ):
            await fill(client, pages, rng)
            seen = await switch_under_load(running, client, pages)
            assert {"lz4", "zstd", "lzo", "deflate", "none"} <= seen
            await check_all(client, pages)
            pool = await pool_when_moved(running)
            assert pool["pages_moved"] > PAGES // 8, "hardly anything moved"
            assert {size_class["zpool"] for size_class in pool["classes"]} == {pool["zpool"]}
            await check_all(client, pages)

    asyncio.run(scenario())
    by_place = running.pages()
    assert (by_place["store"] > 0, by_place["lost"]) == (store, 0)


def test_clients_are_served_while_pages_move(server: ServerFactory, rng: random.Random) -> None:
    running = server(
        size_bytes=PAGES_TO_KILL * PAGE_BYTES, pool_bytes=96 * MIB, arguments=("--codec=none",)
    )
    pages = Pages(rng, PAGES_TO_KILL)
    zpools_with_classes: set[frozenset[str]] = set()

    async def served_while_moving(load: Load, zpool: str) -> tuple[int, int]:
        """Requests answered and pages moved between two moments in the middle of one change."""
        await change(running, zpool=zpool)
        moments: list[tuple[int, int]] = []
        while (pool := await pool_of(running))["former_objects"]:
            moments.append((load.requests, pool["pages_moved"]))
            zpools_with_classes.add(frozenset(each["zpool"] for each in pool["classes"]))
        if not moments:
            # All was moved before anybody looked.
            return 0, 0
        (requests, moved), (requests_last, moved_last) = moments[0], moments[-1]
        return requests_last - requests, moved_last - moved

    async def scenario() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            await connect(str(running.unix_path), EXPORT) as client,
        ):
            await fill(client, pages, rng)
            zpools = itertools.cycle(walk_over_pairs(await names_of(running, "zpool")))
            load = Load([client], pages, random.Random(2), tasks=TASKS)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                await load.pass_requests(REQUESTS_PER_CHANGE)
                found = [await served_while_moving(load, next(zpools)) for _ in range(KILLS)]
                load.stop()
            await check_all(client, pages)
            # Had everybody to wait until all is moved, nobody would be served meanwhile. Seconds
            # tell nothing: moving all of it takes less than a request may on a busy machine.
            assert any(
                requests >= SERVED_WHILE_MOVING and moved >= PAGES_TO_KILL // 8
                for requests, moved in found
            ), found
            assert max(map(len, zpools_with_classes)) == 2, "none of a zpool that pages leave"

    asyncio.run(scenario())


def test_a_kill_in_the_middle_of_moving_loses_nothing(
    server: ServerFactory, rng: random.Random
) -> None:
    running = server(
        size_bytes=PAGES_TO_KILL * PAGE_BYTES, pool_bytes=96 * MIB, arguments=("--codec=none",)
    )
    pages = Pages(rng, PAGES_TO_KILL)

    async def live_and_die() -> None:
        client = await connect(str(running.unix_path), EXPORT)
        try:
            await fill(client, pages, rng)
            zpools = await names_of(running, "zpool")
            load = Load([client], pages, random.Random(1), tasks=TASKS)
            async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                await load.pass_requests(REQUESTS_PER_CHANGE)
                current = (await pool_of(running))["zpool"]
                await change(running, zpool=rng.choice([z for z in zpools if z != current]))
                while (await pool_of(running))["pages_moved"] == 0:
                    pass
                load.is_ending = True
                os.kill(running.pid, signal.SIGKILL)
        finally:
            await client.close()

    async def come_back() -> bool:
        async with (
            asyncio.timeout(TIMEOUT_S),
            await connect(str(running.unix_path), EXPORT) as client,
        ):
            await check_all(client, pages)
            pool = await pool_when_moved(running)
            await check_all(client, pages)
            # What the first life had moved, this one moves back. Was it not all?
            return bool(0 < pool["pages_moved"] < pool["objects"])

    def die_and_come_back() -> bool:
        asyncio.run(live_and_die())
        running.kill()
        running.start()
        was_in_the_middle = asyncio.run(come_back())
        assert running.pages()["lost"] == 0
        return was_in_the_middle

    # A busy machine may have moved everything by the time of the kill.
    assert any(die_and_come_back() for _ in range(KILLS)), "no kill was in the middle"


def test_a_start_with_another_zpool_and_codec_keeps_every_page(
    server: ServerFactory, rng: random.Random
) -> None:
    running = server(size_bytes=PAGES * PAGE_BYTES, pool_bytes=4 * MIB)
    pages = Pages(rng, PAGES)

    async def begin() -> list[str]:
        async with await connect(str(running.unix_path), EXPORT) as client:
            await fill(client, pages, rng)
        return await names_of(running, "zpool")

    async def go_on(zpool: str) -> None:
        async with await connect(str(running.unix_path), EXPORT) as client:
            await check_all(client, pages)
            pool = await pool_when_moved(running)
            assert (pool["zpool"], pool["codec"]) == (zpool, "zstd")
            assert pool["pages_moved"] > 0
            await check_all(client, pages)

    _, *others = asyncio.run(begin())
    for zpool in others:
        running.stop()
        arguments = (f"--zpool={zpool}", "--codec=zstd")
        running.start(dataclasses.replace(running.settings, arguments=arguments))
        asyncio.run(go_on(zpool))
    assert running.pages()["lost"] == 0


def test_the_command_changes_a_server_and_says_what_was(server: ServerFactory) -> None:
    running = server(pool_bytes=32 * MIB)
    command = [*nbdswap_command(), "set", f"--admin=unix:{running.admin_path}"]
    result = subprocess.run(
        [*command, "--zpool=zsmalloc", "--codec=zstd:5"],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("zpool is zsmalloc, was zfit\ncodec is zstd:5, was lz4:1\n")
    pool = running.status()["pool"]
    assert (pool["zpool"], pool["codec"], pool["codec_level"]) == ("zsmalloc", "zstd", 5)
