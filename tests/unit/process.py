"""The command `nbdswap` as a process of its own, on the fake engine."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0


def command(*arguments: object, module: str = "tests.unit.fake_core") -> list[str]:
    """`nbdswap` with arguments."""
    return [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    """Ours, with the package under test first and nothing of a service manager."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "NOTIFY_"))}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | extra


def run(
    *arguments: object, module: str = "tests.unit.fake_core", **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        command(*arguments, module=module),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(**variables),
        check=False,
    )


# Where those of this test are.
_memory: list[Path] = []


def make_memory(directory: Path) -> Path:
    """A `memory_dir`, named `memory` in the directory, and on tmpfs, where it has to be."""
    link = directory / "memory"
    if not link.is_symlink():
        _memory.append(Path(tempfile.mkdtemp(prefix="nbdswap-unit.", dir="/dev/shm")))
        link.symlink_to(_memory[-1])
    return link


def remove_memory() -> None:
    """What `make_memory` made."""
    while _memory:
        shutil.rmtree(_memory.pop())


def write_config(directory: Path, **keys: Any) -> Path:
    """A configuration whose every path is in the directory."""
    memory_dir = make_memory(directory)
    config = {
        "state_dir": str(directory / "state"),
        "memory_dir": str(memory_dir),
        "listen": {"unix": [str(directory / "nbd.sock")], "tcp": []},
        "admin": f"unix:{directory / 'admin.sock'}",
        "pool": {"bytes_max": "1M"},
        "exports": [{"name": "swap", "size_bytes": "1M"}],
        # A test must not lock the memory of the machine that it runs on.
        "hardening": {"lock_memory": "off", "io_flusher": "off", "oom_score_adj": 0},
    }
    path = directory / "nbdswap.yaml"
    path.write_text(yaml.safe_dump(config | keys))
    return path


class ServerProcess:
    """A server; use it in a `with`, which kills what is left."""

    def __init__(self, argv: Sequence[str], **popen: Any) -> None:
        settings: dict[str, Any] = {"env": environment(), "stdin": subprocess.DEVNULL} | popen
        settings.setdefault("stdout", subprocess.PIPE)
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, **settings)
        self.events = ""

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        for pipe in (self.process.stdout, self.process.stderr, self.process.stdin):
            if pipe is not None:
                pipe.close()

    def until_ready(self) -> list[str]:
        """The lines on standard output, up to the one that says `ready`."""
        assert self.process.stdout is not None
        text = self._read(self.process.stdout.fileno(), lambda text: "\nready " in "\n" + text)
        lines = text.splitlines()
        assert lines[-1].startswith("ready "), lines
        return lines

    def until_event(self, words: str) -> None:
        """Waits until standard error says so."""
        assert self.process.stderr is not None
        if words not in self.events:
            self.events += self._read(self.process.stderr.fileno(), lambda text: words in text)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end; all events are in `events` then."""
        assert self.process.stderr is not None
        code = self.process.wait(TIMEOUT_S)
        self.events += self.process.stderr.read().decode()
        assert "Traceback" not in self.events, self.events
        return code

    def _read(self, fd: int, enough: Callable[[str], bool]) -> str:
        text, deadline_s = "", time.monotonic() + TIMEOUT_S
        while not enough(text):
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"waited for more: {text}"
            if not select.select([fd], [], [], left_s)[0]:
                continue
            more = os.read(fd, 1 << 16).decode()
            assert more, f"ended after: {text}{self._last_words()}"
            text += more
        return text

    def _last_words(self) -> str:
        assert self.process.stderr is not None
        self.process.wait(TIMEOUT_S)
        words: bytes = self.process.stderr.read()
        return words.decode()


def start(config: Path, *arguments: object, **popen: Any) -> ServerProcess:
    """`nbdswap serve`."""
    return ServerProcess(command("serve", "-c", config, *arguments), **popen)


def attach(path: Path) -> socket.socket:
    """A client in transmission on the only export, over a unix socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT_S)
    client.connect(str(path))
    negotiate(client)
    return client


def negotiate(client: socket.socket) -> None:
    """EXPORT_NAME: the shortest way into transmission."""
    greeting = client.recv(18, socket.MSG_WAITALL)
    assert greeting.startswith(b"NBDMAGICIHAVEOPT")
    client.sendall(EXPORT_NAME)
    assert int.from_bytes(client.recv(10, socket.MSG_WAITALL)[:8], "big") == 1 << 20


EXPORT_NAME = (3).to_bytes(4, "big") + b"IHAVEOPT" + bytes([0, 0, 0, 1, 0, 0, 0, 4]) + b"swap"
ABORT = (3).to_bytes(4, "big") + b"IHAVEOPT" + bytes([0, 0, 0, 2, 0, 0, 0, 0])
