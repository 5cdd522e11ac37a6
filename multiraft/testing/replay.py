"""One seed told as a story: what befell it, what it logged, and the last things that happened before it went wrong.

A replay is the same run as any other, event for event: the schedule that notes what happens changes no order, and log lines go to
a list. Nothing here prints.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from multiraft.testing.attempt import Stuck, limited, patience_of, reason_of
from multiraft.testing.corpus import Task, one_line
from multiraft.testing.linearizability import Verdict, check
from multiraft.testing.loop import Callback
from multiraft.testing.models import Register
from multiraft.testing.schedule import NS, Due, Schedule
from multiraft.testing.simulation import Outcome, Simulation

EVENTS_MAX = 40
DETAIL_CHARACTERS_MAX = 160


class NotingSchedule(Schedule):
    """A schedule that keeps the last things that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.last: deque[tuple[int, Due]] = deque(maxlen=EVENTS_MAX)

    def add(self, due: Due) -> None:
        super().add(Noted(self, due))


class Noted(Due):
    """What happens, and a note of it."""

    __slots__ = ("due", "schedule")

    def __init__(self, schedule: NotingSchedule, due: Due) -> None:
        self.at_ns = due.at_ns
        self.schedule = schedule
        self.due = due

    def run(self) -> None:
        self.schedule.last.append((self.schedule.now_ns, self.due))
        self.due.run()


def described(due: Due) -> str:
    """What happened, in words: whose it was, what was called, with what."""
    if isinstance(due, Callback):
        shown = named(due._callback, due._arguments)
        return f"{due._loop.name}: {shown}"
    return named(due.action, ())


def named(function: Any, arguments: tuple[Any, ...]) -> str:
    while isinstance(function, partial):
        arguments = (*function.args, *arguments)
        function = function.func
    owner = getattr(function, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return f"a step of {getattr(coroutine, '__qualname__', owner.get_name())}"
    name = getattr(function, "__qualname__", None) or type(function).__name__
    inside = ", ".join(map(short, arguments))
    return f"{name}({inside})"[:DETAIL_CHARACTERS_MAX]


def short(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, int | str | float | None):
        return repr(value)
    return f"<{type(value).__name__}>"


class Captured(logging.Handler):
    """Log lines with the simulated time at which they were written."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = f"  {record.levelname.lower()}: {record.getMessage()}"
        self.lines.append((self._schedule.now_ns, said))


@contextmanager
def captured(schedule: Schedule, level: int) -> Iterator[list[tuple[int, str]]]:
    """What nodes log within, and nowhere else."""
    logger = logging.getLogger("multiraft")
    before = logger.level, logger.propagate, logger.handlers[:]
    handler = Captured(schedule)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)
    try:
        yield handler.lines
    finally:
        level_before, logger.propagate, logger.handlers[:] = before
        logger.setLevel(level_before)


@dataclass(slots=True)
class Replay:
    """A run that was told."""

    outcome: Outcome
    story: list[str] = field(default_factory=list)
    """What happened, log lines among it, in order."""
    events: list[str] = field(default_factory=list)
    """The last of them; where a step broke an invariant, that step is the last."""
    verdict: Verdict | None = None
    """Of the history, where it is what was wrong."""


def replay(task: Task, level: int = logging.WARNING) -> Replay:
    """Run it and tell of it. An exception out of the simulator is a violation, as in ``attempt``; Ctrl-C ends it, too."""
    schedule = NotingSchedule()
    simulation = Simulation(task.seed, task.settings, task.faults, schedule)
    outcome = simulation.outcome
    with captured(schedule, level) as lines:
        try:
            with limited(patience_of(task)):
                simulation.run()
        except (Exception, Stuck, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt) and not isinstance(error, Stuck)
            reason = "interrupted" if interrupted else one_line(reason_of(error))
            outcome.violation = reason
            outcome.at_ns, outcome.events = schedule.now_ns, schedule.events
            for life in simulation.cluster.all_lives:
                life.loop.discard()
    told = Replay(outcome, merged(outcome.story, lines))
    told.events = [f"{at_ns / NS:12.6f} s  {described(action)}" for at_ns, action in schedule.last]
    if outcome.violation.startswith("not linearizable"):
        told.verdict = check(outcome.history, Register())
    return told


def merged(story: list[str], lines: list[tuple[int, str]]) -> list[str]:
    """Both in the order of time; where that is the same, the story first."""
    told = [(float(line.split(maxsplit=1)[0]), line) for line in story]
    logged = [(round(at_ns / NS, 4), f"{at_ns / NS:10.4f} s  {said}") for at_ns, said in lines]
    return [line for _, line in sorted(told + logged, key=lambda timed: timed[0])]
