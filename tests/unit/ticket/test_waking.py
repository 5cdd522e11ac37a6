"""Who is woken, when, and how: inline only where that is safe, oldest first, within a budget, once and never again."""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks as asyncio_tasks
from collections.abc import Generator
from typing import Any

import pytest

from multiraft._ticket import DEBUG, Ticket, Waker
from tests.unit.ticket.harness import LOOPS, Desk, passes

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")


async def wait_for_it(ticket: Ticket[Any]) -> Any:
    return await ticket


async def note(ticket: Ticket[Any], seen: list[Any], name: Any = None) -> None:
    value = await ticket
    seen.append(value if name is None else name)


async def start_notes(desk: Desk, count: int, seen: list[Any]) -> list[Ticket[Any]]:
    """Tickets with a task at each; a task that is woken notes the number of its ticket."""
    tickets = [desk.ticket() for _ in range(count)]
    for number, ticket in enumerate(tickets):
        asyncio.create_task(note(ticket, seen, number))  # noqa: RUF006  the ticket's callback holds it
    await passes(1)
    return tickets


def settle_all(desk: Desk, tickets: list[Ticket[Any]]) -> None:
    for ticket in tickets:
        assert desk.waker.settle(ticket, None)


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


# -- tasks that meddle while they are woken -------------------------------------------------------------------------------


def test_a_woken_task_answers_another(desk: Desk) -> None:
    async def body() -> Any:
        first, second = desk.ticket(), desk.ticket()

        async def meddler() -> str:
            await first
            desk.answer([second], 6)
            return "answered"

        tasks = [asyncio.create_task(meddler()), asyncio.create_task(wait_for_it(second))]
        await passes(1)
        desk.answer_soon(first, value=5)
        return await asyncio.gather(*tasks)

    assert desk.run(body()) == ["answered", 6]


def test_a_drain_inside_a_drain_keeps_the_order_and_forgets_nobody(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        first, late = desk.ticket(), desk.ticket()

        async def meddler() -> None:
            await first
            desk.waker.settle(late, None)
            desk.waker.drain()
            seen.append("meddler")

        meddling = asyncio.create_task(meddler())
        await passes(1)
        tickets = await start_notes(desk, 3, seen)
        waiting = asyncio.create_task(note(late, seen, "late"))
        await passes(1)

        def turn() -> None:
            settle_all(desk, [first, *tickets])
            assert desk.waker.drain() is False

        desk.loop.call_soon(turn)
        await asyncio.wait({meddling, waiting})
        return seen

    assert desk.run(body()) == ["meddler", 0, 1, 2, "late"]


def test_one_task_waits_for_two_tickets_of_a_turn(desk: Desk) -> None:
    async def body() -> Any:
        first, second = desk.ticket(), desk.ticket()

        async def both() -> int:
            return await first + await second

        task = asyncio.create_task(both())
        await passes(1)
        desk.answer_soon(first, second, value=5)
        return await task

    assert desk.run(body()) == 10


def test_a_woken_task_cancels_one_that_is_to_be_woken(desk: Desk) -> None:
    async def body() -> Any:
        first, second = desk.ticket(), desk.ticket()

        async def meddler() -> str:
            await first
            victim.cancel()
            return "cancelled"

        task = asyncio.create_task(meddler())
        victim = asyncio.create_task(wait_for_it(second))
        await passes(1)
        desk.answer_soon(first, second, value=5)
        return await asyncio.gather(task, victim, return_exceptions=True)

    outcome, victim = desk.run(body())
    assert outcome == "cancelled"
    assert isinstance(victim, asyncio.CancelledError)


def test_a_callback_that_raises_harms_nobody_else(desk: Desk) -> None:
    async def body() -> Any:
        def bad(_: Ticket[Any]) -> None:
            raise ValueError("a user's callback")

        ticket, other = desk.ticket(), desk.ticket()
        ticket.add_done_callback(bad)
        task = asyncio.create_task(wait_for_it(other))
        await passes(1)
        desk.answer_soon(ticket, other, value=5)
        return await task, ticket.result()

    assert desk.run(body()) == (5, 5)
    (problem,) = desk.take_problems()
    assert isinstance(problem, ValueError)


def test_a_wake_up_that_fails_is_reported_and_the_others_are_woken(desk: Desk) -> None:
    class Thief:
        """A future that keeps the wake-up of the task that awaits it."""

        _asyncio_future_blocking = True

        def __await__(self) -> Generator[Any, None, None]:
            self._asyncio_future_blocking = True
            yield self

        def get_loop(self) -> asyncio.AbstractEventLoop:
            return desk.loop

        def add_done_callback(self, fn: Any, *, context: Any = None) -> None:
            self.wake_up = fn

        def result(self) -> None:
            return None

    async def await_thief() -> None:
        await thief

    async def body() -> Any:
        robbed = asyncio.create_task(await_thief())
        await passes(1)
        desk.loop.call_soon(thief.wake_up, thief)
        await robbed
        ticket, other = desk.ticket(), desk.ticket()
        ticket.add_done_callback(thief.wake_up)  # of a task that is done: to wake it is an error
        task = asyncio.create_task(wait_for_it(other))
        await passes(1)
        desk.answer_soon(ticket, other, value=5)
        return await task

    thief = Thief()
    assert desk.run(body()) == 5
    (problem,) = desk.take_problems()
    assert isinstance(problem, asyncio.InvalidStateError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_an_interrupt_in_a_woken_task_ends_the_run_but_loses_nobody(
    loop_name: str, error: type[BaseException]
) -> None:
    loop = LOOPS[loop_name]()
    waker, seen = Waker(loop), []
    tickets = [waker.ticket() for _ in range(4)]

    async def interrupted() -> None:
        await tickets[0]
        raise error

    def turn() -> None:
        for ticket in tickets:
            waker.settle(ticket, None)
        waker.drain()

    tasks = [loop.create_task(interrupted())]
    tasks += [loop.create_task(note(ticket, seen, n)) for n, ticket in enumerate(tickets) if n]
    loop.call_soon(loop.call_soon, turn)
    with pytest.raises(error):
        loop.run_forever()
    assert waker.waiting == 0
    loop.run_until_complete(asyncio.wait(tasks[1:], timeout=5))
    assert seen == [1, 2, 3]
    assert isinstance(tasks[0].exception(), error)
    loop.close()


# -- other tasks, and none ------------------------------------------------------------------------------------------------


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
