"""What pages of an export must read as, kept by the client that changes them.

Every page that was written is unlike all others, so one that is old or another one is noticed.
"""

from __future__ import annotations

import random

from tests.support.pages import PAGE_BYTES, make_page

ZEROES = bytes(PAGE_BYTES)


class Pages:
    """What each page may read as: what was acknowledged last, or what was under way since."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.count = count
        self._bodies = [make_page(rng.getrandbits(32), index) for index in range(64)]
        self._stamp = 0
        self._allowed: list[list[bytes]] = [[ZEROES] for _ in range(count)]

    def new_page(self, rng: random.Random) -> bytes:
        """A page that no other one is like, as easy or hard to compress as real ones."""
        stamp = self.new_stamp()
        return stamp + rng.choice(self._bodies)[len(stamp) :]

    def new_stamp(self) -> bytes:
        """A few bytes that were never written before."""
        self._stamp += 1
        return b"page %12d " % self._stamp

    def begin(self, first: int, contents: list[bytes]) -> None:
        for index, content in enumerate(contents, first):
            self._allowed[index].append(content)

    def acknowledge(self, first: int, contents: list[bytes]) -> None:
        for index, content in enumerate(contents, first):
            self._allowed[index] = [content]

    def current(self, first: int, count: int) -> bytes:
        """The bytes of pages none of which is in doubt."""
        contents = self._allowed[first : first + count]
        assert all(len(allowed) == 1 for allowed in contents), f"page {first} and on are in doubt"
        return b"".join(allowed[0] for allowed in contents)

    @property
    def in_doubt(self) -> int:
        """Pages that may be old or new, since nothing was heard of the request."""
        return sum(len(allowed) > 1 for allowed in self._allowed)

    def check(self, first: int, data: bytes) -> int:
        """Compares pages that were read, and takes them as they are; how many are not zeroes."""
        found = [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
        for index, content in enumerate(found, first):
            assert content in self._allowed[index], (
                f"page {index} begins {content[:24]!r}, allowed: "
                f"{[allowed[:24] for allowed in self._allowed[index]]}"
            )
        self.acknowledge(first, found)
        return sum(content != ZEROES for content in found)
