"""The world as it is: the machine's clock, chance and disk, threads, and links over TCP.

A node takes all that from here and from nowhere else, so that a simulator can give it another world (``interfaces.World``).
Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TypeVar

from multiraft.config import Config
from multiraft.disk import RealDisk
from multiraft.ids import random_id
from multiraft.interfaces import Clock, Disk, Jobs, TransportEvents
from multiraft.transport.options import TransportOptions
from multiraft.transport.transport import LoopTransport
from multiraft.worker import Worker, aside

T = TypeVar("T")


class BootClock:
    """The real clock: CLOCK_BOOTTIME where there is one, else the monotonic one."""

    def __init__(self) -> None:
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ns(self) -> int:
        return time.clock_gettime_ns(self._clock)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class RealWorld:
    """See ``interfaces.World``. Made on the loop that the node runs on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock: Clock = BootClock()
        self.disk: Disk = RealDisk()

    def identity(self) -> int:
        return random_id()

    def seed(self) -> int:
        return random.SystemRandom().getrandbits(48)

    def worker(self, name: str, patience_s: float | None = None) -> Worker:
        return Worker(name, self._loop, patience_s)

    async def aside(self, job: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        return await aside(job, undo)

    def transport(
        self, config: Config, events: TransportEvents, *, seed: int, jobs: Jobs, directory: str
    ) -> LoopTransport:
        return LoopTransport(
            config.node_id,
            events,
            generator=random.Random(seed),
            options=TransportOptions.of(config),
            tls=config.tls,
            insecure=config.insecure,
            jobs=jobs,
            directory=directory,
            disk=self.disk,
        )
