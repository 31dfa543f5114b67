"""Flags mean keys; what is wrong is one line and an exit code."""

import re
from pathlib import Path

import pytest
import yaml

from nbdswap import __version__
from nbdswap.errors import EXIT_CODE_MEANINGS, ExitCode
from tests.unit.process import run, write_config

ROOT = Path(__file__).parents[2]


def printed(*arguments: object) -> dict[str, object]:
    """The effective configuration."""
    result = run("serve", *arguments, "--print-config")
    assert (result.returncode, result.stderr) == (0, "")
    config = yaml.safe_load(result.stdout)
    assert isinstance(config, dict)
    return config


def test_the_version_is_the_packages() -> None:
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert run("--version").stdout == f"nbdswap {__version__}\n"


def test_flags_override_the_file_and_start_nothing(tmp_path: Path) -> None:
    config = printed(
        *("-c", write_config(tmp_path)),
        *("--unix", "/a", "--unix", "/b", "--listen", "[::1]:1"),
        *("--export", "one=1G", "--export", "a=b=2M", "-r", "--pool-size", "64M"),
        *("--zpool", "zsmalloc", "--codec", "zstd", "--store", "none", "--state-dir", "/s"),
        *("--admin", "none", "--polling", "20", "--log-format", "json"),
    )
    assert config["listen"] == {"unix": ["/a", "/b"], "tcp": ["[::1]:1"]}
    names = [(e["name"], e["size_bytes"], e["read_only"]) for e in config["exports"]]  # type: ignore[attr-defined]
    assert names == [("one", "1G", True), ("a=b", "2M", True)]
    pool = config["pool"]
    assert isinstance(pool, dict)
    assert [pool[key] for key in ("bytes_max", "zpool", "codec", "codec_level")] == [
        "64M",
        "zsmalloc",
        "zstd",
        3,
    ]
    assert config["store"]["path"] == "none"  # type: ignore[index]
    assert (config["state_dir"], config["admin"], config["polling"]) == ("/s", "none", 20)
    assert config["log"]["format"] == "json"  # type: ignore[index]
    assert {entry.name for entry in tmp_path.iterdir()} == {"memory", "nbdswap.yaml"}


@pytest.mark.parametrize(
    ("flag", "codec", "level"),
    [("lzo", "lzo", 1), ("zstd", "zstd", 3), ("zstd:-5", "zstd", -5), ("lz4:9", "lz4", 9)],
)
def test_a_codec_comes_with_its_own_level(
    flag: str, codec: str, level: int, tmp_path: Path
) -> None:
    path = write_config(tmp_path, pool={"codec": "zstd", "codec_level": 19})
    pool = printed("-c", path, "--codec", flag)["pool"]
    assert isinstance(pool, dict)
    assert (pool["codec"], pool["codec_level"]) == (codec, level)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--codec", "lzma"], "command line: --codec is lzma, wanted lz4, lz4hc, zstd,"),
        (["serve", "--codec", "zstd:"], "command line: --codec is '', wanted -7 to 65537"),
        (["serve", "--codec", "lz4hc:1"], "command line: --codec is 1, wanted 2 to 9 for lz4hc"),
        (["serve", "--pool-size", "lots"], "command line: --pool-size is lots, wanted a size"),
        (["serve", "--export", "swap"], "command line: --export is swap, wanted NAME=SIZE"),
        (["serve", "--polling", "fast"], "command line: --polling is fast, wanted auto, off or"),
        (["serve", "-r"], "--read-only belongs to --export"),
        (["serve", "--stdio", "--unix", "/x"], "--stdio serves one client and does not listen"),
        (["serve", "--no-such-flag"], "No such option: --no-such-flag"),
        (["serve", "-c", "/no/such/file"], "/no/such/file: cannot be read: No such file"),
        (["check", "/no/such/file"], "/no/such/file: cannot be read: No such file"),
        (["set"], "nothing to set, wanted --codec or --zpool"),
        (["set", "--codec", "lz4", "--admin", "x"], "--admin: 'x' has no port, wanted HOST:PORT"),
        (["status", "--admin", "nowhere"], "--admin: 'nowhere' has no port, wanted HOST:PORT"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.returncode == ExitCode.USAGE
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_check_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    good = write_config(tmp_path)
    assert run("check", good).stdout == f"{good}: ok\n"
    bad = write_config(tmp_path, workers=0)
    result = run("check", bad)
    assert (result.returncode, result.stderr) == (
        ExitCode.USAGE,
        f"{bad}: workers is 0, wanted 1 to 256\n",
    )


def test_the_shipped_configuration_passes_its_own_check() -> None:
    assert run("check", ROOT / "config" / "nbdswap.yaml").returncode == ExitCode.OK


def test_the_help_tells_every_exit_code() -> None:
    text = " ".join(run("--help").stdout.split())
    for code, meaning in EXIT_CODE_MEANINGS.items():
        assert f"{code.value} {meaning}" in text
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)


def test_systemd_starts_again_unless_that_cannot_help() -> None:
    unit = (ROOT / "deploy" / "nbdswap.service").read_text()
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert set(map(int, line.split())) == {
        ExitCode.USAGE,
        ExitCode.REFUSED,
        ExitCode.CANNOT_LISTEN,
        ExitCode.NOT_PERMITTED,
    }
    assert "\nStartLimitIntervalSec=0\n" in unit.partition("[Service]")[0]


def test_the_readme_names_every_exit_code_and_flag() -> None:
    readme = (ROOT / "README.md").read_text()
    for code, meaning in EXIT_CODE_MEANINGS.items():
        row = f"| {code.value} | {meaning}"
        assert row.replace("status, set, upgrade:", "`status`, `set`, `upgrade`:") in readme
    flags = set(re.findall(r"--[a-z-]+", run("serve", "--help").stdout))
    assert len(flags) > 15, flags
    for name in flags - {"--help"}:
        assert name in readme, name
