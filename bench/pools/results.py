"""The result files: densities, the originals, the kernel's zram, speeds.

Reading one back checks every value.

Not here: measuring, and what the figures mean (claims.py).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from nbdswap.lab.results import Environment
from plan import Geometry

DENSITY_FILE = "density.json"
ORIGINALS_FILE = "originals.json"
KERNEL_FILE = "zram.json"
SPEED_FILE = "speed.json"

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(gt=0)]
Ns = Annotated[float, Field(ge=0)]


class Model(BaseModel):
    """Frozen, and nothing in it is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Held(NamedTuple):
    """A pool at the end of a phase. A list in the file, since there are many."""

    objects: Count
    object_bytes: Count
    slot_bytes: Count
    """What the objects would take if every block were full: slots, side data, heads."""
    pool_bytes: Count
    """All that the pool has from the system: frames, side words, header."""

    @property
    def overhead(self) -> float:
        """Pool bytes for a byte of an object."""
        return self.pool_bytes / self.object_bytes

    @property
    def losses(self) -> tuple[float, float]:
        """Shares of the object bytes: lost in full blocks, and in free slots of the others."""
        return (
            self.slot_bytes / self.object_bytes - 1,
            (self.pool_bytes - self.slot_bytes) / self.object_bytes,
        )


class Codec(Model):
    """What a codec makes of the pages."""

    codec: str
    level: int
    page_bytes: Size
    pages: Count
    same_filled: Count
    incompressible: Count
    object_bytes: Count
    object_bytes_percentiles: tuple[Count, Count, Count, Count, Count]
    """10, 25, 50, 75 and 90 per cent."""

    @property
    def ratio(self) -> float:
        """Bytes of the pages over what became of them; same-filled pages left out."""
        return self.pages * self.page_bytes / self.object_bytes


class Pack(Model):
    """What a zpool made of the objects of one codec."""

    codec: str
    level: int
    page_bytes: Size
    frame_bytes: Size
    stored_bytes: Size
    zpool: str
    phases: dict[str, Held]
    """In the order of time."""
    objects_copied_twice: Count
    bytes_copied_twice: Count
    objects_moved: Count
    """By the compaction at the end."""
    objects_moved_meanwhile: Count = 0
    """Before that, to keep the pool dense."""
    objects_written: Count = 0

    @property
    def geometry(self) -> Geometry:
        """Pages and frames."""
        return Geometry(self.page_bytes, self.frame_bytes)


class Densities(Model):
    """Everything that is the same each time."""

    format: Literal["nbdswap-pools-density"] = "nbdswap-pools-density"
    format_version: Literal[1] = 1
    nbdswap: str
    seed: int
    files: dict[str, Size]
    """Names of the page files and their bytes, unpacked."""
    codecs: tuple[Codec, ...]
    packs: tuple[Pack, ...]
    kept_dense: tuple[Pack, ...] = ()
    """The same of pools in which objects were moved while others were written."""


class Original(Model):
    """What an allocator of the kernel would take, filled once; computed."""

    allocator: str
    chain_frames_max: Count
    """0 for what has no chains."""
    codec: str
    level: int
    page_bytes: Size
    stored_bytes: Size
    classes: Count
    object_bytes: Size
    slot_bytes: Size
    pool_bytes: Size

    @property
    def overhead(self) -> float:
        """Pool bytes for a byte of an object."""
        return self.pool_bytes / self.object_bytes


class Originals(Model):
    """All that was computed."""

    format: Literal["nbdswap-pools-originals"] = "nbdswap-pools-originals"
    format_version: Literal[1] = 1
    models: tuple[Original, ...]


class KernelHeld(NamedTuple):
    """What mm_stat says at the end of a phase."""

    compr_data_size: Count
    mem_used_total: Count
    huge_pages: Count
    same_pages: Count

    @property
    def overhead(self) -> float:
        """Memory for a byte stored."""
        return self.mem_used_total / self.compr_data_size


class KernelRun(Model):
    """The kernel's zram with the same pages, of 4 KiB."""

    codec: str
    stored_bytes: Size
    phases: dict[str, KernelHeld]


class Kernel(Model):
    """All of zram."""

    format: Literal["nbdswap-pools-zram"] = "nbdswap-pools-zram"
    format_version: Literal[1] = 1
    kernel: str
    seed: int
    runs: tuple[KernelRun, ...]


class Times(NamedTuple):
    """Nanoseconds of one kind of operation."""

    mean: Ns
    p50: Ns
    p99: Ns
    p999: Ns


class Sample(Model):
    """One zpool in one round."""

    round: Count
    page_bytes: Size
    frame_bytes: Size
    zpool: str
    cycle_ns: Ns
    """Place, copy and free of a random overwrite; one thread."""
    cycle_ns_two: Ns
    """The same for each of two threads at once."""
    alloc: Times
    store: Times
    load: Times
    free: Times
    other_cores: float
    """Cores that other programs used meanwhile."""

    @property
    def geometry(self) -> Geometry:
        """Pages and frames."""
        return Geometry(self.page_bytes, self.frame_bytes)


class Speeds(Model):
    """Everything that depends on the machine."""

    format: Literal["nbdswap-pools-speed"] = "nbdswap-pools-speed"
    format_version: Literal[1] = 1
    environment: Environment
    seed: int
    codec: str
    level: int
    stored_bytes: Size
    cycles: Size
    samples: tuple[Sample, ...]


AnyFile = TypeVar("AnyFile", Densities, Originals, Kernel, Speeds)


def read(kind: type[AnyFile], path: Path) -> AnyFile:
    """A result file; pydantic's ValidationError if it is none."""
    return kind.model_validate_json(path.read_bytes())


def write(content: Densities | Originals | Kernel | Speeds, path: Path) -> None:
    """Writes a file that a reader of diffs can read: an entry of a list is a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {_value(value)}" for key, value in content.model_dump().items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[\n" + ",\n".join(_items(value)) + "\n ]"
    return json.dumps(value)


def _items(values: Iterable[object]) -> Iterable[str]:
    for value in values:
        yield f"  {json.dumps(value, separators=(',', ':'))}"
