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
    "codecs",
    "compress_page",
    "decompress_page",
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
    preallocate: bool
    """Take all blocks now, so that a write cannot fail for want of them."""
    punch: bool
    """Give freed segments back to the file system."""

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
    warnings: list[str]
    """Whole sentences for the operator, for example "O_DIRECT is not available on ..."."""

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
        populate: touch all memory of the pool now.
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
    ) -> int:
        """Hands a connected stream socket to a worker and returns the number of the connection.

        The descriptor is the engine's from now on, also if this raises. It is non-blocking.
        structured: READ is answered in structured replies.
        base_allocation_id: id negotiated for base:allocation; None: BLOCK_STATUS is refused.
        received: bytes that came behind the handshake.

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

    def snapshot(self) -> CoreSnapshot:
        """All counters at this moment, as plain values that are the caller's."""

    def close(self, *, forget: bool) -> None:
        """Stops all threads and closes all files; forget: removes the memory files.

        Releases the GIL. Every other method raises RuntimeError afterwards; closing twice does
        no harm.
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
