"""What befalls a simulated disk: errors, flipped bits, slowness, a cut of the power - planned one by one, or drawn from a seed.

Every operation of the disk is a ``step`` here, before it takes effect. A step costs time, which is only counted: the jobs of a
simulation run in one thread, and whoever simulates the worker lets the job end so much later.

Invariant: two disks with the same seed that are asked for the same operations have the same troubles.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import lmdb

READ, WRITE, SYNC, NAME = "read", "write", "sync", "name"
KINDS = (READ, WRITE, SYNC, NAME)
"""Kinds of operations; ``name`` is a rename, a link, a removal, an open of a new file."""


class PowerCut(BaseException):
    """The machine of this disk is off. Whoever simulates it ends the node, and calls ``crash``. Nothing may catch it and go on."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long operations take, in nanoseconds; each is drawn between one and two times that."""

    read_ns: int = 20_000
    write_ns: int = 10_000
    sync_ns: int = 500_000
    name_ns: int = 10_000
    byte_ns: float = 0.5
    """Of what is read or written, besides."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely trouble is, for each operation of its kind."""

    read_error: float = 0.0
    write_error: float = 0.0
    sync_error: float = 0.0
    flip: float = 0.0
    """A bit of what a read returns is not what was written."""
    slow: float = 0.0
    slow_ns: int = 2_000_000_000
    cut: float = 0.0
    """The power goes, at any operation."""


@dataclass(slots=True)
class Plan:
    """One trouble to come: the ``skip``-th operation of its kind from now, on paths with ``path`` in them, and some more."""

    kind: str
    path: str
    skip: int
    times: int
    number: int = errno.EIO
    slow_ns: int = 0
    flip: bool = False


@dataclass(slots=True)
class Job:
    """The operations of one job whose news has not arrived: if the power goes now, the later ones have not happened.

    ``with disk.job() as job:`` runs it; ``job.cost_ns`` later the one who simulates the worker calls ``job.settle()``.
    """

    cost_ns: int = 0
    undo: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    settle: Callable[[], None] = lambda: None


class Troubles:
    """The troubles of one disk. ``generator`` decides all that is left to chance."""

    def __init__(self, generator: random.Random, latency: Latency):
        self.generator = generator
        self.latency = latency
        self.off = False
        """The power is cut: every operation says so."""
        self.watched = False
        """Reads of an environment, which are free otherwise, must be steps too."""
        self.steps = 0
        self.cost_ns = 0
        self._odds: Odds | None = None
        self._cut_in = 0
        self._plans: list[Plan] = []

    def plan(self, plan: Plan) -> None:
        if plan.kind not in KINDS:
            raise ValueError(f"{plan.kind!r} is no kind of operation: {', '.join(KINDS)}")
        self._plans.append(plan)
        self.watched = True

    def draw(self, odds: Odds) -> None:
        """From now on, leave trouble to chance."""
        self._odds = odds
        self.watched = True

    def cut_in(self, steps: int) -> None:
        """The power goes with that operation from now: before it has done anything."""
        self._cut_in = steps
        self.watched = True

    def power_on(self) -> None:
        """After a crash: what was planned is past; what is left to chance goes on."""
        self._plans.clear()
        self.off, self._cut_in = False, 0
        self.watched = self._odds is not None

    def clear(self) -> None:
        """Nothing more is planned, and nothing left to chance."""
        self._plans.clear()
        self._odds, self._cut_in = None, 0
        self.watched = self.off

    def step(self, kind: str, path: str, count: int = 0) -> bool:
        """One operation begins. Raises OSError or PowerCut; true where what it reads is to be damaged."""
        if self.off:
            raise PowerCut
        self.steps += 1
        latency, chance = self.latency, self.generator.random
        if kind == READ:
            cost_ns = latency.read_ns
        elif kind == SYNC:
            cost_ns = latency.sync_ns
        else:
            cost_ns = latency.write_ns if kind == WRITE else latency.name_ns
        self.cost_ns += int((cost_ns + count * latency.byte_ns) * (1.0 + chance()))
        flip = False
        if self._cut_in:
            self._cut_in -= 1
            if not self._cut_in:
                self.cut()
        if self._odds is not None:
            flip = self._draw(self._odds, kind, path)
        if self._plans:
            flip |= self._planned(kind, path)
        return flip

    def cut(self) -> None:
        """The power goes."""
        self.off = self.watched = True
        raise PowerCut

    def _draw(self, odds: Odds, kind: str, path: str) -> bool:
        chance = self.generator.random
        if odds.cut and chance() < odds.cut:
            self.cut()
        if odds.slow and chance() < odds.slow:
            self.cost_ns += int(odds.slow_ns * chance())
        wrong = {READ: odds.read_error, WRITE: odds.write_error, SYNC: odds.sync_error}
        if chance() < wrong.get(kind, 0.0):
            raise failure(errno.EIO, path)
        return kind == READ and chance() < odds.flip

    def _planned(self, kind: str, path: str) -> bool:
        flip = False
        for plan in [plan for plan in self._plans if plan.kind == kind and plan.path in path]:
            if plan.skip:
                plan.skip -= 1
                continue
            plan.times -= 1
            if not plan.times:
                self._plans.remove(plan)
            self.cost_ns += plan.slow_ns
            flip |= plan.flip
            if plan.number:
                raise failure(plan.number, path)
        return flip

    def flipped(self, data: bytes) -> bytes:
        """The same with one bit that is not."""
        if not data:
            return data
        at = self.generator.randrange(len(data) * 8)
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)


def failure(number: int, path: str) -> OSError:
    """What the system raises."""
    return OSError(number, os.strerror(number), path)


def of_lmdb(error: OSError, doing: str) -> lmdb.Error:
    """What py-lmdb makes of an error of the system."""
    if error.errno == errno.ENOSPC:
        return lmdb.DiskError(f"{doing}: {os.strerror(errno.ENOSPC)}")
    return lmdb.Error(f"{doing}: {os.strerror(error.errno or errno.EIO)}")
