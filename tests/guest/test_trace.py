"""The recorded traces are whole, and the tool that makes them reads logs right."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.guest.trace import DISCARD, READ, WRITE, encode, parse_line

TRACES = Path(__file__).parent.parent / "traces"
DEVICE_PAGES = 131_072
BYTES_MAX = 600 * 1024


def decode(data: bytes) -> list[tuple[int, int, int]]:
    words = iter(struct.unpack(f"<{len(data) // 4}I", data))
    requests = []
    for word in words:
        operation, page = word >> 30, word & (1 << 30) - 1
        requests.append((operation, page, next(words) if operation == DISCARD else 1))
    return requests


@pytest.mark.parametrize(
    ("name", "writes", "reads", "discards"),
    [("workset", 96_524, 53_253, 107), ("uniform", 40_691, 34_307, 1)],
)
def test_a_recorded_trace_is_what_its_table_says(
    name: str, writes: int, reads: int, discards: int
) -> None:
    data = (TRACES / f"{name}.trace").read_bytes()
    assert len(data) <= BYTES_MAX
    requests = decode(data)
    counts = [sum(operation == kind for operation, _, _ in requests) for kind in (0, 1, 2)]
    assert counts == [writes, reads, discards]
    assert all(first + count <= DEVICE_PAGES for _, first, count in requests)


def test_a_page_is_written_before_it_is_read() -> None:
    written = {0}  # The kernel looks for a partition table when the device is attached.
    for operation, page, _ in decode((TRACES / "workset.trace").read_bytes()):
        assert operation != READ or page in written
        if operation == WRITE:
            written.add(page)


def test_the_arrival_of_a_request_is_parsed_and_its_answer_is_not() -> None:
    when = "2026-01-01 00:00:00.000000 connection=1"
    line = f"{when} Write id=4 offset=0x2000 count=0x3000 fua=0 ..."
    assert parse_line(line) == (WRITE, 2, 3)
    assert parse_line(f"{when} Read id=5 offset=0x5000 count=0x1000 ...") == (READ, 5, 1)
    assert parse_line(f"{when} Trim id=6 offset=0x1800 count=0x2000 fua=0 ...") == (DISCARD, 2, 1)
    assert parse_line(f"{when} ...Write id=4 return=0") is None
    assert parse_line("2026-01-01 00:00:00.000000 Ready thread_model=3") is None


def test_a_trace_ends_with_a_whole_request() -> None:
    requests = [(WRITE, 7, 2), (DISCARD, 8, 5), (READ, 7, 1)]
    assert decode(encode(iter(requests), 5)) == [
        (WRITE, 7, 1),
        (WRITE, 8, 1),
        (DISCARD, 8, 5),
        (READ, 7, 1),
    ]
    assert decode(encode(iter(requests), 3)) == [(WRITE, 7, 1), (WRITE, 8, 1)]
