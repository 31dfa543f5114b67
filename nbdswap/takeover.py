"""Opening the engine on what the last server left, and saying aloud what was lost.

The order matters: the state is written before memory is removed or opened, so a crash in between
leaves a state that is at worst too careful. Not here: the rules (`succession`).
"""

import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from nbdswap.config import Config
from nbdswap.engine import Engine, OpenCore, open_engine
from nbdswap.errors import NbdswapError, RefusedError
from nbdswap.logs import EventLog
from nbdswap.state import State, StateDir, boot_id
from nbdswap.store_key import forget_key
from nbdswap.succession import (
    Newcomer,
    Succession,
    decide,
    lose,
    memory_files,
    recover,
    settled,
)

log = EventLog("state")

CURE = (
    "reading them fails until they are written or discarded; if no client needs them any more, "
    "`blkdiscard` the device or start once with --fresh"
)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """An open engine, not yet started."""

    engine: Engine
    state: State
    adopted: bool

    @property
    def lost(self) -> frozenset[str]:
        """Exports some of whose pages may be lost, now or since an earlier start."""
        return frozenset(export.name for export in self.state.exports if export.lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """One start: what there is to open and what it is opened on."""

    open_core: OpenCore
    config: Config
    state_dir: StateDir
    previous: State | None
    populate: bool
    store_fd: int | None = None
    """The backing file as the predecessor in this process had it open."""
    boot_id: str | None = field(default_factory=boot_id)
    """Of the host, now; a test passes its own."""

    def run(self, *, fresh: bool) -> TakenOver:
        """Adopts the predecessor's memory, or starts anew and knows what was lost."""
        newcomer = Newcomer(instance=secrets.randbits(64), generation_min=int(time.time()))
        present = self._memory_present()
        if present and self._is_of_another_boot():
            assert self.previous is not None, "memory without a predecessor"
            log.warning(
                "the memory of the last server is of another boot of the host, and not believed",
                memory_dir=self.previous.memory_dir,
            )
            # Before a state of this boot is written, by which it would be believed.
            _remove_memory(self.previous)
            present = False
        succession = self._in_this_boot(
            decide(self.previous, self.config, newcomer, memory_present=present, fresh=fresh)
        )
        engine, adopted = self._open(succession, self.store_fd)
        if succession.adopt and not adopted:
            # Their maker died before it served anybody. Files that are another's are refused.
            assert self.previous is not None, "adopted without a predecessor"
            reason = "the memory of the last server cannot be adopted"
            if succession.recovered:
                # The engine has made them from the log already.
                succession = self._in_this_boot(recover(self.previous, self.config, reason))
                self.state_dir.write(succession.state)
            else:
                succession = lose(self.previous, self.config, newcomer, reason)
                succession = self._in_this_boot(succession)
                engine.close(forget=True)
                engine, adopted = self._open(succession, None)
        if succession.reason and (succession.lost or succession.forgotten):
            _say_what_is_lost(succession)
        state = self._settle(engine, succession)
        return TakenOver(engine, state, adopted or bool(succession.recovered))

    def _settle(self, engine: Engine, succession: Succession) -> State:
        """Writes down what exports hold that become durable now; only then they are called so."""
        if not succession.unsettled:
            return succession.state
        try:
            engine.settle()
        except OSError as error:
            engine.close(forget=False)
            names = ", ".join(sorted(succession.unsettled))
            raise RefusedError(
                f"durability of {names} cannot be disk, since {error}; set it to process"
            ) from None
        state = settled(succession.state, self.config)
        self.state_dir.write(state)
        return state

    def _open(self, succession: Succession, store_fd: int | None) -> tuple[Engine, bool]:
        self.state_dir.write(succession.state)
        if self.previous is not None and not succession.adopt:
            # Before the new memory is taken: the tmpfs may not have room for both.
            _remove_memory(self.previous)
        began_s = time.monotonic()
        try:
            engine, report = open_engine(
                self.open_core,
                self.config,
                succession,
                populate=self.populate,
                store_fd=store_fd,
            )
        except NbdswapError:
            self._undo(succession)
            raise
        for warning in report["warnings"]:
            log.warning(warning)
        if report["io"]:
            # Said once: in many containers it cannot be otherwise, and is no fault.
            reason = {"reason": report["io_reason"]} if report["io_reason"] else {}
            log.info("several reads of the store at once", io=report["io"], **reason)
        if report["adopted"]:
            log.info(
                "adopted the memory of the last server",
                instance=f"{succession.state.instance:016x}",
                pages=report["pages_adopted"],
                ms=round((time.monotonic() - began_s) * 1000),
            )
        elif report["recovered"]:
            log.info(
                "recovered what was flushed from the store",
                exports=",".join(sorted(succession.recovered)),
                pages=report["pages_recovered"],
                ms=round((time.monotonic() - began_s) * 1000),
            )
        elif succession.adopt:
            log.error("cannot adopt the memory of the last server", reason=report["reason"])
        if report["pages_lost"]:
            log.error(
                "DATA LOST: not all pages could be adopted", pages=report["pages_lost"], cure=CURE
            )
        return engine, report["adopted"]

    def _undo(self, succession: Succession) -> None:
        """Leaves nothing of a start that failed; what could be adopted stays for the next one."""
        if not succession.adopt:
            _remove_memory(succession.state)
        if self.previous is None:
            self.state_dir.remove_state()

    def _in_this_boot(self, succession: Succession) -> Succession:
        return replace(succession, state=replace(succession.state, boot_id=self.boot_id))

    def _is_of_another_boot(self) -> bool:
        """Files that outlive the host are on a disk, which need not have had their last bytes."""
        then = None if self.previous is None else self.previous.boot_id
        return None not in (then, self.boot_id) and then != self.boot_id

    def _memory_present(self) -> bool:
        previous = self.previous
        if previous is None or previous.memory_dir is None:
            return False
        files = memory_files(Path(previous.memory_dir), previous.instance)
        return all(path.is_file() for path in files)


def _remove_memory(state: State) -> None:
    if state.memory_dir is not None:
        for path in memory_files(Path(state.memory_dir), state.instance):
            path.unlink(missing_ok=True)
        forget_key(Path(state.memory_dir), state.instance)


def _say_what_is_lost(succession: Succession) -> None:
    log.error(
        "DATA LOST: pages that were swapped out before this start are gone",
        reason=succession.reason,
        exports=",".join(sorted(succession.lost)) or "none",
        forgotten=",".join(succession.forgotten) or "none",
        generation=succession.state.generation,
        cure=CURE,
    )
