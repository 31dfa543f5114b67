"""What pages of an export must read as, kept by the client that changes them.

Every page that was written is unlike all others, so one that is old or another one is noticed.
"""

from __future__ import annotations

import random

from tests.support.pages import PAGE_BYTES, make_page

_BODIES = 64


class Pages:
    """What each page may read as: what was acknowledged last, or what was under way since."""

    is_durable = False

    def __init__(
        self,
        rng: random.Random,
        count: int,
        *,
        page_bytes: int = PAGE_BYTES,
        label: str = "page",
    ) -> None:
        """`label` is in every page: what is in another export's as well is noticed there."""
        self.count = count
        self.page_bytes = page_bytes
        self.zeroes = bytes(page_bytes)
        parts = page_bytes // PAGE_BYTES
        self._bodies = [
            b"".join(make_page(rng.getrandbits(32), index) for _ in range(parts))
            for index in range(_BODIES)
        ]
        self._label = label
        self._stamp = 0
        self._allowed: list[list[bytes]] = [[self.zeroes] for _ in range(count)]

    def new_page(self, rng: random.Random) -> bytes:
        """A page that no other one is like, as easy or hard to compress as real ones."""
        stamp = self.new_stamp()
        return stamp + rng.choice(self._bodies)[len(stamp) :]

    def new_stamp(self) -> bytes:
        """A few bytes that were never written before."""
        self._stamp += 1
        return f"{self._label} {self._stamp:12d} ".encode()

    def begin(self, first: int, contents: list[bytes]) -> None:
        for index, content in enumerate(contents, first):
            self._allowed[index].append(content)

    def acknowledge(self, first: int, contents: list[bytes], *, fua: bool = False) -> None:
        """`fua`: and that was promised to survive loss of the host."""
        for index, content in enumerate(contents, first):
            self._allowed[index] = [content]

    def begin_flush(self) -> dict[int, int]:
        """What `end_flush` wants to know when the flush has succeeded."""
        return {}

    def end_flush(self, covered: dict[int, int]) -> None:
        """The flush that was begun then has succeeded."""

    def lose_host(self) -> None:
        """No page may read as anything any more."""
        self._allowed = [[] for _ in range(self.count)]

    def settle(self) -> int:
        """What every page is survives from now on: it was found so after a loss, or the server has
        ended in good order. How many pages were newer than what was flushed."""
        return 0

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
        size = self.page_bytes
        found = [data[at : at + size] for at in range(0, len(data), size)]
        for index, content in enumerate(found, first):
            assert content in self._allowed[index], (
                f"page {index} begins {content[:24]!r}, allowed: "
                f"{[allowed[:24] for allowed in self._allowed[index]]}"
            )
        self.acknowledge(first, found)
        return sum(content != self.zeroes for content in found)


class DurablePages(Pages):
    """Of an export whose flushed pages survive loss of the host."""

    is_durable = True

    def __init__(
        self,
        rng: random.Random,
        count: int,
        *,
        page_bytes: int = PAGE_BYTES,
        label: str = "page",
    ) -> None:
        super().__init__(rng, count, page_bytes=page_bytes, label=label)
        # What a page may be after a loss, in the order of the changes: from the version that was
        # last flushed to the present one. The versions before these are only counted.
        self._versions: list[list[bytes]] = [[self.zeroes] for _ in range(count)]
        self._forgotten = [0] * count
        self._acknowledged = [0] * count
        self._changed: set[int] = set()

    def begin(self, first: int, contents: list[bytes]) -> None:
        super().begin(first, contents)
        for index, content in enumerate(contents, first):
            self._versions[index].append(content)
            self._changed.add(index)

    def acknowledge(self, first: int, contents: list[bytes], *, fua: bool = False) -> None:
        super().acknowledge(first, contents, fua=fua)
        for index, content in enumerate(contents, first):
            versions = self._versions[index]
            if versions[-1] != content:
                # A change that was refused: the page is what it was before.
                versions.append(content)
                self._changed.add(index)
            self._acknowledged[index] = self._forgotten[index] + len(versions) - 1
            if fua:
                self._forget(index, self._acknowledged[index])

    def begin_flush(self) -> dict[int, int]:
        return {index: self._acknowledged[index] for index in self._changed}

    def end_flush(self, covered: dict[int, int]) -> None:
        for index, version in covered.items():
            self._forget(index, version)

    def _forget(self, index: int, before: int) -> None:
        """The versions before that one cannot come back."""
        gone = before - self._forgotten[index]
        if gone > 0:
            del self._versions[index][:gone]
            self._forgotten[index] = before
        if len(self._versions[index]) == 1:
            self._changed.discard(index)

    def lose_host(self) -> None:
        self._allowed = [list(versions) for versions in self._versions]

    def settle(self) -> int:
        newer = 0
        for index, (allowed, versions) in enumerate(
            zip(self._allowed, self._versions, strict=True)
        ):
            assert len(allowed) == 1, f"page {index} is in doubt"
            newer += allowed[0] != versions[0]
            versions[:] = allowed
            self._acknowledged[index] = self._forgotten[index]
        self._changed.clear()
        return newer
