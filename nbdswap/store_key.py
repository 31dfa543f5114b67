"""Where the key of an encrypted store is, and whether it is one before anything else happens.

`memory`: a file beside pool and page table, made at the first start. It has to outlive the process,
since the next one adopts what this one wrote, and goes with a reboot, as they do: then nobody can
read the store any more. `file:PATH`, `credential:NAME` and `keyring:NAME` are the operator's.

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


def key_source(config: Config, instance: int) -> str | None:
    """`file:PATH` or `keyring:NAME`; None without encryption, and where memory has no name."""
    if config.store.encryption == "off":
        return None
    if config.store.key == "memory":
        memory_dir = config.memory_dir
        return None if memory_dir is None else f"file:{memory_key_file(memory_dir, instance)}"
    kind, _, name = config.store.key.partition(":")
    return f"file:{_credential(name)}" if kind == "credential" else config.store.key


def makes_key(config: Config) -> bool:
    """Whether the server makes the key if there is none."""
    return config.store.encryption == "on" and config.store.key == "memory"


def check_key(config: Config) -> None:
    """Raises RefusedError or NotPermittedError for an operator's key that cannot be one."""
    if config.store.path is None or config.store.encryption == "off" or makes_key(config):
        return
    source = key_source(config, instance=0)
    assert source is not None, "a key of the operator's is somewhere"
    kind, _, name = source.partition(":")
    if kind == "keyring":
        _check_in_keyring(name)
    else:
        _check_file(Path(name))


def forget_key(memory_dir: Path | None, instance: int) -> None:
    """Removes a key that is kept in memory: from now on nobody can read what it sealed."""
    if memory_dir is not None:
        memory_key_file(memory_dir, instance).unlink(missing_ok=True)


def _check_in_keyring(name: str) -> None:
    from nbdswap._core import ForeignFileError, check_keyring_key

    try:
        check_keyring_key(name)
    except ForeignFileError as error:
        raise RefusedError(
            f"{error}; `head -c {KEY_BYTES} /dev/urandom | keyctl padd user {name} @u` makes one"
        ) from None
    except OSError as error:
        raise NotPermittedError(f"key of the store keyring:{name}: {error}") from None


def _check_file(path: Path) -> None:
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


def _credential(name: str) -> Path:
    directory = os.environ.get(CREDENTIALS_DIRECTORY)
    if not directory:
        raise RefusedError(
            f"store.key is credential:{name}, but {CREDENTIALS_DIRECTORY} is not set: wanted a "
            f"service with LoadCredential={name}:... or LoadCredentialEncrypted={name}:..."
        )
    return Path(directory) / name
