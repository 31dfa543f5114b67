"""Layouts: what is encoded is decoded again, and garbage is refused with WireError alone."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdswap.nbd import ExportInfo, events, wire
from nbdswap.nbd import wire_transmission as wt
from nbdswap.nbd.constants import (
    BASE_ALLOCATION,
    ChunkFlag,
    ClientFlag,
    Command,
    HandshakeFlag,
    Info,
    Option,
    Reply,
    TransmissionFlag,
)
from nbdswap.nbd.cursor import WireError

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


def test_bytes_are_those_of_the_specification() -> None:
    assert wire.encode_greeting(HandshakeFlag(3)) == b"NBDMAGICIHAVEOPT\0\x03"
    assert wire.encode_client_flags(ClientFlag(3)) == b"\0\0\0\x03"
    assert wire.encode_option(Option.GO, b"ab").hex() == "49484156454f505400000007000000026162"
    assert wire.encode_reply(7, Reply.ACK).hex() == "0003e889045565a9000000070000000100000000"
    request = wt.RequestHeader(cookie=0x0102, command=Command.WRITE, offset_bytes=5, length_bytes=6)
    assert wt.encode_request(request).hex() == (
        "25609513000000010000000000000102000000000000000500000006"
    )
    assert wt.encode_simple_reply(wt.SimpleReply(9, 28)).hex() == "674466980000001c0000000000000009"
    chunk = wt.encode_chunk(9, wt.HoleChunk(1, 2), done=True)
    assert chunk.hex() == ("668e33ef0001000200000000000000090000000c000000000000000100000002")


@given(TEXT, st.lists(U16, max_size=20))
def test_info_requests_come_back(name: str, infos: list[int]) -> None:
    data = wire.encode_info_request(name, infos)
    assert wire.decode_request(Option.INFO, data) == events.InfoRequested(name, tuple(infos))
    assert wire.decode_request(Option.GO, data) == events.GoRequested(name, tuple(infos))


@given(TEXT, st.lists(TEXT, max_size=5))
def test_metadata_requests_come_back(name: str, queries: list[str]) -> None:
    data = wire.encode_meta_request(name, queries)
    want = events.MetaContextsSet(name, tuple(queries))
    assert wire.decode_request(Option.SET_META_CONTEXT, data) == want


@given(TEXT, TEXT, U64, U16, U32)
def test_answers_come_back(name: str, text: str, size: int, bits: int, number: int) -> None:
    flags = TransmissionFlag(bits)
    sizes = events.BlockSizesGiven(1, number, number)
    rows = [
        (Reply.SERVER, wire.encode_listed(name, text), events.ExportListed(name, text)),
        (Reply.INFO, wire.encode_info_export(size, flags), events.ExportSized(size, flags)),
        (Reply.INFO, wire.encode_info_text(Info.NAME, name), events.ExportNamed(name)),
        (Reply.INFO, wire.encode_info_text(Info.DESCRIPTION, text), events.ExportDescribed(text)),
        (Reply.INFO, wire.encode_info_block_size(sizes), sizes),
        (Reply.INFO, b"\0\x63and more", events.UnknownInfoGiven(99)),
        (
            Reply.META_CONTEXT,
            wire.encode_meta_context(number, name),
            events.MetaContextGiven(number, name),
        ),
    ]
    for reply, data, want in rows:
        assert wire.decode_answer(Option.GO, reply, data) == want
    named = wire.encode_export_name_answer(size, flags, zeroes=False)
    assert wire.decode_export_name_answer(named) == events.ExportSized(size, flags)


@given(st.text(max_size=400))
def test_a_refusal_is_short_and_ascii(text: str) -> None:
    raw = wire.encode_refusal(Option.GO, Reply.ERR_UNKNOWN, text)
    answer = wire.decode_answer(Option.GO, Reply.ERR_UNKNOWN, raw[20:])
    assert isinstance(answer, events.OptionRefused)
    assert len(answer.text) < 200
    assert answer.text.isascii()


@given(U64, U16, U64, U32, U16)
def test_requests_come_back(
    cookie: int, command: int, offset: int, length: int, flags: int
) -> None:
    request = wt.RequestHeader(cookie, command, offset, length, flags)
    assert wt.decode_request_header(wt.encode_request(request)) == request


CHUNKS = st.one_of(
    st.builds(wt.DataChunk, U64, st.binary(max_size=50)),
    st.builds(wt.HoleChunk, U64, U32),
    st.builds(
        wt.StatusChunk,
        U32,
        st.lists(st.builds(events.Extent, U32, U32), min_size=1, max_size=5).map(tuple),
    ),
    st.builds(wt.ErrorChunk, U32, TEXT),
    st.just(wt.EmptyChunk()),
)


@given(U64, CHUNKS, st.booleans())
def test_chunks_come_back(cookie: int, chunk: wt.Chunk, done: bool) -> None:
    raw = wt.encode_chunk(cookie, chunk, done=done)
    header = wt.decode_chunk_header(raw[:20])
    assert (header.cookie, header.length_bytes) == (cookie, len(raw) - 20)
    assert (ChunkFlag.DONE in header.flags) == done
    assert wt.decode_chunk(header.type, raw[20:]) == chunk


@given(U32 | st.sampled_from(Option), st.binary(max_size=60))
def test_a_request_of_garbage_is_an_event(option: int, data: bytes) -> None:
    request = wire.decode_request(option, data)
    assert isinstance(request, events.UnsupportedRequested) == (
        option not in {1, 2, 3, 5, 6, 7, 8, 9, 10}
    )


@given(
    st.sampled_from(Reply) | U32,
    st.sampled_from([0, 1, 2, 3, 5, 6, 0x8001, 0x8002, 0xFFFF]),
    st.data(),
)
def test_a_reply_of_garbage_is_a_wire_error_or_an_event(
    reply: int, kind: int, data: st.DataObject
) -> None:
    garbage = data.draw(st.binary(max_size=40))
    for decode in (
        lambda: wire.decode_answer(Option.GO, reply, garbage),
        lambda: wt.decode_chunk(kind, garbage),
    ):
        with suppress(WireError):
            assert decode() is not None


@pytest.mark.parametrize(
    ("decode", "raw"),
    [
        (wire.decode_greeting, b"NBDMAGIXIHAVEOPT\0\x03"),
        (wire.decode_greeting, b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\x03"),
        (wire.decode_option_header, b"IHAVEOPX" + bytes(8)),
        (wire.decode_reply_header, bytes(20)),
        (wt.decode_request_header, bytes(28)),
    ],
)
def test_a_wrong_magic_is_named(decode: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(WireError, match="0x"):
        decode(raw)


BAD_EXPORTS: list[tuple[dict[str, object], str]] = [
    ({"name": "x" * 4097}, "name"),
    ({"name": "a\0b"}, "name"),
    ({"description": "\N{SNOWMAN}" * 1366}, "description"),
    ({"size_bytes": -1}, "size"),
    ({"size_bytes": 1 << 63}, "size"),
    ({"flags": TransmissionFlag(0)}, "HAS_FLAGS"),
    ({"flags": TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_DF}, "SEND_DF"),
    ({"block_minimum_bytes": 0}, "minimum"),
    ({"block_minimum_bytes": 3}, "minimum"),
    ({"block_minimum_bytes": 128 << 10}, "minimum"),
    ({"block_preferred_bytes": 256}, "preferred"),
    ({"block_preferred_bytes": 5000}, "preferred"),
    ({"block_minimum_bytes": 8192}, "preferred"),
    ({"payload_bytes_max": 2048}, "payload"),
    ({"payload_bytes_max": 1 << 32}, "payload"),
]


@pytest.mark.parametrize(("fields", "word"), BAD_EXPORTS)
def test_an_export_that_the_protocol_cannot_describe_is_refused(
    fields: dict[str, object], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        ExportInfo(**{"name": "a", "size_bytes": 4096} | fields)  # type: ignore[arg-type]


def test_base_allocation_is_a_legal_string() -> None:
    assert wire.encode_string(BASE_ALLOCATION) == b"\0\0\0\x0fbase:allocation"
