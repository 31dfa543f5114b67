"""A server at rest and on its way there."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from nbdswap.addresses import UnixAddress
from nbdswap.config import Config
from nbdswap.listeners import bind_all, close_all
from nbdswap.nbd import Client, Negotiator
from nbdswap.service import Process, Service
from nbdswap.state import StateDir
from nbdswap.takeover import Takeover
from tests.unit.conftest import MakeConfig
from tests.unit.fake_core import FakeCore
from tests.unit.loop import run, until


class Serving:
    """A service on a fake engine, in this process."""

    def __init__(self, config: Config, tmp_path: Path) -> None:
        self.state_dir = StateDir.lock(config.state_dir)
        takeover = Takeover(
            open_core=FakeCore.open,
            config=config,
            state_dir=self.state_dir,
            previous=None,
            populate=False,
        )
        taken = takeover.run(fresh=False)
        assert isinstance(taken.engine, FakeCore)
        self.core = taken.engine
        self.service = Service(
            config, self.state_dir, taken, Process(protections=[], swappable_pool_bytes=0)
        )
        self.path = tmp_path / "run" / "nbd.sock"
        self.listeners = bind_all([UnixAddress(self.path)])
        self.clients: list[Client] = []

    async def attach(self, export: str) -> None:
        """A client that stays."""
        before = len(self.core.connections)
        negotiator = await Negotiator.open_unix(str(self.path))
        self.clients.append(await negotiator.go(export))
        await until(lambda: len(self.core.connections) == before + 1)

    async def leave(self) -> None:
        """All clients close."""
        for client in self.clients:
            await client.close()

    def may_hold_data(self) -> list[bool]:
        """What the next server would know."""
        state = self.state_dir.read()
        assert state is not None
        return [export.may_hold_data for export in state.exports]

    def close(self) -> None:
        """What `lifecycle` undoes."""
        self.service.close()
        close_all(self.listeners)
        self.state_dir.close()


@pytest.fixture
def serving(make_config: MakeConfig, tmp_path: Path) -> Serving:
    """Three exports, the last one for reading only."""
    exports = [
        {"name": "swap", "size_bytes": "1M"},
        {"name": "other", "size_bytes": "1M"},
        {"name": "image", "size_bytes": "1M", "read_only": True},
    ]
    return Serving(make_config({"exports": exports}), tmp_path)


def terminate() -> None:
    """A signal, as from outside."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_export_may_hold_data_as_soon_as_a_client_can_write_to_it(serving: Serving) -> None:
    async def scenario() -> None:
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        assert serving.may_hold_data() == [False, False, False]
        await serving.attach("other")
        await serving.attach("image")
        assert serving.may_hold_data() == [False, True, False]
        terminate()
        await service
        await serving.leave()

    run(scenario())
    serving.core.pages = {"other": {"pool": 3}}
    serving.close()
    assert serving.core.closed_forgetting is False
    assert serving.core.detach_deadlines_s == [20.0]


def test_a_record_that_was_found_damaged_is_named_even_by_a_server_that_leaves(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        terminate()
        await service

    run(scenario())
    serving.core.incidents.append(
        {
            "export": "other",
            "page": 5,
            "byte": 5 * 4096,
            "store_byte": 1 << 20,
            "fault": "damaged",
            "finder": "read",
            "times": 1,
        }
    )
    serving.close()
    (fields,) = [
        record.__dict__["fields"] for record in caplog.records if "damaged" in record.getMessage()
    ]
    assert (fields["export"], fields["page"]) == ("other", 5)


def test_a_second_signal_cuts_requests_in_flight_short(serving: Serving) -> None:
    serving.core.detach_may_end.clear()

    async def scenario() -> None:
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        await serving.attach("swap")
        terminate()
        await until(lambda: serving.core.detach_deadlines_s == [20.0])
        assert serving.service.snapshot().server.stopping
        assert not serving.path.exists(), "nobody can connect any more"
        terminate()
        await service
        await serving.leave()

    run(scenario())
    assert serving.core.detach_deadlines_s == [20.0, 0.0]
    serving.close()


def test_a_service_that_breaks_keeps_what_could_be_written(serving: Serving) -> None:
    def broken() -> None:
        raise RuntimeError("ours")

    async def scenario() -> None:
        serving.core.take_ended = broken  # type: ignore[method-assign, assignment]
        service = asyncio.create_task(serving.service.run(serving.listeners, [], None))
        await until(lambda: serving.service.snapshot().server.ready)
        await serving.attach("swap")
        terminate()
        with pytest.raises(BaseExceptionGroup, match="unhandled errors"):
            await service
        await serving.leave()

    run(scenario())
    serving.close()
    assert serving.core.closed_forgetting is False
    state_dir = StateDir.lock(serving.state_dir.path)
    state = state_dir.read()
    state_dir.close()
    assert state is not None
    assert not state.clean
    assert state.may_hold_data


def test_a_service_that_never_got_ready_leaves_no_memory(serving: Serving) -> None:
    serving.close()
    assert serving.core.closed_forgetting is True
