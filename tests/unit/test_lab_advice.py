"""The rules of advice, one by one, on results that were made up."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbdswap.lab.advice import (
    HIGH_MARK_PERCENT,
    Advice,
    Choice,
    Nothing,
    Prefer,
    advise,
    data_bytes_in,
    pool_bytes_for,
)
from nbdswap.lab.results import CodecResult, LabResults, PackResult
from nbdswap.lab.wording import as_json, sentences
from tests.unit.fake_lab import codec_result, lab_results, pack_result, percentiles

GIB = 1 << 30


def codec(name: str, level: int, percent: int, us: float, **changes: Any) -> CodecResult:
    """One that makes pages so small, in so many microseconds for both ways."""
    pages = changes.get("pages", 1000)
    page_bytes = changes.get("page_bytes", 4096)
    return codec_result(
        name,
        level,
        object_bytes=pages * page_bytes * percent // 100,
        compress_ns=percentiles(round(us * 750)),
        decompress_ns=percentiles(round(us * 250)),
        **changes,
    )


def with_packs(result: CodecResult, **overheads: float) -> tuple[CodecResult, list[PackResult]]:
    """Zpools with what they take above."""
    chosen = overheads or {"tight": 1.0}
    return result, [pack_result(result, name, overhead=chosen[name]) for name in chosen]


def words(results: LabResults, prefer: Prefer = Prefer.BALANCED, **sizes: int | None) -> str:
    """What is said."""
    wanted: dict[str, int | None] = {"memory_bytes": None, "swapped_bytes": None}
    return sentences(results, advise(results, prefer), **(wanted | sizes))  # type: ignore[arg-type]


def choice_of(advice: Advice) -> Choice:
    """The main one, which there must be."""
    assert isinstance(advice.main, Choice)
    return advice.main


FAST = codec("lz4", 1, 50, 5)
DENSE = codec("zstd", 3, 35, 25)
DENSEST = codec("zstd", 19, 33, 600)
ALL = lab_results(*map(with_packs, (FAST, DENSE, DENSEST)))


@pytest.mark.parametrize(
    ("prefer", "codec_wanted"),
    # A microsecond costs 2, 0.4 and 0.04 points: 60, 52, 50.2 for the fast one, then 85, 45, 36
    # for the dense one, then 1233, 273, 57.
    [(Prefer.SPEED, FAST), (Prefer.BALANCED, DENSE), (Prefer.DENSITY, DENSE)],
)
def test_the_codec_is_the_one_of_the_least_cost(prefer: Prefer, codec_wanted: CodecResult) -> None:
    assert choice_of(advise(ALL, prefer)).best.codec == codec_wanted


def test_costs_within_the_noise_are_a_tie_and_the_faster_to_decompress_wins() -> None:
    # 39 + 2.0 against 40 + 1.2: less than 15 % of 2.0 and 0.5 % of 39 apart.
    dense, fast = codec("zstd", 1, 39, 5.0), codec("lz4", 1, 40, 3.0)
    results = lab_results(with_packs(dense), with_packs(fast))
    choice = choice_of(advise(results))
    assert choice.best.codec == fast
    assert [tie.codec for tie in choice.ties] == [dense]
    assert "zstd:1 in tight is as good, as far as this run can tell" in words(results)
    # Three points more are no tie.
    results = lab_results(with_packs(dense), with_packs(codec("lz4", 1, 43, 3.0)))
    choice = choice_of(advise(results))
    assert (choice.best.codec, choice.ties) == (dense, ())


@pytest.mark.parametrize(("us", "level_wanted"), [(11.0, 2), (12.0, 1)])
def test_of_a_tie_that_decompresses_about_as_fast_the_denser_is_taken(
    us: float, level_wanted: int
) -> None:
    results = lab_results(
        with_packs(codec("zstd", 1, 39, 10.0)), with_packs(codec("zstd", 2, 38, us))
    )
    choice = choice_of(advise(results))
    assert len(choice.ties) == 1
    assert choice.best.codec.level == level_wanted


def test_the_zpool_is_the_densest_when_worn_and_the_next_one_is_named() -> None:
    results = lab_results(with_packs(FAST, loose=1.1, tight=1.02))
    best = choice_of(advise(results)).best
    assert best.pack.zpool == "tight"
    assert best.share == pytest.approx(0.51, rel=1e-3)
    assert "In loose, the next zpool, the same pages would take 7.8 % more." in words(results)


def test_a_pool_that_is_dense_only_when_fresh_is_judged_by_its_worst() -> None:
    worn = pack_result(FAST, "worn", overhead=1.01)
    densities = [
        density.model_copy(update={"block_bytes": density.object_bytes * 2})
        if density.phase == "refilled90"
        else density
        for density in worn.densities
    ]
    worn = worn.model_copy(update={"densities": tuple(densities)})
    results = lab_results((FAST, [worn, pack_result(FAST, "tight", overhead=1.2)]))
    assert choice_of(advise(results)).best.pack.zpool == "tight"


def test_a_sparse_pool_is_not_held_against_a_zpool() -> None:
    sparse = pack_result(FAST, "sparse", overhead=1.01)
    densities = [
        density.model_copy(update={"block_bytes": density.object_bytes * 5})
        if density.phase.startswith("discarded")
        else density
        for density in sparse.densities
    ]
    sparse = sparse.model_copy(update={"densities": tuple(densities)})
    results = lab_results((FAST, [pack_result(FAST, "tight", overhead=1.2), sparse]))
    assert choice_of(advise(results)).best.pack.zpool == "sparse"


def test_zpools_of_the_same_density_differ_by_time_and_else_by_their_order() -> None:
    slow = pack_result(FAST, "slow", overhead=1.0, load_ns=percentiles(300))
    first = pack_result(FAST, "first", overhead=1.004)
    second = pack_result(FAST, "second", overhead=1.002, load_ns=percentiles(90))
    results = lab_results((FAST, [slow, first, second]))
    best = choice_of(advise(results)).best
    assert best.pack.zpool == "first"
    assert [rival.zpool for rival in best.rivals] == ["slow", "second"]
    assert "Between first and slow and second the difference in density is within" in words(results)


def test_same_filled_pages_count_as_pages_and_take_nothing() -> None:
    half = codec("lz4", 1, 50, 5, same_filled=1000)
    assert choice_of(advise(lab_results(with_packs(half)))).best.share == pytest.approx(0.25)


def test_few_pages_are_too_few_to_say() -> None:
    few = codec("lz4", 1, 50, 5, pages=255, same_filled=700)
    results = lab_results(with_packs(few))
    assert advise(results).main == Nothing(4096, 255, 700)
    said = words(results)
    assert said.startswith("Too few pages to say: of 955 (4K each) 255 are not of one repeated")
    assert "pool:" not in said
    enough = codec("lz4", 1, 50, 5, pages=256)
    assert "256 pages are few" in words(lab_results(with_packs(enough)))
    assert "are few" not in words(lab_results(with_packs(codec("lz4", 1, 50, 5, pages=1024))))


def test_zeros_alone_leave_nothing_to_choose() -> None:
    zeros = codec("lz4", 1, 50, 5, pages=0, same_filled=1000)
    results = lab_results((zeros, []))
    assert words(results).startswith("All 1,000 pages are of one repeated word each, such as zeros")
    found = as_json(advise(results), memory_bytes=None, swapped_bytes=None)
    assert found["choices"][0]["nothing_to_say"] == "same_filled"


def test_pages_that_do_not_compress_are_told_first() -> None:
    packed = codec("lz4", 1, 100, 2, incompressible=1000)
    said = words(lab_results(with_packs(packed)))
    assert said.startswith("These pages hardly compress: a pool saves next to nothing of them")
    mostly = codec("lz4", 1, 80, 2, incompressible=600)
    assert words(lab_results(with_packs(mostly))).startswith("60 % of these pages do not compress")


@pytest.mark.parametrize("prefer", Prefer)
def test_pages_that_no_codec_makes_smaller_are_kept_as_they_are(prefer: Prefer) -> None:
    plain = codec("none", 0, 100, 0.2, incompressible=1000)
    # A tie with `none` in cost, and as fast to read: its pages are copied, too.
    packed = codec("lzo", 1, 100, 0.2, incompressible=1000)
    best = choice_of(advise(lab_results(with_packs(packed), with_packs(plain)), prefer)).best
    assert best.codec == plain
    # It costs less by the rules, and what it saves is within the noise.
    results = lab_results(with_packs(packed, tight=0.996), with_packs(plain))
    said = words(results, prefer)
    assert "Take none in tight" in said
    assert "No codec makes them smaller to speak of" in said
    assert "codec: none" in said
    assert "codec_level" not in said


def test_pages_are_compressed_where_that_saves_anything() -> None:
    plain = codec("none", 0, 100, 0.2, incompressible=1000)
    results = lab_results(with_packs(plain), with_packs(codec("lz4", 1, 97, 1)))
    assert choice_of(advise(results)).best.codec.codec == "lz4"
    assert choice_of(advise(results, Prefer.SPEED)).best.codec.codec == "lz4"


def test_a_larger_page_is_worth_a_remark_only_if_it_saves() -> None:
    def said(percent: int, pages: int = 1000) -> str:
        large = codec("lz4", 1, percent, 20, page_bytes=16384, pages=pages)
        return words(lab_results(with_packs(large), with_packs(FAST)))

    assert "A client whose kernel has pages of 16K would need 10 % less pool, with lz4:1" in said(
        45
    )
    assert "16K would save no more than a few per cent against 4K with lz4:1." in said(49)
    assert "Pages of 16K: 63 of them are too few to say." in said(45, pages=63)
    assert "A client whose kernel has pages of 16K" in said(45, pages=64)
    # The advice itself is for the page that a client has unless it is known to have another.
    assert "Take lz4:1 in tight, for pages of 4K." in said(45)


def test_a_larger_page_is_compared_with_the_same_codec() -> None:
    def said(percent: int) -> str:
        large = codec("lz4", 1, percent, 20, page_bytes=16384)
        dense = codec("zstd", 3, 30, 20, page_bytes=16384)
        return words(lab_results(with_packs(large), with_packs(dense), with_packs(FAST)))

    assert "16K would need 10 % less pool, with lz4:1 in tight. The page size is" in said(45)
    assert "For such pages zstd:3 in tight would be the better choice." in said(45)
    # What zstd would save is zstd's and not the page's.
    assert "16K would save no more than a few per cent against 4K with lz4:1." in said(49)


@pytest.mark.parametrize("data_bytes", [1 << 20, 3 * GIB, 100 * GIB + 1])
def test_a_pool_is_large_enough_below_its_high_mark_and_not_much_larger(data_bytes: int) -> None:
    choice = choice_of(advise(lab_results(with_packs(FAST, tight=1.04))))
    pool_bytes = pool_bytes_for(choice, data_bytes)
    need = data_bytes * 0.52
    assert need <= pool_bytes * HIGH_MARK_PERCENT / 100 <= need + (2 << 20)
    assert data_bytes_in(choice, pool_bytes) == pytest.approx(data_bytes, abs=5 << 20)


def test_the_sizes_are_those_asked_for_or_an_example() -> None:
    assert "A pool of 512.00 MiB holds 972.00 MiB of such pages at its" in words(
        lab_results(with_packs(FAST)), memory_bytes=512 << 20
    )
    said = words(lab_results(with_packs(FAST)), swapped_bytes=4 * GIB)
    assert "A pool of 2.11 GiB holds 4.00 GiB of such pages" in said
    assert "bytes_max: 2156M" in said
    assert "--memory or --swapped works it out for yours" in words(lab_results(with_packs(FAST)))
    advice = advise(lab_results(with_packs(FAST)))
    for memory_bytes, swapped_bytes in [(1 << 30, None), (None, 1 << 30), (None, None)]:
        found = as_json(advice, memory_bytes=memory_bytes, swapped_bytes=swapped_bytes)
        is_given = memory_bytes is not None or swapped_bytes is not None
        assert found["choices"][0]["is_example"] is not is_given


def test_the_lines_are_a_configuration(tmp_path: Path) -> None:
    result = codec("zstd", 3, 35, 25)
    pack = pack_result(result, "zblock", frame_bytes=16384)
    advice = advise(lab_results((result, [pack])))
    found = as_json(advice, memory_bytes=1 << 30, swapped_bytes=None)
    assert json.loads(json.dumps(found)) == found
    lines = yaml.safe_load(found["choices"][0]["configuration"])
    assert lines == {
        "page_bytes": "4K",
        "pool": {
            "bytes_max": "1G",
            "zpool": "zblock",
            "codec": "zstd",
            "codec_level": 3,
            "frame_bytes": "16K",
        },
    }


def test_the_same_results_give_the_same_words() -> None:
    assert words(ALL) == words(ALL)
