"""The figures that claims are about: each with whether it bears the claim out.

Not here: who claimed what (claims.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from figures import (
    CHAIN_DEFAULT,
    CHURNED,
    FRESH,
    LIFE,
    OVERWRITTEN,
    OWN_CHURNED_MOST,
    OWN_FRESH_MOST,
    SHOWN_CODEC,
    Figures,
    Of,
    mebibytes,
)
from plan import G4, G16, Geometry
from results import Pack

DENSITY_MARGIN = 0.02
SPEED_MARGIN = 0.05
AROUND = 0.10
# 627.8 MB of objects: a pool of 655.2 MB with chains of 4, of 641.7 MB with chains of 8.
CHAINS_CLAIMED = (641.7 - 627.8) / (655.2 - 627.8)

TIMES: dict[str, Of] = {"cycle": lambda one: one.cycle_ns, "load": lambda one: one.load.mean}
CYCLE = {"cycle": TIMES["cycle"]}
PLACES: dict[str, Of] = {"alloc + free": lambda one: one.alloc.mean + one.free.mean}
WORST_TIMES: dict[str, Of] = {
    "alloc p99.9": lambda one: one.alloc.p999,
    "store p99.9": lambda one: one.store.p999,
    "load p99.9": lambda one: one.load.p999,
    "free p99.9": lambda one: one.free.p999,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure that a claim is about."""

    name: str
    value: float
    bears_out: bool


Cells = Iterator[Cell]
CellsOf = Callable[[Figures], Cells]


def density(geometry: Geometry, bears_out: Callable[[float], bool]) -> CellsOf:
    """zblock's bytes over zsmalloc's."""

    def cells(figures: Figures) -> Cells:
        for cell in figures.cells(geometry):
            codec, size, phase = cell
            found = figures.bytes_over("zblock", "zsmalloc", geometry, cell)
            yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, bears_out(found))

    return cells


def originals(geometry: Geometry, bears_out: Callable[[float], bool]) -> CellsOf:
    """The same of the originals, filled once."""

    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            for size in figures.sizes:
                pair = figures.originals_of(codec, geometry.page_bytes, size)
                if pair:
                    found = pair[0].pool_bytes / pair[1].pool_bytes
                    yield Cell(f"{codec}, {mebibytes(size)}", found, bears_out(found))

    return cells


def quotients(geometry: Geometry, codecs: Sequence[str], claimed: float) -> CellsOf:
    """zblock's ratio over zsmalloc's, with these codecs."""

    def cells(figures: Figures) -> Cells:
        for cell in figures.cells(geometry):
            codec, size, phase = cell
            if codec in codecs:
                found = 1 / figures.bytes_over("zblock", "zsmalloc", geometry, cell)
                yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, is_met(found, claimed))

    return cells


def quotients_of_originals(geometry: Geometry, codecs: Sequence[str], claimed: float) -> CellsOf:
    """The same of the originals, filled once."""

    def cells(figures: Figures) -> Cells:
        for codec in codecs:
            for size in figures.sizes:
                pair = figures.originals_of(codec, geometry.page_bytes, size)
                if pair:
                    found = pair[1].pool_bytes / pair[0].pool_bytes
                    yield Cell(f"{codec}, {mebibytes(size)}", found, is_met(found, claimed))

    return cells


def speed(
    zpool: str, geometry: Geometry, times: dict[str, Of], bears_out: Callable[[float], bool]
) -> CellsOf:
    """Times of a zpool over zblock's."""

    def cells(figures: Figures) -> Cells:
        for name, of in times.items() if geometry in figures.timed_geometries else ():
            found = figures.against(zpool, "zblock", geometry, of).middle
            yield Cell(name, found, bears_out(found))

    return cells


def copies(figures: Figures) -> Cells:
    """Shares of the objects that are not in one piece."""
    for zpool, wanted in (("zblock", False), ("zsmalloc", True)):
        for geometry in (G4, G16):
            pack = figures.pack(zpool, SHOWN_CODEC, geometry, figures.sizes[-1])
            share = pack.objects_copied_twice / pack.phases[FRESH].objects
            yield Cell(f"{zpool}, {geometry.name}", share, (share > 0) == wanted)


def partial_blocks(figures: Figures) -> Cells:
    """What zblock loses in part-filled blocks over what zsmalloc does."""
    for codec, size, phase in figures.cells(G16):
        zblock, zsmalloc = (
            figures.held(zpool, codec, G16, size, phase).losses[1]
            for zpool in ("zblock", "zsmalloc")
        )
        found = zblock / zsmalloc
        yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, found < 1 - DENSITY_MARGIN)


def partial_blocks_of_originals(figures: Figures) -> Cells:
    """The same of the originals, filled once."""
    for codec in figures.packed_codecs:
        for size in figures.sizes:
            pair = figures.originals_of(codec, G16.page_bytes, size)
            if pair:
                zblock, zsmalloc = (one.pool_bytes - one.slot_bytes for one in pair)
                found = zblock / zsmalloc
                yield Cell(f"{codec}, {mebibytes(size)}", found, found < 1 - DENSITY_MARGIN)


def longer_chains(figures: Figures) -> Cells:
    """Bytes above the objects with chains of 8 over those with chains of 4."""
    for codec in figures.packed_codecs:
        models = [
            figures.original("zsmalloc", chain, codec, G4.page_bytes, figures.sizes[-1])
            for chain in (4, CHAIN_DEFAULT)
        ]
        short, long = (model.overhead - 1 if model else 0 for model in models)
        if short:
            yield Cell(codec, long / short, abs(long / short / CHAINS_CLAIMED - 1) <= AROUND)


def ratio_around(zpool: str, claimed: float) -> CellsOf:
    """Bytes of pages over bytes of pool."""

    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            found = figures.ratio(zpool, codec, G4, FRESH)
            yield Cell(codec, found, abs(found / claimed - 1) <= AROUND)

    return cells


def denser_than_buddies(figures: Figures) -> Cells:
    """zblock's ratio over those of zbud and z3fold."""
    for zpool in ("zbud", "z3fold"):
        for codec in figures.packed_codecs:
            mine, theirs = (figures.ratio(name, codec, G4, FRESH) for name in ("zblock", zpool))
            yield Cell(f"{zpool}, {codec}", mine / theirs, mine / theirs >= 1 + AROUND)


def larger_than_zsmalloc(zpool: str, claimed: float) -> CellsOf:
    """Bytes of a zpool over zsmalloc's, overwritten, in the largest store."""

    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            cell = (codec, figures.sizes[-1], OVERWRITTEN)
            found = figures.bytes_over(zpool, "zsmalloc", G4, cell)
            yield Cell(codec, found, is_met(found, claimed))

    return cells


def is_met(found: float, claimed: float) -> bool:
    """A figure of bytes that was named is what was found."""
    return abs(found / claimed - 1) <= DENSITY_MARGIN


def zsmalloc_over_zram(figures: Figures) -> Cells:
    """Our zsmalloc's overhead over the kernel's, in every phase; to the last digit."""
    for size in figures.sizes:
        for codec in figures.packed_codecs:
            run = figures.zram(codec, size)
            if run is None:
                continue
            for phase in LIFE:
                ours = figures.held("zsmalloc", codec, G4, size, phase).overhead
                found = ours / run.phases[phase].overhead
                yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, found <= 1)


def zfit_fresh(figures: Figures) -> Cells:
    """Pool bytes for a byte of an object, filled once; to the last digit."""
    for codec in figures.packed_codecs:
        for size in figures.sizes:
            found = figures.held("zfit", codec, G4, size, FRESH).overhead
            yield Cell(f"{codec}, {mebibytes(size)}", found, found <= OWN_FRESH_MOST)


def zfit_churned(figures: Figures) -> Cells:
    """The same at the end of each phase of churn, when nothing is moved."""
    for codec in figures.packed_codecs:
        for size in figures.sizes:
            yield from _churned(figures.pack("zfit", codec, G4, size))


def zfit_kept_dense(figures: Figures) -> Cells:
    """The same of a pool that is kept dense."""
    for (_, geometry, _), pack in figures.kept_dense.items():
        if geometry == G4:
            yield from _churned(pack)


def _churned(pack: Pack) -> Cells:
    for phase in CHURNED:
        if phase in pack.phases:
            found = pack.phases[phase].overhead
            name = f"{pack.codec}, {mebibytes(pack.stored_bytes)}, {phase}"
            yield Cell(name, found, found <= OWN_CHURNED_MOST)


def alike(margin: float) -> Callable[[float], bool]:
    """Neither side is better by more than the margin."""
    return lambda value: abs(value - 1) <= margin


def no_more(value: float) -> bool:
    """At most alike, in time."""
    return value <= 1 + SPEED_MARGIN


def more(value: float) -> bool:
    """More than alike, in time."""
    return value > 1 + SPEED_MARGIN


def less(value: float) -> bool:
    """Less than alike, in bytes."""
    return value < 1 - DENSITY_MARGIN
