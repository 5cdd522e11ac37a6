"""Who is woken inline and who by call_soon, and that tasks of every kind, and what is no task, are woken at all."""

from __future__ import annotations

import asyncio
import sys
import types
from asyncio import tasks as asyncio_tasks
from collections.abc import Generator
from typing import Any

import pytest

from multiraft._ticket import DEBUG, Ticket
from tests.unit.ticket.harness import Desk, passes, settle_all, start_notes, wait_for_it

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")


# -- inline or by call_soon -----------------------------------------------------------------------------------------------


def test_a_waiting_task_is_woken_inline(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        tickets = await start_notes(desk, 3, seen)
        noticed: list[list[Any]] = []

        def turn() -> None:
            settle_all(desk, tickets)
            noticed.append(list(seen))
            desk.waker.drain()
            noticed.append(list(seen))

        desk.loop.call_soon(turn)
        await passes(1)
        return noticed

    assert desk.run(body()) == [[], [0, 1, 2]]


def test_inside_a_running_task_nobody_is_woken_inline(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        tickets = await start_notes(desk, 3, seen)
        settle_all(desk, tickets)
        assert desk.waker.drain() is False
        at_once = list(seen)
        await passes(1)
        return at_once, seen

    assert desk.run(body()) == ([], [0, 1, 2])


def test_without_a_running_loop_nobody_is_woken_inline(desk: Desk) -> None:
    seen: list[Any] = []
    tickets = desk.run(start_notes(desk, 2, seen))
    settle_all(desk, tickets)
    desk.waker.drain()
    assert seen == []
    desk.run(passes(1))
    assert seen == [0, 1]


def test_user_callbacks_are_never_called_inline(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        noticed: list[list[Any]] = []
        ticket = desk.ticket()
        ticket.add_done_callback(seen.append)

        def turn() -> None:
            desk.answer([ticket], 1)
            noticed.append(list(seen))

        desk.loop.call_soon(turn)
        await passes(3)
        return noticed, seen == [ticket]

    assert desk.run(body()) == ([[]], True)


def test_another_method_of_a_task_is_no_wake_up(desk: Desk) -> None:
    async def body() -> Any:
        victim = asyncio.create_task(wait_for_it(desk.ticket()))
        ticket = desk.ticket()
        await passes(1)
        ticket.add_done_callback(victim.cancel)
        noticed: list[int] = []

        def turn() -> None:
            desk.answer([ticket], 1)
            noticed.append(victim.cancelling())

        desk.loop.call_soon(turn)
        await asyncio.wait({victim})
        return noticed, victim.cancelled()

    assert desk.run(body()) == ([0], True)


def test_cancel_wakes_by_call_soon(desk: Desk) -> None:
    async def body() -> Any:
        ticket, noticed = desk.ticket(), []
        task = asyncio.create_task(wait_for_it(ticket))
        await passes(1)

        def turn() -> None:
            assert ticket.cancel()
            noticed.append(task.done())

        desk.loop.call_soon(turn)
        await asyncio.wait({task})
        return noticed, task.cancelled()

    assert desk.run(body()) == ([False], True)


def test_answered_from_inside_a_running_task(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        task = asyncio.create_task(wait_for_it(ticket))
        await passes(1)
        desk.answer([ticket], 5)
        return await task

    assert desk.run(body()) == 5


# -- other tasks, and none ------------------------------------------------------------------------------------------------


@types.coroutine
def yielded_by_hand(ticket: Ticket[Any]) -> Generator[Any, None, Any]:
    """What a bridge to another kind of coroutine may do: it leaves it to the task to throw a failure in here."""
    ticket._asyncio_future_blocking = True
    try:
        got = yield ticket
    except ValueError:
        return "thrown in"
    return got, ticket.result()


@pytest.mark.parametrize("fails", [False, True])
def test_a_ticket_yielded_by_hand(desk: Desk, fails: bool) -> None:
    async def waiting(ticket: Ticket[Any]) -> Any:
        return await yielded_by_hand(ticket)

    async def body() -> Any:
        ticket = desk.ticket()
        task = asyncio.create_task(waiting(ticket))
        await passes(1)
        if fails:
            desk.waker.fail(ticket, ValueError("boom"))
        else:
            desk.waker.settle(ticket, 5)
        desk.loop.call_soon(desk.waker.drain)
        return await task

    assert desk.run(body()) == ("thrown in" if fails else (None, 5))


def test_run_until_complete_takes_a_ticket(desk: Desk) -> None:
    assert desk.loop.run_until_complete(desk.propose()) == 7


def test_a_pure_python_task_waits_as_well() -> None:
    def make_task(loop: Any, coroutine: Any, **options: Any) -> Any:
        return asyncio_tasks._PyTask(coroutine, loop=loop, **options)

    async def body() -> Any:
        one = await desk.propose()
        return [one, *await asyncio.gather(desk.propose(), desk.propose())]

    desk = Desk("asyncio")
    desk.loop.set_task_factory(make_task)
    assert desk.run(body()) == [7, 7, 7]
    desk.close()


def test_awaited_outside_a_task(desk: Desk) -> None:
    ticket = desk.ticket()
    coroutine = wait_for_it(ticket)
    assert coroutine.send(None) is ticket
    assert coroutine.send(None) is ticket  # woken too early, it goes on waiting
    desk.answer([ticket], 4)
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert stop.value.value == 4


@pytest.mark.skipif(
    DEBUG and sys.version_info < (3, 12),
    reason="on 3.11 Cython's line tracing of a cpdef function cannot call a tracer written in Python",
)
def test_awaited_under_a_tracer(desk: Desk) -> None:
    """A traced frame takes its steps through another slot than one that is not."""

    async def body() -> Any:
        late = desk.ticket()
        desk.answer_soon(late, value=(1, 2))
        return await late, await desk.waker.answered(3), await desk.waker.answered(None)

    def tracer(*_: Any) -> Any:
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert desk.run(body()) == ((1, 2), 3, None)
    finally:
        sys.settrace(before)


def make_eager_task(loop: Any, coroutine: Any, **options: Any) -> Any:
    """What asyncio.eager_task_factory does; uvloop passes that one of Python 3.13.0 an option that it does not know."""
    return asyncio.Task(coroutine, loop=loop, **{**options, "eager_start": True})


@eager
def test_eager_tasks(desk: Desk) -> None:
    async def waiting() -> Any:
        return await desk.propose()

    async def answered() -> Any:
        return await desk.waker.answered(1)

    async def outer(ticket: Ticket[Any]) -> Any:
        await ticket
        return await asyncio.create_task(waiting())  # started inside the wake-up of this very task

    async def body() -> Any:
        desk.loop.set_task_factory(make_eager_task)
        three = await asyncio.gather(*(asyncio.create_task(waiting()) for _ in range(3)))
        at_once = asyncio.create_task(answered()).done()
        task = asyncio.create_task(outer(ticket := desk.ticket()))
        desk.answer_soon(ticket, value=1)
        inner = await task
        desk.loop.set_task_factory(None)
        return three, at_once, inner

    assert desk.run(body()) == ([7, 7, 7], True, 7)
