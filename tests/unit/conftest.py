"""What many of these tests start from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbdswap.config import Config
from nbdswap.config_file import Override, load
from nbdswap.machine import Machine
from tests.unit.process import make_memory, remove_memory

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def memory_removed() -> Iterator[None]:
    """What a test has of the machine's shared memory is gone after it."""
    yield
    remove_memory()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose directories are the test's own."""
    return Machine(
        memory_bytes=8 << 30,
        cpus=2,
        state_dir=tmp_path / "state",
        runtime_dir=tmp_path / "run",
    )


@pytest.fixture
def make_config(machine: Machine, tmp_path: Path) -> MakeConfig:
    """Configurations by key: `make_config({"pool.codec": "zstd"})`."""
    memory_dir = make_memory(tmp_path)

    def make(keys: dict[str, Any] | None = None) -> Config:
        settings = {
            "memory_dir": str(memory_dir),
            "pool.bytes_max": "1M",
            "exports": [{"name": "swap", "size_bytes": "1M"}],
            "listen.unix": [str(tmp_path / "run" / "nbd.sock")],
            "listen.tcp": [],
            "admin": "none",
        }
        overrides = [Override(key, "", value) for key, value in (settings | (keys or {})).items()]
        return load(None, overrides, machine)

    return make
