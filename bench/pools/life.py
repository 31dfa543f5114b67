"""The life that a pool is led through, write by write, as in rust/src/lab/pack.rs.

What is written when follows from the seed alone, so that the kernel's zram gets the same pages in
the same order as our pools. A test holds the two against each other.
Not here: what is measured meanwhile, and compaction, which ends a life.
"""

from collections.abc import Iterator

Change = tuple[int, int | None]
"""A slot, and the page of the set that is written to it; None: it is discarded."""

DISCARDED_PERCENT = (50, 90)
_MASK = (1 << 64) - 1


class Random:
    """SplitMix64, as in rust/src/random.rs."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
        return mixed ^ mixed >> 31

    def below(self, end: int) -> int:
        """A number below `end`."""
        return self.bits() % end

    def shuffle(self, items: list[int]) -> None:
        """Brings the items into random order."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


class Life:
    """The phases of `slots` slots that hold pages of a set of `pages`."""

    def __init__(self, pages: int, slots: int, seed: int) -> None:
        self._pages = pages
        self._order = list(range(slots))
        self._random = Random(seed)

    def phases(self) -> Iterator[tuple[str, Iterator[Change]]]:
        """Name of each phase, and its changes, which have to be taken before the next one."""
        yield "fresh", self._fill()
        yield "overwritten", self._overwrite()
        for percent in DISCARDED_PERCENT:
            self._random.shuffle(self._order)
            leaving = self._order[: len(self._order) * percent // 100]
            yield f"discarded{percent}", ((slot, None) for slot in leaving)
            yield f"refilled{percent}", self._rewrite(leaving)
        yield "worn", self._overwrite()

    def _fill(self) -> Iterator[Change]:
        """The set as often as it fits, and then a part of it that is spread evenly over it.

        A piece in a row would be one program's pages.
        """
        slots, pages = len(self._order), self._pages
        whole = slots - slots % pages
        for slot in range(whole):
            yield slot, slot % pages
        for slot in range(whole, slots):
            yield slot, (slot - whole) * pages // (slots - whole)

    def _overwrite(self) -> Iterator[Change]:
        """Every slot twice, each time in another order, with any page."""
        for _ in range(2):
            self._random.shuffle(self._order)
            yield from self._rewrite(self._order)

    def _rewrite(self, slots: list[int]) -> Iterator[Change]:
        for slot in slots:
            yield slot, self._random.below(self._pages)
