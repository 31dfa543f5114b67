"""Soaks a server: python -m tests.soak --minutes 20 --seed 7

Prints a table at the end. Status 1 if any answer was wrong, with a traceback that says which.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from tests.soak.soak import FILE_SYSTEM_BYTES, Soak
from tests.support.file_systems import mounted


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed} MINUTES={arguments.minutes:g}", flush=True)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = None
        try:
            place = stack.enter_context(mounted("ext4", FILE_SYSTEM_BYTES, directory))
        except pytest.skip.Exception as reason:
            print(f"no disk is filled up: {reason}", flush=True)
        soak = Soak(arguments.seed, arguments.minutes, place)
        try:
            soak.run()
        except Exception:
            traceback.print_exc()
            print(soak.tally.table(f"FAILED, replay with SEED={arguments.seed}"))
            return 1
    print(soak.tally.table("good"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
