"""Pages from files: raw, or packed by xz.

Not here: pages from processes (`grab`).
"""

import lzma
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbdswap.errors import UsageError
from nbdswap.units import format_size, human_size

XZ_SUFFIX = ".xz"
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PageFile:
    """The content of one file."""

    path: Path
    data: bytes


def read_files(
    paths: Sequence[Path], *, page_bytes_least: int, memory_bytes: int
) -> tuple[PageFile, ...]:
    """All files, each with a whole page at least; raises UsageError.

    page_bytes_least: of such a page. memory_bytes: what they may take together. A file that is
    named twice counts twice.
    """
    files = []
    left_bytes = memory_bytes
    for path in paths:
        data = _read(path, left_bytes)
        if len(data) < page_bytes_least:
            page = format_size(page_bytes_least)
            found = f"{len(data):,} bytes" if data else "empty"
            raise UsageError(f"{path}: {found}, wanted at least one page of {page}")
        left_bytes -= len(data)
        files.append(PageFile(path, data))
    return tuple(files)


def joined(files: Sequence[PageFile], page_bytes: int) -> bytes:
    """All whole pages: a rest at the end of one file must not shift the pages of the next."""
    return b"".join(file.data[: len(file.data) // page_bytes * page_bytes] for file in files)


def left_out(files: Sequence[PageFile], page_sizes: Sequence[int]) -> Iterator[str]:
    """A line for each file and page size that `joined` leaves something out of."""
    for file in files:
        for page_bytes in page_sizes:
            if rest := len(file.data) % page_bytes:
                no_page = f"no whole page of {format_size(page_bytes)}"
                yield f"{file.path}: {rest:,} bytes at its end, {no_page}, are left out"


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        # A device or a pipe may have no end, and a page file is neither.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "no regular file"
            raise UsageError(f"{path}: {kind}, wanted a file of pages")
        packed = path.name.endswith(XZ_SUFFIX)
        chunks, size_bytes = [], 0
        with lzma.open(path) if packed else path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                size_bytes += len(chunk)
                if size_bytes > bytes_max:
                    room = human_size(bytes_max)
                    raise UsageError(f"{path}: more than {room}, which is all the room there is")
                chunks.append(chunk)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (lzma.LZMAError, EOFError) as error:
        raise UsageError(f"{path}: cannot be unpacked: {error}") from None
    return b"".join(chunks)
