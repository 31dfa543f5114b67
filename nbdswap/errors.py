"""What ends the program, in the words of whoever has to act on it, and the exit code of each.

An `NbdswapError` is expected: it is shown as one line and never with a traceback. Everything else
that reaches the top is our own mistake, keeps its traceback and exits with `ExitCode.UNEXPECTED`.

Not here: what ends one connection (the server logs it and goes on) and refused NBD requests.
"""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command `nbdswap`; the help text is made of `EXIT_CODE_MEANINGS`."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    REFUSED = 3
    CANNOT_LISTEN = 4
    NOT_PERMITTED = 5
    UNREACHABLE = 6
    NOT_UPGRADED = 7
    FILE_FAILS = 8


EXIT_CODE_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.UNEXPECTED: "unexpected error: please report it",
    ExitCode.USAGE: "wrong usage or configuration",
    ExitCode.REFUSED: "state or file refused: foreign, damaged, in use by another server, no room",
    ExitCode.CANNOT_LISTEN: "cannot listen: address in use or not ours",
    ExitCode.NOT_PERMITTED: (
        "not permitted: hardening `on`, store.io, memory of another process, a key file"
    ),
    ExitCode.UNREACHABLE: "status, set, upgrade: no server answers on the admin address",
    ExitCode.NOT_UPGRADED: "upgrade: not done; the running server goes on as it was",
    ExitCode.FILE_FAILS: (
        "a file fails for a reason that may pass: input/output error, read-only, full; try again"
    ),
}


class NbdswapError(Exception):
    """An expected end of the program. `str()` of it is the one line that the operator reads."""

    exit_code = ExitCode.UNEXPECTED


class ConfigError(NbdswapError):
    """A setting that cannot work: says where it stands, what was found and what is wanted."""

    exit_code = ExitCode.USAGE

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem


class UsageError(NbdswapError):
    """Flags that contradict each other or the way the server was started."""

    exit_code = ExitCode.USAGE


class RefusedError(NbdswapError):
    """A file or directory that is not ours, not whole, locked by another server, or too small."""

    exit_code = ExitCode.REFUSED


class FailingFileError(NbdswapError):
    """A file that cannot be read or written now, for a reason that may pass by itself."""

    exit_code = ExitCode.FILE_FAILS


class ListenError(NbdswapError):
    """An address on which we cannot listen."""

    exit_code = ExitCode.CANNOT_LISTEN


class HardeningError(NbdswapError):
    """A protection that the configuration insists on and the system does not permit."""

    exit_code = ExitCode.NOT_PERMITTED


class NotPermittedError(NbdswapError):
    """What the kernel does not let us do: read a process's memory or a key file, use io_uring."""

    exit_code = ExitCode.NOT_PERMITTED


class UnreachableError(NbdswapError):
    """No server answers where `nbdswap status`, `set` or `upgrade` asked."""

    exit_code = ExitCode.UNREACHABLE


class UpgradeError(NbdswapError):
    """A running server cannot be replaced, or was not; it goes on as it was."""

    exit_code = ExitCode.NOT_UPGRADED


# Of the disk or the system, not of a name, a right or a setting.
_MAY_PASS = frozenset(
    {
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EIO,
        errno.ENODEV,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.ENXIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


def file_error(text: str, error: OSError) -> NbdswapError:
    """FailingFileError where starting again may help, RefusedError where it cannot."""
    return (FailingFileError if error.errno in _MAY_PASS else RefusedError)(text)
