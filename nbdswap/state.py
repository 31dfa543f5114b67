"""The state directory: who owns it, and what a server leaves for its successor to know.

`lock` is held by the running server for its whole life. `state.json` says which memory belongs to
us and which exports may hold data; it is replaced whole and synced before anything that it speaks
of happens. It holds no page and no place of a page: that is the page table's.

Not here: what follows from the state (`succession`).
"""

import errno
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from nbdswap.errors import RefusedError, file_error

FORMAT = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportState:
    """One export as the last server had it."""

    name: str
    size_bytes: int
    durability: str
    """`disk` once all that it holds was written down, so that the store's log has it."""
    may_hold_data: bool
    """A client could write to it since it was last known to be empty."""
    lost: bool
    """Pages that were not written since a loss are lost, not empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What `state.json` says."""

    instance: int
    """Names the memory files and stands in them and in the backing file: all of this directory."""
    generation: int
    """Of the data: grows whenever older bytes must never again be taken for current ones."""
    memory_dir: str | None
    page_bytes: int
    """With another one, or other exports, the page table cannot be taken over."""
    exports: tuple[ExportState, ...]
    clean: bool
    """The last server stopped in good order."""
    boot_id: str | None = None
    """In which boot of the host the memory was made or adopted; None: not known."""

    @property
    def may_hold_data(self) -> bool:
        """True if there is something to lose."""
        return any(export.may_hold_data for export in self.exports)

    def with_data_in(self, name: str) -> Self:
        """The state once a client can write to the export."""
        exports = (
            replace(export, may_hold_data=True) if export.name == name else export
            for export in self.exports
        )
        return replace(self, exports=tuple(exports))

    def encode(self) -> str:
        """As JSON."""
        # Instances are shown as in the names of the memory files.
        plain = {"format": FORMAT} | asdict(self) | {"instance": f"{self.instance:016x}"}
        return json.dumps(plain, indent=2) + "\n"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError if it is not whole."""
        try:
            plain: dict[str, Any] = json.loads(text)
            if plain.pop("format") != FORMAT:
                raise ValueError(f"the format is not {FORMAT}")
            instance = int(plain.pop("instance"), 16)
            exports = tuple(ExportState(**export) for export in plain.pop("exports"))
            state = cls(instance=instance, exports=exports, **plain)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not all(isinstance(number, int) for number in (state.generation, state.page_bytes)):
            raise ValueError("a number is missing")
        return state


class StateDir:
    """A locked state directory. Made by `lock`, given back by `close`."""

    def __init__(self, path: Path, lock_fd: int, *, made: bool) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._made = made

    @classmethod
    def lock(cls, path: Path) -> Self:
        """Takes the directory, making it if need be; raises RefusedError if a server has it."""
        try:
            missing = [each for each in (path, *path.parents) if not each.exists()]
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in missing:
                _sync_directory(each.parent)
            lock_fd = _lock_file(path / "lock")
        except BlockingIOError:
            holder = _holder(path / "lock")
            raise RefusedError(f"{path} is in use by another server{holder}") from None
        except OSError as error:
            problem = f"{path} cannot be used as state_dir: {error.strerror}"
            raise file_error(problem, error) from None
        return cls(path, lock_fd, made=bool(missing))

    @classmethod
    def take_over(cls, path: Path, lock_fd: int) -> Self:
        """Takes the directory with the lock that a predecessor holds; raises as `lock`."""
        if not _is_same_file(lock_fd, path / "lock"):
            os.close(lock_fd)
            return cls.lock(path)
        return cls(path, lock_fd, made=False)

    @property
    def lock_fd(self) -> int:
        """Holds the lock, wherever it is open."""
        return self._lock_fd

    @property
    def state_path(self) -> Path:
        """Where the state stands."""
        return _state_path(self.path)

    def read(self) -> State | None:
        """What the last server left; None if there was none. Raises RefusedError if damaged."""
        return self.read_from(self.path)

    @staticmethod
    def read_from(path: Path) -> State | None:
        """The same of a directory that another server has."""
        state_path = _state_path(path)
        try:
            return State.decode(state_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = f"{state_path} cannot be read: {error.strerror}"
            raise file_error(problem, error) from None
        except ValueError as error:
            # Taking it for no state at all would turn data into zeros.
            raise RefusedError(
                f"{state_path} is not a state of nbdswap ({error}); "
                "with --fresh it is replaced and every export starts empty"
            ) from None

    def write(self, state: State) -> None:
        """Replaces the state so that a crash leaves the old one or the new one, both whole.

        Where nothing can be written, on a full or read-only file system, a state that says the
        same already will do.
        """
        new = self.path / "state.json.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(state.encode())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.state_path)
            _sync_directory(self.path)
        except OSError as error:
            if self._says(state):
                return
            problem = f"{self.state_path} cannot be written: {error.strerror}"
            raise file_error(problem, error) from None

    def _says(self, state: State) -> bool:
        try:
            return self.state_path.read_text(encoding="utf-8") == state.encode()
        except (OSError, ValueError):
            return False

    def remove_state(self) -> None:
        """Takes back the first `write` of a start that failed."""
        self.state_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the directory."""
        os.close(self._lock_fd)

    def forsake(self) -> None:
        """Lets go of it and, if `lock` made it and nothing but the lock came of it, removes it."""
        if self._made and {entry.name for entry in self.path.iterdir()} == {"lock"}:
            # Whoever opened the file before this finds, with the lock in hand, that it is gone.
            (self.path / "lock").unlink()
            self.path.rmdir()
        self.close()


def boot_id() -> str | None:
    """Names the time since the host was booted; None where the kernel does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _state_path(directory: Path) -> Path:
    return directory / "state.json"


def _lock_file(path: Path) -> int:
    """The descriptor that holds the lock; raises BlockingIOError if somebody else does."""
    while True:
        fd = _open_lock_file(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(fd, path):
                # Who has it is for people to read. A full or read-only file system does without.
                with suppress(OSError):
                    os.ftruncate(fd, os.write(fd, f"{os.getpid()}\n".encode("ascii")))
                return fd
        except BaseException:
            os.close(fd)
            raise
        # The holder removed the file between our opening and our locking it.
        os.close(fd)


def _open_lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS or not path.exists():
            raise
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        pid = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return f" ({path})"
    return f", process {pid or 'unknown'} ({path})"


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a directory; the rename stands.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)
