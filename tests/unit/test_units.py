"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdswap.units import SizeError, format_size, human_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4k", 4096),
        ("512M", 512 << 20),
        ("512MiB", 512 << 20),
        ("1.5G", 3 << 29),
        (" 2 T ", 2 << 40),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_read_exactly(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1e3", "0x10", "1.5", "0.3K", "1 2", "1KK"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SizeError):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_formatted_size_reads_back_to_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_sizes_for_eyes_have_a_unit() -> None:
    assert [human_size(n) for n in (17, 2048, 1300000000)] == ["17 B", "2.00 KiB", "1.21 GiB"]
