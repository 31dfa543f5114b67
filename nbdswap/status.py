"""The status of a running server as plain JSON values: what `/status` says and `status` shows.

A stable subset of the snapshot under stable names. Not here: how it looks (`status_view`).
"""

from dataclasses import asdict
from typing import Any

from nbdswap.snapshots import (
    CoreSnapshot,
    RoomSnapshot,
    Snapshot,
    StoreSnapshot,
    write_amplification,
)
from nbdswap.units import human_size

FORMAT = 1


def hints_of(snapshot: Snapshot) -> list[str]:
    """What an operator should act on, a sentence each."""
    return _hints_of_core(snapshot.core) + _hints_of_troubles(snapshot)


def _hints_of_troubles(snapshot: Snapshot) -> list[str]:
    """What has a threshold."""
    server, store = snapshot.server, snapshot.core["store"]
    troubles, room = server.troubles, server.room
    hints = []
    if store is not None and troubles.get("store_nearly_full"):
        hints.append(
            f"{human_size(store['live_bytes'])} of the {human_size(store['capacity_bytes'])} of "
            f"{store['path']} are in use by pages: raise store.capacity_bytes, or let clients "
            "swap less"
        )
    if store is not None and room is not None and troubles.get("file_system_nearly_full"):
        hints.append(
            f"the file system of {store['path']} has {human_size(room.free_bytes)} left, and the "
            f"file may still grow by {human_size(room.growth_bytes)}: make room, or set "
            "store.preallocate"
        )
    return hints


def _hints_of_core(core: CoreSnapshot) -> list[str]:
    hints = []
    pool, store = core["pool"], core["store"]
    if store is not None and store["silent"]:
        hints.append(
            f"{store['path']} does not answer: pages in it cannot be read until it does; look at "
            "the disk and at the kernel's log"
        )
    if store is not None and store["degraded"]:
        cure = (
            "its file system is full; make room"
            if store["out_of_space"]
            else "look at the disk and at the kernel's log"
        )
        hints.append(
            f"{store['path']} cannot be written, so that nothing is written back: {cure}. It is "
            "tried again by itself"
        )
    if store is not None and store["over_budget"]:
        hints.append(
            "the bytes that may be written to the store are used up: nothing is written back until "
            "time allows more; raise store.write_bytes_per_day_max, or let clients swap less"
        )
    if pool["is_stuck"]:
        cure = "there is no store" if store is None else "the store has no room, fails or may not"
        hints.append(
            f"the pool is full and nothing can be written back, {cure}: writes are refused with "
            "ENOSPC until pages are discarded"
        )
    for export in core["exports"]:
        if export["pages"]["lost"]:
            hints.append(
                f"export {export['name']} has lost {export['pages']['lost']} pages: reading them "
                "fails until they are written or discarded"
            )
    return hints


def _store(store: StoreSnapshot | None, room: RoomSnapshot | None) -> dict[str, Any] | None:
    if store is None:
        return None
    return {
        **store,
        "write_amplification": round(write_amplification(store), 3),
        "room": None if room is None else asdict(room),
    }


def status_of(snapshot: Snapshot) -> dict[str, Any]:
    """Everything that an operator asks for, as values that JSON knows."""
    core, server = snapshot.core, snapshot.server
    return {
        "format": FORMAT,
        "version": server.version,
        "ready": server.ready and not server.stopping,
        "stopping": server.stopping,
        "uptime_seconds": round(server.uptime_seconds, 3),
        "generation": server.generation,
        "hardening": server.hardening,
        "connections": {
            **core["connections"],
            "handshakes_open": server.handshakes_open,
            "handshakes_failed_total": server.handshakes_failed_total,
            "refused_total": server.connections_refused_total,
        },
        "upgrades": asdict(server.upgrades),
        "hints": hints_of(snapshot),
        "troubles": server.troubles,
        "exports": core["exports"],
        "pool": core["pool"],
        "store": _store(core["store"], server.room),
        "memory": {
            "pool_used_bytes": core["pool"]["used_bytes"],
            "table_resident_bytes": core["table"]["bytes_resident"],
            "fixed_bytes": core["fixed_bytes"],
        },
    }
