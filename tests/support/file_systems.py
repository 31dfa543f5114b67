"""Small file systems of a test's own, to be filled up. They need the right to mount."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


@contextmanager
def mounted(kind: str, size_bytes: int, directory: Path) -> Iterator[Path]:
    """An empty file system, `tmpfs`, `hugetlbfs` or `ext4` in a file; skips the test where none is
    permitted."""
    place = directory / kind
    place.mkdir()
    if kind in ("tmpfs", "hugetlbfs"):
        command = ["mount", "-t", kind, "-o", f"size={size_bytes}", "nbdswap-test", str(place)]
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        # Nothing is kept for root, whom these tests run as.
        _run(["mkfs.ext4", "-q", "-m", "0", str(image)])
        command = ["mount", "-t", kind, "-o", "loop", str(image), str(place)]
    _run(command)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def huge_pages(size_bytes: int) -> Iterator[int]:
    """Has the kernel set so many bytes of huge pages aside, and gives the size of one; skips the
    test where that is not permitted or the memory is too scattered."""
    meminfo = {
        name: int(value.split()[0])
        for name, _, value in (
            line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines()
        )
    }
    page_bytes = meminfo.get("Hugepagesize", 0) << 10
    if not page_bytes:
        pytest.skip("this kernel has no huge pages")
    before = meminfo["HugePages_Total"]
    lacking = size_bytes // page_bytes - meminfo["HugePages_Free"] + meminfo["HugePages_Rsvd"]
    wanted = before + max(0, lacking)
    try:
        _HUGE_PAGES.write_text(str(wanted))
    except OSError as error:
        pytest.skip(f"no huge pages can be set aside here: {error}")
    try:
        if int(_HUGE_PAGES.read_text()) < wanted:
            pytest.skip(f"the kernel did not find {wanted} huge pages")
        yield page_bytes
    finally:
        _HUGE_PAGES.write_text(str(before))


class CutOffDisk:
    """An ext4 that can be cut off its disk, as loss of power does: what was not synced is gone,
    names of files too. What the disk itself would lose from its cache stays."""

    # EXT4_IOC_SHUTDOWN and, for it, "do not even write the journal".
    _SHUTDOWN = 0x8004587D
    _NO_LOG_FLUSH = 2

    def __init__(self, size_bytes: int, directory: Path) -> None:
        self._image = directory / "image"
        self.path = directory / "ext4"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        _run(["mkfs.ext4", "-q", "-m", "0", str(self._image)])
        self._mount()

    def _mount(self) -> None:
        _run(["mount", "-t", "ext4", "-o", "loop", str(self._image), str(self.path)])

    def cut_off(self) -> None:
        """From now on everything fails."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, self._SHUTDOWN, struct.pack("I", self._NO_LOG_FLUSH))
        except OSError as error:
            pytest.skip(f"the file system cannot be cut off: {error}")
        finally:
            os.close(fd)

    def come_back(self) -> None:
        """Nobody has a file of it open."""
        self.close()
        self._mount()

    def close(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if result.returncode != 0:
        pytest.skip(f"{command[0]} is not permitted here: {result.stderr.strip()}")


def fill(path: Path) -> int:
    """Writes a file until its file system is full, to the last block; the bytes that fitted."""
    written = 0
    with path.open("wb", buffering=0) as file:
        for piece_bytes in (1 << 20, 4096):
            piece = bytes(piece_bytes)
            while True:
                try:
                    count = file.write(piece)
                except OSError:
                    break
                written += count
    return written
