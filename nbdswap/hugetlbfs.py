"""Memory by huge pages: whether a directory is on hugetlbfs, and how many bytes it still has.

Its memory is set aside beforehand (`vm.nr_hugepages`), comes in whole huge pages and is never
swapped out.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nbdswap.mounts import file_system

POOLS = Path("/sys/kernel/mm/hugepages")


@dataclass(frozen=True, slots=True)
class HugePages:
    """Those that files in a directory are made of."""

    page_bytes: int
    free_bytes: int

    @property
    def setting(self) -> Path:
        """Where more are made."""
        return _pool(self.page_bytes) / "nr_hugepages"

    def whole(self, size_bytes: int) -> int:
        """What so many bytes take."""
        return -(-size_bytes // self.page_bytes) * self.page_bytes


def huge_pages(directory: Path) -> HugePages | None:
    """None: the directory is on another file system, or is none."""
    if file_system(directory) != "hugetlbfs":
        return None
    status = os.statvfs(directory)
    page_bytes = status.f_bsize
    free_bytes = page_bytes * _free_count(page_bytes)
    # Without a limit of its own the file system says 0 of everything.
    if status.f_blocks:
        free_bytes = min(free_bytes, page_bytes * status.f_bavail)
    return HugePages(page_bytes, free_bytes)


def _free_count(page_bytes: int) -> int:
    def count(name: str) -> int:
        return int((_pool(page_bytes) / name).read_text(encoding="ascii"))

    # Beyond those that are set aside the kernel may be allowed to make more on demand.
    surplus = max(0, count("nr_overcommit_hugepages") - count("surplus_hugepages"))
    return max(0, count("free_hugepages") - count("resv_hugepages")) + surplus


def _pool(page_bytes: int) -> Path:
    return POOLS / f"hugepages-{page_bytes >> 10}kB"
