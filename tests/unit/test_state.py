"""The state directory has one owner, and its state is whole or refused."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nbdswap.errors import FailingFileError, RefusedError
from nbdswap.state import ExportState, State, StateDir

STATE = State(
    instance=0xFEDCBA9876543210,
    generation=3,
    memory_dir="/dev/shm",
    page_bytes=4096,
    exports=(
        ExportState(
            name="swap", size_bytes=1 << 20, durability="process", may_hold_data=False, lost=False
        ),
    ),
    clean=False,
)


def test_a_state_reads_back_to_the_same(tmp_path: Path) -> None:
    state_dir = StateDir.lock(tmp_path / "new")
    assert state_dir.read() is None
    state_dir.write(STATE)
    state_dir.write(replace(STATE, generation=4))
    assert state_dir.read() == replace(STATE, generation=4)
    assert {entry.name for entry in (tmp_path / "new").iterdir()} == {"lock", "state.json"}
    state_dir.close()


def test_directories_that_are_made_survive_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a FLUSH promised is of no use below a directory that is not there after it."""
    synced = []

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "a" / "b" / "state"
    state_dir = StateDir.lock(path)
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    synced.clear()
    state_dir.write(STATE)
    assert synced == [path / "state.json.new", path], "the file, its name"
    state_dir.close()
    synced.clear()
    StateDir.lock(path).close()
    assert synced == []


def test_marking_an_export_marks_no_other() -> None:
    two = replace(STATE, exports=(*STATE.exports, replace(STATE.exports[0], name="other")))
    marked = two.with_data_in("other")
    assert [export.may_hold_data for export in marked.exports] == [False, True]
    assert marked.may_hold_data
    assert not two.may_hold_data


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"format": 2}),
        STATE.encode().replace('"format": 1', '"format": 9'),
        STATE.encode().replace("fedcba", "no hex"),
        STATE.encode().replace('"generation": 3', '"generation": null'),
        STATE.encode().replace('"name"', '"nome"'),
        STATE.encode()[:-20],
    ],
)
def test_a_damaged_state_is_refused_and_not_taken_for_none(damage: str, tmp_path: Path) -> None:
    state_dir = StateDir.lock(tmp_path)
    state_dir.state_path.write_text(damage)
    with pytest.raises(RefusedError, match=r"is not a state of nbdswap.*--fresh"):
        state_dir.read()
    state_dir.close()


def test_a_second_server_is_refused_with_pid_and_path(tmp_path: Path) -> None:
    first = StateDir.lock(tmp_path)
    with pytest.raises(RefusedError) as caught:
        StateDir.lock(tmp_path)
    said = f"{tmp_path} is in use by another server, process {os.getpid()} ({tmp_path}/lock)"
    assert str(caught.value) == said
    first.close()
    StateDir.lock(tmp_path).close()


def test_a_directory_made_for_nothing_is_removed(tmp_path: Path) -> None:
    StateDir.lock(tmp_path / "made").forsake()
    assert not (tmp_path / "made").exists()


def test_a_directory_that_was_there_or_is_used_is_kept(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    StateDir.lock(tmp_path / "there").forsake()
    used = StateDir.lock(tmp_path / "used")
    used.write(STATE)
    used.forsake()
    assert (tmp_path / "there" / "lock").exists()
    assert (tmp_path / "used" / "state.json").exists()


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="cannot be used as state_dir"):
        StateDir.lock(tmp_path / "file")


def test_a_failed_write_leaves_the_old_state(tmp_path: Path) -> None:
    state_dir = StateDir.lock(tmp_path)
    state_dir.write(STATE)
    (tmp_path / "state.json.new").mkdir()
    with pytest.raises(RefusedError, match="cannot be written"):
        state_dir.write(replace(STATE, generation=9))
    assert state_dir.read() == STATE
    state_dir.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_where_nothing_can_be_written_a_state_that_says_the_same_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    state_dir = StateDir.lock(tmp_path / "state")
    state_dir.write(STATE)
    state_dir.close()

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    # The lock is taken without the process's number in it.
    monkeypatch.setattr(os, "write", fail)
    monkeypatch.setattr(os, "fsync", fail)
    state_dir = StateDir.lock(tmp_path / "state")
    with pytest.raises(RefusedError, match="in use by another server"):
        StateDir.lock(tmp_path / "state")
    state_dir.write(STATE)
    with pytest.raises(FailingFileError, match=os.strerror(code)):
        state_dir.write(replace(STATE, generation=4))
    assert state_dir.read() == STATE
    state_dir.close()
