"""Listening sockets: bound all at once before anything else is started, removed at the end.

A socket file that a dead server left is replaced; one on which somebody answers, or that is no
socket, is left alone and refused. Not here: accepting (`server`).
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nbdswap.addresses import Address, TcpAddress, UnixAddress
from nbdswap.errors import ListenError

BACKLOG = 128
# Nobody but us (and root) may write to a socket, and connecting is writing.
UNIX_UMASK = 0o177
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound, listening, non-blocking socket."""

    sock: socket.socket
    address: Address
    inode: tuple[int, int] | None = None
    """Device and inode of a socket file that we made; None where there is none to remove."""
    asked: str | None = None
    """The address in the configuration; None for a socket that was passed in."""

    def close(self) -> None:
        """Stops listening and removes the socket file, unless somebody has replaced it."""
        self.sock.close()
        if isinstance(self.address, UnixAddress) and self.inode is not None:
            _unlink_if_same(self.address.path, self.inode)


def bind_all(addresses: Iterable[Address], held: Iterable[Listener] = ()) -> list[Listener]:
    """Listens on every address or, raising ListenError, on none.

    Those that a predecessor listens on already are taken from `held`; of it, what nobody asks for
    any more is closed.
    """
    left = list(held)
    listeners: list[Listener] = []
    try:
        for address in addresses:
            ours = [listener for listener in left if listener.asked == str(address)]
            if ours:
                listeners += ours
                left = [listener for listener in left if listener not in ours]
                continue
            match address:
                case UnixAddress():
                    listeners.append(_bind_unix(address))
                case TcpAddress():
                    _bind_tcp(address, listeners)
    except BaseException:
        close_all(listeners)
        raise
    finally:
        close_all(left)
    return listeners


def adopt_all(sockets: Iterable[socket.socket]) -> list[Listener]:
    """Listeners on sockets that the service manager bound; their files are the manager's."""
    return [Listener(sock, address_of(sock)) for sock in sockets]


def close_all(listeners: Iterable[Listener]) -> None:
    """Closes them all."""
    for listener in listeners:
        listener.close()


def address_of(sock: socket.socket) -> Address:
    """The local address, with the port that the system chose."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UnixAddress(Path(name))
    return TcpAddress(name[0], name[1])


def _bind_unix(address: UnixAddress) -> Listener:
    path = address.path
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {path.parent}: {error.strerror}") from None
    _remove_stale(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The umask and not chmod afterwards, which would leave a moment for others to connect. It is
    # the whole process's, but no other thread exists yet.
    umask = os.umask(UNIX_UMASK)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    finally:
        os.umask(umask)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return Listener(sock, address, _inode(path), str(address))


def _remove_stale(address: UnixAddress) -> None:
    path = address.path
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {address}: the file is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        code = probe.connect_ex(str(path))
    if code == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif code != errno.ENOENT:
        found = "another server answers there" if code == 0 else os.strerror(code)
        raise ListenError(f"cannot listen on {address}: {found}")


def _bind_tcp(address: TcpAddress, listeners: list[Listener]) -> None:
    """A name may stand for several addresses, `*` for all of IPv4 and IPv6: a socket for each."""
    host = None if address.host == "*" else address.host
    try:
        found = socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    unsupported = None
    bound = 0
    for family, kind, protocol, _, name in dict.fromkeys(found):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            # A kernel without IPv6 still resolves names to its addresses.
            unsupported = error
            continue
        listeners.append(_listen_tcp(sock, name, address))
        bound += 1
    if not bound:
        reason = unsupported.strerror if unsupported else "no address"
        raise ListenError(f"cannot listen on {address}: {reason}")


def _listen_tcp(sock: socket.socket, name: object, address: TcpAddress) -> Listener:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # IPv4 has its own socket; one that serves both would take its port away.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)  # type: ignore[arg-type]  # as getaddrinfo gave it
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from None
    sock.setblocking(False)
    return Listener(sock, address_of(sock), asked=str(address))


def _unlink_if_same(path: Path, inode: tuple[int, int]) -> None:
    if _inode(path) == inode:
        path.unlink(missing_ok=True)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
