"""What the server answers to each kind of request, right or wrong, over a plain socket.

One line per situation. The answers are those of nbdkit where the protocol leaves a choice, since
that is the server that clients are tested against most; REFERENCE_ANSWERS has the exceptions:
requests of no length are EINVAL for all commands (libnbd's own tests want that), too large ones
too (the protocol discourages ENOMEM), and a FLUSH with an offset is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.pages import MIB
from tests.support.rawnbd import Command, Flag, RawClient, encode_request
from tests.support.servers import EXPORT, Server, ServerSettings, new_server

SIZE = 128 * MIB
_WRAP = 2**64 - 4096
_C, _F = Command, Flag


@dataclass(frozen=True, slots=True)
class Rule:
    situation: str
    answer: str
    command: int
    offset: int = 0
    length: int = 4096
    flags: int = 0


SIMPLE_RULES = [
    Rule("read 4096", "ok", _C.READ),
    Rule("read 1 byte at 1", "ok", _C.READ, 1, 1),
    Rule("read across a page's end", "ok", _C.READ, 4095, 2),
    Rule("read the last byte", "ok", _C.READ, SIZE - 1, 1),
    Rule("write 512 at 512", "ok", _C.WRITE, 512, 512),
    Rule("read of no length", "EINVAL", _C.READ, 0, 0),
    Rule("write of no length", "EINVAL", _C.WRITE, 0, 0),
    Rule("trim of no length", "EINVAL", _C.TRIM, 0, 0),
    Rule("zero of no length", "EINVAL", _C.WRITE_ZEROES, 0, 0),
    Rule("cache of no length", "EINVAL", _C.CACHE, 0, 0),
    Rule("read past the end", "EINVAL", _C.READ, SIZE),
    Rule("write past the end", "ENOSPC", _C.WRITE, SIZE),
    Rule("trim past the end", "EINVAL", _C.TRIM, SIZE),
    Rule("zero past the end", "ENOSPC", _C.WRITE_ZEROES, SIZE),
    Rule("cache past the end", "EINVAL", _C.CACHE, SIZE),
    Rule("read half past the end", "EINVAL", _C.READ, SIZE - 2048),
    Rule("write half past the end", "ENOSPC", _C.WRITE, SIZE - 2048),
    Rule("read that wraps around", "EINVAL", _C.READ, _WRAP, 8192),
    Rule("write that wraps around", "ENOSPC", _C.WRITE, _WRAP, 8192),
    Rule("trim that wraps around", "EINVAL", _C.TRIM, _WRAP, 8192),
    Rule("flush", "ok", _C.FLUSH, 0, 0),
    Rule("flush with offset and length", "ok", _C.FLUSH, 4096, 4096),
    Rule("flush FUA", "ok", _C.FLUSH, 0, 0, _F.FUA),
    Rule("read FUA", "ok", _C.READ, flags=_F.FUA),
    Rule("write FUA", "ok", _C.WRITE, flags=_F.FUA),
    Rule("trim FUA", "ok", _C.TRIM, flags=_F.FUA),
    Rule("zero FUA", "ok", _C.WRITE_ZEROES, flags=_F.FUA),
    Rule("trim the whole export", "ok", _C.TRIM, 0, SIZE),
    Rule("trim of part of a page", "ok", _C.TRIM, 100, 200),
    Rule("zero the whole export", "ok", _C.WRITE_ZEROES, 0, SIZE),
    Rule("zero NO_HOLE", "ok", _C.WRITE_ZEROES, flags=_F.NO_HOLE),
    Rule("zero FAST_ZERO", "ok", _C.WRITE_ZEROES, flags=_F.FAST_ZERO),
    Rule("cache", "ok", _C.CACHE),
    Rule("cache NO_HOLE", "EINVAL", _C.CACHE, flags=_F.FUA | _F.NO_HOLE),
    Rule("block status without a context", "EINVAL", _C.BLOCK_STATUS),
    Rule("resize", "EINVAL", _C.RESIZE),
    Rule("unknown command", "EINVAL", 99),
    Rule("unknown flag on read", "EINVAL", _C.READ, flags=1 << 12),
    Rule("unknown flag on write", "EINVAL", _C.WRITE, flags=1 << 12),
    Rule("flag of another command on write", "EINVAL", _C.WRITE, flags=_F.REQ_ONE),
    Rule("DF without structured replies", "EINVAL", _C.READ, flags=_F.DF),
    Rule("read 32 MiB", "ok", _C.READ, 0, 32 * MIB),
    Rule("write 32 MiB", "ok", _C.WRITE, 0, 32 * MIB),
    Rule("read 33 MiB", "ok", _C.READ, 0, 33 * MIB),
    Rule("write 33 MiB", "ok", _C.WRITE, 0, 33 * MIB),
    Rule("read 64 MiB", "ok", _C.READ, 0, 64 * MIB),
    Rule("write 64 MiB", "ok", _C.WRITE, 0, 64 * MIB),
    Rule("read 65 MiB", "EINVAL", _C.READ, 0, 65 * MIB),
    Rule("write 65 MiB", "EINVAL", _C.WRITE, 0, 65 * MIB),
]
REFERENCE_ANSWERS = {
    "write of no length": "ENOSPC",
    "zero of no length": "ENOSPC",
    "flush with offset and length": "EINVAL",
    "read 65 MiB": "ENOMEM",
    "write 65 MiB": "ENOMEM",
}


@pytest.fixture(scope="module")
def target(server_kind: str) -> Iterator[Server]:
    shared = new_server(server_kind, ServerSettings(size_bytes=SIZE))
    try:
        shared.start()
        yield shared
    finally:
        shared.remove()


def answer_to(client: RawClient, rule: Rule) -> str:
    data = bytes(rule.length) if rule.command == Command.WRITE else b""
    reply = client.call(rule.command, rule.offset, rule.length, flags=rule.flags, data=data)
    if rule.command == Command.READ and not reply.error:
        assert len(reply.data) == rule.length
    return reply.error_name


@pytest.mark.parametrize("rule", SIMPLE_RULES, ids=lambda rule: rule.situation)
def test_a_request_gets_the_answer_of_the_table_and_the_connection_goes_on(
    target: Server, rule: Rule
) -> None:
    want = rule.answer
    if target.kind == "nbdkit":
        want = REFERENCE_ANSWERS.get(rule.situation, want)
    with RawClient.connect(target.unix_path, EXPORT) as client:
        assert answer_to(client, rule) == want
        assert len(client.read(0, 4096)) == 4096, "the next read"


def test_the_flags_tell_what_the_server_can(target: Server) -> None:
    with RawClient.connect(target.unix_path, EXPORT) as client:
        assert (client.size_bytes, hex(client.flags)) == (SIZE, "0xd6d")
    with RawClient.connect(target.unix_path, EXPORT, structured=True) as client:
        assert (client.size_bytes, hex(client.flags)) == (SIZE, "0xded")


@pytest.mark.parametrize("flags", [0, Flag.DF], ids=["plain", "DF"])
def test_a_structured_read_is_answered_with_data(target: Server, flags: int) -> None:
    data = bytes(range(256)) * 256
    with RawClient.connect(target.unix_path, EXPORT, structured=True) as client:
        client.write(MIB, data)
        reply = client.call(Command.READ, MIB, len(data), flags=flags)
        assert (reply.error_name, reply.data == data) == ("ok", True)
        if flags == Flag.DF:
            assert len(reply.chunk_types) == 1


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 4096), (SIZE - 1, 2), (0, 0)])
def test_a_wrong_structured_read_is_answered_with_an_error_chunk(
    target: Server, offset: int, length: int
) -> None:
    with RawClient.connect(target.unix_path, EXPORT, structured=True) as client:
        reply = client.call(Command.READ, offset, length)
        assert reply.error_name == "EINVAL"
        assert reply.chunk_types[0] in (0x8001, 0x8002), "an error chunk and not a simple reply"
        assert len(client.read(0, 4096)) == 4096


@pytest.mark.parametrize("flags", [0, Flag.REQ_ONE], ids=["plain", "REQ_ONE"])
def test_block_status_describes_the_range(target: Server, flags: int) -> None:
    with RawClient.connect(
        target.unix_path, EXPORT, structured=True, contexts=("base:allocation",)
    ) as client:
        reply = client.call(Command.BLOCK_STATUS, 0, MIB, flags=flags)
        assert (reply.error_name, reply.chunk_types) == ("ok", [5])
        assert reply.extents
        if flags == Flag.REQ_ONE:
            ((length, _),) = reply.extents
            assert 0 < length <= MIB
        assert client.call(Command.BLOCK_STATUS, SIZE, 4096).error_name == "EINVAL"


def test_a_wrong_request_magic_ends_the_connection(target: Server) -> None:
    with RawClient.connect(target.unix_path, EXPORT) as client:
        client.socket.sendall(b"\xff" + encode_request(Command.READ, 0, 4096, 1)[1:])
        client.expect_closed()


def test_disconnect_is_not_answered_and_closes(target: Server) -> None:
    with RawClient.connect(target.unix_path, EXPORT) as client:
        client.disconnect()


def test_what_was_asked_before_a_disconnect_is_done_and_what_follows_is_not(
    target: Server,
) -> None:
    data = bytes(range(256)) * 16
    batch = encode_request(Command.WRITE, 2 * MIB, len(data), 1) + data
    batch += encode_request(Command.DISC, 0, 0, 2)
    batch += encode_request(Command.TRIM, 2 * MIB, len(data), 3)
    with RawClient.connect(target.unix_path, EXPORT) as client:
        client.write(2 * MIB, bytes(len(data)))
        client.socket.sendall(batch)
        try:  # The reply to the write may come or be lost in the reset; then it ends.
            while client.socket.recv(4096):
                pass
        except ConnectionError:
            pass
    with RawClient.connect(target.unix_path, EXPORT) as client:
        assert client.read(2 * MIB, len(data)) == data


def test_requests_sent_byte_by_byte_are_understood(target: Server) -> None:
    data = bytes(range(256)) * 2
    with RawClient.connect(target.unix_path, EXPORT) as client:
        for byte in encode_request(Command.WRITE, 3 * MIB + 100, len(data), 77) + data:
            client.socket.send(bytes((byte,)))
        assert (client.receive().cookie, client.read(3 * MIB + 100, len(data))) == (77, data)


def test_many_requests_in_one_segment_are_all_answered(target: Server) -> None:
    count = 500
    with RawClient.connect(target.unix_path, EXPORT) as client:
        batch = b"".join(
            encode_request(Command.TRIM, 4096 * i, 4096, cookie=i) for i in range(count)
        )
        client.socket.sendall(batch)
        replies = [client.receive() for _ in range(count)]
        assert {reply.cookie for reply in replies} == set(range(count))
        assert {reply.error_name for reply in replies} == {"ok"}
