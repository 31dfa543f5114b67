"""The tables of densities, each under the name that its place in README.md has.

Not here: the kernel's (kernel_tables.py), times (speed_tables.py), verdicts (claims.py).
"""

from collections.abc import Callable, Iterator

import plan
from figures import (
    COMPACTED,
    FRESH,
    LIFE,
    OVERWRITTEN,
    PHASES,
    SHOWN_CODEC,
    Figures,
    mebibytes,
    overheads,
    worst_of,
)
from kernel_tables import zram_cell
from markdown_table import table
from plan import G4, G4_IN_16, G16, Geometry
from results import Held

DISCARDED = LIFE[2:6]
COMPARED = ("zblock", "zsmalloc")


def codecs(figures: Figures) -> str:
    """What the codecs make of the pages."""
    assert figures.densities is not None
    rows = []
    for codec in figures.densities.codecs:
        whole = codec.pages + codec.same_filled
        rows.append(
            [
                f"{codec.codec}:{codec.level}",
                f"{codec.page_bytes // plan.KIB}K",
                f"{whole:,}",
                f"{codec.same_filled / whole:.1%}",
                f"{codec.incompressible / whole:.1%}",
                f"{codec.ratio:.3f}",
                " / ".join(map(str, codec.object_bytes_percentiles)),
            ]
        )
    head = ["codec", "page", "pages", "same-filled", "incompressible", "ratio"]
    return table([*head, "object bytes: 10 / 25 / 50 / 75 / 90 %"], rows, left=2)


def density(geometry: Geometry) -> Callable[[Figures], str]:
    """Pool bytes for a byte of an object, at every size."""

    def render(figures: Figures) -> str:
        rows = [[zpool, *_pool_cells(figures, zpool, geometry)] for zpool in figures.packed_zpools]
        if geometry == G4 and figures.kernel:
            cells = (zram_cell(figures, SHOWN_CODEC, size) for size in figures.sizes)
            rows.append(["the kernel's zram", *cells])
        return table(["zpool", *map(mebibytes, figures.sizes)], rows)

    return render


def _pool_cells(figures: Figures, zpool: str, geometry: Geometry) -> Iterator[str]:
    for size in figures.sizes:
        phases = figures.pack(zpool, SHOWN_CODEC, geometry, size).phases
        yield overheads(phases[FRESH], phases[OVERWRITTEN], phases[COMPACTED])


def discarded(figures: Figures) -> str:
    """Overheads while pages are gone and once they are back, in the smallest and largest store."""
    stores = [(g, s) for g in (G4, G16) for s in (figures.sizes[0], figures.sizes[-1])]
    rows = []
    for zpool in figures.packed_zpools:
        packs = (figures.pack(zpool, SHOWN_CODEC, *store).phases for store in stores)
        rows.append([zpool, *(overheads(*map(phases.__getitem__, DISCARDED)) for phases in packs)])
    return table(["zpool", *(f"{g.name}, {mebibytes(s)}" for g, s in stores)], rows)


def kept_dense(figures: Figures) -> str:
    """The worst after churn if nothing moves, and if objects do, and how many do for a write."""
    rows = []
    for geometry in plan.GEOMETRIES:
        for codec in figures.packed_codecs:
            row = []
            for size in figures.sizes:
                pack = figures.kept_dense.get((codec, geometry, size))
                if pack is None:
                    continue
                loose = figures.pack(plan.KEPT_DENSE, codec, geometry, size)
                moves = pack.objects_moved_meanwhile / pack.objects_written
                pair = (f"{worst_of(one.phases)[0]:.4f}" for one in (loose, pack))
                row.append(f"{' / '.join(pair)}, {moves:.2f}")
            rows.append([geometry.name, codec, *row])
    return table(["page", "codec", *map(mebibytes, figures.sizes)], rows, left=2)


def compared(figures: Figures) -> str:
    """Bytes of zblock over those of zsmalloc, for the same objects."""
    rows = []
    for geometry in plan.GEOMETRIES:
        for codec in figures.packed_codecs:
            ratios = (
                figures.bytes_over(*COMPARED, geometry, (codec, size, phase))
                for size in figures.sizes
                for phase in PHASES
            )
            rows.append([geometry.name, codec, *(f"{ratio:.3f}" for ratio in ratios)])
    sizes = [f"{mebibytes(size)} {phase}" for size in figures.sizes for phase in PHASES]
    return table(["page", "codec", *sizes], rows, left=2)


def losses(figures: Figures) -> str:
    """Where the bytes above the objects go."""
    sizes = (figures.sizes[0], figures.sizes[-1])
    rows = [
        [
            zpool,
            *(
                _loss(figures.held(zpool, SHOWN_CODEC, geometry, size, OVERWRITTEN))
                for geometry in (G4, G16)
                for size in sizes
            ),
        ]
        for zpool in figures.packed_zpools
    ]
    head = [f"{geometry.name}, {mebibytes(size)}" for geometry in (G4, G16) for size in sizes]
    return table(["zpool", *head], rows)


def _loss(held: Held) -> str:
    slots, free = held.losses
    return f"{slots:.1%} + {free:.1%}"


def copies(figures: Figures) -> str:
    """Objects that are not in one piece."""
    size = figures.sizes[-1]
    rows = []
    for zpool in figures.packed_zpools:
        row = [zpool]
        for geometry in plan.GEOMETRIES:
            pack = figures.pack(zpool, SHOWN_CODEC, geometry, size)
            fresh = pack.phases[FRESH]
            share = pack.objects_copied_twice / fresh.objects
            row.append(f"{share:.1%} ({pack.bytes_copied_twice / fresh.object_bytes:.1%})")
        rows.append(row)
    return table(["zpool", *(geometry.name for geometry in plan.GEOMETRIES)], rows)


def ratios(figures: Figures) -> str:
    """Pages in a page of pool."""
    geometries = (G4, G16, G4_IN_16)
    rows = [
        [
            zpool,
            *(
                " / ".join(
                    f"{figures.ratio(zpool, codec, geometry, phase):.2f}" for phase in PHASES
                )
                for geometry in geometries
                for codec in figures.packed_codecs
            ),
        ]
        for zpool in figures.packed_zpools
    ]
    head = [
        f"{geometry.name}, {codec}" for geometry in geometries for codec in figures.packed_codecs
    ]
    return table(["zpool", *head], rows)


TABLES: dict[str, Callable[[Figures], str]] = {
    "codecs": codecs,
    "density-4K": density(G4),
    "density-16K": density(G16),
    "density-4K-in-16K": density(G4_IN_16),
    "discarded": discarded,
    "kept-dense": kept_dense,
    "compared": compared,
    "losses": losses,
    "copies": copies,
    "ratios": ratios,
}
