"""The admin endpoints, over a real socket."""

import asyncio
import io
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from nbdswap.addresses import UnixAddress
from nbdswap.admin import AdminSite
from nbdswap.listeners import bind_all, close_all
from nbdswap.snapshots import CoreSnapshot, ServerSnapshot, Snapshot
from nbdswap.status import hints_of, status_of
from nbdswap.status_view import view
from tests.unit.fake_core import FakeCore, fake_exports
from tests.unit.loop import run


class Source:
    """A server whose condition the test sets."""

    def __init__(self) -> None:
        pool = {"zpool": "zblock", "frame_bytes": 4096, "pool_bytes_max": 1 << 20, "store": None}
        codec = {"codec": "lz4", "codec_level": 1, "page_bytes": 4096}
        self.core = FakeCore({"exports": fake_exports("swap")} | pool | codec, adopted=False)
        self.ready = True
        self.stopping = False

    def take(self) -> Snapshot:
        server = ServerSnapshot(
            version="1",
            ready=self.ready,
            stopping=self.stopping,
            uptime_seconds=1.0,
            generation=1,
            handshakes_open=0,
            handshakes_failed_total=0,
            connections_refused_total=0,
            hardening={},
        )
        return Snapshot(self.core.snapshot(), server)


async def get(path: Path, *urls: str) -> list[tuple[int, str, str]]:
    """Status, content type and text of each."""
    answers = []
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        for url in urls:
            async with session.get(f"http://localhost{url}") as response:
                content = response.headers["Content-Type"]
                answers.append((response.status, content, await response.text()))
    return answers


def ask(source: Source, path: Path, *urls: str) -> list[tuple[int, str, str]]:
    """Answers of a site that is started and stopped around them."""

    async def scenario() -> list[tuple[int, str, str]]:
        listeners = bind_all([UnixAddress(path)])
        site = AdminSite(source.take)
        try:
            await site.start(listeners[0].sock)
            return await asyncio.wait_for(get(path, *urls), 30)
        finally:
            await site.stop()
            await site.stop()
            close_all(listeners)

    return run(scenario())


def test_metrics_are_in_the_format_of_prometheus(tmp_path: Path) -> None:
    [(status, content, text)] = ask(Source(), tmp_path / "s", "/metrics")
    assert status == 200
    assert content.startswith("text/plain; version=")
    assert 'nbdswap_pages{export="swap",tier="pool"} 0.0\n' in text
    assert "process_resident_memory_bytes " in text


@pytest.mark.parametrize(
    ("ready", "stopping", "answer"),
    [
        (True, False, (200, "ready\n")),
        (False, False, (503, "starting\n")),
        (True, True, (503, "stopping\n")),
    ],
)
def test_readiness_is_not_health(
    *, ready: bool, stopping: bool, answer: tuple[int, str], tmp_path: Path
) -> None:
    source = Source()
    source.ready, source.stopping = ready, stopping
    health, readiness = ask(source, tmp_path / "s", "/healthz", "/readyz")
    assert (health[0], health[2]) == (200, "ok\n")
    assert (readiness[0], readiness[2]) == answer


def test_nothing_else_is_served(tmp_path: Path) -> None:
    [(status, _, _)] = ask(Source(), tmp_path / "s", "/")
    assert status == 404


def test_status_tells_how_full_the_blocks_are() -> None:
    pool = status_of(Source().take())["pool"]
    # What the system gave says nothing of the load.
    assert pool["block_bytes"] == 40000 < pool["used_bytes"]


def test_status_shows_the_classes_that_have_blocks_when_asked() -> None:
    status = status_of(Source().take())
    idle = status["pool"]["classes"][0] | {"blocks": 0, "slots": 0, "object_bytes_max": 48}
    status["pool"]["classes"].append(idle)
    shown = {}
    for classes in (False, True):
        console = Console(width=120, file=io.StringIO())
        console.print(view(status, None, classes=classes))
        shown[classes] = console.file.getvalue()
    assert "Size classes of zblock" not in shown[False]
    [line] = [line for line in shown[True].splitlines() if "1,360" in line]
    assert "93.3 %" in line
    assert "70-80: 1, full: 9" in line
    assert "48" not in shown[True].partition("Size classes")[2]


def test_a_healthy_server_gives_no_hints() -> None:
    assert hints_of(Source().core.snapshot()) == []


def test_hints_say_what_an_operator_should_act_on() -> None:
    source = Source()
    source.core.opened_with["store"] = {"path": "/s", "capacity_bytes": 1 << 30}
    core: CoreSnapshot = source.core.snapshot()
    assert core["store"] is not None
    core["store"]["degraded"] = core["pool"]["is_stuck"] = True
    core["exports"][0]["pages"]["lost"] = 7
    failing, stuck, lost = hints_of(core)
    assert failing.startswith("the last write to /s failed")
    assert "refused with ENOSPC" in stuck
    assert lost.startswith("export swap has lost 7 pages")
