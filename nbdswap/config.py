"""The configuration: every key with its type, bounds and default, frozen once it is read.

`config/nbdswap.yaml` shows the same keys to people; a test holds the two together. Keys without a
default here depend on the machine; `config_file` fills them in before these models see them.

Not here: reading files and flags (`config_file`), and questions to the running system such as free
memory (`preflight`).
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from nbdswap.addresses import TcpAddress
from nbdswap.checks import (
    AddressOrNone,
    AnyPath,
    Flag,
    PathOrNone,
    Tcp,
    Text,
    Unix,
    integer,
    or_none,
    polling_choice,
    seconds,
    size,
    size_of,
    size_or_none,
    store_key,
    unwanted,
    word,
)
from nbdswap.units import format_size

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

NBD_PORT = 10809
ADMIN_PORT = 10810
MEMORY_DIR = Path("/dev/shm")  # noqa: S108 -- the tmpfs that every Linux has

# The zpools that the core has; a test compares the two.
ZPOOLS = ("zblock", "zsmalloc", "zbud", "z3fold", "zfit")

# (lowest, highest, default) level of each codec, as the core has them; a test compares the two. For
# lz4 it is the acceleration, 1 is the densest; for the others more is denser.
CODEC_LEVELS = {
    "lz4": (1, 65537, 1),
    "lz4hc": (2, 9, 9),
    "zstd": (-7, 19, 3),
    "lzo": (1, 1, 1),
    "deflate": (1, 12, 6),
    "none": (0, 0, 0),
}

EXPORT_NAME_BYTES_MAX = 255
# The engine numbers the pages of all exports with 32 bits, and exports with the bits of a header.
PAGES_MAX = (1 << 32) - 1
EXPORTS_MAX = 1024
# One for the head of the file, two that cleaning needs, one to write into.
SEGMENTS_MIN = 4
# A record is a page and its header, and a segment has a header and a summary besides.
SEGMENT_PAGES_MIN = 4
POOL_FRAMES_MIN = 64
# Write-back begins when a segment may be written, cleaning ahead of need when half a burst is left.
BURST_SEGMENTS_MIN = 4

Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(word("auto", "on", "off"))]
PageBytes = Annotated[int, BeforeValidator(size_of(4 * KIB, 16 * KIB, 64 * KIB))]
Percent = Annotated[int, BeforeValidator(integer(1, 100))]


def _export_name(value: Any) -> str:
    wanted = f"1 to {EXPORT_NAME_BYTES_MAX} bytes of printable text"
    if not isinstance(value, str) or not value.isprintable():
        raise unwanted(wanted)
    if not 1 <= len(value.encode()) <= EXPORT_NAME_BYTES_MAX:
        raise unwanted(wanted)
    return value


class Section(BaseModel):
    """A mapping in the file. Unknown keys are refused: a typing error must not become a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ListenConfig(Section):
    """Where clients connect."""

    unix: tuple[Unix, ...]
    tcp: tuple[Tcp, ...] = (TcpAddress("127.0.0.1", NBD_PORT),)


class ExportConfig(Section):
    """What a client attaches to."""

    name: Annotated[str, BeforeValidator(_export_name)]
    size_bytes: Annotated[int, BeforeValidator(size(4 * KIB, 16 * TIB))]
    description: Text = ""
    read_only: Flag = False
    durability: Annotated[
        Literal["disk", "process", "volatile"], BeforeValidator(word("disk", "process", "volatile"))
    ] = "process"


class PoolConfig(Section):
    """Memory for compressed pages."""

    bytes_max: Annotated[int, BeforeValidator(size(MIB, 16 * TIB))]
    zpool: Annotated[str, BeforeValidator(word(*ZPOOLS))] = "zfit"
    codec: Annotated[
        Literal["lz4", "lz4hc", "zstd", "lzo", "deflate", "none"],
        BeforeValidator(word(*CODEC_LEVELS)),
    ] = "lz4"
    codec_level: Annotated[int, BeforeValidator(integer(-7, 65537))]
    frame_bytes: PageBytes
    zsmalloc_chain_frames_max: Annotated[int, BeforeValidator(integer(4, 16))] = 8
    high_mark_percent: Percent = 95
    low_mark_percent: Percent = 90
    populate: Switch = "auto"


class StoreConfig(Section):
    """The backing file for pages that leave the pool."""

    path: PathOrNone
    capacity_bytes: Annotated[int, BeforeValidator(size(256 * KIB, 8 * TIB))] = 8 * GIB
    segment_bytes: Annotated[int, BeforeValidator(size(16 * KIB, 16 * MIB))] = MIB
    direct: Flag = True
    io: Annotated[
        Literal["auto", "io_uring", "threads"],
        BeforeValidator(word("auto", "io_uring", "threads")),
    ] = "auto"
    preallocate: Flag = False
    punch: Flag
    write_bytes_per_day_max: Annotated[
        int | None, BeforeValidator(size_or_none(MIB, 1024 * TIB)), PlainSerializer(or_none)
    ] = None
    write_burst_bytes: Annotated[int, BeforeValidator(size(MIB, 1024 * TIB))] = 4 * GIB
    encryption: Annotated[Literal["off", "on"], BeforeValidator(word("off", "on"))] = "off"
    key: Annotated[str, BeforeValidator(store_key)] = "memory"
    scrub_bytes_per_s: Annotated[int, BeforeValidator(size(0, 16 * GIB))] = 4 * MIB


class HardeningConfig(Section):
    """Protections of a server whose clients may be swapping on this very machine."""

    lock_memory: Switch = "auto"
    io_flusher: Switch = "auto"
    oom_score_adj: Annotated[int, BeforeValidator(integer(-1000, 1000))] = -1000


class LogConfig(Section):
    """Events on standard error."""

    format: Annotated[Literal["text", "json"], BeforeValidator(word("text", "json"))] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(word("debug", "info", "warning", "error")),
    ] = "info"


class Config(Section):
    """Everything that the server is told from outside."""

    listen: ListenConfig
    exports: tuple[ExportConfig, ...] = (ExportConfig(name="swap", size_bytes=4 * GIB),)
    page_bytes: PageBytes = 4 * KIB
    pool: PoolConfig
    store: StoreConfig
    workers: Annotated[int, BeforeValidator(integer(1, 256))]
    readers: Annotated[int, BeforeValidator(integer(1, 256))]
    polling: Annotated[int | Literal["auto", "off"], BeforeValidator(polling_choice)] = "auto"
    request_timeout_s: Annotated[float, BeforeValidator(seconds(0.1, 3600))] = 20.0
    handshake_timeout_s: Annotated[float, BeforeValidator(seconds(0.1, 3600))] = 10.0
    connections_max: Annotated[int, BeforeValidator(integer(1, 65536))] = 256
    state_dir: AnyPath
    memory_dir: PathOrNone = MEMORY_DIR
    admin: AddressOrNone = TcpAddress("127.0.0.1", ADMIN_PORT)
    hardening: HardeningConfig = HardeningConfig()
    log: LogConfig = LogConfig()

    @property
    def polling_us(self) -> int | None:
        """Microseconds that a worker polls before it sleeps; None: it tunes itself."""
        if isinstance(self.polling, int):
            return self.polling
        return None if self.polling == "auto" else 0

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        self._check_exports()
        self._check_pool()
        self._check_store()
        return self

    def _check_exports(self) -> None:
        if not 1 <= len(self.exports) <= EXPORTS_MAX:
            raise misfit("exports", f"a list of {len(self.exports)}", f"1 to {EXPORTS_MAX} exports")
        names = [export.name for export in self.exports]
        for index, export in enumerate(self.exports):
            key = f"exports[{index}]"
            if export.name in names[:index]:
                raise misfit(f"{key}.name", export.name, "a name that no other export has")
            if export.size_bytes % self.page_bytes:
                multiple = f"a multiple of page_bytes ({format_size(self.page_bytes)})"
                raise misfit(f"{key}.size_bytes", export.size_bytes, multiple)
            if export.durability != "volatile" and self.memory_dir is None:
                wanted = "volatile, because memory_dir is none"
                raise misfit(f"{key}.durability", export.durability, wanted)
            if export.durability == "disk":
                self._check_disk(key)
        pages = sum(export.size_bytes // self.page_bytes for export in self.exports)
        if pages > PAGES_MAX:
            total = format_size(pages * self.page_bytes)
            wanted = f"less than {format_size((PAGES_MAX + 1) * self.page_bytes)} over all exports"
            raise misfit("exports", f"{total} in sum", wanted)

    def _check_disk(self, key: str) -> None:
        """What survives loss of the host has to be somewhere, and readable."""
        if self.store.path is None:
            wanted = "process or volatile, because store.path is none"
            raise misfit(f"{key}.durability", "disk", wanted)
        if self.store.encryption == "on" and self.store.key == "memory":
            wanted = (
                "file:PATH, credential:NAME or keyring:NAME, because a key in memory is gone with "
                "the host"
            )
            raise misfit(f"store.key (with {key}.durability: disk)", "memory", wanted)

    def _check_pool(self) -> None:
        pool = self.pool
        if pool.low_mark_percent >= pool.high_mark_percent:
            wanted = f"less than pool.high_mark_percent ({pool.high_mark_percent})"
            raise misfit("pool.low_mark_percent", pool.low_mark_percent, wanted)
        if pool.frame_bytes < self.page_bytes:
            wanted = f"at least page_bytes ({format_size(self.page_bytes)})"
            raise misfit("pool.frame_bytes", format_size(pool.frame_bytes), wanted)
        pool_bytes_min = POOL_FRAMES_MIN * pool.frame_bytes
        if pool.bytes_max < pool_bytes_min:
            wanted = f"at least {POOL_FRAMES_MIN} frames ({format_size(pool_bytes_min)})"
            raise misfit("pool.bytes_max", format_size(pool.bytes_max), wanted)
        low, high, _ = CODEC_LEVELS[pool.codec]
        if not low <= pool.codec_level <= high:
            wanted = (
                f"{low} to {high} for {pool.codec}" if low < high else f"{low} for {pool.codec}"
            )
            raise misfit("pool.codec_level", pool.codec_level, wanted)

    def _check_store(self) -> None:
        store = self.store
        if store.preallocate and store.punch:
            # Punching gives back what was taken, and then a full disk can stop writing back.
            raise misfit("store.punch", "true", "false, because store.preallocate is true")
        segment_bytes_min = SEGMENT_PAGES_MIN * self.page_bytes
        if store.segment_bytes % (4 * KIB) or store.segment_bytes < segment_bytes_min:
            wanted = f"a multiple of 4K and at least {format_size(segment_bytes_min)}"
            raise misfit("store.segment_bytes", format_size(store.segment_bytes), wanted)
        burst_bytes_min = BURST_SEGMENTS_MIN * store.segment_bytes
        if store.write_burst_bytes < burst_bytes_min:
            wanted = f"at least {BURST_SEGMENTS_MIN} segments ({format_size(burst_bytes_min)})"
            raise misfit("store.write_burst_bytes", format_size(store.write_burst_bytes), wanted)
        capacity_bytes_min = SEGMENTS_MIN * store.segment_bytes
        if store.capacity_bytes < capacity_bytes_min:
            wanted = f"at least {SEGMENTS_MIN} segments ({format_size(capacity_bytes_min)})"
            raise misfit("store.capacity_bytes", format_size(store.capacity_bytes), wanted)


def misfit(key: str, found: object, wanted: str) -> PydanticCustomError:
    """The refusal of a value that does not go with another key."""
    context = {"key": key, "found": str(found), "wanted": wanted}
    return PydanticCustomError("misfit", "{key} is {found}, wanted {wanted}", context)
