"""Every way to wait for a ticket that asyncio offers gives what it gives with a future, and nothing ever hangs.

Woken without the checks of the waker, five of these cases hung for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from multiraft._ticket import Ticket
from tests.unit.ticket.harness import Desk, passes, wait_for_it

cell: contextvars.ContextVar[Any] = contextvars.ContextVar("cell", default="unset")


async def start(ticket: Ticket[Any], **options: Any) -> asyncio.Task[Any]:
    """A task that already waits for the ticket."""
    task = asyncio.get_running_loop().create_task(wait_for_it(ticket), **options)
    await asyncio.sleep(0)
    return task


# -- one waiter -----------------------------------------------------------------------------------------------------------


def test_await_gives_the_value(desk: Desk) -> None:
    async def body() -> Any:
        return await desk.propose()

    assert desk.run(body()) == 7


@pytest.mark.parametrize(
    "value", [None, 0, (), (1, 2), ValueError("a value"), StopIteration(3), [None]], ids=repr
)
def test_any_value_arrives_as_it_is(desk: Desk, value: Any) -> None:
    async def body() -> Any:
        late, done = desk.ticket(), desk.waker.answered(value)
        desk.answer_soon(late, value=value)
        return await late, await done

    late, done = desk.run(body())
    assert late is value
    assert done is value


def test_awaited_twice_in_turn_gives_the_value_twice(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.propose()
        return await ticket, await ticket

    assert desk.run(body()) == (7, 7)


def test_an_answered_ticket_does_not_suspend(desk: Desk) -> None:
    async def body() -> Any:
        came_round = []
        desk.loop.call_soon(came_round.append, True)
        return await desk.waker.answered(3), list(came_round)

    assert desk.run(body()) == (3, [])


def test_a_failure_is_raised_where_it_is_awaited(desk: Desk) -> None:
    async def body() -> Any:
        task = await start(ticket := desk.ticket())
        error = ValueError("boom")
        assert desk.waker.fail(ticket, error)
        desk.waker.drain()
        with pytest.raises(ValueError, match="boom") as caught:
            await task
        return caught.value is error

    assert desk.run(body())


def test_one_exception_raised_to_many_does_not_pile_up_tracebacks(desk: Desk) -> None:
    def depth(error: BaseException) -> int:
        traceback, count = error.__traceback__, 0
        while traceback is not None:
            traceback, count = traceback.tb_next, count + 1
        return count

    async def body() -> Any:
        error, depths = ValueError("boom"), []
        tickets = [desk.ticket() for _ in range(3)]
        for ticket in tickets:
            desk.waker.fail(ticket, error)
        for ticket in tickets:
            with pytest.raises(ValueError, match="boom"):
                await ticket
            depths.append(depth(error))
        return depths

    first, *others = desk.run(body())
    assert others == [first, first]


def test_in_a_generator_of_values(desk: Desk) -> None:
    async def three() -> AsyncIterator[Any]:
        for _ in range(3):
            yield await desk.propose()

    async def body() -> Any:
        return [value async for value in three()]

    assert desk.run(body()) == [7, 7, 7]


# -- time limits ----------------------------------------------------------------------------------------------------------


def test_wait_for(desk: Desk) -> None:
    async def body() -> Any:
        return await asyncio.wait_for(desk.propose(), 1)

    assert desk.run(body()) == 7


def test_wait_for_runs_out(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ticket, 0.001)
        return ticket.cancelled()

    assert desk.run(body())


def test_timeout_block(desk: Desk) -> None:
    async def body() -> Any:
        async with asyncio.timeout(1):
            return await desk.propose()

    assert desk.run(body()) == 7


def test_timeout_block_runs_out(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await ticket
        return ticket.cancelled()

    assert desk.run(body())


# -- many at once ---------------------------------------------------------------------------------------------------------


def test_task_group_of_tickets(desk: Desk) -> None:
    async def body() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(desk.propose()) for _ in range(3)]
        return [task.result() for task in tasks]

    assert desk.run(body()) == [7, 7, 7]


def test_task_group_of_coroutines(desk: Desk) -> None:
    async def body() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait_for_it(desk.propose())) for _ in range(3)]
        return [task.result() for task in tasks]

    assert desk.run(body()) == [7, 7, 7]


def test_a_task_made_of_a_ticket_is_cancelled(desk: Desk) -> None:
    async def body() -> Any:
        task = asyncio.create_task(ticket := desk.ticket())
        await passes(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ticket.cancelled(), task.cancelled()

    assert desk.run(body()) == (True, True)


def test_gather(desk: Desk) -> None:
    async def body() -> Any:
        tickets = [desk.propose() for _ in range(3)]
        return await asyncio.gather(*tickets, wait_for_it(desk.propose()))

    assert desk.run(body()) == [7, 7, 7, 7]


def test_a_cancelled_gather_ends(desk: Desk) -> None:
    async def body() -> Any:
        tickets = [desk.ticket(), desk.ticket()]
        gathered = asyncio.gather(*tickets)
        await passes(1)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        return [ticket.cancelled() for ticket in tickets]

    assert desk.run(body()) == [True, True]


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_gather_over_a_cancelled_ticket(desk: Desk, return_exceptions: bool) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        gathered = asyncio.gather(ticket, desk.propose(), return_exceptions=return_exceptions)
        ticket.cancel("enough")
        return await asyncio.gather(gathered, return_exceptions=True)

    (outcome,) = desk.run(body())
    cancelled, *others = outcome if return_exceptions else [outcome]
    assert isinstance(cancelled, asyncio.CancelledError)
    assert cancelled.args == ("enough",)
    assert others == ([7] if return_exceptions else [])


def test_wait_takes_tasks_and_refuses_bare_tickets(desk: Desk) -> None:
    async def body() -> Any:
        # A ticket passes for a coroutine, so that create_task takes it; asyncio.wait takes none of those.
        with pytest.raises(TypeError, match="use tasks explicitly"):
            await asyncio.wait({desk.propose()})
        tasks = {asyncio.create_task(desk.propose()) for _ in range(2)}
        done, pending = await asyncio.wait(tasks)
        return [task.result() for task in done], pending

    assert desk.run(body()) == ([7, 7], set())


def test_as_completed(desk: Desk) -> None:
    async def body() -> Any:
        return [await one for one in asyncio.as_completed([desk.propose(), desk.propose()])]

    assert desk.run(body()) == [7, 7]


def test_three_tasks_wait_for_one_ticket(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        tasks = [await start(ticket) for _ in range(3)]
        desk.answer_soon(ticket, value=5)
        return await asyncio.gather(*tasks)

    assert desk.run(body()) == [5, 5, 5]


# -- giving up ------------------------------------------------------------------------------------------------------------


def test_shield(desk: Desk) -> None:
    async def body() -> Any:
        return await asyncio.shield(desk.propose())

    assert desk.run(body()) == 7


def test_a_cancelled_shield_leaves_the_ticket_alone(desk: Desk) -> None:
    async def shielded(ticket: Ticket[Any]) -> Any:
        return await asyncio.shield(ticket)

    async def body() -> Any:
        ticket = desk.ticket()
        task = asyncio.create_task(shielded(ticket))
        await passes(1)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        still_pending = not ticket.done()
        desk.answer([ticket], 9)
        return type(outcome), still_pending, ticket.result()

    assert desk.run(body()) == (asyncio.CancelledError, True, 9)


def test_p100_cancelling_the_task_gives_up_the_wait_and_nothing_else(desk: Desk) -> None:
    async def body() -> Any:
        ticket, other = desk.ticket(), desk.ticket()
        task, bystander = await start(ticket), await start(other)
        task.cancel()
        await asyncio.wait({task})
        taken = [desk.waker.settle(ticket, 1), desk.waker.settle(other, 2)]
        desk.waker.drain()
        return task.cancelled(), ticket.cancelled(), taken, await bystander

    assert desk.run(body()) == (True, True, [False, True], 2)


def test_the_message_of_a_cancel_arrives_where_it_is_awaited(desk: Desk) -> None:
    async def waiting(ticket: Ticket[Any]) -> Any:
        with pytest.raises(asyncio.CancelledError) as caught:
            await ticket
        return caught.value.args

    async def body() -> Any:
        tasks = [asyncio.create_task(waiting(desk.ticket())) for _ in range(2)]
        await passes(1)
        tasks[0].cancel("why")
        tasks[1].cancel()
        return await asyncio.gather(*tasks)

    assert desk.run(body()) == [("why",), ()]


def test_a_task_cancelled_between_answer_and_wake_is_cancelled(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        task = await start(ticket)

        def answer_and_cancel() -> None:
            desk.waker.settle(ticket, 1)
            task.cancel()
            desk.waker.drain()

        desk.loop.call_soon(answer_and_cancel)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        return type(outcome), ticket.result()

    assert desk.run(body()) == (asyncio.CancelledError, 1)


def test_nothing_of_a_cancelled_wait_is_kept(desk: Desk) -> None:
    class Big:
        pass

    async def holding(ticket: Ticket[Any], _: Big) -> None:
        await ticket

    async def body() -> Any:
        ticket, big = desk.ticket(), Big()
        gone = weakref.ref(big)
        task = asyncio.create_task(holding(ticket, big))
        await passes(1)
        task.cancel()
        del big
        await asyncio.wait({task})
        assert task.cancelled()
        del task
        gc.collect()
        return gone()  # the ticket is alive still

    assert desk.run(body()) is None


# -- contexts -------------------------------------------------------------------------------------------------------------


async def set_and_wait(desk: Desk, value: int) -> Any:
    cell.set(value)
    await desk.propose()
    return cell.get()


def test_each_task_goes_on_in_its_own_context(desk: Desk) -> None:
    async def body() -> Any:
        seen = await asyncio.gather(*(set_and_wait(desk, value) for value in range(3)))
        return seen, cell.get()

    assert desk.run(body()) == ([0, 1, 2], "unset")


def test_two_tasks_share_a_context(desk: Desk) -> None:
    async def body() -> Any:
        context = contextvars.copy_context()
        tasks = [desk.loop.create_task(set_and_wait(desk, n), context=context) for n in (1, 2)]
        return await asyncio.gather(*tasks)

    assert desk.run(body()) == [2, 2]


def test_a_drain_inside_the_very_context_of_the_task(desk: Desk) -> None:
    async def body() -> Any:
        context, ticket = contextvars.copy_context(), desk.ticket()
        task = await start(ticket, context=context)
        desk.loop.call_soon(desk.answer, [ticket], 5, context=context)
        return await task

    assert desk.run(body()) == 5
