"""What can be changed while clients are served: the zpool and the codec of new pages.

A change lasts until the server stops; then the configuration decides again. Pages that are there
stay as they are compressed, and move to the new zpool in the background.

Not here: who may ask for it (`admin`).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, TypedDict

from nbdswap.config import CODEC_LEVELS
from nbdswap.engine import Engine
from nbdswap.errors import UsageError
from nbdswap.logs import EventLog

log = EventLog("changes")

KEYS = ("zpool", "codec", "codec_level")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What shall be so from now on; None: as it is."""

    zpool: str | None = None
    codec: tuple[str, int] | None = None
    """Name and level."""


class Setting(TypedDict):
    """What new pages get; the keys are those of `pool` in the configuration."""

    zpool: str
    codec: str
    codec_level: int


class Changed(TypedDict):
    """The answer to a change."""

    before: Setting
    now: Setting


def read_change(asked: Any) -> Change:
    """A change from JSON, with the keys of a Setting; raises UsageError."""
    if not isinstance(asked, dict):
        raise UsageError(f"a change is {asked!r}, wanted an object with {', '.join(KEYS)}")
    for key in asked:
        if key not in KEYS:
            raise UsageError(f"{key} cannot be changed, wanted {', '.join(KEYS)}")
    zpool, codec, level = (asked.get(key) for key in KEYS)
    if zpool is None and codec is None:
        raise UsageError("a change changes nothing, wanted zpool or codec")
    if not isinstance(zpool, str | None):
        raise UsageError(f"zpool is {zpool!r}, wanted a name")
    return Change(zpool=zpool, codec=None if codec is None else _codec(codec, level))


def _codec(codec: Any, level: Any) -> tuple[str, int]:
    if not isinstance(codec, str) or codec not in CODEC_LEVELS:
        raise UsageError(f"codec is {codec}, wanted one of {', '.join(CODEC_LEVELS)}")
    low, high, default = CODEC_LEVELS[codec]
    if level is None:
        return codec, default
    if isinstance(level, bool) or not isinstance(level, int) or not low <= level <= high:
        wanted = f"{low} to {high}" if low < high else f"{low}"
        raise UsageError(f"codec_level is {level!r}, wanted {wanted} for {codec}")
    return codec, level


class Changer:
    """Changes a running engine, one change after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._one_at_a_time = asyncio.Lock()

    async def apply(self, change: Change) -> Changed:
        """Raises UsageError, and has changed nothing then."""
        async with self._one_at_a_time:
            before = self._setting()
            # The engine allocates for a codec; the event loop shall not wait for that.
            await asyncio.to_thread(self._apply, change)
            now = self._setting()
        fields = {f"{key}_before": value for key, value in before.items()}
        log.info("changed", **now, **fields)
        return {"before": before, "now": now}

    def _apply(self, change: Change) -> None:
        # The zpool first: its name is the one thing that is not known to be good.
        if change.zpool is not None:
            try:
                self._engine.set_zpool(change.zpool)
            except ValueError as error:
                raise UsageError(str(error)) from None
        if change.codec is not None:
            self._engine.set_codec(*change.codec)

    def _setting(self) -> Setting:
        pool = self._engine.snapshot()["pool"]
        return {
            "zpool": pool["zpool"],
            "codec": pool["codec"],
            "codec_level": pool["codec_level"],
        }
