"""Damaged records in the log."""

from typing import TYPE_CHECKING, Any

import pytest

from nbdswap.incidents import EVENTS, LINES_PER_MINUTE, IncidentLog

if TYPE_CHECKING:
    from nbdswap._core import Incident


class Finds:
    """As much of an engine as is asked here, and a clock."""

    def __init__(self) -> None:
        self.waiting: list[Incident] = []
        self.unnamed = 0
        self.now_s = 1000.0

    def take_incidents(self) -> "tuple[list[Incident], int]":
        taken, self.waiting = self.waiting, []
        unnamed, self.unnamed = self.unnamed, 0
        return taken, unnamed

    def find(self, page: int, **others: Any) -> None:
        incident: Incident = {
            "export": "swap",
            "page": page,
            "byte": page * 4096,
            "store_byte": 1 << 20,
            "fault": "damaged",
            "finder": "scrub",
            "times": 1,
        }
        incident.update(others)  # type: ignore[typeddict-item]
        self.waiting.append(incident)


@pytest.fixture
def finds() -> Finds:
    return Finds()


@pytest.fixture
def incident_log(finds: Finds) -> IncidentLog:
    return IncidentLog(finds, lambda: finds.now_s)  # type: ignore[arg-type]


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    found = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    caplog.clear()
    return found


def test_a_line_names_export_page_and_places(
    finds: Finds, incident_log: IncidentLog, caplog: pytest.LogCaptureFixture
) -> None:
    finds.find(7, times=3)
    incident_log.drain()
    assert lines(caplog) == [
        (
            "a damaged record: its page is lost, found before it was asked for",
            {"export": "swap", "page": 7, "byte": 28672, "store_byte": 1 << 20, "times": 3},
        )
    ]
    incident_log.drain()
    assert lines(caplog) == []


def test_every_fault_and_finder_has_its_words(
    finds: Finds, incident_log: IncidentLog, caplog: pytest.LogCaptureFixture
) -> None:
    for fault in ("damaged", "unreadable"):
        for finder in ("read", "cleaning", "scrub"):
            finds.find(1, fault=fault, finder=finder)
    incident_log.drain()
    assert [event for event, _ in lines(caplog)] == list(EVENTS.values())


def test_a_dying_disk_gets_so_many_lines_a_minute_and_a_sum(
    finds: Finds, incident_log: IncidentLog, caplog: pytest.LogCaptureFixture
) -> None:
    for page in range(LINES_PER_MINUTE + 5):
        finds.find(page, times=2)
        incident_log.drain()
    finds.unnamed = 4
    incident_log.drain()
    assert len(lines(caplog)) == LINES_PER_MINUTE
    finds.now_s += 60
    finds.find(1)
    incident_log.drain()
    (event, fields), (_, named) = lines(caplog)
    assert event.startswith("more damaged")
    assert fields == {"times": 5 * 2 + 4}
    assert named["page"] == 1


def test_what_waits_at_the_end_is_said(
    finds: Finds, incident_log: IncidentLog, caplog: pytest.LogCaptureFixture
) -> None:
    finds.find(1)
    finds.unnamed = 9
    incident_log.close()
    assert [fields["times"] for _, fields in lines(caplog)] == [1, 9]
