"""The status of a running server as plain JSON values: what `/status` says and `status` shows.

A stable subset of the snapshot under stable names. Not here: how it looks (`status_view`).
"""

from dataclasses import asdict
from typing import Any

from nbdswap.snapshots import CoreSnapshot, Snapshot, StoreSnapshot, write_amplification

FORMAT = 1


def hints_of(core: CoreSnapshot) -> list[str]:
    """What an operator should act on, a sentence each."""
    hints = []
    pool, store = core["pool"], core["store"]
    if store is not None and store["degraded"]:
        hints.append(
            f"the last write to {store['path']} failed: nothing is written back until one "
            "succeeds; look at the disk and at the log"
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


def _store(store: StoreSnapshot | None) -> dict[str, Any] | None:
    if store is None:
        return None
    return {**store, "write_amplification": round(write_amplification(store), 3)}


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
        "hints": hints_of(core),
        "exports": core["exports"],
        "pool": core["pool"],
        "store": _store(core["store"]),
        "memory": {
            "pool_used_bytes": core["pool"]["used_bytes"],
            "table_resident_bytes": core["table"]["bytes_resident"],
            "fixed_bytes": core["fixed_bytes"],
        },
    }
