"""The longest time for which something held the loop: a timer that asks to come every millisecond, and how late it came.

Three figures, each the longest. ``gap_ms``, on the clock, is what a user's own timers see; on a shared machine it also holds what
other processes took. ``own_ms`` counts of each gap no more than the CPU time that all threads of this process used in it: what
we may have done ourselves, a worker that held the interpreter included. ``loop_ms`` is the CPU time of the loop's thread alone.
A disk that blocks the loop's thread would show in the first only.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

EVERY_S = 0.001


class Probe:
    """``async with Probe() as probe:`` watches the running loop; afterwards its figures are those of the whole time."""

    def __init__(self) -> None:
        self.gap_ms = 0.0
        self.own_ms = 0.0
        self.loop_ms = 0.0
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
        self._clock_s = time.perf_counter()
        self._process_s = time.process_time()
        self._thread_s = time.thread_time()
        self._timer = self._loop.call_later(EVERY_S, self._wake)

    def _wake(self) -> None:
        gap_ms = max(0.0, time.perf_counter() - self._clock_s - EVERY_S) * 1000
        self.gap_ms = max(self.gap_ms, gap_ms)
        used_ms = (time.process_time() - self._process_s) * 1000
        self.own_ms = max(self.own_ms, min(gap_ms, used_ms))
        self.loop_ms = max(self.loop_ms, (time.thread_time() - self._thread_s) * 1000)
        self._start()

    def note(self, info: dict[str, Any], name: str = "") -> None:
        """Put the figures into what a benchmark says besides its time."""
        info[f"{name}gap_ms"] = round(self.gap_ms, 1)
        info[f"{name}own_ms"] = round(self.own_ms, 1)
        info[f"{name}loop_ms"] = round(self.loop_ms, 1)
