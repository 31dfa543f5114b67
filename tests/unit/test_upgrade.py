"""A server goes from one program to the next; whatever is in the way leaves it as it was."""

import asyncio
import json
import os
import signal
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest import mock

import pytest

from nbdswap.errors import ExitCode, UpgradeError
from nbdswap.handover import predecessor_of
from nbdswap.preflight import check_succession
from nbdswap.succession import Newcomer, decide
from nbdswap.successor import CHECK_FLAG, Program
from tests.unit.conftest import MakeConfig
from tests.unit.loop import run, until
from tests.unit.process import attach, start, write_config
from tests.unit.process import run as run_command
from tests.unit.test_service import Serving, serving, terminate

__all__ = ["serving"]


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """A function that makes an executable shell script."""

    def make(body: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


# ---------------------------------------------------------------- which program


def test_a_script_is_executed_by_its_path_so_that_its_first_line_counts(
    script: Callable[[str], Path],
) -> None:
    path = str(script("exit 0"))
    program = Program.started_by("/usr/bin/python3", ["/usr/bin/python3", path, "serve", "-r"])
    assert program == Program(path, (path, "serve", "-r"))


@pytest.mark.parametrize("argv", [["-m", "nbdswap", "serve"], [__file__, "serve"], []])
def test_what_is_no_program_by_itself_is_left_to_the_interpreter(argv: list[str]) -> None:
    program = Program.started_by("/usr/bin/python3", ["python3", *argv])
    assert program == Program("/usr/bin/python3", ("/usr/bin/python3", *argv))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo first; echo 'it is broken' >&2; exit 3", "ended with status 3: it is broken"),
        ("kill -9 $$", "ended with status -9: it said nothing"),
    ],
)
def test_a_program_that_cannot_take_over_says_why(
    script: Callable[[str], Path], make_config: MakeConfig, body: str, said: str
) -> None:
    path = str(script(body))
    with pytest.raises(UpgradeError, match=said):
        Program(path, (path,)).check(predecessor_of(make_config(), []))


def test_a_program_that_is_not_there_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UpgradeError, match="/no/such cannot be executed: No such file"):
        Program("/no/such", ("/no/such",)).check(predecessor_of(make_config(), []))


# ---------------------------------------------------------------- what it has to fit


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pool.bytes_max": "2M"}, "pool.bytes_max was changed from 1048576 to 2097152, which"),
        ({"pool.frame_bytes": "16K"}, "pool.frame_bytes was changed from 4096 to 16384, which"),
        ({"store.path": "none"}, "store.path was changed from .* to none, which needs a stop"),
        ({"store.segment_bytes": "2M"}, "store.segment_bytes was changed from 1048576 to 2097152"),
        ({"store.encryption": "on"}, "store.encryption was changed from off to on"),
        ({"store.capacity_bytes": "1G"}, "store.capacity_bytes was cut from 8589934592 to 1073"),
        ({"state_dir": "/elsewhere"}, "state_dir was changed from .* to /elsewhere, which needs"),
    ],
)
def test_a_change_that_would_lose_pages_is_refused(
    make_config: MakeConfig, tmp_path: Path, keys: dict[str, str], said: str
) -> None:
    before = predecessor_of(make_config(), [])
    (tmp_path / "memory").unlink()
    with pytest.raises(UpgradeError, match=said):
        check_succession(make_config(keys), before, None)


def test_what_loses_nothing_may_change(make_config: MakeConfig, tmp_path: Path) -> None:
    before = predecessor_of(make_config({"store.path": "none"}), [])
    (tmp_path / "memory").unlink()
    # A store where there was none, other marks, another codec.
    keys = {"pool.codec": "zstd", "pool.high_mark_percent": 80, "pool.low_mark_percent": 70}
    check_succession(make_config(keys), before, None)


def test_the_exports_are_compared_with_the_state(make_config: MakeConfig, tmp_path: Path) -> None:
    before = make_config()
    newcomer = Newcomer(instance=1, generation_min=1)
    state = decide(None, before, newcomer, memory_present=False, fresh=False).state
    (tmp_path / "memory").unlink()
    config = make_config({"exports": [{"name": "swap", "size_bytes": "2M"}]})
    with pytest.raises(UpgradeError, match="names, sizes or order of the exports were changed"):
        check_succession(config, predecessor_of(before, []), state)


# ---------------------------------------------------------------- the way there and back


class Attempt:
    """In place of exec: notes what the next program would find, and fails."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def execute(self, variables: dict[str, str]) -> None:
        """As `Program.execute`."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2} <= blocked
        _, _, fd = variables["NBDSWAP_HANDOVER"].partition(":")
        content = os.pread(int(fd), 1 << 16, 0)
        (head_bytes,) = struct.unpack_from("<I", content, 8)
        head = json.loads(content[12 : 12 + head_bytes])
        assert content[12 + head_bytes :] == b"ru" * len(head["connections"])
        self.descriptors = [int(fd), *head["descriptors"]]
        assert all(os.get_inheritable(fd) for fd in self.descriptors)
        raise OSError(8, "Exec format error")


async def try_upgrade(serving: Serving, attempt: Attempt) -> str:
    """Asks by signal; the reason why it failed."""
    failed_before = serving.service.snapshot().server.upgrades.failed_total
    with (
        mock.patch.object(Program, "check", return_value="9"),
        mock.patch.object(Program, "execute", side_effect=attempt.execute),
    ):
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: serving.service.snapshot().server.upgrades.failed_total > failed_before)
    return serving.service.snapshot().server.upgrades.last_failure


def scenario(serving: Serving, act: Callable[[], Awaitable[None]]) -> None:
    """Does something with a service that has two clients, then stops it."""

    async def serve() -> None:
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        await serving.attach("swap")
        await serving.attach("other")
        await act()
        terminate()
        await service
        await serving.leave()

    run(serve())
    serving.close()


def test_a_failed_exec_is_taken_back(serving: Serving) -> None:
    attempt = Attempt()

    async def act() -> None:
        reason = await try_upgrade(serving, attempt)
        assert reason.endswith(" cannot take over: Exec format error")
        assert len(serving.core.connections) == 2
        assert list(serving.core.received.values()) == [b"", b"", b"r", b"r"]
        assert list(serving.core.unsent.values()) == [b"", b"", b"u", b"u"]
        assert list(serving.core.attached_to.values()) == ["swap", "other", "swap", "other"]
        # Lock, store, listener, two connections; of these the copy of the store is not needed.
        memory_fd, lock_fd, store_fd, *others = attempt.descriptors
        assert len(others) == 3
        assert not any(os.get_inheritable(fd) for fd in (lock_fd, *others))
        for fd in (memory_fd, store_fd):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        await serving.attach("swap")
        await try_upgrade(serving, attempt)
        assert len(serving.core.connections) == 3

    scenario(serving, act)


def test_a_request_that_waits_for_the_store_calls_it_off(serving: Serving) -> None:
    serving.core.waits_for_store = 1

    async def act() -> None:
        attempt = Attempt()
        reason = await try_upgrade(serving, attempt)
        assert reason.startswith("requests of 1 connections waited 5 s for the store")
        assert not attempt.descriptors
        assert len(serving.core.connections) == 2
        await serving.attach("swap")

    scenario(serving, act)


def test_a_disk_that_does_not_answer_would_keep_the_old_program(serving: Serving) -> None:
    serving.core.store_unanswered_s = 1.5

    async def act() -> None:
        attempt = Attempt()
        reason = await try_upgrade(serving, attempt)
        assert reason.endswith("does not answer; try again when it does")
        assert not attempt.descriptors
        assert len(serving.core.connections) == 2

    scenario(serving, act)


def test_memory_of_the_program_alone_cannot_be_taken_over(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    keys = {"memory_dir": "none", "exports": [{"name": "swap", "size_bytes": "1M"}]}
    keys["exports"][0]["durability"] = "volatile"  # type: ignore[index]
    serving = Serving(make_config(keys), tmp_path)

    async def serve() -> None:
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        assert (await try_upgrade(serving, Attempt())).startswith("memory_dir is none: ")
        terminate()
        await service

    run(serve())
    serving.close()


def test_the_next_program_in_the_process_has_it_all(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with start(config, "--fresh", "--pidfile", tmp_path / "pid") as server:
        server.until_ready()
        client = attach(tmp_path / "nbd.sock")
        server.until_event("client attached")
        server.process.send_signal(signal.SIGUSR2)
        server.until_event("upgraded version=")
        server.until_event("adopted the memory of the last server")
        assert "connections=1 dropped=0" in server.events
        # Locks and addresses were nobody else's for a moment, and are ours.
        assert run_command("serve", "-c", config).returncode == ExitCode.REFUSED
        attach(tmp_path / "nbd.sock").close()
        assert int((tmp_path / "pid").read_text()) == server.process.pid
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.setblocking(True)
        assert server.stop() == ExitCode.OK
        assert client.recv(1) == b""
        client.close()
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"memory", "state", "nbdswap.yaml"}, "socket files are removed by who has them"


def test_another_program_may_be_older_than_the_check() -> None:
    refused = run_command("serve", CHECK_FLAG + "-of-tomorrow")
    assert refused.returncode == ExitCode.USAGE
