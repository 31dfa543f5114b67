"""Objects are what they are called: other implementations read ours, and the core reads theirs."""

import zlib
from collections.abc import Callable

import lz4.block
import pytest
import zstandard

from nbdswap._core import ConfigError, codecs, compress_page, decompress_page
from nbdswap.config import CODEC_LEVELS
from tests.support.pages import make_data

Reader = Callable[[bytes, int], bytes]
Writer = Callable[[bytes], bytes]

PAGE_BYTES = (4096, 16384, 65536)


def deflated(page: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(page) + compressor.flush()


def zstd_frame(page: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        5, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_dict_id=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(page)


def unzstd(data: bytes, page_bytes: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return decompressor.decompress(data, max_output_size=page_bytes)


READERS: dict[str, Reader] = {
    "lz4": lambda data, page_bytes: lz4.block.decompress(data, uncompressed_size=page_bytes),
    "lz4hc": lambda data, page_bytes: lz4.block.decompress(data, uncompressed_size=page_bytes),
    "zstd": unzstd,
    "deflate": lambda data, _: zlib.decompress(data, wbits=-15),
}
WRITERS: dict[str, Writer] = {
    "lz4": lambda page: lz4.block.compress(page, store_size=False),
    "lz4hc": lambda page: lz4.block.compress(page, "high_compression", store_size=False),
    "zstd": zstd_frame,
    "deflate": deflated,
}


def pages() -> list[bytes]:
    """Eight of each size, of all kinds that the tests know."""
    return [make_data(seed, size // 4096) for size in PAGE_BYTES for seed in range(8)]


@pytest.mark.parametrize("codec", READERS)
def test_others_read_what_the_core_writes(codec: str) -> None:
    low, high, default = CODEC_LEVELS[codec]
    objects = 0
    for level in {low, default, high}:
        for page in pages():
            data = compress_page(codec, level, page)
            if data is not None:
                assert len(data) < len(page)
                assert READERS[codec](data, len(page)) == page
                objects += 1
    assert objects > 20


@pytest.mark.parametrize("codec", WRITERS)
def test_the_core_reads_what_others_write(codec: str) -> None:
    for page in pages():
        assert decompress_page(codec, WRITERS[codec](page), len(page)) == page


@pytest.mark.parametrize("codec", [name for name in CODEC_LEVELS if name != "none"])
def test_a_page_comes_back(codec: str) -> None:
    for page in pages():
        data = compress_page(codec, CODEC_LEVELS[codec][2], page)
        assert data is None or decompress_page(codec, data, len(page)) == page


def test_none_keeps_pages_as_they_are() -> None:
    page = bytes(4096)
    assert compress_page("none", 0, page) is None
    assert decompress_page("none", page, 4096) == page


def test_the_configuration_knows_the_codecs_of_the_core() -> None:
    table = {
        codec["name"]: (codec["level_min"], codec["level_max"], codec["level_default"])
        for codec in codecs()
    }
    assert table == CODEC_LEVELS
    assert list(table) == list(CODEC_LEVELS)
    for text in ("about", "guarantees"):
        assert all(0 < len(codec[text]) <= 90 for codec in codecs())


@pytest.mark.parametrize(
    ("codec", "level", "page_bytes", "said"),
    [
        ("lzma", 1, 4096, "codec is lzma, wanted lz4, lz4hc, zstd, lzo, deflate or none"),
        ("zstd", 23, 4096, "codec level is 23, wanted -7 to 19 for zstd"),
        ("lzo", 2, 4096, "codec level is 2, wanted 1 for lzo"),
        ("lz4", 1, 100, "page is 100 bytes, wanted 4096, 16384 or 65536"),
    ],
)
def test_a_wrong_call_is_refused_with_found_and_wanted(
    codec: str, level: int, page_bytes: int, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compress_page(codec, level, bytes(page_bytes))
    assert str(caught.value) == said


def test_what_is_no_object_is_refused() -> None:
    said = "object is 5 bytes of something else, wanted 4096 bytes compressed by lzo"
    with pytest.raises(ValueError, match=said):
        decompress_page("lzo", b"hello", 4096)
    with pytest.raises(ConfigError, match="page is 8192 bytes, wanted 4096"):
        decompress_page("lz4", b"hello", 8192)
