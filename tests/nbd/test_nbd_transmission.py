"""What the client believes of a server's replies, and what it refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_helpers import random_pieces

from nbdswap.nbd import ClientTransmission, ProtocolError, events
from nbdswap.nbd import wire_transmission as wt
from nbdswap.nbd.constants import Command, Error
from nbdswap.nbd.events import CommandDone, Extent


def done(transmission: ClientTransmission) -> list[CommandDone]:
    commands = []
    while (event := transmission.next_event()) is not None:
        commands.append(event)
    return commands


def simple(cookie: int, error: int = 0) -> bytes:
    return wt.encode_simple_reply(wt.SimpleReply(cookie, error))


def chunks(cookie: int, *parts: wt.Chunk) -> bytes:
    last = len(parts) - 1
    return b"".join(
        wt.encode_chunk(cookie, part, done=index == last) for index, part in enumerate(parts)
    )


def begun(*, structured: bool, received: bytes = b"") -> ClientTransmission:
    """READ of 8 bytes at 100 (cookie 1), WRITE (2), BLOCK_STATUS of 4096 (3), READ of 0 (4)."""
    transmission = ClientTransmission(structured_replies=structured, received=received)
    transmission.send(Command.READ, 100, 8)
    transmission.send(Command.WRITE, 0, 3)
    transmission.send(Command.BLOCK_STATUS, 0, 4096)
    transmission.send(Command.READ, 0, 0)
    assert transmission.pending_count == 4
    return transmission


def test_a_request_is_what_the_specification_says() -> None:
    transmission = ClientTransmission(structured_replies=False)
    cookie, header = transmission.send(Command.TRIM, 1 << 40, 2 << 20, 1)
    request = wt.decode_request_header(header)
    assert request == wt.RequestHeader(cookie, Command.TRIM, 1 << 40, 2 << 20, 1)


def test_disconnecting_awaits_no_reply() -> None:
    transmission = ClientTransmission(structured_replies=False)
    transmission.send(Command.DISC)
    assert transmission.pending_count == 0


def test_simple_replies_come_in_any_order_and_with_errors() -> None:
    transmission = begun(structured=False)
    stream = simple(2, Error.ENOSPC) + simple(1) + b"abcdefgh" + simple(4, Error.EINVAL)
    transmission.receive_data(stream)
    assert done(transmission) == [
        CommandDone(2, Error.ENOSPC),
        CommandDone(1, 0, data=b"abcdefgh"),
        CommandDone(4, Error.EINVAL),
    ]
    assert transmission.pending_count == 1


def test_structured_replies_are_put_together() -> None:
    transmission = begun(structured=True)
    extents = (Extent(4096, 3), Extent(8192, 0))
    transmission.receive_data(
        chunks(1, wt.DataChunk(104, b"efg"), wt.HoleChunk(107, 1), wt.DataChunk(100, b"abcd"))
        + simple(2)
        + chunks(3, wt.StatusChunk(1, extents), wt.EmptyChunk())
        + chunks(4, wt.ErrorChunk(Error.EINVAL, "nothing to read"))
    )
    assert done(transmission) == [
        CommandDone(1, 0, data=b"abcdefg\0"),
        CommandDone(2, 0),
        CommandDone(3, 0, extents={1: extents}),
        CommandDone(4, Error.EINVAL, "nothing to read"),
    ]


def test_an_error_in_any_chunk_is_the_commands_error() -> None:
    transmission = begun(structured=True)
    parts = (wt.DataChunk(100, b"abcd"), wt.ErrorChunk(Error.EIO, "bad"), wt.ErrorChunk(22, "late"))
    transmission.receive_data(chunks(1, *parts, wt.EmptyChunk()))
    assert done(transmission) == [CommandDone(1, Error.EIO, "bad")]


def test_an_error_chunk_without_an_error_is_still_one() -> None:
    transmission = begun(structured=True)
    transmission.receive_data(chunks(2, wt.ErrorChunk(0, "")))
    assert done(transmission) == [CommandDone(2, Error.EINVAL)]


def test_bytes_left_over_by_the_handshake_come_first() -> None:
    transmission = begun(structured=False, received=simple(2)[:5])
    transmission.receive_data(simple(2)[5:])
    assert done(transmission) == [CommandDone(2, 0)]


REFUSED = {
    "unknown magic": (True, bytes(20)),
    "structured reply that was not agreed": (False, chunks(2, wt.EmptyChunk())),
    "simple reply to READ when structured was agreed": (True, simple(1)),
    "simple reply to BLOCK_STATUS": (True, simple(3)),
    "unknown cookie": (False, simple(77)),
    "unknown cookie in a chunk": (True, chunks(77, wt.EmptyChunk())),
    "reply twice": (False, simple(2) + simple(2)),
    "read with a gap": (True, chunks(1, wt.DataChunk(100, b"abc"), wt.DataChunk(104, b"efgh"))),
    "read that ends early": (True, chunks(1, wt.DataChunk(100, b"abc"))),
    "read of nothing": (True, chunks(1, wt.EmptyChunk())),
    "read with an overlap": (
        True,
        chunks(1, wt.DataChunk(100, b"abcd"), wt.DataChunk(103, b"efghi"[:5])),
    ),
    "same bytes twice in place of the rest": (
        True,
        chunks(1, wt.DataChunk(100, b"abcd"), wt.DataChunk(100, b"abcd")),
    ),
    "data before the request": (True, chunks(1, wt.DataChunk(99, b"abcdefgh"))),
    "data behind the request": (True, chunks(1, wt.DataChunk(101, b"abcdefgh"))),
    "hole behind the request": (True, chunks(1, wt.HoleChunk(100, 9))),
    "data without bytes": (True, chunks(1, wt.DataChunk(100, b""))),
    "data for a WRITE": (True, chunks(2, wt.DataChunk(0, b"abc"))),
    "block status for a READ": (True, chunks(1, wt.StatusChunk(1, (Extent(1, 0),)))),
    "block status without extents": (True, chunks(3, wt.EmptyChunk())),
    "block status twice for a context": (
        True,
        chunks(3, wt.StatusChunk(1, (Extent(1, 0),)), wt.StatusChunk(1, (Extent(1, 0),))),
    ),
    "chunk of 4 GiB": (True, chunks(1, wt.EmptyChunk())[:16] + b"\xff\xff\xff\xff"),
    "unknown type of chunk": (True, chunks(1, wt.HoleChunk(0, 0)).replace(b"\0\x02", b"\0\x09", 1)),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_reply_that_fits_nothing_ends_the_connection(row: str) -> None:
    structured, stream = REFUSED[row]
    transmission = begun(structured=structured)
    transmission.receive_data(stream)
    with pytest.raises(ProtocolError):
        done(transmission)
    with pytest.raises(ProtocolError, match="before"):
        transmission.next_event()


@given(st.lists(st.integers(0), max_size=10), st.permutations([1, 2, 3, 4]))
def test_replies_may_be_cut_and_shuffled(cuts: list[int], order: list[int]) -> None:
    replies = {
        1: chunks(1, wt.HoleChunk(104, 4), wt.DataChunk(100, b"abcd")),
        2: simple(2),
        3: chunks(3, wt.StatusChunk(7, (Extent(4096, 0),))),
        4: chunks(4, wt.ErrorChunk(Error.EINVAL, "")),
    }
    transmission = begun(structured=True)
    heard: list[CommandDone] = []
    for piece in random_pieces(b"".join(replies[cookie] for cookie in order), cuts):
        transmission.receive_data(piece)
        heard += done(transmission)
    assert [event.cookie for event in heard] == order
    assert next(event for event in heard if event.cookie == 1).data == b"abcd\0\0\0\0"


@settings(max_examples=200)
@given(st.binary(max_size=80), st.booleans())
def test_garbage_is_refused_or_awaits_more(garbage: bytes, structured: bool) -> None:
    for start in (b"", simple(1)[:4], simple(1)[:8], chunks(1, wt.EmptyChunk())[:4]):
        transmission = begun(structured=structured)
        transmission.receive_data(start + garbage)
        try:
            heard = done(transmission)
        except ProtocolError:
            continue
        assert all(isinstance(event, events.CommandDone) for event in heard)
