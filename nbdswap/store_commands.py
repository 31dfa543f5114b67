"""`nbdswap store inspect|verify|repair`: a look at a store that no server has.

All three take the lock of the state directory first, so that no server runs and none comes up.
Only `repair --write` writes. Reading is the engine's; whose page a damaged record is, the state
and, where it still is, the page table say.

Not here: a store in use, which scrubs itself (`nbdswap status`).
"""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nbdswap.config import Config
from nbdswap.config_file import Override, load
from nbdswap.errors import ExitCode, RefusedError, UsageError, file_error
from nbdswap.machine import Machine
from nbdswap.state import State, StateDir
from nbdswap.store_key import key_source
from nbdswap.succession import memory_files
from nbdswap.units import human_size

if TYPE_CHECKING:
    from nbdswap._core import StoreDamage, StoreLabel

# As the engine has the page table: words of 8 bytes behind a header; see rust/src/table.rs.
TABLE_HEADER_BYTES = 4096
KIND_MASK = 0b111
KIND_STORE = 4
LOCATION_SHIFT = 24
LOCATION_UNIT_BYTES = 8

ConfigPath = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="The server's configuration.")
]
StateDirectory = Annotated[
    str | None, typer.Option("--state-dir", metavar="DIR", help="State, and by default the store.")
]
StorePath = Annotated[str | None, typer.Option("--store", metavar="PATH", help="Backing file.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """A store whose state directory is locked."""

    config: Config
    path: Path
    state: State | None
    """What the last server left; None if there was none."""


def inspect_command(
    config_path: ConfigPath = None,
    state_dir: StateDirectory = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> int:
    """Show the superblock and what a start after loss of the host would find; reads only."""
    from nbdswap._core import inspect_store

    with _offline(config_path, state_dir, store) as offline, _refusals():
        found = inspect_store(str(offline.path))
        recovery, problem = _foresee(offline, found["superblock"])
    if as_json:
        answer = {**found, "recovery": recovery, "recovery_problem": problem}
        typer.echo(json.dumps({"path": str(offline.path), **answer}, indent=2))
    else:
        typer.echo(f"{offline.path}: {human_size(found['bytes'])}")
        typer.echo(_label_line("superblock", found["superblock"], found["problem"]))
        typer.echo(_label_line("copy", found["copy"], "none was found"))
        typer.echo(_generation_line(offline.state, found["superblock"]))
        for line in _recovery_lines(recovery, problem):
            typer.echo(line)
    return ExitCode.OK if found["superblock"] is not None else ExitCode.REFUSED


def verify_command(
    config_path: ConfigPath = None,
    state_dir: StateDirectory = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> int:
    """Read everything in a store and name what is damaged; reads only."""
    from nbdswap._core import inspect_store, verify_store

    with _offline(config_path, state_dir, store) as offline, _refusals():
        superblock = inspect_store(str(offline.path))["superblock"]
        verdict = verify_store(str(offline.path), _key_of(offline, superblock))
        owners = Owners(offline.state)
        damaged = [owners.name(damage) for damage in verdict["damaged"]]
    is_whole = not any(
        verdict[count] for count in ("records_damaged", "records_missing", "heads_damaged")
    )
    if as_json:
        typer.echo(json.dumps({"path": str(offline.path), **verdict, "damaged": damaged}, indent=2))
    else:
        typer.echo(
            f"{verdict['records']:,} records of pages ({human_size(verdict['object_bytes'])}) and "
            f"{verdict['marks']:,} marks in {verdict['segments_written']:,} of "
            f"{verdict['segments']:,} segments are whole"
        )
        typer.echo(
            f"damaged: {verdict['records_damaged']:,} records, {verdict['records_missing']:,} more "
            f"that nobody can name, {verdict['summaries_damaged']:,} lists of records, "
            f"{verdict['heads_damaged']:,} segments as a whole"
        )
        for damage in damaged:
            typer.echo(_damage_line(damage))
        if left_out := verdict["damaged_left_out"]:
            typer.echo(f"  and {left_out:,} more")
    return ExitCode.OK if is_whole else ExitCode.REFUSED


def repair_command(
    config_path: ConfigPath = None,
    state_dir: StateDirectory = None,
    store: StorePath = None,
    write: Annotated[
        bool, typer.Option("--write", help="Do it; without this only say what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Restore the superblock from its copy, or the copy from the superblock; nothing else.

    Records have no copy: a damaged one stays an error for its page.
    """
    from nbdswap._core import inspect_store, repair_store

    with _offline(config_path, state_dir, store) as offline, _refusals():
        action = repair_store(str(offline.path), dry_run=not write)
        found = inspect_store(str(offline.path))
    is_whole = found["superblock"] is not None
    if as_json:
        answer = {"path": str(offline.path), "action": action, "written": write and bool(action)}
        typer.echo(json.dumps(answer, indent=2))
    elif action is not None:
        typer.echo(f"{'done' if write else 'with --write'}: {action}")
    elif is_whole:
        typer.echo("nothing to repair: the superblock is whole")
    else:
        typer.echo(f"cannot be repaired: it {found['problem']}, and no copy was found")
    return ExitCode.OK if is_whole or action is not None else ExitCode.REFUSED


@contextmanager
def _offline(
    config_path: Path | None, state_dir: str | None, store: str | None
) -> Iterator[Offline]:
    flags = [("state_dir", "--state-dir", state_dir), ("store.path", "--store", store)]
    overrides = [Override(key, flag, value) for key, flag, value in flags if value is not None]
    config = load(config_path, overrides, Machine.here())
    path = config.store.path
    if path is None:
        raise UsageError("there is no store: store.path is none")
    if not config.state_dir.is_dir():
        raise RefusedError(f"state_dir {config.state_dir} is not a directory: no server was here")
    locked = StateDir.lock(config.state_dir)
    try:
        if not path.exists():
            raise RefusedError(f"store {path} does not exist")
        yield Offline(config=config, path=path, state=locked.read())
    finally:
        locked.close()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(error.strerror or str(error), error) from None
    except ValueError as error:
        raise RefusedError(f"the store cannot be read: {error}") from None


def _key_of(offline: Offline, superblock: "StoreLabel | None") -> str | None:
    """What the engine reads the key from; None for a store in clear. Raises RefusedError."""
    if superblock is None or not superblock["encrypted"]:
        return None
    return key_source(offline.config, superblock["instance"])


def _foresee(
    offline: Offline, superblock: "StoreLabel | None"
) -> tuple[dict[str, Any] | None, str]:
    """What a start without the memory of the last server would find, or why nobody knows."""
    from nbdswap._core import foresee_recovery

    state = offline.state
    if state is None or not _is_of(state, superblock):
        return None, "no server would take this store over"
    exports = [
        (-(-export.size_bytes // state.page_bytes), export.durability == "disk")
        for export in state.exports
    ]
    if not any(is_durable for _, is_durable in exports):
        return None, "no export is to survive it"
    try:
        key = _key_of(offline, superblock)
        found = foresee_recovery(str(offline.path), key, exports, state.page_bytes)
    except (RefusedError, OSError, ValueError) as error:
        return None, f"cannot be told: {error}"
    named = [
        {"name": export.name, "durability": export.durability, "pages": pages}
        for export, pages in zip(state.exports, found["exports"], strict=True)
    ]
    return {**found, "exports": named}, ""


def _is_of(state: State, superblock: "StoreLabel | None") -> bool:
    return superblock is not None and (superblock["instance"], superblock["generation"]) == (
        state.instance,
        state.generation,
    )


def _recovery_lines(recovery: dict[str, Any] | None, problem: str) -> list[str]:
    if recovery is None:
        return [f"  after loss of the host: {problem}"]
    lines = [
        f"  log: {recovery['segments']:,} segments, of which {recovery['segments_unsure']:,} were "
        "written since the last checkpoint",
        f"  damaged: {recovery['lists_damaged']:,} lists of records, "
        f"{recovery['heads_damaged']:,} segments as a whole, {recovery['records_unnamed']:,} "
        "records that nobody can name",
        "  after loss of the host a start would find:",
    ]
    for export in recovery["exports"]:
        pages = export["pages"]
        if pages is None:
            found = "nothing, an error for every page"
        else:
            found = (
                f"{pages['stored']:,} pages in the store, {pages['filled']:,} of zeros or one "
                f"pattern, {pages['discarded']:,} discarded, {pages['lost']:,} lost"
            )
        lines.append(f"    {export['name']} ({export['durability']}): {found}")
    return lines


class Owners:
    """Whose a record is: by the last server's exports, and its page table if that is there."""

    def __init__(self, state: State | None) -> None:
        self._state = state
        self._table = None
        if state is not None and state.memory_dir is not None:
            table = memory_files(Path(state.memory_dir), state.instance)[1]
            self._table = table if table.is_file() else None

    def name(self, damage: "StoreDamage") -> dict[str, Any]:
        """The damage with export, page in it, and whether a page is there; None: nobody knows."""
        export, page = self._export_of(damage["page"])
        # Where a mark is, the table does not say.
        in_use = self._in_use(damage) if damage["kind"] == "object" else None
        return {**damage, "export": export, "export_page": page, "in_use": in_use}

    def _export_of(self, page: int) -> tuple[str | None, int | None]:
        for export in self._state.exports if self._state is not None else ():
            assert self._state is not None, "it has exports"
            pages = export.size_bytes // self._state.page_bytes
            if page < pages:
                return export.name, page
            page -= pages
        return None, None

    def _in_use(self, damage: "StoreDamage") -> bool | None:
        if self._table is None:
            return None
        with self._table.open("rb") as words:
            words.seek(TABLE_HEADER_BYTES + 8 * damage["page"])
            raw = words.read(8)
        if len(raw) < 8:
            return False
        (word,) = struct.unpack("<Q", raw)
        if word & KIND_MASK != KIND_STORE:
            return False
        place: int = (word >> LOCATION_SHIFT) * LOCATION_UNIT_BYTES
        return place == damage["store_byte"]


def _label_line(what: str, label: "StoreLabel | None", problem: str) -> str:
    if label is None:
        return f"  {what}: {problem}"
    cipher = "AES-256-GCM" if label["encrypted"] else "none"
    return (
        f"  {what}: instance {label['instance']:016x}, generation {label['generation']}, opened "
        f"{label['opens']} times, segments of {human_size(label['segment_bytes'])}, capacity "
        f"{human_size(label['capacity_bytes'])}, encryption {cipher}"
    )


def _generation_line(state: State | None, label: "StoreLabel | None") -> str:
    if state is None:
        return "  state: none, so no server would take this store over"
    if not _is_of(state, label):
        return (
            f"  state: instance {state.instance:016x}, generation {state.generation}: another one"
        )
    return "  state: the same instance and generation"


def _damage_line(damage: dict[str, Any]) -> str:
    if damage["kind"] == "position":
        return f"  {damage['fault']} at byte {damage['store_byte']}: how far the log was whole"
    whose = f"page {damage['page']}"
    if damage["export"] is not None:
        whose = f"page {damage['export_page']} of export {damage['export']}"
    used = {True: ", in use", False: ", not in use any more", None: ""}[damage["in_use"]]
    mark = "mark of " if damage["kind"] == "mark" else ""
    return f"  {damage['fault']} at byte {damage['store_byte']}: {mark}{whose}{used}"
