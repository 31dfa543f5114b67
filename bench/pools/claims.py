"""What was said of these allocators, and whether our figures bear it out.

A claim is judged by rule: it has cells (one for each codec, size and phase, or each time), a cell
bears it out or does not, and all of them, some, or none decide the verdict.

Not here: the cells (cells.py), ratios that were published (published.py), and why it is so
(README.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cells
from cells import Cell, CellsOf
from figures import Figures
from markdown_table import table
from plan import G4, G16, SPEED_GEOMETRIES

OURS, ORIGINALS = "ours", "the originals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What somebody said."""

    who: str
    what: str
    unit: str
    """What the cells are figures of."""
    cells: CellsOf
    of: str = OURS
    """Whose figures: of our pools, or of the originals, computed."""
    digits: int = 3


# What this project wants of its own zpool: the aim, what its figure is, and the times.
DENSITY_AIMS = (
    ("filled once, zfit takes at most 1.015 bytes a byte", cells.zfit_fresh),
    ("after churn, zfit takes at most 1.025 though nothing moves", cells.zfit_churned),
    ("after churn, zfit takes at most 1.025 when it is kept dense", cells.zfit_kept_dense),
)
AIMS = (
    ("zfit overwrites no slower than zblock", "zfit's time over zblock's", cells.CYCLE),
    (
        "alloc + free in zfit no slower than in zblock",
        "zfit's mean times over zblock's",
        cells.PLACES,
    ),
)

CLAIMS: Sequence[Claim] = (
    Claim(
        who="the talk",
        what="at 4K, zblock and zsmalloc are about as dense",
        unit="zblock's bytes over zsmalloc's",
        cells=cells.density(G4, cells.alike(cells.DENSITY_MARGIN)),
    ),
    Claim(
        who="the talk",
        what="the same",
        unit="zblock's bytes over zsmalloc's",
        cells=cells.originals(G4, cells.alike(cells.DENSITY_MARGIN)),
        of=ORIGINALS,
    ),
    Claim(
        who="the talk",
        what="at 4K, they are about as fast",
        unit="zsmalloc's time over zblock's",
        cells=cells.speed("zsmalloc", G4, cells.TIMES, cells.alike(cells.SPEED_MARGIN)),
        digits=2,
    ),
    Claim(
        who="the talk",
        what="at 16K, zblock is denser",
        unit="zblock's bytes over zsmalloc's",
        cells=cells.density(G16, cells.less),
    ),
    Claim(
        who="the talk",
        what="the same",
        unit="zblock's bytes over zsmalloc's",
        cells=cells.originals(G16, cells.less),
        of=ORIGINALS,
    ),
    Claim(
        who="the talk",
        what="at 16K, zblock is faster",
        unit="zsmalloc's time over zblock's",
        cells=cells.speed("zsmalloc", G16, cells.TIMES, cells.more),
        digits=2,
    ),
    Claim(
        who="zblock's patch",
        what="zblock's worst times are better",
        unit="zsmalloc's p99.9 over zblock's, 4K",
        cells=cells.speed("zsmalloc", G4, cells.WORST_TIMES, cells.more),
        digits=2,
    ),
    Claim(
        who="zblock's patch",
        what="zblock's objects are in one piece, some of zsmalloc's are not",
        unit="share of the objects that a load puts together",
        cells=cells.copies,
    ),
    Claim(
        who="the explanation",
        what="at 16K, zblock loses less in part-filled blocks",
        unit="bytes in free slots, zblock's over zsmalloc's",
        cells=cells.partial_blocks,
    ),
    Claim(
        who="the explanation",
        what="the same",
        unit="bytes in free slots, zblock's over zsmalloc's",
        cells=cells.partial_blocks_of_originals,
        of=ORIGINALS,
    ),
    Claim(
        who="zblock's patch",
        what="zblock is much denser than zbud and z3fold",
        unit="zblock's ratio over theirs, 4K",
        cells=cells.denser_than_buddies,
    ),
    Claim(
        who="z3fold's documentation",
        what="zbud's ratio is around 1.7",
        unit="bytes of pages over bytes of pool, 4K, fresh",
        cells=cells.ratio_around("zbud", 1.7),
        digits=2,
    ),
    Claim(
        who="z3fold's documentation",
        what="z3fold's ratio is around 2.7",
        unit="bytes of pages over bytes of pool, 4K, fresh",
        cells=cells.ratio_around("z3fold", 2.7),
        digits=2,
    ),
    Claim(
        who="the removal of zbud",
        what="zbud takes 33 % more than zsmalloc",
        unit="zbud's bytes over zsmalloc's, 4K, overwritten",
        cells=cells.larger_than_zsmalloc("zbud", 1.33),
    ),
    Claim(
        who="the removal of z3fold",
        what="z3fold takes 1 to 2 % more than zsmalloc",
        unit="z3fold's bytes over zsmalloc's, 4K, overwritten",
        cells=cells.larger_than_zsmalloc("z3fold", 1.015),
    ),
    Claim(
        who="zsmalloc's documentation",
        what="chains of 8 waste half as much as chains of 4",
        unit="bytes above the objects, 8 over 4, 4K",
        cells=cells.longer_chains,
        of=ORIGINALS,
    ),
    Claim(
        who="our aim",
        what="in every phase, zsmalloc takes no more than the kernel's zram",
        unit="its overhead over zram's, 4K",
        cells=cells.zsmalloc_over_zram,
    ),
    *(
        Claim(who="our aim", what=what, unit="its overhead, 4K", cells=of, digits=4)
        for what, of in DENSITY_AIMS
    ),
    *(
        Claim(
            who="our aim",
            what=f"at {geometry.name}, {what}",
            unit=unit,
            cells=cells.speed("zfit", geometry, time, cells.no_more),
            digits=2,
        )
        for what, unit, time in AIMS
        for geometry in SPEED_GEOMETRIES
    ),
)


def verdict(found: Sequence[Cell]) -> str:
    """One word, or two and how many."""
    if not found:
        return "not measured"
    good = sum(cell.bears_out for cell in found)
    if good == len(found):
        return "confirmed"
    return "refuted" if good == 0 else f"in part ({good} of {len(found)})"


def spread(found: Sequence[Cell], digits: int) -> str:
    """The least and the most that was found."""
    if not found:
        return ""
    values = [cell.value for cell in found]
    ends = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))


def verdicts(figures: Figures) -> str:
    """A row for each claim that these results can judge."""
    rows = []
    for claim in CLAIMS:
        found = list(claim.cells(figures))
        row = [claim.who, claim.what, claim.of, verdict(found), claim.unit]
        rows.append([*row, spread(found, claim.digits)])
    return table(["who", "said that", "of", "verdict", "figure", "found"], rows, left=5)
