"""A run as plots, PNG and SVG: density, fragmentation over time, latency.

Three plots for each codec, page size and frame size. The same results give the same files, byte
for byte. Colours are Okabe and Ito's, which people of any colour vision can tell apart.

Needs matplotlib (the extra `plots`); only this module and `charts` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nbdswap.errors import UsageError
from nbdswap.units import format_size, human_size

from .charts import draw_density, draw_fragmentation, draw_latency
from .output import SHARED_MODE, write_whole
from .results import LabResults, PackResult, codec_name, size_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
INK = "#333333"
PNG_DPI = 150
LAYOUT_DIGITS = 4
# Any: what a key is called is a type in some versions of matplotlib and a text in others.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    # Ids in an SVG are random but for this.
    "svg.hashsalt": "nbdswap",
}

Draw = Callable[["Figure", Sequence[PackResult], dict[str, str]], None]


def require_matplotlib() -> None:
    """Before a long run: raises UsageError if it is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plots needs matplotlib, which is not installed: pip install 'nbdswap[plots]'"
        ) from None


def write_plots(results: LabResults, directory: Path) -> list[Path]:
    """Draws everything that there is to draw; returns the files."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = _colours(results)
    written = []
    for packs in _groups(results):
        subtitle = _subtitle(results, packs[0])
        for name, (size, draw) in PLOTS.items():
            with mpl.rc_context(STYLE):
                figure = Figure(figsize=size, layout="constrained")
                draw(figure, packs, colours)
                figure.text(0.995, 0.005, subtitle, ha="right", va="bottom", fontsize=6)
                # Room for that line, which the layout does not know of.
                figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[call-arg, union-attr]
                settle(figure)
                stem = directory / f"{name}-{_file_part(packs[0])}"
                written += [save(figure, stem, kind) for kind in ("png", "svg")]
    return written


def settle(figure: Figure) -> None:
    """Lays out now and for good: the last digits of a layout are not the same each time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        place = axes.get_position()
        bounds = (place.x0, place.y0, place.width, place.height)
        x0, y0, width, height = (round(value, LAYOUT_DIGITS) for value in bounds)
        axes.set_position((x0, y0, width, height))


def save(figure: Figure, stem: Path, kind: str) -> Path:
    """Writes `stem` as `kind`, png or svg; returns the file."""
    path = stem.with_name(f"{stem.name}.{kind}")

    def write(file: IO[bytes]) -> None:
        # No date and no version: neither is a result.
        metadata = {"Date": None, "Creator": "nbdswap"} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=PNG_DPI, metadata=metadata)

    write_whole(path, write, mode=SHARED_MODE)
    return path


def _groups(results: LabResults) -> list[list[PackResult]]:
    """What stands in one plot: the zpools with the same objects and frames."""
    groups: dict[tuple[str, int, int, int], list[PackResult]] = {}
    for pack in results.packs:
        key = (pack.codec, pack.level, pack.page_bytes, pack.frame_bytes)
        groups.setdefault(key, []).append(pack)
    return list(groups.values())


def _colours(results: LabResults) -> dict[str, str]:
    """A zpool has the same colour in all plots."""
    zpools = dict.fromkeys(pack.zpool for pack in results.packs)
    return {zpool: COLOURS[index % len(COLOURS)] for index, zpool in enumerate(zpools)}


def _file_part(pack: PackResult) -> str:
    part = f"{codec_name(pack).replace(':', '_')}-{format_size(pack.page_bytes)}"
    if pack.frame_bytes != pack.page_bytes:
        part += f"-in-{format_size(pack.frame_bytes)}"
    return part


def _subtitle(results: LabResults, pack: PackResult) -> str:
    return (
        f"{codec_name(pack)}, pages of {size_name(pack.page_bytes, pack.frame_bytes)}, "
        f"{human_size(pack.stored_bytes)} of pages, seed {pack.seed}, "
        f"nbdswap {results.environment.nbdswap}, {results.environment.cpu}"
    )


PLOTS: dict[str, tuple[tuple[float, float], Draw]] = {
    "density": ((11, 4.6), draw_density),
    "fragmentation": ((10, 6.2), draw_fragmentation),
    "latency": ((11, 5.2), draw_latency),
}
