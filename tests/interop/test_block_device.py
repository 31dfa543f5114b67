"""A block device as backing file: a loop device over a file, whose room shows what is discarded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.pages import MIB
from tests.support.rawnbd import RawClient
from tests.support.servers import EXPORT
from tests.support.trouble import NoiseClient, wait_until

EXPORT_BYTES = 24 * MIB
DEVICE_BYTES = 48 * MIB
POOL_BYTES = 4 * MIB
PAGES = range(4096)

pytestmark = pytest.mark.only_nbdswap


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A block device, and the file behind it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(DEVICE_BYTES)
    done = subprocess.run(
        ["losetup", "--find", "--show", image], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no loop device can be had here: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield path, image
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


def room_bytes(image: Path) -> int:
    """What the file takes on the disk."""
    return 512 * image.stat().st_blocks


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_block_device_keeps_pages_over_kills_and_gets_its_room_back(
    server: ServerFactory, device: tuple[Path, Path], durability: str
) -> None:
    path, image = device
    running = server(
        exports=({"name": EXPORT, "size_bytes": EXPORT_BYTES, "durability": durability},),
        pool_bytes=POOL_BYTES,
        store_path=path,
        store_config={"capacity_bytes": DEVICE_BYTES, "segment_bytes": MIB},
    )
    with closing(NoiseClient(RawClient.connect(running.unix_path, EXPORT))) as client:
        assert {client.write(page) for page in PAGES} == {"ok"}
        assert room_bytes(image) > 8 * MIB
        running.kill()
        running.start()
        client.reconnect(running)
        client.check()
        assert running.upgrade().returncode == 0
        client.check()
        for page in PAGES:
            client.zero(page)
        assert client.flush() == "ok"
        wait_until(lambda: room_bytes(image) < 6 * MIB, "nothing is discarded")
    running.stop()


def test_one_that_is_smaller_than_the_configuration_says_is_refused_with_the_cure(
    server: ServerFactory, device: tuple[Path, Path]
) -> None:
    path, _ = device
    with pytest.raises(AssertionError, match=r"set store\.capacity_bytes to what it has, or less"):
        server(store_path=path, store_config={"capacity_bytes": 2 * DEVICE_BYTES})
