"""A run as tables for a terminal.

Not here: what to make of it (`advice`).
"""

from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nbdswap.units import human_size

from .results import (
    LabResults,
    PackResult,
    Percentiles,
    SpeedResult,
    codec_name,
    key_of,
    share_of_pages,
    size_name,
)

# In the order of time, and what stands above the column.
PHASES = {
    "fresh": "fresh",
    "overwritten": "re-\nnewed",
    "discarded50": "50 %\ngone",
    "refilled50": "full\nagain",
    "discarded90": "90 %\ngone",
    "refilled90": "full\nagain",
    "worn": "worn",
    "compacted": "com-\npact",
}
ABOUT_CODECS = (
    "same: of one repeated word; raw: they do not shrink and are kept as they are;\n"
    "ratio: of all but those of one word; size: bytes of a compressed page;\n"
    "pack, unpack: microseconds, the median and the 99th percentile"
)
ABOUT_DENSITIES = (
    "renewed: every page overwritten twice; worn: twice once more, at the end;\n"
    "page/pool: bytes of all pages per byte of a worn pool;\n"
    "two parts: share of the bytes in objects over two frames, which a load joins"
)
ABOUT_TIMES = "mean: of operations in a row, without the slowest 1 %; percentiles: of single ones"
WORN = "worn"
"""The phase that stands for a pool that has been in use for long."""


def view(results: LabResults) -> Group:
    """All tables."""
    parts: list[Table | Text] = [Text(headline(results)), _codecs(results), Text(ABOUT_CODECS)]
    if results.packs:
        parts += [_densities(results), Text(ABOUT_DENSITIES)]
        parts += [_times(results), Text(ABOUT_TIMES)]
    if results.speeds:
        parts.append(_speeds(results))
    return Group(*parts)


def headline(results: LabResults) -> str:
    """What was measured, where."""
    file_bytes = sum(file.bytes for file in results.files)
    machine = results.environment
    cpus = f"{machine.cpus} CPU{'s' if machine.cpus > 1 else ''}"
    kept = ", kept dense" if any(pack.keeps_dense for pack in results.packs) else ""
    return (
        f"{human_size(file_bytes)} of pages from {len(results.files)} "
        f"file{'s' if len(results.files) > 1 else ''}, "
        f"{human_size(results.stored_bytes)} of them in each pool, seed {results.seed}{kept}\n"
        f"{machine.cpu}, {cpus}, {machine.kernel}; took {results.seconds:.1f} s"
    )


def _table(title: str, *heads: str) -> Table:
    """The first column to the left, numbers to the right; all of it fits into 80 columns."""
    table = Table(
        *heads,
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _codecs(results: LabResults) -> Table:
    table = _table(
        "\nCodecs: what becomes of a page",
        "codec, pages",
        "count",
        "same",
        "raw",
        "ratio",
        "size\np10",
        "\np50",
        "\np90",
        "pack\np50",
        "\np99",
        "unpack\np50",
        "\np99",
    )
    for codec in results.codecs:
        sizes = codec.object_bytes_percentiles
        packed, unpacked = codec.compress_ns, codec.decompress_ns
        times = (packed.p50, packed.p99, unpacked.p50, unpacked.p99)
        table.add_row(
            f"{codec_name(codec)}, {size_name(codec.page_bytes, codec.page_bytes)}",
            f"{codec.all_pages:,}",
            _percent(codec.same_filled, codec.all_pages),
            _percent(codec.incompressible, codec.all_pages),
            _number(codec.ratio, 2),
            *(f"{size:,}" if codec.pages else "-" for size in (sizes[0], sizes[2], sizes[4])),
            *(_us(ns) if codec.pages else "-" for ns in times),
        )
    return table


def _densities(results: LabResults) -> Table:
    table = _table(
        "\nDensity: bytes of pool per compressed byte",
        "zpool",
        *PHASES.values(),
        "page/\npool",
        "two\nparts",
    )
    for head, packs in _sections(results):
        table.add_row(head)
        for pack in packs:
            worn, fresh = pack.phase(WORN), pack.phase("fresh")
            share = share_of_pages(results.codec_of(pack), worn) if worn else None
            phases = [pack.phase(phase) for phase in PHASES]
            table.add_row(
                f"  {pack.zpool}",
                *(_number(phase.overhead if phase else None, 3) for phase in phases),
                _number(1 / share if share else None, 2),
                _percent(pack.bytes_copied_twice, fresh.object_bytes if fresh else 0),
            )
        table.add_section()
    return table


def _times(results: LabResults) -> Table:
    operations = ("alloc", "store", "load", "free")
    table = _table("\nTimes: nanoseconds, mean p50/p99/p99.9", "zpool", *operations)
    for head, packs in _sections(results):
        table.add_row(head)
        for pack in packs:
            times = (pack.alloc_ns, pack.store_ns, pack.load_ns, pack.free_ns)
            table.add_row(f"  {pack.zpool}", *map(_ns, times))
        table.add_section()
    return table


def _speeds(results: LabResults) -> Table:
    threads = sorted({speed.threads for speed in results.speeds})
    table = _table(
        "\nSpeed: ns for a free, alloc and store",
        "zpool",
        *(f"{count} thread{'s' if count > 1 else ''}" for count in threads),
        "scaling",
    )
    found = {(*_place(speed), speed.zpool, speed.threads): speed for speed in results.speeds}
    for head, packs in _sections(results):
        table.add_row(head)
        for pack in packs:
            speeds = [found.get((*_place(pack), pack.zpool, count)) for count in threads]
            times = [speed.ns_per_cycle if speed else None for speed in speeds]
            # ns_per_cycle counts the time of every thread: scaled perfectly, it stays the same.
            one, most = times[0], times[-1]
            scaling = one / most * threads[-1] / threads[0] if one and most else None
            table.add_row(
                f"  {pack.zpool}", *(_number(ns, 0) for ns in times), f"x {_number(scaling, 2)}"
            )
        table.add_section()
    return table


def _sections(results: LabResults) -> Iterator[tuple[str, list[PackResult]]]:
    """The zpools with the same objects and frames."""
    sections: dict[tuple[str, int, int, int], list[PackResult]] = {}
    for pack in results.packs:
        sections.setdefault(_place(pack), []).append(pack)
    for packs in sections.values():
        size = size_name(packs[0].page_bytes, packs[0].frame_bytes)
        yield f"{codec_name(packs[0])}, {size}", packs


def _place(result: PackResult | SpeedResult) -> tuple[str, int, int, int]:
    return (*key_of(result), result.frame_bytes)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


def _us(ns: float) -> str:
    return f"{ns / 1000:,.{1 if ns < 100_000 else 0}f}"


def _ns(times: Percentiles) -> str:
    if not times.count:
        return "-"
    tail = "/".join(_short(value) for value in (times.p50, times.p99, times.p999))
    return f"{times.mean:,.0f} {tail}"


def _short(ns: int) -> str:
    # The tail is of interest for its size only; the file of the run has every digit.
    return str(ns) if ns < 1000 else f"{ns / 1000:.0f}k"
