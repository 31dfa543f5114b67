"""The measuring core as the lab sees it, and the only place of the lab that loads the extension.

Tests put their own in its place. What comes back are plain mappings; `results` checks them.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

Report = Mapping[str, object]


class Objects(Protocol):
    """A `_core.LabObjects`; its documentation is there."""

    def pack(
        self, *, zpool: str, frame_bytes: int, stored_bytes: int, seed: int, keeps_dense: bool
    ) -> Report: ...

    def speed(  # noqa: PLR0913 -- the extension's own signature, all by keyword
        self,
        *,
        zpool: str,
        frame_bytes: int,
        stored_bytes: int,
        threads: int,
        cycles: int,
        seed: int,
    ) -> Report: ...


class Pages(Protocol):
    """A `_core.LabPages`."""

    @property
    def pages(self) -> int: ...

    def compress(self, codec: str, level: int) -> tuple[Objects, Report]: ...


class LabCore(Protocol):
    """What measures."""

    def zpools(self) -> Sequence[str]: ...

    def codecs(self) -> Sequence[Report]: ...

    def pages_of(self, data: bytes, page_bytes: int) -> Pages: ...


class ExtensionCore:
    """The real one."""

    def zpools(self) -> Sequence[str]:
        """Names of all zpools, in the order in which they are shown."""
        from nbdswap import _core

        return _core.zpools()

    def codecs(self) -> Sequence[Report]:
        """Name, levels and a few words of each codec."""
        from nbdswap import _core

        return _core.codecs()

    def pages_of(self, data: bytes, page_bytes: int) -> Pages:
        """The pages in these bytes; a rest that is no whole page is left out."""
        from nbdswap import _core

        return _core.LabPages.of(data, page_bytes)


def core_of_extension() -> LabCore:
    """The core that measures."""
    return ExtensionCore()
