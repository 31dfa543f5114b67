"""The ratios that zblock's author published, and what we find of the same kind.

His are Zswapped over Zswap in a kernel's /proc/meminfo after a run, for zblock and for zsmalloc,
each of a load of its own. What can be compared is how many times zsmalloc's ratio zblock's is.

Not here: claims in words (claims.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cells
from claims import spread, verdict
from figures import Figures
from markdown_table import table
from plan import G4, G16, Geometry

ANY = "not named"


@dataclass(frozen=True, slots=True)
class Published:
    """One pair of ratios."""

    where: str
    geometry: Geometry
    codec: str
    """Or `ANY`: then all of ours count."""
    zblock: float
    zsmalloc: float

    @property
    def quotient(self) -> float:
        """zblock's ratio over zsmalloc's."""
        return self.zblock / self.zsmalloc


PUBLISHED: Sequence[Published] = (
    Published("stress-ng on a Raspberry Pi 5, April 2025; 16K presumed", G16, ANY, 3.13, 2.71),
    Published("kernel build, virtual machine of 4 GB, make -j4", G4, "lz4", 2.55, 2.74),
    Published("the same, make -j16", G4, "lz4", 2.20, 2.79),
    Published("kernel build, 8 cores, make -j32", G4, "zstd", 4.08, 4.39),
    Published("bzImage, 8 cores, text of v4", G4, "zstd", 4.65, 4.43),
)


def published(figures: Figures) -> str:
    """A row for each pair."""
    rows = []
    for one in PUBLISHED:
        codecs = figures.packed_codecs if one.codec == ANY else (one.codec,)
        row = [one.where, f"{one.geometry.page_bytes >> 10}K", one.codec]
        row += [f"{one.zblock:.2f} / {one.zsmalloc:.2f}", f"{one.quotient:.3f}"]
        for cells_of in (cells.quotients, cells.quotients_of_originals):
            found = list(cells_of(one.geometry, codecs, one.quotient)(figures))
            row += [spread(found, 3), verdict(found)]
        rows.append(row)
    head = ["measured on", "page", "codec", "zblock / zsmalloc", "quotient"]
    return table([*head, "ours", "verdict", "the originals", "verdict"], rows, left=3)
