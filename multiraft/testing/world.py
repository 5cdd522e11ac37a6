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
from typing import Any, TypeVar

from multiraft.config import Config
from multiraft.errors import Closed
from multiraft.interfaces import Clock, Disk, TransportEvents
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
    """See ``interfaces.Jobs``. Jobs run in order, one at a time; ``cost_ns`` says how long the last one took."""

    def __init__(self, loop: ProcessLoop, cost_ns: Callable[[], int | None]) -> None:
        self._loop = loop
        self._cost_ns = cost_ns
        self._jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self._running: tuple[Done, Any, BaseException | None] | None = None
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
        if self._running is not None or not self._jobs:
            return
        self._running = self._run(*self._jobs.popleft())
        cost_ns = self._cost_ns()
        if cost_ns is not None:  # else it hangs, until ``wake``
            self._loop.call_later_ns(JOB_NS + cost_ns, self._report)

    def wake(self) -> None:
        """A disk that hung goes on: what hangs is done now."""
        if self._running is not None:
            self._loop.call_soon(self._report)

    @staticmethod
    def _run(job: Callable[[], Any], done: Done) -> tuple[Done, Any, BaseException | None]:
        try:
            return done, job(), None
        except Exception as error:
            return done, None, error  # handed on to the loop, as a worker does

    def _report(self) -> None:
        if self._running is None:
            return  # closed meanwhile
        (done, result, error), self._running = self._running, None
        try:
            done(result, error)
        finally:
            self._take()

    def close(self) -> None:
        """Do all that was submitted at once, as joining a thread would; their news come with the loop's next round."""
        self._closed = True
        if self._running is not None:
            ended, self._running = self._running, None
            self._loop.call_soon(*ended)
        while self._jobs:
            self._loop.call_soon(*self._run(*self._jobs.popleft()))


class SimulatedWorld:
    """See ``interfaces.World``. One for each life of a process."""

    def __init__(
        self,
        loop: ProcessLoop,
        network: SimulatedNetwork,
        generator: random.Random,
        disk: Disk,
        cost_ns: Callable[[], int | None] = lambda: 0,
    ) -> None:
        self.loop = loop
        self.disk = disk
        self.clock: Clock = SimulatedClock(loop)
        self.workers: list[SimulatedWorker] = []
        self._network = network
        self._generator = generator
        self._cost_ns = cost_ns
        self.links: SimulatedTransport | None = None

    def identity(self) -> int:
        return self._generator.getrandbits(63) or 1

    def seed(self) -> int:
        return self._generator.getrandbits(48)

    def worker(self, name: str, patience_s: float | None = None) -> SimulatedWorker:
        made = SimulatedWorker(self.loop, self._cost_ns)
        self.workers.append(made)
        return made

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
