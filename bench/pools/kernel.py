"""Measures the kernel's zram with the pages that our zpools get, where there is one.

Not here: the device and its phases (zram.py). Needs root.
"""

import os
from collections.abc import Sequence

import plan
import zram
from nbdswap.lab.environment import environment
from nbdswap.lab.pages import PageFile, joined
from results import Kernel, KernelHeld, KernelRun


def missing() -> str:
    """Why there is nothing to measure here, or nothing."""
    if os.geteuid() != 0:
        return "only root can make a zram device"
    if not zram.CONTROL.is_dir():
        return f"this kernel has no zram: there is no {zram.CONTROL}"
    return ""


def measure(
    files: Sequence[PageFile], stored_mib: Sequence[int], seed: int, say: plan.Say
) -> Kernel:
    """Every codec of zram with every size."""
    data = joined(files, zram.PAGE_BYTES)
    pages = [data[at : at + zram.PAGE_BYTES] for at in range(0, len(data), zram.PAGE_BYTES)]
    runs = []
    for codec in zram.CODECS:
        for mib in stored_mib:
            say(f"zram, {codec}, {mib} MiB")
            runs.append(_run(codec, pages, mib * plan.MIB // zram.PAGE_BYTES, seed))
    return Kernel(kernel=environment().kernel, seed=seed, runs=tuple(runs))


def _run(codec: str, pages: Sequence[bytes], slots: int, seed: int) -> KernelRun:
    stored_bytes = slots * zram.PAGE_BYTES
    phases = {}
    with zram.device(codec, stored_bytes) as device:
        for name, found in zram.Run(device, pages, slots, seed).phases():
            phases[name] = KernelHeld(*(found[field] for field in KernelHeld._fields))
    return KernelRun(codec=codec, stored_bytes=stored_bytes, phases=phases)
