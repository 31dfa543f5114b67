"""Protections are taken, or said with their cure, or insisted on."""

import os
import resource
import signal
import threading
from collections.abc import Iterator

import pytest

from nbdswap.config import HardeningConfig
from nbdswap.errors import HardeningError
from nbdswap.hardening import (
    MCL_CURRENT,
    MCL_FUTURE,
    MCL_ONFAULT,
    PR_SET_IO_FLUSHER,
    PR_SET_PDEATHSIG,
    TASKS,
    Linux,
    die_with_parent,
    harden,
    is_orphan,
    verify,
)

POOL_BYTES = 64 << 20


class FakeKernel:
    """Remembers what was asked of it; `permits` says what it grants."""

    def __init__(self, *, permits: bool = True) -> None:
        self.permits = permits
        self.memlock_limit_bytes = resource.RLIM_INFINITY
        self.any_memory = False
        self.calls: list[tuple[str, int]] = []
        self.locked = POOL_BYTES
        self.marked = [1, 2, 3]
        self.score = -1000

    def _grant(self, name: str, value: int) -> None:
        self.calls.append((name, value))
        if not self.permits:
            raise PermissionError(1, "Operation not permitted")

    def mlockall(self, flags: int) -> None:
        self._grant("mlockall", flags)

    def prctl(self, option: int, value: int) -> None:
        self._grant("prctl", option)
        assert value

    def set_oom_score_adj(self, value: int) -> None:
        self._grant("oom", value)

    def raise_memlock_limit(self) -> int:
        return self.memlock_limit_bytes

    def may_lock_any_memory(self) -> bool:
        return self.any_memory

    def share_one_heap(self) -> None:
        self.calls.append(("one heap", 0))

    def locked_bytes(self) -> int:
        return self.locked

    def marked_threads(self) -> list[int]:
        return self.marked

    def oom_score_adj(self) -> int:
        return self.score


@pytest.fixture(autouse=True)
def stack_size() -> Iterator[None]:
    """Left as it was."""
    before = threading.stack_size()
    yield
    threading.stack_size(before)


def test_all_protections_are_taken_in_one_go() -> None:
    kernel = FakeKernel()
    taken = harden(HardeningConfig(), populate=True, pool_bytes=POOL_BYTES, kernel=kernel)
    assert [(p.what, p.in_force) for p in taken] == [
        ("lock_memory", True),
        ("io_flusher", True),
        ("oom_score_adj", True),
    ]
    assert kernel.calls == [
        ("one heap", 0),
        ("mlockall", MCL_CURRENT),
        ("mlockall", MCL_FUTURE),
        ("prctl", PR_SET_IO_FLUSHER),
        ("oom", -1000),
    ]


def test_a_pool_that_grows_on_demand_is_locked_as_it_is_touched() -> None:
    kernel = FakeKernel()
    harden(HardeningConfig(), populate=False, pool_bytes=POOL_BYTES, kernel=kernel)
    assert ("mlockall", MCL_FUTURE | MCL_ONFAULT) in kernel.calls


def test_what_is_not_permitted_is_told_with_its_cure() -> None:
    kernel = FakeKernel(permits=False)
    missed = harden(HardeningConfig(), populate=True, pool_bytes=POOL_BYTES, kernel=kernel)
    assert [p.in_force for p in missed] == [False] * 3
    assert all(p.problem == "Operation not permitted" for p in missed)
    assert all(p.cure.startswith("give CAP_") for p in missed)


@pytest.mark.parametrize("what", ["lock_memory", "io_flusher"])
def test_what_is_insisted_on_and_not_permitted_ends_the_start(what: str) -> None:
    config = HardeningConfig.model_validate({what: "on"})
    with pytest.raises(HardeningError, match=rf"hardening\.{what} is on but: .*; give CAP_"):
        harden(config, populate=True, pool_bytes=POOL_BYTES, kernel=FakeKernel(permits=False))


def test_what_is_switched_off_is_neither_taken_nor_reported() -> None:
    kernel = FakeKernel()
    off = HardeningConfig(lock_memory="off", io_flusher="off", oom_score_adj=0)
    assert harden(off, populate=True, pool_bytes=POOL_BYTES, kernel=kernel) == []
    assert kernel.calls == []


def test_a_limit_below_the_pool_is_told_before_it_bites() -> None:
    kernel = FakeKernel()
    kernel.memlock_limit_bytes = 8 << 20
    config = HardeningConfig(io_flusher="off", oom_score_adj=0)
    [lock] = harden(config, populate=True, pool_bytes=POOL_BYTES, kernel=kernel)
    assert not lock.in_force
    assert "the limit is 8388608 bytes" in lock.problem
    assert kernel.calls == []


def test_a_limit_does_not_bind_who_may_lock_any_memory() -> None:
    kernel = FakeKernel()
    kernel.memlock_limit_bytes = 8 << 20
    kernel.any_memory = True
    config = HardeningConfig(io_flusher="off", oom_score_adj=0)
    [lock] = harden(config, populate=True, pool_bytes=POOL_BYTES, kernel=kernel)
    assert lock.in_force


def test_another_thread_before_hardening_is_our_own_mistake() -> None:
    release = threading.Event()
    other = threading.Thread(target=release.wait)
    other.start()
    try:
        with pytest.raises(AssertionError, match="after another thread"):
            harden(HardeningConfig(), populate=True, pool_bytes=1, kernel=FakeKernel())
    finally:
        release.set()
        other.join()


def test_the_real_kernel_says_what_it_refuses() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        Linux().mlockall(1 << 20)
    assert isinstance(Linux().may_lock_any_memory(), bool)


def test_an_orphan_is_one_whose_parent_is_another() -> None:
    kernel = FakeKernel()
    parent = die_with_parent(signal.SIGTERM, kernel)
    assert kernel.calls == [("prctl", PR_SET_PDEATHSIG)]
    assert parent == os.getppid()
    assert is_orphan(parent + 1)
    assert is_orphan(1)


def in_force(config: HardeningConfig, kernel: FakeKernel) -> list[str]:
    """Protections that are there for three threads."""
    taken = harden(config, populate=True, pool_bytes=POOL_BYTES, kernel=kernel)
    seen = verify(taken, config, threads=[1, 2, 3], pool_bytes=POOL_BYTES, kernel=kernel)
    return [protection.what for protection in seen if protection.in_force]


def test_what_is_in_force_in_every_thread_stays_reported() -> None:
    assert in_force(HardeningConfig(), FakeKernel()) == [
        "lock_memory",
        "io_flusher",
        "oom_score_adj",
    ]


def test_a_mark_that_one_thread_lacks_is_none() -> None:
    kernel = FakeKernel()
    kernel.marked = [1, 3]
    assert in_force(HardeningConfig(), kernel) == ["lock_memory", "oom_score_adj"]
    with pytest.raises(HardeningError, match="1 of 3 threads do not have it"):
        in_force(HardeningConfig(io_flusher="on"), kernel)


def test_a_lock_and_a_score_that_are_gone_are_noticed() -> None:
    kernel = FakeKernel()
    kernel.locked, kernel.score = POOL_BYTES - 1, 0
    assert in_force(HardeningConfig(), kernel) == ["io_flusher"]
    with pytest.raises(HardeningError, match="wanted more than the pool's"):
        in_force(HardeningConfig(lock_memory="on"), kernel)


def test_the_kernel_tells_of_this_process() -> None:
    linux = Linux()
    assert linux.locked_bytes() >= 0
    assert set(linux.marked_threads()) <= {int(task.name) for task in TASKS.iterdir()}
    assert -1000 <= linux.oom_score_adj() <= 1000
