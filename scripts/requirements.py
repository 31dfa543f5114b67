"""Prints what pyproject.toml requires, one requirement a line: build, runtime or an extra.

pip can install a project's requirements only together with the project itself, which means
building the Rust extension each time; the Makefile wants the two apart.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(group: str) -> list[str]:
    """The requirements of `group` in the project that this script belongs to."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    document = tomllib.loads(text)
    groups: dict[str, list[str]] = {
        "build": document["build-system"]["requires"],
        "runtime": document["project"]["dependencies"],
        **document["project"]["optional-dependencies"],
    }
    return groups[group]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(*requirements(name), sep="\n")
