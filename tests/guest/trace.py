"""Distils an `nbdkit --filter=log` log into a trace of pages (tests/traces/README.md).

python -m tests.guest.trace LOG TRACE [WORDS]
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 4096
WRITE, READ, DISCARD = 0, 1, 2
WORDS_MAX = 150_000

# Requests are logged when they arrive and again, with "...", when they are answered.
_REQUEST = re.compile(
    r"connection=\d+ (Read|Write|Trim) id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)"
)
_OPERATIONS = {"Write": WRITE, "Read": READ, "Trim": DISCARD}


def parse_line(line: str) -> tuple[int, int, int] | None:
    """The operation, first page and count of pages that a line of the log tells of."""
    found = _REQUEST.search(line)
    if found is None:
        return None
    offset, length = int(found[2], 16), int(found[3], 16)
    first = -(-offset // PAGE_BYTES)
    return _OPERATIONS[found[1]], first, (offset + length) // PAGE_BYTES - first


def encode(requests: Iterator[tuple[int, int, int]], words_max: int) -> bytes:
    """The trace; it ends with the last request that fits whole."""
    words: list[int] = []
    for operation, first, count in requests:
        if operation == DISCARD:
            request = [operation << 30 | first, count]
        else:
            request = [operation << 30 | first + i for i in range(count)]
        if len(words) + len(request) > words_max:
            break
        words += request
    return struct.pack(f"<{len(words)}I", *words)


def main() -> None:
    log, trace, *words_max = sys.argv[1:]
    with Path(log).open() as lines:
        parsed = filter(None, map(parse_line, lines))
        Path(trace).write_bytes(encode(parsed, int(words_max[0]) if words_max else WORDS_MAX))


if __name__ == "__main__":
    main()
