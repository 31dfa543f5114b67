"""Questions to this machine that no configuration file can answer: is there room, is it there?

Asked before any state is touched. What cannot work raises; what may fail later is a warning.
"""

import os
from pathlib import Path

from nbdswap.config import Config
from nbdswap.errors import RefusedError
from nbdswap.succession import memory_files
from nbdswap.units import human_size

# As the engine builds the page table.
PAGE_ENTRY_BYTES = 8
TABLE_HEADER_BYTES = 4096


def check_room(config: Config, instance_before: int | None, *, populate: bool) -> list[str]:
    """Warnings; raises RefusedError if the pool or the store has no place to be.

    `instance_before` names memory files that will be adopted or removed: what they take is ours.
    `populate`: the page table is taken whole at start, too.
    """
    if config.memory_dir is not None:
        _check_memory(config, config.memory_dir, instance_before, populate=populate)
    return [] if config.store.path is None else _check_store(config, config.store.path)


def check_pidfile(path: Path) -> None:
    """Raises RefusedError where no file can be written, long before one is."""
    if path.is_dir():
        raise RefusedError(f"pidfile {path} is a directory, wanted a file")
    _free_bytes(path.absolute().parent, "directory of pidfile")


def _check_memory(
    config: Config, memory_dir: Path, instance_before: int | None, *, populate: bool
) -> None:
    free_bytes = _free_bytes(memory_dir, "memory_dir")
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


def _table_bytes(config: Config) -> int:
    pages = sum(export.size_bytes // config.page_bytes for export in config.exports)
    return TABLE_HEADER_BYTES + PAGE_ENTRY_BYTES * pages


def _check_store(config: Config, path: Path) -> list[str]:
    if path.is_dir():
        raise RefusedError(f"store.path {path} is a directory, wanted a file or block device")
    if path.is_block_device():
        return []
    # The default path is in state_dir, which exists by now.
    free_bytes = _free_bytes(path.parent, "directory of store.path") + _taken_bytes(path)
    if config.store.capacity_bytes <= free_bytes:
        return []
    found = f"{human_size(free_bytes)} are free for {path}"
    wanted = f"store.capacity_bytes is {human_size(config.store.capacity_bytes)}"
    return [f"{wanted}, but only {found}: writes may fail before the store is full"]


def _free_bytes(directory: Path, what: str) -> int:
    if not directory.is_dir():
        raise RefusedError(f"{what} {directory} is not a directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RefusedError(f"{what} {directory} is not writable")
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _taken_bytes(path: Path) -> int:
    try:
        # st_blocks counts 512 bytes whatever the file system's unit.
        return path.stat().st_blocks * 512
    except OSError:
        return 0
