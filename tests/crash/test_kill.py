"""A process is killed at its n-th call that writes, for every kind of call and every file; nothing acknowledged is lost.

The points are taken from a recording of the whole life: (call, file, n). strace counts a call for each thread and file by itself
and kills before it is made. A point that another run does not reach (threads interleave differently) shows as a life that
ended by itself; it is judged all the same, and not counted.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.conftest import LONG, Recorded, Yard, victim
from tests.crash.nursery import Ended, Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 110)]

PARTS = [("log", 0, 70), ("state", 0, 60), ("node", 0, 60), ("trio", 0, 24), ("trio", 1, 24)]
"""Life, part of its points, how many in CI. A test takes half a minute at most."""
BY_NAME = ("mkdir", "rename", "unlink", "link", "openat")


@dataclass(frozen=True)
class Point:
    """The n-th call of a thread on one of some files; on any where there is none."""

    call: str
    kind: str
    paths: tuple[str, ...]
    n: int


def kind_of(call: str, path: str) -> str:
    """Files of one kind have different numbers in their names, and not the same ones in each run."""
    return "" if call.startswith(BY_NAME) else re.sub(r"\d{3,}", "#", path)


def points_of(yard: Yard, recorded: Recorded) -> list[Point]:
    """Every point, by kind of file and in order."""
    counts: Counter[tuple[str, str, int]] = Counter()
    paths: dict[str, set[str]] = defaultdict(set)
    for call, path, thread in yard.recording(recorded).calls:
        counts[call, kind_of(call, path), thread] += 1
        paths[kind_of(call, path)].add(path)
    most: dict[tuple[str, str], int] = {}
    for (call, kind, _), count in counts.items():
        most[call, kind] = max(count, most.get((call, kind), 0))
    return [
        Point(call, kind, tuple(sorted(paths[kind])) if kind else (), n + 1)
        for (call, kind), count in sorted(most.items())
        for n in range(count)
    ]


def sample(points: list[Point], amount: int) -> list[Point]:
    """So many of them: as many of each call and kind of file as that allows, spread over early and late ones."""
    kinds: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.call, point.kind].append(point)
    share = amount
    while share > 1 and sum(min(share, len(each)) for each in kinds.values()) > amount:
        share -= 1
    chosen = []
    for each in kinds.values():
        count = min(share, len(each))
        chosen += [each[(2 * at + 1) * len(each) // (2 * count)] for at in range(count)]
    return (
        [chosen[at * len(chosen) // amount] for at in range(min(amount, len(chosen)))]
        if len(chosen) > amount
        else chosen
    )


class Kills:
    """Kills a life at points and judges what it left."""

    def __init__(self, yard: Yard, life: str) -> None:
        self.yard, self.life = yard, life
        self.recorded = yard.recorded(life)
        self.folders: dict[Point, Path] = {}
        self.reached: set[Point] = set()

    def begin(self, point: Point) -> Job:
        folder = self.folders[point] = self.yard.new(self.recorded.base)
        job = self.yard.nursery.start(victim(self.life), folder, stopped=True)
        where = [option for path in point.paths for option in ("-P", str(folder / path))]
        inject = [f"trace={point.call}", f"inject={point.call}:signal=KILL:when={point.n}"]
        self.yard.nursery.trace(job, *where, "-e", inject[0], "-e", inject[1])
        return job

    def judge(self, point: Point, ended: Ended) -> None:
        assert ended.killed or ended.code == 0, (point, ended.code, ended.errors)
        if ended.killed:
            self.reached.add(point)
        folder = self.folders.pop(point)
        found = self.yard.judge(self.life, folder, self.recorded.before + ended.notes)
        assert found == ["sound"], (point, found)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("life", "part", "amount"), PARTS)
def test_p01_p03_p20_a_process_killed_at_any_write_loses_nothing_acknowledged(
    strace: None, yard: Yard, life: str, part: int, amount: int
) -> None:
    kills = Kills(yard, life)
    parts = sum(each[0] == life for each in PARTS)
    every = points_of(yard, kills.recorded)
    chosen = (every if LONG else sample(every, amount * parts))[part::parts]
    yard.side_by_side(chosen, kills.begin, kills.judge)
    calls = {point.call for point in kills.reached}
    assert {"pwrite64", "writev", "fsync"} <= calls, calls
    assert len(kills.reached) >= len(chosen) * 0.75, (len(kills.reached), len(chosen))
    yard.tell(f"{life}: killed at {len(kills.reached)} points of {len(every)}, {sorted(calls)}")
