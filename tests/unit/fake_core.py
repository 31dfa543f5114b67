"""A page engine that serves nothing: it holds the descriptors it is given and counts.

For tests of everything around the engine. It keeps the promises of `_core.pyi` on ownership of
descriptors and on memory files, and breaks none that the server relies on. `python -m
tests.unit.fake_core serve ...` is the command `nbdswap` on this engine.
"""

import os
import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from nbdswap import lifecycle
from nbdswap.snapshots import CoreSnapshot, ExportSnapshot, PageCounts, StoreSnapshot
from nbdswap.succession import memory_files

if TYPE_CHECKING:
    from nbdswap._core import ExportSpec, HandedOver, Incident, OpenReport

ZPOOLS = ("zfit", "zsmalloc")
OPERATIONS = ("read", "write", "flush", "trim", "cache", "write_zeroes", "block_status")


class FakeCore:
    """See the head of the file. `opened_with` are the arguments of `open`."""

    settle_fails = False

    def __init__(self, opened_with: dict[str, Any], *, adopted: bool) -> None:
        self.opened_with = opened_with
        self.adopted = adopted
        self.started = False
        self.settled = 0
        self.closed_forgetting: bool | None = None
        self.detach_deadlines_s: list[float] = []
        self.detach_may_end = threading.Event()
        self.detach_may_end.set()
        self.connections: dict[int, socket.socket] = {}
        self.received: dict[int, bytes] = {}
        self.unsent: dict[int, bytes] = {}
        self.waits_for_store = 0
        self.attached_to: dict[int, str] = {}
        self.refuses_attach = False
        self.pages: dict[str, dict[str, int]] = {}
        self.store_is_silent = False
        self.store_unanswered_s = 0.0
        self.write_budget_left_bytes: int | None = 1 << 30
        self.former_objects = {"zsmalloc": 8}
        self.incidents: list[Incident] = []
        self._ended: list[tuple[int, str]] = []
        self._ended_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._next = 1

    @classmethod
    def open(cls, **arguments: Any) -> "tuple[FakeCore, OpenReport]":
        """Makes the memory files, or takes those that are there."""
        adopted = False
        store = arguments.get("store")
        if store is not None and store["held_fd"] is not None:
            os.close(store["held_fd"])
        if arguments["memory_dir"] is not None:
            files = memory_files(Path(arguments["memory_dir"]), arguments["instance"])
            found = [path.read_text() for path in files if path.is_file()]
            if arguments["adopt"] and "foreign" in found:
                raise OSError(f"{files[1]}: found 7 bytes, wanted 4")
            adopted = bool(arguments["adopt"]) and found == ["fake", "fake"]
            for path in files:
                path.write_text("fake")
        report: OpenReport = {
            "adopted": adopted,
            "reason": "unfinished" if arguments["adopt"] and not adopted else "",
            "pages_adopted": 7 if adopted else 0,
            "pages_lost": 0,
            "recovered": not adopted and any(e["recovered"] for e in arguments["exports"]),
            "pages_recovered": 0,
            "io": "threads" if arguments["store"] else "",
            "io_reason": "",
            "warnings": [],
        }
        return cls(arguments, adopted=adopted), report

    def settle(self) -> None:
        """Counted; fails if told to."""
        self.settled += 1
        if FakeCore.settle_fails:
            raise OSError("the backing file has no room for what is to be kept")

    def start(self) -> None:
        """Once."""
        assert not self.started, "started twice"
        self.started = True

    def thread_ids(self) -> list[int]:
        """It has no threads of its own."""
        return []

    @property
    def ended_fd(self) -> int:
        """Readable while a connection has ended."""
        return self._ended_fd

    def attach(  # noqa: PLR0913 -- the extension's own signature
        self,
        fd: int,
        export: str,
        *,
        structured: bool,
        base_allocation_id: int | None,
        received: bytes,
        unsent: bytes,
    ) -> int:
        """Owns the descriptor from here on, also if it refuses."""
        sock = socket.socket(fileno=fd)
        if self.refuses_attach:
            sock.close()
            raise OSError(108, "the engine is stopping")
        number = self._next
        self._next += 1
        self.connections[number] = sock
        self.received[number] = received
        self.unsent[number] = unsent
        self.attached_to[number] = export
        return number

    def end(self, number: int, reason: str = "") -> None:
        """As if the client had left."""
        self.connections.pop(number).close()
        self._ended.append((number, reason))
        os.eventfd_write(self._ended_fd, 1)

    def end_those_whose_client_left(self) -> None:
        """What a worker does when it reads the end of a stream."""
        for number, sock in list(self.connections.items()):
            if select.select([sock], [], [], 0)[0] and sock.recv(1, socket.MSG_PEEK) == b"":
                self.end(number)

    def take_ended(self) -> list[tuple[int, str]]:
        """Makes `ended_fd` unreadable."""
        if select.select([self._ended_fd], [], [], 0)[0]:
            os.eventfd_read(self._ended_fd)
        ended, self._ended = self._ended, []
        return ended

    def detach_all(self, deadline_s: float) -> None:
        """Waits for the test to let it end; a deadline of 0 does not wait."""
        self.detach_deadlines_s.append(deadline_s)
        if deadline_s == 0:
            self.detach_may_end.set()
        assert self.detach_may_end.wait(30), "the test never let requests finish"
        for number in list(self.connections):
            self.end(number)

    def hand_over(self, deadline_s: float) -> "tuple[list[HandedOver], int]":
        """All but `waits_for_store` of them, each with a byte that was not handled."""
        given = list(self.connections)[: len(self.connections) - self.waits_for_store]
        handed_over: list[HandedOver] = [
            {
                "number": number,
                "fd": self.connections.pop(number).detach(),
                "export": self.attached_to[number],
                "structured": True,
                "base_allocation_id": None,
                "received": b"r",
                "unsent": b"u",
            }
            for number in given
        ]
        return handed_over, self.waits_for_store

    def store_descriptor(self) -> int | None:
        """One of the null device: what it is of does not matter here."""
        return os.open(os.devnull, os.O_RDWR) if self.opened_with["store"] else None

    def set_zpool(self, zpool: str) -> None:
        """All of its 30 objects stay behind."""
        if zpool not in ZPOOLS:
            raise ValueError(f"zpool is {zpool}, wanted one of {', '.join(ZPOOLS)}")
        if zpool != self.opened_with["zpool"]:
            self.former_objects = {self.opened_with["zpool"]: 30}
        self.opened_with["zpool"] = zpool

    def set_codec(self, codec: str, level: int) -> None:
        """For the next snapshot."""
        self.opened_with |= {"codec": codec, "codec_level": level}

    def take_incidents(self) -> "tuple[list[Incident], int]":
        """What the test put into `incidents`."""
        taken, self.incidents = self.incidents, []
        return taken, 0

    def snapshot(self) -> CoreSnapshot:
        """Numbers that are all different from zero, so that a forgotten one shows."""
        opened = self.opened_with
        exports = [self._export(spec) for spec in opened["exports"]]
        return {
            "exports": exports,
            "pool": {
                "zpool": opened["zpool"],
                "former_objects": dict(self.former_objects),
                "codec": opened["codec"],
                "codec_level": opened["codec_level"],
                "frame_bytes": opened["frame_bytes"],
                "limit_bytes": opened["pool_bytes_max"],
                "used_bytes": 40960,
                "used_bytes_max": 49152,
                "huge_bytes": 0,
                "block_bytes": 40000,
                "slot_bytes": 39000,
                "compressed_bytes": 38000,
                "logical_bytes": 122880,
                "objects": 30,
                "codec_pages": {"lz4": 26, "zstd": 1, "none": 2, "repeat": 1},
                "pages_compacted": 4,
                "pages_moved": 3,
                "high_mark_hits": 2,
                "is_stuck": False,
                "rejects": {
                    "pool_full": 5,
                    "compress_poor": 6,
                    "alloc_retry": 7,
                    "decompress_fail": 1,
                },
                "classes": [
                    {
                        "zpool": opened["zpool"],
                        "object_bytes_max": 1360,
                        "block_frames": 1,
                        "block_slots": 3,
                        "blocks": 10,
                        "frames": 10,
                        "slots": 30,
                        "slots_used": 28,
                        "freeable_frames": 2,
                        "fullness": [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 9],
                    }
                ],
            },
            "store": self._store(),
            "table": {"bytes_resident": 8192},
            "fixed_bytes": 1 << 20,
            "connections": {"open": len(self.connections), "accepted_total": 9, "closed_total": 8},
            "workers": [{"polls": 100, "poll_hits": 60, "sleeps": 40, "requests": 300}],
            "latency": [
                {
                    "op": "read",
                    "tier": tier,
                    "bounds_seconds": [0.000001, 0.001],
                    "counts": [2, 3, 1],
                    "sum_seconds": 0.25,
                }
                for tier in ("zero", "same_filled", "pool", "raw", "store")
            ],
        }

    def _export(self, spec: "ExportSpec") -> ExportSnapshot:
        pages: PageCounts = {
            "unwritten": spec["size_bytes"] // self.opened_with["page_bytes"],
            "zero": 0,
            "same_filled": 0,
            "pool": 0,
            "raw": 0,
            "store": 0,
            "lost": 0,
        }
        pages.update(self.pages.get(spec["name"], {}))  # type: ignore[typeddict-item]
        return {
            "name": spec["name"],
            "size_bytes": spec["size_bytes"],
            "pages_total": spec["size_bytes"] // self.opened_with["page_bytes"],
            "pages": pages,
            "requests": {op: 10 + index for index, op in enumerate(OPERATIONS)},
            "bytes": {op: 4096 * (1 + index) for index, op in enumerate(OPERATIONS)},
            "errors": {"write": {"ENOSPC": 3}, "read": {"EIO": 1}},
        }

    def _store(self) -> StoreSnapshot | None:
        spec = self.opened_with["store"]
        if spec is None:
            return None
        return {
            "path": spec["path"],
            "capacity_bytes": spec["capacity_bytes"],
            "used_bytes": 2 << 20,
            "live_bytes": 1 << 20,
            "written_bytes": 3 << 20,
            "read_bytes": 12345,
            "segments_free": 6,
            "segments_suspect": 3,
            "segments_broken": 2,
            "segments_cleaned": 1,
            "records_written": 150,
            "records_read": 11,
            "ahead_spans": 2,
            "ahead_records": 7,
            "ahead_unused_bytes": 4096,
            "pages_written_back": 100,
            "bytes_written_back": 2 << 20,
            "pages_overtaken": 2,
            "pages_cleaned": 50,
            "bytes_cleaned": 50000,
            "segments_by_live_share": list(range(1, 11)),
            "write_budget_left_bytes": self.write_budget_left_bytes,
            "write_budget_waits": 2,
            "over_budget": False,
            "write_errors": 1,
            "read_errors": 2,
            "checksum_errors": 3,
            "discarded_bytes": 1 << 20,
            "fetch_races": 1,
            "degraded": False,
            "silent": self.store_is_silent,
            "unanswered_seconds": self.store_unanswered_s,
            "out_of_space": False,
            "io": "threads",
            "io_reason": "this is a fake",
            "encrypted": spec.get("key") is not None or spec.get("make_key", False),
            "summary_errors": 4,
            "scrub": {
                "segments": 8,
                "segments_done": 6,
                "passes": 2,
                "passed_at": 1_800_000_000.0,
                "bytes": 54321,
                "pages_lost": 2,
                "records_unreadable": 1,
            },
            "durable": {
                "owed_pages": 7,
                "unsynced_pages": 6,
                "segments_held": 5,
                "checkpoints": 4,
                "checkpoints_failed": 3,
                "pages_written_down": 2,
                "syncs_failed": 1,
                "recovered_pages": 9,
                "recovery_seconds": 0.5,
            },
        }

    def close(self, *, forget: bool) -> None:
        """Removes the memory files if told to."""
        if self.closed_forgetting is not None:
            return
        self.closed_forgetting = forget
        for sock in self.connections.values():
            sock.close()
        os.close(self._ended_fd)
        opened = self.opened_with
        if forget and opened["memory_dir"] is not None:
            for path in memory_files(Path(opened["memory_dir"]), opened["instance"]):
                path.unlink()


def fake_exports(*names: str, size_bytes: int = 1 << 20) -> "Sequence[ExportSpec]":
    """Specs with no surprise in them."""
    return [
        {"name": name, "size_bytes": size_bytes, "read_only": False, "lost": False}
        for name in names
    ]


def main() -> None:
    """The command `nbdswap` on a fake engine."""
    from nbdswap.cli import main as nbdswap_main

    with mock.patch.object(lifecycle, "core_of_extension", return_value=FakeCore.open):
        nbdswap_main()


if __name__ == "__main__":
    main()
