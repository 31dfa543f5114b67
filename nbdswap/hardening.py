"""Protections of a server whose clients may be swapping on the machine that it runs on.

When memory is gone, the kernel swaps out through us: if then we wait for memory ourselves, both
wait for ever. So our memory is locked, our allocations never wait for I/O, and the out-of-memory
killer takes others. The I/O mark belongs to a thread and is inherited by the threads that it
starts: `harden` must run before any other thread exists. `verify` asks the kernel again when all
threads serve, since a protection that one thread lacks is none.

What is not permitted is reported with its cure; insisting on it (`on`) is the caller's to enforce.
"""

import ctypes
import os
import resource
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nbdswap.config import HardeningConfig
from nbdswap.errors import HardeningError

MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4
PR_SET_PDEATHSIG = 1
PR_SET_IO_FLUSHER = 57
CAP_IPC_LOCK = 14
M_ARENA_MAX = -8

OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
STATUS = Path("/proc/self/status")
TASKS = Path("/proc/self/task")
# What PR_SET_IO_FLUSHER sets in a thread's flags, PF_MEMALLOC_NOIO. prctl tells it to the thread
# itself alone; the ninth field of its `stat` tells it to others.
NO_IO_FLAG = 0x0008_0000
FLAGS_FIELD = 9

# Locked memory counts whole stacks, so the usual 8 MiB of a thread would be 8 MiB of memory.
THREAD_STACK_BYTES = 512 << 10
LOST_CURE = "it was granted at first and is gone: look for what changes this process from outside"
# Interpreter, libraries and buffers besides the pool; a limit below the sum fails in mid-flight.
LOCKED_BESIDES_POOL_BYTES = 256 << 20


class Kernel(Protocol):
    """The system calls that protections are made of; tests bring their own."""

    def mlockall(self, flags: int) -> None:
        """Raises OSError."""

    def prctl(self, option: int, value: int) -> None:
        """Raises OSError."""

    def set_oom_score_adj(self, value: int) -> None:
        """Raises OSError."""

    def raise_memlock_limit(self) -> int:
        """Lifts the limit as far as permitted and returns it, RLIM_INFINITY for none."""

    def may_lock_any_memory(self) -> bool:
        """True if the limit does not bind this process."""

    def share_one_heap(self) -> None:
        """Has all threads allocate from one heap."""

    def locked_bytes(self) -> int:
        """Memory of this process that cannot be swapped out."""

    def marked_threads(self) -> Collection[int]:
        """Threads of this process whose allocations never wait for I/O."""

    def oom_score_adj(self) -> int:
        """What the out-of-memory killer goes by."""


class Linux:
    """The real ones."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def mlockall(self, flags: int) -> None:
        """Locks memory into RAM."""
        self._check(self._libc.mlockall(ctypes.c_int(flags)))

    def prctl(self, option: int, value: int) -> None:
        """Sets an attribute of this thread."""
        zero = ctypes.c_ulong(0)
        code = self._libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)
        self._check(code)

    def set_oom_score_adj(self, value: int) -> None:
        """Lowering it takes CAP_SYS_RESOURCE; writing the present value is always allowed."""
        OOM_SCORE_ADJ.write_text(str(value), encoding="ascii")

    def raise_memlock_limit(self) -> int:
        """To infinity with CAP_SYS_RESOURCE, else to the hard limit."""
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        for limit in (resource.RLIM_INFINITY, hard):
            try:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            except (OSError, ValueError):
                continue
            return limit
        return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]

    def may_lock_any_memory(self) -> bool:
        """CAP_IPC_LOCK is in force."""
        return bool(int(_of_status("CapEff"), 16) >> CAP_IPC_LOCK & 1)

    def share_one_heap(self) -> None:
        """What glibc calls arenas; a C library that has none needs nothing."""
        mallopt = getattr(self._libc, "mallopt", None)
        if mallopt is not None:
            mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))

    def locked_bytes(self) -> int:
        """Whole mappings, also where no page was touched yet."""
        return int(_of_status("VmLck").removesuffix("kB")) << 10

    def marked_threads(self) -> Collection[int]:
        """By their flags."""
        return {int(task.name) for task in TASKS.iterdir() if _flags(task) & NO_IO_FLAG}

    def oom_score_adj(self) -> int:
        """As it is now."""
        return int(OOM_SCORE_ADJ.read_text(encoding="ascii"))

    @staticmethod
    def _check(code: int) -> None:
        if code != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _of_status(name: str) -> str:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        found, _, value = line.partition(":")
        if found == name:
            return value.strip()
    return "0"


def _flags(task: Path) -> int:
    try:
        text = (task / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        # The thread has ended.
        return 0
    # The second field is a name in parentheses, which may hold anything.
    _, _, fields = text.rpartition(")")
    return int(fields.split()[FLAGS_FIELD - 3])


@dataclass(frozen=True, slots=True)
class Protection:
    """What became of one protection that the configuration asked for."""

    what: str
    in_force: bool
    problem: str = ""
    cure: str = ""


def harden(
    config: HardeningConfig, *, populate: bool, pool_bytes: int, kernel: Kernel | None = None
) -> list[Protection]:
    """Takes every protection that is asked for; raises HardeningError where one is insisted on."""
    assert threading.active_count() == 1, "hardening came after another thread was started"
    kernel = kernel or Linux()
    protections = []
    if config.lock_memory != "off":
        lock = lambda: _lock_memory(kernel, populate=populate, pool_bytes=pool_bytes)  # noqa: E731
        cure = "give CAP_IPC_LOCK or LimitMEMLOCK=infinity (docker: --ulimit memlock=-1)"
        protections.append(_take("lock_memory", config.lock_memory, lock, cure))
    if config.io_flusher != "off":
        mark = lambda: kernel.prctl(PR_SET_IO_FLUSHER, 1)  # noqa: E731
        cure = "give CAP_SYS_RESOURCE (docker: --cap-add SYS_RESOURCE), Linux 5.6 or newer"
        protections.append(_take("io_flusher", config.io_flusher, mark, cure))
    if config.oom_score_adj:
        score = lambda: kernel.set_oom_score_adj(config.oom_score_adj)  # noqa: E731
        cure = "give CAP_SYS_RESOURCE or OOMScoreAdjust=-1000 (docker: --oom-score-adj -1000)"
        protections.append(_take("oom_score_adj", "auto", score, cure))
    return protections


def verify(
    protections: Iterable[Protection],
    config: HardeningConfig,
    *,
    threads: Collection[int],
    pool_bytes: int,
    kernel: Kernel | None = None,
) -> list[Protection]:
    """Asks whether all that was taken is in force in all threads; HardeningError as `harden`."""
    kernel = kernel or Linux()
    return [
        _verified(kept, config, threads, pool_bytes, kernel) if kept.in_force else kept
        for kept in protections
    ]


def _verified(
    taken: Protection,
    config: HardeningConfig,
    threads: Collection[int],
    pool_bytes: int,
    kernel: Kernel,
) -> Protection:
    problem, mode = "", "auto"
    if taken.what == "lock_memory":
        mode, locked_bytes = config.lock_memory, kernel.locked_bytes()
        if locked_bytes < pool_bytes:
            problem = f"{locked_bytes} bytes are locked, wanted more than the pool's {pool_bytes}"
    elif taken.what == "io_flusher":
        mode, bare = config.io_flusher, len(set(threads) - set(kernel.marked_threads()))
        if bare:
            problem = f"{bare} of {len(threads)} threads do not have it"
    elif kernel.oom_score_adj() != config.oom_score_adj:
        problem = f"it is {kernel.oom_score_adj()}, wanted {config.oom_score_adj}"
    if not problem:
        return taken
    if mode == "on":
        raise HardeningError(f"hardening.{taken.what} is on but: {problem}; {LOST_CURE}")
    return Protection(taken.what, False, problem, LOST_CURE)


def _take(what: str, mode: str, action: Callable[[], None], cure: str) -> Protection:
    try:
        action()
    except OSError as error:
        problem = error.strerror or str(error)
        if mode == "on":
            raise HardeningError(f"hardening.{what} is on but: {problem}; {cure}") from None
        return Protection(what, False, problem, cure)
    return Protection(what, True)


def _lock_memory(kernel: Kernel, *, populate: bool, pool_bytes: int) -> None:
    limit_bytes = kernel.raise_memlock_limit()
    wanted_bytes = pool_bytes + LOCKED_BESIDES_POOL_BYTES
    bound = limit_bytes != resource.RLIM_INFINITY and not kernel.may_lock_any_memory()
    if bound and limit_bytes < wanted_bytes:
        # Locking would succeed now, and then the first large allocation would fail.
        raise OSError(0, f"the limit is {limit_bytes} bytes, wanted {wanted_bytes}")
    # Each heap of a thread reserves 64 MiB of addresses, which would count as locked.
    kernel.share_one_heap()
    kernel.mlockall(MCL_CURRENT)
    # What is mapped later is taken whole at once, or, if the pool shall grow on demand, page by
    # page as it is touched.
    kernel.mlockall(MCL_FUTURE | (0 if populate else MCL_ONFAULT))
    threading.stack_size(THREAD_STACK_BYTES)


def die_with_parent(signal_number: int, kernel: Kernel | None = None) -> int:
    """Has the kernel send a signal when the parent ends; returns the parent's process id.

    The parent may have ended before that, and then no signal comes: ask `is_orphan` afterwards.
    """
    parent = os.getppid()
    (kernel or Linux()).prctl(PR_SET_PDEATHSIG, signal_number)
    return parent


def is_orphan(parent: int) -> bool:
    """True if the process that was our parent is not any more."""
    # Process 1 takes orphans; as a parent from the start it would never end before us.
    return parent == 1 or os.getppid() != parent
