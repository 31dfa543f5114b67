"""Each rule of the negotiation as one row or one sentence.

The rows follow what nbdkit, qemu-nbd and nbd-server answer to the same bytes; where they differ,
the row says which of them is followed.
"""

import struct
from collections.abc import Callable

import pytest
from nbd_helpers import (
    EXPORTS,
    FIXED,
    FIXED_WITH_ZEROES,
    OTHER,
    SWAP,
    Heard,
    feed,
    server,
    talk,
)

from nbdswap.nbd import Aborted, ExportInfo, Failed, Negotiated, ServerHandshake, wire
from nbdswap.nbd.constants import BASE_ALLOCATION, ClientFlag, Info, Option, Reply
from nbdswap.nbd.events import (
    BlockSizesGiven,
    ExportDescribed,
    ExportListed,
    ExportNamed,
    ExportSized,
    MetaContextGiven,
)
from nbdswap.nbd.handshake import LISTED_BYTES_MAX
from nbdswap.nbd.option_reader import OPTION_BYTES_MAX, OPTION_SKIPPED_BYTES_MAX, OPTIONS_MAX

option = wire.encode_option
LIST = option(Option.LIST)
STRUCTURED = option(Option.STRUCTURED_REPLY)
ABORT = option(Option.ABORT)
LISTED = [Reply.SERVER, Reply.SERVER, Reply.ACK]
INVALID = [Reply.ERR_INVALID]


def info(name: str, *infos: int) -> bytes:
    return option(Option.INFO, wire.encode_info_request(name, infos))


def go(name: str, *infos: int) -> bytes:
    return option(Option.GO, wire.encode_info_request(name, infos))


def set_meta(name: str, *queries: str) -> bytes:
    return option(Option.SET_META_CONTEXT, wire.encode_meta_request(name, queries))


def list_meta(name: str, *queries: str) -> bytes:
    return option(Option.LIST_META_CONTEXT, wire.encode_meta_request(name, queries))


def raw_meta(kind: Option, *parts: bytes) -> bytes:
    return option(kind, b"".join(parts))


def answers(heard: Heard) -> list[object]:
    return [wire.decode_answer(*reply) for reply in heard.replies]


def test_the_greeting_offers_fixed_newstyle_without_zeroes() -> None:
    assert server().greeting == b"NBDMAGICIHAVEOPT\x00\x03"


ONE_OPTION = {
    "unknown option": (option(99, b"12345"), [Reply.ERR_UNSUP]),
    "unknown option of the largest number": (option(2**32 - 1), [Reply.ERR_UNSUP]),
    "PEEK_EXPORT": (option(Option.PEEK_EXPORT), [Reply.ERR_UNSUP]),
    "EXTENDED_HEADERS": (option(Option.EXTENDED_HEADERS), [Reply.ERR_UNSUP]),
    "STARTTLS": (option(Option.STARTTLS), [Reply.ERR_POLICY]),
    "STRUCTURED_REPLY": (STRUCTURED, [Reply.ACK]),
    "STRUCTURED_REPLY with data": (option(Option.STRUCTURED_REPLY, b"x"), INVALID),
    "LIST": (LIST, LISTED),
    "LIST with data": (option(Option.LIST, b"x"), INVALID),
    "INFO": (info("swap0"), [Reply.INFO, Reply.ACK]),
    "INFO of the default export": (info(""), [Reply.INFO, Reply.ACK]),
    "INFO of an unknown export (qemu-nbd)": (info("nope"), [Reply.ERR_UNKNOWN]),
    "GO of an unknown export (qemu-nbd)": (go("nope"), [Reply.ERR_UNKNOWN]),
    "INFO without data": (option(Option.INFO), INVALID),
    "GO of one byte": (option(Option.GO, b"\0"), INVALID),
    "INFO with a name longer than its data": (option(Option.INFO, b"\0\0\0\x09swap0\0\0"), INVALID),
    "INFO with a name of 4 GiB": (option(Option.INFO, b"\xff\xff\xff\xffswap0\0\0"), INVALID),
    "INFO without a count": (option(Option.INFO, wire.encode_string("swap0")), INVALID),
    "INFO with fewer pieces than counted": (
        option(Option.INFO, wire.encode_string("swap0") + b"\0\x02\0\0"),
        INVALID,
    ),
    "INFO with more bytes than counted": (
        option(Option.INFO, wire.encode_string("swap0") + b"\0\0\0"),
        INVALID,
    ),
    "GO with a name of 4097 bytes": (go("x" * 4097), INVALID),
    "GO with a name of 4096 bytes": (go("x" * 4096), [Reply.ERR_UNKNOWN]),
    "GO with a NUL in the name": (go("swap0\0"), INVALID),
    "GO with a name that is not UTF-8": (
        option(Option.GO, b"\0\0\0\x01\xff\0\0"),
        INVALID,
    ),
    "GO with a surrogate in the name": (
        option(Option.GO, b"\0\0\0\x03\xed\xa0\x80\0\0"),
        INVALID,
    ),
    "LIST_META before STRUCTURED_REPLY (nbdkit)": (list_meta("swap0"), INVALID),
    "SET_META before STRUCTURED_REPLY": (set_meta("swap0", BASE_ALLOCATION), INVALID),
    "LIST_META of one byte": (option(Option.LIST_META_CONTEXT, b"\0"), INVALID),
}


@pytest.mark.parametrize("row", ONE_OPTION)
def test_one_option_is_answered_and_the_next_one_too(row: str) -> None:
    message, kinds = ONE_OPTION[row]
    heard = talk(message, ABORT)
    assert heard.kinds == [*kinds, Reply.ACK]
    asked = int.from_bytes(message[8:12])
    assert [reply[0] for reply in heard.replies] == [asked] * len(kinds) + [Option.ABORT]
    assert heard.result == Aborted()


META = {
    "LIST_META without queries": (list_meta("swap0"), [0]),
    "LIST_META base:": (list_meta("swap0", "base:"), [0]),
    "LIST_META base:allocation": (list_meta("swap0", BASE_ALLOCATION), [0]),
    "LIST_META base:allocation twice": (list_meta("swap0", BASE_ALLOCATION, "base:"), [0]),
    "LIST_META base:other": (list_meta("swap0", "base:other"), []),
    "LIST_META of an unknown namespace": (list_meta("swap0", "qemu:"), []),
    "SET_META without queries": (set_meta("swap0"), []),
    "SET_META base:": (set_meta("swap0", "base:"), []),
    "SET_META base:allocation": (set_meta("swap0", BASE_ALLOCATION), [1]),
    "SET_META with unknown namespaces": (set_meta("swap0", "x-foo:bar", BASE_ALLOCATION), [1]),
    "SET_META of an unknown namespace": (set_meta("swap0", "x-foo:bar"), []),
    "SET_META without colon": (set_meta("swap0", "allocation"), []),
    "SET_META of the default export": (set_meta("", BASE_ALLOCATION), [1]),
}


@pytest.mark.parametrize("row", META)
def test_metadata_contexts_that_match_are_named(row: str) -> None:
    message, context_ids = META[row]
    heard = talk(STRUCTURED, message)
    given = [MetaContextGiven(context_id, BASE_ALLOCATION) for context_id in context_ids]
    assert answers(heard)[1:-1] == given
    assert heard.kinds[-1] == Reply.ACK


MALFORMED_META = {
    "count without queries": (wire.encode_string("swap0"), b"\0\0\0\x01"),
    "a count of 4 billion": (wire.encode_string("swap0"), b"\xff\xff\xff\xff", b"\0\0\0\0"),
    "query longer than the data": (wire.encode_string("swap0"), b"\0\0\0\x01", b"\0\0\0\x09base:"),
    "query of 4097 bytes": (wire.encode_meta_request("swap0", ["x" * 4097]),),
    "bytes behind the queries": (wire.encode_meta_request("swap0", ["base:"]), b"\0"),
    "NUL in a query": (wire.encode_meta_request("swap0", ["base:\0"]),),
    "no count": (wire.encode_string("swap0"),),
}


@pytest.mark.parametrize("kind", [Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT])
@pytest.mark.parametrize("row", MALFORMED_META)
def test_malformed_metadata_queries_are_invalid(row: str, kind: Option) -> None:
    heard = talk(STRUCTURED, option(kind, b"".join(MALFORMED_META[row])), LIST)
    assert heard.kinds == [Reply.ACK, Reply.ERR_INVALID, *LISTED]


@pytest.mark.parametrize("ask", [list_meta, set_meta])
def test_metadata_of_an_unknown_export_is_unknown(ask: Callable[..., bytes]) -> None:
    assert talk(STRUCTURED, ask("nope", BASE_ALLOCATION)).kinds == [Reply.ACK, Reply.ERR_UNKNOWN]


CONTEXT_AT_THE_END = {
    "set": ([set_meta("swap0", BASE_ALLOCATION)], "swap0", 1),
    "never set": ([], "swap0", None),
    "set for another export": ([set_meta("other", BASE_ALLOCATION)], "swap0", None),
    "set under another name": ([set_meta("", BASE_ALLOCATION)], "swap0", None),
    "set for the default export": ([set_meta("", BASE_ALLOCATION)], "", 1),
    "replaced by nothing": ([set_meta("swap0", BASE_ALLOCATION), set_meta("swap0")], "swap0", None),
    "replaced by another export's": (
        [set_meta("swap0", BASE_ALLOCATION), set_meta("other", BASE_ALLOCATION)],
        "swap0",
        None,
    ),
    "replaced by an unknown export's": (
        [set_meta("swap0", BASE_ALLOCATION), set_meta("nope", BASE_ALLOCATION)],
        "swap0",
        None,
    ),
    "replaced by a malformed one": (
        [set_meta("swap0", BASE_ALLOCATION), option(Option.SET_META_CONTEXT, b"\0")],
        "swap0",
        None,
    ),
    "replaced by an oversize one": (
        [
            set_meta("swap0", BASE_ALLOCATION),
            option(Option.SET_META_CONTEXT, bytes(OPTION_BYTES_MAX + 1)),
        ],
        "swap0",
        None,
    ),
    "set again after a failure": (
        [option(Option.SET_META_CONTEXT, b"\0"), set_meta("swap0", BASE_ALLOCATION)],
        "swap0",
        1,
    ),
    "listed in between": (
        [set_meta("swap0", BASE_ALLOCATION), list_meta("other")],
        "swap0",
        1,
    ),
}


@pytest.mark.parametrize("end", ["GO", "EXPORT_NAME"])
@pytest.mark.parametrize("row", CONTEXT_AT_THE_END)
def test_the_last_set_meta_binds_contexts_to_one_name(row: str, end: str) -> None:
    messages, name, context_id = CONTEXT_AT_THE_END[row]
    last = go(name) if end == "GO" else option(Option.EXPORT_NAME, name.encode())
    heard = talk(STRUCTURED, *messages, last)
    assert heard.result == Negotiated(SWAP, True, context_id)


# ---------------------------------------------------------------- client flags


@pytest.mark.parametrize("bits", [1 << 2, 0x80, 1 << 31, 0xFFFFFFFF])
def test_an_unknown_client_flag_closes(bits: int) -> None:
    heard = talk(LIST, flags=struct.pack(">I", bits))
    assert heard.sent == b""
    assert hex(bits) in heard.reason


@pytest.mark.parametrize("flags", [ClientFlag(0), ClientFlag.NO_ZEROES])
@pytest.mark.parametrize("message", [LIST, ABORT, go("swap0"), option(99)])
def test_without_fixed_newstyle_there_is_only_export_name(
    flags: ClientFlag, message: bytes
) -> None:
    heard = talk(message, flags=wire.encode_client_flags(flags))
    assert heard.sent == b""
    assert "fixed newstyle" in heard.reason


def test_without_fixed_newstyle_export_name_works() -> None:
    heard = talk(option(Option.EXPORT_NAME, b"swap0"), flags=bytes(4))
    assert len(heard.sent) == 134
    assert heard.result == Negotiated(SWAP, False, None)


# ---------------------------------------------------------------- EXPORT_NAME


@pytest.mark.parametrize(
    ("flags", "zeroes"), [(FIXED, b""), (FIXED_WITH_ZEROES, bytes(124))], ids=["without", "with"]
)
def test_export_name_ends_with_zeroes_unless_they_were_declined(
    flags: bytes, zeroes: bytes
) -> None:
    heard = talk(option(Option.EXPORT_NAME, b"swap0"), b"first request", flags=flags)
    assert heard.sent == struct.pack(">QH", SWAP.size_bytes, 0xD6D) + zeroes
    assert heard.result == Negotiated(SWAP, False, None)
    assert heard.trailing_data == b"first request"


BAD_EXPORT_NAMES = {
    "unknown": b"nope",
    "not UTF-8": b"\xff",
    "NUL": b"swap0\0",
    "4097 bytes": b"x" * 4097,
    "oversize": bytes(OPTION_BYTES_MAX + 1),
}


@pytest.mark.parametrize("row", BAD_EXPORT_NAMES)
def test_export_name_that_cannot_be_served_closes_without_a_word(row: str) -> None:
    heard = talk(option(Option.EXPORT_NAME, BAD_EXPORT_NAMES[row]), LIST)
    assert heard.sent == b""
    assert "EXPORT_NAME" in heard.reason
    assert heard.reason.isascii()


def test_export_name_takes_the_default_and_structured_replies() -> None:
    heard = talk(STRUCTURED, option(Option.EXPORT_NAME))
    assert heard.sent[-2:] == b"\x0d\xed"
    assert heard.result == Negotiated(SWAP, True, None)


# ---------------------------------------------------------------- INFO and GO


def test_info_tells_what_was_asked_for_and_ignores_the_unknown() -> None:
    heard = talk(info("", Info.EXPORT, Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE, 77, Info.NAME))
    assert answers(heard)[:-1] == [
        ExportSized(SWAP.size_bytes, SWAP.flags),
        ExportNamed("swap0"),
        ExportDescribed("of web-1"),
        BlockSizesGiven(1, 4096, 64 << 20),
    ]
    assert heard.kinds[-1] == Reply.ACK


def test_an_export_without_description_has_none_to_tell() -> None:
    assert talk(info("other", Info.DESCRIPTION)).kinds == [Reply.INFO, Reply.ACK]


@pytest.mark.parametrize("wanted", [(), (Info.BLOCK_SIZE,), (1, 2, 3, 0)])
@pytest.mark.parametrize("before", [b"", STRUCTURED], ids=["simple", "structured"])
def test_go_repeats_what_info_said_and_starts_transmission(
    wanted: tuple[int, ...], before: bytes
) -> None:
    asked = talk(before, info("swap0", *wanted)).replies
    heard = talk(before, info("swap0", *wanted), go("swap0", *wanted), b"\x25\x60", flags=FIXED)
    told = heard.replies[len(asked) :]
    first = 1 if before else 0
    assert [reply[1:] for reply in told] == [reply[1:] for reply in asked[first:]]
    assert heard.result == Negotiated(SWAP, bool(before), None)
    assert heard.trailing_data == b"\x25\x60"


def test_go_sends_no_zeroes_even_if_they_were_not_declined() -> None:
    assert talk(go("swap0"), flags=FIXED_WITH_ZEROES).kinds == [Reply.INFO, Reply.ACK]


@pytest.mark.parametrize(("before", "bits"), [([], 0xD6D), ([STRUCTURED], 0xDED)])
def test_flags_are_those_of_the_peers(before: list[bytes], bits: int) -> None:
    heard = talk(*before, go("swap0"))
    assert answers(heard)[-2] == ExportSized(SWAP.size_bytes, SWAP.flags | bits)
    assert isinstance(heard.result, Negotiated)
    assert heard.result.flags == bits


def test_negotiation_goes_on_after_an_unknown_export() -> None:
    heard = talk(go("nope"), go("other"))
    assert heard.kinds == [Reply.ERR_UNKNOWN, Reply.INFO, Reply.ACK]
    assert heard.result == Negotiated(OTHER, False, None)


def test_without_a_default_the_empty_name_is_unknown() -> None:
    assert talk(go(""), default=None).kinds == [Reply.ERR_UNKNOWN]


def test_an_export_with_the_empty_name_goes_before_the_default() -> None:
    nameless = ExportInfo(name="", size_bytes=512)
    heard = feed(server({"": nameless, **EXPORTS}), [FIXED + go("")])
    assert heard.result == Negotiated(nameless, False, None)


def test_a_default_that_does_not_exist_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="'nope'"):
        ServerHandshake(EXPORTS, "nope")


def test_list_names_and_describes_every_export() -> None:
    assert answers(talk(LIST))[:-1] == [
        ExportListed("swap0", "of web-1"),
        ExportListed("other", ""),
    ]


def test_an_error_text_is_plain_and_short_whatever_was_asked() -> None:
    (reply,) = talk(go("\N{PILE OF POO}" * 1024)).replies
    assert len(reply[2]) < 200
    assert reply[2].isascii()


# ---------------------------------------------------------------- leaving


@pytest.mark.parametrize("data", [b"", b"why not", bytes(OPTION_BYTES_MAX + 1)])
def test_abort_is_acknowledged_with_any_data(data: bytes) -> None:
    heard = talk(option(Option.ABORT, data), LIST)
    assert heard.replies == [(Option.ABORT, Reply.ACK, b"")]
    assert heard.result == Aborted()


def test_a_server_that_leaves_refuses_everything_but_abort() -> None:
    handshake = server()
    assert handshake.receive_data(FIXED + LIST)
    handshake.shutting_down = True
    kinds = [LIST, go("swap0"), STRUCTURED, option(99), option(Option.LIST, b"x")]
    heard = feed(handshake, [*kinds, ABORT])
    assert heard.kinds == [Reply.ERR_SHUTDOWN] * len(kinds) + [Reply.ACK]
    assert heard.result == Aborted()


def test_a_server_that_leaves_closes_on_export_name() -> None:
    handshake = server()
    handshake.shutting_down = True
    heard = feed(handshake, [FIXED, option(Option.EXPORT_NAME, b"swap0")])
    assert heard.sent == b""
    assert "shutting down" in heard.reason


def test_a_failed_set_meta_counts_even_while_leaving() -> None:
    handshake = server()
    handshake.receive_data(FIXED + STRUCTURED + set_meta("swap0", BASE_ALLOCATION))
    handshake.shutting_down = True
    handshake.receive_data(set_meta("swap0", BASE_ALLOCATION))
    handshake.shutting_down = False
    assert feed(handshake, [go("swap0")]).result == Negotiated(SWAP, True, None)


def test_nothing_may_be_fed_after_the_end() -> None:
    handshake = server()
    handshake.receive_data(FIXED + go("swap0"))
    with pytest.raises(RuntimeError, match="over"):
        handshake.receive_data(b"")


# ---------------------------------------------------------------- limits


def test_a_wrong_option_magic_closes() -> None:
    heard = talk(LIST, b"IHAVENOT", bytes(8))
    assert heard.kinds == LISTED, "what was answered before is still sent"
    assert "IHAVEOPT" in heard.reason


@pytest.mark.parametrize("kind", [Option.LIST, Option.GO, Option.STARTTLS, Option.STRUCTURED_REPLY])
@pytest.mark.parametrize("size", [OPTION_BYTES_MAX + 1, OPTION_SKIPPED_BYTES_MAX])
def test_an_oversize_option_is_skipped_and_refused(kind: Option, size: int) -> None:
    assert talk(option(kind, bytes(size)), LIST).kinds == [Reply.ERR_TOO_BIG, *LISTED]


def test_an_oversize_unknown_option_is_unsupported() -> None:
    message = option(99, bytes(OPTION_SKIPPED_BYTES_MAX))
    assert talk(message, LIST).kinds == [Reply.ERR_UNSUP, *LISTED]


def test_a_full_option_is_still_read() -> None:
    queries = ["x" * 4092] * 15
    data = wire.encode_meta_request("swap0", queries)
    padding = "y" * (OPTION_BYTES_MAX - len(data) - 4)
    data = wire.encode_meta_request("swap0", [*queries, padding])
    assert len(data) == OPTION_BYTES_MAX
    heard = talk(STRUCTURED, option(Option.SET_META_CONTEXT, data))
    assert heard.kinds == [Reply.ACK, Reply.ACK]


@pytest.mark.parametrize("size", [OPTION_SKIPPED_BYTES_MAX + 1, 2**32 - 1])
@pytest.mark.parametrize("kind", [Option.GO, Option.ABORT, 99])
def test_an_absurd_length_closes_at_the_header(kind: int, size: int) -> None:
    heard = talk(b"IHAVEOPT" + struct.pack(">II", kind, size))
    assert heard.sent == b""
    assert str(size) in heard.reason


def test_options_are_counted() -> None:
    heard = talk(option(99) * OPTIONS_MAX, ABORT)
    assert len(heard.replies) == OPTIONS_MAX
    assert isinstance(heard.result, Failed)
    assert talk(option(99) * (OPTIONS_MAX - 1), ABORT).result == Aborted()


def test_lists_are_cut_off_when_they_have_cost_enough() -> None:
    exports = {name: ExportInfo(name=name, size_bytes=0) for name in map(str, range(2000))}
    heard = feed(ServerHandshake(exports), [FIXED + LIST * 900])
    assert LISTED_BYTES_MAX - 100_000 < len(heard.sent) < LISTED_BYTES_MAX + 900 * 220
    assert heard.kinds[:2001] == [Reply.SERVER] * 2000 + [Reply.ACK]
    assert heard.kinds[-1] == Reply.ERR_TOO_BIG
    assert heard.result is None


def test_information_is_cut_off_when_it_has_cost_enough() -> None:
    export = ExportInfo(name="x" * 4096, size_bytes=0, description="y" * 4096)
    request = option(Option.INFO, wire.encode_info_request("", [Info.NAME, Info.DESCRIPTION]))
    handshake = ServerHandshake({export.name: export}, export.name)
    heard = feed(handshake, [FIXED + request * 300 + go("", Info.NAME)])
    assert len(heard.sent) < LISTED_BYTES_MAX + 300 * 220
    assert Reply.ERR_TOO_BIG in heard.kinds
    assert heard.result == Negotiated(export, False, None), "GO happens once and is always served"
