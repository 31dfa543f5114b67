"""Measures how fast the zpools are, against each other on a machine that is never quite still.

In a round every zpool does the same before anyone goes on, in an order shuffled anew. Ratios of one
round are what counts: a machine that is slow for a minute is slow for all of them.

Not here: what an operation is and how it is timed (LabObjects in nbdswap/_core.pyi).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import plan
from nbdswap import _core
from nbdswap.lab.environment import environment
from nbdswap.lab.pages import PageFile, joined
from plan import Geometry
from results import Sample, Speeds, Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    stored_mib: int = plan.SPEED_STORED_MIB
    cycles: int = plan.SPEED_CYCLES
    rounds: int = plan.SPEED_ROUNDS


def measure(files: Sequence[PageFile], effort: Effort, seed: int, say: plan.Say) -> Speeds:
    """All rounds."""
    codec, level = plan.SPEED_CODEC
    objects = {}
    for page_bytes in {geometry.page_bytes for geometry in plan.SPEED_GEOMETRIES}:
        pages = _core.LabPages.of(joined(files, page_bytes), page_bytes)
        objects[page_bytes], _ = pages.compress(codec, level)
    chance = random.Random(seed)  # noqa: S311 -- an order that can be repeated
    samples = []
    for number in range(effort.rounds):
        for geometry in plan.SPEED_GEOMETRIES:
            say(f"round {number + 1} of {effort.rounds}, {geometry.name}")
            zpools = _core.zpools()
            for zpool in chance.sample(zpools, len(zpools)):
                trial = Trial(objects[geometry.page_bytes], geometry, zpool, effort, seed)
                samples.append(trial.sample(number))
    return Speeds(
        environment=environment(),
        seed=seed,
        codec=codec,
        level=level,
        stored_bytes=effort.stored_mib * plan.MIB,
        cycles=effort.cycles,
        samples=tuple(samples),
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """One zpool with one geometry."""

    objects: _core.LabObjects
    geometry: Geometry
    zpool: str
    effort: Effort
    seed: int

    def sample(self, number: int) -> Sample:
        """Everything that a round wants of it."""
        began = (time.monotonic(), _machine_cpu_seconds(), time.process_time())
        one, two = self._cycle_ns(1), self._cycle_ns(2)
        found = self.objects.pack(
            zpool=self.zpool,
            frame_bytes=self.geometry.frame_bytes,
            stored_bytes=self.effort.stored_mib * plan.MIB,
            seed=self.seed,
        )
        ended = (time.monotonic(), _machine_cpu_seconds(), time.process_time())
        seconds, machine, own = (b - a for a, b in zip(began, ended, strict=True))
        return Sample(
            round=number,
            page_bytes=self.geometry.page_bytes,
            frame_bytes=self.geometry.frame_bytes,
            zpool=self.zpool,
            cycle_ns=one,
            cycle_ns_two=two,
            alloc=_times(found["alloc_ns"]),
            store=_times(found["store_ns"]),
            load=_times(found["load_ns"]),
            free=_times(found["free_ns"]),
            other_cores=round(max(machine - own, 0) / seconds, 2),
        )

    def _cycle_ns(self, threads: int) -> float:
        found = self.objects.speed(
            zpool=self.zpool,
            frame_bytes=self.geometry.frame_bytes,
            stored_bytes=self.effort.stored_mib * plan.MIB,
            threads=threads,
            cycles=self.effort.cycles,
            seed=self.seed,
        )
        return round(found["ns_per_cycle"], 1)


def _times(found: _core.Percentiles) -> Times:
    return Times(round(found["mean"], 1), found["p50"], found["p99"], found["p999"])


def _machine_cpu_seconds() -> float:
    """CPU time that all cores spent on anything so far."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
