"""The plots of the report, as SVG. The same results give the same files, byte for byte.

Style and colours are those of the lab's plots. Needs matplotlib (the extra `plots`).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import plan
from cells import TIMES
from figures import FRESH, OVERWRITTEN, SHOWN_CODEC, Figures, mebibytes
from nbdswap.lab.charts import FAINT, apart
from nbdswap.lab.plots import COLOURS, STYLE, save, settle
from plan import G4, G16, Geometry

Draw = Callable[[Figure, Figures], None]
KERNEL_COLOUR = "#888888"
TEXT = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
}
# A result that the plot of the originals needs, if there are any.
CROSSING = (plan.CROSSING_CODEC, G16.page_bytes, plan.CROSSING_MIB[0] * plan.MIB)
KERNEL = "the kernel's zram"


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draws all plots that there are results for; returns the files."""
    written = []
    missing = set() if figures.speeds else {"speed"}
    missing |= set() if figures.originals_of(*CROSSING) else {"originals"}
    for name, (size, draw_one) in PLOTS.items():
        if name in missing:
            continue
        # Text as text is a quarter of the bytes of text as outlines.
        with mpl.rc_context(STYLE | TEXT):
            figure = Figure(figsize=size, layout="constrained")
            draw_one(figure, figures)
            settle(figure)
            written.append(save(figure, folder / name, "svg"))
    return written


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _label(axes: Axes, value: float, row: float, colour: str, *, to_the_left: bool = False) -> None:
    axes.annotate(
        f"{value:.1f}", (value, row), (-6 if to_the_left else 6, 0), textcoords="offset points",
        fontsize=7, color=colour, ha="right" if to_the_left else "left", va="center",
    )  # fmt: skip


def _percent(figures: Figures, zpool: str, geometry: Geometry, size: int, phase: str) -> float:
    """Bytes above those of the objects."""
    return 100 * (figures.held(zpool, SHOWN_CODEC, geometry, size, phase).overhead - 1)


def _density(figure: Figure, figures: Figures) -> None:
    """A dot fresh and a dot overwritten, for each zpool and geometry, in the largest store."""
    panels = figure.subplots(1, len(plan.GEOMETRIES), sharey=True, sharex=True)
    size = figures.sizes[-1]
    for axes, geometry in zip(panels, plan.GEOMETRIES, strict=True):
        axes.set_title(f"pages of {geometry.name}")
        _rows(axes, figures.packed_zpools)
        for row, zpool in enumerate(figures.packed_zpools):
            fresh, overwritten = (
                _percent(figures, zpool, geometry, size, phase) for phase in (FRESH, OVERWRITTEN)
            )
            colour = COLOURS[row]
            axes.plot([fresh, overwritten], [row, row], color=colour, linewidth=1.2)
            axes.scatter([fresh], [row], s=22, color="white", edgecolors=colour, zorder=3)
            axes.scatter([overwritten], [row], s=22, color=colour, zorder=3)
            low, high = sorted((fresh, overwritten))
            _label(axes, low, row, colour, to_the_left=True)
            _label(axes, high, row, colour)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.margins(x=0.22)
    figure.supxlabel(
        "per cent above the compressed bytes, logarithmic; open dot: filled once, solid dot: all "
        "overwritten twice",
        fontsize=8,
    )


def _sizes(figure: Figure, figures: Figures) -> None:
    """Overwritten pools over the size of the store."""
    panels = figure.subplots(1, 2, sharey=True)
    xs = [size / plan.MIB for size in figures.sizes]
    for axes, geometry in zip(panels, (G4, G16), strict=True):
        axes.set_title(f"pages of {geometry.name}")
        lines = {
            zpool: [_percent(figures, zpool, geometry, size, OVERWRITTEN) for size in figures.sizes]
            for zpool in figures.packed_zpools
        }
        runs = [figures.zram(SHOWN_CODEC, size) for size in figures.sizes]
        if geometry == G4 and all(runs):
            lines[KERNEL] = [100 * (run.phases[OVERWRITTEN].overhead - 1) for run in runs if run]
        for name, ys in lines.items():
            axes.plot(xs, ys, color=_colour(figures, name), linewidth=1.3, marker="o", ms=4)
        _log_scales(axes, xs)
        _name_ends(figures, axes, xs[-1], lines)
    figure.supylabel("per cent above the compressed bytes", fontsize=8)
    figure.supxlabel("MiB of pages stored, all of them overwritten twice", fontsize=8)


def _name_ends(figures: Figures, axes: Axes, x: float, lines: dict[str, list[float]]) -> None:
    """The names of the lines at their ends, none over another; the scale is logarithmic."""
    low, high = axes.get_ylim()
    gap = (math.log10(high) - math.log10(low)) * 0.055
    ends = sorted((math.log10(ys[-1]), name) for name, ys in lines.items())
    for place, (_, name) in zip(apart([end for end, _ in ends], gap), ends, strict=True):
        axes.annotate(
            f"{name} {lines[name][-1]:.1f}", (x, 10**place), (7, 0), textcoords="offset points",
            fontsize=7, color=_colour(figures, name), va="center", annotation_clip=False,
        )  # fmt: skip


def _colour(figures: Figures, name: str) -> str:
    zpools = figures.packed_zpools
    return COLOURS[zpools.index(name)] if name in zpools else KERNEL_COLOUR


def _originals(figure: Figure, figures: Figures) -> None:
    """The originals, filled once, over the size of the store."""
    for axes, geometry in zip(figure.subplots(1, 2, sharey=True), (G4, G16), strict=True):
        axes.set_title(f"pages of {geometry.name}")
        pairs = [
            figures.originals_of(plan.CROSSING_CODEC, geometry.page_bytes, mib * plan.MIB)
            for mib in plan.CROSSING_MIB
        ]
        lines: dict[str, list[float]] = {"zblock": [], "zsmalloc": []}
        for pair in filter(None, pairs):
            for ys, one in zip(lines.values(), pair, strict=True):
                ys.append(100 * (one.overhead - 1))
        for name, ys in lines.items():
            axes.plot(
                plan.CROSSING_MIB, ys, color=_colour(figures, name), linewidth=1.3, marker="o", ms=4
            )
        _log_scales(axes, plan.CROSSING_MIB)
        _name_ends(figures, axes, plan.CROSSING_MIB[-1], lines)
    figure.supylabel("per cent above the compressed bytes", fontsize=8)
    figure.supxlabel("MiB of pages stored, filled once", fontsize=8)


def _log_scales(axes: Axes, xs: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(xs)
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _losses(figure: Figure, figures: Figures) -> None:
    """Where the bytes above the objects go: full colour in slots, faint in free slots."""
    sizes = (figures.sizes[0], figures.sizes[-1])
    panels = figure.subplots(1, 4)
    places = [(geometry, size) for geometry in (G4, G16) for size in sizes]
    for axes, (geometry, size) in zip(panels, places, strict=True):
        axes.set_title(f"{geometry.name}, {mebibytes(size)}")
        _rows(axes, figures.packed_zpools)
        for row, zpool in enumerate(figures.packed_zpools):
            held = figures.held(zpool, SHOWN_CODEC, geometry, size, OVERWRITTEN)
            slots, free = (100 * part for part in held.losses)
            axes.barh(row, slots, 0.6, color=COLOURS[row])
            axes.barh(row, free, 0.6, left=slots, color=COLOURS[row], alpha=0.35)
            _label(axes, slots + free, row, COLOURS[row])
        axes.margins(x=0.2)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    figure.supxlabel(
        "per cent of the compressed bytes, all overwritten twice; full colour: lost in the slots "
        "(fit, side data, heads), faint: free slots of part-filled blocks",
        fontsize=8,
    )


def _speed(figure: Figure, figures: Figures) -> None:
    """Times over zblock's of the same round: a dot for the median, a line for all rounds."""
    geometries = figures.timed_geometries
    panels = figure.subplots(len(TIMES), len(geometries), sharex=True, sharey=True, squeeze=False)
    zpools = [zpool for zpool in figures.timed_zpools if zpool != plan.REFERENCE]
    for line, (name, of) in zip(panels, TIMES.items(), strict=True):
        for axes, geometry in zip(line, geometries, strict=True):
            axes.set_title(f"{name}, pages of {geometry.name}")
            _rows(axes, zpools)
            axes.axvline(1, color=_colour(figures, plan.REFERENCE), linewidth=1)
            for row, zpool in enumerate(zpools):
                found = figures.against(zpool, plan.REFERENCE, geometry, of)
                colour = _colour(figures, zpool)
                axes.plot([found.least, found.most], [row, row], color=colour, linewidth=1.2)
                axes.scatter([found.middle], [row], s=22, color=colour, zorder=3)
                axes.annotate(
                    f"{found.middle:.2f}", (found.middle, row), (0, 5),
                    textcoords="offset points", fontsize=7, color=colour, ha="center",
                )  # fmt: skip
    figure.supxlabel(
        f"time over that of {plan.REFERENCE} in the same round: median and range of the rounds",
        fontsize=8,
    )


PLOTS: dict[str, tuple[tuple[float, float], Draw]] = {
    "density": ((10, 2.6), _density),
    "sizes": ((10, 3.4), _sizes),
    "originals": ((10, 3.0), _originals),
    "losses": ((10, 2.4), _losses),
    "speed": ((10, 4.4), _speed),
}
