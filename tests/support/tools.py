"""Programs of others that the tests run: found or refused, and never left running."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

TOOL_TIMEOUT_S = 90.0
_SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def missing(reason: str) -> None:
    """Skips the test on a developer's machine; fails it in CI, where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must not skip")
    pytest.skip(reason)


def require(tool: str, package: str) -> str:
    """The path of `tool`; without it the test is skipped, or fails in CI."""
    path = shutil.which(tool, path=_SEARCH)
    if path is None:
        missing(f"{tool} is not installed (Debian package {package})")
    return path or tool


def run(
    command: Sequence[str], *, status: int | None = 0, timeout_s: float = TOOL_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end and checks its exit status, unless `status` is None."""
    result = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )
    if status is not None:
        assert result.returncode == status, (
            f"{' '.join(command)}: status {result.returncode}, wanted {status}\n"
            f"{result.stdout}{result.stderr}"
        )
    return result
