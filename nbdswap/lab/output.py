"""Files that are there whole or not at all.

They are written under another name beside their place and renamed; if that fails or is
interrupted, nothing is left.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from nbdswap.errors import RefusedError, UsageError

PRIVATE_MODE = 0o600
SHARED_MODE = 0o666
"""For everybody whom the umask lets."""


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Says now what would fail after a long run; raises UsageError or RefusedError."""
    if path.is_dir():
        raise UsageError(f"{path}: a directory, wanted a file to write")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise RefusedError(f"{path}: exists; --force overwrites it, -o names another file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no directory {path.parent}")
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise RefusedError(f"{path}: {target} may not be written")


def make_directory(path: Path) -> None:
    """A directory for several files."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{path}: a file, wanted a directory") from None
    except OSError as error:
        raise RefusedError(f"{path}: cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise RefusedError(f"{path}: may not be written")


def write_whole(
    path: Path, write: Callable[[IO[bytes]], None], *, mode: int, overwrite: bool = True
) -> None:
    """Gives `write` a file that becomes `path` at the end; raises RefusedError."""
    if path.exists() and not path.is_file():
        # /dev/stdout, /dev/null or a pipe: to be written to, not to be replaced.
        _write_to(path, write)
        return
    place = path.resolve()
    other = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        descriptor = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 -- a descriptor has no Path
                write(file)
            if overwrite:
                other.replace(place)
            else:
                # Fails if somebody made it meanwhile; a rename would not.
                os.link(other, place)
        finally:
            with suppress(FileNotFoundError):
                other.unlink()
    except OSError as error:
        raise _refused(path, error) from None


def write_text(path: Path, text: str) -> None:
    """A file for everybody whom the umask lets."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_whole(path, write, mode=SHARED_MODE)


def _write_to(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    try:
        with path.open("wb") as file:
            write(file)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: OSError) -> RefusedError:
    return RefusedError(f"{path}: cannot be written: {error.strerror or error}; nothing is left")
