"""Tells the log when something begins that an operator should act on, and when it is over.

Also for metrics and hints: what goes on now. What swings about a threshold begins at one and ends
at another, so that it is told once. Not here: what to do about it (`status` has that in its hints).
"""

import asyncio
from collections.abc import Callable, Set
from pathlib import Path

from nbdswap.logs import EventLog
from nbdswap.room import RoomProbe
from nbdswap.snapshots import CoreSnapshot, RoomSnapshot, StoreSnapshot

log = EventLog("watch")

PERIOD_S = 5.0

# By name: what has begun, in words.
TROUBLES = {
    "budget_used_up": "the bytes that may be written to the store are used up: "
    "nothing is written back until time allows more",
    "store_fails": "the store cannot be written: nothing is written back until a write succeeds, "
    "which is tried after a second and then ever less often, once a minute at last",
    "store_silent": "the backing file does not answer: reads of stored pages fail at once, and so "
    "do writes that find no room in the pool, until it does",
    "store_out_of_space": "the file system of the backing file is full: nothing is written back "
    "until there is room, which is tried every second",
    "pool_stuck": "the pool is full and nothing can be written back: writes are refused",
    "store_nearly_full": "the store is nearly full: when it is full, pages stay in the pool, "
    "and when that is full, writes are refused",
    "file_system_nearly_full": "the file system of the backing file has less room than the file "
    "may still grow: when it is full, nothing is written back",
}

# Shares of the store's capacity. It is nearly full from the first on and until the second.
LIVE_BEGINS, LIVE_ENDS = 0.85, 0.80
# Free bytes of the file system, as far as the backing file may still grow into them at all.
FREE_BEGINS, FREE_ENDS = 0.10, 0.15


class Watch:
    """What goes on, as of the last look. `snapshot` gives the engine's numbers."""

    def __init__(self, snapshot: Callable[[], CoreSnapshot], store_path: Path | None) -> None:
        self._snapshot = snapshot
        self._probe = RoomProbe(store_path)
        self.room: RoomSnapshot | None = None
        """None: it does not matter, or is not known."""
        self._troubles: Set[str] = frozenset()

    @property
    def troubles(self) -> dict[str, bool]:
        """All troubles by name: whether they go on."""
        return {name: name in self._troubles for name in TROUBLES}

    async def run(self) -> None:
        """Looks every few seconds, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_S)
            self.room = await self._probe.look(PERIOD_S)

    def look(self) -> None:
        """Logs what has begun and what has ended."""
        before = self._troubles
        self._troubles = troubles_of(self._snapshot(), self.room, before)
        for name in sorted(self._troubles - before):
            log.warning(TROUBLES[name], trouble=name, **self._figures(name))
        for name in sorted(before - self._troubles):
            log.info("over", trouble=name, **self._figures(name))

    def _figures(self, name: str) -> dict[str, int]:
        if name != "file_system_nearly_full" or self.room is None:
            return {}
        return {"free_bytes": self.room.free_bytes, "growth_bytes": self.room.growth_bytes}


def troubles_of(core: CoreSnapshot, room: RoomSnapshot | None, before: Set[str]) -> Set[str]:
    """The names of what is wrong now, given what was wrong before."""
    store = core["store"]
    found = {
        "budget_used_up": store is not None and store["over_budget"],
        "pool_stuck": core["pool"]["is_stuck"],
    }
    if store is not None:
        found["store_out_of_space"] = store["degraded"] and store["out_of_space"]
        found["store_silent"] = store["silent"]
        found["store_fails"] = store["degraded"] and not store["out_of_space"]
        was_so = "store_nearly_full" in before
        share = LIVE_ENDS if was_so else LIVE_BEGINS
        found["store_nearly_full"] = store["live_bytes"] > share * store["capacity_bytes"]
        name = "file_system_nearly_full"
        # What is not known has not changed.
        was_so = name in before
        found[name] = was_so if room is None else _is_short(store, room, was_so=was_so)
    return {name for name, is_so in found.items() if is_so}


def _is_short(store: StoreSnapshot, room: RoomSnapshot, *, was_so: bool) -> bool:
    """Can the file system become full before the store is, and soon?"""
    share = FREE_ENDS if was_so else FREE_BEGINS
    # Both sides fall together when the file grows; so only what others take makes it short.
    growth_bytes = room.growth_bytes * (FREE_ENDS / FREE_BEGINS if was_so else 1)
    return room.free_bytes < min(growth_bytes, share * store["capacity_bytes"])
