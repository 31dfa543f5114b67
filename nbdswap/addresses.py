"""Where somebody listens: a path of a unix socket, or a host and port.

Not here: sockets (`listeners`) and name resolution.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from nbdswap.errors import NbdswapError

# sun_path is 108 bytes on Linux and ends with a NUL.
UNIX_PATH_BYTES_MAX = 107
TCP_WANTED = "HOST:PORT, [IPV6]:PORT or *:PORT with a port of 0 to 65535"


class AddressError(NbdswapError, ValueError):
    """A text that is no address."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (name, address or `*` for every address of this machine) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect. A name counts only if it is `localhost`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


Address = UnixAddress | TcpAddress


def parse_unix(text: str) -> UnixAddress:
    """A path for a unix socket, made absolute so that it stays true after a change of directory."""
    path = Path(text).expanduser().absolute()
    length = len(str(path).encode())
    if not text or length > UNIX_PATH_BYTES_MAX:
        raise AddressError(
            f"{text!r} is {length} bytes long, wanted a path of 1 to {UNIX_PATH_BYTES_MAX} bytes"
        )
    return UnixAddress(path)


def parse_tcp(text: str) -> TcpAddress:
    """HOST:PORT. An IPv6 address stands in brackets, `*` or nothing means every address."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{text!r} is ambiguous, wanted {TCP_WANTED}")
    if not colon or not port_text.isascii() or not port_text.isdigit():
        raise AddressError(f"{text!r} has no port, wanted {TCP_WANTED}")
    port = int(port_text)
    if port > 65535:
        raise AddressError(f"{text!r} has port {port}, wanted 0 to 65535")
    return TcpAddress(host or "*", port)


def parse_address(text: str) -> Address:
    """`unix:PATH` or HOST:PORT."""
    if text.startswith("unix:"):
        return parse_unix(text.removeprefix("unix:"))
    return parse_tcp(text)
