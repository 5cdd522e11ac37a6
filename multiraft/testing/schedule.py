"""Simulated time: what happens next, in all processes of a simulation, in one thread.

One ``Schedule`` holds the true time and everything that is due; each simulated process has a ``ProcessLoop`` of its own, an
asyncio loop that puts its callbacks into the schedule. So a process can be stopped, killed, or live by a clock that runs wrong,
and no callback of another notices.

Order is by time, and within one instant by the order of asking: nothing here draws at random or reads a real clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

Action = Callable[[], object]

NS = 1_000_000_000


class Due:
    """Something that will happen; ``cancel`` takes it back."""

    __slots__ = ("action", "at_ns")

    def __init__(self, at_ns: int, action: Action | None):
        self.at_ns = at_ns
        self.action = action

    def run(self) -> None:
        """It happens."""
        if self.action is not None:
            self.action()

    def cancel(self) -> None:
        self.action = None


class Schedule:
    """The true time in nanoseconds, and what is due."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        """How many things have happened."""
        self.halted = False
        """Nothing happens any more."""
        self._heap: list[tuple[int, int, Due]] = []
        self._ready: deque[Due] = deque()
        self._asked = 0

    def at(self, at_ns: int, action: Action) -> Due:
        """Have ``action`` happen then, or at once where that is past."""
        due = Due(at_ns, action)
        self.add(due)
        return due

    def add(self, due: Due) -> None:
        """Let it happen at its time, or at once where that is past."""
        if due.at_ns <= self.now_ns:
            self._ready.append(due)
        else:
            self._asked += 1
            heapq.heappush(self._heap, (due.at_ns, self._asked, due))

    def after(self, delay_ns: int, action: Action) -> Due:
        return self.at(self.now_ns + delay_ns, action)

    def run(self, until_ns: int, stop: Callable[[], Any] | None = None) -> bool:
        """Let things happen up to and at ``until_ns``; true when ``stop``, asked after each, or ``halted`` said so."""
        ready, heap = self._ready, self._heap
        while True:
            while ready:
                self.events += 1
                ready.popleft().run()
                if self.halted or (stop is not None and stop()):
                    return True
            if not heap or heap[0][0] > until_ns:
                self.now_ns = max(self.now_ns, until_ns)
                return False
            at_ns, _, due = heapq.heappop(heap)
            self.now_ns = at_ns
            ready.append(due)
