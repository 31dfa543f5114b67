"""The status of a running server as plain JSON values: what `/status` says and `status` shows.

A stable subset of the snapshot under stable names. Not here: how it looks (`status_view`).
"""

from typing import Any

from nbdswap.snapshots import Snapshot

FORMAT = 1


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
        "exports": core["exports"],
        "pool": core["pool"],
        "store": core["store"],
        "memory": {
            "pool_used_bytes": core["pool"]["used_bytes"],
            "table_resident_bytes": core["table"]["bytes_resident"],
            "fixed_bytes": core["fixed_bytes"],
        },
    }
