"""The lab's commands: what is printed where, exit codes, and nothing half done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbdswap import cli
from nbdswap._core import codecs
from nbdswap.config_file import load
from nbdswap.errors import ExitCode
from nbdswap.lab import core
from nbdswap.lab.results import read_results
from nbdswap.machine import Machine
from tests.unit.fake_lab import INTERRUPT_AT, FakeLabCore
from tests.unit.process import ROOT, environment, run

INTERRUPTED = 130
HEAVY = ("matplotlib", "rich.progress", "nbdswap.lab.run", "nbdswap.lab.results")


def lab(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The command on the fake core."""
    return run(*arguments, module="tests.unit.fake_lab", **variables)


Wrong = Callable[..., str]


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Wrong:
    """What the command says when it refuses; in this process, which is faster."""
    monkeypatch.setattr(core, "core_of_extension", FakeLabCore)

    def said_by(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["nbdswap", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert (end.value.code, captured.out) == (ExitCode.USAGE, ""), arguments
        return captured.err

    return said_by


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """1,024 pages that shrink to a half."""
    path = tmp_path / "in" / "some.pages"
    path.parent.mkdir()
    path.write_bytes(b"text" * (1 << 20))
    return path


def test_a_run_prints_tables_and_writes_everything(pages: Path, tmp_path: Path) -> None:
    out, plots = tmp_path / "results.json", tmp_path / "deep" / "plots"
    arguments = ["lab", "run", pages, "--codec", "lz4", "--seed", "9", "--speed"]
    result = lab(*arguments, "--json", out, "--plots", plots)
    assert (result.returncode, result.stderr) == (ExitCode.OK, "")
    for title in ("Codecs:", "Density:", "Times:", "Speed:"):
        assert title in result.stdout
    assert result.stdout.endswith(f"6 plots in {plots}\n")
    assert len(list(plots.iterdir())) == 6
    results = read_results(out)
    assert results.seed == 9
    assert [pack.zpool for pack in results.packs] == ["tight", "loose"]
    assert results.command_line[1:] == (
        *map(str, arguments),
        "--json",
        str(out),
        *results.command_line[-2:],
    )
    assert "\x1b" not in result.stdout, "colours in a pipe"


def test_json_to_standard_output_is_json_alone(pages: Path, tmp_path: Path) -> None:
    result = lab("lab", "run", pages, "--codec", "lz4", "--json", "-", "--plots", tmp_path)
    assert json.loads(result.stdout)["format"] == "nbdswap-lab"
    assert result.stderr == f"6 plots in {tmp_path}\n"


def test_wrong_usage_is_one_line_before_anything_runs(
    wrong: Wrong, pages: Path, tmp_path: Path
) -> None:
    existing = tmp_path / "file"
    existing.touch()
    for arguments, said in (
        (("lab", "run"), "Missing argument 'FILE'."),
        (("lab", "run", tmp_path / "none"), f"{tmp_path}/none: cannot be read: No such file"),
        (("lab", "run", tmp_path), f"{tmp_path}: a directory, wanted a file of pages"),
        (("lab", "run", pages, "--codec", "lzx"), "command line: --codec is lzx, wanted all or"),
        (("lab", "run", pages, "--zpool", "x"), "command line: --zpool is x, wanted all, tight"),
        (("lab", "run", pages, "--json", "/no/x"), "/no/x: there is no directory /no"),
        (("lab", "run", pages, "--plots", existing), f"{existing}: a file, wanted a directory"),
        (("lab", "grab", "abc"), "command line: PID is abc, wanted the number of a process"),
        (("lab", "grab", "99999999"), "process 99999999: there is none, wanted one that runs"),
        (("lab", "grab", "1", "--size", "1M", "--all"), "--size takes so much and --all"),
        (("lab", "grab", "1", "--size", "much"), "command line: --size: 'much' is not a size"),
        (("lab", "grab", "1", "--size", "1K"), "--size is 1K, wanted at least 32K"),
        (("advise",), "advise needs files of pages or --from, a file of `lab run --json`"),
        (("advise", pages, "--from", existing), "advise needs files of pages or --from"),
        (("advise", "--from", existing), f"{existing}: the file: Invalid JSON"),
        (("advise", pages, "--prefer", "x"), "command line: --prefer is x, wanted speed, bal"),
        (("advise", pages, "--memory", "1"), "command line: --memory is 1, wanted 1M to"),
        (("advise", pages, "--memory", "1G", "--swapped", "1G"), "--memory is what the pool"),
    ):
        text = wrong(*arguments)
        assert text.startswith(said)
        assert text.count("\n") == 1


def test_a_file_that_may_not_be_read_is_refused_in_our_words(
    wrong: Wrong, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_any = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == pages:
            raise PermissionError(13, "Permission denied", str(path))
        return open_any(path, *arguments, **options)

    # As it is for anybody but root.
    monkeypatch.setattr(os, "access", lambda *_arguments, **_options: False)
    monkeypatch.setattr(Path, "open", refuse)
    for arguments in (("lab", "run", pages), ("advise", pages), ("advise", "--from", pages)):
        assert wrong(*arguments) == f"{pages}: cannot be read: Permission denied\n"


def test_the_end_of_a_file_that_is_no_page_is_said_to_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "some.pages"
    path.write_bytes(b"text" * 1250)
    result = lab("lab", "run", path, "--codec", "lz4", "--json", "-")
    assert json.loads(result.stdout)["codecs"][0]["pages"] == 1
    assert result.stderr == f"{path}: 904 bytes at its end, no whole page of 4K, are left out\n"


def test_the_codecs_are_listed_with_levels_use_and_guarantees() -> None:
    result = run("lab", "codecs", module="nbdswap")
    assert (result.returncode, result.stderr) == (ExitCode.OK, "")
    for info in codecs():
        _, found, rest = result.stdout.partition(f"{info['name']}: ")
        levels, about, guarantees = rest.splitlines()[:3]
        assert found
        assert f"{info['level_min']}" in levels
        assert (about, guarantees) == (f"  {info['about']}", f"  {info['guarantees']}")


def test_an_interrupt_ends_with_130_and_leaves_nothing(pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    out.write_text("old")
    plots = tmp_path / "plots"
    result = lab("lab", "run", pages, "--json", out, "--plots", plots, **{INTERRUPT_AT: "loose"})
    assert (result.returncode, result.stdout, result.stderr) == (INTERRUPTED, "", "")
    assert out.read_text() == "old"
    assert list(plots.iterdir()) == []


def test_without_matplotlib_nothing_runs(pages: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "matplotlib.py"
    blocker.write_text("raise ImportError('not here')\n")
    result = lab(
        *("lab", "run", pages, "--plots", tmp_path / "plots"),
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        **{INTERRUPT_AT: "tight"},
    )
    assert result.returncode == ExitCode.USAGE
    assert result.stderr == (
        "--plots needs matplotlib, which is not installed: pip install 'nbdswap[plots]'\n"
    )
    assert not (tmp_path / "plots").exists()


def test_advice_from_pages_and_from_their_results_is_the_same(pages: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    sizes = ("--page-size", "4K", "--page-size", "16K")
    assert lab("lab", "run", pages, *sizes, "--json", out).returncode == ExitCode.OK
    direct = lab("advise", pages, "--swapped", "4G")
    assert (direct.returncode, direct.stderr) == (ExitCode.OK, "")
    assert direct.stdout == lab("advise", "--from", out, "--swapped", "4G").stdout
    assert direct.stdout.startswith("Take ")


def test_the_advised_lines_are_a_configuration_that_passes_its_check(
    pages: Path, tmp_path: Path, machine: Machine
) -> None:
    result = lab("advise", pages, "--memory", "64M", "--json")
    found = json.loads(result.stdout)["choices"][0]
    lines = yaml.safe_load(found["configuration"])
    # The fake's zpools are nobody's.
    lines["pool"]["zpool"] = "zblock"
    path = tmp_path / "advised.yaml"
    path.write_text(yaml.safe_dump(lines))
    config = load(path, [], machine)
    assert (config.pool.bytes_max, config.pool.codec) == (64 << 20, found["codec"])
    assert config.pool.codec_level == found["codec_level"]


def test_too_little_to_say_is_said_and_no_failure(tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.write_bytes(b"text" * 1024)
    result = lab("advise", few)
    left_out = f"{few}: 4,096 bytes at its end, no whole page of 16K, are left out\n"
    assert (result.returncode, result.stderr) == (ExitCode.OK, left_out)
    assert result.stdout.startswith("Too few pages to say: of 1 (4K each) 1 are not of one")


def test_the_server_loads_nothing_of_the_lab_but_its_flags() -> None:
    code = (
        "import sys, nbdswap.cli, nbdswap.lifecycle\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=30, env=environment(),
    )  # fmt: skip
    assert result.stdout == "[]\n"


def test_the_help_of_every_command_tells_the_exit_codes() -> None:
    for command in (("lab", "run"), ("lab", "grab"), ("advise",)):
        text = " ".join(run(*command, "--help").stdout.split())
        assert "Exit codes: 0 done" in text, command


def test_the_readme_names_the_flags_of_the_lab() -> None:
    readme = (ROOT / "README.md").read_text()
    for flag in (
        "--codec",
        "--zpool",
        "--page-size",
        "--stored",
        "--keep-dense",
        "--plots",
        "--from",
        "--prefer",
    ):
        assert flag in readme, flag
    for command in ("nbdswap lab run", "nbdswap lab grab", "nbdswap advise"):
        assert command in readme, command
