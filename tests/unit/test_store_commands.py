"""`nbdswap store` before it comes to the store: usage, locks, and whose a record is."""

import json
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from nbdswap.cli import main
from nbdswap.state import ExportState, State, StateDir
from nbdswap.store_commands import Owners

if TYPE_CHECKING:
    from nbdswap._core import StoreDamage

COMMANDS = ("inspect", "verify", "repair")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code and what was said."""
    arguments = mock.patch.object(sys, "argv", ["nbdswap", "store", *words])
    with arguments, pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and the one line."""
    code, out, error = run(capsys, *words)
    assert (out, error.count("\n")) == ("", 1), error
    return code, error


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_usage_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, state_dir: Path, command: str
) -> None:
    absent = tmp_path / "absent"
    code, line = refused(capsys, command, f"--state-dir={absent}")
    assert (code, "no server was here" in line, absent.exists()) == (3, True, False)
    code, line = refused(capsys, command, f"--state-dir={state_dir}")
    assert (code, line) == (3, f"store {state_dir / 'store'} does not exist\n")
    code, line = refused(capsys, command, f"--state-dir={state_dir}", "--store=none")
    assert (code, "store.path is none" in line) == (2, True)
    code, line = refused(capsys, command, "--config=/nowhere.yaml")
    assert (code, "cannot be read" in line) == (2, True)
    code, line = refused(capsys, command, "--wrong")
    assert (code, "--wrong" in line) == (2, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_running_server_keeps_its_store(
    capsys: pytest.CaptureFixture[str], state_dir: Path, command: str
) -> None:
    (state_dir / "store").write_bytes(bytes(8192))
    server = StateDir.lock(state_dir)
    code, line = refused(capsys, command, f"--state-dir={state_dir}")
    server.close()
    assert (code, "is in use by another server" in line) == (3, True)


def test_what_is_no_store_is_said_and_left_alone(
    capsys: pytest.CaptureFixture[str], state_dir: Path
) -> None:
    foreign = state_dir / "store"
    foreign.write_bytes(b"letters" * 5000)
    before = foreign.read_bytes()
    at = f"--state-dir={state_dir}"
    code, out, _ = run(capsys, "inspect", at, "--json")
    assert code == 3
    assert json.loads(out)["superblock"] is None
    code, line = refused(capsys, "verify", at)
    assert (code, "begins with bytes that no store" in line) == (3, True)
    code, out, _ = run(capsys, "repair", at, "--write")
    assert (code, "cannot be repaired" in out) == (3, True)
    assert foreign.read_bytes() == before


def test_a_record_is_named_by_its_export_and_its_table(tmp_path: Path) -> None:
    def export(name: str, pages: int) -> ExportState:
        return ExportState(
            name=name,
            size_bytes=pages * 4096,
            durability="process",
            may_hold_data=True,
            lost=False,
        )

    state = State(
        instance=0xAB,
        generation=1,
        memory_dir=str(tmp_path),
        page_bytes=4096,
        exports=(export("first", 3), export("second", 5)),
        clean=False,
    )

    def damage(page: int, kind: str = "object") -> "StoreDamage":
        return {"page": page, "store_byte": 8 << 20, "kind": kind, "fault": "damaged"}

    def name(page: int) -> tuple[str | None, int | None, bool | None]:
        named = Owners(state).name(damage(page))
        return named["export"], named["export_page"], named["in_use"]

    assert name(2) == ("first", 2, None)
    assert name(3) == ("second", 0, None)
    assert name(8) == (None, None, None)
    here, elsewhere, pooled = (1 << 20) << 24 | 4, (1 << 19) << 24 | 4, (1 << 20) << 24 | 3
    words = [0, 0, here, elsewhere, pooled]
    table = tmp_path / "nbdswap-00000000000000ab.table"
    table.write_bytes(bytes(4096) + struct.pack(f"<{len(words)}Q", *words))
    assert [name(page)[2] for page in range(6)] == [False, False, True, False, False, False]
    assert Owners(None).name(damage(1))["export"] is None
    assert Owners(state).name(damage(2, "mark"))["in_use"] is None
