"""How `nbdswap status` looks, and what `nbdswap set` says.

Not here: what the values mean (`snapshots`) and how a server is asked (`admin_client`).
"""

from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from nbdswap.admin_client import Upgraded
from nbdswap.snapshots import FULLNESS
from nbdswap.units import human_size

TIERS = ("zero", "same_filled", "pool", "raw", "store", "lost")

Status = dict[str, Any]


def view(status: Status, earlier: Status | None, *, classes: bool = False) -> Group:
    """Tables for a terminal; with an earlier status also rates between the two."""
    parts: list[Any] = [_headline(status)]
    parts += [Text(f"! {hint}", style="bold") for hint in status["hints"]]
    parts += [_exports(status), _pool(status["pool"])]
    if classes:
        parts += _classes(status["pool"])
    if status["store"] is not None:
        parts.append(_store(status["store"]))
    if earlier is not None:
        parts.append(_rates(status, earlier))
    return Group(*parts)


def change_view(answer: Status) -> str:
    """What a change has changed, and how to keep it."""
    before, now = answer["before"], answer["now"]
    codec_before, codec = (f"{each['codec']}:{each['codec_level']}" for each in (before, now))
    keep = "\n".join(f"  {key}: {value}" for key, value in now.items())
    return (
        f"zpool is {now['zpool']}, was {before['zpool']}\n"
        f"codec is {codec}, was {codec_before}\n"
        "New pages get these; pages that are there stay valid. When the server starts again, its "
        f"configuration decides. To keep this:\npool:\n{keep}"
    )


def upgrade_view(upgraded: Upgraded) -> str:
    """What an upgrade came to."""
    dropped = f", {upgraded.dropped} were dropped" if upgraded.dropped else ""
    return (
        f"upgraded from {upgraded.before} to {upgraded.now}: "
        f"{upgraded.handed_over} connections go on{dropped}; "
        f"clients waited for {upgraded.pause_s * 1000:.0f} ms"
    )


def _headline(status: Status) -> str:
    condition = "ready" if status["ready"] else "stopping" if status["stopping"] else "starting"
    missing = [what for what, in_force in status["hardening"].items() if not in_force]
    text = f"nbdswap {status['version']}: {condition}, {status['connections']['open']} clients"
    return f"{text}, not protected: {', '.join(missing)}" if missing else text


def _exports(status: Status) -> Table:
    table = Table("export", "size", *TIERS, "errors", title="Pages")
    for export in status["exports"]:
        pages = [f"{export['pages'][tier]:,}" for tier in TIERS]
        errors = sum(sum(by_errno.values()) for by_errno in export["errors"].values())
        table.add_row(export["name"], human_size(export["size_bytes"]), *pages, f"{errors:,}")
    return _right(table, first=1)


def _pool(pool: Status) -> Table:
    table = Table("zpool", "codec", "limit", "taken", "in blocks", "full", "pages", "ratio")
    table.title = "Pool"
    # Memory taken from the system may be the whole limit from the start; blocks tell the load.
    blocks, limit, logical = pool["block_bytes"], pool["limit_bytes"], pool["logical_bytes"]
    table.add_row(
        pool["zpool"],
        f"{pool['codec']}:{pool['codec_level']}",
        human_size(limit),
        human_size(pool["used_bytes"]),
        human_size(blocks),
        f"{100 * blocks / limit:.0f} %" if limit else "-",
        human_size(logical),
        # Memory saved in truth: pages against the blocks that they are in, tails and all.
        f"{logical / blocks:.2f}" if blocks else "-",
    )
    former = [f"{count:,} in {zpool}" for zpool, count in pool["former_objects"].items()]
    if former:
        moved = pool["pages_moved"]
        table.caption = f"moving to {pool['zpool']}: {', '.join(former)}; {moved:,} moved so far"
    return _right(table, first=2)


def _classes(pool: Status) -> list[Table]:
    """A table for the current zpool, and one for each that pages are leaving."""
    by_zpool: dict[str, list[Status]] = {pool["zpool"]: []}
    for size_class in pool["classes"]:
        by_zpool.setdefault(size_class["zpool"], []).append(size_class)
    return [
        _classes_of(zpool if zpool == pool["zpool"] else f"{zpool}, which pages leave", classes)
        for zpool, classes in by_zpool.items()
    ]


def _classes_of(zpool: str, classes: list[Status]) -> Table:
    # Those with "a block" are of one, the others of all blocks of the class.
    of_one = ("frames a block", "slots a block")
    of_all = ("blocks", "frames", "slots used", "freeable", "blocks by % in use")
    table = Table("up to", *of_one, *of_all)
    table.title = f"Size classes of {zpool}"
    for size_class in classes:
        if not size_class["slots"]:
            continue
        groups = zip(FULLNESS, size_class["fullness"], strict=True)
        table.add_row(
            f"{size_class['object_bytes_max']:,}",
            # They differ where that is 0.
            str(size_class["block_frames"] or "-"),
            str(size_class["block_slots"] or "-"),
            f"{size_class['blocks']:,}",
            f"{size_class['frames']:,}",
            f"{100 * size_class['slots_used'] / size_class['slots']:.1f} %",
            f"{size_class['freeable_frames']:,}",
            ", ".join(f"{name}: {count:,}" for name, count in groups if count),
        )
    return _right(table, first=0)


def _store(store: Status) -> Table:
    columns = ("capacity", "used", "live", "written", "pages written back")
    table = Table("path", *columns, "amplification", "errors")
    table.title = "Store"
    if store["silent"]:
        table.title = "Store (silent: stored pages cannot be read)"
    elif store["degraded"]:
        table.title = "Store (degraded: nothing is written back)"
    errors = store["write_errors"] + store["read_errors"] + store["checksum_errors"]
    sizes = [store[f"{key}_bytes"] for key in ("capacity", "used", "live", "written")]
    table.add_row(
        store["path"],
        *map(human_size, sizes),
        f"{store['pages_written_back']:,}",
        f"{store['write_amplification']:.2f}",
        f"{errors:,}",
    )
    table.caption = _scrub(store["scrub"])
    reason = f" ({store['io_reason']})" if store["io_reason"] else ""
    table.caption += f"\nseveral reads at once: {store['io']}{reason}"
    if store["room"] is not None and store["room"]["growth_bytes"]:
        free, growth = (human_size(store["room"][f"{key}_bytes"]) for key in ("free", "growth"))
        table.caption += f"\nmay still grow by {growth}; its file system has {free} left"
    left_bytes = store["write_budget_left_bytes"]
    if left_bytes is not None:
        waits = " (used up: nothing is written back)" if store["over_budget"] else ""
        table.caption += f"\nmay be written now: {human_size(left_bytes)}{waits}"
    return _right(table, first=1)


def _scrub(scrub: Status) -> str:
    """How far the scrub is, and when it was last through."""
    if scrub["passed_at"] is None:
        share = 100 * scrub["segments_done"] / max(scrub["segments"], 1)
        return f"scrub: first pass, {share:.0f} % done"
    at = datetime.fromtimestamp(scrub["passed_at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"scrub: last full pass {at}, {scrub['pages_lost']:,} pages found damaged"


def _rates(status: Status, earlier: Status) -> Table:
    seconds = max(status["uptime_seconds"] - earlier["uptime_seconds"], 1e-3)
    table = Table("export", "reads/s", "read", "writes/s", "written", title="Rates")
    before = {export["name"]: export for export in earlier["exports"]}
    for export in status["exports"]:
        old = before.get(export["name"])
        if old is None:
            continue
        cells = []
        for op in ("read", "write"):
            count = export["requests"].get(op, 0) - old["requests"].get(op, 0)
            moved = export["bytes"].get(op, 0) - old["bytes"].get(op, 0)
            cells += [f"{count / seconds:,.0f}", f"{human_size(moved / seconds)}/s"]
        table.add_row(export["name"], *cells)
    if status["store"] is not None and earlier["store"] is not None:
        moved = status["store"]["written_bytes"] - earlier["store"]["written_bytes"]
        pages = status["store"]["pages_written_back"] - earlier["store"]["pages_written_back"]
        table.caption = (
            f"write-back: {pages / seconds:,.0f} pages/s, {human_size(moved / seconds)}/s"
        )
    return _right(table, first=1)


def _right(table: Table, *, first: int) -> Table:
    """Numbers to the right."""
    for column in table.columns[first:]:
        column.justify = "right"
    return table
