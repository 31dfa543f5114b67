"""Kills servers and prints what became of each kill: python -m tests.kills --kills 50 --seed 7

Ends with a traceback and status 1 at the first page that is not as it had been acknowledged.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

from tests.kills.life import Kill, Lives
from tests.kills.plan import PAGES, plan

_HEAD = (
    f"{'kill':>4}  {'zpool codec store connections':<32} {'killed in':<19} {'requests':>8} "
    f"{'in doubt':>8} {'pool':>5} {'store':>5} {'adopted':>7} {'ms':>4}  every page"
)


def row(number: int, kill: Kill) -> str:
    in_pool, in_store = kill.pages["pool"] + kill.pages["raw"], kill.pages["store"]
    moment = f"{kill.moment}{f' ({kill.note})' if kill.note else ''}"
    newer = f", {kill.pages_newer} newer than flushed" if kill.pages_newer else ""
    return (
        f"{number:>4}  {kill.machine!s:<32} {moment:<19} {kill.requests:>8} {kill.in_doubt:>8} "
        f"{in_pool:>5} {in_store:>5} {kill.pages_adopted:>7} {kill.adoption_ms:>4}  right{newer}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed} KILLS={arguments.kills}", flush=True)
    print(_HEAD)
    rng = random.Random(arguments.seed)
    number, moments, requests = 0, Counter[str](), 0
    for machine in plan(arguments.seed, arguments.kills):
        try:
            for kill in Lives(machine, random.Random(rng.getrandbits(64))).kills():
                number += 1
                requests += kill.requests
                moments[f"{kill.moment} {kill.note}".strip()] += 1
                print(row(number, kill), flush=True)
        except BaseException:
            print(f"{machine}, after kill {number}; replay with SEED={arguments.seed}", flush=True)
            raise
    print(
        f"{number} kills ({', '.join(f'{count} {what}' for what, count in moments.items())}), "
        f"{requests} requests acknowledged before them, {PAGES} pages compared after each: "
        "none wrong, none lost"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
