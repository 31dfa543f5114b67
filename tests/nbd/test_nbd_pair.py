"""The client's half against the server's half, with nothing between them."""

import struct

import pytest
from nbd_helpers import EXPORTS, OTHER, SWAP

from nbdswap.nbd import (
    Aborted,
    ClientHandshake,
    Failed,
    Negotiated,
    ProtocolError,
    ServerHandshake,
    events,
    wire,
)
from nbdswap.nbd.constants import BASE_ALLOCATION, ClientFlag, HandshakeFlag, Option, Reply

BOTH = ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES


class ConnectionPair:
    """Two halves; what one sends the other has at once, in pieces of `step` bytes."""

    def __init__(self, step: int = 1 << 20, flags: ClientFlag = BOTH) -> None:
        self.server = ServerHandshake(EXPORTS, "swap0")
        self.client = ClientHandshake()
        self.step = step
        greeted = self.to_client(self.server.greeting)
        assert greeted == [
            events.ServerGreeted(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        ]
        assert self.to_server(self.client.send_client_flags(flags)) == []

    def to_server(self, data: bytes) -> list[events.Answer]:
        """The answers that the client reads after sending this."""
        heard: list[events.Answer] = []
        for start in range(0, len(data), self.step):
            heard += self.to_client(self.server.receive_data(data[start : start + self.step]))
        return heard

    def to_client(self, data: bytes) -> list[events.Answer]:
        heard: list[events.Answer] = []
        for start in range(0, len(data), self.step):
            self.client.receive_data(data[start : start + self.step])
            while (event := self.client.next_event()) is not None:
                heard.append(event)
        return heard


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_whole_negotiation(step: int) -> None:
    pair = ConnectionPair(step)
    client = pair.client
    assert pair.to_server(client.send_option(Option.LIST)) == [
        events.ExportListed("swap0", "of web-1"),
        events.ExportListed("other", ""),
        events.OptionAcknowledged(Option.LIST),
    ]
    assert pair.to_server(client.send_option(Option.STRUCTURED_REPLY)) == [
        events.OptionAcknowledged(Option.STRUCTURED_REPLY)
    ]
    assert pair.to_server(client.send_list_meta_context("swap0", ["base:"])) == [
        events.MetaContextGiven(0, BASE_ALLOCATION),
        events.OptionAcknowledged(Option.LIST_META_CONTEXT),
    ]
    assert pair.to_server(client.send_set_meta_context("swap0", [BASE_ALLOCATION])) == [
        events.MetaContextGiven(1, BASE_ALLOCATION),
        events.OptionAcknowledged(Option.SET_META_CONTEXT),
    ]
    (refused,) = pair.to_server(client.send_go("nope"))
    assert refused == events.OptionRefused(Option.GO, Reply.ERR_UNKNOWN, "no export named 'nope'")
    told = pair.to_server(client.send_info("swap0", [1, 2, 3]))
    again = pair.to_server(client.send_go("swap0", [1, 2, 3]))
    assert told[:-1] == again[:-1]
    assert len(told) == 5
    assert client.is_over
    assert pair.server.result == Negotiated(SWAP, True, 1)


@pytest.mark.parametrize("flags", [BOTH, ClientFlag.FIXED_NEWSTYLE])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_export_name_ends_in_step_with_and_without_zeroes(step: int, flags: ClientFlag) -> None:
    pair = ConnectionPair(step, flags)
    sized = pair.to_server(pair.client.send_export_name("other"))
    assert sized == [events.ExportSized(OTHER.size_bytes, OTHER.flags)]
    assert pair.client.is_over
    pair.client.receive_data(b"reply")
    assert pair.client.trailing_data == b"reply"
    assert pair.server.result == Negotiated(OTHER, False, None)


def test_abort_ends_both() -> None:
    pair = ConnectionPair()
    ended = pair.to_server(pair.client.send_option(Option.ABORT))
    assert ended == [events.OptionAcknowledged(Option.ABORT)]
    assert pair.client.is_over
    assert pair.server.result == Aborted()


def test_client_flags_go_out_once_and_before_options() -> None:
    pair = ConnectionPair()
    with pytest.raises(RuntimeError, match="once"):
        pair.client.send_client_flags(BOTH)
    fresh = ClientHandshake()
    with pytest.raises(RuntimeError, match="turn"):
        fresh.send_option(Option.LIST)
    with pytest.raises(RuntimeError, match="greeting"):
        fresh.send_client_flags(BOTH)


def test_one_option_is_out_at_a_time() -> None:
    pair = ConnectionPair()
    pair.client.send_option(Option.LIST)
    with pytest.raises(RuntimeError, match="turn"):
        pair.client.send_option(Option.LIST)


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return wire.encode_reply(option, kind, data)


BROKEN = {
    "another option's reply": reply(Option.LIST, Reply.ACK),
    "unknown reply type": reply(Option.GO, 99),
    "ACK with data": reply(Option.GO, Reply.ACK, b"x"),
    "INFO without type": reply(Option.GO, Reply.INFO),
    "INFO_EXPORT cut off": reply(Option.GO, Reply.INFO, bytes(8)),
    "name longer than its reply": reply(Option.GO, Reply.SERVER, b"\0\0\0\x09abc"),
    "wrong magic": bytes(20),
    "reply of 4 GiB": reply(Option.GO, Reply.INFO)[:-4] + b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("row", BROKEN)
def test_a_server_that_breaks_the_protocol_is_left_for_good(row: str) -> None:
    pair = ConnectionPair()
    pair.client.send_go("swap0")
    pair.client.receive_data(BROKEN[row])
    with pytest.raises(ProtocolError):
        pair.client.next_event()
    with pytest.raises(ProtocolError, match="before"):
        pair.client.next_event()


def test_a_reply_to_nothing_breaks_the_protocol() -> None:
    pair = ConnectionPair()
    pair.client.receive_data(reply(Option.LIST, Reply.ACK))
    with pytest.raises(ProtocolError, match="nobody asked"):
        pair.client.next_event()


GREETINGS = {
    "oldstyle": struct.pack(">QQH", 0x4E42444D41474943, 0x00420281861253, 0),
    "not fixed": wire.encode_greeting(HandshakeFlag.NO_ZEROES),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n",
}


@pytest.mark.parametrize("row", GREETINGS)
def test_other_kinds_of_server_are_refused(row: str) -> None:
    client = ClientHandshake()
    client.receive_data(GREETINGS[row])
    with pytest.raises(ProtocolError):
        client.next_event()


def test_a_client_of_something_else_fails_the_server() -> None:
    server = ServerHandshake(EXPORTS)
    assert server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert isinstance(server.result, Failed)
