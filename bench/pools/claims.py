"""What was said of these allocators, and whether our figures bear it out.

A claim is judged by rule: it has cells (one for each codec, size and phase, or each time), a cell
bears it out or does not, and all of them, some, or none decide the verdict.

Not here: why it is so (README.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from figures import CHAIN_DEFAULT, FRESH, OVERWRITTEN, SHOWN_CODEC, Figures, Of, mebibytes
from markdown_table import table
from plan import G4, G16, Geometry

DENSITY_MARGIN = 0.02
SPEED_MARGIN = 0.05
AROUND = 0.10
# 627.8 MB of objects: a pool of 655.2 MB with chains of 4, of 641.7 MB with chains of 8.
CHAINS_CLAIMED = (641.7 - 627.8) / (655.2 - 627.8)

TIMES: dict[str, Of] = {"cycle": lambda one: one.cycle_ns, "load": lambda one: one.load.mean}
WORST_TIMES: dict[str, Of] = {
    "alloc p99.9": lambda one: one.alloc.p999,
    "store p99.9": lambda one: one.store.p999,
    "load p99.9": lambda one: one.load.p999,
    "free p99.9": lambda one: one.free.p999,
}


OURS, ORIGINALS = "ours", "the originals"


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure that a claim is about."""

    name: str
    value: float
    bears_out: bool


Cells = Iterator[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody said."""

    who: str
    what: str
    unit: str
    """What the cells are figures of."""
    cells: Callable[[Figures], Cells]
    of: str = OURS
    """Whose figures: of our pools, or of the originals, computed."""
    digits: int = 3


def _density(geometry: Geometry, bears_out: Callable[[float], bool]) -> Callable[[Figures], Cells]:
    """zblock's bytes over zsmalloc's."""

    def cells(figures: Figures) -> Cells:
        for cell in figures.cells(geometry):
            codec, size, phase = cell
            found = figures.bytes_over("zblock", "zsmalloc", geometry, cell)
            yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, bears_out(found))

    return cells


def _originals(
    geometry: Geometry, bears_out: Callable[[float], bool]
) -> Callable[[Figures], Cells]:
    """The same of the originals, filled once."""

    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            for size in figures.sizes:
                pair = figures.originals_of(codec, geometry.page_bytes, size)
                if pair:
                    found = pair[0].pool_bytes / pair[1].pool_bytes
                    yield Cell(f"{codec}, {mebibytes(size)}", found, bears_out(found))

    return cells


def _speed(
    geometry: Geometry, times: dict[str, Of], bears_out: Callable[[float], bool]
) -> Callable[[Figures], Cells]:
    """zsmalloc's times over zblock's."""

    def cells(figures: Figures) -> Cells:
        for name, of in times.items() if geometry in figures.timed_geometries else ():
            found = figures.against("zsmalloc", "zblock", geometry, of).middle
            yield Cell(name, found, bears_out(found))

    return cells


def _copies(figures: Figures) -> Cells:
    for zpool, wanted in (("zblock", False), ("zsmalloc", True)):
        for geometry in (G4, G16):
            pack = figures.pack(zpool, SHOWN_CODEC, geometry, figures.sizes[-1])
            share = pack.objects_copied_twice / pack.phases[FRESH].objects
            yield Cell(f"{zpool}, {geometry.name}", share, (share > 0) == wanted)


def _partial_blocks(figures: Figures) -> Cells:
    """What zblock loses in part-filled blocks over what zsmalloc does."""
    for codec, size, phase in figures.cells(G16):
        zblock, zsmalloc = (
            figures.held(zpool, codec, G16, size, phase).losses[1]
            for zpool in ("zblock", "zsmalloc")
        )
        found = zblock / zsmalloc
        yield Cell(f"{codec}, {mebibytes(size)}, {phase}", found, found < 1 - DENSITY_MARGIN)


def _partial_blocks_of_originals(figures: Figures) -> Cells:
    for codec in figures.packed_codecs:
        for size in figures.sizes:
            pair = figures.originals_of(codec, G16.page_bytes, size)
            if pair:
                zblock, zsmalloc = (one.pool_bytes - one.slot_bytes for one in pair)
                found = zblock / zsmalloc
                yield Cell(f"{codec}, {mebibytes(size)}", found, found < 1 - DENSITY_MARGIN)


def _longer_chains(figures: Figures) -> Cells:
    """Bytes above the objects with chains of 8 over those with chains of 4."""
    for codec in figures.packed_codecs:
        models = [
            figures.original("zsmalloc", chain, codec, G4.page_bytes, figures.sizes[-1])
            for chain in (4, CHAIN_DEFAULT)
        ]
        short, long = (model.overhead - 1 if model else 0 for model in models)
        if short:
            yield Cell(codec, long / short, abs(long / short / CHAINS_CLAIMED - 1) <= AROUND)


def _ratio_around(zpool: str, claimed: float) -> Callable[[Figures], Cells]:
    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            found = figures.ratio(zpool, codec, G4, FRESH)
            yield Cell(codec, found, abs(found / claimed - 1) <= AROUND)

    return cells


def _denser_than_buddies(figures: Figures) -> Cells:
    for zpool in ("zbud", "z3fold"):
        for codec in figures.packed_codecs:
            mine, theirs = (figures.ratio(name, codec, G4, FRESH) for name in ("zblock", zpool))
            yield Cell(f"{zpool}, {codec}", mine / theirs, mine / theirs >= 1 + AROUND)


def _larger_than_zsmalloc(zpool: str, claimed: float) -> Callable[[Figures], Cells]:
    def cells(figures: Figures) -> Cells:
        for codec in figures.packed_codecs:
            cell = (codec, figures.sizes[-1], OVERWRITTEN)
            found = figures.bytes_over(zpool, "zsmalloc", G4, cell)
            yield Cell(codec, found, abs(found / claimed - 1) <= DENSITY_MARGIN)

    return cells


def alike(margin: float) -> Callable[[float], bool]:
    """Neither side is better by more than the margin."""
    return lambda value: abs(value - 1) <= margin


CLAIMS: Sequence[Claim] = (
    Claim(
        who="the talk",
        what="at 4K, zblock and zsmalloc are about as dense",
        unit="zblock's bytes over zsmalloc's",
        cells=_density(G4, alike(DENSITY_MARGIN)),
    ),
    Claim(
        who="the talk",
        what="the same",
        unit="zblock's bytes over zsmalloc's",
        cells=_originals(G4, alike(DENSITY_MARGIN)),
        of=ORIGINALS,
    ),
    Claim(
        who="the talk",
        what="at 4K, they are about as fast",
        unit="zsmalloc's time over zblock's",
        cells=_speed(G4, TIMES, alike(SPEED_MARGIN)),
        digits=2,
    ),
    Claim(
        who="the talk",
        what="at 16K, zblock is denser",
        unit="zblock's bytes over zsmalloc's",
        cells=_density(G16, lambda value: value < 1 - DENSITY_MARGIN),
    ),
    Claim(
        who="the talk",
        what="the same",
        unit="zblock's bytes over zsmalloc's",
        cells=_originals(G16, lambda value: value < 1 - DENSITY_MARGIN),
        of=ORIGINALS,
    ),
    Claim(
        who="the talk",
        what="at 16K, zblock is faster",
        unit="zsmalloc's time over zblock's",
        cells=_speed(G16, TIMES, lambda value: value > 1 + SPEED_MARGIN),
        digits=2,
    ),
    Claim(
        who="zblock's patch",
        what="zblock's worst times are better",
        unit="zsmalloc's p99.9 over zblock's, 4K",
        cells=_speed(G4, WORST_TIMES, lambda value: value > 1 + SPEED_MARGIN),
        digits=2,
    ),
    Claim(
        who="zblock's patch",
        what="zblock's objects are in one piece, some of zsmalloc's are not",
        unit="share of the objects that a load puts together",
        cells=_copies,
    ),
    Claim(
        who="the explanation",
        what="at 16K, zblock loses less in part-filled blocks",
        unit="bytes in free slots, zblock's over zsmalloc's",
        cells=_partial_blocks,
    ),
    Claim(
        who="the explanation",
        what="the same",
        unit="bytes in free slots, zblock's over zsmalloc's",
        cells=_partial_blocks_of_originals,
        of=ORIGINALS,
    ),
    Claim(
        who="zblock's patch",
        what="zblock is much denser than zbud and z3fold",
        unit="zblock's ratio over theirs, 4K",
        cells=_denser_than_buddies,
    ),
    Claim(
        who="z3fold's documentation",
        what="zbud's ratio is around 1.7",
        unit="bytes of pages over bytes of pool, 4K, fresh",
        cells=_ratio_around("zbud", 1.7),
        digits=2,
    ),
    Claim(
        who="z3fold's documentation",
        what="z3fold's ratio is around 2.7",
        unit="bytes of pages over bytes of pool, 4K, fresh",
        cells=_ratio_around("z3fold", 2.7),
        digits=2,
    ),
    Claim(
        who="the removal of zbud",
        what="zbud takes 33 % more than zsmalloc",
        unit="zbud's bytes over zsmalloc's, 4K, overwritten",
        cells=_larger_than_zsmalloc("zbud", 1.33),
    ),
    Claim(
        who="the removal of z3fold",
        what="z3fold takes 1 to 2 % more than zsmalloc",
        unit="z3fold's bytes over zsmalloc's, 4K, overwritten",
        cells=_larger_than_zsmalloc("z3fold", 1.015),
    ),
    Claim(
        who="zsmalloc's documentation",
        what="chains of 8 waste half as much as chains of 4",
        unit="bytes above the objects, 8 over 4, 4K",
        cells=_longer_chains,
        of=ORIGINALS,
    ),
)


def verdict(cells: Sequence[Cell]) -> str:
    """One word, or two and how many."""
    if not cells:
        return "not measured"
    good = sum(cell.bears_out for cell in cells)
    if good == len(cells):
        return "confirmed"
    return "refuted" if good == 0 else f"in part ({good} of {len(cells)})"


def verdicts(figures: Figures) -> str:
    """A row for each claim that these results can judge."""
    rows = []
    for claim in CLAIMS:
        cells = list(claim.cells(figures))
        values = [cell.value for cell in cells]
        found = f"{min(values):.{claim.digits}f} to {max(values):.{claim.digits}f}" if cells else ""
        rows.append([claim.who, claim.what, claim.of, verdict(cells), claim.unit, found])
    return table(["who", "said that", "of", "verdict", "figure", "found"], rows, left=5)
