"""The exceptions of this package, all of them NbdError.

Only the client's side raises them. The server's side answers, or ends with a `Failed` result, and
never lets a peer make it raise.
"""

from .constants import Command, Error, Option, Reply


def name_of(kind: type[Error] | type[Reply] | type[Option] | type[Command], value: int) -> str:
    """The specification's name of a number, or the number itself when it has none."""
    try:
        return kind(value).name
    except ValueError:
        return f"{kind.__name__} {value}"


class NbdError(Exception):
    """Base of everything that this package raises because of a peer."""


class ProtocolError(NbdError):
    """The peer sent what the protocol does not allow; the connection cannot be used further."""


class ConnectionLostError(NbdError):
    """The connection ended while an answer was owed; whether the command was done is unknown."""


class OptionError(NbdError):
    """The server refused an option; negotiation may go on.

    `option` is the number that was asked, `error` the reply type (a `Reply`, or an unknown number
    with the top bit set), `text` the server's words for a human, often empty.
    """

    def __init__(self, option: int, error: int, text: str) -> None:
        self.option = option
        self.error = error
        self.text = text
        refusal = f"{name_of(Option, option)} refused with {name_of(Reply, error)}"
        super().__init__(f"{refusal}: {text}" if text else refusal)


class CommandError(NbdError):
    """The server answered a command with an error; the connection is still good.

    `command` is the number that was asked, `errno` the protocol's error number (an `Error`, whose
    values are Linux's), `text` the server's words for a human, often empty.
    """

    def __init__(self, command: int, errno: int, text: str) -> None:
        self.command = command
        self.errno = errno
        self.text = text
        failure = f"{name_of(Command, command)} failed with {self.errno_name}"
        super().__init__(f"{failure}: {text}" if text else failure)

    @property
    def errno_name(self) -> str:
        """The specification's name of `errno`, such as "ENOSPC"."""
        return name_of(Error, self.errno)
