"""What is measured, and what is wanted of nbdswap.

Not here: measuring (run.py) and judging (report.py).
"""

from dataclasses import dataclass

SUBJECT = "nbdswap"
FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One kind of load."""

    name: str
    what: str
    action: str
    order: str
    block_bytes: int
    depth: int
    connections: int = 1


TESTS = [
    Test(
        name="fill",
        what="write 64 KiB in order, depth 16",
        action="write",
        order="sequential",
        block_bytes=64 << 10,
        depth=16,
    ),
    Test(
        name="verify",
        what="read 32 KiB in order, depth 16",
        action="read",
        order="sequential",
        block_bytes=32 << 10,
        depth=16,
    ),
    *(
        Test(
            name=f"{action}-{depth}",
            what=f"{action} 4 KiB at random, depth {depth}",
            action=action,
            order="random",
            block_bytes=4096,
            depth=depth,
        )
        for action, depth in [
            ("read", 1),
            ("read", 2),
            ("read", 32),
            ("write", 1),
            ("write", 32),
        ]
    ),
    Test(
        name="mix",
        what="read or write 4 KiB at random, two connections, depth 32 each",
        action="mix",
        order="random",
        block_bytes=4096,
        depth=32,
        connections=2,
    ),
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """IOPS of the subject must be at least `least` times those of `server`."""

    test: str
    server: str
    least: float


WANTED = [
    Wanted("read-1", "nbdkit-malloc", 1.4),
    Wanted("read-2", "nbdkit-malloc", 1.5),
    Wanted("read-32", "nbdkit-malloc", 1.25),
    Wanted("mix", "nbdkit-malloc", 1.8),
    Wanted("write-32", "nbdkit-malloc", 0.55),
    Wanted("write-32", "nbdkit-zstd", 12.0),
    *(Wanted(test.name, FLOOR, 0.9) for test in TESTS),
]
POOL_MOST = 1.05
