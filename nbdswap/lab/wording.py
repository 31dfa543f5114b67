"""Advice in plain words, as lines of configuration, and as JSON.

Not here: how it was found (`advice`).
"""

from collections.abc import Iterator
from textwrap import indent
from typing import Any

from nbdswap.units import format_size, human_size

from .advice import (
    BYTES_LEAST,
    HIGH_MARK_PERCENT,
    PRICE_POINTS_PER_US,
    Advice,
    Candidate,
    Choice,
    Nothing,
    data_bytes_in,
    is_poor,
    pool_bytes_for,
)
from .request import PLAIN
from .results import LabResults, codec_name, size_name

EXAMPLE_POOL_BYTES = 1 << 30
OTHERS_SHOWN = 3
FEW_BYTES = 4 * BYTES_LEAST


class Plan:
    """How large the pool is to be: given, or found from the data, or an example."""

    def __init__(self, choice: Choice, memory_bytes: int | None, swapped_bytes: int | None) -> None:
        self.is_example = memory_bytes is None and swapped_bytes is None
        if memory_bytes is None and swapped_bytes is not None:
            self.pool_bytes = pool_bytes_for(choice, swapped_bytes)
            self.data_bytes = swapped_bytes
        else:
            self.pool_bytes = memory_bytes or EXAMPLE_POOL_BYTES
            self.data_bytes = data_bytes_in(choice, self.pool_bytes)


def sentences(
    results: LabResults, advice: Advice, *, memory_bytes: int | None, swapped_bytes: int | None
) -> str:
    """All there is to say, paragraphs apart by a blank line."""
    if isinstance(advice.main, Nothing):
        return _nothing(advice.main)
    choice = advice.main
    plan = Plan(choice, memory_bytes, swapped_bytes)
    parts = [
        *_poor(choice),
        _choice(choice),
        _sizes(choice, plan),
        "In the configuration:\n\n" + indent(yaml_lines(choice, plan), "    "),
        _why(choice, advice),
        *_larger_pages(advice),
        *_few(choice),
        _measured(results),
    ]
    return "\n\n".join(parts)


def yaml_lines(choice: Choice, plan: Plan) -> str:
    """What to put into the configuration."""
    codec, pack = choice.best.codec, choice.best.pack
    lines = [
        f"page_bytes: {format_size(codec.page_bytes)}",
        "pool:",
        f"  bytes_max: {format_size(plan.pool_bytes)}",
        f"  zpool: {pack.zpool}",
        f"  codec: {codec.codec}",
    ]
    # A codec without levels has 0, which is its default.
    lines += [f"  codec_level: {codec.level}"] if codec.level else []
    if pack.frame_bytes != codec.page_bytes:
        lines.append(f"  frame_bytes: {format_size(pack.frame_bytes)}")
    return "\n".join(lines)


def as_json(
    advice: Advice, *, memory_bytes: int | None, swapped_bytes: int | None
) -> dict[str, Any]:
    """The same for programs; `choices` has an entry for each page size.

    is_example: pool_bytes is nobody's, since neither memory nor data was given.
    """
    found = []
    for choice in advice.choices:
        if isinstance(choice, Nothing):
            counts = {"pages": choice.pages, "same_filled": choice.same_filled}
            reason = "same_filled" if choice.pages == 0 else "too_few_pages"
            found.append({"page_bytes": choice.page_bytes, "nothing_to_say": reason} | counts)
            continue
        plan = Plan(choice, memory_bytes, swapped_bytes)
        entry = _candidate_json(choice.best) | {
            "ties": [_candidate_json(candidate) for candidate in choice.ties],
            "saves_little": is_poor(choice),
            "pool_bytes": plan.pool_bytes,
            "data_bytes": plan.data_bytes,
            "is_example": plan.is_example,
            "configuration": yaml_lines(choice, plan),
        }
        found.append(entry)
    return {"prefer": advice.prefer.value, "choices": found}


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    codec, pack = candidate.codec, candidate.pack
    return {
        "page_bytes": codec.page_bytes,
        "codec": codec.codec,
        "codec_level": codec.level,
        "zpool": pack.zpool,
        "frame_bytes": pack.frame_bytes,
        "pool_bytes_per_page_byte": round(candidate.share, 5),
        "compress_ns_p50": codec.compress_ns.p50,
        "decompress_ns_p50": codec.decompress_ns.p50,
        "zpools_as_dense": [rival.zpool for rival in candidate.rivals],
    }


def _nothing(nothing: Nothing) -> str:
    all_pages = nothing.pages + nothing.same_filled
    if nothing.pages == 0 and all_pages * nothing.page_bytes >= BYTES_LEAST:
        return (
            f"All {all_pages:,} pages are of one repeated word each, such as zeros. They take no "
            "pool at all, whatever the codec and the zpool: there is nothing to choose."
        )
    size = format_size(nothing.page_bytes)
    wanted = BYTES_LEAST // nothing.page_bytes
    return (
        f"Too few pages to say: of {all_pages:,} ({size} each) {nothing.pages:,} are not of one "
        f"repeated word, wanted at least {wanted:,} such. `nbdswap lab grab PID` takes some from a "
        "process that is like those that will be swapped."
    )


def _name(candidate: Candidate) -> str:
    return f"{codec_name(candidate.codec)} in {candidate.pack.zpool}"


def _choice(choice: Choice) -> str:
    best, codec = choice.best, choice.best.codec
    size = size_name(codec.page_bytes, best.pack.frame_bytes)
    return (
        f"Take {_name(best)}, for pages of {size}. Such pages then take "
        f"{100 * best.share:.1f} % of their size in the pool ({1 / best.share:.2f} to 1). That "
        "counts everything: pages of one word, which take nothing, part-filled blocks after long "
        "use, and side tables.\n"
        f"A page takes {_us(codec.compress_ns.p50)} us to compress and "
        f"{_us(codec.decompress_ns.p50)} us to decompress (median; 1 in 100 takes more than "
        f"{_us(codec.compress_ns.p99)} and {_us(codec.decompress_ns.p99)} us)."
    )


def _sizes(choice: Choice, plan: Plan) -> str:
    pool, data = human_size(plan.pool_bytes), human_size(plan.data_bytes)
    if plan.is_example:
        return (
            f"A pool of {pool} holds {data} of such pages before it passes its high mark of "
            f"{HIGH_MARK_PERCENT} %. --memory or --swapped works it out for yours."
        )
    return f"A pool of {pool} holds {data} of such pages at its high mark of {HIGH_MARK_PERCENT} %."


def _why(choice: Choice, advice: Advice) -> str:
    price = PRICE_POINTS_PER_US[advice.prefer]
    lines = [
        f"Why: with --prefer {advice.prefer.value} a microsecond for each page that goes out and "
        f"comes back (4 KiB) must save at least {price:g} % of its memory."
    ]
    if choice.best.codec.codec == PLAIN:
        lines.append("* No codec makes them smaller to speak of, so work on them is for nothing.")
    for tie in () if choice.best.codec.codec == PLAIN else choice.ties:
        lines.append(
            f"* {_name(tie)} is as good, as far as this run can tell "
            f"({_against(tie, choice.best)}); what decompresses faster or else is denser was taken."
        )
    for other in choice.others[:OTHERS_SHOWN]:
        lines.append(f"* {_name(other)}: {_against(other, choice.best)}.")
    if rivals := choice.best.rivals:
        names = " and ".join(rival.zpool for rival in rivals)
        lines.append(
            f"* Between {choice.best.pack.zpool} and {names} the difference in density is within "
            "the noise of such a run."
        )
    if (following := choice.best.next_pack) is not None:
        more = 100 * (choice.best.next_share / choice.best.share - 1)
        lines.append(
            f"* In {following.zpool}, the next zpool, the same pages would take {more:.1f} % more."
        )
    return "\n".join(lines)


def _against(other: Candidate, best: Candidate) -> str:
    """What another one would cost or give."""
    memory = 100 * (other.share / best.share - 1)
    slower_us = other.time_us - best.time_us
    return (
        f"{abs(memory):.1f} % {'more' if memory >= 0 else 'less'} pool, "
        f"{abs(slower_us):.1f} us {'slower' if slower_us >= 0 else 'faster'} a page"
    )


def _larger_pages(advice: Advice) -> Iterator[str]:
    """Rule 6, and where it does not apply."""
    main = advice.main
    assert isinstance(main, Choice), "nothing was said about the smallest page"
    small = format_size(main.best.codec.page_bytes)
    helping = advice.larger_pages_that_help()
    for choice in advice.choices[1:]:
        if isinstance(choice, Nothing):
            size = format_size(choice.page_bytes)
            yield f"Pages of {size}: {choice.pages:,} of them are too few to say."
            continue
        size = format_size(choice.best.codec.page_bytes)
        if choice in helping:
            same = choice.of_codec(main.best.codec)
            assert same is not None, "it helps with the same codec"
            less = 100 * (1 - same.share / main.best.share)
            yield (
                f"A client whose kernel has pages of {size} would need {less:.0f} % less pool, "
                f"with {_name(same)}. The page size is the client's: set page_bytes to it."
            )
            if choice.best is not same:
                yield f"For such pages {_name(choice.best)} would be the better choice."
        else:
            yield (
                f"Pages of {size} would save no more than a few per cent against {small} with "
                f"{codec_name(main.best.codec)}."
            )


def _poor(choice: Choice) -> Iterator[str]:
    codec = choice.best.codec
    if is_poor(choice):
        yield (
            "These pages hardly compress: a pool saves next to nothing of them, and a store on "
            "SSD is the place for them. Encrypted, packed or random data is like that. The least "
            "bad:"
        )
    elif codec.incompressible * 2 > codec.pages:
        part = 100 * codec.incompressible / codec.pages
        yield f"{part:.0f} % of these pages do not compress and are kept as they are."


def _few(choice: Choice) -> Iterator[str]:
    codec = choice.best.codec
    if codec.pages * codec.page_bytes < FEW_BYTES:
        yield (
            f"{codec.pages:,} pages are few: other pages of the same processes may differ from "
            "these by some per cent."
        )


def _measured(results: LabResults) -> str:
    machine = results.environment
    return (
        f"Measured on {machine.cpu} ({machine.kernel}) with {human_size(results.stored_bytes)} of "
        "pages in each pool; a larger one loses less to part-filled blocks. Sizes are exact for "
        "these pages; times are of this machine and of how busy it was."
    )


def _us(ns: float) -> str:
    return f"{ns / 1000:.1f}"
