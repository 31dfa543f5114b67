"""Compares NBD servers as homes for swapped pages: `python bench/run.py --help`.

Starts nbdswap, its peers and a floor at once, loads them in turn with real memory pages, checks
every byte that it reads, and prints medians and ratios. bench/README.md says what they mean.
"""

import argparse
import json
import lzma
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import report
import servers
from loader import Load, LoadError, whole_image
from plan import FLOOR, SUBJECT, TESTS, Test
from report import Measurement, Memory, Results
from servers import Place, Server, ServerError, machine_cpu_seconds

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "target/release"
FORMAT_VERSION = 1


class Bench:
    """A run: servers that are ready, a load generator, and what was measured so far."""

    def __init__(self, fleet: dict[str, Server], load: Load, image_bytes: int) -> None:
        self.fleet = fleet
        self.load = load
        self.image_bytes = image_bytes
        self.measurements: list[Measurement] = []

    def run(self, rounds: int, seconds: float, chance: random.Random) -> Results:
        """Fill, rounds, last check."""
        empty = {name: server.resident_bytes() for name, server in self.fleet.items()}
        filled = {}
        for name, server in self.fleet.items():
            self.load.new_image(name, self.image_bytes)
            self._ask(server, whole_image("fill", 64 << 10))
            filled[name] = server.resident_bytes()
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for test in TESTS:
                # All servers do a test before anyone does the next, each time in another order.
                for name in chance.sample(sorted(self.fleet), len(self.fleet)):
                    self._measure(number, test, self.fleet[name], seconds)
        memory = []
        for name, server in self.fleet.items():
            self._ask(server, whole_image("read", 32 << 10))
            memory.append(
                Memory(
                    server=name,
                    image=self.image_bytes,
                    empty=empty[name],
                    filled=filled[name],
                    ended=server.resident_bytes(),
                    pool_wanted=self.load.pool_bytes(name),
                    pool_used=server.pool_used_bytes(),
                )
            )
        return Results(self.measurements, memory)

    def _measure(self, number: int, test: Test, server: Server, seconds: float) -> None:
        asked = {**asdict(test), "seconds": seconds}
        before = (server.cpu_seconds(), self.load.cpu_seconds(), machine_cpu_seconds())
        outcome = self._ask(server, asked)
        after = (server.cpu_seconds(), self.load.cpu_seconds(), machine_cpu_seconds())
        cpu, load_cpu, machine_cpu = (b - a for a, b in zip(before, after, strict=True))
        self.measurements.append(
            Measurement(
                round=number,
                test=test.name,
                server=server.name,
                server_cpu_seconds=cpu,
                other_cpu_seconds=max(machine_cpu - cpu - load_cpu, 0.0),
                **outcome,
            )
        )

    def _ask(self, server: Server, test: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.load.test(server, test)
        except LoadError as error:
            raise LoadError(f"{server.name}: {error}\n{server.log_tail()}") from error


def say(text: str) -> None:
    """Progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="rounds of every test (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="0.3 s a test, 128 MiB: a smoke test")
    parser.add_argument("--seconds", type=float, help="length of a test (1.0; quick: 0.3)")
    parser.add_argument("--image-mib", type=int, help="pages to store (512 MiB; quick: 128)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (1)")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a wanted figure is missed")
    parser.add_argument(
        "--without", action="append", default=[], choices=servers.NAMES, help="leave out a server"
    )
    parser.add_argument("--nbdswap", help="the program nbdswap (the one of this environment)")
    arguments = parser.parse_args()
    if {SUBJECT, FLOOR} <= set(arguments.without):
        parser.error("one of nbdswap and floor must run: ratios are of the one or the other")
    quick = arguments.quick
    arguments.rounds = arguments.rounds or (3 if quick else 5)
    arguments.seconds = arguments.seconds or (0.3 if quick else 1.0)
    arguments.image_mib = arguments.image_mib or (128 if quick else 512)
    return arguments


def unpack_sample(path: Path) -> None:
    """All sample pages, raw, in one file."""
    packed = sorted((HERE / "pages").glob("*.pages.xz"))
    path.write_bytes(b"".join(lzma.decompress(part.read_bytes()) for part in packed))


def find_nbdswap() -> str:
    """The program beside this Python, else the one in the project's .venv, else by PATH."""
    near = [Path(sys.executable).parent / "nbdswap", HERE.parent / ".venv/bin/nbdswap"]
    return next((str(path) for path in near if path.exists()), "nbdswap")


def machine(plans: list[servers.Plan]) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    versions = {}
    for program in sorted({plan.command[0] for plan in plans if plan.name != FLOOR}):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        versions[Path(program).name] = done.stdout.partition("\n")[0]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "versions": versions,
    }


def as_json(results: Results, arguments: argparse.Namespace, where: dict[str, Any]) -> str:
    """The results file; bench/README.md describes it."""
    content = {
        "format_version": FORMAT_VERSION,
        "machine": where,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "image_bytes": arguments.image_mib << 20,
        "seed": arguments.seed,
        "measurements": [
            {**asdict(m), "iops": m.iops, "cpu_us_per_page": m.cpu_us_per_page}
            for m in results.measurements
        ],
        "memory": [asdict(entry) for entry in results.memory],
        "verdicts": [asdict(verdict) for verdict in results.verdicts()],
    }
    return json.dumps(content, indent=1) + "\n"


def measure(arguments: argparse.Namespace, folder: Path, memory_folder: Path) -> Results:
    """Everything between the arguments and the report."""
    sample = folder / "sample"
    unpack_sample(sample)
    image_bytes = arguments.image_mib << 20
    with Load(PROGRAMS / "nbdload", sample, arguments.seed) as load:
        place = Place(
            folder=folder,
            memory_folder=memory_folder,
            image_bytes=image_bytes,
            # Room to spare: how a server behaves that is full is another question.
            pool_bytes=load.new_image("any", image_bytes) * 5 // 4,
            floor_program=PROGRAMS / "nbdfloor",
            nbdswap_program=arguments.nbdswap or find_nbdswap(),
        )
        plans = []
        for name in servers.NAMES:
            if name in arguments.without:
                continue
            plan = place.plan(name)
            if plan is not None:
                plans.append(plan)
            elif name == SUBJECT:
                raise ServerError(
                    "nbdswap is not installed; --without nbdswap runs its peers alone"
                )
            else:
                print(f"{name} is not installed and left out")
        where = machine(plans)
        print(f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}")
        print(*where["versions"].values(), sep="\n")
        with servers.running(plans) as fleet:
            bench = Bench(fleet, load, image_bytes)
            results = bench.run(
                arguments.rounds,
                arguments.seconds,
                random.Random(arguments.seed),  # noqa: S311
            )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(as_json(results, arguments, where))
    return results


def leave(_signal: int, _frame: FrameType | None) -> None:
    """A polite end of this program ends its servers too."""
    raise SystemExit(1)


def main() -> int:
    arguments = read_arguments()
    signal.signal(signal.SIGTERM, leave)
    build = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run(build, cwd=HERE, check=True)
    folder = Path(tempfile.mkdtemp(prefix="nbdswap-bench-"))
    memory_folder = Path(tempfile.mkdtemp(prefix="nbdswap-bench-", dir=servers.TMPFS))
    try:
        results = measure(arguments, folder, memory_folder)
    except (LoadError, ServerError) as error:
        say(f"bench: {error}")
        return 1
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(memory_folder)
    print(
        f"{arguments.image_mib} MiB of pages, {arguments.rounds} rounds of {arguments.seconds:g} s,"
        f" seed {arguments.seed}; medians of the rounds\n"
    )
    print(report.render(results))
    missed = sum(not verdict.reached for verdict in results.verdicts())
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
