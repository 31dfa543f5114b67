"""What is measured of the zpools, and how much of it.

Not here: measuring (density.py, speed.py, kernel.py) and what the figures mean (claims.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20

Say = Callable[[str], None]
"""Told what is about to be measured."""

SEED = 1
CODECS = (("lz4", 1), ("lzo", 1), ("zstd", 3))
STORED_MIB = (16, 96, 768)
# Where the originals change places: with one codec, since they need only be computed.
CROSSING_CODEC = "lz4"
CROSSING_MIB = (16, 32, 64, 96, 192, 384, 768, 1536, 3072)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Pages of one size in frames of the same or another."""

    page_bytes: int
    frame_bytes: int

    @property
    def name(self) -> str:
        """`16K`, or `4K in 16K`."""
        page = f"{self.page_bytes // KIB}K"
        if self.frame_bytes == self.page_bytes:
            return page
        return f"{page} in {self.frame_bytes // KIB}K"


G4 = Geometry(4 * KIB, 4 * KIB)
G16 = Geometry(16 * KIB, 16 * KIB)
G64 = Geometry(64 * KIB, 64 * KIB)
G4_IN_16 = Geometry(4 * KIB, 16 * KIB)
GEOMETRIES = (G4, G16, G64, G4_IN_16)

# Speed: one codec, since a pool sees nothing but sizes, and a pool that no cache holds.
SPEED_CODEC = ("lz4", 1)
SPEED_GEOMETRIES = (G4, G16, G4_IN_16)
SPEED_STORED_MIB = 768
SPEED_CYCLES = 1_000_000
SPEED_ROUNDS = 5
REFERENCE = "zblock"

# That which has something to move while it is written to, and at last as well.
KEPT_DENSE = "zfit"
