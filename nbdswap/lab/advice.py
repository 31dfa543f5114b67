"""From a run to a configuration. These are all the rules; they know nothing but the results.

1. Less than BYTES_LEAST of pages that are not of one repeated word: too few to say anything. If
   all pages are of one repeated word there is nothing to choose: they take no pool.
2. What a pool takes is its block bytes over the bytes of all pages, same-filled ones too, at the
   worst of the phases in which the pool is full (WORN_PHASES). It is called the share.
3. The zpool of a codec is the one of the smallest share. Shares of less than SHARE_NOISE apart
   (relative) are a tie; then the one whose alloc, store, load and free take the least together (by
   p50), and if that is less than TIME_NOISE apart, the first in the order of the results.
4. The codec is the one of the least cost: the share in percent points, and for each microsecond
   that compressing and decompressing a 4 KiB page takes (by p50) a price in points. The price is
   what the user prefers. Costs are a tie if they are no further apart than SHARE_NOISE of the
   share and TIME_NOISE of the time come to; then the one that decompresses faster, for a process
   waits for that, and of those that differ by less than TIME_NOISE in it the one that costs least
   memory: sizes are exact. But if that takes no less than pages kept as they are, by more than
   SHARE_NOISE, these are kept: then nothing is gained by the work.
5. A pool that takes more than SHARE_POOR of the pages saves next to nothing, and that is said.
6. A larger page is worth a remark if the same codec's share with it is at least SHARE_GAIN smaller
   (relative): the client decides about its page size, the server follows.
7. A pool is as large as the share of the data, over the high mark, so that write-back does not
   begin before all is in; and the other way round for what fits into a given pool.

Not here: words (`wording`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .request import PLAIN
from .results import CodecResult, LabResults, PackResult, share_of_pages

BYTES_LEAST = 1 << 20
WORN_PHASES = ("fresh", "overwritten", "refilled50", "refilled90", "worn")
SHARE_NOISE = 0.005
TIME_NOISE = 0.15
SHARE_POOR = 0.9
SHARE_GAIN = 0.05
HIGH_MARK_PERCENT = 95
"""The server's default."""
MIB = 1 << 20
REFERENCE_PAGE_BYTES = 4096


class Prefer(StrEnum):
    """What a microsecond is worth."""

    SPEED = "speed"
    BALANCED = "balanced"
    DENSITY = "density"


PRICE_POINTS_PER_US = {Prefer.SPEED: 2.0, Prefer.BALANCED: 0.4, Prefer.DENSITY: 0.04}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A codec with the zpool that suits it."""

    codec: CodecResult
    pack: PackResult
    share: float
    rivals: tuple[PackResult, ...]
    """Other zpools that are as dense, as far as this run can tell."""
    next_pack: PackResult | None
    """The densest of those that are not."""
    next_share: float
    """Of that one; 0 if there is none."""

    @property
    def time_us(self) -> float:
        """To compress and to decompress 4 KiB."""
        ns = self.codec.compress_ns.p50 + self.codec.decompress_ns.p50
        return ns / 1000 * REFERENCE_PAGE_BYTES / self.codec.page_bytes

    def cost(self, prefer: Prefer) -> float:
        """Percent points of memory, time included at its price."""
        return 100 * self.share + PRICE_POINTS_PER_US[prefer] * self.time_us

    def cost_noise(self, prefer: Prefer) -> float:
        """What the cost may be wrong by."""
        price = PRICE_POINTS_PER_US[prefer]
        return 100 * self.share * SHARE_NOISE + price * self.time_us * TIME_NOISE


@dataclass(frozen=True, slots=True)
class Choice:
    """The best for one page size."""

    best: Candidate
    ties: tuple[Candidate, ...]
    """Other codecs whose costs are no different, as far as this run can tell."""
    others: tuple[Candidate, ...]
    """The rest, cheapest first."""

    def of_codec(self, codec: CodecResult) -> Candidate | None:
        """The candidate with the codec and level of another page size."""
        wanted = (codec.codec, codec.level)
        candidates = (self.best, *self.ties, *self.others)
        same = (c for c in candidates if (c.codec.codec, c.codec.level) == wanted)
        return next(same, None)


@dataclass(frozen=True, slots=True)
class Nothing:
    """No choice, and why."""

    page_bytes: int
    pages: int
    same_filled: int


@dataclass(frozen=True, slots=True)
class Advice:
    """For each page size of the run, smallest first; at least one."""

    prefer: Prefer
    choices: tuple[Choice | Nothing, ...]

    @property
    def main(self) -> Choice | Nothing:
        """For the smallest page: what a client has unless it is known to have another."""
        return self.choices[0]

    def larger_pages_that_help(self) -> tuple[Choice, ...]:
        """Rule 6."""
        if isinstance(self.main, Nothing):
            return ()
        best = self.main.best
        limit = best.share * (1 - SHARE_GAIN)
        rest = (choice for choice in self.choices[1:] if isinstance(choice, Choice))
        return tuple(
            choice
            for choice in rest
            if (same := choice.of_codec(best.codec)) and same.share <= limit
        )


def advise(results: LabResults, prefer: Prefer = Prefer.BALANCED) -> Advice:
    """The rules, in their order."""
    sizes = sorted({codec.page_bytes for codec in results.codecs})
    return Advice(prefer, tuple(_choose(results, size, prefer) for size in sizes))


def pool_bytes_for(choice: Choice, data_bytes: int) -> int:
    """A pool that holds that much of pages like these; whole MiB."""
    need = data_bytes * choice.best.share * 100 / HIGH_MARK_PERCENT
    return max(-(-int(need) // MIB), 1) * MIB


def data_bytes_in(choice: Choice, pool_bytes: int) -> int:
    """How much of pages like these a pool holds; whole MiB."""
    return int(pool_bytes * HIGH_MARK_PERCENT / 100 / choice.best.share) // MIB * MIB


def is_poor(choice: Choice) -> bool:
    """Rule 5."""
    return choice.best.share > SHARE_POOR


def _choose(results: LabResults, page_bytes: int, prefer: Prefer) -> Choice | Nothing:
    codecs = [codec for codec in results.codecs if codec.page_bytes == page_bytes]
    pages, same_filled = max((codec.pages, codec.same_filled) for codec in codecs)
    candidates = [
        candidate
        for codec in codecs
        if (candidate := _candidate(codec, list(results.packs_of(codec))))
    ]
    if pages * page_bytes < BYTES_LEAST or not candidates:
        return Nothing(page_bytes, pages, same_filled)
    ranked = sorted(candidates, key=lambda candidate: candidate.cost(prefer))
    limit = ranked[0].cost(prefer) + ranked[0].cost_noise(prefer)
    tied = [candidate for candidate in ranked if candidate.cost(prefer) <= limit]
    fastest = min(candidate.codec.decompress_ns.p50 for candidate in tied)
    swift = [c for c in tied if c.codec.decompress_ns.p50 <= fastest * (1 + TIME_NOISE)]
    best = min(swift, key=lambda candidate: candidate.share)
    plain = next((c for c in ranked if c.codec.codec == PLAIN), None)
    if plain is not None and best.share >= plain.share * (1 - SHARE_NOISE):
        best = plain
    return Choice(
        best,
        tuple(candidate for candidate in tied if candidate is not best),
        tuple(c for c in ranked if c not in tied and c is not best),
    )


def _candidate(codec: CodecResult, packs: Sequence[PackResult]) -> Candidate | None:
    """Rules 2 and 3."""
    shares = [(share, pack) for pack in packs if (share := worn_share(codec, pack)) is not None]
    if not shares:
        return None
    limit = min(share for share, _ in shares) * (1 + SHARE_NOISE)
    dense = [(share, pack) for share, pack in shares if share <= limit]
    time_limit = min(_pool_ns(pack) for _, pack in dense) * (1 + TIME_NOISE)
    share, best = next((share, pack) for share, pack in dense if _pool_ns(pack) <= time_limit)
    rivals = tuple(pack for _, pack in dense if pack is not best)
    rest = [(share, pack) for share, pack in shares if share > limit]
    next_share, next_pack = min(rest, key=lambda pair: pair[0], default=(0.0, None))
    return Candidate(codec, best, share, rivals, next_pack, next_share)


def worn_share(codec: CodecResult, pack: PackResult) -> float | None:
    """Rule 2."""
    shares = (
        share_of_pages(codec, density) for density in pack.densities if density.phase in WORN_PHASES
    )
    return max((share for share in shares if share is not None), default=None)


def _pool_ns(pack: PackResult) -> int:
    return pack.alloc_ns.p50 + pack.store_ns.p50 + pack.load_ns.p50 + pack.free_ns.p50
