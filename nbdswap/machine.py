"""What the defaults depend on: this machine and this user."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts that defaults are made of; a test passes its own."""

    memory_bytes: int
    cpus: int
    state_dir: Path
    """Survives a reboot: backing file, state, lock."""
    runtime_dir: Path
    """Goes with a reboot: sockets."""

    @classmethod
    def here(cls) -> "Machine":
        """This machine, for the user who runs this process."""
        state_dir = _state_dir()
        return cls(
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            cpus=len(os.sched_getaffinity(0)),
            state_dir=state_dir,
            runtime_dir=_runtime_dir(state_dir),
        )


def _state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/nbdswap")
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "nbdswap"


def _runtime_dir(state_dir: Path) -> Path:
    if os.geteuid() == 0:
        return Path("/run/nbdswap")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / "nbdswap" if runtime else state_dir
