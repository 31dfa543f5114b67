"""The tables of the kernel's own allocators: zram, and the originals computed.

Not here: our zpools alone (tables.py).
"""

from collections.abc import Callable

from figures import (
    CHAIN_DEFAULT,
    CHAINS,
    COMPACTED,
    FRESH,
    LIFE,
    OVERWRITTEN,
    OWN_CHURNED_MOST,
    OWN_FRESH_MOST,
    SHOWN_CODEC,
    Figures,
    mebibytes,
    overheads,
    worst_of,
)
from markdown_table import table
from plan import G4, G16

OWN = "zfit"


def originals(figures: Figures) -> str:
    """The originals' overheads, and zblock's bytes over zsmalloc's."""
    rows = []
    for geometry in (G4, G16):
        for codec in figures.packed_codecs:
            row = [geometry.name, codec]
            for size in figures.sizes:
                pair = figures.originals_of(codec, geometry.page_bytes, size)
                if pair is None:
                    return "(not computed: the author's mm/zblock.h was not given)"
                zblock, zsmalloc = pair
                quotient = zblock.pool_bytes / zsmalloc.pool_bytes
                row.append(f"{zblock.overhead:.3f} / {zsmalloc.overhead:.3f} ({quotient:.3f})")
            rows.append(row)
    return table(["page", "codec", *map(mebibytes, figures.sizes)], rows, left=2)


def chains(figures: Figures) -> str:
    """zsmalloc's overhead by the length of its longest chain."""
    rows = []
    for geometry in (G4, G16):
        for chain in CHAINS:
            models = [
                figures.original("zsmalloc", chain, SHOWN_CODEC, geometry.page_bytes, size)
                for size in figures.sizes
            ]
            found = [model for model in models if model]
            if not found:
                return "(not computed)"
            cells = (f"{model.overhead:.3f}" for model in found)
            rows.append([geometry.name, str(chain), str(found[0].classes), *cells])
    head = ["page", "longest chain", "classes", *map(mebibytes, figures.sizes)]
    return table(head, rows)


def zram(figures: Figures) -> str:
    """The kernel's pool and our zsmalloc, fresh, overwritten and compacted."""
    if figures.kernel is None:
        return "(not measured: this machine's kernel has no zram, or not for us)"
    rows = []
    for codec in dict.fromkeys(run.codec for run in figures.kernel.runs):
        cells = (zram_cell(figures, codec, size) for size in figures.sizes)
        rows.append([f"zram, {codec}", *cells])
        models = [
            figures.original("zsmalloc", CHAIN_DEFAULT, codec, G4.page_bytes, size)
            for size in figures.sizes
        ]
        if all(models):
            fresh_only = (f"{model.overhead:.3f}" for model in models if model)
            rows.append([f"the same computed, {codec}", *fresh_only])
    for zpool in ("zsmalloc", OWN):
        for codec in figures.packed_codecs[:2] if zpool in figures.packed_zpools else ():
            cells_of_pool = []
            for size in figures.sizes:
                phases = figures.pack(zpool, codec, G4, size).phases
                held = (phases[phase] for phase in (FRESH, OVERWRITTEN, COMPACTED))
                cells_of_pool.append(overheads(*held))
            rows.append([f"{zpool}, {codec}", *cells_of_pool])
    return table(["pool", *map(mebibytes, figures.sizes)], rows)


def zram_cell(figures: Figures, codec: str, size: int) -> str:
    """Three overheads of zram, or nothing."""
    run = figures.zram(codec, size)
    if run is None:
        return ""
    phases = run.phases
    return overheads(phases[FRESH], phases[OVERWRITTEN], phases[COMPACTED])


def zram_life(figures: Figures) -> str:
    """Our zsmalloc beside the kernel's in every phase, and the phases in which it takes more."""
    rows = []
    for size in reversed(figures.sizes):
        for codec in figures.packed_codecs:
            run = figures.zram(codec, size)
            if run is None:
                continue
            phases = figures.pack("zsmalloc", codec, G4, size).phases
            cells, more = [], []
            for phase in LIFE:
                ours, theirs = phases[phase].overhead, run.phases[phase].overhead
                cells.append(f"{ours:.4f} / {theirs:.4f}")
                if ours > theirs:
                    more.append(f"{phase} (+{ours / theirs - 1:.2%})")
            rows.append([mebibytes(size), codec, ", ".join(more) or "none", *cells])
    if not rows:
        return "(not measured)"
    return table(["store", "codec", "ours takes more", *LIFE], rows, left=3)


def targets(figures: Figures) -> str:
    """What is wanted of the project's own zpool, and the kernel's figures; largest store first."""
    rows = []
    for size in reversed(figures.sizes):
        for codec in figures.packed_codecs:
            rows.append(_own_row(figures, codec, size))
        for run in figures.kernel.runs if figures.kernel else ():
            if run.stored_bytes == size:
                name = f"the kernel's zram, {run.codec}"
                fresh = f"{run.phases[FRESH].overhead:.4f}"
                worst = worst_of(run.phases)[1]
                rows.append([name, mebibytes(size), fresh, "", worst, "", "", ""])
    fresh_head, churned_head = (
        f"wanted <= {most:.3f}" for most in (OWN_FRESH_MOST, OWN_CHURNED_MOST)
    )
    churned = ["worst after churn", churned_head, "kept dense", churned_head]
    return table(["pool", "store", "fresh", fresh_head, *churned], rows)


def _own_row(figures: Figures, codec: str, size: int) -> list[str]:
    phases = figures.pack(OWN, codec, G4, size).phases
    fresh = phases[FRESH].overhead
    row = [f"{OWN}, {codec}", mebibytes(size), f"{fresh:.4f}", _reached(fresh, OWN_FRESH_MOST)]
    dense = figures.kept_dense.get((codec, G4, size))
    for one in (phases, dense.phases if dense else None):
        worst, cell = worst_of(one) if one else (None, "")
        row += [cell, "" if worst is None else _reached(worst, OWN_CHURNED_MOST)]
    return row


def _reached(found: float, most: float) -> str:
    return "reached" if found <= most else "missed"


TABLES: dict[str, Callable[[Figures], str]] = {
    "originals": originals,
    "chains": chains,
    "zram": zram,
    "zram-life": zram_life,
    "targets": targets,
}
