"""Runs the guest by hand: python -m tests.guest --port 10809 --export swap

Prints the report as JSON; the exit status is 0 when all was well. See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.guest.image import KERNELS, GuestUnavailableError, build_image
from tests.guest.machine import GuestSettings, run_guest


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.guest", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, required=True, help="the server's TCP port on 127.0.0.1")
    add("--export", default="")
    add("--connections", type=int, default=1)
    add("--client", choices=("nbd-client", "nbdkeep"), default="nbd-client")
    add("--ram-mib", type=int, default=128)
    add("--program", choices=("memhog", "workset"), default="memhog")
    add("--touch-mib", type=int, default=288)
    add("--rounds", type=int, default=1)
    add("--seed", type=int, default=1)
    add("--free", action=argparse.BooleanOptionalAction, default=True)
    add("--discard", action=argparse.BooleanOptionalAction, default=True)
    add("--min-free-kb", type=int, default=8192, help="0: the guest's own choice")
    add("--timeout-s", type=float, default=450.0)
    add("--kernel", choices=tuple(KERNELS), default="6.1-cloud")
    return parser.parse_args()


def main() -> int:
    arguments = vars(parse_arguments())
    kernel = arguments.pop("kernel")
    try:
        report = run_guest(GuestSettings(**arguments), build_image(kernel))
    except GuestUnavailableError as error:
        print(f"the guest cannot run here: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.summary(), indent=1))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
