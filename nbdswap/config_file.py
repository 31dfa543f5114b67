"""From a file and flags to a `Config`, or one line that says what is wrong and where.

Three layers, the later wins: what the machine suggests, the YAML file, the flags. Only after they
are merged is anything checked, so a flag can mend a file. Only the first problem is told.

Not here: what is allowed (`config`).
"""

import difflib
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nbdswap.config import CODEC_LEVELS, Config
from nbdswap.errors import ConfigError
from nbdswap.machine import Machine
from nbdswap.units import format_size

MIB = 1 << 20
POOL_BYTES_DEFAULT = 512 * MIB
WORKERS_DEFAULT_MAX = 4
READERS_DEFAULT = 4
COMMAND_LINE = "command line"

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Override:
    """A key that a flag sets, whatever the file says."""

    key: str
    flag: str
    value: Any


def load(path: Path | None, overrides: list[Override], machine: Machine) -> Config:
    """The effective configuration; raises ConfigError. Without a path: defaults and flags."""
    raw = read_yaml(path) if path else {}
    for override in overrides:
        _set(raw, override.key, override.value)
    _fill_machine_defaults(raw, machine)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        source = str(path) if path else "defaults"
        raise _explain(error.errors()[0], raw, source, overrides) from None


def dump(config: Config) -> str:
    """The configuration as YAML that load() reads back to the same."""
    plain = config.model_dump(mode="json")
    return yaml.safe_dump(_with_readable_sizes(plain), sort_keys=False, allow_unicode=True)


def _with_readable_sizes(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _with_readable_sizes(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_readable_sizes(item) for item in value]
    return format_size(value) if key.endswith(("_bytes", "bytes_max")) else value


class _StrictLoader(yaml.SafeLoader):
    """YAML, but a key that stands twice is refused: one of the two values would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is no text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> Raw:
    """The mapping in a file; raises ConfigError. An empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 text at byte {error.start}") from None
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 -- derived from SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(str(path), _yaml_problem(error)) from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(str(path), f"holds {_found(raw)}, wanted a mapping of keys")
    return raw


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _set(raw: Raw, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    target = raw
    for section in sections:
        inner = target.get(section)
        # A section that is no mapping is replaced: it was wrong and the flag says what is wanted.
        target[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        target = inner
    target[last] = value


def _fill_machine_defaults(raw: Raw, machine: Machine) -> None:
    """Puts a value where a machine-dependent key is absent or `auto`."""
    _fill(raw, "state_dir", str(machine.state_dir))
    _fill(raw, "workers", min(machine.cpus, WORKERS_DEFAULT_MAX))
    _fill(raw, "readers", READERS_DEFAULT)
    _fill(raw, "page_bytes", Config.model_fields["page_bytes"].default)

    listen = _section(raw, "listen")
    _fill(listen, "unix", [str(machine.runtime_dir / "nbdswap.sock")])

    pool = _section(raw, "pool")
    _fill(pool, "bytes_max", min(POOL_BYTES_DEFAULT, machine.memory_bytes // 4 // MIB * MIB))
    _fill(pool, "frame_bytes", raw["page_bytes"])
    codec = pool.get("codec", "lz4")
    # An unknown codec is refused by its own key; any level will do until then.
    _, _, level_default = CODEC_LEVELS.get(codec if isinstance(codec, str) else "", (0, 0, 0))
    _fill(pool, "codec_level", level_default)

    store = _section(raw, "store")
    _fill(store, "path", f"{raw['state_dir']}/store")
    _fill(store, "punch", store.get("preallocate") is not True)


def _section(raw: Raw, name: str) -> Raw:
    """The section to fill. One that is no mapping is left for the models to refuse."""
    section = raw.get(name)
    if section is None and name not in raw:
        section = raw[name] = {}
    return section if isinstance(section, dict) else {}


def _fill(section: Raw, key: str, value: Any) -> None:
    if section.get(key, "auto") == "auto":
        section[key] = value


def _explain(error: ErrorDetails, raw: Raw, source: str, overrides: list[Override]) -> ConfigError:
    """One pydantic error in the operator's words."""
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "misfit":
        key, problem = context["key"], f"is {context['found']}, wanted {context['wanted']}"
    elif error["type"] == "extra_forbidden":
        key, problem = _key(error["loc"]), _unknown_key(error["loc"])
    elif error["type"] == "missing":
        key, problem = _key(error["loc"]), "is missing"
    else:
        wanted = context.get("wanted") or _WANTED_SHAPES.get(error["type"], error["msg"])
        key, problem = _key(error["loc"]), f"is {_found(error['input'])}, wanted {wanted}"
    for override in reversed(overrides):
        # `exports[0].size_bytes` belongs to a flag that sets `exports`.
        if re.match(rf"{re.escape(override.key)}(?![a-z_])", key):
            detail = key.removeprefix(override.key).lstrip(".")
            name = f"{override.flag} ({detail})" if detail.strip("[]0123456789") else override.flag
            return ConfigError(COMMAND_LINE, f"{name} {problem}")
    return ConfigError(source, f"{key} {problem}")


_WANTED_SHAPES = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "tuple_type": "a list",
}


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{_found(part)}"
    return text.removeprefix(".")


def _found(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    # Quotes only where the eye would lose the value.
    return text if text.isprintable() and text.strip() == text != "" else repr(text)


def _unknown_key(location: tuple[int | str, ...]) -> str:
    section = _section_at(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1, cutoff=0.6)
    if near:
        return f"is not a known key, did you mean {near[0]}?"
    return f"is not a known key, wanted one of {', '.join(section.model_fields)}"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the section that a location leads to."""
    section: type[BaseModel] = Config
    for part in location:
        if isinstance(part, str):
            annotation: Any = section.model_fields[part].annotation
            # exports is a tuple of sections
            section = getattr(annotation, "__args__", (annotation,))[0]
    return section
