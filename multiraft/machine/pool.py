"""A few workers shared by all machines of users: a job goes to one that is free, so a slow machine takes one of them only.

Who submits keeps its own jobs in order by having one on its way at a time. Everything here runs on the loop and holds no
lock; the workers belong to whoever made them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from multiraft.errors import Closed
from multiraft.interfaces import Jobs

Job = Callable[[], Any]
Done = Callable[[Any, BaseException | None], None]


class Pool:
    """``Jobs`` over several workers, made by ``make(number)`` when they are needed first."""

    def __init__(self, make: Callable[[int], Jobs], workers_max: int) -> None:
        self._make = make
        self._workers_max = workers_max
        self._made = 0
        self._idle: list[Jobs] = []
        self._waiting: deque[tuple[Job, Done]] = deque()
        self._stopped = False

    def submit(self, job: Job, done: Done) -> None:
        """Run ``job`` on a worker as soon as one is free, then ``done(result, error)`` on the loop."""
        if self._stopped:
            done(None, Closed("the workers of machines are closed"))
        elif self._idle:
            self._start(self._idle.pop(), job, done)
        elif self._made < self._workers_max:
            self._made += 1
            self._start(self._make(self._made), job, done)
        else:
            self._waiting.append((job, done))

    def stop(self) -> None:
        """Start nothing more, since the workers are about to be closed; who waits for one hears so."""
        self._stopped = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for _, done in waiting:
            done(None, Closed("the workers of machines are closed"))

    def close(self) -> None:
        """The workers are their owner's."""
        self.stop()

    def _start(self, worker: Jobs, job: Job, done: Done) -> None:
        def ended(result: Any, error: BaseException | None) -> None:
            if self._waiting:
                self._start(worker, *self._waiting.popleft())
            else:
                self._idle.append(worker)
            done(result, error)

        worker.submit(job, ended)


class LoopJobs:
    """``Jobs`` for machines so tiny that a thread costs more than they do: each job is one callback of the loop."""

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        self._schedule = schedule
        self._stopped = False

    def submit(self, job: Job, done: Done) -> None:
        def run() -> None:
            if self._stopped:
                return
            try:
                result = job()
            except BaseException as error:
                done(None, error)  # handed on, as a worker does it: nothing is swallowed here
            else:
                done(result, None)

        self._schedule(run)

    def stop(self) -> None:
        """Run nothing more."""
        self._stopped = True

    def close(self) -> None:
        self.stop()
