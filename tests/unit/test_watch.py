"""What the log hears of troubles: their beginning and their end, once each."""

import asyncio
import logging
from collections.abc import Set
from pathlib import Path

import pytest

from nbdswap import watch
from nbdswap.snapshots import CoreSnapshot, RoomSnapshot
from nbdswap.watch import Watch, troubles_of
from tests.unit.fake_core import FakeCore, fake_exports

CAPACITY = 1 << 30
NONE: Set[str] = frozenset()


def core(path: str = "/s") -> FakeCore:
    """An engine with a store and no trouble."""
    pool = {"zpool": "zblock", "frame_bytes": 4096, "pool_bytes_max": 1 << 20}
    more = {"codec": "lz4", "codec_level": 1, "page_bytes": 4096}
    store = {"path": path, "capacity_bytes": CAPACITY}
    return FakeCore({"exports": fake_exports("swap"), "store": store} | pool | more, adopted=False)


def room(free: float, growth: float) -> RoomSnapshot:
    """In shares of the store's capacity."""
    return RoomSnapshot(free_bytes=int(free * CAPACITY), growth_bytes=int(growth * CAPACITY))


def test_each_trouble_is_found() -> None:
    snapshot = core().snapshot()
    assert snapshot["store"] is not None
    assert troubles_of(snapshot, None, NONE) == set()
    snapshot["store"]["over_budget"] = True
    assert troubles_of(snapshot, None, NONE) == {"budget_used_up"}
    snapshot["store"]["degraded"] = snapshot["pool"]["is_stuck"] = True
    snapshot["store"]["silent"] = True
    snapshot["store"]["live_bytes"] = CAPACITY
    all_but_one = set(watch.TROUBLES) - {"store_out_of_space"}
    assert troubles_of(snapshot, room(0.01, 0.5), NONE) == all_but_one
    snapshot["store"]["out_of_space"] = True
    all_but_one = set(watch.TROUBLES) - {"store_fails"}
    assert troubles_of(snapshot, room(0.01, 0.5), NONE) == all_but_one
    snapshot["store"] = None
    assert troubles_of(snapshot, None, NONE) == {"pool_stuck"}


def test_the_store_is_nearly_full_until_clearly_less_is_in_it() -> None:
    snapshot = core().snapshot()
    assert snapshot["store"] is not None
    told: list[bool] = []
    before: Set[str] = NONE
    for share in (0.84, 0.86, 0.84, 0.81, 0.79, 0.84, 0.86):
        snapshot["store"]["live_bytes"] = int(share * CAPACITY)
        before = troubles_of(snapshot, None, before)
        told.append("store_nearly_full" in before)
    assert told == [False, True, True, True, False, False, True]


@pytest.mark.parametrize(
    ("found", "begins", "goes_on"),
    [
        (room(0.09, 0.50), True, True),
        (room(0.12, 0.50), False, True),
        (room(0.16, 0.50), False, False),
        # It may not even grow by what is free.
        (room(0.09, 0.08), False, True),
        (room(0.09, 0.05), False, False),
        # Preallocated, or full of pages: it grows no more.
        (room(0.00, 0.00), False, False),
    ],
)
def test_the_file_system_is_nearly_full_if_the_backing_file_may_fill_it(
    found: RoomSnapshot, *, begins: bool, goes_on: bool
) -> None:
    snapshot = core().snapshot()
    name = "file_system_nearly_full"
    assert (name in troubles_of(snapshot, found, NONE)) is begins
    assert (name in troubles_of(snapshot, found, {name})) is goes_on
    # A file system that hangs says nothing new.
    assert name in troubles_of(snapshot, None, {name})
    assert name not in troubles_of(snapshot, None, NONE)


def test_a_trouble_is_told_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    engine = core()
    snapshot = engine.snapshot()
    assert snapshot["store"] is not None
    watched = Watch(lambda: snapshot, None)
    watched.look()
    snapshot["store"]["degraded"] = snapshot["pool"]["is_stuck"] = True
    watched.look()
    assert watched.troubles["store_fails"]
    snapshot["pool"]["is_stuck"] = False
    watched.look()
    watched.look()
    begun, also, over = caplog.records
    assert [begun.levelname, also.levelname, over.levelname] == ["WARNING", "WARNING", "INFO"]
    assert "writes are refused" in begun.getMessage()
    assert over.getMessage() == "over"
    assert watched.troubles == dict.fromkeys(watch.TROUBLES, False) | {"store_fails": True}


def test_it_looks_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(watch, "PERIOD_S", 0.0)
    engine, looks = core(), 0

    async def main() -> None:
        task: asyncio.Task[None]

        def snapshot() -> CoreSnapshot:
            nonlocal looks
            looks += 1
            found = engine.snapshot()
            assert found["store"] is not None
            found["store"]["over_budget"] = 2 <= looks <= 4
            if looks == 6:
                task.cancel()
            return found

        task = asyncio.create_task(Watch(snapshot, None).run())
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_room_of_a_backing_file_is_told_with_the_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    engine = core(str(path))
    found = [room(0.01, 0.5), room(0.5, 0.5)]
    monkeypatch.setattr("nbdswap.room.room_of", lambda _path: found.pop(0))
    monkeypatch.setattr(watch, "PERIOD_S", 0.01)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        watched = Watch(engine.snapshot, path)
        task = asyncio.create_task(watched.run())
        while len(caplog.records) < 2:
            assert not task.done()
            await asyncio.sleep(0)
        assert watched.room == room(0.5, 0.5)
        task.cancel()

    asyncio.run(main())
    begun, _ = (record.__dict__ for record in caplog.records)
    assert "10737418" in str(begun)
