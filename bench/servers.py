"""Starts the servers, tells what they cost, stops them.

Not here: load (nbdload) and tables (report.py).
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPORT = "swap"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0
TMPFS = Path("/dev/shm")  # noqa: S108 (the benchmark wants memory, not a private folder)


class ServerError(Exception):
    """A server did not start, ended, or gave no figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to start one server; `log` takes what it prints."""

    name: str
    command: list[str]
    socket: Path
    log: Path
    admin: Path | None = None


class Server:
    """A running server."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        with plan.log.open("wb") as log:
            self._process = subprocess.Popen(
                plan.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Returns when the server accepts connections."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended as it started\n{self.log_tail()}")
            with contextlib.suppress(OSError), _connect(self.plan.socket):
                return
            time.sleep(0.01)
        raise ServerError(f"{self.name} not ready in {START_SECONDS_MAX} s\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of what the server printed."""
        return self.plan.log.read_text(errors="replace")[-2000:]

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return process_cpu_seconds(self._process.pid)

    def resident_bytes(self) -> int:
        """Memory that the server holds.

        Its private memory and its share of mapped files, and of files on tmpfs that it has open
        or mapped every byte that takes memory, whether mapped at this moment or not.
        """
        pss: dict[str, int] = {}
        for line in self._proc("smaps_rollup").read_text().splitlines()[1:]:
            key, value = line.split(":")
            pss[key] = int(value.split()[0]) * 1024
        tmpfs = sum(path.stat().st_blocks * 512 for path in self._tmpfs_files())
        return pss["Pss_Anon"] + pss["Pss_File"] + max(pss["Pss_Shmem"], tmpfs)

    def _tmpfs_files(self) -> set[Path]:
        mapped = (line.split(maxsplit=5) for line in self._proc("maps").open())
        found = {Path(fields[5].strip()) for fields in mapped if len(fields) == 6}
        for entry in self._proc("fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(entry.readlink())
        return {path for path in found if path.is_relative_to(TMPFS) and path.is_file()}

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self._process.pid}/{name}")

    def pool_used_bytes(self) -> int | None:
        """Bytes of the pool in use, of a server that tells."""
        if self.plan.admin is None:
            return None
        status = _get_json(self.plan.admin, "/status")
        return int(status["pool"]["used_bytes"])

    def stop(self) -> None:
        """Ends the server, politely first."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def process_cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, ended ones too, to the nanosecond."""
    # The clock that clock_getcpuclockid(3) gives for another process: its number, inverted, above
    # three bits that say "scheduler's clock of a whole process". Unlike /proc/PID/stat it does not
    # count in hundredths of a second.
    return time.clock_gettime((~pid << 3) | 2)


def machine_cpu_seconds() -> float:
    """CPU time that all cores spent on anything so far, on other virtual machines too."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(5)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _get_json(path: Path, target: str) -> Any:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = _connect(path)
    with contextlib.closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise ServerError(f"GET {target} answered {response.status}: {body[:200]!r}")
    return json.loads(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where servers are to run: their files, and how much they must hold."""

    folder: Path
    memory_folder: Path
    image_bytes: int
    pool_bytes: int
    floor_program: Path
    nbdswap_program: str

    def nbdswap_settings(self) -> Path:
        """What has no flag: the place of memory files, and memory taken on demand, to be seen."""
        path = self.folder / "nbdswap.yaml"
        path.write_text(f"memory_dir: {self.memory_folder}\npool: {{populate: 'off'}}\n")
        return path

    def plan(self, name: str) -> Plan | None:
        """How to start the server `name`; None where it is not installed."""
        listen = self.folder / f"{name}.sock"
        size = str(self.image_bytes)
        raw = self.memory_folder / "image.raw"
        nbdkit = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(listen)]
        commands = {
            "nbdswap": [
                *(self.nbdswap_program, "serve", "--unix", str(listen)),
                *("--export", f"{EXPORT}={size}", "--pool-size", str(self.pool_bytes)),
                *("--codec", "lz4", "--store", "none"),
                *("--state-dir", str(self.folder / "state")),
                *("--config", str(self.nbdswap_settings())),
                *("--admin", f"unix:{self.folder / 'admin.sock'}"),
            ],
            "nbdkit-malloc": [*nbdkit, "memory", size, "allocator=malloc"],
            "nbdkit-zstd": [*nbdkit, "memory", size, "allocator=zstd"],
            "qemu-nbd": [
                *("qemu-nbd", "--socket", str(listen), "--export-name", EXPORT),
                *("--format", "raw", "--cache", "writeback", "--persistent"),
                *("--shared", "16", str(raw)),
            ],
            "floor": [str(self.floor_program), str(listen), size],
        }
        command = commands[name]
        if shutil.which(command[0]) is None:
            return None
        if name == "qemu-nbd":
            with raw.open("wb") as file:
                os.truncate(file.fileno(), self.image_bytes)
        return Plan(
            name=name,
            command=command,
            socket=listen,
            log=self.folder / f"{name}.log",
            admin=self.folder / "admin.sock" if name == "nbdswap" else None,
        )


NAMES = ["nbdswap", "nbdkit-malloc", "nbdkit-zstd", "qemu-nbd", "floor"]


@contextlib.contextmanager
def running(plans: list[Plan]) -> Iterator[dict[str, Server]]:
    """All servers, ready; stopped at the end, whatever it is."""
    servers: dict[str, Server] = {}
    try:
        for plan in plans:
            servers[plan.name] = Server(plan)
        for server in servers.values():
            server.wait_ready()
        yield servers
    finally:
        for server in servers.values():
            server.stop()
