"""Simulated time and simulated processes: what happens when, and what never happens again."""

from __future__ import annotations

import asyncio
import gc

import pytest

from multiraft.testing.schedule import NS, Schedule
from tests.unit.testing.fakes import loop

MS = 1_000_000


def test_things_happen_by_time_and_within_one_instant_in_the_order_of_asking() -> None:
    schedule, seen = Schedule(), []
    for name, at in (("c", 30), ("a", 10), ("d", 30), ("b", 20), ("e", 30)):
        schedule.at(at, lambda name=name: seen.append((name, schedule.now_ns)))  # type: ignore[misc]
    schedule.run(100)
    assert seen == [("a", 10), ("b", 20), ("c", 30), ("d", 30), ("e", 30)]
    assert schedule.now_ns == 100 and schedule.events == 5


def test_what_is_asked_for_the_past_happens_now_after_what_is_due_already() -> None:
    schedule, seen = Schedule(), []

    def first() -> None:
        schedule.at(0, lambda: seen.append("asked late"))
        seen.append("first")

    schedule.at(10, first)
    schedule.run(10)
    schedule.run(10)
    assert seen == ["first", "asked late"] and schedule.now_ns == 10


def test_what_is_taken_back_does_not_happen() -> None:
    schedule = Schedule()
    due = schedule.at(10, lambda: pytest.fail("it was taken back"))
    due.cancel()
    assert not schedule.run(20) and schedule.now_ns == 20


def test_a_run_ends_at_its_time_or_when_stop_or_halted_says_so() -> None:
    schedule, seen = Schedule(), []
    for at in range(10, 60, 10):
        schedule.at(at, lambda at=at: seen.append(at))  # type: ignore[misc]
    assert not schedule.run(20) and seen == [10, 20]
    assert schedule.run(100, lambda: len(seen) == 3) and schedule.now_ns == 30
    schedule.at(40, lambda: setattr(schedule, "halted", True))
    assert schedule.run(100) and seen == [10, 20, 30, 40] and schedule.now_ns == 40


def test_a_callback_has_its_own_loop_as_the_running_one() -> None:
    schedule = Schedule()
    one, other = loop(schedule), loop(schedule)
    seen = []
    for each in (one, other):
        each.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    schedule.run(1)
    assert seen == [one, other]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_a_killed_process_runs_nothing_any_more_not_even_its_finally() -> None:
    schedule = Schedule()
    process = loop(schedule)
    seen: list[str] = []

    async def work() -> None:
        try:
            seen.append("begun")
            await asyncio.sleep(1)
        finally:
            seen.append("finally")

    process.call_soon(lambda: process.create_task(work()))
    process.call_later(0.5, process.kill_process)
    process.call_later(0.6, seen.append, "a timer")
    schedule.run(2 * NS)
    process.call_soon(seen.append, "asked of the dead")
    schedule.run(3 * NS)
    assert seen == ["begun"]
    process.discard()
    assert seen == ["begun", "finally"] and not process.troubles


def test_a_stopped_process_does_all_that_was_due_when_it_is_resumed_in_order() -> None:
    schedule = Schedule()
    process, other = loop(schedule), loop(schedule)
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        seen.append((name, schedule.now_ns // MS))

    process.stop_process()
    for name, delay_s in (("b", 0.2), ("a", 0.1), ("c", 0.3), ("later", 2.0)):
        process.call_later(delay_s, note, name)
    other.call_later(0.15, note, "another process")
    schedule.run(NS)
    process.resume_process()
    process.call_soon(note, "asked after")
    schedule.run(3 * NS)
    assert seen == [
        ("another process", 150),
        ("a", 1000),
        ("b", 1000),
        ("c", 1000),
        ("asked after", 1000),
        ("later", 2000),
    ]


def test_a_stopped_process_that_is_killed_is_not_resumed() -> None:
    schedule = Schedule()
    process = loop(schedule)
    process.stop_process()
    process.call_soon(lambda: pytest.fail("it is dead"))
    schedule.run(1)
    process.kill_process()
    process.resume_process()
    schedule.run(2)
    assert process.killed and not process.runs


@pytest.mark.parametrize(("rate", "heard_ms"), [(1.0, 1000), (2.0, 500), (0.5, 2000)])
def test_timers_go_by_the_clock_of_the_process(rate: float, heard_ms: int) -> None:
    schedule = Schedule()
    process = loop(schedule)
    heard: list[int] = []
    process.tick_at(rate)
    process.call_later(1.0, lambda: heard.append(schedule.now_ns // MS))
    schedule.run(3 * NS)
    assert heard == [heard_ms] and process.now_ns() == round(3 * NS * rate)


def test_a_clock_that_jumps_or_changes_its_rate_goes_on_from_where_it_is() -> None:
    schedule = Schedule()
    process = loop(schedule)
    schedule.run(NS)
    process.jump(5 * NS)
    assert process.now_ns() == 6 * NS
    process.tick_at(2.0)
    assert process.now_ns() == 6 * NS
    schedule.run(2 * NS)
    assert process.time() == 8.0
    process.tick_at(1.0)
    assert process.now_ns() == 8 * NS


@pytest.mark.parametrize("in_a_task", [False, True])
def test_what_nobody_takes_becomes_a_trouble(in_a_task: bool) -> None:
    schedule = Schedule()
    process = loop(schedule, "node 7")

    async def fails() -> None:
        raise ZeroDivisionError

    def act() -> None:
        if not in_a_task:
            raise ZeroDivisionError
        process.create_task(fails())

    process.call_soon(act)
    schedule.run(1)
    gc.collect()  # a task says so when it goes
    (trouble,) = process.troubles
    assert isinstance(trouble.error, ZeroDivisionError) and "node 7: " in trouble.message


def test_what_a_process_takes_for_its_end_is_no_trouble() -> None:
    schedule = Schedule()
    process = loop(schedule)
    process.takes = lambda error: isinstance(error, ZeroDivisionError)
    process.call_soon(lambda: 1 // 0)
    process.call_soon(lambda: [][1])  # type: ignore[misc]
    schedule.run(1)
    assert [type(trouble.error) for trouble in process.troubles] == [IndexError]


def test_ctrl_c_passes_through_a_callback() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    schedule = Schedule()
    loop(schedule).call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        schedule.run(1)


def test_coroutines_wait_in_simulated_time() -> None:
    schedule = Schedule()
    process = loop(schedule)
    seen: list[object] = []

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 2.5)
        seen.append(schedule.now_ns // MS)
        results = await asyncio.gather(*(asyncio.sleep(s, s) for s in (3, 1, 2)))
        seen.extend([results, schedule.now_ns // MS])

    process.call_soon(lambda: process.create_task(work()))
    schedule.run(60 * NS)
    assert seen == [2500, [3, 1, 2], 5500] and not process.troubles
