"""Bad clients beside a good one: the good one's pages stay right and its requests are answered.

The good client is a thread that writes and verifies pages of its own all the time. A test does
its mischief and then waits until the thread has verified a good many pages more.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.support.pages import MIB, PAGE_BYTES, make_distinct_page
from tests.support.rawnbd import Command, RawClient, dial, encode_request, greet
from tests.support.servers import EXPORT, Server

SEED = 20
PAGES = 256
PROGRESS_PAGES = 500
PROGRESS_TIMEOUT_S = 30.0

# nbdkit 1.32 aborts when a client is gone while it answers: "Assertion `sock >= 0' failed".
not_nbdkit = pytest.mark.only_nbdswap


class GoodClient(threading.Thread):
    """Writes and verifies its pages, the first PAGES of the export, until it is told to stop."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="good client", daemon=True)
        self._server = server
        self._stop_asked = threading.Event()
        self._progress = threading.Condition()
        self._verified = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with RawClient.connect(self._server.unix_path, EXPORT) as client:
                generation = 0
                while not self._stop_asked.is_set():
                    self._one_round(client, generation)
                    generation += 1
        except BaseException as error:
            self._error = error
        with self._progress:
            self._progress.notify_all()

    def _one_round(self, client: RawClient, generation: int) -> None:
        for index in range(PAGES):
            client.write(index * PAGE_BYTES, make_distinct_page(SEED, index, generation))
        for index in range(PAGES):
            got = client.read(index * PAGE_BYTES, PAGE_BYTES)
            assert got == make_distinct_page(SEED, index, generation), f"page {index}"
            with self._progress:
                self._verified += 1
                self._progress.notify_all()

    def wait_for_progress(self) -> None:
        """Returns when PROGRESS_PAGES more pages were verified; raises the thread's error."""
        with self._progress:
            wanted = self._verified + PROGRESS_PAGES
            self._progress.wait_for(
                lambda: self._verified >= wanted or self._error is not None, PROGRESS_TIMEOUT_S
            )
            if self._error is not None:
                raise AssertionError("the good client failed") from self._error
            assert self._verified >= wanted, f"no progress in {PROGRESS_TIMEOUT_S:.0f} s"

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(PROGRESS_TIMEOUT_S)
        assert not self.is_alive(), "the good client is stuck"


@pytest.fixture
def good_client(placed: Server) -> Iterator[GoodClient]:
    client = GoodClient(placed)
    client.start()
    client.wait_for_progress()
    yield client
    client.stop()


def reset(sock: socket.socket) -> None:
    """Closes at once and rudely: what was not sent or read is dropped, the peer gets an error."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def dial_tcp(server: Server) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    greet(sock)
    return sock


def test_garbage_instead_of_a_handshake(placed: Server, good_client: GoodClient) -> None:
    rng = random.Random(21)
    for _ in range(50):
        with dial(placed.unix_path) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(rng.randbytes(rng.randrange(1, 5000)))
    good_client.wait_for_progress()


@not_nbdkit
def test_garbage_in_the_transmission(placed: Server, good_client: GoodClient) -> None:
    rng = random.Random(22)
    for _ in range(50):
        client = RawClient.connect(placed.unix_path, EXPORT)
        with client, contextlib.suppress(ConnectionError):
            client.socket.sendall(rng.randbytes(rng.randrange(28, 5000)))
            client.expect_closed()
    good_client.wait_for_progress()


def test_handshakes_that_stop_anywhere(placed: Server, good_client: GoodClient) -> None:
    hello = struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 6 + len(EXPORT))
    hello += struct.pack(">I", len(EXPORT)) + EXPORT.encode() + bytes(2)
    with contextlib.ExitStack() as open_sockets:
        for length in range(0, len(hello), 2):
            sock = open_sockets.enter_context(dial(placed.unix_path))
            sock.sendall(hello[:length])
        good_client.wait_for_progress()
    good_client.wait_for_progress()


@not_nbdkit
def test_connections_reset_in_the_middle_of_a_write(
    placed: Server, good_client: GoodClient
) -> None:
    rng = random.Random(23)
    length = 64 * 1024
    for _ in range(100):
        client = RawClient.connect(placed.unix_path, EXPORT)
        request = encode_request(Command.WRITE, 32 * MIB, length, 1)
        client.socket.sendall(request + rng.randbytes(rng.randrange(length)))
        reset(client.socket)
    for _ in range(20):
        reset(dial_tcp(placed))
    good_client.wait_for_progress()


def test_a_write_whose_data_never_arrived_leaves_only_whole_pages(placed: Server) -> None:
    start, count = 48 * MIB, 32
    pages = [[make_distinct_page(24, i, generation) for i in range(count)] for generation in (0, 1)]
    with RawClient.connect(placed.unix_path, EXPORT) as client:
        client.write(start, b"".join(pages[0]))
        header = encode_request(Command.WRITE, start, count * PAGE_BYTES, 1)
        client.socket.sendall(header + b"".join(pages[1])[: count * PAGE_BYTES // 2 + 100])
        client.socket.shutdown(socket.SHUT_WR)
        client.expect_closed()
    with RawClient.connect(placed.unix_path, EXPORT) as client:
        for index in range(count):
            got = client.read(start + index * PAGE_BYTES, PAGE_BYTES)
            assert got in (pages[0][index], pages[1][index]), f"page {index} is neither"


@not_nbdkit
def test_a_client_that_never_reads_its_replies(placed: Server, good_client: GoodClient) -> None:
    with RawClient.connect(placed.unix_path, EXPORT) as deaf:
        deaf.write(16 * MIB, random.Random(25).randbytes(4 * MIB))
        # The server stops taking requests when it cannot get rid of replies: these would be 100 GB
        # of its memory.
        batch = b"".join(encode_request(Command.READ, 16 * MIB, MIB, i) for i in range(100_000))
        deaf.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            deaf.socket.sendall(batch)
        good_client.wait_for_progress()
    good_client.wait_for_progress()


def test_more_clients_than_anyone_needs(placed: Server, good_client: GoodClient) -> None:
    with contextlib.ExitStack() as clients:
        for number in range(60):
            client = clients.enter_context(RawClient.connect(placed.unix_path, EXPORT))
            page = make_distinct_page(26, number)
            client.write(40 * MIB + number * PAGE_BYTES, page)
            assert client.read(40 * MIB + number * PAGE_BYTES, PAGE_BYTES) == page
        good_client.wait_for_progress()
