"""Making a failing run smaller, with an oracle in place of the simulator."""

from __future__ import annotations

import random

import pytest

from multiraft.testing.corpus import Report, Task
from multiraft.testing.nemesis import Fault
from multiraft.testing.shrinking import Shrinking, kind_of
from multiraft.testing.simulation import Settings

FAULTS = tuple(Fault("stop", 100 * number, 1000, (1,)) for number in range(20))


def oracle(needed: set[int], reason: str = "node 1 ended") -> Shrinking:
    def attempt(task: Task) -> Report:
        at = {fault.at_ms // 100 for fault in task.faults or ()}
        return Report(task.seed, reason if needed <= at else "")

    return Shrinking(Task(1, Settings(), FAULTS), reason, attempt)


@pytest.mark.parametrize("needed", [{0}, {19}, {3, 17}, {4, 5, 6}, set(range(0, 20, 3)), set()])
def test_exactly_the_faults_that_are_needed_are_left(needed: set[int]) -> None:
    shrinking = oracle(needed)
    shrinking.shrink()
    assert {fault.at_ms // 100 for fault in shrinking.faults} == needed


def test_nothing_can_be_left_out_of_what_it_finds() -> None:
    generator = random.Random(7)
    for _ in range(50):
        wanted = [set(generator.sample(range(20), 3)) for _ in range(2)]

        def attempt(task: Task, wanted: list[set[int]] = wanted) -> Report:
            at = {fault.at_ms // 100 for fault in task.faults or ()}
            return Report(task.seed, "it fails" if any(one <= at for one in wanted) else "")

        shrinking = Shrinking(Task(1, Settings(), FAULTS), "it fails", attempt)
        shrinking.shrink()
        assert {fault.at_ms // 100 for fault in shrinking.faults} in wanted


def test_no_run_is_tried_twice() -> None:
    tried: list[Task] = []

    def attempt(task: Task) -> Report:
        tried.append(task)
        return Report(task.seed, "it fails" if FAULTS[4] in (task.faults or ()) else "")

    Shrinking(Task(1, Settings(), FAULTS), "it fails", attempt).shrink()
    assert len(tried) == len(set(tried))


def test_another_failure_is_not_taken_for_the_one_that_was_looked_for() -> None:
    def attempt(task: Task) -> Report:
        faults = task.faults or ()
        if FAULTS[3] in faults and FAULTS[8] in faults:
            return Report(1, "node 2 ended after 17 s")
        return Report(1, "a read was stale" if faults else "")

    shrinking = Shrinking(Task(1, Settings(), FAULTS), "node 1 ended after 3 s", attempt)
    shrinking.shrink()
    assert shrinking.faults == (FAULTS[3], FAULTS[8])
    assert shrinking.reason == "node 2 ended after 17 s"
    assert [len(task.faults or ()) for task in shrinking.others.values()] == [1]


def test_what_is_left_is_made_as_short_as_can_be() -> None:
    def attempt(task: Task) -> Report:
        long = [fault for fault in task.faults or () if fault.for_ms >= 200]
        return Report(1, "it fails" if long and task.settings.seconds >= 3 else "")

    shrinking = Shrinking(Task(1, Settings(seconds=60.0), FAULTS), "it fails", attempt)
    shrinking.shrink()
    shrinking.shorten()
    assert [fault.for_ms for fault in shrinking.faults] == [250]
    assert 3 <= shrinking.task.settings.seconds < 6


def test_two_reasons_of_one_kind_differ_in_names_and_numbers_alone() -> None:
    assert kind_of("node 1.2 ended: X('a', 3)") == kind_of("node 3.14 ended: X('bc')")
    assert kind_of("node 1 ended") != kind_of("node 1 leads")
