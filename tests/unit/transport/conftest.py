"""Loops for the transport's tests: what a failed test left open is closed, so that its failure is what one sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.unit.transport.peers import sweep


@pytest.fixture
def arun(loop_runner: asyncio.Runner) -> Callable[[Coroutine[Any, Any, None]], None]:
    """As everywhere, within the time of a test, and with the test's own sockets swept up afterwards."""

    async def whole(main: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(50):
                await main
        finally:
            await sweep()

    return lambda main: loop_runner.run(whole(main))
