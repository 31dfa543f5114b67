"""Plots are drawn whole, the same each time, and only where matplotlib is."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nbdswap.errors import UsageError
from nbdswap.lab.plots import require_matplotlib, write_plots
from tests.unit.fake_lab import codec_result, lab_results, pack_result

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
SVG = "{http://www.w3.org/2000/svg}"


ONE, TWO = codec_result(), codec_result("zstd", -3)
ZPOOLS = [pack_result(ONE, "tight"), pack_result(ONE, "loose", overhead=1.2)]
FRAMES = [pack_result(TWO, "tight"), pack_result(TWO, "tight", frame_bytes=16384)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two codecs; the second also in larger frames. Drawing takes a while."""
    return write_plots(lab_results((ONE, ZPOOLS), (TWO, FRAMES)), tmp_path_factory.mktemp("plots"))


def texts_of(path: Path) -> str:
    """What an SVG says: matplotlib draws letters and leaves the text in comments."""
    builder = ElementTree.TreeBuilder(insert_comments=True)
    # The file is ours.
    root = ElementTree.fromstring(path.read_text(), ElementTree.XMLParser(target=builder))  # noqa: S314
    assert root.tag == f"{SVG}svg"
    comments = (e.text for e in root.iter() if e.tag is ElementTree.Comment)
    return "\n".join(text.strip() for text in comments if text)


def test_there_are_three_plots_for_each_codec_and_frame_size(drawn: list[Path]) -> None:
    stems = [
        f"{plot}-{what}"
        for what in ("lz4_1-4K", "zstd_-3-4K", "zstd_-3-4K-in-16K")
        for plot in ("density", "fragmentation", "latency")
    ]
    assert [path.name for path in drawn] == [
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")
    ]
    for path in drawn:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG_HEAD)


def test_the_figures_stand_at_what_they_belong_to(drawn: list[Path]) -> None:
    directory = drawn[0].parent
    density = texts_of(directory / "density-lz4_1-4K.svg")
    assert "20.0" in density.splitlines()
    assert {"tight", "loose", "fresh"} <= set(density.splitlines())
    assert "64.00 MiB of pages, seed 1, nbdswap 1.2.3, a processor" in density
    assert "loose 1.200" in texts_of(directory / "fragmentation-lz4_1-4K.svg")
    latency = texts_of(directory / "latency-lz4_1-4K.svg").splitlines()
    # p99 of two zpools in four panels.
    assert latency.count("300") == 8


def test_the_same_results_give_the_same_bytes(drawn: list[Path], tmp_path: Path) -> None:
    again = write_plots(lab_results((ONE, ZPOOLS)), tmp_path)
    assert len(again) == 6
    for one, other in zip(again, drawn, strict=False):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name
        assert b"<dc:date>" not in one.read_bytes()


def test_without_matplotlib_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'nbdswap\[plots\]'"):
        require_matplotlib()


def test_nothing_to_pack_is_nothing_to_draw(tmp_path: Path) -> None:
    assert write_plots(lab_results((codec_result(pages=0), [])), tmp_path) == []
