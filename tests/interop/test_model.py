"""Random requests of several clients at a time, through the whole server, against plain arrays.

Two exports, for each several connections over unix sockets and TCP, a pool that is a fraction of
what is written and a store for the rest. Each client owns a run of bytes that begins and ends
inside pages whose other parts its neighbours own.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest

from nbdswap.nbd import Client, Negotiator
from nbdswap.nbd.constants import BASE_ALLOCATION, CommandFlag
from tests.interop.conftest import SMALL_POOL_BYTES
from tests.support.pages import MIB, PAGE_BYTES, make_data
from tests.support.servers import EXPORT, Server, ServerSettings, new_server

pytestmark = pytest.mark.only_nbdswap

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [1, 2]
OTHER = "other"
SIZES = {EXPORT: 8 * MIB, OTHER: 6 * MIB}
CLIENTS_PER_EXPORT = 3
STEPS = 120
IN_FLIGHT = 16
STATE_ZERO = 2
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    settings = ServerSettings(
        size_bytes=SIZES[EXPORT],
        pool_bytes=SMALL_POOL_BYTES,
        arguments=(f"--export={OTHER}={SIZES[OTHER]}",),
    )
    server = new_server("nbdswap", settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Player:
    """One client, its bytes of the export, and what they must be."""

    def __init__(self, client: Client, rng: random.Random, first: int, size_bytes: int) -> None:
        self._client = client
        self._rng = rng
        self._first = first
        data = make_data(rng.randrange(1 << 30), -(-size_bytes // PAGE_BYTES))
        self._model = bytearray(data[:size_bytes])
        # Ranges that requests under way touch: the next ones are somewhere else.
        self._busy: set[tuple[int, int]] = set()

    async def play(self) -> None:
        """Fills its bytes and changes them; returns when the last state was read back."""
        await self._client.write(self._first, bytes(self._model))
        async with asyncio.TaskGroup() as requests:
            slots = asyncio.Semaphore(IN_FLIGHT)
            for _ in range(STEPS):
                await slots.acquire()
                # Each decides when it is made, not when it runs: the seed alone says what is done.
                request = requests.create_task(self._one())
                request.add_done_callback(lambda _: slots.release())
                await asyncio.sleep(0)
        assert await self._client.read(self._first, len(self._model)) == self._model

    async def _one(self) -> None:
        length = self._rng.randint(1, self._rng.choice((100, PAGE_BYTES, 5 * PAGE_BYTES, 300_000)))
        at = self._rng.randrange(len(self._model) - length)
        if self._rng.random() < 0.5 and at > PAGE_BYTES:
            # Whole pages, as the kernel has it.
            at -= (self._first + at) % PAGE_BYTES
            length = max(PAGE_BYTES, length - length % PAGE_BYTES)
        if any(at < end and start < at + length for start, end in self._busy):
            return
        busy = (at, at + length)
        self._busy.add(busy)
        act = self._rng.choice((self._write, self._write, self._read, self._read, self._status))
        act = self._rng.choice((act, act, act, act, self._zero, self._trim, self._flush))
        await act(at, length)
        self._busy.remove(busy)

    async def _write(self, at: int, length: int) -> None:
        data = make_data(self._rng.randrange(1 << 30), -(-length // PAGE_BYTES))[:length]
        self._model[at : at + length] = data
        await self._client.write(self._first + at, data, fua=self._rng.random() < 0.2)

    async def _read(self, at: int, length: int) -> None:
        data = await self._client.read(self._first + at, length)
        assert data == self._model[at : at + length], f"{length} bytes at {at}"

    async def _zero(self, at: int, length: int) -> None:
        flags = self._rng.choice((0, CommandFlag.NO_HOLE, CommandFlag.FAST_ZERO))
        self._model[at : at + length] = bytes(length)
        await self._client.write_zeroes(self._first + at, length, flags=flags)

    async def _trim(self, at: int, length: int) -> None:
        # Pages of which a part is to stay are left alone.
        start = -(-(self._first + at) // PAGE_BYTES) * PAGE_BYTES - self._first
        end = (self._first + at + length) // PAGE_BYTES * PAGE_BYTES - self._first
        if start < end:
            self._model[start:end] = bytes(end - start)
        await self._client.trim(self._first + at, length)

    async def _flush(self, at: int, length: int) -> None:
        await self._client.cache(self._first + at, length)
        await self._client.flush()

    async def _status(self, at: int, length: int) -> None:
        if not self._client.contexts:
            return
        extents = (await self._client.block_status(self._first + at, length))[BASE_ALLOCATION]
        assert extents
        for extent in extents:
            if extent.flags & STATE_ZERO:
                assert not any(self._model[at : at + extent.length_bytes]), f"{extent} at {at}"
            at += extent.length_bytes


async def connect(server: Server, export: str, *, tcp: bool, structured: bool) -> Client:
    if tcp:
        negotiator = await Negotiator.open_tcp("127.0.0.1", server.port)
    else:
        negotiator = await Negotiator.open_unix(str(server.unix_path))
    if structured:
        await negotiator.use_structured_replies()
        await negotiator.set_meta_contexts(export, [BASE_ALLOCATION])
    return await negotiator.go(export)


async def play_all(server: Server, seed: int) -> None:
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as players:
        for number in range(2 * CLIENTS_PER_EXPORT):
            export = (EXPORT, OTHER)[number % 2]
            share = SIZES[export] // CLIENTS_PER_EXPORT
            client = await connect(server, export, tcp=number % 3 == 0, structured=number % 4 != 1)
            rng = random.Random(f"{seed}/{number}")
            player = Player(client, rng, number // 2 * share, share)
            players.create_task(play_and_leave(client, player))


async def play_and_leave(client: Client, player: Player) -> None:
    async with client:
        await player.play()


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_read_what_they_wrote(small: Server, seed: int) -> None:
    asyncio.run(play_all(small, seed))
    pages = [export["pages"] for export in small.status()["exports"]]
    assert all(count["store"] > 0 for count in pages), f"the store was not needed: {pages}"
