"""libnbd scripts: each runs in nbdsh, Debian's Python with libnbd, against the running server.

A script finds `h`, connected, and fails by an assertion or an nbd.Error of its own.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.interop.conftest import check_placement
from tests.support.pages import PAGE_BYTES
from tests.support.servers import Server
from tests.support.tools import require, run

PRELUDE = """
import errno, random
P, M = 4096, 1 << 20
def refused(wanted, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == wanted, f"{error.string}, wanted {errno.errorcode[wanted]}"
    else:
        raise AssertionError(f"not refused: {errno.errorcode[wanted]} wanted")
h.set_strict_mode(h.get_strict_mode() & ~(nbd.STRICT_BOUNDS | nbd.STRICT_ZERO_SIZE |
                                          nbd.STRICT_ALIGN | nbd.STRICT_FLAGS))
size = h.get_size()
"""


def nbdsh(uri: str, script: str, *, contexts: bool = False, before_connect: str = "") -> str:
    program = require("nbdsh", "python3-libnbd")
    require("nbdinfo", "libnbd-bin")
    setup = "h.add_meta_context('base:allocation')\n" if contexts else ""
    setup += before_connect + f"\nh.connect_uri({uri!r})\n"
    # The binding belongs to Debian's own Python, which may not be the first one in PATH.
    command = ["env", "PATH=/usr/bin:/bin", program, "-c"]
    return run([*command, setup + PRELUDE + textwrap.dedent(script)]).stdout


def test_writes_of_any_length_at_any_place_are_read_back(uri: str) -> None:
    nbdsh(
        uri,
        """
        rng = random.Random(5)
        model = bytearray(h.pread(M, 0))
        for step in range(300):
            at = rng.randrange(M - 1)
            length = min(rng.choice((1, 7, 512, 4095, 4096, 4097, 30000)), M - at)
            data = rng.randbytes(length)
            h.pwrite(data, at)
            model[at:at + length] = data
            a = rng.randrange(M - 1)
            n = min(9000, M - a)
            assert h.pread(n, a) == model[a:a + n], f"seed 5 step {step}"
        assert h.pread(M, 0) == model
        """,
    )


def test_requests_of_64_mib_go_through(uri: str) -> None:
    nbdsh(
        uri,
        """
        rng = random.Random(6)
        some = rng.randbytes(64 * 1024)
        data = bytearray(some * 1024)
        data[12345] ^= 255
        h.pwrite(data, M + 100)
        assert h.pread(64 * M, M + 100) == data
        """,
    )


def test_requests_past_the_end_are_refused(uri: str) -> None:
    nbdsh(
        uri,
        """
        refused(errno.EINVAL, h.pread, P, size)
        refused(errno.EINVAL, h.pread, P, size - 1)
        refused(errno.ENOSPC, h.pwrite, bytes(P), size)
        refused(errno.ENOSPC, h.pwrite, bytes(P), size - 1)
        refused(errno.ENOSPC, h.zero, P, size)
        refused(errno.EINVAL, h.trim, P, size)
        assert len(h.pread(1, size - 1)) == 1
        """,
    )


@pytest.mark.only_nbdswap
def test_requests_of_no_length_are_refused(uri: str) -> None:
    nbdsh(
        uri,
        """
        refused(errno.EINVAL, h.pread, 0, 0)
        refused(errno.EINVAL, h.pwrite, b"", 0)
        refused(errno.EINVAL, h.zero, 0, 0)
        refused(errno.EINVAL, h.trim, 0, 0)
        h.flush()
        """,
    )


def test_trimmed_and_zeroed_pages_read_as_zeroes_and_their_neighbours_stay(uri: str) -> None:
    nbdsh(
        uri,
        """
        data = random.Random(7).randbytes(16 * P)
        for erase in (h.trim, h.zero, lambda n, at: h.zero(n, at, nbd.CMD_FLAG_NO_HOLE),
                      lambda n, at: h.zero(n, at, nbd.CMD_FLAG_FAST_ZERO)):
            h.pwrite(data, 0)
            erase(4 * P, 4 * P)
            assert h.pread(16 * P, 0) == data[:4 * P] + bytes(4 * P) + data[8 * P:]
        h.pwrite(data, 0)
        h.zero(P, 100)
        assert h.pread(16 * P, 0) == data[:100] + bytes(P) + data[100 + P:]
        """,
    )


def test_block_status_follows_writes_and_trims(uri: str) -> None:
    nbdsh(
        uri,
        """
        def extents(length, at, flags=0):
            found = []
            h.block_status(length, at, lambda context, offset, entries, error:
                           found.extend(zip(entries[::2], entries[1::2])), flags)
            return found
        def has_data(at):
            ((_, flags), *_) = extents(P, at, nbd.CMD_FLAG_REQ_ONE)
            return not flags & (nbd.STATE_HOLE | nbd.STATE_ZERO)
        h.trim(size, 0)
        assert not has_data(0) and not has_data(size - P)
        h.pwrite(random.Random(8).randbytes(64 * 1024), M)
        assert has_data(M) and has_data(M + 60 * 1024) and not has_data(M - 64 * 1024)
        h.trim(64 * 1024, M)
        assert not has_data(M)
        ((length, _),) = extents(size, 0, nbd.CMD_FLAG_REQ_ONE)
        assert 0 < length <= size
        """,
        contexts=True,
    )


def test_structured_reads_come_in_chunks_that_cover_the_request(uri: str) -> None:
    nbdsh(
        uri,
        """
        assert h.get_structured_replies_negotiated()
        data = random.Random(9).randbytes(16 * P)
        h.trim(M, 0)
        h.pwrite(data, 4 * P)
        for flags in (0, nbd.CMD_FLAG_DF):
            chunks = []
            def chunk(subbuf, offset, status, error):
                assert error.value == 0
                chunks.append((offset, len(subbuf), status))
            got = h.pread_structured(24 * P, 0, chunk, flags)
            assert got == bytes(4 * P) + data + bytes(4 * P)
            assert sum(length for _, length, _ in chunks) == 24 * P
            assert len(chunks) == 1 or flags == 0
        """,
    )


def test_simple_replies_do_as_well(uri: str) -> None:
    nbdsh(
        uri,
        """
        assert not h.get_structured_replies_negotiated()
        data = random.Random(10).randbytes(100 * P)
        h.pwrite(data, 17)
        assert h.pread(100 * P, 17) == data
        refused(errno.EINVAL, h.pread, P, size)
        assert h.pread(100 * P, 17) == data
        """,
        before_connect="h.set_request_structured_replies(False)",
    )


def test_what_one_connection_wrote_another_one_reads(uri: str) -> None:
    nbdsh(
        uri,
        f"""
        others = [nbd.NBD() for _ in range(4)]
        for other in others:
            other.connect_uri({uri!r})
        assert h.can_multi_conn()
        rng = random.Random(11)
        for step in range(200):
            data, at = rng.randbytes(P), rng.randrange(256) * P
            writer, reader = rng.sample(others, 2)
            writer.pwrite(data, at)
            assert reader.pread(P, at) == data, f"seed 11 step {{step}}"
        h.flush()
        """,
    )


def test_replies_to_many_requests_in_flight_are_not_mixed_up(uri: str) -> None:
    nbdsh(
        uri,
        """
        pages = [random.Random(f"12/{i}").randbytes(64) * 64 for i in range(2048)]
        for start in range(0, 2048, 64):
            for i in range(start, start + 64):
                h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(pages[i])), i * P)
            while h.aio_in_flight():
                h.poll(-1)
        order = list(range(2048))
        random.Random(13).shuffle(order)
        for start in range(0, 2048, 128):
            buffers = [(i, nbd.Buffer(P)) for i in order[start:start + 128]]
            for i, buffer in buffers:
                h.aio_pread(buffer, i * P)
            while h.aio_in_flight():
                h.poll(-1)
            for i, buffer in buffers:
                assert buffer.to_bytearray() == pages[i], f"page {i}"
        """,
    )


def test_realistic_pages_survive_rewriting_in_any_order(
    placed: Server, uri: str, image: Path
) -> None:
    script = f"""
        image = open({str(image)!r}, "rb").read()
        pages = len(image) // P
        rng = random.Random(14)
        where = list(range(pages))
        for turn in range(2):
            rng.shuffle(where)
            for source in range(0, pages, 8):
                for i in range(source, source + 8):
                    page = bytearray(image[i * P:i * P + P])
                    h.aio_pwrite(nbd.Buffer.from_bytearray(page), where[i] * P)
                while h.aio_in_flight():
                    h.poll(-1)
        h.flush()
        import json
        print(json.dumps(where))
        """
    where = json.loads(nbdsh(uri, script))
    check_placement(placed)
    verify = f"""
        import json
        image = open({str(image)!r}, "rb").read()
        for source, target in enumerate({where}):
            assert h.pread(P, target * P) == image[source * P:source * P + P], (source, target)
        """
    # The list is long for an argument of a program, but well below the kernel's 128 KiB.
    assert len(verify) < 120_000
    assert len(where) * PAGE_BYTES == image.stat().st_size
    nbdsh(uri, verify)


def test_a_script_that_finds_a_wrong_page_fails(uri: str) -> None:
    with pytest.raises(AssertionError, match="seen by the script"):
        nbdsh(uri, "h.pwrite(b'a' * P, 0)\nassert h.pread(P, 0) == b'b' * P, 'seen by the script'")
