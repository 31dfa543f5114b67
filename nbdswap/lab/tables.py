"""A run as tables for a terminal.

Not here: what to make of it (`advice`).
"""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nbdswap.units import human_size

from .results import (
    CodecResult,
    LabResults,
    PackResult,
    Percentiles,
    codec_name,
    share_of_pages,
    size_name,
)

# In the order of time, and what stands above the column.
PHASES = {
    "fresh": "fresh",
    "overwritten": "over-\nwritten",
    "discarded50": "50 %\ngone",
    "refilled50": "filled\nagain",
    "discarded90": "90 %\ngone",
    "refilled90": "filled\nagain",
    "compacted": "com-\npacted",
}
WORN = "refilled90"
"""The phase that stands for a pool in use: everything was replaced several times."""


def view(results: LabResults) -> Group:
    """All tables."""
    parts: list[Table | Text] = [Text(headline(results)), _codecs(results)]
    if results.packs:
        parts += [_densities(results), _times(results)]
    if results.speeds:
        parts.append(_speeds(results))
    return Group(*parts)


def headline(results: LabResults) -> str:
    """What was measured, where."""
    file_bytes = sum(file.bytes for file in results.files)
    machine = results.environment
    cpus = f"{machine.cpus} CPU{'s' if machine.cpus > 1 else ''}"
    return (
        f"{human_size(file_bytes)} of pages from {len(results.files)} "
        f"file{'s' if len(results.files) > 1 else ''}, repeated to "
        f"{human_size(results.stored_bytes)} in each pool, seed {results.seed}, "
        f"{results.seconds:.1f} s\n{machine.cpu}, {cpus}, {machine.kernel}"
    )


def _table(title: str, first_of_numbers: int, *heads: str) -> Table:
    table = Table(
        *heads,
        title=title,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[first_of_numbers:]:
        column.justify = "right"
    return table


def _codecs(results: LabResults) -> Table:
    table = _table(
        "\nCodecs: what becomes of a page",
        2,
        "codec",
        "pages",
        "count",
        "same-\nfilled",
        "incom-\npressible",
        "ratio",
        "size p10\nof bytes",
        "\np50",
        "\np90",
        "compress\nus",
        "\np99",
        "decompress\nus",
        "\np99",
    )
    table.caption = (
        "ratio: of the pages that are not of one repeated word; an incompressible one counts whole"
    )
    for codec in results.codecs:
        sizes = codec.object_bytes_percentiles
        packed, unpacked = codec.compress_ns, codec.decompress_ns
        times = (packed.mean, packed.p99, unpacked.mean, unpacked.p99)
        table.add_row(
            codec_name(codec),
            size_name(codec.page_bytes, codec.page_bytes),
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
        3,
        "codec",
        "pages",
        "zpool",
        *PHASES.values(),
        "page bytes/\npool bytes",
        "copied\ntwice",
    )
    table.caption = (
        "page bytes/pool bytes: of all pages, in a pool that was filled again after 90 % had "
        "gone;\ncopied twice: share of the bytes whose load joins two frames"
    )
    for codec, packs in _sections(results):
        for index, pack in enumerate(packs):
            phases = {density.phase: density for density in pack.densities}
            worn = phases.get(WORN)
            share = share_of_pages(codec, worn) if worn else None
            fresh = phases.get("fresh")
            table.add_row(
                *_section_head(pack, index),
                pack.zpool,
                *(_number(phases[key].overhead if key in phases else None, 3) for key in PHASES),
                _number(1 / share if share else None, 2),
                _percent(pack.bytes_copied_twice, fresh.object_bytes if fresh else 0),
            )
        table.add_section()
    return table


def _times(results: LabResults) -> Table:
    operations = ("alloc", "store", "load", "free")
    table = _table(
        "\nTimes: nanoseconds, mean p50/p99/p99.9", 3, "codec", "pages", "zpool", *operations
    )
    table.caption = (
        "mean: of operations in a row, which the processor overlaps; percentiles: one by one"
    )
    for _, packs in _sections(results):
        for index, pack in enumerate(packs):
            times = (pack.alloc_ns, pack.store_ns, pack.load_ns, pack.free_ns)
            table.add_row(*_section_head(pack, index), pack.zpool, *map(_ns, times))
        table.add_section()
    return table


def _speeds(results: LabResults) -> Table:
    threads = sorted({speed.threads for speed in results.speeds})
    table = _table(
        "\nSpeed: nanoseconds per random overwrite (free, alloc, store)",
        3,
        "codec",
        "pages",
        "zpool",
        *(f"{count} thread{'s' if count > 1 else ''}" for count in threads),
        "scaling",
    )
    rows: dict[tuple[str, str, str], dict[int, float]] = {}
    for speed in results.speeds:
        size = size_name(speed.page_bytes, speed.frame_bytes)
        row = rows.setdefault((codec_name(speed), size, speed.zpool), {})
        row[speed.threads] = speed.ns_per_cycle
    for key, row in rows.items():
        one, most = row.get(threads[0]), row.get(threads[-1])
        # ns_per_cycle counts the time of every thread: with perfect scaling it stays the same.
        scaling = one / most * threads[-1] / threads[0] if one and most else None
        table.add_row(*key, *(_number(row.get(count), 0) for count in threads), _times_one(scaling))
    return table


def _sections(results: LabResults) -> Iterator[tuple[CodecResult, list[PackResult]]]:
    """The packs of each codec and page size, by frame size."""
    for codec in results.codecs:
        if packs := list(results.packs_of(codec)):
            yield codec, packs


def _section_head(pack: PackResult, index: int) -> Sequence[str]:
    return (codec_name(pack) if index == 0 else "", size_name(pack.page_bytes, pack.frame_bytes))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _times_one(value: float | None) -> str:
    return "-" if value is None else f"x {value:.2f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _us(ns: float) -> str:
    return f"{ns / 1000:,.{2 if ns < 100_000 else 0}f}"


def _ns(times: Percentiles) -> str:
    if not times.count:
        return "-"
    tail = "/".join(_short(value) for value in (times.p50, times.p99, times.p999))
    return f"{times.mean:,.0f} {tail}"


def _short(ns: int) -> str:
    return str(ns) if ns < 10_000 else f"{ns / 1000:.0f}k"
