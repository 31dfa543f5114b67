"""The tables of times.

Not here: how they were measured (speed.py).
"""

from collections.abc import Callable, Sequence

import plan
from figures import Figures, Of, Spread
from markdown_table import table
from plan import G4, G4_IN_16, G16, Geometry

MEANS: tuple[Of, ...] = (
    lambda one: one.alloc.mean,
    lambda one: one.store.mean,
    lambda one: one.free.mean,
)
WORST: tuple[Of, ...] = (
    lambda one: one.alloc.p999,
    lambda one: one.load.p999,
    lambda one: one.free.p999,
)


def speed(geometry: Geometry) -> Callable[[Figures], str]:
    """Times of all zpools."""

    def render(figures: Figures) -> str:
        if figures.speeds is None or geometry not in figures.timed_geometries:
            return "(not measured)"
        rows = [_speed_row(figures, zpool, geometry) for zpool in figures.timed_zpools]
        head = ["zpool", "cycle ns", "over zblock's", "load ns", "over zblock's", "two threads"]
        means = "mean ns: alloc / store / free"
        return table([*head, means, "p99.9 ns: alloc / load / free"], rows)

    return render


def _speed_row(figures: Figures, zpool: str, geometry: Geometry) -> Sequence[str]:
    def middle(of: Of) -> str:
        return f"{figures.spread(zpool, geometry, of).middle:,.0f}"

    def over(of: Of) -> str:
        if zpool == plan.REFERENCE:
            return ""
        found = figures.against(zpool, plan.REFERENCE, geometry, of)
        return f"{found.middle:.2f} ({found.least:.2f} - {found.most:.2f})"

    scaling = Spread.of(
        [2 * one.cycle_ns / one.cycle_ns_two for one in figures.samples(zpool, geometry)]
    )
    scalings = f"{scaling.middle:.2f} ({scaling.least:.2f} - {scaling.most:.2f})"
    return [
        zpool,
        middle(lambda one: one.cycle_ns),
        over(lambda one: one.cycle_ns),
        middle(lambda one: one.load.mean),
        over(lambda one: one.load.mean),
        scalings,
        " / ".join(map(middle, MEANS)),
        " / ".join(map(middle, WORST)),
    ]


TABLES: dict[str, Callable[[Figures], str]] = {
    "speed-4K": speed(G4),
    "speed-16K": speed(G16),
    "speed-4K-in-16K": speed(G4_IN_16),
}
