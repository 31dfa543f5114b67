"""A cpio archive in the "newc" format, which the kernel unpacks as its first file system.

Written by hand so that device nodes need no root.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

_END = "TRAILER!!!"


class Archive:
    """Collects files; parents are added as they are needed, names that are there are kept."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._names: set[str] = set()

    def add_directory(self, name: str) -> None:
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, data)

    def copy(self, name: str, path: Path, mode: int = 0o755) -> None:
        self.add_file(name, path.read_bytes(), mode)

    def add_link(self, name: str, target: str) -> None:
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_device(self, name: str, major: int, minor: int) -> None:
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def finish(self) -> bytes:
        """The whole archive; nothing can be added afterwards."""
        self._entry(_END, 0, b"", (0, 0))
        self._pad(512)
        return bytes(self._bytes)

    def _add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = name.strip("/")
        if name in self._names:
            return
        self._names.add(name)
        parent = str(PurePosixPath(name).parent)
        if parent != ".":
            self.add_directory(parent)
        self._entry(name, mode, data, device)

    def _entry(self, name: str, mode: int, data: bytes, device: tuple[int, int]) -> None:
        encoded = name.encode() + b"\0"
        inode = len(self._names)
        # inode, mode, uid, gid, links, mtime, size, device, device of the node, name's size, sum
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        self._bytes += b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
        self._pad(4)
        self._bytes += data
        self._pad(4)

    def _pad(self, unit: int) -> None:
        self._bytes += bytes(-len(self._bytes) % unit)
