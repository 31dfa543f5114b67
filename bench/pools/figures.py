"""The figures that tables, plots and claims are made of, looked up in the result files.

Not here: how they are shown (tables.py, plots.py) and what they mean (claims.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import plan
import results
from plan import Geometry
from results import (
    AnyFile,
    Densities,
    Held,
    Kernel,
    KernelHeld,
    KernelRun,
    Original,
    Originals,
    Pack,
    Sample,
    Speeds,
)

FRESH, OVERWRITTEN, COMPACTED = "fresh", "overwritten", "compacted"
PHASES = (FRESH, OVERWRITTEN)
LIFE = (
    FRESH,
    OVERWRITTEN,
    "discarded50",
    "refilled50",
    "discarded90",
    "refilled90",
    "worn",
    COMPACTED,
)
"""All phases, of our pools and of zram, in the order of time."""
CHURNED = ("overwritten", "refilled50", "refilled90", "worn")
"""Those after overwrites and discards, before compaction, in which no page is gone."""
OWN_FRESH_MOST = 1.015
OWN_CHURNED_MOST = 1.025
"""Pool bytes for a byte of an object that zfit is to take at most."""
CHAIN_DEFAULT = 8
"""Frames of zsmalloc's longest chain if its configuration says nothing."""
CHAINS = (4, CHAIN_DEFAULT, 16)
QUIET_CORES = 0.1
"""Above this, in more than a tenth of the samples, other programs decide the times."""

SHOWN_CODEC = "lz4"
"""Of which tables show everything."""

Of = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of several rounds."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Median, smallest, largest."""
        return cls(median(values), min(values), max(values))


class Figures:
    """All results of one folder. Parts that were not measured are None."""

    def __init__(
        self,
        densities: Densities | None = None,
        originals: Originals | None = None,
        kernel: Kernel | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self.densities = densities
        self.originals = originals
        self.kernel = kernel
        self.speeds = speeds
        self._packs: dict[tuple[str, str, Geometry, int], Pack] = {
            (pack.zpool, pack.codec, pack.geometry, pack.stored_bytes): pack
            for pack in (densities.packs if densities else ())
        }
        self.kept_dense: dict[tuple[str, Geometry, int], Pack] = {
            (pack.codec, pack.geometry, pack.stored_bytes): pack
            for pack in (densities.kept_dense if densities else ())
        }
        self.packed_zpools = tuple(dict.fromkeys(key[0] for key in self._packs))
        self.packed_codecs = tuple(dict.fromkeys(key[1] for key in self._packs))
        self.sizes = tuple(sorted({key[3] for key in self._packs}))

    def pack(self, zpool: str, codec: str, geometry: Geometry, stored_bytes: int) -> Pack:
        """One zpool with one kind of objects."""
        return self._packs[zpool, codec, geometry, stored_bytes]

    def held(
        self, zpool: str, codec: str, geometry: Geometry, stored_bytes: int, phase: str
    ) -> Held:
        """That zpool at the end of a phase."""
        return self.pack(zpool, codec, geometry, stored_bytes).phases[phase]

    def bytes_over(
        self, zpool: str, other: str, geometry: Geometry, cell: tuple[str, int, str]
    ) -> float:
        """Bytes of `zpool` over those of `other`, same pages; cell: codec, size and phase.

        Bytes and not overheads: who stores more pages uncompressed has the better overhead.
        """
        codec, size, phase = cell
        mine = self.held(zpool, codec, geometry, size, phase)
        return mine.pool_bytes / self.held(other, codec, geometry, size, phase).pool_bytes

    def ratio(self, zpool: str, codec: str, geometry: Geometry, phase: str) -> float:
        """Bytes of pages over bytes of pool in the largest store, no same-filled pages."""
        held = self.held(zpool, codec, geometry, self.sizes[-1], phase)
        return held.objects * geometry.page_bytes / held.pool_bytes

    def cells(self, geometry: Geometry) -> Iterator[tuple[str, int, str]]:
        """Codec, size and phase of everything that claims about density are judged by."""
        for codec in self.packed_codecs:
            for stored_bytes in self.sizes:
                for phase in PHASES:
                    yield codec, stored_bytes, phase

    def original(
        self, allocator: str, chain: int, codec: str, page_bytes: int, stored_bytes: int
    ) -> Original | None:
        """The original of that name, if it was computed."""
        wanted = (allocator, chain, codec, page_bytes, stored_bytes)
        for one in self.originals.models if self.originals else ():
            key = (one.allocator, one.chain_frames_max, one.codec, one.page_bytes)
            if (*key, one.stored_bytes) == wanted:
                return one
        return None

    def originals_of(
        self, codec: str, page_bytes: int, stored_bytes: int
    ) -> tuple[Original, Original] | None:
        """zblock and zsmalloc as they come, if both were computed."""
        zblock = self.original("zblock", 0, codec, page_bytes, stored_bytes)
        zsmalloc = self.original("zsmalloc", CHAIN_DEFAULT, codec, page_bytes, stored_bytes)
        return (zblock, zsmalloc) if zblock and zsmalloc else None

    def zram(self, codec: str, stored_bytes: int) -> KernelRun | None:
        """The kernel's, if it was measured with this codec and size."""
        runs = self.kernel.runs if self.kernel else ()
        return next(
            (run for run in runs if (run.codec, run.stored_bytes) == (codec, stored_bytes)), None
        )

    def samples(self, zpool: str, geometry: Geometry) -> list[Sample]:
        """The rounds of one zpool, in order."""
        samples = self.speeds.samples if self.speeds else ()
        return [s for s in samples if (s.zpool, s.geometry) == (zpool, geometry)]

    @property
    def timed_zpools(self) -> tuple[str, ...]:
        """Zpools that have speeds, in the order in which the densities have them."""
        timed = {sample.zpool for sample in (self.speeds.samples if self.speeds else ())}
        return tuple(sorted(timed, key=lambda zpool: _place(self.packed_zpools, zpool)))

    @property
    def timed_geometries(self) -> tuple[Geometry, ...]:
        """Geometries that have speeds."""
        samples = self.speeds.samples if self.speeds else ()
        return tuple(dict.fromkeys(sample.geometry for sample in samples))

    def spread(self, zpool: str, geometry: Geometry, of: Of) -> Spread:
        """A time over the rounds."""
        return Spread.of([of(sample) for sample in self.samples(zpool, geometry)])

    def against(self, zpool: str, other: str, geometry: Geometry, of: Of) -> Spread:
        """A time of one zpool over that of another in the same round, over the rounds."""
        mine, theirs = self.samples(zpool, geometry), self.samples(other, geometry)
        return Spread.of([of(a) / of(b) for a, b in zip(mine, theirs, strict=True)])

    @property
    def other_cores(self) -> float:
        """What other programs used at most, in nine of ten samples."""
        assert self.speeds is not None
        found = sorted(sample.other_cores for sample in self.speeds.samples)
        return found[(len(found) - 1) * 9 // 10]


def _place(zpools: tuple[str, ...], zpool: str) -> int:
    return zpools.index(zpool) if zpool in zpools else len(zpools)


def load(folder: Path) -> Figures:
    """The results in a folder; what is not there was not measured."""

    def part(kind: type[AnyFile], name: str) -> AnyFile | None:
        path = folder / name
        return results.read(kind, path) if path.exists() else None

    return Figures(
        densities=part(Densities, results.DENSITY_FILE),
        originals=part(Originals, results.ORIGINALS_FILE),
        kernel=part(Kernel, results.KERNEL_FILE),
        speeds=part(Speeds, results.SPEED_FILE),
    )


def overheads(*held: Held | KernelHeld) -> str:
    """`1.022 / 1.036`."""
    return " / ".join(f"{one.overhead:.3f}" for one in held)


def mebibytes(count: int) -> str:
    """`96 MiB`."""
    return f"{count / plan.MIB:g} MiB"


def worst_of(phases: Mapping[str, Held] | Mapping[str, KernelHeld]) -> tuple[float, str]:
    """The largest overhead of a full pool that nobody compacted, alone and with its phase."""
    worst = max(CHURNED, key=lambda phase: phases[phase].overhead)
    return phases[worst].overhead, f"{phases[worst].overhead:.4f} ({worst})"
