"""Questions to this machine that no configuration file can answer: is there room, is it there?

Asked before any state is touched. What cannot work raises; what may fail later is a warning.
"""

import os
import sys
from pathlib import Path

from nbdswap.config import Config
from nbdswap.errors import ConfigError, RefusedError, UpgradeError
from nbdswap.handover import Predecessor
from nbdswap.hugetlbfs import HugePages, huge_pages
from nbdswap.mounts import file_system
from nbdswap.state import State
from nbdswap.store_key import makes_key, memory_key_file
from nbdswap.succession import memory_files, misfit
from nbdswap.units import human_size

# As the engine builds the page table.
PAGE_ENTRY_BYTES = 8
TABLE_HEADER_BYTES = 4096
NO_UPGRADE = "needs a stop and a start, with swap off"


def check_room(config: Config, instance_before: int | None, *, populate: bool) -> list[str]:
    """Warnings; raises RefusedError if the pool or the store has no place to be, and ConfigError if
    that of the pool is not memory.

    `instance_before` names memory files that will be adopted or removed: what they take is ours.
    `populate`: the page table is taken whole at start, too.
    """
    warnings = []
    if config.memory_dir is not None:
        huge = huge_pages(config.memory_dir)
        if huge is None:
            _check_memory(config, config.memory_dir, instance_before, populate=populate)
        else:
            warnings += _check_huge_pages(
                config, config.memory_dir, huge, instance_before, populate=populate
            )
    if config.store.path is not None:
        warnings += _check_store(config, config.store.path)
    return warnings


def check_succession(config: Config, predecessor: Predecessor, previous: State | None) -> None:
    """Raises UpgradeError if a server with this configuration would lose what that one has.

    `previous`: of the state directory, which both share.
    """
    pool = config.pool
    kept: list[tuple[str, object, object]] = [
        ("state_dir", predecessor.state_dir, str(config.state_dir)),
        ("pool.bytes_max", predecessor.pool_bytes_max, pool.bytes_max),
        ("pool.frame_bytes", predecessor.frame_bytes, pool.frame_bytes),
    ]
    if predecessor.store is not None:
        store = config.store
        kept += [
            ("store.path", predecessor.store.path, str(store.path or "none")),
            ("store.segment_bytes", predecessor.store.segment_bytes, store.segment_bytes),
            ("store.encryption", predecessor.store.encryption, store.encryption),
        ]
        if store.encryption == "on":
            kept.append(("store.key", predecessor.store.key, store.key))
    for key, was, now in kept:
        if was != now:
            raise UpgradeError(f"{key} was changed from {was} to {now}, which {NO_UPGRADE}")
    reason = misfit(previous, config) if previous is not None else ""
    if reason:
        raise UpgradeError(f"{reason}, which {NO_UPGRADE}")
    if predecessor.store is not None:
        was_bytes, now_bytes = predecessor.store.capacity_bytes, config.store.capacity_bytes
        if now_bytes < was_bytes:
            problem = f"store.capacity_bytes was cut from {was_bytes} to {now_bytes}"
            raise UpgradeError(f"{problem}, which {NO_UPGRADE}")


def check_pidfile(path: Path) -> None:
    """Raises RefusedError where no file can be written, long before one is."""
    if path.is_dir():
        raise RefusedError(f"pidfile {path} is a directory, wanted a file")
    _free_bytes(path.absolute().parent, "directory of pidfile")


def _check_memory(
    config: Config, memory_dir: Path, instance_before: int | None, *, populate: bool
) -> None:
    free_bytes = _free_bytes(memory_dir, "memory_dir")
    # Not ramfs either: it cannot set memory aside for a file (fallocate).
    found = file_system(memory_dir)
    if found != "tmpfs":
        raise ConfigError(
            "memory_dir",
            f"{memory_dir} is on {found or 'an unknown file system'}, wanted tmpfs or hugetlbfs: "
            "anywhere else the pool would be on a disk, not in memory, and outlive a reboot",
        )
    if instance_before is not None:
        for path in memory_files(memory_dir, instance_before):
            free_bytes += _taken_bytes(path)
    table_bytes = _table_bytes(config) if populate else 0
    if config.pool.bytes_max + table_bytes > free_bytes:
        table = f" and the page table {human_size(table_bytes)}" if populate else ""
        raise RefusedError(
            f"pool.bytes_max is {human_size(config.pool.bytes_max)}{table}, but only "
            f"{human_size(free_bytes)} are free in memory_dir {memory_dir}: make the pool smaller "
            f"or the tmpfs larger (mount -o remount,size=... {memory_dir})"
        )


def _check_huge_pages(
    config: Config,
    memory_dir: Path,
    huge: HugePages,
    instance_before: int | None,
    *,
    populate: bool,
) -> list[str]:
    """On hugetlbfs: what must be there at start, and what may be wanted later."""
    free_bytes = huge.free_bytes
    if instance_before is not None:
        files = [*memory_files(memory_dir, instance_before)]
        files.append(memory_key_file(memory_dir, instance_before))
        free_bytes += sum(map(_taken_bytes, files))
    pool_bytes = config.pool.bytes_max // huge.page_bytes * huge.page_bytes
    # Of each file that grows on demand, the head.
    table_bytes = huge.whole(_table_bytes(config)) if populate else huge.page_bytes
    key_bytes = huge.page_bytes if makes_key(config) else 0
    at_start = table_bytes + key_bytes + (pool_bytes if populate else huge.page_bytes)
    found = f"{human_size(free_bytes)} of huge pages are free for memory_dir {memory_dir}"
    cure = f"make the pool smaller or write a larger number to {huge.setting}"
    if at_start > free_bytes:
        raise RefusedError(
            f"pool, page table and key take {human_size(at_start)} at start, but only {found}: "
            f"{cure}"
        )
    if table_bytes + key_bytes + pool_bytes > free_bytes:
        wanted = f"pool.bytes_max is {human_size(config.pool.bytes_max)}"
        return [f"{wanted}, but only {found}: writes may fail before the pool is full; {cure}"]
    return []


def _table_bytes(config: Config) -> int:
    pages = sum(export.size_bytes // config.page_bytes for export in config.exports)
    return TABLE_HEADER_BYTES + PAGE_ENTRY_BYTES * pages


def _check_store(config: Config, path: Path) -> list[str]:
    if path.is_dir():
        raise RefusedError(f"store.path {path} is a directory, wanted a file or block device")
    if path.is_block_device():
        return []
    # The default path is in state_dir, which exists by now.
    what = "directory of store.path"
    free_bytes = _free_bytes(path.parent, what, has_file=path.exists()) + _taken_bytes(path)
    if config.store.capacity_bytes <= free_bytes:
        return []
    found = f"{human_size(free_bytes)} are free for {path}"
    wanted = f"store.capacity_bytes is {human_size(config.store.capacity_bytes)}"
    return [f"{wanted}, but only {found}: writes may fail before the store is full"]


def _free_bytes(directory: Path, what: str, *, has_file: bool = False) -> int:
    """`has_file`: nothing is to be made there, so that it may be read-only."""
    if not directory.is_dir():
        raise RefusedError(f"{what} {directory} is not a directory")
    if not has_file and not os.access(directory, os.W_OK | os.X_OK):
        raise RefusedError(f"{what} {directory} is not writable")
    status = os.statvfs(directory)
    if status.f_blocks == 0:
        # Without a limit a file system of memory says 0 of everything.
        return sys.maxsize
    return status.f_bavail * status.f_frsize


def _taken_bytes(path: Path) -> int:
    try:
        # st_blocks counts 512 bytes whatever the file system's unit.
        return path.stat().st_blocks * 512
    except OSError:
        return 0
