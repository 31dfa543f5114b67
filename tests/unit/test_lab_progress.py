"""The bar of a long run: how far it is, what it does, on a terminal alone, gone at the end."""

import io
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from nbdswap.errors import ExitCode
from nbdswap.lab import progress
from nbdswap.lab.pages import PageFile
from nbdswap.lab.request import LabRequest
from nbdswap.lab.run import run, step_count
from tests.unit.fake_lab import FakeLabCore
from tests.unit.process import TIMEOUT_S, command, environment

FRAME = re.compile(r"(\d+)/(\d+) +\d:\d\d:\d\d *([^\r\n]*)")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERASE_LINE = "\x1b[2K"


class Eager(Progress):
    """Draws each step, where the real one draws ten times a second."""

    def update(self, *arguments: Any, **changes: Any) -> None:
        super().update(*arguments, **changes, refresh=True)


def frames_of(text: str) -> list[tuple[int, int, str]]:
    """Steps done, of how many, and what is under way, of each frame that differs."""
    found = [
        (int(done), int(total), what.strip())
        for done, total, what in FRAME.findall(CONTROL.sub("", text))
    ]
    return list(dict.fromkeys(found))


def on_terminal(*arguments: object) -> tuple[str, str]:
    """What the command wrote to standard output, a pipe, and to standard error, a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments, module="tests.unit.fake_lab"),
        stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment(TERM="xterm"),
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = read_to_end(ours)
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == ExitCode.OK, shown
    return out, shown


def read_to_end(terminal: int) -> str:
    """All that is written to a terminal until the last writer is gone."""
    chunks = []
    with open(terminal, "rb", buffering=0) as file:
        try:
            while chunk := file.read(1 << 16):
                chunks.append(chunk)
        # So says Linux that nobody has the other end any more.
        except OSError:
            pass
    return b"".join(chunks).decode()


def test_the_bar_counts_the_steps_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr(progress, "Progress", Eager)
    core, pages = FakeLabCore(), PageFile(Path("some.pages"), b"text" * 4096)
    request = LabRequest.of(core, codecs=["lz4", "zstd"], page_sizes=["4K"])
    with progress.shown(step_count(request)) as on_step:
        run(core, request, [pages], command_line=[], on_step=on_step)
    assert frames_of(terminal.getvalue())[-6:] == [
        (0, 6, "lz4:1 on pages of 4K"),
        (1, 6, "tight, lz4:1, 4K"),
        (2, 6, "loose, lz4:1, 4K"),
        (3, 6, "zstd:3 on pages of 4K"),
        (4, 6, "tight, zstd:3, 4K"),
        (5, 6, "loose, zstd:3, 4K"),
    ]


def test_a_terminal_shows_a_bar_which_is_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "some.pages"
    path.write_bytes(b"text" * (1 << 14))
    out, shown = on_terminal("lab", "run", path, "--codec", "lz4", "--page-size", "4K")
    frames = frames_of(shown)
    assert frames[0][:2] == (0, 3)
    assert frames[-1] == (2, 3, "loose, lz4:1, 4K")
    _, _, behind_the_bar = shown.rpartition("loose, lz4:1, 4K")
    assert ERASE_LINE in behind_the_bar
    assert not CONTROL.sub("", behind_the_bar).strip()
    assert "Density:" in out
    assert "\x1b" not in out, "the bar in a pipe"


def test_anywhere_else_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(2) as on_step:
        on_step("a step")
        on_step("another")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
