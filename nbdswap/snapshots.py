"""The shape of what the engine and the server report of themselves, for metrics and status.

Plain values, taken at one moment, owned by whoever asked. Counters count since the engine was
opened; their names here are the engine's, `metrics` gives them the names that Prometheus sees.
"""

from dataclasses import dataclass, field, replace
from typing import Self, TypedDict


class PageCounts(TypedDict):
    """Pages of an export by where they are; the sum is the number of pages of the export."""

    unwritten: int
    """Never written, or nothing was taken over: read as zeros and take no memory."""
    zero: int
    """Discarded, or written with zeros."""
    same_filled: int
    """One repeated word other than zero, kept in the page table or in 8 bytes of the pool."""
    pool: int
    """Compressed, in memory."""
    raw: int
    """In memory as they came, since the codec could not shrink them."""
    store: int
    """In the backing file."""
    lost: int
    """Their newest bytes are gone: reading them fails until they are written or discarded."""


class ExportSnapshot(TypedDict):
    """One export. Operations: read, write, flush, trim, cache, write_zeroes, block_status."""

    name: str
    size_bytes: int
    pages_total: int
    pages: PageCounts
    requests: dict[str, int]
    """By operation; every one that was begun, failed ones included."""
    bytes: dict[str, int]
    """By operation; of requests that succeeded."""
    errors: dict[str, dict[str, int]]
    """By operation, then by the error's name, for example ENOSPC."""


FULLNESS = ("empty", *(f"{low}-{low + 10}" for low in range(0, 100, 10)), "full")
"""Groups of blocks by the share of slots in use, per cent; the upper bound is in the next one."""


LIVE_SHARES = tuple(f"{low}-{low + 10}" for low in range(0, 100, 10))
"""Groups of segments by the share of a segment that lives, per cent; upper bounds as above."""


class ClassSnapshot(TypedDict):
    """One size class of a zpool: the current one, or one that still holds objects."""

    zpool: str
    object_bytes_max: int
    block_frames: int
    """Frames of one block; 0 where they are of different lengths (zfit)."""
    block_slots: int
    """Slots of one block; 0 where they have as many as their objects leave room for (zfit)."""
    blocks: int
    frames: int
    """Of all blocks of the class."""
    slots: int
    """Of all blocks; where block_slots is 0 their objects and the holes between these."""
    slots_used: int
    freeable_frames: int
    """Frames that compaction of this class could give back."""
    fullness: list[int]
    """Blocks by FULLNESS."""


class RejectCounts(TypedDict):
    """Why a page did not go straight into the pool."""

    pool_full: int
    """The pool was at its limit; the write waited for write-back or failed."""
    compress_poor: int
    """The codec could not shrink the page; it was kept raw."""
    alloc_retry: int
    """No slot was to be had at the first try; the write waited for one."""
    decompress_fail: int
    """Not a reject: an object in the pool that did not decompress, answered with EIO."""


class PoolSnapshot(TypedDict):
    """Memory for compressed pages."""

    zpool: str
    """Where new pages go."""
    former_objects: dict[str, int]
    """Objects in zpools that were current before, by name; those that hold none are absent."""
    codec: str
    """Of new pages."""
    codec_level: int
    frame_bytes: int
    limit_bytes: int
    used_bytes: int
    """All that the pool holds from the system: with populated memory, the limit from the start."""
    used_bytes_max: int
    """The highest value of used_bytes so far."""
    huge_bytes: int
    """On huge pages: of populated memory when it was taken, on hugetlbfs all of it."""
    block_bytes: int
    """Blocks that hold objects, free slots and tails included: how full the pool is."""
    slot_bytes: int
    """Slots that hold an object; the rest of used_bytes is free slots and block tails."""
    compressed_bytes: int
    """Lengths of the objects."""
    logical_bytes: int
    """Bytes of the pages that these objects are."""
    objects: int
    codec_pages: dict[str, int]
    """Pages in the pool by what they are: none (raw), repeat (an 8-byte word), or a codec's.

    A page of lz4hc is one of lz4: nothing tells them apart.
    """
    pages_compacted: int
    """Pages that compaction moved inside the pool."""
    pages_moved: int
    """Pages that moved from a former zpool to the current one."""
    high_mark_hits: int
    """Times that the pool passed its high mark."""
    is_stuck: bool
    """Nothing more can be written back: writes that find no place are refused."""
    rejects: RejectCounts
    classes: list[ClassSnapshot]


class ScrubSnapshot(TypedDict):
    """Reading the store before anybody asks, to find out early what rotted."""

    segments: int
    """All segments; a pass goes over them in their order."""
    segments_done: int
    """Those that the present pass, or the last one, has behind it."""
    passes: int
    """Passes that went over all of them."""
    passed_at: float | None
    """When the last of these ended, in seconds since 1970; None if there was none."""
    bytes: int
    """Of objects that were read."""
    pages_lost: int
    """Pages that were found to be damaged."""
    records_unreadable: int


class DurableSnapshot(TypedDict):
    """Exports with `durability: disk`."""

    owed_pages: int
    """Changed, and not in the store's log as they are: what a flush would write down now."""
    unsynced_pages: int
    """In the log, and not synced since."""
    segments_held: int
    """Freed segments that are kept until what superseded their pages is on the device."""
    checkpoints: int
    """Times that everything owed was written down and synced, for a flush or for room."""
    checkpoints_failed: int
    pages_written_down: int
    """By checkpoints."""
    syncs_failed: int
    recovered_pages: int | None
    """Found in the store's log at the start; None if nothing was to be recovered."""
    recovery_seconds: float | None
    """What opening the engine took then."""


class StoreSnapshot(TypedDict):
    """The backing file."""

    path: str
    capacity_bytes: int
    used_bytes: int
    """Segments that are not free."""
    live_bytes: int
    """Records in them that a page still points to."""
    written_bytes: int
    read_bytes: int
    segments_free: int
    segments_suspect: int
    """Could not be written; tried once more when no other is free."""
    segments_broken: int
    """Could not be written then either; used only to clean where nothing else is left to."""
    segments_cleaned: int
    records_written: int
    records_read: int
    pages_written_back: int
    bytes_written_back: int
    """Compressed bytes of these pages."""
    pages_overtaken: int
    """Pages that were rewritten or discarded while they were on their way."""
    pages_cleaned: int
    bytes_cleaned: int
    """Compressed bytes of pages that cleaning moved from one segment to another."""
    segments_by_live_share: list[int]
    """Written segments by LIVE_SHARES."""
    write_budget_left_bytes: int | None
    """What may be written now, as of the last background work; None: no limit is set."""
    write_budget_waits: int
    """Times that write-back had to wait because the budget was used up."""
    over_budget: bool
    """It waits now: nothing is written back until time allows more."""
    write_errors: int
    read_errors: int
    checksum_errors: int
    ahead_spans: int
    """Spans of the log that were read before their records were asked for."""
    ahead_records: int
    """Records that were served from them."""
    ahead_unused_bytes: int
    """Bytes of them that nobody had asked for when they were given up."""
    discarded_bytes: int
    """Freed segments given back to the file system."""
    fetch_races: int
    """Reads that found, back from the store, that their page had changed, and began again."""
    degraded: bool
    """Writes fail: nothing is written back until one, tried now and then, succeeds."""
    unanswered_seconds: float
    """For how long it has been asked something and has answered nothing, as of the last look."""
    silent: bool
    """The device has not answered for as long as a request may wait."""
    out_of_space: bool
    """It is degraded for want of space on the file system, or of quota."""
    encrypted: bool
    """What is written is encrypted."""
    io: str
    """How a thread does several reads at once: io_uring, or threads: one after the other."""
    io_reason: str
    """Why it is threads."""
    summary_errors: int
    """Segments whose list of records was damaged, so that they were searched for one by one."""
    scrub: ScrubSnapshot
    durable: DurableSnapshot | None
    """None without exports that are durable."""


def write_amplification(store: StoreSnapshot) -> float:
    """Bytes given to the device, over compressed bytes that left the pool; 1 before any did."""
    written_back = store["bytes_written_back"]
    return store["written_bytes"] / written_back if written_back else 1.0


class TableSnapshot(TypedDict):
    """The page table."""

    bytes_resident: int


class ConnectionCounts(TypedDict):
    """Connections in transmission."""

    open: int
    accepted_total: int
    closed_total: int


class WorkerSnapshot(TypedDict):
    """One worker thread."""

    polls: int
    poll_hits: int
    sleeps: int
    requests: int


class LatencySnapshot(TypedDict):
    """A histogram of request times. The tier is `none` for operations without one."""

    op: str
    tier: str
    bounds_seconds: list[float]
    """Upper bounds of the buckets, ascending; one more bucket without bound follows."""
    counts: list[int]
    """Requests in each bucket (not cumulated), one more than there are bounds."""
    sum_seconds: float


class CoreSnapshot(TypedDict):
    """All counters of the engine."""

    exports: list[ExportSnapshot]
    pool: PoolSnapshot
    store: StoreSnapshot | None
    table: TableSnapshot
    fixed_bytes: int
    """Memory besides pool and table: buffers of connections, codecs, side tables."""
    connections: ConnectionCounts
    workers: list[WorkerSnapshot]
    latency: list[LatencySnapshot]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeCounts:
    """Programs that took each other's place in this process; counted from the first one on."""

    done_total: int = 0
    failed_total: int = 0
    """Asked for and refused or called off: the server went on as it was."""
    connections_handed_over_total: int = 0
    connections_dropped_total: int = 0
    """Closed, since they could not go on."""
    last_pause_seconds: float = 0.0
    """For which clients were not served."""
    last_failure: str = ""
    """Why the last one failed; "" after one that was done."""

    def with_done(self, handed_over: int, dropped: int, pause_s: float) -> Self:
        """One more, with what became of the connections."""
        return replace(
            self,
            done_total=self.done_total + 1,
            connections_handed_over_total=self.connections_handed_over_total + handed_over,
            connections_dropped_total=self.connections_dropped_total + dropped,
            last_pause_seconds=pause_s,
            last_failure="",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSnapshot:
    """What the file system has for a backing file that may still grow."""

    free_bytes: int
    """Without what it keeps for root."""
    growth_bytes: int
    """What the backing file lacks of its full size; 0 if it was preallocated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSnapshot:
    """What the Python side knows of itself."""

    version: str
    ready: bool
    stopping: bool
    uptime_seconds: float
    generation: int
    handshakes_open: int
    handshakes_failed_total: int
    connections_refused_total: int
    hardening: dict[str, bool]
    """By protection: whether it is in force. One that the configuration switches off is absent."""
    upgrades: UpgradeCounts = UpgradeCounts()
    room: RoomSnapshot | None = None
    """None: no backing file, a block device, or the system does not say."""
    troubles: dict[str, bool] = field(default_factory=dict)
    """By name, what an operator should act on: whether it goes on."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Engine and server at one moment."""

    core: CoreSnapshot
    server: ServerSnapshot
