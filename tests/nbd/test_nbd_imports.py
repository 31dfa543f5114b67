"""`nbdswap.nbd` could be published on its own: it knows the standard library and itself."""

import ast
import sys
from pathlib import Path

import pytest

import nbdswap.nbd

PACKAGE = Path(nbdswap.nbd.__file__).parent
FILES = sorted(path.name for path in PACKAGE.glob("*.py"))
DOES_IO = {"client.py", "negotiator.py"}
IO_MODULES = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "time", "os"}


def imported(name: str) -> tuple[set[str], set[str]]:
    """Top-level modules that a file imports, and the modules of the package itself."""
    outside: set[str] = set()
    inside: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{name} reaches outside of the package"
            inside |= {node.module} if node.module else {alias.name for alias in node.names}
    return outside, inside


def test_the_files_were_found() -> None:
    assert {"__init__.py", "handshake.py", *DOES_IO} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_the_standard_library_and_the_package_alone(name: str) -> None:
    outside, inside = imported(name)
    assert outside <= sys.stdlib_module_names
    assert {f"{module}.py" for module in inside} <= set(FILES)


@pytest.mark.parametrize("name", sorted(set(FILES) - DOES_IO - {"__init__.py"}))
def test_the_protocol_does_no_io(name: str) -> None:
    outside, inside = imported(name)
    assert not outside & IO_MODULES
    assert not {f"{module}.py" for module in inside} & DOES_IO
