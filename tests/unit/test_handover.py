"""What one program leaves to the next comes out as it went in, or is refused whole."""

import json
import os
import socket
import struct
from pathlib import Path

import pytest

from nbdswap.addresses import TcpAddress, UnixAddress
from nbdswap.handover import (
    FORMAT,
    VARIABLE,
    HandedConnection,
    Handover,
    Predecessor,
    StoreFacts,
    predecessor_of,
    receive,
    variable_for,
)
from nbdswap.listeners import Listener, adopt_all, bind_all, close_all
from nbdswap.snapshots import UpgradeCounts
from tests.unit.conftest import MakeConfig

COUNTS = UpgradeCounts(done_total=3, failed_total=1, connections_handed_over_total=9)


def connection(fd: int, received: bytes, unsent: bytes) -> HandedConnection:
    return HandedConnection(
        fd=fd,
        export="swap",
        peer="unix:pid=1,uid=0",
        structured=True,
        base_allocation_id=None,
        received=received,
        unsent=unsent,
    )


def written(listeners: list[Listener], connections: list[HandedConnection]) -> int:
    """A handover, written; its other descriptors are new ones of the null device."""
    handover = Handover(
        version="1.2",
        began_s=12.5,
        lock_fd=os.open(os.devnull, os.O_RDONLY),
        store_fd=os.open(os.devnull, os.O_RDONLY),
        listeners=listeners,
        admin=[],
        connections=connections,
        counts=COUNTS,
    )
    return handover.write()


def test_a_handover_comes_out_as_it_went_in(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    before = bind_all([UnixAddress(tmp_path / "s"), TcpAddress("127.0.0.1", 0)])
    with here, there:
        connections = [
            connection(here.fileno(), b"received\0", b""),
            connection(there.fileno(), b"", b"unsent" * 1000),
        ]
        fd = written(before, connections)
        handover = receive(dict(variable_for(fd)))
        assert handover is not None
        assert (handover.version, handover.began_s, handover.counts) == ("1.2", 12.5, COUNTS)
        assert list(handover.connections) == connections
        after = list(handover.listeners)
        assert [(one.address, one.inode, one.asked) for one in after] == [
            (one.address, one.inode, one.asked) for one in before
        ]
        assert not any(os.get_inheritable(fd) for fd in handover.descriptors())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        for listener in after:
            # It is the same descriptor, which is closed once, below.
            listener.sock.detach()
        os.close(handover.lock_fd)
        os.close(handover.store_fd or -1)
    close_all(before)


def test_what_was_written_cannot_be_changed() -> None:
    fd = written([], [])
    with pytest.raises(PermissionError):
        os.write(fd, b"other")
    os.close(fd)


def test_a_child_that_inherits_the_variable_is_not_meant() -> None:
    environ = {VARIABLE: f"{os.getpid() + 1}:0"}
    assert receive(environ) is None
    assert environ == {}
    assert receive({}) is None


def rewritten(**changes: object) -> tuple[int, list[int]]:
    """A handover whose head says something else, and the descriptors that it names."""
    here, there = socket.socketpair()
    fd = written([], [connection(sock.detach(), b"12", b"3") for sock in (here, there)])
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        content = file.read()
    (head_bytes,) = struct.unpack_from("<I", content, 8)
    head = json.loads(content[12 : 12 + head_bytes])
    new = json.dumps(head | changes).encode()
    other = os.memfd_create("test")
    os.write(other, content[:8] + struct.pack("<I", len(new)) + new + content[12 + head_bytes :])
    return other, head["descriptors"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": FORMAT + 1}, f"the format is {FORMAT + 1}, wanted {FORMAT}"),
        ({"connections": []}, "6 bytes of connections, wanted 0"),
        ({"counts": {"unknown": 1}}, "unknown"),
        ({"connections": [{"fd": 1, "received_bytes": 5, "unsent_bytes": 1, "tls": 1}]}, "tls"),
    ],
)
def test_what_is_not_understood_is_refused_and_its_sockets_are_closed(
    changes: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fd, descriptors = rewritten(**changes)
    assert receive(dict(variable_for(fd))) is None
    assert said in str(caplog.records[0].__dict__["fields"])
    for closed in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)


@pytest.mark.parametrize(
    "content", [b"", b"NBDSWAPH", b"NBDSWAPX" + bytes(4), b"NBDSWAPH" + b"\xff" * 9]
)
def test_what_is_not_whole_is_refused(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    fd = os.memfd_create("test")
    os.write(fd, content)
    assert receive(dict(variable_for(fd))) is None
    assert caplog.records[0].getMessage().startswith("the handover is not whole")


def test_what_the_next_program_is_asked_comes_out_as_it_went_in(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    [listener] = bind_all([UnixAddress(tmp_path / "s")])
    here = socket.create_server(("127.0.0.1", 0))
    config = make_config({"store.path": str(tmp_path / "store")})
    asked = predecessor_of(config, [listener, *adopt_all([here])])
    assert Predecessor.decode(asked.encode()) == asked
    assert isinstance(asked.store, StoreFacts)
    assert (asked.listening, asked.sockets_passed_in) == ((f"unix:{tmp_path / 's'}",), True)
    with pytest.raises(ValueError, match="its format is not 1"):
        Predecessor.decode(asked.encode().replace('"format": 1', '"format": 2'))
    close_all([listener])
    here.close()
