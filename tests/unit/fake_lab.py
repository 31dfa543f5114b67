"""A measuring core that measures nothing: its figures follow from names and sizes alone.

`python -m tests.unit.fake_lab lab run ...` is the command `nbdswap` on this core.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from unittest import mock

from nbdswap.lab import core
from nbdswap.lab.results import (
    CodecResult,
    Density,
    Environment,
    LabResults,
    Moment,
    PackResult,
    SourceFile,
)

ZPOOLS = ("tight", "loose")
# Name, lowest, highest and default level.
CODECS = (("none", 0, 0, 0), ("lz4", 1, 65537, 1), ("zstd", -7, 19, 3))
PHASES = (
    "fresh",
    "overwritten",
    "discarded50",
    "refilled50",
    "discarded90",
    "refilled90",
    "worn",
    "compacted",
)
INTERRUPT_AT = "NBDSWAP_FAKE_LAB_INTERRUPTS"


def percentiles(p50: int) -> dict[str, object]:
    """Figures around a median."""
    return {
        "count": 1000,
        "mean": p50 * 1.1,
        "p50": p50,
        "p90": p50 * 2,
        "p99": p50 * 3,
        "p999": p50 * 9,
        "max": p50 * 50,
    }


def codec_result(codec: str = "lz4", level: int = 1, **changes: object) -> CodecResult:
    """A codec that halves 1,000 pages."""
    report: dict[str, object] = {
        "codec": codec,
        "level": level,
        "pages": 1000,
        "same_filled": 0,
        "incompressible": 0,
        "page_bytes": 4096,
        "object_bytes": 2048 * 1000,
        "object_bytes_percentiles": [500, 1000, 2000, 3000, 4000],
        "compress_ns": percentiles(3000),
        "decompress_ns": percentiles(1000),
    }
    return CodecResult.model_validate(report | changes)


def pack_result(codec: CodecResult, zpool: str = "tight", **changes: object) -> PackResult:
    """A zpool that takes `overhead` pool bytes per compressed byte in every phase."""
    overhead = float(str(changes.pop("overhead", 1.0)))
    densities = []
    for phase in PHASES:
        objects = codec.pages * {"discarded50": 50, "discarded90": 10}.get(phase, 100) // 100
        object_bytes = objects * codec.object_bytes // max(codec.pages, 1)
        densities.append(
            Density(
                phase=phase,
                objects=objects,
                object_bytes=object_bytes,
                slot_bytes=object_bytes,
                block_bytes=round(object_bytes * overhead),
                held_bytes=round(object_bytes * overhead) + 4096,
            )
        )
    report: dict[str, object] = {
        "codec": codec.codec,
        "level": codec.level,
        "page_bytes": codec.page_bytes,
        "zpool": zpool,
        "frame_bytes": codec.page_bytes,
        "stored_bytes": 64 << 20,
        "seed": 1,
        "densities": densities,
        "timeline": [
            Moment(operations=at, object_bytes=at * 1000, block_bytes=round(at * 1000 * overhead))
            for at in range(0, 1000, 100)
        ],
        "objects_copied_twice": 10,
        "bytes_copied_twice": 10000,
        "objects_moved": 3,
    }
    times = {f"{name}_ns": percentiles(100) for name in ("alloc", "store", "load", "free")}
    return PackResult.model_validate(report | times | changes)


def lab_results(*pairs: tuple[CodecResult, Sequence[PackResult]]) -> LabResults:
    """A run of these codecs, each with its packs."""
    return LabResults(
        environment=Environment(
            nbdswap="1.2.3",
            python="3.11.0",
            kernel="Linux 6.1",
            cpu="a processor",
            cpus=2,
            memory_bytes=8 << 30,
        ),
        command_line=("nbdswap", "lab", "run"),
        begun="2026-01-02T03:04:05+00:00",
        seconds=1.5,
        seed=1,
        stored_bytes=64 << 20,
        files=(SourceFile(path="some.pages", bytes=4 << 20),),
        codecs=tuple(codec for codec, _ in pairs),
        packs=tuple(pack for _, packs in pairs for pack in packs),
        speeds=(),
    )


class FakeObjects:
    """`_core.LabObjects`."""

    def __init__(self, result: CodecResult) -> None:
        self.result = result

    def pack(
        self, *, zpool: str, frame_bytes: int, stored_bytes: int, seed: int, keeps_dense: bool
    ) -> Mapping[str, object]:
        """`loose` takes a tenth more."""
        if os.environ.get(INTERRUPT_AT) == zpool:
            # As if somebody pressed Ctrl-C now. What runs in the background ignores that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
        overhead = {"tight": 1.05, "loose": 1.15}[zpool]
        report = pack_result(
            self.result,
            zpool,
            overhead=overhead,
            frame_bytes=frame_bytes,
            stored_bytes=stored_bytes,
            seed=seed,
        ).model_dump()
        return {key: report[key] for key in report if key not in {"codec", "level", "page_bytes"}}

    def speed(  # noqa: PLR0913 -- the extension's own signature, all by keyword
        self,
        *,
        zpool: str,
        frame_bytes: int,
        stored_bytes: int,
        threads: int,
        cycles: int,
        seed: int,
    ) -> Mapping[str, object]:
        """The second thread is worth nine tenths of one."""
        assert stored_bytes > 0
        assert seed >= 0
        ns_per_cycle = 400.0 if threads == 1 else 444.4
        return {
            "zpool": zpool,
            "frame_bytes": frame_bytes,
            "threads": threads,
            "cycles": cycles,
            "seconds": ns_per_cycle * cycles / threads / 1e9,
            "ns_per_cycle": ns_per_cycle,
        }


class FakePages:
    """`_core.LabPages`: pages of zeros are same-filled, all others shrink to a half."""

    def __init__(self, data: bytes, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.all = [
            data[at : at + page_bytes] for at in range(0, len(data) - page_bytes + 1, page_bytes)
        ]

    @property
    def pages(self) -> int:
        """Whole ones."""
        return len(self.all)

    def compress(self, codec: str, level: int) -> tuple[FakeObjects, Mapping[str, object]]:
        """zstd makes them a tenth smaller than lz4."""
        pages = sum(any(page) for page in self.all)
        size = self.page_bytes * {"none": 10, "lz4": 5, "zstd": 4}[codec] // 10
        result = codec_result(
            codec,
            level,
            pages=pages,
            same_filled=len(self.all) - pages,
            page_bytes=self.page_bytes,
            object_bytes=pages * size,
        )
        return FakeObjects(result), result.model_dump()


class FakeLabCore:
    """The measuring core."""

    def zpools(self) -> Sequence[str]:
        """Two."""
        return ZPOOLS

    def codecs(self) -> Sequence[Mapping[str, object]]:
        """Three."""
        return [
            {"name": name, "level_min": low, "level_max": high, "level_default": default}
            for name, low, high, default in CODECS
        ]

    def pages_of(self, data: bytes, page_bytes: int) -> FakePages:
        """See FakePages."""
        return FakePages(data, page_bytes)


def main() -> None:
    """The command `nbdswap` on a fake core."""
    from nbdswap.cli import main as nbdswap_main

    with mock.patch.object(core, "core_of_extension", return_value=FakeLabCore()):
        nbdswap_main()


if __name__ == "__main__":
    main()
