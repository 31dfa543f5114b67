"""The lab's measuring core as Python sees it: shapes of its reports, refusals, Ctrl-C."""

from __future__ import annotations

import ast
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

import nbdswap
from nbdswap._core import ConfigError, LabObjects, LabPages, zpools
from tests.support.pages import MIB, PAGE_BYTES, make_data

if TYPE_CHECKING:
    from nbdswap._core import CodecReport

STUB = Path(nbdswap.__file__).parent / "_core.pyi"
PLAIN = {"bool": bool, "str": str, "int": int, "float": float}


def _compressed() -> tuple[LabObjects, CodecReport]:
    return LabPages.of(make_data(1, 300), PAGE_BYTES).compress("lz4", 1)


def _shapes() -> dict[str, dict[str, str]]:
    """Fields and their types of every class in the stub."""
    classes = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: {
            field.target.id: ast.unparse(field.annotation)
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        for node in classes
    }


def _check(value: object, shape: str) -> None:
    if shape.startswith("list["):
        assert isinstance(value, list)
        assert value, f"nothing to look at in {shape}"
        for item in value:
            _check(item, shape.removeprefix("list[").removesuffix("]"))
    elif shape in PLAIN:
        assert type(value) is PLAIN[shape]
    else:
        fields = _shapes()[shape]
        assert isinstance(value, dict)
        assert list(value) == list(fields)
        for name, field in fields.items():
            _check(value[name], field)


def test_reports_are_what_the_stub_says() -> None:
    objects, codec = _compressed()
    _check(codec, "CodecReport")
    assert zpools()
    for zpool in zpools():
        packed = objects.pack(zpool=zpool, frame_bytes=16384, stored_bytes=MIB, seed=1)
        _check(packed, "PackReport")
        assert (packed["zpool"], packed["stored_bytes"]) == (zpool, MIB)
        speed = objects.speed(
            zpool=zpool, frame_bytes=4096, stored_bytes=MIB, threads=2, cycles=5000, seed=1
        )
        _check(speed, "SpeedReport")


def test_a_report_of_another_shape_is_seen() -> None:
    _, codec = _compressed()
    with pytest.raises(AssertionError):
        _check({**codec, "level": "1"}, "CodecReport")
    with pytest.raises(AssertionError):
        _check({**codec, "more": 1}, "CodecReport")


def test_a_rest_that_is_no_page_is_left_out() -> None:
    assert LabPages.of(bytes(3 * PAGE_BYTES + 1), PAGE_BYTES).pages == 3
    assert LabPages.of(b"", 65536).pages == 0


def test_what_does_not_exist_is_refused_in_one_line() -> None:
    objects, _ = _compressed()
    refused = []
    for zpool, frame_bytes, stored_bytes in [
        ("slab", 4096, MIB),
        ("zblock", 5000, MIB),
        ("zblock", 4096, 0),
        ("zblock", 4096, 1 << 60),
    ]:
        with pytest.raises(ConfigError, match="wanted") as error:
            objects.pack(zpool=zpool, frame_bytes=frame_bytes, stored_bytes=stored_bytes, seed=1)
        refused.append(str(error.value))
    with pytest.raises(ConfigError, match="wanted 4096, 16384 or 65536") as error:
        LabPages.of(b"", 8192)
    refused.append(str(error.value))
    with pytest.raises(ConfigError, match="wanted") as error:
        LabPages.of(bytes(PAGE_BYTES), PAGE_BYTES).compress("rot13", 1)
    refused.append(str(error.value))
    assert all(text and "\n" not in text for text in refused)


class TooLongError(Exception):
    """What the handler of the test raises."""


def test_a_measurement_ends_when_a_signal_handler_raises() -> None:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        raise TooLongError

    objects, _ = _compressed()
    before = signal.signal(signal.SIGALRM, handle)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TooLongError):
            # Hours of work, if nobody interrupts it.
            objects.speed(
                zpool="zblock",
                frame_bytes=4096,
                stored_bytes=MIB,
                threads=2,
                cycles=10**12,
                seed=1,
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 10
