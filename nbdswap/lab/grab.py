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
from .sampling import GROUP_BYTES, RUN_BYTES_LEAST, Survey, choose, survey


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
            raise RefusedError(
                f"{process} has {human_size(found.resident_bytes)} of private anonymous memory, "
                f"wanted at least {format_size(RUN_BYTES_LEAST)} in one piece"
            )
        taken_bytes = vanished_bytes = 0

        def write(file: IO[bytes]) -> None:
            nonlocal taken_bytes, vanished_bytes
            for run in choose(found.runs, request.size_bytes, request.seed):
                left = run.bytes
                if request.size_bytes is not None:
                    # What has vanished was asked for too: it counts as read.
                    asked = taken_bytes + vanished_bytes
                    left = min(left, (request.size_bytes - asked) // GROUP_BYTES * GROUP_BYTES)
                if left <= 0:
                    break
                data = process.read(run.address, left)
                data = data[: len(data) // GROUP_BYTES * GROUP_BYTES]
                taken_bytes += len(data)
                vanished_bytes += left - len(data)
                file.write(data)
            if not process.is_alive():
                raise RefusedError(f"{process} ended meanwhile; nothing is left")

        write_whole(path, write, mode=PRIVATE_MODE, overwrite=request.force)
        return Grabbed(str(process), path, taken_bytes, process.page_bytes, vanished_bytes, found)


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
