"""What a run shall measure, checked against what the core can before anything takes long.

Not here: reading page files (`pages`) and flags (`commands`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from nbdswap.errors import ConfigError
from nbdswap.units import SIZE_WANTED, SizeError, format_size, parse_size

from .core import LabCore, Report

ALL = "all"
PAGE_BYTES_CHOICES = (4 << 10, 16 << 10, 64 << 10)
# Part-filled blocks weigh most in a small pool, so a few MiB would tell of little else.
STORED_BYTES_LEAST = 64 << 20
PLAIN = "none"
"""The codec that keeps pages as they are."""
DEFAULT_CODECS = ("lz4", "lz4hc:9", "lzo", "zstd:-3", "zstd:1", "zstd:3", "deflate:6", PLAIN)
ADVICE_PAGE_SIZES = ("4K", "16K")
"""A server cannot choose, but it can say what the other one would give."""
SEED_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """A codec and its level."""

    name: str
    level: int

    def __str__(self) -> str:
        return f"{self.name}:{self.level}" if self.level else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRequest:
    """One run."""

    codecs: tuple[CodecChoice, ...]
    zpools: tuple[str, ...]
    page_bytes: tuple[int, ...]
    frame_bytes: tuple[int, ...]
    """Empty: a frame is as large as a page."""
    stored_bytes: int | None
    """None: as much as the files hold, and at least STORED_BYTES_LEAST."""
    seed: int
    speed: bool
    keep_dense: bool

    def frames_of(self, page_bytes: int) -> tuple[int, ...]:
        """Frames to measure for pages of this size; a frame is at least a page."""
        if not self.frame_bytes:
            return (page_bytes,)
        return tuple(frame for frame in self.frame_bytes if frame >= page_bytes)

    @classmethod
    def of(  # noqa: PLR0913 -- one parameter a flag
        cls,
        core: LabCore,
        *,
        codecs: Sequence[str] | None = None,
        zpools: Sequence[str] | None = None,
        page_sizes: Sequence[str] | None = None,
        frame_sizes: Sequence[str] | None = None,
        stored: str | None = None,
        seed: int = 1,
        speed: bool = False,
        keep_dense: bool = False,
    ) -> Self:
        """The request that flags make; raises ConfigError, which says what is wanted."""
        if not 0 <= seed <= SEED_MAX:
            raise _unwanted("--seed", seed, "0 to 18446744073709551615")
        pages = _sizes("--page-size", page_sizes or ["4K"])
        frames = _sizes("--frame-size", frame_sizes or [])
        if frames and max(frames) < max(pages):
            wanted = f"at least the page size, {format_size(max(pages))}"
            raise _unwanted("--frame-size", format_size(max(frames)), wanted)
        return cls(
            codecs=_codecs(core.codecs(), codecs),
            zpools=_zpools(core.zpools(), zpools),
            page_bytes=pages,
            frame_bytes=frames,
            stored_bytes=None if stored is None else _stored(stored, max(pages)),
            seed=seed,
            speed=speed,
            keep_dense=keep_dense,
        )


def _unwanted(flag: str, found: object, wanted: str) -> ConfigError:
    return ConfigError("command line", f"{flag} is {found}, wanted {wanted}")


def _codecs(offered: Sequence[Report], flags: Sequence[str] | None) -> tuple[CodecChoice, ...]:
    by_name = {str(info["name"]): info for info in offered}
    if not flags:
        flags = [flag for flag in DEFAULT_CODECS if flag.partition(":")[0] in by_name]
    chosen: dict[CodecChoice, None] = {}
    for flag in flags:
        names = list(by_name) if flag == ALL else [flag]
        chosen.update(dict.fromkeys(_codec(by_name, name) for name in names))
    return tuple(chosen)


def _codec(offered: dict[str, Report], flag: str) -> CodecChoice:
    name, colon, level_text = flag.partition(":")
    info = offered.get(name)
    if info is None:
        names = ", ".join(offered)
        raise _unwanted("--codec", flag, f"all or NAME[:LEVEL] with a name of {names}")
    low, high = int(str(info["level_min"])), int(str(info["level_max"]))
    if not colon:
        return CodecChoice(name, int(str(info["level_default"])))
    # Digits and no more: int() would take 1_0, and digits of other scripts.
    level = int(level_text) if re.fullmatch(r"-?[0-9]{1,9}", level_text) else high + 1
    if not low <= level <= high:
        levels = "which has no levels" if low == high else f"with a level of {low} to {high}"
        raise _unwanted("--codec", flag, f"{name}, {levels}")
    return CodecChoice(name, level)


def _zpools(offered: Sequence[str], flags: Sequence[str] | None) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    for flag in flags or [ALL]:
        if flag != ALL and flag not in offered:
            raise _unwanted("--zpool", flag, f"all, {', '.join(offered)}")
        chosen.update(dict.fromkeys(offered if flag == ALL else [flag]))
    return tuple(chosen)


def _sizes(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    chosen: dict[int, None] = {}
    for text in texts:
        size_bytes = _size(flag, text)
        if size_bytes not in PAGE_BYTES_CHOICES:
            raise _unwanted(flag, text, "4K, 16K or 64K")
        chosen[size_bytes] = None
    return tuple(chosen)


def _stored(text: str, page_bytes: int) -> int:
    stored_bytes = _size("--stored", text)
    if stored_bytes < page_bytes:
        raise _unwanted("--stored", text, f"at least one page, {format_size(page_bytes)}")
    return stored_bytes


def _size(flag: str, text: str) -> int:
    try:
        return parse_size(text)
    except SizeError:
        raise _unwanted(flag, text, SIZE_WANTED) from None
