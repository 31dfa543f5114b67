"""The server under test, behind one face whether it is nbdswap or the reference.

The reference is nbdkit's memory plugin (`pytest --against nbdkit`). A test that fails against
both is more likely to be wrong itself; tests that need what only nbdswap has are skipped there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.pages import MIB, PAGE_BYTES
from tests.support.process import ServerProcess

EXPORT = "swap"
STATUS_TIMEOUT_S = 10.0
UPGRADE_TIMEOUT_S = 60.0

# A tmpfs, as the servers of users have for pool and table.
_MEMORY_PARENT = Path("/dev/shm")

# Starts a program with a unix and a TCP listener, as a service manager does. nbdkit has no other
# way to have both; for it "ready" is a matter of course: both listen before it starts.
ACTIVATE = """
import os, sys
for target, source in zip((3, 4), [os.dup(int(fd)) for fd in sys.argv[1:3]]):
    os.dup2(source, target)
    os.set_inheritable(target, True)  # dup2 does nothing when both are the same number.
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
print("ready", flush=True)
os.execvp(sys.argv[3], sys.argv[3:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a test may ask of a server; the defaults hold everything in memory."""

    size_bytes: int = 64 * MIB
    pool_bytes: int = 256 * MIB
    store: bool = True
    populate: bool = True
    arguments: tuple[str, ...] = ()
    program: Path | None = None
    """Another program than the installed command."""
    key: str | None = None
    """`store.key` of a store that is encrypted."""
    store_config: Mapping[str, int | str | bool] = field(default_factory=dict)
    """More keys of `store`."""
    request_timeout_s: float | None = None
    exports: tuple[Mapping[str, str | int], ...] = ()
    """Other exports than the one that is named EXPORT and of `size_bytes`."""
    store_path: Path | None = None
    """The backing file, if not one beside the sockets."""
    page_bytes: int = PAGE_BYTES
    """Of pages and frames."""
    memory_parent: Path = _MEMORY_PARENT
    """The file system for pool and table; set when the server is made."""


@dataclass(slots=True)
class Server:
    """A server and the ways to it. Directories outlive the process: it can start again."""

    kind: str
    directory: Path
    memory_directory: Path
    settings: ServerSettings
    port: int
    process: ServerProcess | None = None

    @property
    def unix_path(self) -> Path:
        return self.directory / "nbd"

    @property
    def admin_path(self) -> Path:
        return self.directory / "admin"

    @property
    def state_directory(self) -> Path:
        return self.directory / "state"

    @property
    def store_path(self) -> Path:
        return self.settings.store_path or self.directory / "store"

    @property
    def unix_uri(self) -> str:
        return f"nbd+unix:///{EXPORT}?socket={self.unix_path}"

    @property
    def tcp_uri(self) -> str:
        return f"nbd://127.0.0.1:{self.port}/{EXPORT}"

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def running(self) -> ServerProcess:
        assert self.process is not None, "the server was never started"
        return self.process

    def start(self, settings: ServerSettings | None = None) -> None:
        """Starts the process, with other settings if given, and waits until it is ready."""
        self.launch(settings)
        self.running.wait_until_ready()

    def configure(self, settings: ServerSettings) -> None:
        """Writes the configuration for the next upgrade or start. Only a start heeds new flags."""
        self.settings = settings
        self._write_config()

    def launch(self, settings: ServerSettings | None = None) -> None:
        """Starts the process and does not wait."""
        self.settings = settings or self.settings
        self.process = self._launch_nbdkit() if self.kind == "nbdkit" else self._launch_nbdswap()

    def launch_activated(self, sockets: Sequence[socket.socket], notify: Path) -> None:
        """Starts nbdswap as a service manager does: with a unix and a TCP socket that listen."""
        descriptors = [listener.fileno() for listener in sockets]
        self.process = ServerProcess(
            [sys.executable, "-c", ACTIVATE, *map(str, descriptors), *self.command(listen=False)],
            log=self.directory / "log",
            ready_prefix="ready ",
            pass_fds=descriptors,
            environment={"NOTIFY_SOCKET": str(notify)},
        )

    def command(self, *, listen: bool = True) -> list[str]:
        """What starts nbdswap; writes its configuration. `listen`: no sockets are passed in."""
        settings = self.settings
        return [
            *([str(settings.program)] if settings.program else nbdswap_command()),
            "serve",
            f"--config={self._write_config()}",
            *([f"--unix={self.unix_path}", f"--listen=127.0.0.1:{self.port}"] if listen else []),
            *([] if settings.exports else [f"--export={EXPORT}={settings.size_bytes}"]),
            f"--pool-size={settings.pool_bytes}",
            f"--store={self.store_path if settings.store else 'none'}",
            f"--state-dir={self.state_directory}",
            f"--admin=unix:{self.admin_path}",
            *settings.arguments,
        ]

    def _launch_nbdswap(self) -> ServerProcess:
        return ServerProcess(self.command(), log=self.directory / "log", ready_prefix="ready")

    def _write_config(self) -> Path:
        """A file with the settings that have no flag."""
        store = dict(self.settings.store_config)
        if self.settings.key is not None:
            store |= {"encryption": "on", "key": self.settings.key}
        config: dict[str, Any] = {
            "memory_dir": str(self.memory_directory),
            "pool": {"populate": "on" if self.settings.populate else "off"},
            "store": store,
        }
        if self.settings.page_bytes != PAGE_BYTES:
            config["page_bytes"] = self.settings.page_bytes
            config["pool"]["frame_bytes"] = self.settings.page_bytes
        if self.settings.request_timeout_s is not None:
            config["request_timeout_s"] = self.settings.request_timeout_s
        if self.settings.exports:
            config["exports"] = [dict(export) for export in self.settings.exports]
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(config))  # Every JSON is a YAML.
        return path

    def _launch_nbdkit(self) -> ServerProcess:
        self.unix_path.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX) as unix,
            socket.create_server(("127.0.0.1", self.port)) as tcp,
        ):
            unix.bind(str(self.unix_path))
            unix.listen(64)
            descriptors = (unix.fileno(), tcp.fileno())
            nbdkit = ["nbdkit", "--foreground", "memory", str(self.settings.size_bytes)]
            command = [sys.executable, "-c", ACTIVATE, *map(str, descriptors), *nbdkit]
            return ServerProcess(
                command, log=self.directory / "log", ready_prefix="ready", pass_fds=descriptors
            )

    def status(self) -> dict[str, Any]:
        """What `nbdswap status --json` says."""
        command = [*nbdswap_command(), "status", "--json", f"--admin=unix:{self.admin_path}"]
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=STATUS_TIMEOUT_S
        )
        assert result.returncode == 0, f"status: {result.stderr}"
        status: dict[str, Any] = json.loads(result.stdout)
        return status

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        """What `nbdswap upgrade` comes to."""
        command = [*nbdswap_command(), "upgrade", f"--admin=unix:{self.admin_path}"]
        return subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=UPGRADE_TIMEOUT_S
        )

    def pages(self) -> dict[str, int]:
        """Pages of the one export by the place they are in."""
        (export,) = self.status()["exports"]
        pages: dict[str, int] = export["pages"]
        return pages

    def memory_files(self) -> list[Path]:
        """The shared-memory files: pool and table."""
        return list(self.memory_directory.iterdir())

    def delete_memory_files(self) -> None:
        """What a reboot does to them."""
        for path in self.memory_files():
            path.unlink()

    def stop(self) -> None:
        self.running.stop()

    def kill(self) -> None:
        self.running.kill()

    def remove(self) -> None:
        """Ends the process, checks how it ended and removes every file."""
        try:
            if self.process is not None:
                self.process.stop()
        finally:
            for directory in (self.directory, self.memory_directory):
                shutil.rmtree(directory, ignore_errors=True)


def nbdswap_command() -> list[str]:
    """The installed command: the one beside this interpreter, else `python -m`."""
    script = Path(sys.executable).parent / "nbdswap"
    return [str(script)] if script.exists() else [sys.executable, "-m", "nbdswap"]


def new_server(kind: str, settings: ServerSettings) -> Server:
    """A server that is not started yet, in a directory whose name fits a socket address."""
    directory, memory_directory = (
        Path(tempfile.mkdtemp(prefix="nbdswap-test.", dir=parent))
        for parent in (None, settings.memory_parent)
    )
    assert len(os.fsencode(directory)) < 80, f"{directory} leaves no room for a socket's name"
    return Server(
        kind=kind,
        directory=directory,
        memory_directory=memory_directory,
        settings=settings,
        port=free_port(),
    )


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
