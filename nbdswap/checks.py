"""Checks of single values in the configuration, as pydantic annotations.

Each refusal carries what is wanted in the operator's words; `config_file` adds the file, the key
and what was found. Not here: checks of one key against another (`config`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from nbdswap.addresses import (
    TCP_WANTED,
    UNIX_PATH_BYTES_MAX,
    Address,
    AddressError,
    TcpAddress,
    UnixAddress,
    parse_address,
    parse_tcp,
    parse_unix,
)
from nbdswap.units import SIZE_WANTED, SizeError, format_size, parse_size

Check = Callable[[Any], Any]


def unwanted(wanted: str) -> PydanticCustomError:
    """The refusal of a value."""
    return PydanticCustomError("unwanted", "wanted {wanted}", {"wanted": wanted})


def either(choices: list[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(choices[:-1]), choices[-1]]) if len(choices) > 1 else choices[0]


def integer(low: int, high: int) -> Check:
    """A whole number within bounds. YAML's `yes` is a bool and no number."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise unwanted(f"{low} to {high}")
        return value

    return check


def seconds(low: float, high: float) -> Check:
    """A time in seconds within bounds."""

    def check(value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise unwanted(f"{low:g} to {high:g} seconds")
        return float(value)

    return check


def size(low: int, high: int) -> Check:
    """A size, written as a number or with a suffix, within bounds."""
    bounds = f"{format_size(low)} to {format_size(high)}"

    def check(value: Any) -> int:
        size_bytes = _read_size(value)
        if not low <= size_bytes <= high:
            raise unwanted(f"{bounds}")
        return size_bytes

    return check


def size_or_none(low: int, high: int) -> Check:
    """A size within bounds, or none: no limit."""
    bounds = f"none or {format_size(low)} to {format_size(high)}"

    def check(value: Any) -> int | None:
        if value in (None, "none"):
            return None
        size_bytes = _read_size(value)
        if not low <= size_bytes <= high:
            raise unwanted(bounds)
        return size_bytes

    return check


def size_of(*choices: int) -> Check:
    """One of a few sizes."""
    wanted = either([format_size(choice) for choice in choices])

    def check(value: Any) -> int:
        size_bytes = _read_size(value)
        if size_bytes not in choices:
            raise unwanted(wanted)
        return size_bytes

    return check


def _read_size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise unwanted(SIZE_WANTED)
    try:
        return parse_size(value)
    except SizeError:
        raise unwanted(SIZE_WANTED) from None


def word(*choices: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> str:
        # YAML reads a bare `on` or `off` as a bool.
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
        if not isinstance(text, str) or text not in choices:
            raise unwanted(either(list(choices)))
        return text

    return check


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise unwanted("true or false")
    return value


def polling_choice(value: Any) -> int | str:
    """`auto`, `off` or microseconds."""
    if value is False or value == "off":
        return "off"
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise unwanted("auto, off or 1 to 1000 microseconds")
    return value


def store_key(value: Any) -> str:
    """`memory`, `file:PATH`, `credential:NAME` or `keyring:NAME`."""
    wanted = "memory, file:PATH, credential:NAME or keyring:NAME"
    kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value == "memory":
        return "memory"
    if kind == "file" and colon and name:
        return f"file:{_path(name)}"
    # A name that systemd takes too, and no way out of its directory.
    if kind == "credential" and name not in {"", ".", ".."} and "/" not in name:
        return f"credential:{name}"
    if kind == "keyring" and name:
        return f"keyring:{name}"
    raise unwanted(wanted)


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise unwanted("a path")
    return Path(value).expanduser().absolute()


def _path_or_none(value: Any) -> Path | None:
    # A bare `none` is text in YAML; null and ~ mean the same here.
    return None if value in (None, "none") else _path(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise unwanted("a text")
    return value


def _unix(value: Any) -> UnixAddress:
    try:
        return parse_unix(_text(value))
    except AddressError:
        raise unwanted(f"a path of 1 to {UNIX_PATH_BYTES_MAX} bytes") from None


def _tcp(value: Any) -> TcpAddress:
    try:
        # A bare number is no text, and what is wanted is not just any text.
        return parse_tcp(str(value))
    except AddressError:
        raise unwanted(TCP_WANTED) from None


def _address_or_none(value: Any) -> Address | None:
    if value in (None, "none"):
        return None
    try:
        return parse_address(str(value))
    except AddressError:
        raise unwanted(f"{TCP_WANTED}, or unix:PATH, or none") from None


def or_none(value: object) -> str:
    """As the file has it."""
    return "none" if value is None else str(value)


AnyPath = Annotated[Path, BeforeValidator(_path), PlainSerializer(str)]
PathOrNone = Annotated[Path | None, BeforeValidator(_path_or_none), PlainSerializer(or_none)]
Unix = Annotated[
    UnixAddress, BeforeValidator(_unix), PlainSerializer(lambda address: str(address.path))
]
Tcp = Annotated[TcpAddress, BeforeValidator(_tcp), PlainSerializer(str)]
AddressOrNone = Annotated[
    Address | None, BeforeValidator(_address_or_none), PlainSerializer(or_none)
]
Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(flag)]
