"""The commands that a client runs to swap here, ready to be copied. Words only."""

import socket
from collections.abc import Collection, Iterable, Sequence

from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.config import ExportConfig
from nbdswap.units import format_size

# The largest that nbd-client takes on most machines, and what the kernel swaps in.
BLOCK_BYTES = 4096
WILDCARDS = {"0.0.0.0", "::", "*"}  # noqa: S104 -- recognised, not bound


def guide(
    exports: Sequence[ExportConfig], addresses: Sequence[Address], lost: Collection[str]
) -> Iterable[str]:
    """Lines that a shell understands: for each export, how to attach and to use it."""
    for index, export in enumerate(exports):
        device = f"/dev/nbd{index}"
        rights = ", read-only" if export.read_only else ""
        yield f"# export {export.name} ({format_size(export.size_bytes)}{rights}) as {device}:"
        for position, address in enumerate(addresses):
            prefix = "#   or: " if position else ""
            yield prefix + attach_command(address, device, export.name)
        if export.read_only:
            continue
        if export.name in lost:
            yield f"blkdiscard {device}    # gives up the pages that were lost"
        yield f"mkswap {device}"
        yield f"swapon --discard=pages {device}"


def attach_command(address: Address, device: str, name: str) -> str:
    """The `nbd-client` line for one address."""
    match address:
        case UnixAddress(path):
            place = f"-unix {path} {device}"
        case TcpAddress(host, port):
            reachable = socket.gethostname() if host in WILDCARDS else host
            place = f"{reachable} {port} {device}"
    return f"nbd-client {place} -N {_shell_word(name)} -b {BLOCK_BYTES}"


def _shell_word(text: str) -> str:
    plain = all(char.isalnum() or char in "._-+:/@" for char in text)
    return text if plain else "'" + text.replace("'", "'\\''") + "'"
