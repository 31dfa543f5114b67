"""Fixtures that start the real server, for every test that talks to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.support.servers import Server, ServerSettings, new_server

# How long one example takes is the machine's business, not the code's.
settings.register_profile("nbdswap", deadline=None, print_blob=True)
settings.load_profile("nbdswap")

ServerFactory = Callable[..., Server]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        choices=("nbdswap", "nbdkit"),
        default="nbdswap",
        help="the server to test; nbdkit shows that a test itself is right",
    )
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "only_nbdswap: needs what no other server has; skipped with --against nbdkit"
    )
    config.addinivalue_line("markers", "long: takes minutes; needs --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if config.getoption("--against") != "nbdswap":
        reasons["only_nbdswap"] = "only nbdswap has what this looks at"
    if not config.getoption("--long"):
        reasons["long"] = "takes minutes; needs --long"
    for item in items:
        for marker in filter(item.get_closest_marker, reasons):
            item.add_marker(pytest.mark.skip(reason=reasons[marker]))


@pytest.fixture(scope="session")
def server_kind(pytestconfig: pytest.Config) -> str:
    kind: str = pytestconfig.getoption("--against")
    return kind


@pytest.fixture
def server(server_kind: str) -> Iterator[ServerFactory]:
    """A function that starts a server; what it started is stopped and checked afterwards.

    Its keywords are those of ServerSettings. With `start=False` the server is only prepared.
    """
    servers: list[Server] = []

    def start_server(*, start: bool = True, **settings: object) -> Server:
        new = new_server(server_kind, ServerSettings(**settings))  # type: ignore[arg-type]
        servers.append(new)
        if start:
            new.start()
        return new

    yield start_server
    errors = []
    for started in servers:
        try:
            started.remove()
        except AssertionError as error:
            errors.append(str(error))
    assert not errors, "\n".join(errors)
