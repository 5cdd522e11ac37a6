"""What every benchmark shares: a loop, the facts about machine and build, and the refusal to time a debug build.

A benchmark is driven in batches: one `runner.run` costs some tens of microseconds, so a round holds many operations and says
so in `extra_info` as `operations`; divide by it. It checks its answer, once, so that it cannot measure the wrong thing.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("Cython", "lmdb", "msgpack", "uvloop")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def is_debug_build() -> bool:
    """The debug build is never in place, so whoever imports from elsewhere than the sources may be timing it."""
    return any("build/debug" in Path(entry).as_posix() for entry in sys.path)


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("benchmark_enable", False) and is_debug_build():
        raise pytest.UsageError("a debug build is not timed: run `make bench`")


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["cpus"] = os.cpu_count()
    machine_info["kernel"] = platform.release()
    machine_info["libraries"] = {name: importlib.metadata.version(name) for name in LIBRARIES}


@pytest.fixture(scope="module", params=LOOPS)
def bench_runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """One loop for all rounds of a module, not in debug mode: that of a user."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner
