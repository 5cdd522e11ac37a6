"""The longest time for which something held the loop: a timer that asks to come every millisecond, and how late it came.

Two figures. The gap on the clock is what a user's own timers see; on a shared machine it also holds what other processes
took. The CPU time that the loop's thread used up between two wakes is what we did ourselves: a gap of ours cannot be longer.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

EVERY_S = 0.001


class Probe:
    """``async with Probe() as probe:`` watches the running loop; afterwards ``gap_ms`` and ``cpu_ms`` are the longest."""

    def __init__(self) -> None:
        self.gap_ms = 0.0
        self.cpu_ms = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.sleep(2 * EVERY_S)  # what held the loop last is seen, too
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        self._clock_s, self._cpu_s = time.perf_counter(), time.thread_time()
        self._timer = self._loop.call_later(EVERY_S, self._wake)

    def _wake(self) -> None:
        gap_ms = (time.perf_counter() - self._clock_s - EVERY_S) * 1000
        self.gap_ms = max(self.gap_ms, gap_ms)
        self.cpu_ms = max(self.cpu_ms, (time.thread_time() - self._cpu_s) * 1000)
        self._start()

    def note(self, info: dict[str, Any], name: str = "") -> None:
        """Put the figures into what a benchmark says besides its time."""
        info[f"{name}loop_gap_ms"] = round(self.gap_ms, 1)
        info[f"{name}loop_cpu_ms"] = round(self.cpu_ms, 1)
