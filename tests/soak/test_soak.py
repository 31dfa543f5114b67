"""The short form of `make soak`, and bugs that it must find."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak.soak import Place, Soak, small_file_system
from tests.support.model import DurablePages

SEED = int(os.environ.get("SEED", "1"))

pytestmark = pytest.mark.only_nbdswap


def test_a_short_soak_of_small_pages_on_a_disk_that_is_filled_up(tmp_path: Path) -> None:
    with small_file_system(tmp_path) as place:
        soak = Soak(SEED, 4096, place)
        soak.run_lives(
            ["loss of the host", "damage to the file", "loss of the host on a full disk"]
        )
    assert soak.tally.losses == 2
    assert soak.tally.pages_newer > 0, "nothing was lost that was not flushed"
    assert soak.tally.work.fua > 0


def test_a_short_soak_of_large_pages() -> None:
    soak = Soak(SEED + 1, 16384, Place())
    ends = ["loss of the host, kills in recovery", "stop and loss of the host", "kill in adoption"]
    soak.run_lives(ends)
    assert (soak.tally.losses, soak.tally.events["kill in adoption"]) == (2, 1)
    assert soak.tally.pages_refused > 0


class Amnesia:
    """Puts the first dead server's backing file in place of the second one's: a planted bug."""

    def __init__(self) -> None:
        self._first: bytes | None = None

    def __call__(self, path: Path) -> None:
        if self._first is not None:
            path.write_bytes(self._first)
        self._first = path.read_bytes()


def test_a_disk_that_forgets_what_was_flushed_is_found_out() -> None:
    soak = Soak(SEED, 4096, Place())
    with pytest.raises(AssertionError, match=r"page \d+ begins .*, allowed: "):
        soak.run_lives(["loss of the host"] * 2, Amnesia())


def pages() -> DurablePages:
    model = DurablePages(random.Random(1), 4)
    for number in (1, 2, 3):
        model.begin(0, [bytes([number]) * 4096])
        model.acknowledge(0, [bytes([number]) * 4096])
    return model


def page(number: int) -> bytes:
    return bytes([number]) * 4096


def test_the_model_knows_what_a_loss_may_leave() -> None:
    for survivor in range(4):
        model = pages()
        model.lose_host()
        model.check(0, page(survivor))
    model = pages()
    covered = model.begin_flush()
    model.begin(0, [page(4)])
    model.end_flush(covered)
    model.lose_host()
    for wrong in (0, 1, 2):
        with pytest.raises(AssertionError):
            model.check(0, page(wrong))
    model.check(0, page(3))
    model.check(1, bytes(3 * 4096))
    assert model.settle() == 0
    model.lose_host()
    with pytest.raises(AssertionError):
        model.check(0, page(4))


def test_the_model_takes_fua_for_a_flush_of_that_page_alone() -> None:
    model = pages()
    model.begin(0, [page(5), page(5)])
    model.acknowledge(0, [page(5), page(5)], fua=True)
    model.begin(2, [page(6)])
    model.acknowledge(2, [page(6)])
    model.lose_host()
    with pytest.raises(AssertionError):
        model.check(0, page(3))
    model.check(0, page(5) + page(5) + page(0) + page(0))


def test_the_model_knows_that_a_refused_change_left_the_page_as_it_was() -> None:
    model = pages()
    model.begin(0, [page(4)])
    model.check(0, page(3))
    model.end_flush(model.begin_flush())
    model.lose_host()
    with pytest.raises(AssertionError):
        model.check(0, page(4))
    model.check(0, page(3))
