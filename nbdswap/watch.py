"""Tells the log when something begins that an operator should act on, and when it is over.

Not here: what to do about it (`status` has that in its hints), thresholds (the alerts have those).
"""

import asyncio
from collections.abc import Callable

from nbdswap.logs import EventLog
from nbdswap.snapshots import CoreSnapshot

log = EventLog("watch")

PERIOD_S = 5.0

# By name: what has begun, in words.
TROUBLES = {
    "budget_used_up": "the bytes that may be written to the store are used up: "
    "nothing is written back until time allows more",
    "store_fails": "the store cannot be written: nothing is written back until a write succeeds",
    "pool_stuck": "the pool is full and nothing can be written back: writes are refused",
}


def troubles_of(core: CoreSnapshot) -> set[str]:
    """The names of what is wrong now."""
    store = core["store"]
    found = {
        "budget_used_up": store is not None and store["over_budget"],
        "store_fails": store is not None and store["degraded"],
        "pool_stuck": core["pool"]["is_stuck"],
    }
    return {name for name, is_so in found.items() if is_so}


def tell(before: set[str], now: set[str]) -> None:
    """Logs what has begun and what has ended."""
    for name in sorted(now - before):
        log.warning(TROUBLES[name], trouble=name)
    for name in sorted(before - now):
        log.info("over", trouble=name)


async def watch(snapshot: Callable[[], CoreSnapshot]) -> None:
    """Looks every few seconds, until cancelled."""
    before: set[str] = set()
    while True:
        now = troubles_of(snapshot())
        tell(before, now)
        before = now
        await asyncio.sleep(PERIOD_S)
