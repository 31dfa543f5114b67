"""fio's nbd engine: many requests in flight, each block verified when it is read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import check_placement
from tests.support.servers import Server
from tests.support.tools import require, run


@pytest.fixture
def fio() -> str:
    return require("fio", "fio")


def fio_job(fio: str, uri: str, directory: Path, *options: str) -> str:
    # fio leaves its verify state in the working directory; it is told where to put it.
    common = ["--name=job", "--ioengine=nbd", f"--uri={uri}", "--thread", "--randrepeat=1"]
    return run([fio, *common, f"--aux-path={directory}", *options]).stdout


VERIFY = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]


@pytest.mark.parametrize("pattern", ["write", "randwrite", "randrw"])
def test_fio_verifies_what_it_wrote(
    fio: str, placed: Server, uri: str, tmp_path: Path, pattern: str
) -> None:
    # As well as memory compresses; the 19 MiB that are left do not fit the small pool.
    options = ["--bs=4k", "--iodepth=32", "--size=48m", "--buffer_compress_percentage=60"]
    fio_job(fio, uri, tmp_path, f"--rw={pattern}", *options, *VERIFY)
    check_placement(placed)


def test_fio_verifies_blocks_of_many_sizes(fio: str, uri: str, tmp_path: Path) -> None:
    options = ["--bsrange=512-256k", "--bs_unaligned", "--iodepth=16", "--size=24m"]
    fio_job(fio, uri, tmp_path, "--rw=randwrite", *options, *VERIFY)


def test_fio_verifies_through_several_connections(fio: str, uri: str, tmp_path: Path) -> None:
    options = ["--numjobs=4", "--size=12m", "--offset_increment=16m", "--bs=4k", "--iodepth=8"]
    fio_job(fio, uri, tmp_path, "--rw=randwrite", *options, *VERIFY)


def test_fio_trims(fio: str, uri: str, tmp_path: Path) -> None:
    options = ["--bs=4k", "--iodepth=8", "--size=64m", "--io_size=4m"]
    fio_job(fio, uri, tmp_path, "--rw=randtrim", *options)
    fio_job(fio, uri, tmp_path, "--rw=trimwrite", *options)
