"""Page contents for tests: repeatable from a seed, with the mix that swapped memory has.

Not here: the guest's own mix (tests/guest/guest/pages.h), which cannot run Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable

PAGE_BYTES = 4096
MIB = 1 << 20

_WORDS = tuple(
    b"the page memory of a to remote and host swap in server is error request that return static "
    b'int const "id": "name": </div> class= http:// GET 200 INFO WARN worker queue user'.split()
)


def _zero(_rng: random.Random) -> bytes:
    return bytes(PAGE_BYTES)


def _same(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 4, 8))) * PAGE_BYTES


def _random(rng: random.Random) -> bytes:
    return rng.randbytes(PAGE_BYTES)


def _text(rng: random.Random) -> bytes:
    return b" ".join(rng.choices(_WORDS, k=PAGE_BYTES // 2))


def _heap(rng: random.Random) -> bytes:
    """Objects of 32 bytes: a class pointer, a link, a counter and nothing."""
    base = 0x7F00_0000_0000 | rng.getrandbits(16) << 24
    return b"".join(
        (base | rng.getrandbits(2) << 5).to_bytes(8, "little")
        + (base + rng.getrandbits(20)).to_bytes(8, "little")
        + rng.getrandbits(8).to_bytes(16, "little")
        for _ in range(PAGE_BYTES // 32)
    )


# Of 16 pages 2 are zero, 1 is one repeated word and 3 cannot be compressed.
_KINDS: tuple[Callable[[random.Random], bytes], ...] = (
    *(_zero,) * 2,
    _same,
    *(_random,) * 3,
    *(_text,) * 5,
    *(_heap,) * 5,
)


def make_page(seed: int, index: int, generation: int = 0) -> bytes:
    """Page `index` of the stream `seed`; another generation has other contents.

    The kind may change with the generation, and a zero page looks like any other one: a test
    that must tell two generations apart compares them first or uses `make_distinct_page`.
    """
    rng = random.Random(f"{seed}/{index}/{generation}")
    return rng.choice(_KINDS)(rng)[:PAGE_BYTES]


def make_distinct_page(seed: int, index: int, generation: int = 0) -> bytes:
    """A compressible page that no other seed, index or generation has."""
    rng = random.Random(f"{seed}/{index}/{generation}")
    label = f"seed {seed} page {index} generation {generation} ".encode()
    return (label + _text(rng))[:PAGE_BYTES]


def make_data(seed: int, pages: int) -> bytes:
    """`pages` consecutive pages of the stream `seed`."""
    return b"".join(make_page(seed, index) for index in range(pages))


def make_incompressible(seed: int, pages: int) -> bytes:
    """`pages` pages of noise: nothing that a pool could keep smaller."""
    return random.Random(seed).randbytes(pages * PAGE_BYTES)
