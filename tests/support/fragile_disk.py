"""A backing file that fails when it is told to: a real file of a real file system in user space.

nbdkit keeps the bytes in memory and refuses writes while a file is there (its error filter);
qemu-storage-daemon shows it as a file over FUSE. Stopped by a signal, it answers nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

STARTED_WITHIN_S = 20.0


class FragileDisk:
    """See the head of the file. `path` is the backing file."""

    def __init__(self, directory: Path, size_bytes: int, undo: ExitStack) -> None:
        for tool in ("nbdkit", "qemu-storage-daemon"):
            if shutil.which(tool) is None:
                pytest.skip(f"there is no {tool}")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("/dev/fuse cannot be used")
        self.path = directory / "disk"
        self.path.touch(mode=0o600)
        self._refusal = directory / "refuse-writes"
        socket = directory / "disk.sock"
        nbdkit = ["nbdkit", "--foreground", f"--unix={socket}", "--filter=error", "memory"]
        nbdkit += [str(size_bytes), "error-pwrite=EIO", "error-pwrite-rate=100%"]
        _start([*nbdkit, f"error-pwrite-file={self._refusal}"], undo)
        _wait_until(socket.exists)
        blockdev = f"driver=nbd,node-name=disk,server.type=unix,server.path={socket}"
        export = f"type=fuse,id=disk,node-name=disk,mountpoint={self.path},writable=on"
        command = ["qemu-storage-daemon", "--blockdev", blockdev, "--export", export]
        self._fuse = _start(command, undo)
        # Before anything is killed that it needs: an orphaned mount answers nobody.
        undo.callback(self.answer)
        _wait_until(lambda: self._fuse.poll() is not None or self.path.stat().st_size > 0)
        if self._fuse.poll() is not None:
            pytest.skip("qemu-storage-daemon cannot show a file over FUSE here")

    def refuse_writes(self) -> None:
        """Every write fails with EIO from now on."""
        self._refusal.touch()

    def take_writes(self) -> None:
        self._refusal.unlink()

    def fall_silent(self) -> None:
        """Whatever is asked from now on gets no answer."""
        self._fuse.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """All that was asked gets its answer."""
        self._fuse.send_signal(signal.SIGCONT)


@contextmanager
def fragile_disk(directory: Path, size_bytes: int) -> Iterator[FragileDisk]:
    """One that ends with the block; skips the test where there can be none."""
    with ExitStack() as undo:
        yield FragileDisk(directory, size_bytes, undo)


def _start(command: list[str], undo: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    undo.callback(process.wait)
    undo.callback(process.terminate)
    return process


def _wait_until(condition: object) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, "the disk does not start"
        time.sleep(0.01)
