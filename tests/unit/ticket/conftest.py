"""The desk that each test of tickets works at: on asyncio and on uvloop, with the loop's debug mode off and on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.ticket.harness import LOOPS, Desk


def called(param: tuple[str, bool]) -> str:
    name, debug = param
    return f"{name}-debug" if debug else name


@pytest.fixture(params=[(name, debug) for debug in (False, True) for name in LOOPS], ids=called)
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    name, debug = request.param
    desk = Desk(name, debug=debug)
    yield desk
    desk.close()
