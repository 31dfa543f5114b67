"""One server process: started, awaited, watched and ended, and always ended well.

A server that ends with another status than 0 after SIGTERM, or that left a traceback or a panic
in its log, fails the test that started it, whatever else that test looked at.

Not here: which command line makes a server (support/servers.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0

# Characters of a log that a failure shows: about 40 lines.
_LOG_SHOWN = 4000

# What a log of a server without bugs never has.
_BUG_MARKS = ("Traceback (most recent call last)", "panicked at", "RuntimeWarning", "never awaited")


class ServerFailedError(AssertionError):
    """The server did not start, did not stop, or reported a bug of its own."""


class ServerProcess:
    """A child process that says on standard output when it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        ready_prefix: str | None,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._ready = threading.Event()
        self._is_ready = False
        self._stopped = False
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=pass_fds,
                env={**os.environ, **(environment or {})},
            )
        assert self._process.stdout is not None
        # The pipe is drained for the whole life of the server: a full pipe would stop it.
        self._drain = threading.Thread(
            target=self._read_stdout, args=(self._process.stdout, ready_prefix), daemon=True
        )
        self._drain.start()

    def _read_stdout(self, stdout: IO[bytes], ready_prefix: str | None) -> None:
        with stdout:
            for line in stdout:
                if ready_prefix is not None and line.decode(errors="replace").startswith(
                    ready_prefix
                ):
                    self._is_ready = True
                    self._ready.set()
        self._ready.set()  # The end of the output ends the waiting too.

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log_text(self) -> str:
        """The end of the log."""
        return self._log.read_text(errors="replace")[-_LOG_SHOWN:]

    def wait_until_ready(self) -> None:
        """Returns when the ready line was printed; raises if the server ended or is too slow."""
        in_time = self._ready.wait(READY_TIMEOUT_S)
        if not self._is_ready or not self.running:
            state = "ended" if in_time else f"said nothing for {READY_TIMEOUT_S:.0f} s"
            self.kill()
            raise ServerFailedError(f"the server {state} before it was ready:\n{self.log_text}")

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit status, when the process ends by itself."""
        status = self._process.wait(timeout_s)
        self._drain.join()
        self._stopped = True
        return status

    def stop(self) -> None:
        """SIGTERM, then checks that it was a good end."""
        if self._stopped:
            return
        if not self.running:
            raise ServerFailedError(
                f"the server ended by itself, status {self.wait()}:\n{self.log_text}"
            )
        self._process.terminate()
        try:
            status = self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailedError(
                f"the server still ran {STOP_TIMEOUT_S:.0f} s after SIGTERM:\n{self.log_text}"
            ) from None
        if status != 0:
            raise ServerFailedError(f"status {status} after SIGTERM:\n{self.log_text}")
        self.check_log()

    def kill(self) -> None:
        """SIGKILL: nothing is cleaned up, nothing is checked but the log."""
        if self._stopped:
            return
        self._process.send_signal(signal.SIGKILL)
        self.wait()
        self.check_log()

    def check_log(self) -> None:
        """Raises if the log tells of a bug."""
        text = self._log.read_text(errors="replace")
        for mark in _BUG_MARKS:
            before, found, after = text.partition(mark)
            if found:
                context = before[-_LOG_SHOWN:] + found + after[:_LOG_SHOWN]
                raise ServerFailedError(f"{mark!r} in the server's log:\n{context}")
