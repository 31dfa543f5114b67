"""What a server makes of a state with durable exports: recovered, lost, or written down first."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nbdswap.errors import RefusedError
from nbdswap.state import boot_id
from nbdswap.takeover import TakenOver
from tests.unit.conftest import MakeConfig
from tests.unit.fake_core import FakeCore
from tests.unit.test_takeover import Life, fake, lost_in

PLAIN = {"name": "swap", "size_bytes": "1M"}
DISK = {"name": "disk", "size_bytes": "1M", "durability": "disk"}
BOTH = {"exports": [PLAIN, DISK]}
NOT_DURABLE = {"exports": [PLAIN, DISK | {"durability": "process"}]}


@pytest.fixture
def life(make_config: MakeConfig, tmp_path: Path) -> Life:
    """See Life."""
    return Life(make_config, tmp_path)


def start_and_attach(life: Life, keys: dict[str, object]) -> TakenOver:
    """A server with data in both exports."""
    taken = life.start(keys)
    for name in ("swap", "disk"):
        life.attach(taken, name)
    return taken


def reboot(life: Life) -> None:
    """Memory is gone."""
    for path in life.memory_dir.iterdir():
        path.unlink()


def recovered_in(taken: TakenOver) -> list[str]:
    """Exports that the engine was told to make from the log."""
    return [spec["name"] for spec in fake(taken).opened_with["exports"] if spec["recovered"]]


def durability(life: Life) -> str:
    """Of the durable export, as the state has it."""
    return life.state().exports[1].durability


def test_after_a_reboot_durable_exports_are_recovered_and_others_lost(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_and_attach(life, BOTH)
    reboot(life)
    second = life.start(BOTH)
    assert (recovered_in(second), lost_in(second)) == (["disk"], ["swap"])
    assert second.state.generation == first.state.generation, "the log is of this generation"
    assert second.lost == {"swap"}
    assert "DATA LOST" in caplog.text
    reboot(life)
    third = life.start(BOTH)
    assert (recovered_in(third), lost_in(third)) == (["disk"], ["swap"])


def test_without_other_exports_nothing_is_said_to_be_lost(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    life.attach(life.start({"exports": [DISK]}), "disk")
    reboot(life)
    assert recovered_in(life.start({"exports": [DISK]})) == ["disk"]
    assert "DATA LOST" not in caplog.text


def test_memory_that_is_there_is_adopted(life: Life) -> None:
    start_and_attach(life, BOTH)
    second = life.start(BOTH)
    assert second.adopted
    assert second.lost == frozenset()
    assert fake(second).settled == 0


def test_memory_that_was_never_finished_is_as_good_as_gone(life: Life) -> None:
    start_and_attach(life, BOTH)
    next(life.memory_dir.iterdir()).write_text("unfinished")
    second = life.start(BOTH)
    assert (recovered_in(second), second.lost) == (["disk"], {"swap"})
    assert life.state().exports[0].lost


def test_another_configuration_is_refused_and_nothing_forgotten(life: Life) -> None:
    start_and_attach(life, BOTH)
    reboot(life)
    before = life.state()
    with pytest.raises(RefusedError, match="sizes or order of the exports were changed"):
        life.start({"exports": [PLAIN, DISK | {"size_bytes": "2M"}]})
    assert life.state() == before
    assert recovered_in(life.start(BOTH)) == ["disk"]


def test_an_export_is_called_durable_once_it_is_written_down(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_and_attach(life, NOT_DURABLE)
    monkeypatch.setattr(FakeCore, "settle_fails", True)
    with pytest.raises(RefusedError, match="durability of disk cannot be disk, since the backing"):
        life.start(BOTH)
    assert durability(life) == "process"
    monkeypatch.undo()
    taken = life.start(BOTH)
    assert fake(taken).settled == 1
    assert (durability(life), taken.state.exports[1].durability) == ("disk", "disk")


def test_what_was_not_durable_before_a_reboot_is_lost(life: Life) -> None:
    start_and_attach(life, NOT_DURABLE)
    reboot(life)
    second = life.start(BOTH)
    assert recovered_in(second) == []
    assert lost_in(second) == ["swap", "disk"]


def test_what_was_durable_is_recovered_even_if_it_is_not_to_be_any_more(life: Life) -> None:
    start_and_attach(life, BOTH)
    reboot(life)
    second = life.start(NOT_DURABLE)
    assert recovered_in(second) == ["disk"]
    assert [spec["durable"] for spec in fake(second).opened_with["exports"]] == [False, True]
    assert durability(life) == "process"


def test_memory_of_another_boot_is_not_believed(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """On a file system that outlives the host it is there, with bytes of any age."""
    first = start_and_attach(life, BOTH)
    life.state_dir.write(replace(life.state(), boot_id="another"))
    second = life.start(BOTH)
    assert (recovered_in(second), lost_in(second)) == (["disk"], ["swap"])
    assert not fake(second).opened_with["adopt"]
    assert second.state.instance == first.state.instance
    assert "of another boot of the host" in caplog.text
    assert life.state().boot_id == boot_id() != "another"
    third = life.start(BOTH)
    assert fake(third).opened_with["adopt"], "its memory is of this boot"


def test_memory_of_another_boot_is_lost_where_nothing_is_durable(life: Life) -> None:
    life.attach(life.start())
    life.state_dir.write(replace(life.state(), boot_id="another"))
    assert lost_in(life.start()) == ["swap"]
    assert life.state().boot_id == boot_id()


def test_memory_of_an_unknown_boot_is_adopted(life: Life) -> None:
    """States of older servers do not say."""
    life.attach(life.start())
    plain = json.loads(life.state_dir.state_path.read_text())
    del plain["boot_id"]
    life.state_dir.state_path.write_text(json.dumps(plain))
    assert life.start().adopted
    assert life.state().boot_id == boot_id()
