"""Where the key of an encrypted store is, and whether it is one before anything else happens.

`memory`: a file beside pool and page table, made at the first start. It has to outlive the process,
since the next one adopts what this one wrote, and goes with a reboot, as they do: then nobody can
read the store any more. `file:PATH` and `credential:NAME` are the operator's.

Not here: reading a key, which the engine does, so that it never is in this half's memory.
"""

import os
import stat
from pathlib import Path

from nbdswap.config import Config
from nbdswap.errors import NotPermittedError, RefusedError

KEY_BYTES = 32
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"


def memory_key_file(memory_dir: Path, instance: int) -> Path:
    """The key that is kept in memory, beside the other memory files of the instance."""
    return memory_dir / f"nbdswap-{instance:016x}.key"


def key_path(config: Config, instance: int) -> Path | None:
    """The file of the key; None without encryption, and where memory has no name."""
    kind, _, name = config.store.key.partition(":")
    if config.store.encryption == "off":
        return None
    if kind == "file":
        return Path(name)
    if kind == "credential":
        return _credential(name)
    return None if config.memory_dir is None else memory_key_file(config.memory_dir, instance)


def makes_key(config: Config) -> bool:
    """Whether the server makes the key if there is none."""
    return config.store.encryption == "on" and config.store.key == "memory"


def check_key(config: Config) -> None:
    """Raises RefusedError or NotPermittedError for an operator's key that cannot be one."""
    if config.store.path is None or config.store.encryption == "off" or makes_key(config):
        return
    path = key_path(config, instance=0)
    assert path is not None, "a key of the operator's is a file"
    key = f"key of the store {path}"
    try:
        found = path.stat()
    except PermissionError:
        raise NotPermittedError(f"{key} cannot be looked at: permission denied") from None
    except OSError as error:
        raise RefusedError(
            f"{key} cannot be read: {error.strerror}; "
            f"`head -c {KEY_BYTES} /dev/urandom` makes one, to be kept with mode 600"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{key} is no plain file, wanted {KEY_BYTES} random bytes")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise RefusedError(f"{key} has mode {mode:o}, wanted 600 or 400: others could read it")
    if found.st_size != KEY_BYTES:
        raise RefusedError(f"{key} is {found.st_size} bytes long, wanted {KEY_BYTES} random bytes")
    if not os.access(path, os.R_OK):
        raise NotPermittedError(f"{key} cannot be read: permission denied")


def forget_key(memory_dir: Path | None, instance: int) -> None:
    """Removes a key that is kept in memory: from now on nobody can read what it sealed."""
    if memory_dir is not None:
        memory_key_file(memory_dir, instance).unlink(missing_ok=True)


def _credential(name: str) -> Path:
    directory = os.environ.get(CREDENTIALS_DIRECTORY)
    if not directory:
        raise RefusedError(
            f"store.key is credential:{name}, but {CREDENTIALS_DIRECTORY} is not set: wanted a "
            f"service with LoadCredential={name}:... or LoadCredentialEncrypted={name}:..."
        )
    return Path(directory) / name
