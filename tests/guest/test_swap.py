"""A Linux guest swaps twice its memory to the server and finds every page as it left it.

The first test is part of every run; the others take minutes and need `--long` (`make guest`).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nbdswap.addresses import UnixAddress
from nbdswap.admin_client import Upgraded, upgrade
from tests.conftest import ServerFactory
from tests.guest.conftest import built_image
from tests.guest.image import Image
from tests.guest.machine import GuestSettings, Hook, run_guest
from tests.guest.report import Report
from tests.support.pages import MIB, PAGE_BYTES
from tests.support.process import ServerProcess
from tests.support.servers import EXPORT, Server, free_port
from tests.support.tools import require

# The pages that the guest writes come to about 100 MiB when compressed: a quarter fits the pool.
POOL_BYTES = 24 * MIB
EXPORT_BYTES = 512 * MIB
MOST_OF_RUN_S = 420
# Per cent of a phase; in the middle of it, each while the guest goes on.
UPGRADES_AT = (30, 45, 60, 75, 90)
# And how long the server is away, beside the time that it takes to start.
KILLS_AT = [
    *(("touch", percent, away_s) for percent, away_s in ((40, 0), (60, 5), (80, 0))),
    *(("verify1", percent, away_s) for percent, away_s in ((15, 0), (50, 5), (80, 0))),
    *(("verify2", percent, away_s) for percent, away_s in ((20, 0), (70, 0))),
]

pytestmark = pytest.mark.timeout(600)


class Samples:
    """Where the server's pages were at some moments of the run."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.pages: list[dict[str, int]] = []

    def take(self) -> None:
        if self._server.kind == "nbdswap":
            self.pages.append(self._server.pages())

    def check(self) -> None:
        """At the peak most of the pages that take room were in the store."""
        if self._server.kind != "nbdswap":
            return
        peak = max(self.pages, key=lambda pages: pages["store"] + pages["pool"])
        assert peak["store"] > peak["pool"] + peak["raw"], f"too few pages in the store: {peak}"


def check_report(report: Report) -> None:
    assert report.ok, json.dumps(report.summary(), indent=1)


def swap(
    server: Server,
    image: Image,
    settings: GuestSettings,
    phases: tuple[str, ...],
    sampled_at: Sequence[int] = (50, 100),
) -> Report:
    """Runs the guest and checks both sides: its report, and where the server's pages were."""
    samples = Samples(server)
    hooks = [Hook(phase, percent, samples.take) for phase in phases for percent in sampled_at]
    report = run_guest(settings, image, hooks)
    check_report(report)
    samples.check()
    return report


@pytest.fixture
def swap_server(server: ServerFactory) -> Server:
    return server(size_bytes=EXPORT_BYTES, pool_bytes=POOL_BYTES)


def test_a_guest_swaps_more_than_twice_its_memory(swap_server: Server, image: Image) -> None:
    settings = GuestSettings(port=swap_server.port, export=EXPORT, free=False)
    assert settings.touch_mib >= 2 * settings.ram_mib
    report = swap(swap_server, image, settings, ("touch", "verify1"))
    assert report.pages_verified == settings.touch_mib * MIB // PAGE_BYTES
    assert report.events["swapoff"] == {"rc": 0}
    assert report.events["diskstat"]["discards"], "swapon --discard sends at least one"


@pytest.mark.long
@pytest.mark.parametrize("connections", [1, 2])
def test_rewritten_and_freed_pages_are_right(
    swap_server: Server, image: Image, connections: int
) -> None:
    settings = GuestSettings(
        port=swap_server.port,
        export=EXPORT,
        connections=connections,
        rounds=2,
        timeout_s=MOST_OF_RUN_S,
    )
    report = swap(swap_server, image, settings, ("touch", "verify1", "verify2", "final"))
    assert int(report.events["diskstat"]["discards"]) > 1, "freed memory was not discarded"


@pytest.mark.long
@pytest.mark.only_nbdswap
@pytest.mark.parametrize("connections", [1, 2])
def test_the_server_is_upgraded_under_a_guest_that_swaps(
    swap_server: Server, image: Image, connections: int
) -> None:
    """During touch and verify, with nothing but a plain nbd-client."""
    settings = GuestSettings(
        port=swap_server.port,
        export=EXPORT,
        connections=connections,
        touch_mib=192,
        free=False,
        timeout_s=MOST_OF_RUN_S,
    )
    done: list[Upgraded] = []

    def upgrade_now() -> None:
        done.append(upgrade(UnixAddress(swap_server.admin_path)))

    moments = [(phase, percent) for phase in ("touch", "verify1") for percent in UPGRADES_AT]
    report = run_guest(settings, image, [Hook(*moment, upgrade_now) for moment in moments])
    check_report(report)
    assert len(done) == len(moments)
    assert all((one.handed_over, one.dropped) == (connections, 0) for one in done)
    assert report.pages_verified == settings.touch_mib * MIB // PAGE_BYTES
    assert swap_server.pages()["lost"] == 0


@pytest.mark.long
@pytest.mark.only_nbdswap
@pytest.mark.parametrize("connections", [1, 2])
def test_the_server_is_killed_under_a_guest_that_swaps(
    swap_server: Server, image: Image, connections: int
) -> None:
    """During touch and verify; nbdkeep attaches the guest to each server that follows."""
    settings = GuestSettings(
        port=swap_server.port,
        export=EXPORT,
        connections=connections,
        client="nbdkeep",
        touch_mib=192,
        rounds=2,
        free=False,
        timeout_s=MOST_OF_RUN_S,
    )

    def kill(away_s: int) -> None:
        swap_server.kill()
        time.sleep(away_s)
        swap_server.start()

    hooks = [
        Hook(phase, percent, functools.partial(kill, away_s)) for phase, percent, away_s in KILLS_AT
    ]
    report = run_guest(settings, image, hooks)
    check_report(report)
    assert report.pages_verified == settings.rounds * settings.touch_mib * MIB // PAGE_BYTES
    assert report.events["swapoff"] == {"rc": 0}
    returns = report.console.count(" is back after ")
    assert returns >= len(KILLS_AT) * connections, f"{returns} connections came back"
    status = swap_server.status()
    assert (status["upgrades"]["done_total"], swap_server.pages()["lost"]) == (0, 0)


@pytest.mark.long
def test_processes_with_working_sets_come_and_go(swap_server: Server, image: Image) -> None:
    settings = GuestSettings(
        port=swap_server.port, export=EXPORT, program="workset", touch_mib=224, rounds=2
    )
    # Whenever a process ends: after one of them there may be little swapped out.
    swap(swap_server, image, settings, ("workset",), sampled_at=range(10, 101, 10))


@pytest.mark.long
def test_a_newer_kernel_swaps_too(swap_server: Server) -> None:
    settings = GuestSettings(port=swap_server.port, export=EXPORT, free=False)
    swap(swap_server, built_image("6.12-cloud"), settings, ("touch", "verify1"))


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """nbdkit with a file that a test can damage behind its back."""
    nbdkit = require("nbdkit", "nbdkit")
    disk, port = tmp_path / "disk", free_port()
    with disk.open("wb") as file:
        file.truncate(EXPORT_BYTES)
    # nbdkit does not say when it listens; this does, once the pid file is there.
    command = f"{nbdkit} -i 127.0.0.1 -p {port} -P {tmp_path / 'pid'} file {disk} && echo ready"
    starter = ServerProcess(["sh", "-c", command], log=tmp_path / "log", ready_prefix="ready")
    try:
        assert starter.wait() == 0, starter.log_text
        yield port, disk
    finally:
        stop_by_pid_file(tmp_path / "pid")


def stop_by_pid_file(path: Path) -> None:
    os.kill(int(path.read_text()), signal.SIGTERM)


def damage(disk: Path) -> None:
    """Flips one bit in every 97th page, but not in the swap header."""
    with disk.open("r+b") as file:
        for page in range(97, EXPORT_BYTES // PAGE_BYTES, 97):
            file.seek(page * PAGE_BYTES + 2049)
            (byte,) = file.read(1)
            file.seek(page * PAGE_BYTES + 2049)
            file.write(bytes((byte ^ 1,)))


@pytest.mark.long
def test_the_guest_notices_damaged_pages(file_server: tuple[int, Path], image: Image) -> None:
    port, disk = file_server
    settings = GuestSettings(port=port, touch_mib=160, free=False)
    report = run_guest(settings, image, [Hook("verify1", 10, lambda: damage(disk))])
    assert not report.ok
    assert report.pages_wrong > 0
    assert report.why == f"{report.pages_wrong} pages were wrong or unreadable"
