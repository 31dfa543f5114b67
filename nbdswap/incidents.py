"""Damaged records in the log: which page of which export, and where it lay.

The engine keeps the names until somebody takes them. Here they become lines, at most so many a
minute, since a dying disk has more to say than anybody reads. Not here: counting (`metrics`).
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nbdswap.engine import Engine
from nbdswap.logs import EventLog

if TYPE_CHECKING:
    from nbdswap._core import Incident

log = EventLog("store")

PERIOD_S = 1.0
LINES_PER_MINUTE = 60

EVENTS = {
    ("damaged", "read"): "a damaged record: the read was answered with an error",
    ("damaged", "cleaning"): "a damaged record: its page is lost",
    ("damaged", "scrub"): "a damaged record: its page is lost, found before it was asked for",
    ("unreadable", "read"): "an unreadable record: the read was answered with an error",
    ("unreadable", "cleaning"): "an unreadable record: its segment cannot be cleaned",
    ("unreadable", "scrub"): "an unreadable record, found before it was asked for",
}


class IncidentLog:
    """Logs what the engine found; `clock` is in seconds and never goes back."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._minute_began_s = clock()
        self._lines = 0
        self._unnamed = 0

    async def run(self) -> None:
        """Looks once a second until it is cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.drain()

    def drain(self) -> None:
        """Logs what came since the last call, and once a minute what found no line."""
        incidents, unnamed = self._engine.take_incidents()
        self._unnamed += unnamed
        if self._clock() - self._minute_began_s >= 60:
            self._minute_began_s, self._lines = self._clock(), 0
            self._say_what_is_unnamed()
        for incident in incidents:
            if self._lines < LINES_PER_MINUTE:
                self._lines += 1
                _say(incident)
            else:
                self._unnamed += incident["times"]

    def close(self) -> None:
        """Takes the last ones, before the engine is closed."""
        self.drain()
        self._say_what_is_unnamed()

    def _say_what_is_unnamed(self) -> None:
        if self._unnamed:
            log.error("more damaged or unreadable records than are named here", times=self._unnamed)
            self._unnamed = 0


def _say(incident: "Incident") -> None:
    log.error(
        EVENTS[incident["fault"], incident["finder"]],
        export=incident["export"],
        page=incident["page"],
        byte=incident["byte"],
        store_byte=incident["store_byte"],
        times=incident["times"],
    )
