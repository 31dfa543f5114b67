"""For tests of a store in trouble: a client that knows what it may find, and what a server says."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from tests.support.pages import PAGE_BYTES
from tests.support.rawnbd import Command, RawClient
from tests.support.servers import EXPORT, Server

NOTICED_WITHIN_S = 30.0


class NoiseClient:
    """Writes noise and knows what was acknowledged."""

    def __init__(self, raw: RawClient) -> None:
        self._raw = raw
        self._random = random.Random(7)
        self.held: dict[int, bytes] = {}

    def reconnect(self, server: Server) -> None:
        """Goes on with a new connection."""
        self.close()
        self._raw = RawClient.connect(server.unix_path, EXPORT)

    def close(self) -> None:
        self._raw.socket.close()

    def flush(self) -> str:
        """The reply's error, or ok."""
        return self._raw.call(Command.FLUSH, 0, 0).error_name

    def write(self, page: int) -> str:
        """The reply's error, or ok."""
        data = self._random.randbytes(PAGE_BYTES)
        reply = self._raw.call(Command.WRITE, page * PAGE_BYTES, PAGE_BYTES, data=data)
        if not reply.error:
            self.held[page] = data
        return reply.error_name

    def zero(self, page: int) -> None:
        """A page that takes no room."""
        self._raw.write(page * PAGE_BYTES, bytes(PAGE_BYTES))
        self.held.pop(page, None)

    def check(self) -> None:
        """Every page is what was acknowledged last, or zeros."""
        pages = self._raw.size_bytes // PAGE_BYTES
        for first in range(0, pages, 256):
            data = self._raw.read(first * PAGE_BYTES, 256 * PAGE_BYTES)
            for page in range(first, first + 256):
                at = (page - first) * PAGE_BYTES
                wanted = self.held.get(page, bytes(PAGE_BYTES))
                assert data[at : at + PAGE_BYTES] == wanted, f"page {page} is wrong"


def events(server: Server, *words: str) -> list[str]:
    """Lines of the log with all of these words."""
    lines = (server.directory / "log").read_text().splitlines()
    return [line for line in lines if all(word in line for word in words)]


def errors_of(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Failed requests by what they were and by what they were told."""
    (export,) = status["exports"]
    return {op: by_errno for op, by_errno in export["errors"].items() if by_errno}


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + NOTICED_WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)
