"""Workers for tests of crashes: each job runs at once, but has happened only when its news is told, or a part of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import Job, PowerCut

Done = Callable[[Any, BaseException | None], None]


class CrashingJobs:
    """See ``interfaces.Jobs``: a test steps it, and may let the power go between the work and its news."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self.news: deque[tuple[Done, Any, BaseException | None]] = deque()
        self.running: deque[Job] = deque()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        self.jobs.append((job, done))

    def work(self) -> bool:
        """Run the oldest job, without telling anybody."""
        if not self.jobs:
            return False
        job, done = self.jobs.popleft()
        with self.disk.job() as running:
            try:
                self.news.append((done, job(), None))
            except Exception as error:
                self.news.append((done, None, error))
        self.running.append(running)
        return True

    def tell(self) -> bool:
        """Report the oldest job that ran."""
        if not self.news:
            return False
        self.running.popleft().settle()
        done, result, error = self.news.popleft()
        done(result, error)
        return True

    def run(self) -> None:
        while self.work() or self.tell():
            pass

    def close(self) -> None:
        while self.jobs:
            self.work()


def at_every_cut(
    prepare: Callable[[SimulatedDisk], Any],
    act: Callable[[SimulatedDisk, Any], Any],
    check: Callable[[SimulatedDisk, Any, bool], None],
    seeds: int = 8,
    *,
    power: bool = True,
) -> int:
    """Let the power go at each operation of ``act`` in turn, or the process alone, and check what is left; how many there are."""
    for steps in count(1):
        finished = False
        for seed in range(seeds):
            disk = SimulatedDisk(Random(f"{steps} {seed}"))
            made = prepare(disk)
            disk.troubles.cut_in(steps)
            try:
                act(disk, made)
                finished = True
            except PowerCut:
                finished = False
            disk.crash(power=power)
            check(disk, made, finished)
        if finished:
            return steps - 1
    raise AssertionError
