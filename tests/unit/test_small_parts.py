"""Logs, service manager, guide and stop requests."""

import io
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbdswap import logs, preflight, systemd
from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.errors import ConfigError, RefusedError, UsageError
from nbdswap.guide import guide
from nbdswap.logs import EventLog
from nbdswap.preflight import check_pidfile, check_room
from nbdswap.stop_request import StopRequest
from tests.unit.conftest import MakeConfig

# ---------------------------------------------------------------- logs


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The root logger, left as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("root_logger")
def test_an_event_is_one_line_of_text() -> None:
    out = io.StringIO()
    logs.configure("text", "info", out)
    log = EventLog("server")
    log.debug("not shown")
    log.info("client attached", export="swap", peer="a b", reason="", forged="x\ny")
    line = out.getvalue()
    assert line.count("\n") == 1
    said = 'info    server: client attached export=swap peer="a b" reason="" forged="x\\ny"\n'
    assert line.partition("Z ")[2] == said


@pytest.mark.usefixtures("root_logger")
def test_an_event_is_one_json_object_whose_head_no_field_can_forge() -> None:
    out = io.StringIO()
    logs.configure("json", "info", out)
    EventLog("server").warning("negotiation failed", peer="p", level="debug", path=Path("/x"))
    event = json.loads(out.getvalue())
    del event["time"]
    assert event == {
        "level": "warning",
        "component": "server",
        "event": "negotiation failed",
        "peer": "p",
        "path": "/x",
    }


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_only_our_own_mistakes_have_a_traceback(log_format: str) -> None:
    out = io.StringIO()
    logs.configure(log_format, "info", out)
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError:
        EventLog("x").error("expected")
        assert "Traceback" not in out.getvalue()
        EventLog("x").unexpected("broke")
        assert "ZeroDivisionError: ours" in out.getvalue()


# ---------------------------------------------------------------- service manager


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"


def test_without_a_service_manager_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")


def test_sockets_for_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.inherited_sockets() == []


@pytest.mark.parametrize("count", ["", "none", "0"])
def test_a_wrong_number_of_sockets_is_refused(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(UsageError, match="LISTEN_FDS"):
        systemd.inherited_sockets()


# ---------------------------------------------------------------- guide


def test_the_guide_can_be_copied_for_every_listener_and_export(make_config: MakeConfig) -> None:
    exports = [
        {"name": "swap", "size_bytes": "4M"},
        {"name": "it's", "size_bytes": "1M", "read_only": True},
    ]
    config = make_config({"exports": exports})
    addresses: list[Address] = [UnixAddress(Path("/run/n.sock")), TcpAddress("::1", 10809)]
    assert list(guide(config.exports, addresses, lost={"swap"})) == [
        "# export swap (4M) as /dev/nbd0:",
        "nbd-client -unix /run/n.sock /dev/nbd0 -N swap -b 4096",
        "#   or: nbd-client ::1 10809 /dev/nbd0 -N swap -b 4096",
        "blkdiscard /dev/nbd0    # gives up the pages that were lost",
        "mkswap /dev/nbd0",
        "swapon --discard=pages /dev/nbd0",
        "# export it's (1M, read-only) as /dev/nbd1:",
        r"nbd-client -unix /run/n.sock /dev/nbd1 -N 'it'\''s' -b 4096",
        r"#   or: nbd-client ::1 10809 /dev/nbd1 -N 'it'\''s' -b 4096",
    ]


# ---------------------------------------------------------------- room


def test_a_pool_larger_than_the_tmpfs_is_refused_with_both_sizes(make_config: MakeConfig) -> None:
    with pytest.raises(RefusedError, match=r"pool\.bytes_max is 8\.00 TiB, but only .* are free"):
        check_room(make_config({"pool.bytes_max": "8T"}), None, populate=False)


def test_a_store_larger_than_its_file_system_is_a_warning(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    keys = {"store.path": str(tmp_path / "store"), "store.capacity_bytes": "8T"}
    [warning] = check_room(make_config(keys), None, populate=False)
    assert "store.capacity_bytes is 8.00 TiB, but only" in warning


@pytest.mark.parametrize(
    ("key", "said"),
    [("memory_dir", "memory_dir .* is not a directory"), ("store.path", "directory of store.path")],
)
def test_a_directory_that_is_not_there_is_refused(
    key: str, said: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=said):
        check_room(make_config({key: str(tmp_path / "gone" / "x")}), None, populate=False)


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says that all that this test has in memory is on another file system."""

    def pretend(kind: str) -> None:
        device = (tmp_path / "memory").stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        path = tmp_path / "mountinfo"
        path.write_text(
            f"1 0 0:0 / / rw - rootfs none rw\n2 1 {number} / /m rw shared:1 - {kind} /dev/x rw\n"
        )
        monkeypatch.setattr("nbdswap.mounts.MOUNTS", path)

    return pretend


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "ramfs"])
def test_memory_on_a_file_system_that_is_none_of_memory_is_refused(
    kind: str, make_config: MakeConfig, mounts: Callable[[str], None]
) -> None:
    config = make_config()
    mounts(kind)
    with pytest.raises(ConfigError, match=f"memory_dir: .* is on {kind}, wanted tmpfs or huge"):
        check_room(config, None, populate=False)


def test_memory_on_a_device_that_is_not_mounted_is_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have numbers that stand nowhere, btrfs for example."""
    (tmp_path / "mountinfo").write_text("1 0 0:0 / / rw - tmpfs none rw\n")
    monkeypatch.setattr("nbdswap.mounts.MOUNTS", tmp_path / "mountinfo")
    with pytest.raises(ConfigError, match="is on an unknown file system, wanted tmpfs or huge"):
        check_room(make_config(), None, populate=False)


def test_a_tmpfs_without_a_limit_has_room(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs("/dev/shm")
    fields = [*status]
    fields[2:5] = [0, 0, 0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    config = make_config({"pool.bytes_max": "8T", "store.path": "none"})
    assert check_room(config, None, populate=False) == []


# ---------------------------------------------------------------- stop requests


class Stops:
    """What a StopRequest did."""

    def __init__(self, at_stake: list[str], *, parent_is_gone: bool = False) -> None:
        self.stopped = 0
        self.request = StopRequest(self._stop, lambda: at_stake, lambda: parent_is_gone)

    def _stop(self) -> None:
        self.stopped += 1


def test_a_stop_that_loses_nothing_is_obeyed_at_once() -> None:
    stops = Stops([])
    stops.request.ask("SIGTERM")
    assert stops.stopped == 1
    assert not stops.request.hurried.is_set()


def test_a_stop_that_would_lose_pages_has_to_be_asked_for_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stops = Stops(["scratch"])
    stops.request.ask("SIGTERM")
    assert stops.stopped == 0
    assert "send the signal again" in caplog.text
    stops.request.ask("SIGTERM")
    assert stops.stopped == 1
    assert not stops.request.hurried.is_set()


def test_one_more_signal_hurries() -> None:
    stops = Stops([])
    stops.request.ask("SIGTERM")
    stops.request.ask("SIGINT")
    assert stops.stopped == 1
    assert stops.request.hurried.is_set()


def test_a_parent_that_is_gone_cannot_ask_twice() -> None:
    stops = Stops(["scratch"], parent_is_gone=True)
    stops.request.ask("SIGTERM")
    assert stops.stopped == 1


def test_a_pidfile_without_a_place_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    check_pidfile(tmp_path / "pid")
    with pytest.raises(RefusedError, match="is a directory, wanted a file"):
        check_pidfile(tmp_path)
    with pytest.raises(RefusedError, match="directory of pidfile"):
        check_pidfile(tmp_path / "none" / "pid")


def test_a_populated_page_table_needs_room_too(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_free_bytes", lambda *_: 8 << 20)
    keys = {"exports": [{"name": "swap", "size_bytes": "4G"}], "store.path": "none"}
    config = make_config(keys | {"pool.bytes_max": "7M"})
    check_room(config, None, populate=False)
    with pytest.raises(RefusedError, match=r"7\.00 MiB and the page table 8\.00 MiB, but only"):
        check_room(config, None, populate=True)
