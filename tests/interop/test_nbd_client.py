"""nbd-client: what a Linux machine attaches with (attaching itself: tests/guest)."""

from __future__ import annotations

import pytest

from tests.support.servers import EXPORT, Server
from tests.support.tools import require, run


@pytest.mark.only_nbdswap
def test_nbd_client_lists_the_export(placed: Server) -> None:
    nbd_client = require("nbd-client", "nbd-client")
    listing = run([nbd_client, "-l", "127.0.0.1", str(placed.port)]).stdout
    assert EXPORT in listing.split()
