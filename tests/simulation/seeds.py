"""The fresh seeds of a test run: a range that moves with the date of the newest commit, in blocks, run by two processes.

Seeds are ``YYYYMMDD000`` and on: the same for whoever tests the same commit. Both processes are given all that they have to do at
the start and work on while the tests look at what is there. They have different hash seeds, and some tasks go to both.
``MULTIRAFT_SIMULATION_SEEDS`` and ``MULTIRAFT_SIMULATION_FIRST`` say how many, and which.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from multiraft.testing.corpus import Report, Task
from multiraft.testing.crew import HASH_SEEDS, PACKAGE_FOLDER, compared
from multiraft.testing.simulation import Settings

ROOT = Path(__file__).resolve().parents[2]
COUNT = int(os.environ.get("MULTIRAFT_SIMULATION_SEEDS", "40"))
BLOCK = 2
"""So few that a busy machine, too, has done one before it is taken for hung."""
USUAL = Settings(nodes=3, groups=4, seconds=60.0, profile="swarm")
LARGE = Settings(nodes=5, groups=32, seconds=60.0, profile="swarm")
"""Of every tenth seed."""


def first_seed() -> int:
    """From the date of the newest commit; from today's where there is no repository."""
    given = os.environ.get("MULTIRAFT_SIMULATION_FIRST")
    if given:
        return int(given)
    shown = subprocess.run(
        ["git", "show", "-s", "--format=%ct", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    at = datetime.datetime.now(datetime.UTC)
    if shown.returncode == 0:
        at = datetime.datetime.fromtimestamp(int(shown.stdout), datetime.UTC)
    return int(at.strftime("%Y%m%d")) * 1000


FIRST = first_seed()
BLOCKS = [range(at, min(at + BLOCK, FIRST + COUNT)) for at in range(FIRST, FIRST + COUNT, BLOCK)]


def task_of(seed: int) -> Task:
    return Task(seed, USUAL if seed % 10 else LARGE)


def runs_twice(seed: int) -> bool:
    """One seed of twenty: usual and large ones in turn."""
    return (seed - FIRST) % 40 in (7, 30)


class TwoProcesses:
    """Runs the seeds of some blocks, in order: even ones in one process, odd ones in the other."""

    def __init__(self, blocks: Iterable[range]) -> None:
        seeds = [seed for block in blocks for seed in block]
        self._processes = [
            self._begin([task_of(seed) for seed in seeds if self._is_given(which, seed)], which)
            for which in (0, 1)
        ]

    @staticmethod
    def _is_given(which: int, seed: int) -> bool:
        return seed % 2 == which or runs_twice(seed)

    @staticmethod
    def _begin(tasks: list[Task], which: int) -> subprocess.Popen[str]:
        with tempfile.TemporaryFile("w+") as file:
            file.writelines(json.dumps(task.to_json()) + "\n" for task in tasks)
            file.flush()
            file.seek(0)
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "multiraft.testing.attempt"],
                stdin=file,
                stdout=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "PYTHONHASHSEED": HASH_SEEDS[which],
                    "PYTHONPATH": PACKAGE_FOLDER,
                },
            )

    def reports(self, block: range) -> list[Report]:
        """Wait for a block. Blocks must be asked for in their order."""
        found: dict[int, Report] = {}
        for which, process in enumerate(self._processes):
            for seed in block:
                if self._is_given(which, seed):
                    report = self._next(process, seed)
                    found[seed] = compared(found[seed], report) if seed in found else report
        return [found[seed] for seed in block]

    @staticmethod
    def _next(process: subprocess.Popen[str], seed: int) -> Report:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            return Report(seed, f"its process ended with code {process.wait()}")
        report = Report.from_json(json.loads(line))
        assert report.seed == seed
        return report

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
