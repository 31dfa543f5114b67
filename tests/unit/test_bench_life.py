"""The kernel's zram is written to as our pools are: the same pages, in the same order."""

import random
from typing import TYPE_CHECKING

import life
import plan
from nbdswap import _core

if TYPE_CHECKING:
    from nbdswap._core import Density

PAGE = 4096
PAGES = [random.Random(n).randbytes(350 * n).ljust(PAGE, b"\0") for n in range(10)]
SLOTS = 25
ZPOOL = "zfit"


def objects(pages: list[bytes]) -> _core.LabObjects:
    """What these pages are compressed to."""
    return _core.LabPages.of(b"".join(pages), PAGE).compress("lz4", 1)[0]


def densities(pages: list[bytes], slots: int, seed: int) -> "dict[str, Density]":
    """What our pool holds after each phase."""
    found = objects(pages).pack(zpool=ZPOOL, frame_bytes=PAGE, stored_bytes=slots * PAGE, seed=seed)
    return {density["phase"]: density for density in found["densities"]}


def sizes() -> list[int]:
    """Bytes of the object of each page."""
    return [densities([page], 1, plan.SEED)["fresh"]["object_bytes"] for page in PAGES]


def test_a_life_is_that_of_our_pools() -> None:
    of_page = sizes()
    assert len(set(of_page)) == len(PAGES), "each page is known by its size"
    for seed in (1, 7):
        ours, held = densities(PAGES, SLOTS, seed), [0] * SLOTS
        for name, changes in life.Life(len(PAGES), SLOTS, seed).phases():
            for slot, page in changes:
                held[slot] = 0 if page is None else of_page[page]
            assert sum(held) == ours[name]["object_bytes"], f"{name}, seed {seed}"
            assert sum(size > 0 for size in held) == ours[name]["objects"]


def test_every_slot_is_overwritten_twice_and_what_was_discarded_is_written_again() -> None:
    written = {
        name: [(slot, page is not None) for slot, page in changes]
        for name, changes in life.Life(10, SLOTS, 1).phases()
    }
    slots = list(range(SLOTS))
    assert written["fresh"] == [(slot, True) for slot in slots]
    for name in ("overwritten", "worn"):
        first, second = written[name][:SLOTS], written[name][SLOTS:]
        assert sorted(first) == sorted(second) == written["fresh"]
        assert first != second
    for percent, count in ((50, 12), (90, 22)):
        left = [slot for slot, _ in written[f"discarded{percent}"]]
        assert written[f"discarded{percent}"] == [(slot, False) for slot in left]
        assert written[f"refilled{percent}"] == [(slot, True) for slot in left]
        assert len(set(left)) == count
