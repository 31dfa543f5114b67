"""What a guest reported about itself, and whether that is good.

The guest writes lines "GS KEYWORD key=value ..." to its second serial port; its kernel's messages
go to the first. Both count: a run in which every page was right and the kernel saw an I/O error
is not a good run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# Kernel messages that mean that something went wrong even if no page was lost.
_COMPLAINT = re.compile(
    r"BUG:|Oops|Kernel panic|Call Trace|I/O error|[Ww]rite-error on swap|[Rr]ead-error on swap|"
    r"Out of memory|oom-kill|page allocation failure|blocked for more than|general protection|"
    r"Bad swap|unable to read swap|get_swap_device"
)
_SWAP_FLAGS = re.compile(r"Adding \d+k swap on .* (\S+)$", re.MULTILINE)
_LINES_SHOWN = 40
# The numbers of /sys/block/*/stat, but for the last one: it is the time of the flushes.
_DISK_FIELDS = (
    *("reads", "reads_merged", "sectors_read", "read_ms"),
    *("writes", "writes_merged", "sectors_written", "write_ms"),
    *("in_flight", "io_ms", "queue_ms"),
    *("discards", "discards_merged", "sectors_discarded", "discard_ms", "flushes"),
)

Value = int | float | str


def parse_value(text: str) -> Value:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


@dataclass(slots=True)
class Report:
    """Filled line by line while the guest runs; `finish` gives the verdict."""

    seconds: float = 0.0
    phases: list[dict[str, Value]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    events: dict[str, dict[str, Value]] = field(default_factory=dict)
    console: str = ""
    why: str | None = "the guest did not end"

    @property
    def ok(self) -> bool:
        return self.why is None

    @property
    def pages_wrong(self) -> int:
        return sum(int(phase.get("bad", 0)) + int(phase.get("sigbus", 0)) for phase in self.phases)

    @property
    def pages_verified(self) -> int:
        """Pages that a program compared with what it had written, as often as it did."""
        reads = ("verify", "zero", "final", "workset")
        return sum(
            int(phase["ok"]) for phase in self.phases if str(phase["name"]).startswith(reads)
        )

    @property
    def pages_swapped_in(self) -> int:
        return int(self.events.get("vmstat", {}).get("pswpin", 0))

    @property
    def pages_swapped_out(self) -> int:
        return int(self.events.get("vmstat", {}).get("pswpout", 0))

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.console.splitlines() if _COMPLAINT.search(line)]

    def take_line(self, line: str) -> tuple[str, int] | None:
        """Takes one line of the guest; returns (phase, percent) if it tells of progress."""
        tag, _, rest = line.partition(" ")
        keyword, _, text = rest.partition(" ")
        if tag != "GS":
            return None
        values = {
            key: parse_value(value)
            for key, equals, value in (word.partition("=") for word in text.split())
            if equals
        }
        match keyword:
            case "prog":
                return str(values["phase"]), int(values["pct"])
            case "phase":
                self.phases.append(values)
                return str(values["name"]), 100
            case "err" | "warn":
                self.errors.append(text)
            case "diskstat":
                numbers = map(int, text.split("_"))
                self.events[keyword] = dict(zip(_DISK_FIELDS, numbers, strict=False))
            case _:
                self.events.setdefault(keyword, {}).update(values)
        return None

    def finish(self, console: str, why: str | None) -> None:
        """The verdict, from the worst to the mildest reason."""
        self.console = console.replace("\r", "")
        end = self.events.get("end")
        if why:
            self.why = why
        elif self.pages_wrong:
            self.why = f"{self.pages_wrong} pages were wrong or unreadable"
        elif end is None:
            self.why = "the guest stopped without saying so"
        elif end.get("rc") != 0:
            self.why = f"the guest ended with rc={end.get('rc')}: {end.get('why')}"
        elif not (self.pages_swapped_in and self.pages_swapped_out and self.pages_verified):
            self.why = "nothing was swapped"
        elif self.complaints:
            self.why = "the guest's kernel complained"
        else:
            self.why = None

    def summary(self) -> dict[str, Any]:
        """For people and for JSON."""
        flags = _SWAP_FLAGS.search(self.console)
        summary: dict[str, Any] = {
            "ok": self.ok,
            "why": self.why,
            "seconds": round(self.seconds, 1),
            "pages_verified": self.pages_verified,
            "pages_wrong": self.pages_wrong,
            "pages_swapped_in": self.pages_swapped_in,
            "pages_swapped_out": self.pages_swapped_out,
            "swap_flags": flags[1] if flags else None,
            "phases": self.phases,
            "events": self.events,
            "errors": self.errors,
        }
        if not self.ok:
            summary["complaints"] = self.complaints
            summary["console"] = self.console.splitlines()[-_LINES_SHOWN:]
        return summary
