"""The configuration speaks the operator's words, and its file says what the code does."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from nbdswap._core import zpools
from nbdswap.addresses import TCP_WANTED
from nbdswap.config import CODEC_LEVELS, ZPOOLS, Config, ExportConfig
from nbdswap.config_file import Override, dump, load
from nbdswap.errors import ConfigError
from nbdswap.machine import Machine

SHIPPED = Path(__file__).parents[2] / "config" / "nbdswap.yaml"


def refusal(text: str, path: Path, machine: Machine) -> str:
    """What is said of a file, without its name."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, [], machine)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def keys_of(section: type[BaseModel]) -> dict[str, Any]:
    """Every key of a section, nested as in a file."""
    nested = {}
    for name, field in section.model_fields.items():
        annotation: Any = field.annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        nested[name] = keys_of(inner) if is_section else None
    return nested


def test_the_shipped_file_shows_every_key() -> None:
    shown = yaml.safe_load(SHIPPED.read_text())
    shown["exports"] = shown["exports"][0]

    def names(value: Any) -> Any:
        return {k: names(v) for k, v in value.items()} if isinstance(value, dict) else None

    assert names(shown) == keys_of(Config)


def test_the_shipped_file_means_the_defaults(machine: Machine) -> None:
    assert load(SHIPPED, [], machine) == load(None, [], machine)


def test_the_printed_configuration_reads_back_to_the_same(machine: Machine, tmp_path: Path) -> None:
    config = load(None, [Override("store.path", "--store", "none")], machine)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump(config))
    assert load(printed, [], machine) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool: {high_mark_percent: 120}", "pool.high_mark_percent is 120, wanted 1 to 100"),
        ("pool: {high_mark_percent: true}", "pool.high_mark_percent is true, wanted 1 to 100"),
        ("pol: {}", "pol is not a known key, did you mean pool?"),
        ("pool: {zpol: zblock}", "pool.zpol is not a known key, did you mean zpool?"),
        ("pool: 3", "pool is 3, wanted a mapping of keys"),
        (
            "pool: {codec: lzma}",
            "pool.codec is lzma, wanted lz4, lz4hc, zstd, lzo, deflate or none",
        ),
        ("pool: {codec: lzo, codec_level: 2}", "pool.codec_level is 2, wanted 1 for lzo"),
        (
            "pool: {codec: zstd, codec_level: 20}",
            "pool.codec_level is 20, wanted -7 to 19 for zstd",
        ),
        (
            "pool: {low_mark_percent: 95}",
            "pool.low_mark_percent is 95, wanted less than pool.high_mark_percent (95)",
        ),
        (
            "{page_bytes: 16K, pool: {frame_bytes: 4K}}",
            "pool.frame_bytes is 4K, wanted at least page_bytes (16K)",
        ),
        ("pool: {bytes_max: 1K}", "pool.bytes_max is 1K, wanted 1M to 16T"),
        (
            "pool: {bytes_max: 1M, frame_bytes: 64K}",
            "pool.bytes_max is 1M, wanted at least 64 frames (4M)",
        ),
        ("page_bytes: 8K", "page_bytes is 8K, wanted 4K, 16K or 64K"),
        ("exports: []", "exports is a list of 0, wanted 1 to 1024 exports"),
        ("exports: {}", "exports is a mapping, wanted a list"),
        ("exports: [{name: a}]", "exports[0].size_bytes is missing"),
        (
            "exports: [{name: a, size_bytes: 5X}]",
            "exports[0].size_bytes is 5X, wanted a size such as 4096, 512M or 4G",
        ),
        (
            "exports: [{name: a, size_bytes: 5000}]",
            "exports[0].size_bytes is 5000, wanted a multiple of page_bytes (4K)",
        ),
        (
            "exports: [{name: a, size_bytes: 4K}, {name: a, size_bytes: 4K}]",
            "exports[1].name is a, wanted a name that no other export has",
        ),
        (
            "exports: [{name: '', size_bytes: 4K}]",
            "exports[0].name is '', wanted 1 to 255 bytes of printable text",
        ),
        (
            "exports: [{name: a, size_bytes: 16T}]",
            "exports is 16T in sum, wanted less than 16T over all exports",
        ),
        (
            "memory_dir: none",
            "exports[0].durability is process, wanted volatile, because memory_dir is none",
        ),
        (
            "exports: [{name: a, size_bytes: 4K, durability: disk}]\nstore: {path: none}",
            "exports[0].durability is disk, wanted process or volatile, because store.path is none",
        ),
        (
            "exports: [{name: a, size_bytes: 4K, durability: disk}]\nstore: {encryption: on}",
            "store.key (with exports[0].durability: disk) is memory, wanted file:PATH, "
            "credential:NAME or keyring:NAME, because a key in memory is gone with the host",
        ),
        (
            "store: {capacity_bytes: 3M}",
            "store.capacity_bytes is 3M, wanted at least 4 segments (4M)",
        ),
        (
            "store: {write_bytes_per_day_max: 5K}",
            "store.write_bytes_per_day_max is 5K, wanted none or 1M to 1024T",
        ),
        (
            "store: {write_burst_bytes: 3M}",
            "store.write_burst_bytes is 3M, wanted at least 4 segments (4M)",
        ),
        ("store: {direct: 1}", "store.direct is 1, wanted true or false"),
        ("store: {io: aio}", "store.io is aio, wanted auto, io_uring or threads"),
        (
            "store: {segment_bytes: 17000}",
            "store.segment_bytes is 17000, wanted a multiple of 4K and at least 16K",
        ),
        ("listen: {tcp: [10809]}", f"listen.tcp[0] is 10809, wanted {TCP_WANTED}"),
        ("listen: {tcp: ['a:65536']}", f"listen.tcp[0] is a:65536, wanted {TCP_WANTED}"),
        ("admin: 5", f"admin is 5, wanted {TCP_WANTED}, or unix:PATH, or none"),
        (
            "store: {preallocate: true, punch: true}",
            "store.punch is true, wanted false, because store.preallocate is true",
        ),
        ("polling: 1001", "polling is 1001, wanted auto, off or 1 to 1000 microseconds"),
        ("handshake_timeout_s: soon", "handshake_timeout_s is soon, wanted 0.1 to 3600 seconds"),
        (
            "hardening: {lock_memory: maybe}",
            "hardening.lock_memory is maybe, wanted auto, on or off",
        ),
        ("pool:", "pool is empty, wanted a mapping of keys"),
        ("[1]", "holds a list, wanted a mapping of keys"),
        ("pool: {zpool: zblock, zpool: zblock}", "line 1: key zpool stands twice"),
        ("1: 2", "line 1: key 1 is no text"),
    ],
)
def test_a_refusal_names_key_found_and_wanted(
    text: str, said: str, machine: Machine, tmp_path: Path
) -> None:
    assert refusal(text, tmp_path / "nbdswap.yaml", machine) == said


def test_text_that_is_no_yaml_is_refused_with_its_line(machine: Machine, tmp_path: Path) -> None:
    said = refusal("admin: none\npool: [\n", tmp_path / "nbdswap.yaml", machine)
    assert said.startswith("line 3: ")


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_refused(
    content: bytes | None, machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "nbdswap.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read|is not UTF-8"):
        load(path, [], machine)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            Override("pool.bytes_max", "--pool-size", "5X"),
            "command line: --pool-size is 5X, wanted a size such as 4096, 512M or 4G",
        ),
        (
            Override("exports", "--export", [{"name": "a", "size_bytes": "5000"}]),
            "command line: --export ([0].size_bytes) is 5000, wanted a multiple of page_bytes (4K)",
        ),
        (
            Override("listen.tcp", "--listen", ["x"]),
            f"command line: --listen is x, wanted {TCP_WANTED}",
        ),
    ],
)
def test_a_bad_flag_is_named_and_not_the_file(
    override: Override, said: str, machine: Machine
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [override], machine)
    assert str(caught.value) == said


def test_a_flag_mends_a_file(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "nbdswap.yaml"
    path.write_text("pool: {zpool: zbud}")
    config = load(path, [Override("pool.zpool", "--zpool", "zsmalloc")], machine)
    assert config.pool.zpool == "zsmalloc"


def test_yaml_bools_are_the_words_on_and_off(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "nbdswap.yaml"
    path.write_text("{polling: off, hardening: {lock_memory: on}, memory_dir: /dev/shm}")
    config = load(path, [], machine)
    assert (config.polling_us, config.hardening.lock_memory) == (0, "on")


def test_the_pool_is_a_quarter_of_a_small_machine(machine: Machine) -> None:
    small = Machine(
        memory_bytes=1 << 30, cpus=64, state_dir=machine.state_dir, runtime_dir=machine.runtime_dir
    )
    config = load(None, [], small)
    assert config.pool.bytes_max == 256 << 20
    assert config.workers == 4


@pytest.mark.parametrize("codec", CODEC_LEVELS)
def test_every_codec_has_a_default_level_within_its_bounds(codec: str, machine: Machine) -> None:
    config = load(None, [Override("pool.codec", "--codec", codec)], machine)
    assert config.pool.codec_level == CODEC_LEVELS[codec][2]


def test_a_configuration_is_frozen(machine: Machine) -> None:
    export = load(None, [], machine).exports[0]
    assert isinstance(export, ExportConfig)
    with pytest.raises(ValueError, match="frozen"):
        export.name = "other"


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Config.model_fields, "name", "path", "x"]), inner)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(list(Config.model_fields)), JSON_LIKE))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True
)
def test_any_yaml_is_a_configuration_or_one_line(
    machine: Machine, tmp_path: Path, raw: dict[str, Any]
) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(raw))
    line = ""
    try:
        load(path, [], machine)
    except ConfigError as error:
        line = str(error)
    assert "\n" not in line


def test_the_zpools_are_those_of_the_core() -> None:
    assert list(ZPOOLS) == zpools()
