"""The short form of `make kills`: what was acknowledged before a kill is there after it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.kills.life import Lives, kill_while_starting
from tests.kills.plan import PAGES, Machine, Moment, Store, plan
from tests.support.pages import MIB, PAGE_BYTES, make_distinct_page
from tests.support.rawnbd import Command, RawClient
from tests.support.servers import EXPORT, Server

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [1]

pytestmark = pytest.mark.only_nbdswap


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", range(4))
def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(seed: int, number: int) -> None:
    machine = plan(seed, 20)[number]
    kills = list(Lives(machine, random.Random(seed + number)).kills())
    assert [kill.moment for kill in kills] == machine.moments
    last = kills[-1]
    assert last.pages_used > PAGES // 4, "too few pages were written"
    in_pool = last.pages["pool"] + last.pages["raw"]
    if machine.store is Store.NONE:
        assert last.pages["store"] == 0
    elif machine.is_durable:
        assert last.pages["store"] > 0
    else:
        assert last.pages["store"] > in_pool > 0, f"both were meant to be used: {last.pages}"


def test_a_plan_has_everything_in_it() -> None:
    machines = plan(3, 50)
    assert sum(len(machine.moments) for machine in machines) == 50
    assert {moment for machine in machines for moment in machine.moments} == set(Moment)
    assert {machine.store for machine in machines} == set(Store)
    assert len({machine.zpool for machine in machines}) == 5
    assert len({machine.codec for machine in machines}) == 6
    assert {machine.connections for machine in machines} == {1, 2}
    assert plan(3, 50) == machines
    assert all(machine.moments[0] is not Moment.ADOPTION for machine in machines)


class Amnesia:
    """Puts the first dead server's files back in place of the second one's: a planted bug."""

    def __init__(self, files: Callable[[Server], list[Path]]) -> None:
        self._files = files
        self._first: dict[Path, bytes] = {}

    def __call__(self, server: Server) -> None:
        for path in self._files(server):
            if path in self._first:
                path.write_bytes(self._first[path])
            self._first[path] = path.read_bytes()


def test_a_server_that_forgets_acknowledged_writes_is_found_out() -> None:
    machine = Machine(
        zpool="zfit", codec="lz4", store=Store.NONE, connections=1, moments=[Moment.LOAD] * 2
    )
    with pytest.raises(AssertionError, match=r"page \d+ begins .*, allowed: "):
        list(Lives(machine, random.Random(4), Amnesia(Server.memory_files)).kills())


def test_a_disk_that_forgets_what_was_flushed_is_found_out_after_a_loss_of_the_host() -> None:
    moments = [Moment.LOAD, Moment.LOSS]
    machine = Machine(zpool="zfit", codec="lz4", store=Store.DISK, connections=1, moments=moments)
    amnesia = Amnesia(lambda server: [server.store_path])
    with pytest.raises(AssertionError, match=r"page \d+ begins .*, allowed: "):
        list(Lives(machine, random.Random(4), amnesia).kills())


STARTS = 6


def page_of(server: Server) -> str:
    """What the first page answers."""
    with RawClient.connect(server.unix_path, EXPORT) as client:
        reply = client.call(Command.READ, 0, PAGE_BYTES)
        return "zeroes" if reply.data == bytes(PAGE_BYTES) else reply.error_name


def test_a_kill_while_memory_is_made_leaves_nothing_that_is_refused(server: ServerFactory) -> None:
    """At the first start, and at the one after a reboot, which knows that pages are lost."""
    rng = random.Random(7)
    running = server(start=False, pool_bytes=32 * MIB)
    for _ in range(STARTS):
        kill_while_starting(running, rng.uniform(0, 0.02))
    running.start()
    assert page_of(running) == "zeroes"
    with RawClient.connect(running.unix_path, EXPORT) as client:
        client.write(0, make_distinct_page(7, 0))
    for _ in range(STARTS):
        running.kill()
        running.delete_memory_files()
        kill_while_starting(running, rng.uniform(0, 0.02))
        running.start()
        assert page_of(running) == "EIO"
