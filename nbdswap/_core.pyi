"""The page engine and its workers, in Rust.

Everything of the page path runs in threads of the engine and never takes the GIL. Nothing here
blocks for a disk while it holds the GIL.
"""

from collections.abc import Sequence
from typing import TypedDict, final, type_check_only

from nbdswap.snapshots import CoreSnapshot

__all__ = [
    "ConfigError",
    "Core",
    "ForeignFileError",
    "LabObjects",
    "LabPages",
    "check_keyring_key",
    "codecs",
    "compress_page",
    "decompress_page",
    "foresee_recovery",
    "inspect_store",
    "repair_store",
    "verify_store",
    "zpools",
]

class ConfigError(ValueError):
    """A setting that cannot work; the text says what was found and what is wanted."""

class ForeignFileError(OSError):
    """A file exists but is not ours, or not of this format or configuration. It was not touched."""

@type_check_only
class ExportSpec(TypedDict):
    """One export to open. Exports are numbered in the order in which they are given."""

    name: str
    """What `attach` calls it; unique."""
    size_bytes: int
    """A multiple of page_bytes."""
    read_only: bool
    """Writes, discards and zeroing are refused with EPERM."""
    lost: bool
    """Pages that are not in adopted memory answer EIO until they are written or discarded."""
    durable: bool
    """FLUSH and FUA are answered when what they cover survives loss of the host; needs a store."""
    recovered: bool
    """It was durable before: if memory is not adopted, its pages are made from the store's log.
    Exports and generation are those of the predecessor."""

@type_check_only
class StoreSpec(TypedDict):
    """The backing file."""

    path: str
    """A file, created if it is not there, or a block device."""
    capacity_bytes: int
    """Most bytes that the file may take."""
    segment_bytes: int
    """Unit of writing and of cleaning."""
    direct: bool
    """Use O_DIRECT where the file system has it."""
    io: str
    """How a reader does several reads at once: io_uring; threads, one after the other; or auto."""
    preallocate: bool
    """Take all blocks now, so that a write cannot fail for want of them."""
    punch: bool
    """Give freed segments back to the file system."""
    held_fd: int | None
    """The same file as a predecessor had it open and locked: taken in place of a new descriptor,
    the engine's from now on. One of another file is closed."""
    write_bytes_per_day_max: int | None
    """Bytes that may be written to the file in a day, besides one burst; None: no limit."""
    write_burst_bytes: int
    """Bytes that may be written at once after a quiet time, and after opening."""
    scrub_bytes_per_s: int
    """What the scrub may read of the store while nothing else is to do; 0: no scrub."""
    key: str | None
    """Where the 32 bytes are that the store is encrypted with: `file:PATH`, its owner's alone, or
    `keyring:NAME`, a key of type `user`, see keyrings(7)."""
    make_key: bool
    """Make that file if it is not there. Without a key: one that only this process knows.

    With neither, the store is in clear.
    """

@type_check_only
class Incident(TypedDict):
    """A page whose record in the store is not what was written."""

    export: str
    page: int
    """Number of the page in its export."""
    byte: int
    """Where in the export the page begins."""
    store_byte: int
    """Where in the backing file the record begins."""
    fault: str
    """damaged: other bytes than were written. unreadable: the device gave an error."""
    finder: str
    """read: a client got an error. cleaning, scrub: a damaged page is lost from now on."""
    times: int
    """How often it was found since it was taken last."""

@type_check_only
class OpenReport(TypedDict):
    """What became of the predecessor's memory."""

    adopted: bool
    """It was taken over."""
    reason: str
    """Why it was not, or "" if it was, or nobody asked."""
    pages_adopted: int
    """Pages that hold data, wherever it is."""
    pages_lost: int
    """Pages of the predecessor whose bytes are gone: EIO until they are written or discarded."""
    recovered: bool
    """Memory was not adopted, and exports were made from the store's log."""
    pages_recovered: int
    """Pages that were found there."""
    io: str
    """How the store does several reads at once, as in `StoreSnapshot`; "" without a store."""
    io_reason: str
    warnings: list[str]
    """Whole sentences for the operator, for example "O_DIRECT is not available on ..."."""

@type_check_only
class HandedOver(TypedDict):
    """A connection that was given up in transmission and can go on by `attach`."""

    number: int
    """What `attach` called it."""
    fd: int
    """Open, non-blocking, the caller's."""
    export: str
    structured: bool
    base_allocation_id: int | None
    received: bytes
    """From the client, not handled: at most 256 KiB and a header. If a request was done in part, it
    begins with one for the rest, under the same cookie."""
    unsent: bytes
    """Replies that its socket did not take."""

@final
class Core:
    """An open engine. Every method may be called from any Python thread."""

    @staticmethod
    def open(
        *,
        instance: int,
        memory_dir: str | None,
        adopt: bool,
        exports: Sequence[ExportSpec],
        page_bytes: int,
        zpool: str,
        frame_bytes: int,
        chain_frames_max: int,
        codec: str,
        codec_level: int,
        pool_bytes_max: int,
        high_mark_percent: int,
        low_mark_percent: int,
        populate: bool,
        store: StoreSpec | None,
        generation: int,
        workers: int,
        readers: int,
        polling_us: int | None,
        request_timeout_s: float,
    ) -> tuple[Core, OpenReport]:
        """Opens files and maps memory; starts no thread. Releases the GIL.

        instance: 64 bits that name the memory files (16 hexadecimal digits) and stand in them.
        memory_dir: where these files are, a tmpfs; None: anonymous memory, nothing survives.
        adopt: take over the files of that instance if they fit; otherwise they are made anew.
        page_bytes, frame_bytes: 4096, 16384 or 65536; a frame is at least a page.
        chain_frames_max: longest chain in zsmalloc, 4 to 16; an adopted pool keeps its own.
        zpool: "zblock" or "zsmalloc". codec, codec_level: of `codecs`.
        pool_bytes_max: limit of the pool, side data included.
        high_mark_percent, low_mark_percent: of that limit; writing back begins and ends there.
        populate: take all memory of pool and page table now.
        store: None: nothing is written back, a full pool refuses writes.
        generation: of the data; records of another one in the store are never valid.
        workers, readers: number of threads that serve connections and that read the store.
        polling_us: microseconds that a worker polls before it sleeps; None: it tunes itself.
        request_timeout_s: seconds after which a stalled write fails with ENOSPC.

        Raises ConfigError, ForeignFileError or OSError.
        """

    def start(self) -> None:
        """Starts worker, reader and write-back threads. Once."""

    def thread_ids(self) -> list[int]:
        """Kernel thread ids of all threads that `start` started, for checks from outside."""

    def attach(
        self,
        fd: int,
        export: str,
        *,
        structured: bool,
        base_allocation_id: int | None,
        received: bytes,
        unsent: bytes,
    ) -> int:
        """Hands a connected stream socket to a worker and returns the number of the connection.

        The descriptor is the engine's from now on, also if this raises. It is non-blocking.
        structured: READ is answered in structured replies.
        base_allocation_id: id negotiated for base:allocation; None: BLOCK_STATUS is refused.
        received: bytes that came behind the handshake, or that `hand_over` gave.
        unsent: replies that `hand_over` gave.

        Raises ConfigError if there is no such export, OSError once the engine is stopping.
        """

    @property
    def ended_fd(self) -> int:
        """An eventfd, readable while `take_ended` has something to give. Stays the engine's."""

    def take_ended(self) -> list[tuple[int, str]]:
        """Connections that have ended since the last call, and makes `ended_fd` unreadable.

        Each as its number and the reason, "" for a DISC or an orderly end of the stream.
        """

    def detach_all(self, deadline_s: float) -> None:
        """Takes no new requests, finishes those in flight, closes all connections; no GIL.

        After `deadline_s` seconds what is left is cut off. May be called while another thread is
        in it, to shorten its deadline.
        """

    def hand_over(self, deadline_s: float) -> tuple[list[HandedOver], int]:
        """Gives every connection up so that it can go on elsewhere; receives nothing more. No GIL.

        Requests in flight are finished, a write that has not come whole is cut. A connection whose
        client takes no replies until the deadline is closed, and reported by `take_ended`. The
        second value counts those that could not be given up because a request waits for the
        store; they go on here.
        """

    def store_descriptor(self) -> int | None:
        """One more descriptor of the backing file, with its lock; the caller's. None: no store."""

    def settle(self) -> None:
        """Writes down everything that durable exports hold, so that it survives loss of the host.

        Releases the GIL. Raises OSError, with the reason, if the backing file cannot take it.
        """

    def set_zpool(self, zpool: str) -> None:
        """New pages go to that zpool from now on; the background thread moves the others there.

        Releases the GIL. Raises ConfigError if there is no such zpool.
        """

    def set_codec(self, codec: str, level: int) -> None:
        """New pages are compressed by that codec from now on; those that are there stay as is.

        Makes a compressor for each thread, so it allocates and may take some milliseconds without
        the GIL. Raises ConfigError if there is no such codec or level.
        """

    def take_incidents(self) -> tuple[list[Incident], int]:
        """Takes the names of damaged and unreadable records, at most 32, the first one first.

        The number is that of finds which were not named, because 32 were waiting.
        """

    def snapshot(self) -> CoreSnapshot:
        """All counters at this moment, as plain values that are the caller's."""

    def close(self, *, forget: bool) -> None:
        """Stops all threads and closes all files; forget: removes the memory files.

        Releases the GIL. Every other method raises RuntimeError afterwards; closing twice does
        no harm.
        """

@type_check_only
class StoreLabel(TypedDict):
    """What a superblock says."""

    instance: int
    generation: int
    segment_bytes: int
    capacity_bytes: int
    """Of the file when it was last opened."""
    opens: int
    """Times it was opened in this generation."""
    encrypted: bool

@type_check_only
class StoreInspection(TypedDict):
    """A store that no server has."""

    bytes: int
    superblock: StoreLabel | None
    problem: str
    """What is there instead of a superblock, or ""."""
    copy: StoreLabel | None
    copy_byte: int | None

@type_check_only
class StoreDamage(TypedDict):
    """A record that does not verify."""

    store_byte: int
    page: int
    """Counted over all exports."""
    kind: str
    """object: it holds the page; mark: it says that the page has no object; position: it says how
    far the log is known to be whole, and is of no page."""
    fault: str
    """damaged or unreadable, as in an Incident."""

@type_check_only
class StoreVerdict(TypedDict):
    """What reading every record came to, those included that no page points to any more."""

    segments: int
    segments_written: int
    """Those with a head of the store's generation; only these are read."""
    summaries_damaged: int
    heads_damaged: int
    """Segments that nothing can be had of."""
    records: int
    """Those of pages that verify."""
    object_bytes: int
    marks: int
    """Marks and positions that verify."""
    records_damaged: int
    records_missing: int
    """Those that a head counts and nobody can name, as the list of records is damaged too."""
    damaged: list[StoreDamage]
    """The first 1000 by their place. Where the list is damaged too, one may be named twice: as what
    the list says that it was, and as what it says itself."""
    damaged_left_out: int
    """Names that would have come after these."""

@type_check_only
class ForeseenExport(TypedDict):
    """Pages of a durable export, by what a start after loss of the host would find."""

    stored: int
    filled: int
    """Of one repeated pattern, zeros included."""
    discarded: int
    lost: int
    """Errors."""

@type_check_only
class Foresight(TypedDict):
    """What a start after loss of the host would find in a store."""

    position: int
    """Segments of smaller sequences are whole and were synced."""
    segments: int
    """Of this generation."""
    segments_unsure: int
    """Of these, the ones written since: every record of theirs was verified."""
    lists_damaged: int
    heads_damaged: int
    records_unnamed: int
    """Of segments that were whole: damaged together with the list, and nobody can name them."""
    pages_owed: int
    """Pages that the start would write down again."""
    exports: list[ForeseenExport | None]
    """None: the export does not survive, and all of its pages would be errors."""

def check_keyring_key(name: str) -> None:
    """Returns if `keyring:NAME` is a key that a store can be encrypted with.

    Raises ForeignFileError for one that is not there, has expired or is no key, OSError where
    the system does not let us ask or read.
    """

def inspect_store(path: str) -> StoreInspection:
    """Reads the superblock of a store and its copy, and nothing else. Releases the GIL.

    Raises ForeignFileError for a file that is in use or no file, OSError.
    """

def verify_store(path: str, key: str | None) -> StoreVerdict:
    """Reads and verifies every record. Releases the GIL.

    key: for a store that is encrypted, as in `StoreSpec`.

    Raises ForeignFileError for a damaged superblock, a wrong key and a file in use, OSError,
    ConfigError for sizes that no store has.
    """

def foresee_recovery(
    path: str, key: str | None, exports: list[tuple[int, bool]], page_bytes: int
) -> Foresight:
    """What a start after loss of the host would find: its recovery, in memory that is thrown away.

    exports: of the state, in its order: pages of each, and whether it is durable; one is.
    key: as for `verify_store`. Takes 16 bytes of memory for each page that is found. Only reads.
    Releases the GIL. Raises as `verify_store`.
    """

def repair_store(path: str, *, dry_run: bool) -> str | None:
    """Restores the superblock from its copy, or the copy from the superblock; says what it did.

    dry_run: says what it would do, and only reads. None: there is nothing to do, or nothing to do
    it from. Releases the GIL. Raises as `inspect_store`.
    """

def zpools() -> list[str]:
    """Names of the zpools, as `zpool` takes them."""

@type_check_only
class Percentiles(TypedDict):
    """Nanoseconds of one kind of operation, the cost of reading the clock taken off.

    Operations of a pool are done in batches of 64. One batch in eight is timed operation by
    operation and gives the percentiles; the others are timed whole and give the mean, without
    the slowest hundredth of them. It may be below the median, since the processor overlaps
    operations in a row. Of a codec every operation is timed. All zero if nothing was timed.
    """

    count: int
    """Operations that were timed singly."""
    mean: float
    p50: int
    p90: int
    p99: int
    p999: int
    max: int

@type_check_only
class CodecReport(TypedDict):
    """What a codec makes of pages."""

    codec: str
    level: int
    pages: int
    """Pages that were compressed: same-filled ones left out."""
    same_filled: int
    """Pages that one repeated word of 8 bytes fills."""
    incompressible: int
    """Of `pages`, those that are kept as they are: their objects would be no smaller."""
    page_bytes: int
    object_bytes: int
    """Sum of the sizes that `pages` are stored in; an incompressible page counts whole."""
    object_bytes_percentiles: list[int]
    """Sizes that 10, 25, 50, 75 and 90 per cent of `pages` do not exceed."""
    compress_ns: Percentiles
    decompress_ns: Percentiles
    """Of an incompressible page the time to copy it."""

@type_check_only
class Density(TypedDict):
    """What a pool holds at the end of a phase."""

    phase: str
    """fresh, overwritten, discarded50, refilled50, discarded90, refilled90, worn or compacted."""
    objects: int
    object_bytes: int
    """Sum of the sizes of the objects as stored."""
    slot_bytes: int
    """Their slots with side data: what would remain if every block were full."""
    block_bytes: int
    """Frames of blocks and their side words, and what grows with them outside of the arena."""
    held_bytes: int
    """What the pool has from the system: the arena's header and what grows outside of it, too."""

@type_check_only
class Moment(TypedDict):
    """What a pool holds at one moment of a run."""

    operations: int
    """Allocations and frees so far."""
    object_bytes: int
    block_bytes: int

@type_check_only
class PackReport(TypedDict):
    """How densely a pool packs objects, and what its operations cost."""

    zpool: str
    frame_bytes: int
    stored_bytes: int
    """Bytes of the pages that were put in at the start, same-filled ones included."""
    seed: int
    keeps_dense: bool
    densities: list[Density]
    """In the order of time."""
    timeline: list[Moment]
    """About 200 moments of the whole run."""
    alloc_ns: Percentiles
    """In the phases `overwritten` and `worn`, like `store_ns` and `free_ns`: the memory is warm."""
    store_ns: Percentiles
    load_ns: Percentiles
    """After the phase `fresh`, in random order: to load an object and copy it to its reader."""
    free_ns: Percentiles
    objects_copied_twice: int
    """Of the objects of the phase `fresh`, those that are not in one piece: loading copies them."""
    bytes_copied_twice: int
    objects_moved: int
    """By the compaction at the end."""
    objects_moved_meanwhile: int
    """Before that, to keep the pool dense; 0 if it is not kept so."""
    objects_written: int
    """In all phases."""

@type_check_only
class SpeedReport(TypedDict):
    """How fast a pool takes random overwrites."""

    zpool: str
    frame_bytes: int
    threads: int
    cycles: int
    """Of all threads; each is one alloc, store and free."""
    seconds: float
    """From the first thread's start to the last one's end."""
    ns_per_cycle: float
    """seconds * threads / cycles: what a cycle takes the thread that does it."""

@final
class LabPages:
    """Pages in memory to measure with."""

    @staticmethod
    def of(data: bytes, page_bytes: int) -> LabPages:
        """Cuts a copy of `data` into pages; a rest that is no whole page is left out.

        page_bytes: 4096, 16384 or 65536; ConfigError for another one.
        """

    @property
    def pages(self) -> int:
        """Number of whole pages."""

    def compress(self, codec: str, level: int) -> tuple[LabObjects, CodecReport]:
        """Compresses and decompresses every page once and compares them. Releases the GIL.

        Called in the main thread it can be interrupted, like everything in the lab.

        Raises ConfigError for a codec or level that does not exist, RuntimeError if a page does
        not come back as it was.
        """

@final
class LabObjects:
    """The sizes that a set of pages compresses to."""

    def pack(
        self,
        *,
        zpool: str,
        frame_bytes: int,
        stored_bytes: int,
        seed: int,
        keeps_dense: bool = False,
    ) -> PackReport:
        """Leads a pool of its own through a hard life and verifies it. Releases the GIL.

        Pages are put in, the set repeated, until they come to `stored_bytes`; what is no whole set
        is spread evenly over it. Same-filled pages count and take no room. Every page is
        overwritten twice in random order, each time with the size of any other; half of them are
        discarded and written again; nine tenths are discarded and written again; all are
        overwritten twice once more, which wears a pool most; and it is compacted until nothing is
        left to do. An object that would take as much of the pool as its page is stored as the page.

        frame_bytes: 4096, 16384 or 65536, at least the page size.
        seed: 64 bits; all that is random follows from it.
        keeps_dense: some objects are moved while others are written, as the server does whose pool
            is nearly full; otherwise none before the end.

        Raises ConfigError for what does not exist or does not fit into memory, OSError.
        """

    def speed(
        self,
        *,
        zpool: str,
        frame_bytes: int,
        stored_bytes: int,
        threads: int,
        cycles: int,
        seed: int,
    ) -> SpeedReport:
        """Times random overwrites in a full pool that all threads share. Releases the GIL.

        The pool is filled as by `pack` and every page overwritten once before the time starts.
        Every thread has its own part of the pages. threads: 1 to 64.

        Raises as `pack`.
        """

@type_check_only
class CodecInfo(TypedDict):
    """A way to compress pages."""

    name: str
    level_min: int
    level_max: int
    level_default: int
    about: str
    """What the level does, and what the codec is good for: a line for people."""
    guarantees: str
    """What its objects are, and which library reads them: a line for people.

    Of all codecs: an object is shorter than its page, or the page is kept as it is; a codec, level
    and page give one object, whatever was compressed before; a damaged object is refused or some
    page.
    """

def codecs() -> list[CodecInfo]:
    """All codecs that `Core.open` takes, the default first."""

def compress_page(codec: str, level: int, page: bytes) -> bytes | None:
    """The object that the page path would make of `page`; None: it would be no smaller.

    For tools and tests: a codec is made for each call.
    lz4, lz4hc: an LZ4 block. zstd: a frame without magic number, content size and checksum. lzo: an
    LZO1X stream. deflate: raw, as in zlib with wbits=-15.

    Raises ConfigError for a codec or level that does not exist, and for a page that is not 4096,
    16384 or 65536 bytes.
    """

def decompress_page(codec: str, object: bytes, page_bytes: int) -> bytes:
    """The page of an object.

    Raises ValueError for an object that is no page of this codec and length.
    """
