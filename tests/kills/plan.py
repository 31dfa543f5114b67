"""Which servers are killed in the middle of what, by a seed and the number of kills.

Not here: how a server is brought into that moment (`life`).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from enum import StrEnum

from tests.support.pages import MIB, PAGE_BYTES
from tests.support.servers import EXPORT, ServerSettings

PAGES = 8192
KILLS_PER_SERVER = 5

_ZPOOLS = ("zfit", "zblock", "zsmalloc", "zbud", "z3fold")
_CODECS = ("lz4", "zstd", "none", "lzo", "deflate", "lz4hc")
_LARGE_POOL_BYTES = 64 * MIB
_SMALL_POOL_BYTES = 2 * MIB
# The pages come to about 20 MiB when compressed: freed segments are soon wanted again.
_STORE = {"capacity_bytes": 40 * MIB, "segment_bytes": 256 << 10}


class Moment(StrEnum):
    """What the server is doing when it is killed."""

    LOAD = "load"
    WRITE_BACK = "write-back"
    CLEANING = "cleaning"
    SWITCH = "switch"
    """Pages move to another zpool, new ones are compressed by another codec."""
    UPGRADE = "upgrade"
    ADOPTION = "adoption"
    """It takes over what the one killed before it left."""
    LOSS = "loss of host"
    """Load, and its memory is gone as well: the next one has the backing file alone."""


class Store(StrEnum):
    NONE = "none"
    PLAIN = "plain"
    ENCRYPTED = "encrypted"
    DISK = "disk"
    """The export's durability is `disk`."""


_WITHOUT_STORE = (Moment.LOAD, Moment.ADOPTION, Moment.SWITCH, Moment.UPGRADE)
_WITH_STORE = (*_WITHOUT_STORE, Moment.WRITE_BACK, Moment.CLEANING)
_MOMENTS = {
    Store.NONE: _WITHOUT_STORE,
    Store.PLAIN: _WITH_STORE,
    Store.ENCRYPTED: _WITH_STORE,
    Store.DISK: (Moment.LOSS, *_WITH_STORE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One server with its files, killed again and again."""

    zpool: str
    codec: str
    store: Store
    connections: int
    moments: list[Moment] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.zpool} {self.codec} {self.store} {self.connections}"

    @property
    def is_durable(self) -> bool:
        return self.store is Store.DISK

    @property
    def settings(self) -> ServerSettings:
        has_store = self.store is not Store.NONE
        size_bytes = PAGES * PAGE_BYTES
        export: dict[str, str | int] = {
            "name": EXPORT,
            "size_bytes": size_bytes,
            "durability": "disk",
        }
        return ServerSettings(
            size_bytes=size_bytes,
            pool_bytes=_SMALL_POOL_BYTES if has_store else _LARGE_POOL_BYTES,
            store=has_store,
            arguments=(f"--zpool={self.zpool}", f"--codec={self.codec}"),
            key="memory" if self.store is Store.ENCRYPTED else None,
            store_config=_STORE if has_store else {},
            exports=(export,) if self.is_durable else (),
        )


def plan(seed: int, kills: int) -> list[Machine]:
    """Servers that are killed `kills` times in all; over many, everything has its turn."""
    rng = random.Random(seed)
    zpools, codecs = rng.sample(_ZPOOLS, len(_ZPOOLS)), rng.sample(_CODECS, len(_CODECS))
    stores = itertools.cycle(rng.sample(list(Store), len(Store)))
    machines = []
    # Machines whose servers do the same take turns at it.
    cycles = {moments: itertools.cycle(moments) for moments in _MOMENTS.values()}
    for number, first in enumerate(range(0, kills, KILLS_PER_SERVER)):
        store = next(stores)
        moments = cycles[_MOMENTS[store]]
        chosen = [next(moments) for _ in range(min(KILLS_PER_SERVER, kills - first))]
        rng.shuffle(chosen)
        if chosen[0] is Moment.ADOPTION:
            # There must be something to adopt.
            chosen.append(chosen.pop(0))
            chosen[0] = Moment.LOAD if chosen[0] is Moment.ADOPTION else chosen[0]
        machines.append(
            Machine(
                zpool=zpools[number % len(zpools)],
                codec=codecs[number % len(codecs)],
                store=store,
                connections=1 + number % 2,
                moments=chosen,
            )
        )
    return machines
