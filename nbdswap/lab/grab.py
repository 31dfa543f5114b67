"""Pages of a live process into a file, for the lab.

Never more is read than was asked for. The file is private memory of somebody: mode 0600.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nbdswap.errors import RefusedError, UsageError
from nbdswap.units import format_size, human_size

from .output import PRIVATE_MODE, check_writable, write_whole
from .process_memory import ProcessMemory
from .sampling import GROUP_BYTES, RUN_BYTES_LEAST, Run, Survey, choose, survey


@dataclass(frozen=True, slots=True, kw_only=True)
class GrabRequest:
    """What to take and where to put it."""

    pid: int
    size_bytes: int | None
    """None: everything."""
    seed: int
    out: Path | None
    """None: a name made of the process's, in the current directory."""
    force: bool


@dataclass(frozen=True, slots=True)
class Grabbed:
    """What was done."""

    process: str
    path: Path
    taken_bytes: int
    page_bytes: int
    vanished_bytes: int
    survey: Survey


def check_size(size_bytes: int) -> None:
    """Raises UsageError for a size that holds no run."""
    if size_bytes < RUN_BYTES_LEAST:
        least = format_size(RUN_BYTES_LEAST)
        raise UsageError(f"--size is {format_size(size_bytes)}, wanted at least {least}")


def grab(request: GrabRequest) -> Grabbed:
    """Samples the process; raises UsageError, NotPermittedError or RefusedError."""
    if request.out is not None:
        check_writable(request.out, overwrite=request.force)
    with ProcessMemory(request.pid) as process:
        path = request.out or Path(f"{_file_name(process.name)}-{process.pid}.pages")
        check_writable(path, overwrite=request.force)
        found = survey(process, request.seed)
        if not found.runs:
            _check_alive(process)
            raise RefusedError(
                f"{process} has {human_size(found.resident_bytes)} of private anonymous memory, "
                f"wanted at least {format_size(RUN_BYTES_LEAST)} in one piece"
            )
        taking = _Taking(process, request.size_bytes)

        def write(file: IO[bytes]) -> None:
            for run in choose(found.runs, request.size_bytes, request.seed):
                if taking.is_enough():
                    break
                file.write(taking.take(run))
            _check_alive(process)
            if not taking.taken_bytes:
                raise RefusedError(f"{process} gave up all that was to be read; nothing is left")

        write_whole(path, write, mode=PRIVATE_MODE, overwrite=request.force)
        return Grabbed(
            str(process), path, taking.taken_bytes, process.page_bytes, taking.vanished_bytes, found
        )


class _Taking:
    """How much was read. What has vanished was asked for too, so it counts."""

    def __init__(self, process: ProcessMemory, size_bytes: int | None) -> None:
        self.process = process
        self.size_bytes = size_bytes
        self.taken_bytes = 0
        self.vanished_bytes = 0

    def is_enough(self) -> bool:
        """Not even one group is left to ask for."""
        return self._left(GROUP_BYTES) < GROUP_BYTES

    def take(self, run: Run) -> bytes:
        """The whole groups of a run that are left and may still be read."""
        wanted = self._left(run.bytes)
        data = self.process.read(run.address, wanted)
        data = data[: len(data) // GROUP_BYTES * GROUP_BYTES]
        self.taken_bytes += len(data)
        self.vanished_bytes += wanted - len(data)
        return data

    def _left(self, size_bytes: int) -> int:
        """As much of it as may be asked for, in whole groups."""
        if self.size_bytes is None:
            return size_bytes
        left = self.size_bytes - self.taken_bytes - self.vanished_bytes
        return min(size_bytes, left // GROUP_BYTES * GROUP_BYTES)


def _check_alive(process: ProcessMemory) -> None:
    if not process.is_alive():
        raise RefusedError(f"{process} ended meanwhile; nothing is left")


def account(grabbed: Grabbed) -> str:
    """What was done, for people."""
    found = grabbed.survey
    others = [f"{count} {kind}" for kind, count in sorted(found.left_out.items())]
    pages = grabbed.taken_bytes // grabbed.page_bytes
    lines = [
        f"{grabbed.process}: {found.mappings} private anonymous mappings, "
        f"{human_size(found.resident_bytes)} of them in memory",
        f"taken: {human_size(grabbed.taken_bytes)}, {pages:,} pages of "
        f"{format_size(grabbed.page_bytes)}, in aligned runs of neighbours; "
        "the process was not stopped",
        f"left out: {human_size(found.not_resident_bytes)} not in memory, "
        f"{human_size(found.scattered_bytes)} in pieces shorter than "
        f"{format_size(RUN_BYTES_LEAST)}; mappings: {', '.join(others) or 'none'}",
    ]
    if grabbed.vanished_bytes:
        lines.append(f"vanished meanwhile: {human_size(grabbed.vanished_bytes)}")
    lines.append(
        f"{grabbed.path} holds that process's private data as it is (mode 0600): "
        "remove it when it has served"
    )
    return "\n".join(lines)


def _file_name(process_name: str) -> str:
    """A process may call itself anything."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", process_name).lstrip(".-") or "process"
