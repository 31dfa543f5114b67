"""Soaks servers: python -m tests.soak --minutes 20 --seed 7

Half of the time one with pages of 4 KiB, whose file system is filled up, and half of it one with
pages of 16 KiB, whose disk fails and falls silent. Prints a table for each at the end. Status 1 if
any answer was wrong, with a traceback that says which.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.soak import Place, Soak, failing_disk, small_file_system

SCENARIOS: dict[int, Callable[[Path], contextlib.AbstractContextManager[Place]]] = {
    4096: small_file_system,
    16384: failing_disk,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed} MINUTES={arguments.minutes:g}", flush=True)
    tables, is_good = [], True
    for page_bytes, make_place in SCENARIOS.items():
        minutes = arguments.minutes / len(SCENARIOS)
        table, has_passed = soak(page_bytes, make_place, arguments.seed, minutes)
        tables.append(table)
        is_good &= has_passed
    print("\n\n".join(tables))
    return 0 if is_good else 1


def soak(
    page_bytes: int,
    make_place: Callable[[Path], contextlib.AbstractContextManager[Place]],
    seed: int,
    minutes: float,
) -> tuple[str, bool]:
    """Its table, and whether all was well."""
    title = f"pages of {page_bytes >> 10} KiB"
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = Place()
        try:
            place = stack.enter_context(make_place(directory))
        except pytest.skip.Exception as reason:
            print(f"{title}: a plain file that no harm is done to, since {reason}", flush=True)
        one = Soak(seed, page_bytes, place)
        try:
            one.run(minutes)
        except Exception:
            traceback.print_exc()
            return one.tally.table(title, f"FAILED, replay with SEED={seed}"), False
    return one.tally.table(title, "good"), True


if __name__ == "__main__":
    sys.exit(main())
