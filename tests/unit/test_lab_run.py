"""A run asks the core for everything once, and its results survive their file."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nbdswap.errors import UsageError
from nbdswap.lab import run as run_module
from nbdswap.lab.pages import PageFile
from nbdswap.lab.request import LabRequest
from nbdswap.lab.results import LabResults, codec_name, read_results, size_name, to_json
from nbdswap.lab.run import run, step_count, stored_bytes_of
from nbdswap.lab.tables import view
from tests.unit.fake_lab import FakeLabCore, codec_result, lab_results, pack_result

PAGES = PageFile(Path("some.pages"), b"text" * 4096 + bytes(16384))


def results_of(**flags: Any) -> tuple[LabResults, LabRequest, list[str]]:
    """A run on the fake core, what was asked for, and its steps."""
    core, steps = FakeLabCore(), []
    request = LabRequest.of(core, **flags)
    results = run(core, request, [PAGES], command_line=["nbdswap", "x"], on_step=steps.append)
    return results, request, steps


def printed(results: LabResults) -> str:
    """The tables as text, blanks made one."""
    console = Console(width=140)
    with console.capture() as capture:
        console.print(view(results))
    return "\n".join(" ".join(line.split()) for line in capture.get().splitlines())


def test_every_codec_meets_every_zpool_page_and_frame_size_once() -> None:
    results, request, steps = results_of(
        codecs=["lz4", "zstd"], page_sizes=["4K", "16K"], frame_sizes=["4K", "16K"], speed=True
    )
    packs = [(codec_name(p), p.page_bytes, p.frame_bytes, p.zpool) for p in results.packs]
    assert len(packs) == len(set(packs)) == 2 * (2 + 1) * 2
    assert len(results.codecs) == 4
    assert [speed.threads for speed in results.speeds] == [1, 2] * len(packs)
    assert len(steps) == len(set(steps)) == step_count(request)
    assert steps[:4] == [
        "lz4:1 on pages of 4K",
        "tight, lz4:1, 4K",
        "tight, lz4:1, 4K, 1 thread",
        "tight, lz4:1, 4K, 2 threads",
    ]
    assert size_name(results.packs[2].page_bytes, results.packs[2].frame_bytes) == "4K in 16K"


def test_the_files_are_repeated_to_64_mib_or_to_what_is_asked_for() -> None:
    results, _, _ = results_of(codecs=["lz4"], seed=7)
    assert {(pack.stored_bytes, pack.seed) for pack in results.packs} == {(64 << 20, 7)}
    results, _, _ = results_of(codecs=["lz4"], stored="8K")
    assert {pack.stored_bytes for pack in results.packs} == {8192}


def test_more_than_there_is_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "available_memory_bytes", lambda: 1 << 20)
    request = LabRequest.of(FakeLabCore(), stored="1025K")
    with pytest.raises(UsageError, match=r"1\.00 MiB is available; wanted a smaller --stored"):
        stored_bytes_of(request, [PAGES])


def test_pages_of_one_word_alone_are_not_packed() -> None:
    core = FakeLabCore()
    request = LabRequest.of(core, codecs=["lz4"])
    zeros = PageFile(Path("zeros"), bytes(8192))
    results = run(core, request, [zeros], command_line=[], on_step=lambda _: None)
    assert results.packs == ()
    assert "lz4:1, 4K 2 100.0% 0.0% - - - - - - - -" in printed(results)


def test_the_file_of_a_run_holds_all_of_it(tmp_path: Path) -> None:
    results, _, _ = results_of(codecs=["zstd:-3"], speed=True, seed=5)
    path = tmp_path / "results.json"
    path.write_text(to_json(results))
    assert read_results(path) == results
    document = json.loads(path.read_text())
    assert (document["format"], document["format_version"]) == ("nbdswap-lab", 1)
    assert document["command_line"] == ["nbdswap", "x"]
    assert (document["seed"], document["files"]) == (5, [{"path": "some.pages", "bytes": 32768}])
    assert set(document["environment"]) == {
        *("nbdswap", "python", "kernel", "cpu", "cpus", "memory_bytes"),
    }
    assert all(document["environment"].values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "format: Input should be 'nbdswap-lab'"),
        ({"format_version": 2}, "format_version: Input should be 1"),
        ({"packs": [{}]}, "packs.0.codec: Field required"),
        ({"stored_bytes": -1}, "stored_bytes: Input should be greater than 0"),
        ({"codecs": []}, "packs: lz4:1 has no codec result; the file is not whole"),
    ],
)
def test_a_file_that_is_not_a_run_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    results, _, _ = results_of(codecs=["lz4"])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(to_json(results)) | change))
    with pytest.raises(UsageError) as refused:
        read_results(path)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    results, _, _ = results_of(codecs=["lz4"])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(to_json(results)) | {"new": 1}))
    assert read_results(path) == results


def test_the_tables_show_what_was_found() -> None:
    # A fifth of the pages is same-filled: they weigh in the ratio of the last column.
    codec = codec_result(same_filled=250, incompressible=100)
    packs = [pack_result(codec, overhead=1.25), pack_result(codec, "loose", frame_bytes=16384)]
    text = printed(lab_results((codec, packs)))
    assert "4.00 MiB of pages from 1 file, 64.00 MiB of them in each pool, seed 1" in text
    assert "lz4:1, 4K 1,250 20.0% 8.0% 2.00 500 2,000 4,000 3.0 9.0 1.0 3.0" in text
    phases = " ".join(["1.250"] * 8)
    assert f"lz4:1, 4K\ntight {phases} 2.00 0.5%" in text
    assert f"lz4:1, 4K in 16K\nloose {phases.replace('1.250', '1.000')} 2.50 0.5%" in text
    assert "tight 110 100/300/900 110 100/300/900" in text
    assert "Speed" not in text


def test_the_table_of_speeds_tells_how_it_scales() -> None:
    results, _, _ = results_of(codecs=["lz4"], zpools=["loose"], speed=True)
    assert "lz4:1, 4K\nloose 400 444 x 1.80" in printed(results)


def test_the_tables_fit_into_80_columns() -> None:
    results, _, _ = results_of(codecs=["lz4", "zstd:-3"], speed=True)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(view(results))
    assert "..." not in capture.get()
    assert "\N{HORIZONTAL ELLIPSIS}" not in capture.get()
