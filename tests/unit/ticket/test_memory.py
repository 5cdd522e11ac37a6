"""What tickets leave behind: nothing. Not at exit, not in the freelist, not in cycles; and nothing from a wrong thread."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft._ticket import DEBUG, Ticket, Waker
from multiraft.errors import InvariantViolation
from tests.unit.ticket.harness import LOOPS, Desk, passes

FREELIST_MAX = 4096


class Value:
    """Something that a weak reference can watch."""


# -- at exit --------------------------------------------------------------------------------------------------------------

AT_EXIT = """
import asyncio
from multiraft._ticket import Waker

loop = asyncio.new_event_loop()
waker = Waker(loop)
kept = [waker.ticket() for _ in range(10)]
kept[0].add_done_callback(print)
waker.settle(kept[0], object())
waker.settle(kept[1], object())
waker.fail(kept[2], ValueError("nobody asks"))
waker.fail(waker.ticket(), ValueError("nobody can ask"))
kept[3].cancel()
kept[4].add_done_callback(kept.append)
waker.settle(kept[5], kept)
waker.answered(kept)
loop.close()
"""


def test_the_end_of_the_process_is_silent() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", AT_EXIT],
        cwd=Path(multiraft.__file__).parents[1],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_a_failure_that_nobody_asked_for_is_silent(desk: Desk) -> None:
    async def body() -> None:
        desk.waker.fail(desk.ticket(), ValueError("nobody asks"))
        gc.collect()
        await passes(2)

    desk.run(body())
    assert desk.problems == []


# -- the freelist ---------------------------------------------------------------------------------------------------------


def test_a_used_ticket_lets_go_of_everything(desk: Desk) -> None:
    async def body() -> Any:
        value, callback = Value(), Value()
        watched = [weakref.ref(value), weakref.ref(callback)]
        ticket = desk.ticket()
        ticket.add_done_callback(lambda _, callback=callback: None)
        ticket.add_done_callback(lambda _, callback=callback: None)
        desk.answer([ticket], value)
        await passes(2)
        del value, callback, ticket
        return [watch() for watch in watched]

    assert desk.run(body()) == [None, None]


def test_a_ticket_lets_go_of_the_task_that_it_has_woken(desk: Desk) -> None:
    async def waiting(ticket: Ticket[Any], _: Value) -> Any:
        return await ticket

    async def body() -> Any:
        ticket, value = desk.ticket(), Value()
        gone = weakref.ref(value)
        task = asyncio.create_task(waiting(ticket, value))
        await passes(1)
        desk.answer_soon(ticket, value=1)
        assert await task == 1
        done = weakref.ref(task)
        del task, value
        await passes(1)  # the loop held the task while it woke this one
        return gone(), done(), ticket.remove_done_callback(None)

    assert desk.run(body()) == (None, None, 0)


def test_a_ticket_from_the_freelist_is_like_new(desk: Desk) -> None:
    def use(ticket: Ticket[Any], number: int) -> None:
        ticket._asyncio_future_blocking = True
        ticket.add_done_callback(print)
        ticket.add_done_callback(print)
        if number % 4 == 0:
            assert ticket.remove_done_callback(print) == 2
            assert desk.waker.settle(ticket, "old")
        elif number % 4 == 1:
            assert ticket.remove_done_callback(print) == 2
            assert desk.waker.fail(ticket, ValueError("old"))
        elif number % 4 == 2:
            assert ticket.remove_done_callback(print) == 2
            assert ticket.cancel("old")

    used = [desk.waker.ticket(term=9, index=9) for _ in range(1000)]
    addresses = {id(ticket) for ticket in used}
    for number, ticket in enumerate(used):
        use(ticket, number)
    watched = [weakref.ref(ticket) for ticket in used]
    used.clear()
    del ticket
    assert all(watch() is None for watch in watched)
    fresh = [desk.ticket() for _ in range(1000)]
    assert addresses & {id(ticket) for ticket in fresh}, (
        "none was used again: the test says nothing"
    )
    for ticket in fresh:
        assert repr(ticket) == "<Ticket term=0 index=0 pending>"
        assert ticket._asyncio_future_blocking is False
        assert ticket.remove_done_callback(print) == 0
        assert ticket._cancel_message is None
        assert weakref.getweakrefcount(ticket) == 0


# -- balance --------------------------------------------------------------------------------------------------------------


def use_five(desk: Desk, error: ValueError, value: list[Any]) -> None:
    answered, failed, cancelled, unwatched = (desk.ticket() for _ in range(4))
    for ticket in (answered, failed, cancelled):
        ticket.add_done_callback(value.append)
    desk.waker.settle(answered, value)
    desk.waker.fail(failed, error)
    cancelled.cancel("why")
    desk.waker.settle(unwatched, value)
    for ticket in (unwatched, desk.waker.answered(value)):
        next(ticket, None)  # the slot of an iterator, which `await` takes on 3.12 and later


async def wait_for_three(desk: Desk, error: ValueError, value: list[Any]) -> None:
    """One that is answered already, one while it is awaited, and one that fails."""
    late, failing = desk.ticket(), desk.ticket()
    desk.loop.call_soon(desk.answer, [late], value)
    desk.waker.fail(failing, error)
    assert await desk.waker.answered(value) is value
    assert await late is value
    with pytest.raises(ValueError, match="shared"):
        await failing


@pytest.mark.parametrize("loop_kind", LOOPS)
def test_a_hundred_thousand_tickets_leave_nothing(loop_kind: str) -> None:
    desk, error, value = Desk(loop_kind), ValueError("shared"), []

    async def use(count: int) -> None:
        for _ in range(count // 100):
            for _ in range(19):
                use_five(desk, error, value)
            await wait_for_three(desk, error, value)
            desk.waker.drain()
            await passes(1)
            value.clear()
            error.__traceback__ = (
                None  # or each ticket would start from the traceback of the one before
            )

    def references() -> list[int]:
        gc.collect()
        return [sys.getrefcount(thing) for thing in (desk.waker, desk.loop, error, value)]

    desk.run(use(5 * FREELIST_MAX))  # fills the freelist, and whatever the loop keeps
    before, objects, blocks = references(), len(gc.get_objects()), sys.getallocatedblocks()
    desk.run(use(100_000))
    assert references() == before
    assert abs(len(gc.get_objects()) - objects) < 100
    assert abs(sys.getallocatedblocks() - blocks) < 500
    desk.close()


def test_a_task_and_its_ticket_that_nobody_can_wake_are_collected() -> None:
    async def waiting(ticket: Ticket[Any], _: Value) -> None:
        await ticket

    loop, value = asyncio.new_event_loop(), Value()
    loop.set_exception_handler(
        lambda *_: None
    )  # "Task was destroyed but it is pending", which is so
    waker, gone = Waker(loop), weakref.ref(value)
    task = loop.create_task(waiting(waker.ticket(), value))
    loop.run_until_complete(passes(1))
    del value, task
    gc.collect()
    loop.close()
    assert gone() is None


def test_a_waker_with_unwoken_tickets_is_collected(desk: Desk) -> None:
    def make() -> weakref.ref[Value]:
        waker, value = Waker(desk.loop), Value()
        ticket = waker.ticket()
        ticket.add_done_callback(lambda _, waker=waker: None)
        waker.settle(ticket, value)
        assert waker.waiting == 1
        return weakref.ref(value)

    gone = make()
    gc.collect()
    assert gone() is None


# -- threads --------------------------------------------------------------------------------------------------------------


def in_thread(function: Any) -> BaseException | None:
    """Call it in another thread; what it raised, if anything."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.mark.skipif(not DEBUG, reason="the release build compiles the check out")
def test_the_debug_build_refuses_another_thread(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        calls = [
            lambda: desk.waker.settle(ticket, 1),
            lambda: desk.waker.fail(ticket, ValueError()),
            lambda: desk.waker.drain(),
        ]
        raised = [in_thread(call) for call in calls]
        return [type(error) for error in raised], ticket.done()

    assert desk.run(body()) == ([InvariantViolation] * 3, False)


def test_while_the_loop_stands_still_any_thread_may_settle(desk: Desk) -> None:
    ticket = desk.ticket()
    assert in_thread(lambda: desk.waker.settle(ticket, 1)) is None
    assert ticket.result() == 1


def test_in_another_thread_nobody_is_woken_inline(desk: Desk) -> None:
    """Where the loop does not run at all, so that the release and the debug build take it alike."""
    stepped: list[Any] = []

    async def waiting(ticket: Ticket[Any]) -> None:
        stepped.append(await ticket)

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(waiting(ticket))
        await passes(1)
        return task

    ticket = desk.ticket()
    task = desk.run(start())
    assert in_thread(lambda: desk.answer([ticket], 1)) is None
    assert stepped == []
    desk.loop.run_until_complete(task)
    assert stepped == [1]
