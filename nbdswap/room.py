"""How much the backing file may still grow, and what its file system has left for that.

A sparse backing file gets its blocks when it is written, so that somebody else can fill the file
system under it. A file whose blocks were preallocated has all of them and cannot grow; a block
device has no file system under it. Not here: what is too little (`watch`).
"""

import asyncio
import os
import signal
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from nbdswap.snapshots import RoomSnapshot

# st_blocks counts these whatever the file system's unit.
BLOCK_BYTES = 512


def room_of(path: Path) -> RoomSnapshot | None:
    """The room for a backing file; None if it is no plain file, or the system does not say."""
    try:
        if not path.is_file():
            return None
        file = path.stat()
        file_system = os.statvfs(path)
    except OSError:
        return None
    return RoomSnapshot(
        free_bytes=file_system.f_bavail * file_system.f_frsize,
        growth_bytes=max(file.st_size - file.st_blocks * BLOCK_BYTES, 0),
    )


class RoomProbe:
    """Asks in another thread: a file system that hangs must not hold up the loop.

    While an answer is overdue nothing is known, and nothing more is asked. No thread of the loop's
    executor, whose end the loop would wait for.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._asked: asyncio.Future[RoomSnapshot | None] | None = None

    async def look(self, timeout_s: float) -> RoomSnapshot | None:
        """The room now, if the file system says so in time."""
        if self._path is None:
            return None
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            ask = partial(_ask, self._path, self._asked)
            threading.Thread(target=ask, name="room", daemon=True).start()
        await asyncio.wait([self._asked], timeout=timeout_s)
        if not self._asked.done():
            return None
        answer, self._asked = self._asked.result(), None
        return answer


def _ask(path: Path, asked: "asyncio.Future[RoomSnapshot | None]") -> None:
    # Signals are the main thread's.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    answer = room_of(path)
    # Nobody may be waiting any more.
    with suppress(RuntimeError):
        asked.get_loop().call_soon_threadsafe(asked.set_result, answer)
