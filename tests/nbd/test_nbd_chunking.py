"""Any bytes, cut anywhere: the same answers, no exception, bounded memory.

Hypothesis prints the failing script and replays it (`--hypothesis-seed`, `@reproduce_failure`).
"""

import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbd_helpers import (
    EXPORTS,
    FIXED,
    FIXED_WITH_ZEROES,
    feed,
    random_pieces,
    server,
    split_replies,
)

from nbdswap.nbd import Failed, Negotiated, ServerHandshake, wire
from nbdswap.nbd.constants import BASE_ALLOCATION, Option
from nbdswap.nbd.option_reader import OPTION_BYTES_MAX, OptionReader

NAMES = st.sampled_from(["", "swap0", "other", "nope", "x" * 4097, "\N{SNOWMAN}", "a\0"])
QUERIES = st.lists(
    st.sampled_from(["base:", BASE_ALLOCATION, "x-foo:bar", "", "q" * 5000]), max_size=3
)
INFOS = st.lists(st.integers(0, 0xFFFF) | st.integers(0, 4), max_size=5)
KINDS = st.sampled_from(Option) | st.integers(0, 0xFFFFFFFF)


def well_formed() -> st.SearchStrategy[bytes]:
    """Options that follow their layout."""
    infos = st.builds(wire.encode_info_request, NAMES, INFOS)
    metas = st.builds(wire.encode_meta_request, NAMES, QUERIES)
    meta_kinds = st.sampled_from([Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT])
    plain_kinds = st.sampled_from([Option.LIST, Option.STRUCTURED_REPLY, Option.STARTTLS])
    return st.one_of(
        st.builds(wire.encode_option, st.sampled_from([Option.INFO, Option.GO]), infos),
        st.builds(wire.encode_option, meta_kinds, metas),
        st.builds(wire.encode_option, plain_kinds),
        st.builds(wire.encode_option, st.just(Option.EXPORT_NAME), NAMES.map(str.encode)),
    )


def misshapen() -> st.SearchStrategy[bytes]:
    """Options with any data, with cut-off data, with sizes around the limits; and plain garbage."""
    sizes = st.sampled_from([OPTION_BYTES_MAX, OPTION_BYTES_MAX + 1, OPTION_BYTES_MAX + 3000])
    return st.one_of(
        st.builds(wire.encode_option, KINDS, st.binary(max_size=40)),
        st.builds(wire.encode_option, KINDS, sizes.map(bytes)),
        st.builds(lambda whole, cut: whole[: cut % len(whole)], well_formed(), st.integers(0)),
        st.builds(
            struct.Struct(">8sII").pack, st.just(b"IHAVEOPT"), KINDS, st.integers(0, 2**32 - 1)
        ),
        st.binary(max_size=40),
    )


FLAGS = st.sampled_from([FIXED, FIXED, FIXED_WITH_ZEROES, bytes(4)]) | st.binary(max_size=6)
SCRIPTS = st.builds(
    lambda flags, messages: flags + b"".join(messages),
    FLAGS,
    st.lists(st.one_of(well_formed(), well_formed(), misshapen()), max_size=8),
)


@settings(max_examples=150, deadline=None)
@given(SCRIPTS, st.lists(st.integers(0), max_size=12))
@example(FIXED + wire.encode_option(Option.ABORT) + b"after the farewell", [20])
@example(FIXED + wire.encode_option(Option.GO, bytes(6)) + b"transmission", [])
def test_answers_do_not_depend_on_how_the_bytes_were_cut(script: bytes, cuts: list[int]) -> None:
    whole = feed(server(), [script])
    assert feed(server(), random_pieces(script, cuts)) == whole
    if len(script) < 20_000:
        assert feed(server(), [script[place : place + 1] for place in range(len(script))]) == whole


@settings(max_examples=150, deadline=None)
@given(SCRIPTS, st.integers(1, 5000))
def test_whatever_comes_it_is_answered_or_fails_and_little_is_kept(
    script: bytes, step: int
) -> None:
    handshake = server()
    reader = OptionReader()
    handshake._reader = reader  # to see what it keeps
    sent = b""
    for start in range(0, len(script), step):
        sent += handshake.receive_data(script[start : start + step])
        assert handshake.result is not None or len(reader.trailing_data) <= OPTION_BYTES_MAX
        if handshake.result is not None:
            break
    result = handshake.result
    if isinstance(result, Failed):
        assert result.reason.isascii()
        assert handshake.trailing_data == b""
    if isinstance(result, Negotiated):
        assert result.export in EXPORTS.values()
    elif result is None:
        split_replies(sent)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_never_raises(garbage: bytes) -> None:
    for start in (b"", FIXED, FIXED + b"IHAVEOPT", FIXED + b"IHAVEOPT\0\0\0"):
        ServerHandshake(EXPORTS).receive_data(start + garbage)
