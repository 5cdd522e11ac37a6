"""Many runs in processes beside this one: tasks go out, reports come back in the order of their ends.

Each process is ``python -m multiraft.testing.attempt``, one for each core, which runs one task after another. One that dies, or
that says nothing for far longer than a run may take, is a failure of the task that it was at, and another takes its place. A second
run of a task, for comparison, goes to a process with another PYTHONHASHSEED. When the caller gives up, all of them are killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from pathlib import Path

import multiraft
from multiraft.testing.attempt import patience_of
from multiraft.testing.corpus import Report, Task

LINE_BYTES_MAX = 1 << 22
WALL_FACTOR = 10.0
"""A machine that is busy otherwise may make a run so much slower."""
PACKAGE_FOLDER = str(Path(multiraft.__file__).resolve().parents[1])
"""What is tested there is what was imported here."""
HASH_SEEDS = ("0", "20011")
"""Of the first and of the second run of a task."""


class Runner:
    """One process that runs tasks. ``hash_seed`` is its PYTHONHASHSEED."""

    def __init__(self, hash_seed: str) -> None:
        path = os.pathsep.join(filter(None, (PACKAGE_FOLDER, os.environ.get("PYTHONPATH"))))
        self._environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, task: Task) -> Report:
        """Run it there. Never raises for what the run does."""
        process = await self._ready()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        try:
            process.stdin.write(json.dumps(task.to_json()).encode() + b"\n")
            line = await asyncio.wait_for(
                process.stdout.readline(), patience_of(task) * WALL_FACTOR
            )
        except (TimeoutError, OSError) as error:
            await self.end()
            return Report(task.seed, f"its process had to be killed: {error!r}")
        if not line:
            code = await process.wait()
            await self.end()
            return Report(task.seed, f"its process ended with code {code}")
        return Report.from_json(json.loads(line))

    async def _ready(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "multiraft.testing.attempt",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                limit=LINE_BYTES_MAX,
            )
        return self._process

    async def end(self) -> None:
        """Kill it, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.communicate()


class Crew:
    """``jobs`` runners, each with a twin for second runs."""

    def __init__(self, jobs: int) -> None:
        self._jobs = max(1, jobs)

    async def reports(
        self, tasks: Iterable[Task], again: frozenset[int] = frozenset()
    ) -> AsyncGenerator[tuple[Task, Report], None]:
        """Run all; each with its report as soon as that is there. Seeds in ``again`` are run twice and compared."""
        waiting = deque(tasks)
        ended: asyncio.Queue[tuple[Task, Report] | BaseException] = asyncio.Queue()
        wanted = len(waiting)
        pairs = [
            (Runner(HASH_SEEDS[0]), Runner(HASH_SEEDS[1])) for _ in range(min(self._jobs, wanted))
        ]
        lanes = [asyncio.ensure_future(_lane(waiting, again, ended, *pair)) for pair in pairs]
        try:
            for _ in range(wanted):
                found = await ended.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            for runner in (one for pair in pairs for one in pair):
                await runner.end()


async def _lane(
    waiting: deque[Task],
    again: frozenset[int],
    ended: asyncio.Queue[tuple[Task, Report] | BaseException],
    first: Runner,
    second: Runner,
) -> None:
    try:
        while waiting:
            task = waiting.popleft()
            report = await first.run(task)
            if task.seed in again:
                report = compared(report, await second.run(task))
            ended.put_nowait((task, report))
    except Exception as error:
        ended.put_nowait(error)


def same_run(one: Report, other: Report) -> bool:
    """Are these two of one task? Where one used up its CPU time, nobody can tell."""
    if "of CPU time" in one.reason + other.reason:
        return True
    shown, again = (
        (each.trace, each.events, each.simulated_ns, each.reason) for each in (one, other)
    )
    return shown == again


def compared(one: Report, other: Report) -> Report:
    """The report of two runs of one task: a failure where they differ."""
    reason = one.reason
    if not same_run(one, other):
        reason = (
            f"two runs differ: trace {one.trace:016x} and {other.trace:016x}, events {one.events} and {other.events}"
            f"{f'; the first failed: {one.reason}' if one.reason else ''}"
            f"{f'; the second failed: {other.reason}' if other.reason else ''}"
        )
    return Report(
        one.seed,
        reason,
        one.simulated_ns + other.simulated_ns,
        one.cpu_ns + other.cpu_ns,
        one.events + other.events,
        one.trace,
        one.faults,
        one.where,
    )


def share_of(seeds: Iterable[int], share: float) -> frozenset[int]:
    """So many of the seeds, evenly: the same for the same seeds."""
    chosen, owed = set(), 0.0
    for seed in seeds:
        owed += share
        if owed >= 1.0 - 1e-9:
            owed -= 1.0
            chosen.add(seed)
    return frozenset(chosen)


async def run_all(
    tasks: Iterable[Task], jobs: int, again: frozenset[int] = frozenset()
) -> list[Report]:
    """Run all and wait for the last; reports in the order of their ends."""
    async with aclosing(Crew(jobs).reports(tasks, again)) as reports:
        return [report async for _, report in reports]
