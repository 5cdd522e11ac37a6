"""Tasks, callbacks and handlers that meddle, raise or interrupt while a drain wakes them: nobody else is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from multiraft._ticket import Ticket, Waker
from tests.unit.ticket.harness import (
    LOOPS,
    Desk,
    note,
    passes,
    settle_all,
    start_notes,
    wait_for_it,
)

# -- tasks that answer, drain and cancel ----------------------------------------------------------------------------------


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


# -- what goes wrong ------------------------------------------------------------------------------------------------------


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


class Thief:
    """A future that keeps the wake-up of the task that awaits it. Used again when the task is done, it raises."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, fn: Any, *, context: Any = None) -> None:
        self.wake_up = fn

    def result(self) -> None:
        return None


async def stolen_wake_up(desk: Desk) -> Any:
    async def robbed() -> None:
        await thief

    thief = Thief(desk.loop)
    task = asyncio.create_task(robbed())
    await passes(1)
    desk.loop.call_soon(thief.wake_up, thief)
    await task
    return thief.wake_up


def test_a_wake_up_that_fails_is_reported_and_the_others_are_woken(desk: Desk) -> None:
    async def body() -> Any:
        ticket, other = desk.ticket(), desk.ticket()
        ticket.add_done_callback(await stolen_wake_up(desk))
        task = asyncio.create_task(wait_for_it(other))
        await passes(1)
        desk.answer_soon(ticket, other, value=5)
        return await task

    assert desk.run(body()) == 5
    (problem,) = desk.take_problems()
    assert isinstance(problem, asyncio.InvalidStateError)


def test_a_drain_by_an_exception_handler_wakes_nobody_inline(desk: Desk) -> None:
    """No task runs in a handler, but the drain that called it has only paused."""

    async def body() -> Any:
        seen: list[Any] = []
        noticed: list[list[Any]] = []
        ticket = desk.ticket()
        ticket.add_done_callback(await stolen_wake_up(desk))
        tickets = await start_notes(desk, 3, seen)

        def handle(_: Any, __: Any) -> None:
            assert desk.waker.drain() is False
            noticed.append(list(seen))

        desk.loop.set_exception_handler(handle)
        settle_all(desk, [ticket, *tickets])
        desk.loop.call_soon(desk.waker.drain)
        await passes(2)
        return noticed, seen

    assert desk.run(body()) == ([[]], [0, 1, 2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("loop_kind", LOOPS)
def test_an_interrupt_in_a_woken_task_ends_the_run_but_loses_nobody(
    loop_kind: str, error: type[BaseException]
) -> None:
    loop = LOOPS[loop_kind]()
    waker = Waker(loop)
    seen: list[Any] = []
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
