"""Who may know whom. The house stays as it is drawn, or the drawing is changed on purpose.

cli -> lifecycle, hardening, logs -> upgrade -> server -> nbd | exports -> engine -> _core
cli -> lab -> _core;  admin -> changes -> engine;  metrics -> snapshots only;
config -> units, errors, and no component
"""

import ast
from pathlib import Path

import nbdswap

PACKAGE = Path(nbdswap.__file__).parent

VALUES = {"addresses", "errors", "units"}
SETTINGS = VALUES | {"config"}

MAY_KNOW: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    # Values, and words for people.
    "errors": set(),
    "units": {"errors"},
    "addresses": {"errors"},
    "snapshots": set(),
    "logs": set(),
    "machine": set(),
    "mounts": set(),
    "hugetlbfs": {"mounts"},
    # Configuration: no component.
    "checks": VALUES,
    "config": VALUES | {"checks"},
    "config_file": SETTINGS | {"machine"},
    # What stands by itself.
    "guide": SETTINGS,
    "hardening": {"config", "errors"},
    "listeners": VALUES,
    "stdio": {"errors"},
    "systemd": {"errors"},
    "state": {"errors"},
    "stop_request": {"logs"},
    # Numbers for people and machines: snapshots only.
    "metrics": {"snapshots"},
    "status": {"snapshots", "units"},
    "room": {"snapshots"},
    "watch": {"logs", "room", "snapshots"},
    "admin": VALUES | {"admin_client", "changes", "logs", "metrics", "snapshots", "status"},
    "status_view": VALUES | {"admin_client", "snapshots"},
    "admin_client": VALUES,
    # What may change meanwhile.
    "changes": SETTINGS | {"engine", "logs"},
    "incidents": {"_core", "engine", "logs"},
    # Clients.
    "exports": {"_core", "config", "nbd"},
    "engine": {"_core", "config", "errors", "exports", "snapshots", "store_key", "succession"},
    "store_key": {"_core", "config", "errors"},
    "negotiation": {"nbd"},
    "server": {"_core", "engine", "errors", "handover", "listeners", "logs", "nbd", "negotiation"},
    # From one server to the next.
    "succession": {"config", "errors", "snapshots", "state"},
    "handover": {"__init__", "config", "listeners", "logs", "snapshots"},
    "preflight": SETTINGS | {"handover", "hugetlbfs", "mounts", "state", "store_key", "succession"},
    "successor": {"errors", "handover"},
    "upgrade": {"__init__", "engine", "errors", "handover", "listeners", "logs", "server"}
    | {"snapshots", "state", "successor", "systemd"},
    "takeover": {"config", "engine", "errors", "logs", "state", "store_key", "succession"},
    # The whole.
    "service": SETTINGS
    | {
        "__init__",
        "admin",
        "changes",
        "exports",
        "guide",
        "handover",
        "hardening",
        "incidents",
        "listeners",
        "logs",
        "nbd",
        "server",
    }
    | {"snapshots", "state", "stdio", "stop_request", "store_key", "succession", "successor"}
    | {"systemd", "takeover", "upgrade", "watch"},
    "lifecycle": SETTINGS
    | {"engine", "handover", "hardening", "hugetlbfs", "listeners", "logs", "preflight", "service"}
    | {"state", "stdio", "store_key", "systemd", "takeover"},
    "store_commands": SETTINGS
    | {"_core", "config_file", "machine", "state", "store_key", "succession"},
    "cli": SETTINGS
    | {
        "__init__",
        "admin_client",
        "config_file",
        "lab",
        "lifecycle",
        "logs",
        "machine",
        "status_view",
        "store_commands",
        "successor",
    },
}


def known_by(path: Path) -> set[str]:
    """Modules of the package that a file imports, at any depth of the file."""
    known = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            known |= {module_of(alias.name) for alias in node.names if is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "nbdswap":
                known |= {
                    alias.name if alias.name in MAY_KNOW else "__init__" for alias in node.names
                }
            elif is_ours(node.module):
                known.add(module_of(node.module))
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            # Relative imports are for packages inside, which stay within themselves.
            assert path.parent != PACKAGE, f"{path.name} imports relatively"
            assert node.level == 1, f"{path} reaches out of its package"
    return known


def is_ours(name: str) -> bool:
    return name == "nbdswap" or name.startswith("nbdswap.")


def module_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def test_every_module_has_its_place_in_the_house() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == set(MAY_KNOW)


def test_nobody_knows_whom_he_may_not_know() -> None:
    for path in sorted(PACKAGE.glob("*.py")):
        forbidden = known_by(path) - MAY_KNOW[path.stem]
        assert not forbidden, f"{path.name} imports {', '.join(sorted(forbidden))}"


def test_the_drawing_shows_no_acquaintance_that_does_not_exist() -> None:
    for path in sorted(PACKAGE.glob("*.py")):
        unused = MAY_KNOW[path.stem] - known_by(path) - SETTINGS
        assert not unused, f"{path.name} does not import {', '.join(sorted(unused))}"


def test_the_protocol_package_knows_nothing_of_the_server() -> None:
    for path in sorted((PACKAGE / "nbd").glob("*.py")):
        assert not known_by(path), f"nbd/{path.name} imports of nbdswap"


def test_the_lab_knows_nothing_of_the_server_and_its_core_alone_the_extension() -> None:
    for path in sorted((PACKAGE / "lab").glob("*.py")):
        core = {"_core"} if path.stem == "core" else set()
        unexpected = known_by(path) - {"__init__", "errors", "units"} - core
        assert not unexpected, f"lab/{path.name} imports {', '.join(sorted(unexpected))}"


def test_the_house_has_no_circular_stairs() -> None:
    def reaches(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for known in MAY_KNOW.get(todo.pop(), set()) - seen:
                seen.add(known)
                todo.append(known)
        return seen

    for module in MAY_KNOW:
        assert module not in reaches(module), f"{module} knows itself by a detour"


def test_the_walk_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text("def f():\n    from nbdswap._core import Core\n    import nbdswap.server\n")
    assert known_by(probe) == {"_core", "server"}
