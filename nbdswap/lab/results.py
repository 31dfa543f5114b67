"""What a run found, and the JSON file of it. Reading one back checks every value.

The models take the core's reports as they come; the names and units are those of `_core.pyi`.
Not here: conclusions (`advice`) and how it looks (`tables`, `plots`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdswap.errors import UsageError
from nbdswap.units import format_size

RESULTS_BYTES_MAX = 256 << 20

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(gt=0)]


class Model(BaseModel):
    """Frozen; keys of a later version are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Percentiles(Model):
    """Nanoseconds of one operation."""

    count: Count
    mean: Annotated[float, Field(ge=0)]
    p50: Count
    p90: Count
    p99: Count
    p999: Count
    max: Count


class CodecResult(Model):
    """What a codec makes of the pages."""

    codec: str
    level: int
    page_bytes: Size
    pages: Count
    """Pages that were compressed: those of one repeated word are not among them."""
    same_filled: Count
    incompressible: Count
    object_bytes: Count
    """Sum of the sizes as stored; an incompressible page counts whole."""
    object_bytes_percentiles: tuple[Count, Count, Count, Count, Count]
    """10, 25, 50, 75 and 90 per cent."""
    compress_ns: Percentiles
    decompress_ns: Percentiles

    @property
    def ratio(self) -> float | None:
        """Bytes of the pages that were compressed, over what became of them."""
        return self.pages * self.page_bytes / self.object_bytes if self.object_bytes else None

    @property
    def all_pages(self) -> int:
        """Pages of the files."""
        return self.pages + self.same_filled


class Density(Model):
    """A pool at the end of one phase."""

    phase: str
    objects: Count
    object_bytes: Count
    slot_bytes: Count
    block_bytes: Count
    """Frames of blocks and their side words: what the pool takes."""
    held_bytes: Count

    @property
    def overhead(self) -> float | None:
        """Pool bytes per byte of an object; the fewer the better, 1 is the least."""
        return self.block_bytes / self.object_bytes if self.object_bytes else None


class Moment(Model):
    """A pool in the course of a run."""

    operations: Count
    object_bytes: Count
    block_bytes: Count


class PackResult(Model):
    """What a zpool makes of the objects of one codec."""

    codec: str
    level: int
    page_bytes: Size
    zpool: str
    frame_bytes: Size
    stored_bytes: Count
    seed: int
    keeps_dense: bool = False
    densities: tuple[Density, ...]
    """In the order of time."""
    timeline: tuple[Moment, ...]
    alloc_ns: Percentiles
    store_ns: Percentiles
    load_ns: Percentiles
    free_ns: Percentiles
    objects_copied_twice: Count
    bytes_copied_twice: Count
    objects_moved: Count
    """By the compaction at the end."""
    objects_moved_meanwhile: Count = 0
    objects_written: Count = 0

    def phase(self, name: str) -> Density | None:
        """The pool at the end of that phase."""
        return next((density for density in self.densities if density.phase == name), None)


class SpeedResult(Model):
    """Random overwrites, as fast as they go."""

    codec: str
    level: int
    page_bytes: Size
    zpool: str
    frame_bytes: Size
    threads: Size
    cycles: Size
    seconds: float
    ns_per_cycle: float


class Environment(Model):
    """Where and with what a run was made."""

    nbdswap: str
    python: str
    kernel: str
    cpu: str
    cpus: Size
    memory_bytes: Size


class SourceFile(Model):
    """A file of pages."""

    path: str
    bytes: Size


class LabResults(Model):
    """Everything of one run."""

    format: Literal["nbdswap-lab"] = "nbdswap-lab"
    format_version: Literal[1] = 1
    environment: Environment
    command_line: tuple[str, ...]
    begun: str
    """UTC, ISO 8601."""
    seconds: float
    seed: int
    stored_bytes: Size
    """Bytes of pages that each pool was filled with; the files repeated as often as needed."""
    files: tuple[SourceFile, ...]
    codecs: tuple[CodecResult, ...]
    packs: tuple[PackResult, ...]
    speeds: tuple[SpeedResult, ...]

    def packs_of(self, codec: CodecResult) -> Iterator[PackResult]:
        """What the zpools made of the objects of this codec."""
        for pack in self.packs:
            if key_of(pack) == key_of(codec):
                yield pack

    def codec_of(self, pack: PackResult) -> CodecResult:
        """The codec that made these objects."""
        return next(codec for codec in self.codecs if key_of(codec) == key_of(pack))


def key_of(result: CodecResult | PackResult | SpeedResult) -> tuple[str, int, int]:
    """What joins results: codec, level, page size."""
    return result.codec, result.level, result.page_bytes


def share_of_pages(codec: CodecResult, density: Density) -> float | None:
    """Pool bytes over the bytes of all pages that they stand for, same-filled ones too."""
    if not density.objects or not codec.pages:
        return None
    pages = density.objects * codec.all_pages / codec.pages
    return density.block_bytes / (pages * codec.page_bytes)


def codec_name(result: CodecResult | PackResult | SpeedResult) -> str:
    """`zstd:3`; a codec without levels has none in its name."""
    return result.codec if result.level == 0 else f"{result.codec}:{result.level}"


def size_name(page_bytes: int, frame_bytes: int) -> str:
    """`4K`, or `4K in 16K` where a frame is larger than a page."""
    page = format_size(page_bytes)
    return page if frame_bytes == page_bytes else f"{page} in {format_size(frame_bytes)}"


def to_json(results: LabResults) -> str:
    """The text of the results file."""
    return results.model_dump_json(indent=1) + "\n"


def read_results(path: Path) -> LabResults:
    """An earlier run; raises UsageError."""
    try:
        if path.is_file() and path.stat().st_size > RESULTS_BYTES_MAX:
            limit = format_size(RESULTS_BYTES_MAX)
            raise UsageError(f"{path}: larger than {limit}, wanted a file of `lab run --json`")
        results = LabResults.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path}: {where}: {first['msg']}; wanted a file of `nbdswap lab run --json`"
        ) from None
    if orphan := _orphan(results):
        raise UsageError(f"{path}: packs: {orphan} has no codec result; the file is not whole")
    return results


def _orphan(results: LabResults) -> str | None:
    known = {key_of(codec) for codec in results.codecs}
    return next((codec_name(pack) for pack in results.packs if key_of(pack) not in known), None)
