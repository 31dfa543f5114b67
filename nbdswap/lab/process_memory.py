"""The memory of another process, as /proc shows it: mappings, which pages are there, their bytes.

The kernel decides who may look (the right to ptrace). The process is not stopped and not asked.
Not here: which pages to take (`sampling`).
"""

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nbdswap.errors import NotPermittedError, UsageError

PROC = Path("/proc")
NO_MEMORY = "has no memory of its own: it is a thread of the kernel or has ended"
CAP_SYS_PTRACE = 1 << 19
YAMA = PROC / "sys/kernel/yama/ptrace_scope"
YAMA_MEANINGS = {
    1: "only parents may",
    2: "only CAP_SYS_PTRACE helps",
    3: "nobody may, until the next boot",
}

PAGEMAP_ENTRY_BYTES = 8
PAGEMAP_CHUNK_ENTRIES = 1 << 16
PRESENT = 1 << 63
FILE_OR_SHARED = 1 << 61
# Anonymous to the kernel's list of mappings, but no memory of the process.
KERNEL_AREAS = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    inode: int
    name: str

    @property
    def kind(self) -> str:
        """`anonymous` is what swap takes; everything else goes to where it came from."""
        if self.name in KERNEL_AREAS:
            return "kernel"
        if self.permissions[3] == "s":
            return "shared"
        return "file-backed" if self.inode or self.name.startswith("/") else "anonymous"

    @classmethod
    def parse(cls, line: str) -> Self:
        """One line, as proc(5) describes it."""
        addresses, permissions, _offset, _device, inode, *name = line.split(maxsplit=5)
        start, _, end = addresses.partition("-")
        text = name[0].strip() if name else ""
        return cls(int(start, 16), int(end, 16), permissions, int(inode), text)


class ProcessMemory:
    """An open process; use it in a `with`. The descriptors stay on this process whatever becomes
    of its number: a later process with the same one is never read."""

    def __init__(self, pid: int) -> None:
        """Raises UsageError or NotPermittedError."""
        directory = PROC / str(pid)
        if pid == os.getpid():
            raise UsageError(f"process {pid} is this very command, wanted another process")
        try:
            self.name = (directory / "comm").read_text(errors="replace").strip()
        except OSError:
            raise UsageError(f"process {pid}: there is none, wanted one that runs") from None
        self.pid = pid
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._descriptors: dict[str, int] = {}
        try:
            self._descriptors[""] = process = os.open(directory, os.O_PATH)
            for name in ("maps", "pagemap", "mem"):
                self._descriptors[name] = os.open(name, os.O_RDONLY, dir_fd=process)
            self.mappings = tuple(self._read_mappings())
        except OSError as error:
            self.close()
            raise self._refusal(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"

    def close(self) -> None:
        """Lets go of the process."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def swappable_pages(self, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
        """For chunks of a mapping: the address, and 1 for each page that is there, else 0.

        There is: resident, and neither a page of a file nor of shared memory. Pages that a fork
        shares until somebody writes are there.
        """
        first = mapping.start // self.page_bytes
        count = (mapping.end - mapping.start) // self.page_bytes
        for at in range(0, count, PAGEMAP_CHUNK_ENTRIES):
            entries = min(PAGEMAP_CHUNK_ENTRIES, count - at)
            raw = os.pread(
                self._descriptors["pagemap"],
                entries * PAGEMAP_ENTRY_BYTES,
                (first + at) * PAGEMAP_ENTRY_BYTES,
            )
            words = array("Q", raw[: len(raw) // PAGEMAP_ENTRY_BYTES * PAGEMAP_ENTRY_BYTES])
            mask = PRESENT | FILE_OR_SHARED
            there = bytes(word & mask == PRESENT for word in words)
            yield mapping.start + at * self.page_bytes, there

    def read(self, address: int, size_bytes: int) -> bytes:
        """What is there now; less, or nothing, if the mapping is gone or the process has ended."""
        chunks = []
        while size_bytes:
            try:
                chunk = os.pread(self._descriptors["mem"], size_bytes, address)
            except OSError:
                break
            if not chunk:
                break
            chunks.append(chunk)
            address, size_bytes = address + len(chunk), size_bytes - len(chunk)
        return b"".join(chunks)

    def is_alive(self) -> bool:
        """Whether it still has memory. One that has ended has no mappings."""
        with suppress(OSError):
            return bool(os.pread(self._descriptors["maps"], 1, 0))
        return False

    def _read_mappings(self) -> list[Mapping]:
        text = bytearray()
        # The kernel gives whole lines, a page at a time.
        while chunk := os.read(self._descriptors["maps"], 1 << 16):
            text += chunk
        lines = os.fsdecode(bytes(text)).splitlines()
        if not lines:
            raise UsageError(f"{self} {NO_MEMORY}")
        return [Mapping.parse(line) for line in lines]

    def _refusal(self, error: OSError) -> Exception:
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            # The kernel says "no such process" of its own threads too.
            return UsageError(f"{self} {NO_MEMORY}")
        if not isinstance(error, PermissionError):
            return UsageError(f"{self} cannot be read: {error.strerror}")
        wanted = (
            "CAP_SYS_PTRACE is not enough: a security module or a container protects it"
            if has_ptrace_capability()
            else f"wanted its user, root, or CAP_SYS_PTRACE{_yama()}"
        )
        return NotPermittedError(f"{self} may not be read: {error.strerror}; {wanted}")


def has_ptrace_capability() -> bool:
    """Whether this very process may read others by that right."""
    for line in (PROC / "self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & CAP_SYS_PTRACE)
    return False


def _yama() -> str:
    """What the system adds to the usual rule."""
    with suppress(OSError, ValueError):
        scope = int(YAMA.read_text())
        if scope in YAMA_MEANINGS:
            return f"; kernel.yama.ptrace_scope is {scope}: {YAMA_MEANINGS[scope]}"
    return ""
