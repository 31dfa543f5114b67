"""On what file system a directory is, by the kernel's list of mounts."""

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def file_system(directory: Path) -> str | None:
    """Its type, such as `tmpfs`; None: there is no such directory, or it is on no listed device."""
    try:
        device = directory.stat().st_dev
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2] == number:
            return file_system.split()[0]
    return None
