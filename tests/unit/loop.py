"""Coroutines under test run on the loop that the server uses, within a time that is plenty."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

TIMEOUT_S = 30.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(coroutine, TIMEOUT_S))


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until something is so."""
    while not condition():  # noqa: ASYNC110 -- what is waited for are others' values, not events
        await asyncio.sleep(0)
