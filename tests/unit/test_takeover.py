"""What a server takes over: never zeros for what may have been written and is gone."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nbdswap.config import Config
from nbdswap.errors import ConfigError, FailingFileError, RefusedError
from nbdswap.snapshots import CoreSnapshot
from nbdswap.state import State, StateDir
from nbdswap.succession import after_stop, memory_files
from nbdswap.takeover import TakenOver, Takeover
from tests.unit.conftest import MakeConfig
from tests.unit.fake_core import FakeCore

SWAP = {"name": "swap", "size_bytes": "1M"}
OTHER = {"name": "other", "size_bytes": "1M"}


class Life:
    """Servers that follow one another in one state directory."""

    def __init__(self, make_config: MakeConfig, tmp_path: Path) -> None:
        self.make_config = make_config
        self.state_dir = StateDir.lock(tmp_path / "state")
        self.memory_dir = tmp_path / "memory"
        self.config: Config = make_config()

    def start(self, keys: dict[str, Any] | None = None, *, fresh: bool = False) -> TakenOver:
        self.config = self.make_config(keys)
        takeover = Takeover(
            open_core=FakeCore.open,
            config=self.config,
            state_dir=self.state_dir,
            previous=self.state_dir.read(),
            populate=False,
        )
        return takeover.run(fresh=fresh)

    def attach(self, taken: TakenOver, export: str = "swap") -> None:
        """A client that may write came."""
        state = self.state_dir.read()
        assert state is not None
        self.state_dir.write(state.with_data_in(export))

    def stop(self, taken: TakenOver, **pages: dict[str, int]) -> bool:
        """A clean stop with these pages; tells whether the memory was forgotten."""
        core = fake(taken)
        core.pages = pages
        state = self.state_dir.read()
        assert state is not None
        state, forget = after_stop(state, self.config, core.snapshot())
        core.close(forget=forget)
        self.state_dir.write(state)
        return forget

    def state(self) -> State:
        state = self.state_dir.read()
        assert state is not None
        return state


def fake(taken: TakenOver) -> FakeCore:
    assert isinstance(taken.engine, FakeCore)
    return taken.engine


def lost_in(taken: TakenOver) -> list[str]:
    """Exports that the engine opened as lost."""
    return [spec["name"] for spec in fake(taken).opened_with["exports"] if spec["lost"]]


@pytest.fixture
def life(make_config: MakeConfig, tmp_path: Path) -> Life:
    """See Life."""
    return Life(make_config, tmp_path)


def test_the_first_server_starts_empty(life: Life) -> None:
    taken = life.start()
    assert not taken.adopted
    assert lost_in(taken) == []
    assert not fake(taken).opened_with["adopt"]
    assert fake(taken).opened_with["generation"] == life.state().generation
    assert not life.state().clean


def test_memory_of_a_killed_server_is_adopted(life: Life) -> None:
    first = life.start()
    life.attach(first)
    second = life.start()
    assert second.adopted
    assert second.lost == frozenset()
    assert second.state.instance == first.state.instance
    assert second.state.generation == first.state.generation


def test_memory_of_a_stopped_server_is_adopted(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    first = life.start()
    life.attach(first)
    assert not life.stop(first, swap={"pool": 1})
    assert life.state().clean
    assert life.start().adopted
    assert not caplog.records, "nothing went wrong, so nothing is said aloud"


def test_lost_memory_opens_as_lost_and_is_said_aloud(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    first = life.start()
    life.attach(first)
    for path in life.memory_dir.iterdir():
        path.unlink()
    second = life.start()
    assert lost_in(second) == ["swap"]
    assert second.lost == {"swap"}
    assert second.state.generation > first.state.generation
    # The backing file belongs to the instance: with another one it would be refused.
    assert second.state.instance == first.state.instance
    [loud] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "DATA LOST" in loud.getMessage()
    assert "reboot" in loud.fields["reason"]  # type: ignore[attr-defined]
    assert "--fresh" in loud.fields["cure"]  # type: ignore[attr-defined]


def test_a_loss_is_not_forgotten_by_the_next_start(life: Life) -> None:
    life.attach(life.start())
    for _ in range(3):
        for path in life.memory_dir.iterdir():
            path.unlink()
        assert lost_in(life.start()) == ["swap"]


def test_a_loss_is_not_forgotten_by_a_clean_stop(life: Life) -> None:
    life.attach(life.start())
    for path in life.memory_dir.iterdir():
        path.unlink()
    second = life.start()
    # The engine counts pages of a lost export that nobody touched as unwritten.
    assert not life.stop(second, swap={"unwritten": 256})
    assert life.state().exports[0].lost
    third = life.start()
    assert third.adopted
    assert third.lost == {"swap"}


def test_a_loss_that_was_discarded_is_over(life: Life) -> None:
    life.attach(life.start())
    for path in life.memory_dir.iterdir():
        path.unlink()
    second = life.start()
    assert life.stop(second, swap={"unwritten": 0, "zero": 256})
    assert lost_in(life.start()) == []


def test_memory_that_is_there_but_foreign_is_refused_and_left_as_it_is(life: Life) -> None:
    first = life.start()
    life.attach(first)
    for path in life.memory_dir.iterdir():
        path.write_text("foreign")
    with pytest.raises(RefusedError, match="found 7 bytes, wanted 4; it is left as it is"):
        life.start()
    assert {path.read_text() for path in life.memory_dir.iterdir()} == {"foreign"}
    for path in life.memory_dir.iterdir():
        path.write_text("fake")
    assert life.start().adopted
    for path in life.memory_dir.iterdir():
        path.write_text("foreign")
    assert lost_in(life.start(fresh=True)) == []


def test_memory_that_was_never_finished_opens_as_lost(life: Life) -> None:
    first = life.start()
    life.attach(first)
    for path in life.memory_dir.iterdir():
        path.write_text("unfinished")
    second = life.start()
    assert not second.adopted
    assert lost_in(second) == ["swap"]
    assert second.state.generation > first.state.generation
    assert life.state() == second.state


MISFITS: list[tuple[dict[str, Any], list[str]]] = [
    ({"page_bytes": "16K"}, ["swap"]),
    ({"exports": [{"name": "swap", "size_bytes": "2M"}]}, ["swap"]),
    ({"exports": [SWAP, OTHER]}, ["swap"]),
    ({"exports": [OTHER]}, []),
]


@pytest.mark.parametrize("keys", [keys for keys, _ in MISFITS])
def test_a_configuration_that_does_not_fit_the_memory_is_refused(
    life: Life, keys: dict[str, Any]
) -> None:
    first = life.start()
    life.attach(first)
    before = life.state()
    with pytest.raises(RefusedError, match=r"set it back, or start once with --fresh"):
        life.start(keys)
    assert life.state() == before
    assert life.start().adopted
    second = life.start(keys, fresh=True)
    assert lost_in(second) == []
    assert second.state.generation > first.state.generation


@pytest.mark.parametrize(("keys", "lost"), MISFITS)
def test_a_configuration_that_would_not_fit_is_taken_when_the_memory_is_gone(
    life: Life, keys: dict[str, Any], lost: list[str]
) -> None:
    first = life.start()
    life.attach(first)
    for path in life.memory_dir.iterdir():
        path.unlink()
    second = life.start(keys)
    assert lost_in(second) == lost
    assert second.state.generation > first.state.generation


@pytest.mark.parametrize(
    "keys",
    [
        {"pool.codec": "zstd"},
        # The engine adopts the page table and what is in the store, and makes a new pool.
        {"pool.bytes_max": "2M"},
        {"pool.zpool": "zsmalloc"},
        {"pool.frame_bytes": "16K"},
        {"pool.high_mark_percent": 80, "pool.low_mark_percent": 70},
        {"polling": "off"},
        {"exports": [SWAP | {"durability": "volatile", "description": "new"}]},
    ],
)
def test_other_changes_of_the_configuration_keep_the_memory(
    life: Life, keys: dict[str, Any]
) -> None:
    life.attach(life.start())
    assert life.start(keys).adopted


def test_only_exports_that_were_written_to_are_lost(life: Life) -> None:
    keys = {"exports": [SWAP, OTHER]}
    life.attach(life.start(keys), "other")
    for path in life.memory_dir.iterdir():
        path.unlink()
    assert lost_in(life.start(keys)) == ["other"]


def test_a_server_that_nobody_wrote_to_leaves_nothing_to_lose(life: Life) -> None:
    first = life.start()
    second = life.start()
    assert not fake(second).opened_with["adopt"]
    assert lost_in(second) == []
    assert second.state.generation > first.state.generation


def test_a_clean_stop_with_only_zeros_forgets(life: Life) -> None:
    first = life.start()
    life.attach(first)
    assert life.stop(first, swap={"unwritten": 200, "zero": 56})
    assert list(life.memory_dir.iterdir()) == []
    assert lost_in(life.start()) == []


def test_a_clean_stop_of_volatile_exports_forgets(life: Life) -> None:
    keys = {"exports": [SWAP | {"durability": "volatile"}]}
    first = life.start(keys)
    life.attach(first)
    assert life.stop(first, swap={"pool": 9})
    assert lost_in(life.start(keys)) == []


def test_a_crash_of_volatile_exports_does_not(life: Life) -> None:
    keys = {"exports": [SWAP | {"durability": "volatile"}], "memory_dir": "none"}
    life.attach(life.start(keys))
    assert lost_in(life.start(keys)) == ["swap"]


def test_fresh_forgets_everything_and_removes_the_memory(life: Life) -> None:
    first = life.start()
    life.attach(first)
    old = memory_files(life.memory_dir, first.state.instance)
    old[0].write_text("pages of the predecessor")
    second = life.start(fresh=True)
    assert lost_in(second) == []
    assert not second.adopted
    assert second.state.generation > first.state.generation
    assert old[0].read_text() == "fake"


def test_the_generation_never_falls(life: Life) -> None:
    first = life.start()
    ahead = replace(first.state, generation=1 << 40)
    life.state_dir.write(ahead)
    assert life.start().state.generation == (1 << 40) + 1


@pytest.mark.parametrize(
    ("raised", "refusal"),
    [
        (ValueError("codec level is 23, wanted -7 to 19"), ConfigError),
        (OSError(5, "Input/output error", "/store"), FailingFileError),
        (OSError(2, "No such file or directory", "/store"), RefusedError),
        (OSError("/store: is not a store of nbdswap"), RefusedError),
    ],
)
def test_what_the_engine_refuses_is_one_line(
    life: Life, raised: Exception, refusal: type[Exception]
) -> None:
    def refuse(**_: Any) -> Any:
        raise raised

    takeover = Takeover(
        open_core=refuse,
        config=life.config,
        state_dir=life.state_dir,
        previous=None,
        populate=False,
    )
    with pytest.raises(refusal) as caught:
        takeover.run(fresh=False)
    assert "\n" not in str(caught.value)


def test_a_failed_first_start_leaves_no_state_and_no_memory(life: Life) -> None:
    def refuse(**arguments: Any) -> Any:
        FakeCore.open(**arguments)
        raise OSError("/store: belongs to instance 0x1, wanted 0x2")

    takeover = Takeover(
        open_core=refuse,
        config=life.config,
        state_dir=life.state_dir,
        previous=None,
        populate=False,
    )
    with pytest.raises(RefusedError, match=r"remove it, or name another store\.path"):
        takeover.run(fresh=False)
    assert life.state_dir.read() is None
    assert list(life.memory_dir.iterdir()) == []


def test_a_failed_start_leaves_memory_that_can_be_adopted(life: Life) -> None:
    def refuse(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    first = life.start()
    life.attach(first)
    takeover = Takeover(
        open_core=refuse,
        config=life.config,
        state_dir=life.state_dir,
        previous=life.state(),
        populate=False,
    )
    with pytest.raises(FailingFileError):
        takeover.run(fresh=False)
    assert life.start().adopted


def test_a_stop_keeps_what_one_of_several_exports_holds(life: Life) -> None:
    keys = {"exports": [SWAP, OTHER]}
    taken = life.start(keys)
    life.attach(taken, "swap")
    life.attach(taken, "other")
    assert not life.stop(taken, swap={"same_filled": 1})
    assert [export.may_hold_data for export in life.state().exports] == [True, False]


def test_snapshot_of_the_fake_is_whole() -> None:
    """The fake would otherwise hide a key that the contract has."""
    core = FakeCore(
        {
            "exports": [],
            "store": None,
            "zpool": "zblock",
            "codec": "lz4",
            "codec_level": 1,
            "frame_bytes": 4096,
            "pool_bytes_max": 1,
        },
        adopted=False,
    )
    assert set(core.snapshot()) == set(CoreSnapshot.__annotations__)
