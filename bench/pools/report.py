"""Puts the figures into the report: `python bench/pools/report.py --help`.

Every figure in README.md that was measured stands between markers, and this writes what is there;
the text around is nobody's but its writer's. The plots are drawn anew, too.

Not here: measuring (measure.py).
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import claims
import kernel_tables
import published
import speed_tables
import tables
from figures import QUIET_CORES, Figures, load
from figures import mebibytes as mib

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"
PLACE = re.compile(
    r"(?P<begin><!-- figures: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def conditions(figures: Figures) -> str:
    """With what, and on what, all this was measured."""
    lines = []
    if figures.densities:
        found = figures.densities
        size = mib(sum(found.files.values()))
        lines.append(f"* Densities: nbdswap {found.nbdswap}, {size} of pages, seed {found.seed}.")
    if figures.kernel:
        kernel = figures.kernel
        lines.append(f"* The kernel's zram: {kernel.kernel}, seed {kernel.seed}.")
    if figures.speeds:
        speeds = figures.speeds
        where = speeds.environment
        rounds = 1 + max(sample.round for sample in speeds.samples)
        lines.append(
            f"* Speeds: {where.cpu}, {where.cpus} cores, {where.kernel}; {speeds.codec}, "
            f"{mib(speeds.stored_bytes)} stored, {rounds} rounds of {speeds.cycles:,} cycles, "
            f"seed {speeds.seed}. In nine of ten measurements, other programs used at most "
            f"{figures.other_cores:.2f} cores"
            + ("." if figures.other_cores <= QUIET_CORES else ": **too busy a machine to quote.**")
        )
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[Figures], str]] = {
    "conditions": conditions,
    "verdicts": claims.verdicts,
    "published": published.published,
    **tables.TABLES,
    **kernel_tables.TABLES,
    **speed_tables.TABLES,
}


def text(figures: Figures) -> str:
    """All that these results have, for a terminal."""
    # Everything but times needs densities, if only to know which sizes there are.
    names = list(SECTIONS) if figures.densities else ["conditions"]
    if figures.speeds and not figures.densities:
        names += [name for name in SECTIONS if name.startswith("speed")]
    return "\n\n".join(f"{name}\n\n{SECTIONS[name](figures)}" for name in names)


def filled_in(readme: str, figures: Figures) -> str:
    """The report with these figures."""
    wanted, found = set(SECTIONS), {place["name"] for place in PLACE.finditer(readme)}
    if wanted != found:
        raise ValueError(f"the report has places for {sorted(found)}, wanted {sorted(wanted)}")
    return PLACE.sub(
        lambda place: f"{place['begin']}\n{SECTIONS[place['name']](figures)}\n\n{place['end']}",
        readme,
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="writes the figures and plots of README.md")
    parser.add_argument("--check", action="store_true", help="only say if README.md is stale")
    args = parser.parse_args()
    figures, before = load(RESULTS), README.read_text()
    after = filled_in(before, figures)
    if args.check:
        sys.exit(0 if before == after else f"{README} is stale: run bench/pools/report.py")
    README.write_text(after)
    import plots

    plots.draw(figures, HERE)


if __name__ == "__main__":
    main()
