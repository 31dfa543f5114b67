"""Measures how densely the zpools hold objects. The same pages and seed give the same figures.

Not here: the life that a pool is led through (LabObjects.pack in nbdswap/_core.pyi).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plan
from nbdswap import __version__, _core
from nbdswap.errors import UsageError
from nbdswap.lab.pages import PageFile, joined
from results import Codec, Densities, Held, Pack


def measure(
    files: Sequence[PageFile], stored_mib: Sequence[int], seed: int, say: plan.Say
) -> Densities:
    """Every zpool with every codec, geometry and size."""
    codecs: list[Codec] = []
    packs: list[Pack] = []
    kept_dense: list[Pack] = []
    for page_bytes, frames in frames_of_pages().items():
        pages = _core.LabPages.of(joined(files, page_bytes), page_bytes)
        for codec, level in plan.CODECS:
            say(f"{codec}:{level} on pages of {page_bytes}")
            objects, report = pages.compress(codec, level)
            known = {key: value for key, value in report.items() if key in Codec.model_fields}
            codecs.append(Codec.model_validate(known))
            if not codecs[-1].pages:
                raise UsageError("all pages are of one repeated word, wanted some that are not")
            for frame_bytes in frames:
                for mib in stored_mib:
                    wanted = [(zpool, False, packs) for zpool in _core.zpools()]
                    for zpool, keeps_dense, into in [*wanted, (plan.KEPT_DENSE, True, kept_dense)]:
                        found = objects.pack(
                            zpool=zpool,
                            frame_bytes=frame_bytes,
                            stored_bytes=mib * plan.MIB,
                            seed=seed,
                            keeps_dense=keeps_dense,
                        )
                        into.append(pack_of(found, codec=codec, level=level, page=page_bytes))
    return Densities(
        nbdswap=__version__,
        seed=seed,
        files={file.path.name: len(file.data) for file in files},
        codecs=tuple(codecs),
        packs=tuple(packs),
        kept_dense=tuple(kept_dense),
    )


def frames_of_pages() -> dict[int, list[int]]:
    """The geometries by page size, so that pages are compressed once."""
    frames: dict[int, list[int]] = {}
    for geometry in plan.GEOMETRIES:
        frames.setdefault(geometry.page_bytes, []).append(geometry.frame_bytes)
    return frames


def pack_of(report: Mapping[str, Any], *, codec: str, level: int, page: int) -> Pack:
    """What of a report goes into the file."""
    same = ("zpool", "frame_bytes", "stored_bytes", "objects_moved", "objects_written")
    counts = ("objects_copied_twice", "bytes_copied_twice", "objects_moved_meanwhile")
    return Pack(
        codec=codec,
        level=level,
        page_bytes=page,
        phases=dict(_phases(report["densities"])),
        **{key: report[key] for key in (*same, *counts)},
    )


def _phases(densities: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Held]]:
    for density in densities:
        yield (
            density["phase"],
            Held(
                density["objects"],
                density["object_bytes"],
                density["slot_bytes"],
                density["held_bytes"],
            ),
        )
