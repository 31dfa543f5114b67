"""What a server takes over from its predecessor: everything, nothing, or the knowledge of a loss.

Four ways, and one rule above them: a page that may have been written is never served as zeros
because its bytes are gone.

* Nothing was there to lose: start empty, in the next generation.
* The predecessor's memory is there and fits: adopt it, in the same generation.
* It is gone, and there are exports that survive that (`durability: disk`): their pages are made
  from the log of the store, in the same generation; the others open as lost.
* The memory is gone (a reboot, a removed file): next generation, and every export that may have
  held data opens as lost.

Memory that is there and does not fit is refused and left as it is: nobody forgets it unasked. So
is a log.

Decisions only: nothing here touches a file, a clock or chance.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from nbdswap.config import Config
from nbdswap.errors import RefusedError
from nbdswap.snapshots import CoreSnapshot, PageCounts
from nbdswap.state import ExportState, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """How to open the engine."""

    state: State
    """To be written before the engine is opened."""
    adopt: bool
    lost: frozenset[str]
    """Exports whose pages fail until they are written or discarded, unless they were adopted."""
    recovered: frozenset[str] = frozenset()
    """Exports that are made from the store's log if their pages are not adopted."""
    unsettled: frozenset[str] = frozenset()
    """Exports that become durable now; `settled` is the state once what they hold is written."""
    forgotten: tuple[str, ...] = ()
    """Exports with data that the configuration does not name any more."""
    reason: str = ""
    """Why data is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """What a start without a predecessor is known by; the caller has the clock and the dice."""

    instance: int
    generation_min: int
    """The time in seconds: it keeps generations apart even if the state was removed."""


def decide(
    previous: State | None, config: Config, newcomer: Newcomer, *, memory_present: bool, fresh: bool
) -> Succession:
    """What the server that is starting takes over.

    Raises RefusedError if the memory is there and the configuration does not fit it.
    """
    if previous is None or fresh or not previous.may_hold_data:
        state = _new_state(previous, config, newcomer, lost=frozenset())
        return Succession(state=state, adopt=False, lost=frozenset())
    reason = misfit(previous, config)
    if reason and (memory_present or _durable(previous)):
        raise RefusedError(
            f"{reason}, and the last server holds pages of clients: set it back, or start once "
            "with --fresh to forget them"
        )
    if not memory_present:
        reason = reason or "the memory of the last server is gone (reboot or removed files)"
        if _durable(previous):
            return recover(previous, config, reason)
        return lose(previous, config, newcomer, reason)
    # Durability may have changed; what was lost before stays lost.
    return Succession(
        state=replace(previous, exports=_carried_on(previous, config), clean=False),
        adopt=True,
        lost=_lost_with_memory(previous),
        recovered=_durable(previous),
        unsettled=_unsettled(previous, config),
    )


def recover(previous: State, config: Config, reason: str) -> Succession:
    """The way for exports that survive the loss of memory; the others are lost."""
    lost = _lost_with_memory(previous)
    exports = (
        replace(export, lost=export.name in lost) for export in _carried_on(previous, config)
    )
    return Succession(
        state=replace(previous, exports=tuple(exports), clean=False),
        adopt=False,
        lost=lost,
        recovered=_durable(previous),
        unsettled=_unsettled(previous, config),
        reason=reason,
    )


def settled(state: State, config: Config) -> State:
    """The state once everything that durable exports hold is written down."""
    exports = (
        replace(export, durability=new.durability)
        for export, new in zip(state.exports, config.exports, strict=True)
    )
    return replace(state, exports=tuple(exports))


def lose(previous: State, config: Config, newcomer: Newcomer, reason: str) -> Succession:
    """The way for data whose memory cannot be adopted."""
    holders = _holders(previous)
    lost = holders & {export.name for export in config.exports}
    return Succession(
        state=_new_state(previous, config, newcomer, lost=lost),
        adopt=False,
        lost=lost,
        forgotten=tuple(sorted(holders - lost)),
        reason=reason,
    )


def after_stop(state: State, config: Config, snapshot: CoreSnapshot) -> tuple[State, bool]:
    """The state that a clean stop leaves, and whether the memory may be removed."""
    forget = all(export.durability == "volatile" for export in config.exports)
    pages = {export["name"]: export["pages"] for export in snapshot["exports"]}
    exports = tuple(_at_rest(export, pages[export.name], forget=forget) for export in state.exports)
    state = replace(state, exports=exports, clean=True)
    return state, not state.may_hold_data


def memory_files(memory_dir: Path, instance: int) -> tuple[Path, Path]:
    """Pool and page table of an instance."""
    stem = f"nbdswap-{instance:016x}"
    return memory_dir / f"{stem}.pool", memory_dir / f"{stem}.table"


def _at_rest(export: ExportState, pages: PageCounts, *, forget: bool) -> ExportState:
    """Zeros need no keeping, an empty export gives them too; but a loss has to be remembered."""
    kept = pages["same_filled"] + pages["pool"] + pages["raw"] + pages["store"]
    missing = pages["lost"] + (pages["unwritten"] if export.lost else 0)
    lost = missing > 0 and not forget
    return replace(export, may_hold_data=lost or (kept > 0 and not forget), lost=lost)


def _holders(state: State) -> frozenset[str]:
    return frozenset(export.name for export in state.exports if export.may_hold_data)


def _durable(state: State) -> frozenset[str]:
    """Exports whose flushed pages are in the store's log, if there is anything to find."""
    durable = frozenset(e.name for e in state.exports if e.durability == "disk")
    return durable if durable & _holders(state) else frozenset()


def _lost_with_memory(state: State) -> frozenset[str]:
    """Exports whose unwritten pages are lost, not empty, if nothing is adopted."""
    were_lost = frozenset(export.name for export in state.exports if export.lost)
    return were_lost | (_holders(state) - _durable(state))


def _unsettled(previous: State, config: Config) -> frozenset[str]:
    pairs = zip(previous.exports, config.exports, strict=True)
    return frozenset(
        new.name for old, new in pairs if new.durability == "disk" and old.durability != "disk"
    )


def _carried_on(previous: State, config: Config) -> tuple[ExportState, ...]:
    """The exports, with their durability as configured but for those still to be settled."""
    unsettled = _unsettled(previous, config)
    return tuple(
        old if old.name in unsettled else replace(old, durability=new.durability)
        for old, new in zip(previous.exports, config.exports, strict=True)
    )


def _new_state(
    previous: State | None, config: Config, newcomer: Newcomer, *, lost: frozenset[str]
) -> State:
    instance, generation = newcomer.instance, newcomer.generation_min
    if previous is not None:
        # The backing file belongs to the instance.
        instance = previous.instance
        generation = max(generation, previous.generation + 1)
    return State(
        instance=instance,
        generation=generation,
        memory_dir=None if config.memory_dir is None else str(config.memory_dir),
        page_bytes=config.page_bytes,
        exports=tuple(
            ExportState(
                name=export.name,
                size_bytes=export.size_bytes,
                durability=export.durability,
                may_hold_data=export.name in lost,
                lost=export.name in lost,
            )
            for export in config.exports
        ),
        clean=False,
    )


def misfit(previous: State, config: Config) -> str:
    """What in the configuration keeps the memory of the last server from being adopted.

    Not the pool's size or kind: the engine then adopts the page table without the pool, and only
    the pages that were in the pool are lost.
    """
    if previous.memory_dir is None:
        return "the last server kept its memory to itself (memory_dir: none)"
    if config.memory_dir is None or str(config.memory_dir) != previous.memory_dir:
        found = config.memory_dir or "none"
        return f"memory_dir was changed from {previous.memory_dir} to {found}"
    if config.page_bytes != previous.page_bytes:
        return f"page_bytes was changed from {previous.page_bytes} to {config.page_bytes}"
    was = [(export.name, export.size_bytes) for export in previous.exports]
    now = [(export.name, export.size_bytes) for export in config.exports]
    return "" if was == now else "names, sizes or order of the exports were changed"
