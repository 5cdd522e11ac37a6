"""The n-th write, allocation or sync of a run fails, as on a disk that is broken or full: the process may end, but never lies."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from multiraft.doubt import NOTE_FILE
from tests.crash.conftest import LONG, Yard, victim
from tests.crash.nursery import Ended, Job
from tests.crash.test_kill import Point, points_of, sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 110)]

ERRORS = {
    "fdatasync": ("EIO",),
    "fsync": ("EIO",),
    "pwrite64": ("EIO", "ENOSPC"),
    "writev": ("EIO", "ENOSPC"),
    "fallocate": ("ENOSPC",),
}
FINAL = ("fdatasync", "pwrite64", "writev")
"""What fails of these on a data file is a commit."""
AMOUNT = 40


class Faults:
    """Lets calls of a life fail, and judges what it left and what it said."""

    def __init__(self, yard: Yard, life: str) -> None:
        self.yard, self.life = yard, life
        self.folders: dict[tuple[Point, str], Path] = {}
        self.outcomes: Counter[str] = Counter()

    def begin(self, fault: tuple[Point, str]) -> Job:
        point, error = fault
        folder = self.folders[fault] = self.yard.new()
        job = self.yard.nursery.start(victim(self.life), folder, stopped=True)
        where = [option for path in point.paths for option in ("-P", str(folder / path))]
        inject = f"inject={point.call}:error={error}:when={point.n}"
        self.yard.nursery.trace(job, *where, "-e", f"trace={point.call}", "-e", inject)
        return job

    def judge(self, fault: tuple[Point, str], ended: Ended) -> None:
        assert ended.code == 0, (fault, ended.code, ended.errors)
        said = [at for at, each in enumerate(ended.notes) if each[0] in ("ended", "refused")]
        what = " ".join(map(str, ended.notes[said[0]][:2])) if said else "went on"
        self.outcomes[f"{fault[0].call} {fault[1]}: {what}"] += 1
        if said:
            after = [each[0] for each in ended.notes[said[0] :]]
            assert "did" not in after, (fault, "acknowledged after the end")
        folder = self.folders.pop(fault)
        # The device did not fail, only the call: what is cached is on it, as it is after the restart of a machine.
        for note in folder.rglob(NOTE_FILE):
            note.unlink()
        found = self.yard.judge(self.life, folder, ended.notes)
        assert found == ["sound"], (fault, what, found)
        shutil.rmtree(folder)


@pytest.mark.parametrize("life", ["log", "state", "node"])
def test_p11_a_call_that_fails_acknowledges_nothing_and_loses_nothing(
    strace: None, yard: Yard, life: str
) -> None:
    points = [one for one in points_of(yard, yard.recorded(life)) if one.call in ERRORS]
    chosen = points if LONG else sample(points, AMOUNT)
    faults = [(one, ERRORS[one.call][at % len(ERRORS[one.call])]) for at, one in enumerate(chosen)]
    them = Faults(yard, life)
    yard.side_by_side(faults, them.begin, them.judge)
    yard.tell(f"{life}: {dict(them.outcomes)}")
    ends = sum(count for what, count in them.outcomes.items() if "went on" not in what)
    assert ends >= len(faults) / 3, them.outcomes
