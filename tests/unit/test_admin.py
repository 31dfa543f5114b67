"""The admin endpoints, over a real socket."""

import asyncio
import io
import json
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.admin import AdminSite, Answer
from nbdswap.admin_client import CHANGE_HEADER
from nbdswap.changes import Changer
from nbdswap.errors import UpgradeError
from nbdswap.listeners import bind_all, close_all
from nbdswap.snapshots import CoreSnapshot, RoomSnapshot, ServerSnapshot, Snapshot
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
        self.refusal = ""

    async def upgrade(self, answer: Answer) -> None:
        """One that is refused, or gets to the point and is called off."""
        if self.refusal:
            raise UpgradeError(self.refusal)
        await answer("2")
        raise UpgradeError("called off")

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
        site = AdminSite(source.take, Changer(source.core).apply, source.upgrade)
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
    # As zfit's: blocks of different lengths.
    uneven = status["pool"]["classes"][0] | {"block_frames": 0, "block_slots": 0, "frames": 1234}
    status["pool"]["classes"] += [idle, uneven | {"object_bytes_max": 2222}]
    shown = {}
    for classes in (False, True):
        console = Console(width=120, file=io.StringIO())
        console.print(view(status, None, classes=classes))
        shown[classes] = console.file.getvalue()
    assert "Size classes of zblock" not in shown[False]
    [line] = [line for line in shown[True].splitlines() if "1,360" in line]
    assert "93.3 %" in line
    assert "70-80: 1, full: 9" in line
    [line] = [line for line in shown[True].splitlines() if "2,222" in line]
    assert line.replace("│", " ").split()[:5] == ["2,222", "-", "-", "10", "1,234"]
    assert "48" not in shown[True].partition("Size classes")[2]


def test_status_shows_the_classes_of_each_zpool_by_itself() -> None:
    status = status_of(Source().take())
    status["pool"]["classes"] += [
        status["pool"]["classes"][0] | {"zpool": "zbud", "object_bytes_max": 3333}
    ]
    console = Console(width=120, file=io.StringIO())
    console.print(view(status, None, classes=True))
    _, _, current = console.file.getvalue().partition("Size classes of zblock")
    current, _, former = current.partition("Size classes of zbud, which pages leave")
    assert ("1,360" in current, "3,333" in current) == (True, False)
    assert ("1,360" in former, "3,333" in former) == (False, True)


def test_a_healthy_server_gives_no_hints() -> None:
    assert hints_of(Source().take()) == []


def test_hints_say_what_an_operator_should_act_on() -> None:
    source = Source()
    source.core.opened_with["store"] = {"path": "/s", "capacity_bytes": 1 << 30}
    snapshot = source.take()
    core: CoreSnapshot = snapshot.core
    assert core["store"] is not None
    core["store"]["degraded"] = core["store"]["over_budget"] = core["pool"]["is_stuck"] = True
    core["store"]["silent"] = True
    core["exports"][0]["pages"]["lost"] = 7
    silent, failing, spent, stuck, lost = hints_of(snapshot)
    assert silent.startswith("/s does not answer")
    console = Console(width=120, file=io.StringIO())
    console.print(view(status_of(snapshot), None))
    assert "Store (silent: stored pages cannot be read)" in console.file.getvalue()
    assert failing.startswith("/s cannot be written")
    assert "store.write_bytes_per_day_max" in spent
    assert "refused with ENOSPC" in stuck
    assert lost.startswith("export swap has lost 7 pages")


def test_hints_say_what_nears_its_end() -> None:
    source = Source()
    source.core.opened_with["store"] = {"path": "/s", "capacity_bytes": 1 << 30}
    snapshot = source.take()
    assert status_of(snapshot)["store"]["room"] is None
    server = replace(
        snapshot.server,
        room=RoomSnapshot(free_bytes=1 << 20, growth_bytes=2 << 20),
        troubles={"store_nearly_full": True, "file_system_nearly_full": True},
    )
    snapshot = replace(snapshot, server=server)
    store, file_system = hints_of(snapshot)
    assert store.startswith("1.00 MiB of the 1.00 GiB of /s are in use")
    assert "has 1.00 MiB left, and the file may still grow by 2.00 MiB" in file_system
    status = status_of(snapshot)
    assert status["store"]["room"] == {"free_bytes": 1 << 20, "growth_bytes": 2 << 20}
    assert status["troubles"]["store_nearly_full"] is True
    console = Console(width=120, file=io.StringIO())
    console.print(view(status, None))
    assert (
        "may still grow by 2.00 MiB; its file system has 1.00 MiB left" in console.file.getvalue()
    )


GOOD = {CHANGE_HEADER: "yes", "Content-Type": "application/json"}
LOOPBACK = TcpAddress("127.0.0.1", 0)


def post(
    source: Source,
    where: Address,
    body: str,
    headers: Mapping[str, str] = GOOD,
    path: str = "/set",
) -> tuple[int, dict[str, object]]:
    """Status and JSON of one request for a change."""

    async def scenario() -> tuple[int, dict[str, object]]:
        [listener] = bind_all([where])
        site = AdminSite(source.take, Changer(source.core).apply, source.upgrade)
        try:
            await site.start(listener.sock)
            connector: aiohttp.BaseConnector = aiohttp.TCPConnector()
            url = f"http://{listener.address}{path}"
            if isinstance(listener.address, UnixAddress):
                connector = aiohttp.UnixConnector(str(listener.address.path))
                url = f"http://localhost{path}"
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(url, data=body.encode(), headers=headers) as response,
            ):
                return response.status, await response.json()
        finally:
            await site.stop()
            close_all([listener])

    return run(scenario())


@pytest.mark.parametrize("where", ["loopback", "unix"])
def test_a_change_answers_what_was_and_what_is(where: str, tmp_path: Path) -> None:
    source = Source()
    address = LOOPBACK if where == "loopback" else UnixAddress(tmp_path / "s")
    status, answer = post(source, address, json.dumps({"zpool": "zsmalloc", "codec": "zstd"}))
    assert (status, answer) == (
        200,
        {
            "before": {"zpool": "zblock", "codec": "lz4", "codec_level": 1},
            "now": {"zpool": "zsmalloc", "codec": "zstd", "codec_level": 3},
        },
    )
    assert status_of(source.take())["pool"]["former_objects"] == {"zblock": 30}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        # What a browser sends for a page, or what it never sends without asking first.
        (GOOD | {"Origin": "http://stranger.example"}, "a change has an Origin"),
        (GOOD | {"Origin": "http://127.0.0.1:10810"}, "a change has an Origin"),
        ({"Content-Type": "application/json"}, "a change lacks the header"),
        ({CHANGE_HEADER: "yes", "Content-Type": "text/plain"}, "a change lacks the header"),
        (GOOD | {"Host": "stranger.example"}, "a change is for host stranger.example, wanted"),
        (GOOD | {"Host": "127.0.0.1.stranger.example:10810"}, "a change is for host 127.0.0.1.str"),
        (GOOD | {"Host": "[::2]:10810"}, "a change is for host [::2]:10810, wanted"),
    ],
)
def test_a_web_page_can_change_nothing(headers: dict[str, str], said: str) -> None:
    source = Source()
    status, answer = post(source, LOOPBACK, '{"codec": "zstd"}', headers)
    assert status == 403
    assert str(answer["error"]).startswith(said)
    assert source.core.opened_with["codec"] == "lz4"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:10810", "[::1]:10810", "127.9.9.9"])
def test_every_name_of_this_machine_alone_is_good(host: str) -> None:
    assert post(Source(), LOOPBACK, '{"codec": "zstd"}', GOOD | {"Host": host})[0] == 200


def test_another_machine_can_read_and_change_nothing() -> None:
    """As far as one machine can show it: from an address of it that others reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing, but shows which address would be used.
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its own loopback")
        outside = probe.getsockname()[0]
    source = Source()
    headers = GOOD | {"Host": "localhost"}
    status, answer = post(source, TcpAddress(outside, 0), '{"codec": "zstd"}', headers)
    assert status == 403
    assert answer["error"] == (
        f"a change comes from {outside}, wanted a unix socket or a loopback address"
    )
    assert source.core.opened_with["codec"] == "lz4"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("zstd", "a change is no JSON"),
        ("[]", "a change is [], wanted an object with zpool, codec, codec_level"),
        ("{}", "a change changes nothing, wanted zpool or codec"),
        ('{"codec_level": 3}', "a change changes nothing, wanted zpool or codec"),
        ('{"workers": 2}', "workers cannot be changed, wanted zpool, codec, codec_level"),
        ('{"zpool": "zswap"}', "zpool is zswap, wanted one of zfit, zsmalloc"),
        ('{"zpool": 3}', "zpool is 3, wanted a name"),
        ('{"codec": "lzma"}', "codec is lzma, wanted one of lz4, "),
        ('{"codec": ["lz4"]}', "codec is ['lz4'], wanted one of lz4, "),
        ('{"codec": "zstd", "codec_level": 99}', "codec_level is 99, wanted -7 to 19 for zstd"),
        ('{"codec": "zstd", "codec_level": true}', "codec_level is True, wanted -7 to 19 for "),
        ('{"codec": "zstd", "codec_level": ""}', "codec_level is '', wanted -7 to 19 for zstd"),
        ('{"codec": "none", "codec_level": 1}', "codec_level is 1, wanted 0 for none"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(body: str, said: str) -> None:
    source = Source()
    before = dict(source.core.opened_with)
    status, answer = post(source, LOOPBACK, body)
    assert status == 400
    assert str(answer["error"]).startswith(said)
    assert source.core.opened_with == before


def test_of_a_change_with_one_mistake_nothing_is_done() -> None:
    source = Source()
    for body in ({"zpool": "zswap", "codec": "zstd"}, {"zpool": "zsmalloc", "codec": "lzma"}):
        before = dict(source.core.opened_with)
        assert post(source, LOOPBACK, json.dumps(body))[0] == 400
        assert source.core.opened_with == before


def test_a_server_that_stops_is_not_changed() -> None:
    source = Source()
    source.stopping = True
    status, answer = post(source, LOOPBACK, '{"codec": "zstd"}')
    assert (status, answer) == (503, {"error": "it is not serving"})
    assert source.core.opened_with["codec"] == "lz4"


def test_an_upgrade_is_answered_as_soon_as_the_new_program_is_found_good() -> None:
    answer = post(Source(), LOOPBACK, "{}", path="/upgrade")
    assert answer == (200, {"before": "1", "version": "2"})


def test_an_upgrade_that_is_refused_says_why() -> None:
    source = Source()
    source.refusal = "it is broken"
    assert post(source, LOOPBACK, "{}", path="/upgrade") == (409, {"error": "it is broken"})


def test_a_web_page_and_a_server_that_stops_upgrade_nothing() -> None:
    source = Source()
    page = GOOD | {"Origin": "http://stranger.example"}
    assert post(source, LOOPBACK, "{}", page, "/upgrade")[0] == 403
    source.stopping = True
    assert post(source, LOOPBACK, "{}", path="/upgrade")[0] == 503
