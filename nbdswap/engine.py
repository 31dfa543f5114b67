"""The page engine as the server sees it, and the only place that loads the extension.

Tests put their own in its place: everything else knows `Engine` and `OpenCore`, not the extension.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from nbdswap.config import Config
from nbdswap.errors import ConfigError, NotPermittedError, file_error
from nbdswap.exports import export_specs
from nbdswap.snapshots import CoreSnapshot
from nbdswap.store_key import key_source, makes_key
from nbdswap.succession import Succession

if TYPE_CHECKING:
    from nbdswap._core import ExportSpec, HandedOver, Incident, OpenReport, StoreSpec


class Engine(Protocol):
    """What a `_core.Core` does; its documentation is there."""

    @property
    def ended_fd(self) -> int: ...

    def start(self) -> None: ...

    def thread_ids(self) -> list[int]: ...

    def attach(  # noqa: PLR0913 -- the extension's own signature
        self,
        fd: int,
        export: str,
        *,
        structured: bool,
        base_allocation_id: int | None,
        received: bytes,
        unsent: bytes,
    ) -> int: ...

    def hand_over(self, deadline_s: float) -> "tuple[list[HandedOver], int]": ...

    def store_descriptor(self) -> int | None: ...

    def take_ended(self) -> list[tuple[int, str]]: ...

    def detach_all(self, deadline_s: float) -> None: ...

    def settle(self) -> None: ...

    def set_zpool(self, zpool: str) -> None: ...

    def set_codec(self, codec: str, level: int) -> None: ...

    def take_incidents(self) -> "tuple[list[Incident], int]": ...

    def snapshot(self) -> CoreSnapshot: ...

    def close(self, *, forget: bool) -> None: ...


class OpenCore(Protocol):
    """`_core.Core.open`."""

    def __call__(  # noqa: PLR0913 -- the extension's own signature, all by keyword
        self,
        *,
        instance: int,
        memory_dir: str | None,
        adopt: bool,
        exports: "Sequence[ExportSpec]",
        page_bytes: int,
        zpool: str,
        frame_bytes: int,
        chain_frames_max: int,
        codec: str,
        codec_level: int,
        pool_bytes_max: int,
        high_mark_percent: int,
        low_mark_percent: int,
        populate: bool,
        store: "StoreSpec | None",
        generation: int,
        workers: int,
        readers: int,
        polling_us: int | None,
        request_timeout_s: float,
    ) -> "tuple[Engine, OpenReport]": ...


def core_of_extension() -> OpenCore:
    """The real engine."""
    from nbdswap._core import Core

    return Core.open


def open_engine(
    open_core: OpenCore,
    config: Config,
    succession: Succession,
    *,
    populate: bool,
    store_fd: int | None = None,
) -> "tuple[Engine, OpenReport]":
    """Opens the engine as configured; raises ConfigError, NotPermittedError, RefusedError
    or FailingFileError.

    `store_fd`: the backing file as a predecessor had it open; it is the engine's from now on.
    """
    state, pool = succession.state, config.pool
    try:
        return open_core(
            instance=state.instance,
            memory_dir=state.memory_dir,
            adopt=succession.adopt,
            exports=export_specs(config, succession.lost, succession.recovered),
            page_bytes=config.page_bytes,
            zpool=pool.zpool,
            frame_bytes=pool.frame_bytes,
            chain_frames_max=pool.zsmalloc_chain_frames_max,
            codec=pool.codec,
            codec_level=pool.codec_level,
            pool_bytes_max=pool.bytes_max,
            high_mark_percent=pool.high_mark_percent,
            low_mark_percent=pool.low_mark_percent,
            populate=populate,
            store=_store_spec(config, state.instance, store_fd),
            generation=state.generation,
            workers=config.workers,
            readers=config.readers,
            polling_us=config.polling_us,
            request_timeout_s=config.request_timeout_s,
        )
    except ValueError as error:
        raise ConfigError("configuration", str(error)) from None
    except PermissionError as error:
        raise NotPermittedError(f"{error}; set store.io to auto to do without") from None
    except OSError as error:
        problem = f"the engine cannot be opened: {_words(error)}{_cure(error)}"
        raise file_error(problem, error) from None


def _store_spec(config: Config, instance: int, held_fd: int | None) -> "StoreSpec | None":
    store = config.store
    if store.path is None:
        if held_fd is not None:
            os.close(held_fd)
        return None
    return {
        "path": str(store.path),
        "capacity_bytes": store.capacity_bytes,
        "segment_bytes": store.segment_bytes,
        "direct": store.direct,
        "io": store.io,
        "preallocate": store.preallocate,
        "punch": store.punch,
        "held_fd": held_fd,
        "write_bytes_per_day_max": store.write_bytes_per_day_max,
        "write_burst_bytes": store.write_burst_bytes,
        "scrub_bytes_per_s": store.scrub_bytes_per_s,
        "key": key_source(config, instance),
        "make_key": makes_key(config),
    }


def _cure(error: OSError) -> str:
    """What to do about files of another state directory or state, or that somebody else changed."""
    if ".table: " in str(error) or ".pool: " in str(error):
        return "; it is left as it is: set it right, or start once with --fresh and lose all pages"
    if "belongs to instance" in str(error):
        return "; if no other server uses that file, remove it, or name another store.path"
    if "is a device of" in str(error):
        return "; set store.capacity_bytes to what it has, or less"
    if "another key" in str(error):
        return "; name the key that it was written with, or start with --fresh and lose its pages"
    if "no key was given" in str(error) or "is in clear, wanted" in str(error):
        return "; set store.encryption back, or start with --fresh and lose its pages"
    return ""


def _words(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
