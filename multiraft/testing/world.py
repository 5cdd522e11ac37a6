"""The world of one simulated process: its clock, its chance, its threads that are none, its links and its disk.

Jobs for workers run in the one thread of the simulation, at the moment when a real worker would take them up, and are reported
when they would be done: so much later as the disk said that they took. A process that is killed in between never hears of it.

``interfaces.World`` is what a node asks for. Nothing here draws at random but from the generator that it was given.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from multiraft.config import Config
from multiraft.errors import Closed
from multiraft.interfaces import Clock, Disk, TransportEvents
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import Job, PowerCut
from multiraft.testing.links import SimulatedTransport
from multiraft.testing.loop import ProcessLoop
from multiraft.testing.network import SimulatedNetwork

T = TypeVar("T")
Done = Callable[[Any, BaseException | None], None]

EPOCH_MS = 1_700_000_000_000
"""The wall clock at the beginning of every simulation."""
JOB_NS = 20_000
"""What handing a job to a thread and back takes."""


class SimulatedClock:
    """See ``interfaces.Clock``: the clock of one process."""

    def __init__(self, loop: ProcessLoop) -> None:
        self.now_ns = loop.now_ns

    def wall_ms(self) -> int:
        return EPOCH_MS + self.now_ns() // 1_000_000


class SimulatedWorker:
    """See ``interfaces.Jobs``. Jobs run in order, one at a time; each takes as long as the disk says."""

    def __init__(
        self, loop: ProcessLoop, disk: SimulatedDisk, power_cut: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._disk = disk
        self._power_cut = power_cut
        self._jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self._running: Running | None = None
        self._closed = False

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        if self._closed:
            raise Closed("the worker is closed")
        self._jobs.append((job, done))
        if self._running is None and len(self._jobs) == 1:
            self._loop.call_soon(self._take)

    def _take(self) -> None:
        if self._running is None and self._jobs:
            running = self._running = self._run(*self._jobs.popleft())
            self._loop.call_later_ns(JOB_NS + running.job.cost_ns, self._report, running)

    def _run(self, work: Callable[[], Any], done: Done) -> Running:
        result, error = None, None
        inside = self._disk.recording  # a job that joins another worker does that one's jobs
        with nullcontext(Job()) if inside else self._disk.job() as job:
            try:
                result = work()
            except PowerCut:
                self._power_cut()
            except Exception as caught:
                error = caught  # handed on to the loop, as a worker does
        return Running(job, done, result, error)

    def _report(self, running: Running) -> None:
        if running is self._running:  # else it was closed meanwhile
            self._running = None
            running.job.settle()
            try:
                running.done(running.result, running.error)
            finally:
                self._take()

    def close(self) -> None:
        """Do all that was submitted at once, as joining a thread would; their news come with the loop's next round."""
        self._closed = True
        running, self._running = self._running, None
        if running is not None:
            self._end(running)
        while self._jobs:
            self._end(self._run(*self._jobs.popleft()))

    def _end(self, running: Running) -> None:
        running.job.settle()
        self._loop.call_soon(running.done, running.result, running.error)


@dataclass(slots=True)
class Running:
    """A job that has run, and whose news is on its way."""

    job: Job
    done: Done
    result: Any
    error: BaseException | None


class SimulatedWorld:
    """See ``interfaces.World``. One for each life of a process."""

    def __init__(
        self,
        loop: ProcessLoop,
        network: SimulatedNetwork,
        generator: random.Random,
        disk: SimulatedDisk,
        power_cut: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.disk: Disk = disk
        self._disk = disk
        self._power_cut = power_cut
        self.clock: Clock = SimulatedClock(loop)
        self._network = network
        self._generator = generator
        self.links: SimulatedTransport | None = None

    def identity(self) -> int:
        return self._generator.getrandbits(63) or 1

    def seed(self) -> int:
        return self._generator.getrandbits(48)

    def worker(self, name: str, patience_s: float | None = None) -> SimulatedWorker:
        return SimulatedWorker(self.loop, self._disk, self._power_cut)

    async def aside(self, job: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        finished: asyncio.Future[T] = self.loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is not None:
                finished.set_exception(error)
            else:
                finished.set_result(result)

        self.worker("aside").submit(job, done)
        try:
            return await asyncio.shield(finished)
        except asyncio.CancelledError:
            await asyncio.wait({finished})
            if undo is not None and finished.exception() is None:
                undo(finished.result())
            raise

    def transport(
        self, config: Config, events: TransportEvents, *, seed: int, jobs: Any, directory: str
    ) -> SimulatedTransport:
        self.links = self._network.transport(
            config.node_id, self.loop, events, disk=self.disk, directory=directory
        )
        return self.links
