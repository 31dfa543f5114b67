"""Sizes as people write them: `4G`, `512M`, `4096`. Suffixes are binary, as for nbdkit and swap.

Not here: bounds. Whoever asks for a size knows which ones make sense.
"""

import re

from nbdswap.errors import NbdswapError

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)

SIZE_WANTED = "a size such as 4096, 512M or 4G"


class SizeError(NbdswapError, ValueError):
    """A text that is no size."""


def parse_size(text: str) -> int:
    """Bytes meant by `text`; raises SizeError. `1.5G` is fine, half a byte is not."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SizeError(f"{text!r} is not a size, wanted {SIZE_WANTED}")
    number, suffix = match.groups()
    factor = _FACTORS[suffix.upper()]
    whole, _, fraction = number.partition(".")
    # Integer arithmetic: a float would silently round sizes above 2**53.
    denominator: int = 10 ** len(fraction)
    size_bytes, rest = divmod(int(whole + fraction) * factor, denominator)
    if rest:
        raise SizeError(f"{text!r} is not a whole number of bytes")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """The shortest exact text for a size: `4G`, `1536M`, `4097`. parse_size() reads it back."""
    for suffix in ("T", "G", "M", "K"):
        factor = _FACTORS[suffix]
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{suffix}"
    return str(size_bytes)


def human_size(size_bytes: float) -> str:
    """A size for eyes, three digits or so: `1.21 GiB`. Not exact, not meant to be parsed."""
    for suffix in ("TiB", "GiB", "MiB", "KiB"):
        factor = _FACTORS[suffix[0]]
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.2f} {suffix}"
    return f"{size_bytes:.0f} B"
