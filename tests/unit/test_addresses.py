"""Addresses as people write them."""

import pytest

from nbdswap.addresses import AddressError, TcpAddress, UnixAddress, parse_address, parse_tcp


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:10809", "127.0.0.1", 10809),
        ("swap.example:1", "swap.example", 1),
        ("[::1]:10809", "::1", 10809),
        ("*:0", "*", 0),
        (":10809", "*", 10809),
    ],
)
def test_a_tcp_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_tcp(text) == TcpAddress(host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "::1:10809", "h:65536", "h:-1"])
def test_what_is_no_tcp_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_tcp(text)


def test_a_unix_path_is_made_absolute_and_bounded() -> None:
    address = parse_address("unix:some/socket")
    assert isinstance(address, UnixAddress)
    assert address.path.is_absolute()
    with pytest.raises(AddressError):
        parse_address("unix:/" + "x" * 107)


@pytest.mark.parametrize("text", ["[::1]:10809", "10.0.0.1:1"])
def test_an_address_reads_back_to_the_same(text: str) -> None:
    assert str(parse_address(text)) == text


def test_only_loopback_addresses_and_localhost_are_local() -> None:
    hosts = ["127.0.0.1", "::1", "localhost", "*", "10.0.0.1", "example.org"]
    assert [TcpAddress(host, 1).is_loopback for host in hosts] == [True] * 3 + [False] * 3
