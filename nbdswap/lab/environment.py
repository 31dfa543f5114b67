"""The facts about this machine that a result depends on."""

import os
import platform
from pathlib import Path

from nbdswap import __version__

from .results import Environment

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")


def environment() -> Environment:
    """Versions and machine."""
    return Environment(
        nbdswap=__version__,
        python=platform.python_version(),
        kernel=f"{platform.system()} {platform.release()}",
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def available_memory_bytes() -> int:
    """What can be taken without pushing anybody out."""
    for line in MEMINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _cpu_model() -> str:
    for line in CPUINFO.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "cpu model"}:
            return value.strip()
    # Arm names its parts by number only.
    return platform.processor() or platform.machine()
