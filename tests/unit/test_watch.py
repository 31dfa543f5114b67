"""What the log hears of troubles: their beginning and their end, once each."""

import asyncio
import logging

import pytest

from nbdswap import watch
from tests.unit.fake_core import FakeCore, fake_exports


def core() -> FakeCore:
    """An engine with a store and no trouble."""
    pool = {"zpool": "zblock", "frame_bytes": 4096, "pool_bytes_max": 1 << 20}
    more = {"codec": "lz4", "codec_level": 1, "page_bytes": 4096}
    store = {"path": "/s", "capacity_bytes": 8 << 20}
    return FakeCore({"exports": fake_exports("swap"), "store": store} | pool | more, adopted=False)


def test_each_trouble_is_found() -> None:
    snapshot = core().snapshot()
    assert snapshot["store"] is not None
    assert watch.troubles_of(snapshot) == set()
    snapshot["store"]["over_budget"] = True
    assert watch.troubles_of(snapshot) == {"budget_used_up"}
    snapshot["store"]["degraded"] = snapshot["pool"]["is_stuck"] = True
    assert watch.troubles_of(snapshot) == set(watch.TROUBLES)
    snapshot["store"] = None
    assert watch.troubles_of(snapshot) == {"pool_stuck"}


def test_a_trouble_is_told_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watch.tell(set(), {"store_fails", "pool_stuck"})
    watch.tell({"store_fails", "pool_stuck"}, {"store_fails"})
    watch.tell({"store_fails"}, {"store_fails"})
    begun, also, over = caplog.records
    assert {begun.levelname, also.levelname, over.levelname} == {"WARNING", "INFO"}
    assert "writes are refused" in begun.getMessage()
    assert over.getMessage() == "over"


def test_it_looks_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(watch, "PERIOD_S", 0.0)
    engine, looks = core(), 0

    async def main() -> None:
        task: asyncio.Task[None]

        def snapshot() -> object:
            nonlocal looks
            looks += 1
            found = engine.snapshot()
            assert found["store"] is not None
            found["store"]["over_budget"] = 2 <= looks <= 4
            if looks == 6:
                task.cancel()
            return found

        task = asyncio.create_task(watch.watch(snapshot))  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
