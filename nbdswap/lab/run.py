"""One run of the lab: every codec on the pages, every zpool on what the codec made of them.

Not here: what is measured and how (the core), files (`pages`), anything for eyes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nbdswap.errors import UsageError
from nbdswap.units import format_size, human_size

from .core import LabCore, Objects
from .environment import available_memory_bytes, environment
from .pages import PageFile, joined
from .request import STORED_BYTES_LEAST, CodecChoice, LabRequest
from .results import CodecResult, LabResults, PackResult, SourceFile, SpeedResult, size_name

SPEED_THREADS = (1, 2)
SPEED_CYCLES = 1_000_000

OnStep = Callable[[str], None]
"""Called with what is about to be done, once for each of `step_count` steps."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a pool is filled with."""

    page_bytes: int
    codec: CodecChoice
    objects: Objects

    @property
    def join(self) -> dict[str, object]:
        """What results of the same objects have in common."""
        return {
            "codec": self.codec.name,
            "level": self.codec.level,
            "page_bytes": self.page_bytes,
        }


def step_count(request: LabRequest) -> int:
    """How many steps a run has; fewer are done where a codec has nothing to compress."""
    per_pack = 1 + (len(SPEED_THREADS) if request.speed else 0)
    return sum(
        len(request.codecs) * (1 + len(request.zpools) * len(request.frames_of(page)) * per_pack)
        for page in request.page_bytes
    )


def stored_bytes_of(request: LabRequest, files: Sequence[PageFile]) -> int:
    """Bytes of pages that each pool gets; raises UsageError if this machine has no room."""
    stored_bytes = request.stored_bytes
    if stored_bytes is None:
        stored_bytes = max(STORED_BYTES_LEAST, sum(len(file.data) for file in files))
    available_bytes = available_memory_bytes()
    # A pool of pages that do not shrink takes as much as they do.
    if stored_bytes > available_bytes:
        raise UsageError(
            f"a pool for {format_size(stored_bytes)} of pages needs as much memory, "
            f"{human_size(available_bytes)} is available; wanted a smaller --stored"
        )
    return stored_bytes


def run(
    core: LabCore,
    request: LabRequest,
    files: Sequence[PageFile],
    *,
    command_line: Sequence[str],
    on_step: OnStep,
) -> LabResults:
    """Measures all that was asked for. The core notices Ctrl-C in the middle of a step."""
    begun, begun_s = datetime.now(UTC), time.monotonic()
    stored_bytes = stored_bytes_of(request, files)
    codecs: list[CodecResult] = []
    packs: list[PackResult] = []
    speeds: list[SpeedResult] = []
    for page_bytes in request.page_bytes:
        pages = core.pages_of(joined(files, page_bytes), page_bytes)
        for codec in request.codecs:
            on_step(f"{codec} on pages of {format_size(page_bytes)}")
            objects, report = pages.compress(codec.name, codec.level)
            subject = Subject(page_bytes, codec, objects)
            codecs.append(CodecResult.model_validate({**report, **subject.join}))
            if codecs[-1].pages:
                _run_zpools(request, subject, stored_bytes, packs, speeds, on_step)
    return LabResults(
        environment=environment(),
        command_line=tuple(command_line),
        begun=begun.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begun_s, 3),
        seed=request.seed,
        stored_bytes=stored_bytes,
        files=tuple(SourceFile(path=str(file.path), bytes=len(file.data)) for file in files),
        codecs=tuple(codecs),
        packs=tuple(packs),
        speeds=tuple(speeds),
    )


def _run_zpools(  # noqa: PLR0913, PLR0917 -- two lists to fill
    request: LabRequest,
    subject: Subject,
    stored_bytes: int,
    packs: list[PackResult],
    speeds: list[SpeedResult],
    on_step: OnStep,
) -> None:
    for frame_bytes in request.frames_of(subject.page_bytes):
        for zpool in request.zpools:
            what = f"{zpool}, {subject.codec}, {size_name(subject.page_bytes, frame_bytes)}"
            on_step(what)
            report = subject.objects.pack(
                zpool=zpool,
                frame_bytes=frame_bytes,
                stored_bytes=stored_bytes,
                seed=request.seed,
                keeps_dense=request.keep_dense,
            )
            packs.append(PackResult.model_validate({**report, **subject.join}))
            for threads in SPEED_THREADS if request.speed else ():
                on_step(f"{what}, {threads} thread{'s' if threads > 1 else ''}")
                report = subject.objects.speed(
                    zpool=zpool,
                    frame_bytes=frame_bytes,
                    stored_bytes=stored_bytes,
                    threads=threads,
                    cycles=SPEED_CYCLES,
                    seed=request.seed,
                )
                speeds.append(SpeedResult.model_validate({**report, **subject.join}))
