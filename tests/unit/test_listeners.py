"""All addresses or none; files of others are left alone."""

import os
import socket
from pathlib import Path

import pytest

from nbdswap.addresses import TcpAddress, UnixAddress
from nbdswap.errors import ListenError
from nbdswap.listeners import adopt_all, bind_all, close_all


def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "made" / "nbd.sock"
    umask = os.umask(0)
    try:
        [listener] = bind_all([UnixAddress(path)])
    finally:
        assert os.umask(umask) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    listener.close()
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nbd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    close_all(bind_all([UnixAddress(path)]))
    assert not path.exists()


def test_a_socket_on_which_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "nbd.sock")
    living = bind_all([address])
    with pytest.raises(ListenError, match="another server answers there"):
        bind_all([address])
    assert address.path.exists()
    close_all(living)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="is not a socket"):
        bind_all([UnixAddress(path)])
    assert path.read_text() == "data"


def test_a_socket_file_that_somebody_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "nbd.sock"
    [listener] = bind_all([UnixAddress(path)])
    # The old file stays under another name, so that its inode is not used again.
    path.rename(tmp_path / "aside")
    path.write_text("of somebody else")
    listener.close()
    assert path.exists()


def test_if_one_address_fails_none_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "nbd.sock"
    [taken] = bind_all([TcpAddress("127.0.0.1", 0)])
    assert isinstance(taken.address, TcpAddress)
    with pytest.raises(ListenError) as caught:
        bind_all([UnixAddress(path), taken.address])
    assert str(caught.value) == f"cannot listen on {taken.address}: Address already in use"
    assert not path.exists()
    taken.close()


def test_the_port_that_the_system_chose_is_told() -> None:
    [listener] = bind_all([TcpAddress("127.0.0.1", 0)])
    assert isinstance(listener.address, TcpAddress)
    assert listener.address.port > 0
    assert not listener.sock.getblocking()
    listener.close()


def test_a_name_that_stands_for_no_address_is_refused() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 256\.0\.0\.1:1: "):
        bind_all([TcpAddress("256.0.0.1", 1)])


def test_a_star_listens_on_every_family_that_there_is() -> None:
    listeners = bind_all([TcpAddress("*", 0)])
    families = {listener.sock.family for listener in listeners}
    assert socket.AF_INET in families
    assert len(families) == len(listeners)
    close_all(listeners)


def test_files_of_inherited_sockets_stay(tmp_path: Path) -> None:
    path = tmp_path / "nbd.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    [listener] = adopt_all([sock])
    assert listener.address == UnixAddress(path)
    listener.close()
    assert path.exists()
