"""The configured exports as the handshake and as the engine want them."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from nbdswap.config import Config, ExportConfig
from nbdswap.nbd import READ_ONLY_FLAGS, READ_WRITE_FLAGS, ExportInfo

if TYPE_CHECKING:
    from nbdswap._core import ExportSpec


def export_infos(config: Config) -> Mapping[str, ExportInfo]:
    """What clients are told, by name, in the order of the configuration."""
    infos = {export.name: _info(export, config.page_bytes) for export in config.exports}
    return MappingProxyType(infos)


def default_name(config: Config) -> str:
    """The export of a client that names none."""
    return config.exports[0].name


def export_specs(
    config: Config, lost: Collection[str], recovered: Collection[str]
) -> "list[ExportSpec]":
    """What the engine opens. What was durable for the last server is so for this one too."""
    return [
        {
            "name": export.name,
            "size_bytes": export.size_bytes,
            "read_only": export.read_only,
            "lost": export.name in lost,
            "durable": export.durability == "disk" or export.name in recovered,
            "recovered": export.name in recovered,
        }
        for export in config.exports
    ]


def _info(export: ExportConfig, page_bytes: int) -> ExportInfo:
    return ExportInfo(
        name=export.name,
        size_bytes=export.size_bytes,
        description=export.description,
        flags=READ_ONLY_FLAGS if export.read_only else READ_WRITE_FLAGS,
        block_preferred_bytes=page_bytes,
    )
