"""Snapshots as Prometheus families, with the names that dashboards and alerts rely on.

Base units, `_total` on counters, one reason for each. A scrape takes one snapshot and turns it into
text; nothing is counted here. README.md has the table of what zswap and zram call the same thing.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from nbdswap.snapshots import (
    FULLNESS,
    LIVE_SHARES,
    ClassSnapshot,
    CoreSnapshot,
    DurableSnapshot,
    ExportSnapshot,
    LatencySnapshot,
    PoolSnapshot,
    RoomSnapshot,
    ScrubSnapshot,
    ServerSnapshot,
    Snapshot,
    StoreSnapshot,
    UpgradeCounts,
    WorkerSnapshot,
    write_amplification,
)


class SnapshotCollector(Collector):
    """All families of one server; `take` gives the moment that a scrape sees."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not take a snapshot of a server that is still starting."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One snapshot as families."""
        snapshot = self._take()
        core = snapshot.core
        yield from _server(snapshot.server)
        yield from _exports(core["exports"])
        yield from _pool(core["pool"])
        yield from _pool_classes(core["pool"])
        yield from _store(core["store"]) if core["store"] is not None else ()
        yield from _room(snapshot.server.room) if snapshot.server.room is not None else ()
        yield from _memory(core)
        yield from _connections(core)
        yield from _workers(core["workers"])
        yield _latency(core["latency"])


def registry_of(take: Callable[[], Snapshot]) -> CollectorRegistry:
    """A registry for one server, with what Linux says of the process besides."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(take))
    ProcessCollector(registry=registry)
    return registry


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"nbdswap_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"nbdswap_{name}", help_text, value=value)


def _server(server: ServerSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily("nbdswap_build", "Version.", value={"version": server.version})
    yield _gauge("ready", "1 while new clients are served.", server.ready and not server.stopping)
    yield _gauge("uptime_seconds", "Time since the server was started.", server.uptime_seconds)
    yield _gauge("generation", "Grows whenever data was given up or lost.", server.generation)
    hardening = GaugeMetricFamily(
        "nbdswap_hardening_ok",
        "1 if a protection that the configuration asks for is in force.",
        labels=["what"],
    )
    for what, in_force in server.hardening.items():
        hardening.add_metric([what], in_force)
    yield hardening
    trouble = GaugeMetricFamily(
        "nbdswap_trouble",
        "1 while something goes on that an operator should act on.",
        labels=["what"],
    )
    for what, goes_on in server.troubles.items():
        trouble.add_metric([what], goes_on)
    yield trouble
    yield _gauge("handshakes_open", "Clients that are negotiating.", server.handshakes_open)
    yield _counter("handshakes_failed", "Negotiations broken off.", server.handshakes_failed_total)
    yield _counter(
        "connections_refused",
        "Clients turned away because connections_max was reached.",
        server.connections_refused_total,
    )
    yield from _upgrades(server.upgrades)


def _upgrades(upgrades: UpgradeCounts) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "nbdswap_upgrades", "Upgrades of the running server.", labels=["outcome"]
    )
    outcomes.add_metric(["done"], upgrades.done_total)
    outcomes.add_metric(["failed"], upgrades.failed_total)
    yield outcomes
    connections = CounterMetricFamily(
        "nbdswap_upgrade_connections", "Connections during upgrades.", labels=["outcome"]
    )
    connections.add_metric(["handed_over"], upgrades.connections_handed_over_total)
    connections.add_metric(["dropped"], upgrades.connections_dropped_total)
    yield connections
    yield _gauge(
        "upgrade_pause_seconds",
        "For how long the last upgrade kept clients waiting; 0 before the first one.",
        upgrades.last_pause_seconds,
    )


def _exports(exports: list[ExportSnapshot]) -> Iterator[Metric]:
    size = GaugeMetricFamily("nbdswap_export_size_bytes", "Size of the export.", labels=["export"])
    pages = GaugeMetricFamily(
        "nbdswap_pages", "Pages by where they are.", labels=["export", "tier"]
    )
    requests = CounterMetricFamily(
        "nbdswap_requests", "Requests begun, failed ones included.", labels=["export", "op"]
    )
    moved = CounterMetricFamily(
        "nbdswap_request_bytes", "Bytes of requests that succeeded.", labels=["export", "op"]
    )
    errors = CounterMetricFamily(
        "nbdswap_request_errors", "Requests that failed.", labels=["export", "op", "errno"]
    )
    for export in exports:
        name = export["name"]
        size.add_metric([name], export["size_bytes"])
        for tier, count in export["pages"].items():
            pages.add_metric([name, tier], _number(count))
        for op, count in export["requests"].items():
            requests.add_metric([name, op], count)
        for op, count in export["bytes"].items():
            moved.add_metric([name, op], count)
        for op, by_errno in export["errors"].items():
            for errno_name, count in by_errno.items():
                errors.add_metric([name, op, errno_name], count)
    yield from (size, pages, requests, moved, errors)


def _pool(pool: PoolSnapshot) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "nbdswap_pool",
        "How the pool is built.",
        value={
            "zpool": pool["zpool"],
            "codec": pool["codec"],
            "codec_level": str(pool["codec_level"]),
            "frame_bytes": str(pool["frame_bytes"]),
        },
    )
    yield _gauge("pool_limit_bytes", "Most memory that the pool may take.", pool["limit_bytes"])
    yield _gauge("pool_used_bytes", "Memory in use, side data included.", pool["used_bytes"])
    yield _gauge("pool_used_bytes_max", "Highest memory in use.", pool["used_bytes_max"])
    huge = "Memory in use on huge pages; on a tmpfs as it was populated at start."
    yield _gauge("pool_huge_bytes", huge, pool["huge_bytes"])
    yield _gauge(
        "pool_block_bytes",
        "Blocks that hold objects: how full the pool is.",
        pool["block_bytes"],
    )
    yield _gauge("pool_slot_bytes", "Slots that hold an object.", pool["slot_bytes"])
    yield _gauge("pool_compressed_bytes", "Lengths of all objects.", pool["compressed_bytes"])
    yield _gauge(
        "pool_logical_bytes",
        "Bytes of the pages in the pool as clients see them.",
        pool["logical_bytes"],
    )
    yield _gauge("pool_objects", "Objects in the pool.", pool["objects"])
    codecs = GaugeMetricFamily(
        "nbdswap_pool_codec_pages", "Pages in the pool by how they are kept.", labels=["codec"]
    )
    for codec, count in pool["codec_pages"].items():
        codecs.add_metric([codec], count)
    yield codecs
    yield _counter("pool_pages_compacted", "Pages moved inside the pool.", pool["pages_compacted"])
    yield _counter(
        "pool_pages_moved", "Pages moved from former zpools to this one.", pool["pages_moved"]
    )
    former = GaugeMetricFamily(
        "nbdswap_pool_former_objects",
        "Objects in zpools that were current before and have not moved yet.",
        labels=["zpool"],
    )
    for zpool, count in pool["former_objects"].items():
        former.add_metric([zpool], count)
    yield former
    yield _counter(
        "pool_high_mark_hits", "Times the pool passed its high mark.", pool["high_mark_hits"]
    )
    yield _gauge("pool_is_stuck", "1 if nothing more can be written back.", pool["is_stuck"])
    rejects = CounterMetricFamily(
        "nbdswap_pool_rejects", "Pages that did not go straight in, by reason.", labels=["reason"]
    )
    for reason in ("pool_full", "compress_poor", "alloc_retry"):
        rejects.add_metric([reason], pool["rejects"][reason])
    yield rejects
    yield _counter(
        "pool_decompress_fails",
        "Objects in the pool that did not decompress: read errors.",
        pool["rejects"]["decompress_fail"],
    )


def _pool_classes(pool: PoolSnapshot) -> Iterator[Metric]:
    label = ["object_bytes_max"]
    blocks = GaugeMetricFamily("nbdswap_pool_class_blocks", "Blocks of a size class.", labels=label)
    frames = GaugeMetricFamily("nbdswap_pool_class_frames", "Frames of a size class.", labels=label)
    slots = GaugeMetricFamily("nbdswap_pool_class_slots", "Slots of a size class.", labels=label)
    used = GaugeMetricFamily(
        "nbdswap_pool_class_slots_used", "Slots of a size class that hold an object.", labels=label
    )
    freeable = GaugeMetricFamily(
        "nbdswap_pool_class_freeable_frames",
        "Frames of a size class that compaction could give back.",
        labels=label,
    )
    # By fullness over all classes: a class each would be twelve times as many series.
    fullness = GaugeMetricFamily(
        "nbdswap_pool_blocks", "Blocks by per cent of their slots in use.", labels=["fullness"]
    )
    # While pages move to another zpool both have classes, and may have some of the same size.
    by_size: dict[int, list[ClassSnapshot]] = {}
    for size_class in pool["classes"]:
        by_size.setdefault(size_class["object_bytes_max"], []).append(size_class)
    for size, classes in by_size.items():
        blocks.add_metric([str(size)], sum(each["blocks"] for each in classes))
        frames.add_metric([str(size)], sum(each["frames"] for each in classes))
        slots.add_metric([str(size)], sum(each["slots"] for each in classes))
        used.add_metric([str(size)], sum(each["slots_used"] for each in classes))
        freeable.add_metric([str(size)], sum(each["freeable_frames"] for each in classes))
    for group, name_of_group in enumerate(FULLNESS):
        count = sum(size_class["fullness"][group] for size_class in pool["classes"])
        fullness.add_metric([name_of_group], count)
    yield from (blocks, frames, slots, used, freeable, fullness)


_STORE_GAUGES: list[tuple[str, str]] = [
    ("capacity_bytes", "Most that the backing file may take."),
    ("used_bytes", "Segments in use."),
    ("live_bytes", "Records that a page points to."),
    ("segments_free", "Segments that can be written."),
    ("over_budget", "1 if write-back waits because the bytes of the day are used up."),
    ("encrypted", "1 if what is written is encrypted."),
    ("degraded", "1 while writes fail: nothing is written back until one succeeds."),
    ("silent", "1 while the device does not answer: stored pages cannot be read."),
    ("out_of_space", "1 while they fail for want of space on the file system."),
    ("segments_suspect", "Segments that could not be written; the last to be tried again."),
    ("segments_broken", "Segments that failed twice: used where there is no other at all."),
]
_STORE_COUNTERS: list[tuple[str, str]] = [
    ("written_bytes", "Bytes written to the backing file."),
    ("read_bytes", "Bytes read from the backing file."),
    ("discarded_bytes", "Bytes of freed segments given back to the file system."),
    ("segments_cleaned", "Segments emptied by moving what was still live."),
    ("records_written", "Records written, moved ones included."),
    ("records_read", "Records read."),
    ("ahead_spans", "Spans of the log read before their records were asked for."),
    ("ahead_records", "Records served from these spans."),
    ("ahead_unused_bytes", "Bytes of these spans that nobody asked for."),
    ("pages_written_back", "Pages moved from the pool to the store."),
    ("bytes_written_back", "Compressed bytes of these pages."),
    ("pages_overtaken", "Pages chosen or written for nothing: changed while on their way."),
    ("pages_cleaned", "Pages moved from one segment to another."),
    ("bytes_cleaned", "Compressed bytes of these pages."),
    ("write_budget_waits", "Times that write-back began to wait for the budget."),
    ("write_errors", "Writes that the system refused."),
    ("read_errors", "Reads that the system refused."),
    ("fetch_races", "Reads that began again, since their page had changed meanwhile."),
    ("checksum_errors", "Records whose bytes were not those that were written."),
    ("summary_errors", "Segments whose list of records was damaged."),
]


def _store(store: StoreSnapshot) -> Iterator[Metric]:
    values: dict[str, int] = {key: value for key, value in store.items() if isinstance(value, int)}
    for key, help_text in _STORE_GAUGES:
        yield _gauge(f"store_{key}", help_text, values[key])
    for key, help_text in _STORE_COUNTERS:
        yield _counter(f"store_{key}", help_text, values[key])
    yield _gauge(
        "store_write_amplification_ratio",
        "Bytes written, cleaning and overhead included, for each compressed byte written back.",
        write_amplification(store),
    )
    yield _gauge(
        "store_unanswered_seconds",
        "For how long the device has been asked something and has answered nothing.",
        store["unanswered_seconds"],
    )
    yield _gauge(
        "store_io_uring",
        "1 if a thread does several reads at once in an io_uring, 0 if one after the other.",
        store["io"] == "io_uring",
    )
    if store["write_budget_left_bytes"] is not None:
        left_bytes = store["write_budget_left_bytes"]
        yield _gauge("store_write_budget_left_bytes", "What may be written now.", left_bytes)
    segments = GaugeMetricFamily(
        "nbdswap_store_segments",
        "Written segments by the share of a segment that lives, per cent.",
        labels=["live"],
    )
    for share, count in zip(LIVE_SHARES, store["segments_by_live_share"], strict=True):
        segments.add_metric([share], count)
    yield segments
    yield from _scrub(store["scrub"])
    if store["durable"] is not None:
        yield from _durable(store["durable"])


_DURABLE_GAUGES: list[tuple[str, str]] = [
    ("owed_pages", "Pages of durable exports that a flush would write down now."),
    ("unsynced_pages", "Pages of theirs that are written down and not synced."),
    ("segments_held", "Freed segments kept until what superseded them is on the device."),
]
_DURABLE_COUNTERS: list[tuple[str, str]] = [
    ("checkpoints", "Times that all owed pages were written down and synced."),
    ("checkpoints_failed", "Times that this failed, and flushes with it."),
    ("pages_written_down", "Pages written down by checkpoints."),
    ("syncs_failed", "Syncs of the backing file that failed."),
]


def _durable(durable: DurableSnapshot) -> Iterator[Metric]:
    values = {key: value for key, value in durable.items() if isinstance(value, int)}
    for key, help_text in _DURABLE_GAUGES:
        yield _gauge(f"durable_{key}", help_text, values[key])
    for key, help_text in _DURABLE_COUNTERS:
        yield _counter(f"durable_{key}", help_text, values[key])
    if durable["recovered_pages"] is not None and durable["recovery_seconds"] is not None:
        yield _gauge(
            "durable_recovered_pages",
            "Pages that this start found in the store's log.",
            durable["recovered_pages"],
        )
        yield _gauge("durable_recovery_seconds", "How long that took.", durable["recovery_seconds"])


def _room(room: RoomSnapshot) -> Iterator[Metric]:
    free = "What the file system of the backing file has left."
    yield _gauge("store_file_system_free_bytes", free, room.free_bytes)
    yield _gauge(
        "store_growth_bytes", "What the backing file may still take of it.", room.growth_bytes
    )


def _scrub(scrub: ScrubSnapshot) -> Iterator[Metric]:
    yield _gauge(
        "store_scrub_done_ratio",
        "Share of the segments that the present pass of the scrub has behind it.",
        scrub["segments_done"] / max(scrub["segments"], 1),
    )
    if scrub["passed_at"] is not None:
        yield _gauge(
            "store_scrub_passed_timestamp_seconds",
            "When the scrub had last gone over all segments.",
            scrub["passed_at"],
        )
    yield _counter("store_scrub_passes", "Times it went over all segments.", scrub["passes"])
    yield _counter("store_scrub_bytes", "Bytes of objects that it read.", scrub["bytes"])
    yield _counter(
        "store_scrub_pages_lost", "Pages that it found to be damaged.", scrub["pages_lost"]
    )
    yield _counter(
        "store_scrub_records_unreadable",
        "Records that the device did not give it.",
        scrub["records_unreadable"],
    )


def _memory(core: CoreSnapshot) -> Iterator[Metric]:
    resident_bytes = core["table"]["bytes_resident"]
    yield _gauge("table_resident_bytes", "Memory of the page table.", resident_bytes)
    yield _gauge("fixed_bytes", "Memory besides pool and page table.", core["fixed_bytes"])


def _connections(core: CoreSnapshot) -> Iterator[Metric]:
    connections = core["connections"]
    yield _gauge("connections_open", "Clients attached.", connections["open"])
    accepted, closed = connections["accepted_total"], connections["closed_total"]
    yield _counter("connections_accepted", "Clients attached so far.", accepted)
    yield _counter("connections_closed", "Clients that have left.", closed)


def _workers(workers: list[WorkerSnapshot]) -> Iterator[Metric]:
    families = {
        "polls": CounterMetricFamily(
            "nbdswap_worker_polls", "Times that a worker polled before sleeping.", labels=["worker"]
        ),
        "poll_hits": CounterMetricFamily(
            "nbdswap_worker_poll_hits", "Polls that saw a request come in.", labels=["worker"]
        ),
        "sleeps": CounterMetricFamily(
            "nbdswap_worker_sleeps", "Times that a worker slept.", labels=["worker"]
        ),
        "requests": CounterMetricFamily(
            "nbdswap_worker_requests", "Requests that a worker served.", labels=["worker"]
        ),
    }
    for index, worker in enumerate(workers):
        for key, count in worker.items():
            families[key].add_metric([str(index)], _number(count))
    yield from families.values()


def _latency(histograms: list[LatencySnapshot]) -> Metric:
    family = HistogramMetricFamily(
        "nbdswap_request_duration_seconds",
        "From the whole request received to the reply made, by the tier that answered.",
        labels=["op", "tier"],
    )
    for histogram in histograms:
        bounds = [*map(repr, histogram["bounds_seconds"]), "+Inf"]
        # Prometheus wants each bucket to hold all smaller ones.
        cumulated = accumulate(histogram["counts"])
        buckets = list(zip(bounds, cumulated, strict=True))
        family.add_metric(
            [histogram["op"], histogram["tier"]], buckets, sum_value=histogram["sum_seconds"]
        )
    return family


def _number(value: object) -> int:
    """The value of a counter that was reached through a TypedDict's items(), which are objects."""
    assert isinstance(value, int), f"{value!r} is no counter"
    return value
