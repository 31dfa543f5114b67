"""The three charts of the lab, each drawn into a figure.

Directly labelled: no legend to look things up in, and no line that says nothing.
Not here: style, colours and files (`plots`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .results import PackResult, Percentiles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = "#DDDDDD"
MIB = 1 << 20
PHASE_LABELS = {
    "fresh": "fresh",
    "overwritten": "all overwritten\ntwice",
    "discarded50": "half gone",
    "refilled50": "half gone and\nfilled again",
    "discarded90": "90 % gone",
    "refilled90": "90 % gone and\nfilled again",
    "worn": "overwritten\ntwice again",
    "compacted": "compacted",
}
SPARSE_PHASES = ("discarded50", "discarded90")
# The first dot has its figure to the left, the last one to the right, so that none meet.
LATENCY_LABELS: tuple[dict[str, Any], ...] = (
    {"xytext": (-5, 0), "ha": "right", "va": "center"},
    {"xytext": (0, 4), "ha": "center", "va": "bottom"},
    {"xytext": (5, 0), "ha": "left", "va": "center"},
)


def draw_density(figure: Figure, packs: Sequence[PackResult], colours: dict[str, str]) -> None:
    """Groups of bars, one for each phase: what a pool takes above the compressed bytes.

    A full pool and a sparse one are two scales: with one, the bars that matter had no height.
    """
    phases = [phase for phase in PHASE_LABELS if any(pack.phase(phase) for pack in packs)]
    full = [phase for phase in phases if phase not in SPARSE_PHASES]
    sparse = [phase for phase in phases if phase in SPARSE_PHASES]
    panels = [panel for panel in (full, sparse) if panel]
    ratios = [len(panel) for panel in panels]
    row = figure.subplots(1, len(panels), width_ratios=ratios, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        _bars(axes, packs, panel, colours)
    row[0].set_title("Memory of the pool above the compressed bytes, per cent", pad=18)
    if full and sparse:
        row[1].set_title("the same before it is filled again", pad=18)
    _names(row[0], [pack.zpool for pack in packs], colours)


def _bars(
    axes: Axes, packs: Sequence[PackResult], phases: Sequence[str], colours: dict[str, str]
) -> None:
    width = 0.84 / len(packs)
    for index, pack in enumerate(packs):
        colour = colours[pack.zpool]
        for at, phase in enumerate(phases):
            density = pack.phase(phase)
            if density is None or density.overhead is None:
                continue
            percent = 100 * (density.overhead - 1)
            x = at - 0.42 + width * (index + 0.5)
            axes.bar(x, percent, width * 0.9, color=colour)
            label = f"{percent:.1f}" if percent < 99.95 else f"{percent:.0f}"
            axes.annotate(
                label, (x, max(percent, 0)), (0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=7, color=colour,
            )  # fmt: skip
    axes.set_xticks(range(len(phases)), [PHASE_LABELS[phase] for phase in phases])
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _names(axes: Axes, zpools: Sequence[str], colours: dict[str, str]) -> None:
    """The zpools in their colours above the plot, in the order of the bars."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    children: list[Artist] = [
        TextArea(zpool, textprops={"color": colours[zpool], "fontweight": "bold"})
        for zpool in zpools
    ]
    box = AnnotationBbox(
        HPacker(children=children, pad=0, sep=12), (0, 1), xycoords="axes fraction",
        box_alignment=(0, 0), frameon=False, pad=0, xybox=(0, 4), boxcoords="offset points",
    )  # fmt: skip
    axes.add_artist(box)


def draw_fragmentation(
    figure: Figure, packs: Sequence[PackResult], colours: dict[str, str]
) -> None:
    """Lines from the first object to the last: above the bytes, below their quotient."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.set_title("Pool over the operations of the run, MiB; grey: the compressed bytes in it")
    above.fill_between(
        [moment.operations / 1000 for moment in packs[0].timeline],
        [moment.object_bytes / MIB for moment in packs[0].timeline],
        color=FAINT, linewidth=0,
    )  # fmt: skip
    ends: list[tuple[float, str]] = []
    for pack in packs:
        style: dict[str, Any] = {"color": colours[pack.zpool], "linewidth": 1.3}
        xs = [moment.operations / 1000 for moment in pack.timeline]
        above.plot(xs, [moment.block_bytes / MIB for moment in pack.timeline], **style)
        moments = [moment for moment in pack.timeline if moment.object_bytes]
        ratios = [moment.block_bytes / moment.object_bytes for moment in moments]
        below.plot([moment.operations / 1000 for moment in moments], ratios, **style)
        ends += [(ratios[-1], pack.zpool)] if ratios else []
    last = max((pack.timeline[-1].operations / 1000 for pack in packs if pack.timeline), default=1)
    top = _ratio_top(packs)
    below.set_title("Bytes of pool per compressed byte (while the pool is sparse, off the scale)")
    below.set_xlabel("thousand allocations and frees")
    below.set_xlim(0, last)
    below.set_ylim(1, top)
    above.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    ends.sort()
    places = apart([value for value, _ in ends], (top - 1) * 0.11)
    for y, (value, zpool) in zip(places, ends, strict=True):
        below.annotate(
            f"{zpool} {value:.3f}", (last, y), (6, 0), textcoords="offset points",
            va="center", color=colours[zpool], annotation_clip=False,
        )  # fmt: skip


def _ratio_top(packs: Sequence[PackResult]) -> float:
    """The end of the scale: all full pools are on it, with some room."""
    overheads = [
        density.overhead
        for pack in packs
        for density in pack.densities
        if density.phase not in SPARSE_PHASES and density.overhead is not None
    ]
    return 1 + 1.3 * max(max(overheads, default=1) - 1, 0.01)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels at these values, ascending, none nearer than `gap` to the next."""
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap) if places else value)
    return places


def draw_latency(figure: Figure, packs: Sequence[PackResult], colours: dict[str, str]) -> None:
    """A panel for each operation, a row for each zpool: p50, p99 and p99.9 on a line."""
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    operations: dict[str, Callable[[PackResult], Percentiles]] = {
        "alloc": lambda pack: pack.alloc_ns,
        "store": lambda pack: pack.store_ns,
        "load": lambda pack: pack.load_ns,
        "free": lambda pack: pack.free_ns,
    }
    for axes, (operation, times_of) in zip(panels.flat, operations.items(), strict=True):
        axes.set_title(f"{operation}, ns")
        for row, pack in enumerate(packs):
            times, colour = times_of(pack), colours[pack.zpool]
            # A logarithm has no place for 0, which a clock of whole ticks may say.
            points = [max(ns, 1) for ns in (times.p50, times.p99, times.p999)]
            axes.plot(points, [row] * 3, color=colour, linewidth=1.2)
            axes.scatter(points, [row] * 3, s=(34, 22, 10), color=colour, zorder=3)
            for ns, where in zip(points, LATENCY_LABELS, strict=True):
                axes.annotate(
                    f"{ns:,}", (ns, row), textcoords="offset points",
                    fontsize=7, color=colour, **where,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.14)
        axes.minorticks_off()
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_yticks(range(len(packs)), [pack.zpool for pack in packs])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels.flat[0].set_ylim(len(packs) - 0.4, -0.8)
    figure.suptitle(
        "Nanoseconds of one operation: half take less than the first dot, "
        "99 % than the second, 99.9 % than the third",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
