"""What the benchmark found: medians, ratios of the same round, what was wanted, as text.

Not here: measuring.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from plan import FLOOR, POOL_MOST, SUBJECT, TESTS, WANTED, Test

# Above this, in the median of all tests, the scheduler decides the figures: it shares the cores
# among threads, so that a server of sixteen threads is disturbed less than a server of one.
QUIET_CORES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One test against one server in one round."""

    round: int
    test: str
    server: str
    requests: int
    pages: int
    seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    server_cpu_seconds: float
    other_cpu_seconds: float

    @property
    def iops(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def other_cores(self) -> float:
        """How many cores programs other than this server and the client used."""
        return self.other_cpu_seconds / self.seconds

    @property
    def cpu_us_per_page(self) -> float:
        """CPU time of the server for one page, in microseconds."""
        return self.server_cpu_seconds / self.pages * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one server, in bytes. `pool_wanted` is what lz4 makes of the image."""

    server: str
    image: int
    empty: int
    filled: int
    ended: int
    pool_wanted: int
    pool_used: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A wanted figure and what was found."""

    what: str
    found: float
    wanted: str
    reached: bool


class Results:
    """All measurements of a run."""

    def __init__(self, measurements: Sequence[Measurement], memory: Sequence[Memory]) -> None:
        self.measurements = measurements
        self.memory = memory
        self.servers = [entry.server for entry in memory]
        self.subject = SUBJECT if SUBJECT in self.servers else FLOOR

    def of(self, test: str, server: str) -> list[Measurement]:
        """The rounds of one test against one server, in order."""
        return [m for m in self.measurements if (m.test, m.server) == (test, server)]

    def ratios(self, test: str, server: str) -> list[float]:
        """IOPS of the subject over those of `server`, round by round.

        The machine may be faster in one round than in the next; both of a ratio ran within
        seconds of each other, so their ratio keeps still where the figures themselves move.
        """
        pairs = zip(self.of(test, self.subject), self.of(test, server), strict=True)
        return [mine.iops / theirs.iops for mine, theirs in pairs]

    def verdicts(self) -> list[Verdict]:
        """Every wanted figure that this run can judge; none without nbdswap."""
        if self.subject != SUBJECT:
            return []
        found = []
        for wanted in WANTED:
            if wanted.server in self.servers:
                ratio = median(self.ratios(wanted.test, wanted.server))
                what = f"{wanted.test} against {wanted.server}"
                reached = ratio >= wanted.least
                found.append(Verdict(what, ratio, f">= {wanted.least:g}", reached))
        for entry in self.memory:
            if entry.pool_used is not None:
                share = entry.pool_used / entry.pool_wanted
                what = "pool used over the sum of lz4 sizes"
                found.append(Verdict(what, share, f"<= {POOL_MOST:g}", share <= POOL_MOST))
        return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]

    def text(line: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join([line[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join("  " + text(line) for line in lines)


def test_table(results: Results, test: Test) -> str:
    """One test: a row a server."""
    rows = []
    for server in results.servers:
        rounds = results.of(test.name, server)
        iops = [m.iops for m in rounds]
        ratios = results.ratios(test.name, server)
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        is_subject = server == results.subject
        rows.append(
            [
                server,
                f"{median(iops):.0f}",
                f"{(max(iops) - min(iops)) / median(iops) * 50:.0f} %",
                f"{median(m.p50_us for m in rounds):.1f}",
                f"{median(m.p99_us for m in rounds):.1f}",
                f"{median(m.p999_us for m in rounds):.1f}",
                f"{median(m.cpu_us_per_page for m in rounds):.2f}",
                "" if is_subject else f"{median(ratios):.2f}",
                "" if is_subject else spread,
            ]
        )
    ratio = f"{results.subject}/this"
    head = ["server", "IOPS", "+-", "p50 us", "p99 us", "p99.9 us", "CPU us/page", ratio, "rounds"]
    return f"{test.name}: {test.what}\n{table(head, rows)}"


def memory_table(results: Results) -> str:
    """Memory of each server."""

    def mebibytes(count: int) -> str:
        return f"{count / (1 << 20):.1f}"

    rows = [
        [
            entry.server,
            mebibytes(entry.empty),
            mebibytes(entry.filled),
            mebibytes(entry.ended),
            f"{entry.filled / entry.image:.3f}",
            f"{entry.ended / entry.image:.3f}",
            "" if entry.pool_used is None else mebibytes(entry.pool_used),
            mebibytes(entry.pool_wanted),
        ]
        for entry in results.memory
    ]
    head = ["server", "empty", "filled", "at end"]
    head += ["filled/stored", "end/stored", "pool used", "lz4 sizes"]
    title = "resident memory, MiB, and over the bytes stored; pool in use at the end"
    return f"{title}\n{table(head, rows)}"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """What was wanted and whether it was reached."""
    rows = [
        [v.what, f"{v.found:.3f}", v.wanted, "reached" if v.reached else "missed"] for v in verdicts
    ]
    head = ["median of the rounds' ratios", "found", "wanted", ""]
    return f"wanted of nbdswap\n{table(head, rows)}"


def disturbance(results: Results) -> str:
    """How much of the machine was used by programs that have no part in this."""
    others = sorted(m.other_cores for m in results.measurements)
    found = f"other programs used {median(others):.2f} cores, at worst {others[-1]:.2f}"
    if median(others) <= QUIET_CORES:
        return found
    return f"{found}: TOO BUSY A MACHINE, these figures are not for quoting"


def render(results: Results) -> str:
    """The whole report."""
    parts = [disturbance(results), *(test_table(results, test) for test in TESTS)]
    parts.append(memory_table(results))
    verdicts = results.verdicts()
    if verdicts:
        parts.append(verdict_table(verdicts))
    return "\n\n".join(parts)
