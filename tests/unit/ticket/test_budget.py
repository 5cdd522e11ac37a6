"""How much is woken at a time, in which order, and how tasks that never have to wait let the loop come round."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from multiraft._ticket import Ticket
from tests.unit.ticket.harness import Desk, note, passes, settle_all, start_notes

UNSUSPENDED_MAX = 256


def in_callback(desk: Desk, function: Any) -> asyncio.Future[Any]:
    """Call it from the loop, where no task runs; the future has what it returned."""
    outcome = desk.loop.create_future()
    desk.loop.call_soon(lambda: outcome.set_result(function()))
    return outcome


# -- the budget of a drain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 3, 10])
def test_a_budget_is_kept_and_so_is_the_order(desk: Desk, budget: int) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        tickets = await start_notes(desk, 10, seen)
        settle_all(desk, tickets)
        drains, more = 0, True
        while more:
            more = await in_callback(desk, lambda: desk.waker.drain(budget))
            drains += 1
            assert len(seen) == min(10, drains * budget)
            assert more is (len(seen) < 10)
            assert desk.waker.waiting == 10 - len(seen)
        return seen

    assert desk.run(body()) == list(range(10))


@pytest.mark.parametrize("budget", [0, -1])
def test_without_a_budget_nobody_is_woken(desk: Desk, budget: int) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        settle_all(desk, await start_notes(desk, 1, seen))
        more = await in_callback(desk, lambda: desk.waker.drain(budget))
        unseen = list(seen)
        more_then = await in_callback(desk, desk.waker.drain)
        return more, unseen, more_then, seen

    assert desk.run(body()) == (True, [], False, [0])


def test_what_is_left_goes_before_what_is_settled_later(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        tickets = await start_notes(desk, 9, seen)
        for start in (0, 3, 6):
            settle_all(desk, tickets[start : start + 3])
            await in_callback(desk, lambda: desk.waker.drain(2))
        assert seen == [0, 1, 2, 3, 4, 5]
        await in_callback(desk, desk.waker.drain)
        return seen

    assert desk.run(body()) == list(range(9))


def test_the_order_holds_between_wake_ups_inline_and_by_call_soon(desk: Desk) -> None:
    """Those by call_soon come a pass later; among themselves they keep the order too."""

    async def body() -> Any:
        seen: list[Any] = []
        tickets = await start_notes(desk, 4, seen)
        for number in (1, 3):
            tickets[number].add_done_callback(
                lambda _: None
            )  # no more the one waiter of its ticket
        settle_all(desk, tickets)
        await in_callback(desk, desk.waker.drain)
        await passes(2)
        return seen

    assert desk.run(body()) == [0, 2, 1, 3]


def test_what_is_settled_meanwhile_is_left_for_the_next_drain(desk: Desk) -> None:
    async def body() -> Any:
        first, second = desk.ticket(), desk.ticket()
        seen: list[Any] = []

        async def settler() -> None:
            await first
            desk.waker.settle(second, None)

        tasks = [asyncio.create_task(settler()), asyncio.create_task(note(second, seen, "second"))]
        await passes(1)
        settle_all(desk, [first])
        more = await in_callback(desk, desk.waker.drain)
        unseen = list(seen)
        more_then = await in_callback(desk, desk.waker.drain)
        await asyncio.wait(tasks)
        return more, unseen, more_then, seen

    assert desk.run(body()) == (True, [], False, ["second"])


def test_a_ticket_that_nobody_waits_for_costs_no_budget(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        unwaited = [desk.ticket() for _ in range(5)]
        left = [desk.ticket() for _ in range(5)]
        for ticket in left:
            ticket.add_done_callback(seen.append)
        tickets = await start_notes(desk, 1, seen)
        settle_all(desk, [*unwaited, *left, *tickets])
        for ticket in left:
            assert ticket.remove_done_callback(seen.append) == 1
        await in_callback(desk, lambda: desk.waker.drain(1))
        return seen

    assert desk.run(body()) == [0]


def test_a_small_budget_is_kept_over_a_long_backlog(desk: Desk) -> None:
    async def body() -> Any:
        woken = 0

        def count(_: Ticket[Any]) -> None:
            nonlocal woken
            woken += 1

        tickets = [desk.ticket() for _ in range(1_000)]
        for ticket in tickets:
            ticket.add_done_callback(count)
        settle_all(desk, tickets)
        await in_callback(desk, lambda: desk.waker.drain(64))
        after_one = desk.waker.waiting
        while await in_callback(desk, lambda: desk.waker.drain(256)):
            assert woken <= 1_000 - desk.waker.waiting
        await passes(1)
        return after_one, woken

    assert desk.run(body()) == (1_000 - 64, 1_000)


def test_clients_that_never_stop_do_not_starve_the_loop(desk: Desk) -> None:
    async def body() -> Any:
        count, stop = 0, False

        async def client() -> None:
            nonlocal count
            while not stop:
                await desk.propose()
                count += 1

        clients = [asyncio.create_task(client()) for _ in range(100)]
        await passes(20)
        seen, stop = count, True
        await asyncio.gather(*clients)
        return seen

    # At most one answer a client and pass; fewer where the loop looks at its ready list in another order.
    assert 100 * 5 <= desk.run(body()) <= 100 * 20


# -- awaits that need no waiting ------------------------------------------------------------------------------------------


def at_once(desk: Desk, kind: str) -> Ticket[Any]:
    """A ticket that is done before anybody awaits it, by each way there is."""
    if kind == "answered":
        return desk.waker.answered(kind)
    ticket = desk.ticket()
    if kind == "settled":
        assert desk.waker.settle(ticket, kind)
    else:
        assert desk.waker.fail(ticket, ValueError(kind))
    return ticket


async def suspends(ticket: Ticket[Any]) -> bool:
    """Await it; did that let the loop come round?"""
    came_round: list[bool] = []
    asyncio.get_running_loop().call_soon(came_round.append, True)
    try:
        await ticket
    except ValueError:
        assert ticket.exception() is not None
    return bool(came_round)


async def until_suspended(desk: Desk) -> int:
    """How many awaits do not suspend before one does."""
    count = 0
    while not await suspends(desk.waker.answered(None)):
        count += 1
    return count


@pytest.mark.parametrize("kind", ["answered", "settled", "failed"])
def test_one_in_a_row_suspends(desk: Desk, kind: str) -> None:
    async def body() -> Any:
        tickets = (at_once(desk, kind) for _ in range(3 * (UNSUSPENDED_MAX + 1)))
        return [number for number, ticket in enumerate(tickets, 1) if await suspends(ticket)]

    step = UNSUSPENDED_MAX + 1
    assert desk.run(body()) == [step, 2 * step, 3 * step]


def test_the_one_that_suspends_still_gives_its_answer(desk: Desk) -> None:
    async def body() -> Any:
        tickets = [desk.waker.answered(number) for number in range(600)]
        assert all(ticket.done() for ticket in tickets)
        return [await ticket for ticket in tickets]

    assert desk.run(body()) == list(range(600))


def test_a_tight_loop_of_answers_lets_others_run(desk: Desk) -> None:
    async def body() -> Any:
        ticked = 0

        async def ticker() -> None:
            nonlocal ticked
            for _ in range(10):
                await asyncio.sleep(0)
                ticked += 1

        ticking, reads, ticket = asyncio.create_task(ticker()), 0, desk.waker.answered(None)
        while not ticking.done():
            await ticket  # the same one again and again, to make it harder
            reads += 1
        return ticked, reads

    ticked, reads = desk.run(body())
    assert ticked == 10
    assert reads <= 12 * (UNSUSPENDED_MAX + 1)


def test_the_one_that_suspends_can_be_cancelled(desk: Desk) -> None:
    async def tight() -> None:
        while True:
            await desk.waker.answered(None)

    async def body() -> Any:
        task = asyncio.create_task(tight())
        await passes(2)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert desk.run(body())


def test_whoever_was_woken_does_not_suspend_again(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        count = 2 * UNSUSPENDED_MAX
        settle_all(desk, await start_notes(desk, count, seen))
        await in_callback(desk, desk.waker.drain)
        return len(seen) == count

    assert desk.run(body())


def test_a_drain_from_the_loop_starts_the_count_anew(desk: Desk) -> None:
    async def body() -> Any:
        await until_suspended(desk)
        for _ in range(200):
            assert not await suspends(desk.waker.answered(None))
        desk.waker.drain()  # inside a task: the loop has not come round
        inside = await until_suspended(desk)
        for _ in range(200):
            assert not await suspends(desk.waker.answered(None))
        await in_callback(desk, desk.waker.drain)
        return inside, await until_suspended(desk)

    assert desk.run(body()) == (UNSUSPENDED_MAX - 200, UNSUSPENDED_MAX)
