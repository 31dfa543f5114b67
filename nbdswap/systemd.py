"""The two agreements with a service manager: readiness messages and inherited listening sockets.

Both are a few lines over an environment variable; no library of systemd is needed. Without the
variables nothing happens.
"""

import os
import socket

from nbdswap.errors import UsageError

FIRST_FD = 3


def notify(*lines: str) -> None:
    """Tells the service manager, for example `READY=1`. Nobody listening is no error."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # A name in the abstract namespace is written with @ and starts with NUL.
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.sendto("\n".join(lines).encode(), address)
        except OSError:
            # The service manager is restarting; serving does not depend on it.
            return


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that the service manager made for this process, made ours."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count_text = os.environ.get("LISTEN_FDS", "")
    if not count_text.isdigit() or not int(count_text):
        raise UsageError(f"LISTEN_FDS is {count_text!r}, wanted the number of sockets")
    # A child must not take them for its own.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return [_listening_socket(fd) for fd in range(FIRST_FD, FIRST_FD + int(count_text))]


def _listening_socket(fd: int) -> socket.socket:
    try:
        inherited = socket.socket(fileno=fd)
        listening = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageError(f"descriptor {fd} from LISTEN_FDS: {error.strerror}") from None
    if not listening or inherited.type != socket.SOCK_STREAM:
        inherited.detach()
        raise UsageError(f"descriptor {fd} from LISTEN_FDS is not a listening stream socket")
    os.set_inheritable(fd, False)
    inherited.setblocking(False)
    return inherited
