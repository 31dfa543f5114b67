"""io_uring on this machine: whether it may be used, and how a server is kept from it.

A container forbids it with a seccomp filter, which answers system calls with an error number; here
the same filter is set by a small program that then becomes the server.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from tests.support.servers import nbdswap_command

# The same numbers on every architecture.
SETUP, ENTER = 425, 426
IOS = ("threads", "io_uring")

# Loads the number of the system call; if it is the third word, answers the second with an error,
# else lets it pass: see seccomp(2) and linux/filter.h. NO_NEW_PRIVS is what the kernel wants first.
SANDBOX = """#!{python}
import ctypes, os, struct, sys
BLOCKED, ERRNO = {blocked}, {errno}
code = b"".join(
    struct.pack("HBBI", *step)
    for step in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, BLOCKED),
        (0x06, 0, 0, 0x00050000 | ERRNO),
        (0x06, 0, 0, 0x7FFF0000),
    )
)
memory = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(memory)))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
for arguments in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
):
    if libc.prctl(*arguments):
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv({command!r}[0], {command!r} + sys.argv[1:])
"""


def sandbox(directory: Path, blocked: int, errno: int) -> Path:
    """A program that is the installed command, in which a system call fails with `errno`."""
    path = directory / "nbdswap-in-a-sandbox"
    command = nbdswap_command()
    text = SANDBOX.format(python=sys.executable, blocked=blocked, errno=errno, command=command)
    path.write_text(text)
    path.chmod(0o700)
    return path


def io_uring_problem() -> str | None:
    """Why this process may not use it."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(SETUP, 1, ctypes.create_string_buffer(120))
    if descriptor < 0:
        return os.strerror(ctypes.get_errno())
    os.close(descriptor)
    return None


def skip_unless_allowed(io: str) -> None:
    """Skips the test if it is of io_uring and the kernel forbids that."""
    problem = io_uring_problem() if io == "io_uring" else None
    if problem is not None:
        pytest.skip(f"io_uring cannot be used here: {problem}")
