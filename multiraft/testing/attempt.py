"""One run in this process, whatever becomes of it: ``attempt(task)`` always answers with a report.

An exception out of the simulator is a failure of the seed, with its reason; so is a run that spends more CPU time than it may,
since a node that spins inside one simulated instant never ends by itself. ``python -m multiraft.testing.attempt`` is the other end
of ``crew``: it reads tasks and writes reports, a line of JSON each, until its input ends.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from multiraft.testing.corpus import Report, Task, one_line
from multiraft.testing.schedule import NS
from multiraft.testing.simulation import Outcome, Simulation

PATIENCE_S = 30.0
"""CPU time for each simulated minute, at least one minute's: some twenty times what most runs take."""


class Stuck(KeyboardInterrupt):
    """A run has used up its CPU time. A KeyboardInterrupt, since that alone passes through every callback of a loop."""


def patience_of(task: Task) -> float:
    """How much CPU time a run may use. Many groups are more work."""
    settings = task.settings
    minutes = max(1.0, settings.seconds / 60.0)
    return PATIENCE_S * minutes * max(1.0, settings.nodes * settings.groups / 40)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Stuck in the main thread once so much CPU time is spent."""

    def time_is_up(number: int, frame: FrameType | None) -> None:
        raise Stuck(f"no end within {seconds:.0f} s of CPU time")

    before = signal.signal(signal.SIGPROF, time_is_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(task: Task, patience_s: float | None = None) -> Report:
    """Run it and say what came of it."""
    start_ns = time.process_time_ns()
    simulation: Simulation | None = None
    try:
        with limited(patience_of(task) if patience_s is None else patience_s):
            simulation = Simulation(task.seed, task.settings, task.faults)
            outcome = simulation.run()
    except (Exception, Stuck) as error:
        return _raised(task, simulation, error, time.process_time_ns() - start_ns)
    return _report(outcome, outcome.violation, time.process_time_ns() - start_ns)


def _report(outcome: Outcome, reason: str, cpu_ns: int, where: str = "") -> Report:
    return Report(
        outcome.seed,
        one_line(reason),
        outcome.at_ns,
        cpu_ns,
        outcome.events,
        outcome.trace,
        len(outcome.faults),
        where,
    )


def reason_of(error: BaseException) -> str:
    """What an exception out of the simulator is as a violation."""
    if isinstance(error, Stuck):
        return f"{error}, in {place_of(error)}"
    return f"the simulator raised {type(error).__name__}: {error}"


def place_of(error: BaseException) -> str:
    """Where it was raised, without what only raised it."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.name != "time_is_up"]
    if not frames:
        return "nowhere"
    last = frames[-1]
    return f"{last.name} ({'/'.join(last.filename.split('/')[-3:])}:{last.lineno})"


def _raised(task: Task, simulation: Simulation | None, error: BaseException, cpu_ns: int) -> Report:
    reason, where = reason_of(error), "".join(traceback.format_exception(error))
    if simulation is None:
        return Report(task.seed, one_line(reason), cpu_ns=cpu_ns, where=where)
    outcome, schedule = simulation.outcome, simulation.cluster.schedule
    outcome.at_ns, outcome.events = schedule.now_ns, schedule.events
    for life in simulation.cluster.all_lives:
        life.loop.discard()
    return _report(outcome, f"at {schedule.now_ns / NS:.4f} s {reason}", cpu_ns, where)


def serve(tasks: TextIO, reports: TextIO) -> None:
    """Answer each task with a report."""
    logging.getLogger("multiraft").setLevel(logging.CRITICAL + 1)
    for line in tasks:
        report = attempt(Task.from_json(json.loads(line)))
        reports.write(json.dumps(report.to_json()) + "\n")
        reports.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever began this ends it
    serve(sys.stdin, sys.stdout)
