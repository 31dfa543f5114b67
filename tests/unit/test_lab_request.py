"""What is asked for is understood, or refused with what is wanted instead."""

from typing import Any

import pytest

from nbdswap.errors import ConfigError
from nbdswap.lab.request import DEFAULT_CODECS, CodecChoice, LabRequest
from tests.unit.fake_lab import FakeLabCore


def request(**flags: Any) -> LabRequest:
    """A request to the fake core."""
    return LabRequest.of(FakeLabCore(), **flags)


def test_the_defaults_are_all_zpools_and_the_default_codecs_that_there_are() -> None:
    found = request()
    assert found.zpools == ("tight", "loose")
    assert [str(codec) for codec in found.codecs] == [
        "lz4:1",
        "zstd:-3",
        "zstd:1",
        "zstd:3",
        "none",
    ]
    assert set(map(str, found.codecs)) <= {*DEFAULT_CODECS, "lz4:1"}
    assert (found.page_bytes, found.stored_bytes, found.speed) == ((4096,), None, False)


def test_a_codec_without_a_level_has_its_default_and_none_is_taken_twice() -> None:
    found = request(codecs=["zstd", "zstd:3", "zstd:-7", "zstd"])
    assert found.codecs == (CodecChoice("zstd", 3), CodecChoice("zstd", -7))
    assert list(map(str, request(codecs=["all", "lz4:9"]).codecs)) == [
        "none",
        "lz4:1",
        "zstd:3",
        "lz4:9",
    ]


def test_a_frame_is_a_page_unless_asked_for_and_never_less() -> None:
    found = request(page_sizes=["4K", "16384", "4K"])
    assert found.page_bytes == (4096, 16384)
    assert [found.frames_of(page) for page in found.page_bytes] == [(4096,), (16384,)]
    found = request(page_sizes=["4K", "16K"], frame_sizes=["4K", "64K"])
    assert found.frames_of(4096) == (4096, 65536)
    assert found.frames_of(16384) == (65536,)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"codecs": ["lzx"]}, "--codec is lzx, wanted all or NAME[:LEVEL] with a name of none, lz"),
        ({"codecs": ["zstd:20"]}, "--codec is zstd:20, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd:"]}, "--codec is zstd:, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd:fast"]}, "--codec is zstd:fast, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd:1_0"]}, "--codec is zstd:1_0, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd: 1"]}, "--codec is zstd: 1, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd:+1"]}, "--codec is zstd:+1, wanted zstd, with a level of -7 to 19"),
        ({"codecs": ["zstd:\u0661"]}, "--codec is zstd:\u0661, wanted zstd, with a level of"),
        ({"codecs": ["none:1"]}, "--codec is none:1, wanted none, which has no levels"),
        ({"zpools": ["slab"]}, "--zpool is slab, wanted all, tight, loose"),
        ({"page_sizes": ["8K"]}, "--page-size is 8K, wanted 4K, 16K or 64K"),
        ({"page_sizes": ["big"]}, "--page-size is big, wanted a size such as"),
        (
            {"page_sizes": ["64K"], "frame_sizes": ["4K"]},
            "--frame-size is 4K, wanted at least the page size, 64K",
        ),
        ({"stored": "lots"}, "--stored is lots, wanted a size such as"),
        ({"stored": "4095"}, "--stored is 4095, wanted at least one page, 4K"),
        ({"seed": -1}, "--seed is -1, wanted 0 to"),
        ({"seed": 1 << 64}, "--seed is 18446744073709551616, wanted 0 to 18446744073709551615"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_wanted(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        request(**flags)
    assert str(refused.value).startswith(f"command line: {said}")
