"""The program that would take our place: which one it is, and whether it can.

It is what the command that started us would start today: the script by its own path, so that a new
interpreter in its first line or a link that leads elsewhere by now count, or `python -m` as it was.
It is asked before anything is given up, as a child that reads the configuration, loads the engine,
compares and ends. Whatever is broken in the new version or its configuration is found there.

Not here: what is compared (`preflight`), and taking the place (`upgrade`).
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from nbdswap.errors import UpgradeError
from nbdswap.handover import Predecessor

# A flag of `serve` that no other version has to know: one that does not refuses by not knowing it.
CHECK_FLAG: Final = "--check-upgrade"
CHECK_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """A file to execute and its whole argument list."""

    path: str
    argv: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> Self:
        """The one that was asked for when this process was started."""
        return cls.started_by(sys.executable, sys.orig_argv)

    @classmethod
    def started_by(cls, interpreter: str, argv: Sequence[str]) -> Self:
        """From the interpreter's own argument list."""
        script = argv[1] if len(argv) > 1 else "-"
        if not script.startswith("-") and _is_program(Path(script)):
            return cls(os.path.abspath(script), tuple(argv[1:]))  # noqa: PTH100 -- links stay links
        return cls(interpreter, (interpreter, *argv[1:]))

    def check(self, predecessor: Predecessor) -> str:
        """Its version, if it can take over; raises UpgradeError. Takes about a second."""
        try:
            ended = subprocess.run(
                [*self.argv, CHECK_FLAG],
                executable=self.path,
                input=predecessor.encode(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CHECK_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise UpgradeError(f"{self.path} cannot be executed: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            problem = f"{self.path} does not say within {CHECK_TIMEOUT_S:g} s that it can take over"
            raise UpgradeError(problem) from None
        if ended.returncode != 0:
            lines = ended.stderr.strip().splitlines()
            words = lines[-1] if lines else "it said nothing"
            raise UpgradeError(
                f"{self.path} cannot take over, it ended with status {ended.returncode}: {words}"
            )
        return ended.stdout.strip()

    def execute(self, variables: Mapping[str, str]) -> None:
        """Takes our place. Returns only by raising OSError."""
        os.execve(self.path, self.argv, {**os.environ, **variables})  # noqa: S606 -- no shell


def _is_program(script: Path) -> bool:
    """Is it a file that says itself what executes it?"""
    try:
        with script.open("rb") as file:
            return os.access(script, os.X_OK) and file.read(2) == b"#!"
    except OSError:
        return False
