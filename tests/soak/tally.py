"""What a soak did and found, and the table at its end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.load import Work

MIB = 1 << 20


@dataclass(slots=True)
class Range:
    """First, last and most of a number that was looked at again and again."""

    first: int | None = None
    last: int = 0
    most: int = 0

    def take(self, value: int) -> None:
        self.first = value if self.first is None else self.first
        self.last = value
        self.most = max(self.most, value)


@dataclass(slots=True)
class Tally:
    """Filled while the soak goes on."""

    work: Work = field(default_factory=Work)
    events: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By the event that was under way."""
    pages_compared: int = 0
    """After a start; those that the load reads come on top."""
    pages_in_doubt: int = 0
    """Of requests under way at a kill: old or new."""
    losses: int = 0
    """Of the host."""
    pages_survived: int = 0
    """After these, of exports that promise it."""
    pages_newer: int = 0
    """Of these, the ones that were newer than what was flushed."""
    pages_refused: int = 0
    """After these, of the other exports: errors, each of them."""
    bytes_flipped: int = 0
    errors_expected: int = 0
    """Pages whose record was damaged, and that answered EIO."""
    resident_bytes: Range = field(default_factory=Range)
    resident_bytes_max: int = 0
    """What the server's documentation allows."""
    descriptors: Range = field(default_factory=Range)
    """While the load is on; as many connections each time."""
    began_s: float = field(default_factory=time.monotonic)

    def look_at(self, pid: int) -> None:
        """Memory and descriptors of the server."""
        status = Path(f"/proc/{pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        self.resident_bytes.take(int(line.split()[1]) * 1024)
        self.descriptors.take(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
        assert self.resident_bytes.last <= self.resident_bytes_max, (
            f"{self.resident_bytes.last >> 20} MiB resident, "
            f"documented are {self.resident_bytes_max >> 20} at most"
        )

    def end_event(self, name: str) -> None:
        """Takes the slowest request of an event."""
        self.events[name] += 1
        nothing = (0.0, "")
        self.slowest[name] = max(self.slowest.get(name, nothing), self.work.slowest)
        self.work.slowest = nothing

    def _slowest(self, name: str) -> str:
        seconds, kind = self.slowest.get(name, (0.0, ""))
        return f"; the slowest request, a {kind}, took {seconds:.2f} s" if kind else ""

    def table(self, title: str, verdict: str) -> str:
        work, resident, fds = self.work, self.resident_bytes, self.descriptors
        requests = ", ".join(f"{count:,} {kind}" for kind, count in work.requests.most_common())
        refused = ", ".join(f"{count:,} {what}" for what, count in sorted(work.refused.items()))
        rows = [
            ("time", f"{(time.monotonic() - self.began_s) / 60:.1f} min"),
            ("requests", f"{work.requests.total():,}: {requests}; {work.fua:,} with FUA"),
            ("bytes", f"{work.bytes_written / MIB:,.0f} MiB written, "
                      f"{work.bytes_read / MIB:,.0f} MiB read and compared"),
            *((name, f"{count}{self._slowest(name)}")
              for name, count in sorted(self.events.items())),
            ("pages compared at starts", f"{self.pages_compared:,}"),
            ("pages in doubt at kills", f"{self.pages_in_doubt:,}, each found old or new"),
            ("after losses of the host", f"{self.losses}: {self.pages_survived:,} pages as flushed "
                                         f"or later ({self.pages_newer:,} later), "
                                         f"{self.pages_refused:,} pages of other exports EIO"),
            ("refused in trouble", f"{work.refused.total():,}: {refused or 'none'}"),
            ("errors expected", f"{self.errors_expected} pages EIO, of {self.bytes_flipped} bytes "
                                "flipped in the backing file"),
            ("errors not expected", "0" if verdict == "good" else verdict),
            ("resident memory", f"{(resident.first or 0) / MIB:.1f} MiB at begin, "
                                f"{resident.last / MIB:.1f} at end, {resident.most / MIB:.1f} "
                                f"most, {self.resident_bytes_max / MIB:.0f} documented"),
            ("descriptors", f"{fds.first} at begin, {fds.last} at end, {fds.most} most"),
            ("verdict", verdict),
        ]  # fmt: skip
        return "\n".join([title, *(f"{name:<36} {value}" for name, value in rows)])
