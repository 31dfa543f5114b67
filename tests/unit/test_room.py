"""The room for a backing file, from a real file system and from one that hangs."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from nbdswap.room import RoomProbe, room_of
from nbdswap.snapshots import RoomSnapshot


def test_a_sparse_file_may_grow_and_a_preallocated_one_not(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        sparse = room_of(path)
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        preallocated = room_of(path)
    assert sparse is not None
    assert preallocated is not None
    assert (sparse.growth_bytes, preallocated.growth_bytes) == (1 << 20, 0)
    assert sparse.free_bytes > 0


def test_what_is_no_plain_file_has_no_room(tmp_path: Path) -> None:
    assert room_of(tmp_path) is None
    assert room_of(tmp_path / "absent") is None


def test_a_file_system_that_hangs_is_asked_once_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    asked = 0
    answer = RoomSnapshot(free_bytes=1, growth_bytes=2)

    def hangs(_path: Path) -> RoomSnapshot:
        nonlocal asked
        asked += 1
        released.wait()
        return answer

    monkeypatch.setattr("nbdswap.room.room_of", hangs)

    async def main() -> None:
        probe = RoomProbe(tmp_path / "store")
        assert [await probe.look(0.0) for _ in range(3)] == [None] * 3
        assert asked == 1
        released.set()
        assert await probe.look(60.0) == answer
        assert await probe.look(60.0) == answer
        assert asked == 2

    asyncio.run(main())


def test_without_a_backing_file_nothing_is_asked() -> None:
    assert asyncio.run(RoomProbe(None).look(60.0)) is None
