"""Servers in the two states that matter: all pages in the pool, and most in the store."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import MIB, make_data
from tests.support.servers import Server, ServerSettings, new_server

# A quarter of the shared server: about 16 MiB when compressed, four times the small pool.
DATA_PAGES = 8192
SMALL_POOL_BYTES = 4 * MIB
PLACEMENTS = {
    "in-pool": ServerSettings(size_bytes=128 * MIB, pool_bytes=256 * MIB, store=False),
    "in-store": ServerSettings(size_bytes=128 * MIB, pool_bytes=SMALL_POOL_BYTES, store=True),
}


@pytest.fixture(scope="module", params=PLACEMENTS)
def placed(request: pytest.FixtureRequest, server_kind: str) -> Iterator[Server]:
    """A running server for a whole module, once for each placement of its pages."""
    placement: str = request.param
    if server_kind != "nbdswap" and placement == "in-store":
        pytest.skip("only nbdswap has a store")
    shared = new_server(server_kind, PLACEMENTS[placement])
    try:
        shared.start()
        yield shared
    finally:
        shared.remove()


@pytest.fixture(params=["unix", "tcp"])
def uri(request: pytest.FixtureRequest, placed: Server) -> str:
    """The address of `placed`, over each transport."""
    return placed.unix_uri if request.param == "unix" else placed.tcp_uri


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of realistic pages; DATA_PAGES of them."""
    path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(make_data(seed=1, pages=DATA_PAGES))
    return path


def check_placement(server: Server) -> None:
    """The pages are where the server's settings want them, or the test shows nothing."""
    if server.kind != "nbdswap":
        return
    pages = server.pages()
    if server.settings.store:
        in_memory = pages["pool"] + pages["raw"]
        assert pages["store"] > in_memory, f"most pages should be in the store: {pages}"
    else:
        assert pages["store"] == 0, f"there is no store: {pages}"
        assert pages["pool"] > 0, f"nothing is in the pool: {pages}"


@pytest.fixture
def rng() -> random.Random:
    """Chance that SEED=... repeats."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}")  # Shown when the test fails.
    return random.Random(seed)
