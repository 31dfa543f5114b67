"""Every codec behind a server, one after the other over the same pages."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conftest import ServerFactory
from tests.support.pages import MIB, PAGE_BYTES, make_distinct_page
from tests.support.rawnbd import RawClient
from tests.support.servers import EXPORT, ServerSettings

SEED = 40
PAGES = 64
# And what its pages are counted as: objects of lz4hc are lz4's.
CHOICES = {
    "lz4:1": "lz4",
    "lz4hc:9": "lz4",
    "zstd:-3": "zstd",
    "lzo:1": "lzo",
    "deflate:1": "deflate",
    "none:0": "none",
}

pytestmark = pytest.mark.only_nbdswap


def test_pages_outlive_every_change_of_the_codec(server: ServerFactory) -> None:
    running = server(start=False)
    written: Counter[str] = Counter()
    for choice, counted_as in CHOICES.items():
        arguments = (f"--codec={choice}",)
        running.start(ServerSettings(size_bytes=4 * MIB, pool_bytes=4 * MIB, arguments=arguments))
        first = written.total()
        with RawClient.connect(running.unix_path, EXPORT) as client:
            for page in range(first, first + PAGES):
                client.write(page * PAGE_BYTES, make_distinct_page(SEED, page))
            for page in range(first + PAGES):
                got = client.read(page * PAGE_BYTES, PAGE_BYTES)
                assert got == make_distinct_page(SEED, page), f"page {page} with {choice}"
        written[counted_as] += PAGES
        pool = running.status()["pool"]
        assert f"{pool['codec']}:{pool['codec_level']}" == choice
        assert +Counter(pool["codec_pages"]) == written
        running.stop()
