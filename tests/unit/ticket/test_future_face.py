"""The ticket as a future and as a coroutine: what each method answers in each state, and what is refused."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from multiraft._ticket import Ticket, Waker
from tests.unit.ticket.harness import Desk, passes


def in_state(desk: Desk, state: str) -> Ticket[Any]:
    ticket = desk.waker.ticket(term=3, index=2**64 - 1)
    if state == "answered":
        assert desk.waker.settle(ticket, 5)
    elif state == "failed":
        assert desk.waker.fail(ticket, ValueError("boom"))
    elif state == "cancelled":
        assert ticket.cancel("why")
    return ticket


STATES = ["pending", "answered", "failed", "cancelled"]
VALUES = [None, 5, (), (1, 2), ValueError("a value"), StopIteration(3)]


# -- states ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_a_ticket_says_what_it_is(desk: Desk, state: str) -> None:
    ticket = in_state(desk, state)
    assert repr(ticket) == f"<Ticket term=3 index=18446744073709551615 {state}>"
    assert (ticket.term, ticket.index) == (3, 2**64 - 1)
    assert ticket.get_loop() is desk.loop
    assert ticket.done() is (state != "pending")
    assert ticket.cancelled() is (state == "cancelled")


def test_result_and_exception(desk: Desk) -> None:
    answered, failed = in_state(desk, "answered"), in_state(desk, "failed")
    assert answered.result() == 5
    assert answered.exception() is None
    assert isinstance(failed.exception(), ValueError)
    with pytest.raises(ValueError, match="boom"):
        failed.result()
    for method in ("result", "exception"):
        with pytest.raises(asyncio.InvalidStateError, match="pending"):
            getattr(in_state(desk, "pending"), method)()
        with pytest.raises(asyncio.CancelledError, match="why"):
            getattr(in_state(desk, "cancelled"), method)()


@pytest.mark.parametrize("second", ["answered", "failed", "cancelled"])
@pytest.mark.parametrize("first", ["answered", "failed", "cancelled"])
def test_p100_what_came_first_stands(desk: Desk, first: str, second: str) -> None:
    ticket = in_state(desk, first)
    before = repr(ticket)
    if second == "answered":
        taken = desk.waker.settle(ticket, 6)
    elif second == "failed":
        taken = desk.waker.fail(ticket, KeyError("later"))
    else:
        taken = ticket.cancel("later")
    assert taken is False
    assert repr(ticket) == before
    if first == "answered":
        assert ticket.result() == 5
    else:
        with pytest.raises((ValueError, asyncio.CancelledError), match=r"boom|why"):
            ticket.result()


def test_a_ticket_never_fails_with_stop_iteration(desk: Desk) -> None:
    ticket, cause = desk.ticket(), StopIteration(1)
    assert desk.waker.fail(ticket, cause)
    error = ticket.exception()
    assert isinstance(error, RuntimeError)
    assert error.__cause__ is cause
    with pytest.raises(RuntimeError, match="cannot fail with StopIteration"):
        desk.run(asyncio.wait_for(ticket, 1))


@pytest.mark.parametrize("wrong", [None, "boom", ValueError], ids=repr)
def test_a_ticket_fails_with_exceptions_only(desk: Desk, wrong: Any) -> None:
    ticket = desk.ticket()
    with pytest.raises(TypeError, match="with an exception"):
        desk.waker.fail(ticket, wrong)
    assert not ticket.done()


# -- callbacks ------------------------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_and_once(desk: Desk) -> None:
    async def body() -> Any:
        ticket, seen = desk.ticket(), []
        for number in range(4):
            ticket.add_done_callback(lambda done, number=number: seen.append((number, done)))
        desk.answer([ticket], 1)
        desk.answer([ticket], 2)
        ticket.cancel()
        unseen = list(seen)
        await passes(2)
        return unseen, seen == [(number, ticket) for number in range(4)]

    assert desk.run(body()) == ([], True)


def test_a_callback_on_a_done_ticket_is_called_from_the_loop(desk: Desk) -> None:
    async def body() -> Any:
        seen: list[Any] = []
        ticket = desk.waker.answered(1)
        ticket.add_done_callback(seen.append)
        unseen = list(seen)
        await passes(1)
        return unseen, seen == [ticket]

    assert desk.run(body()) == ([], True)


def test_a_callback_runs_in_the_context_given_or_in_that_of_its_adding(desk: Desk) -> None:
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="unset")

    async def body() -> Any:
        given, seen = contextvars.copy_context(), []
        given.run(cell.set, "given")
        for ticket in (desk.ticket(), desk.waker.answered(1)):
            cell.set("added")
            ticket.add_done_callback(lambda _: seen.append(cell.get()))
            ticket.add_done_callback(lambda _: seen.append(cell.get()), context=given)
            cell.set("later")
            desk.answer([ticket], 1)
        await passes(2)
        return sorted(seen)

    assert desk.run(body()) == ["added", "added", "given", "given"]


def test_callbacks_are_removed_by_equality(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        first: list[Any] = []
        second: list[Any] = []
        assert ticket.remove_done_callback(first.append) == 0
        for seen in (first, second, first, first, second):
            ticket.add_done_callback(seen.append)
        removed = ticket.remove_done_callback(first.append)
        desk.answer([ticket], 1)
        await passes(1)
        return removed, len(first), len(second), ticket.remove_done_callback(second.append)

    assert desk.run(body()) == (3, 0, 2, 0)


def test_the_last_callback_can_be_removed_and_another_added(desk: Desk) -> None:
    async def body() -> Any:
        ticket = desk.ticket()
        first: list[Any] = []
        second: list[Any] = []
        ticket.add_done_callback(first.append)
        assert ticket.remove_done_callback(first.append) == 1
        ticket.add_done_callback(second.append)
        desk.answer([ticket], 1)
        await passes(1)
        return first, second == [ticket]

    assert desk.run(body()) == ([], True)


# -- as others see it -----------------------------------------------------------------------------------------------------


def test_asyncio_takes_it_for_a_future_and_for_a_coroutine(desk: Desk) -> None:
    ticket = desk.ticket()
    assert asyncio.isfuture(ticket)
    assert asyncio.iscoroutine(ticket)
    assert isinstance(ticket, Coroutine)
    assert inspect.isawaitable(ticket)
    assert asyncio.ensure_future(ticket, loop=desk.loop) is ticket


def test_a_task_of_another_loop_is_refused(desk: Desk) -> None:
    async def body() -> None:
        await ticket

    ticket, other = desk.ticket(), Desk("asyncio")
    with pytest.raises(RuntimeError, match="different loop"):
        other.run(body())
    other.close()


def steps_by_hand(ticket: Ticket[Any]) -> list[Callable[[], Any]]:
    """Each goes another way: through the slot of an iterator, and through the methods by name."""
    return [lambda: next(ticket), lambda: ticket.send(None), ticket.__next__]


def test_a_step_of_a_pending_ticket_yields_it_to_the_task(desk: Desk) -> None:
    ticket = desk.ticket()
    assert iter(ticket) is ticket
    for step in steps_by_hand(ticket):
        ticket._asyncio_future_blocking = False
        assert step() is ticket
        assert ticket._asyncio_future_blocking is True


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_step_of_an_answered_ticket_ends_with_the_value(desk: Desk, value: Any) -> None:
    for step in steps_by_hand(desk.waker.answered(value)):
        with pytest.raises(StopIteration) as stop:
            step()
        assert stop.value.value is value


def test_a_value_arrives_without_a_traceback(desk: Desk) -> None:
    """Raised by Cython's own code it would have one, and cost what a ticket saves: the slots are filled by hand."""
    with pytest.raises(StopIteration) as stop:
        next(desk.waker.answered(5))
    assert stop.value.__traceback__ is not None
    assert stop.value.__traceback__.tb_next is None


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_step_of_any_other_ticket_raises(desk: Desk, state: str) -> None:
    for step in steps_by_hand(in_state(desk, state)):
        with pytest.raises((ValueError, asyncio.CancelledError), match=r"boom|why"):
            step()


def test_what_is_thrown_in_comes_out_and_changes_nothing(desk: Desk) -> None:
    ticket, error = desk.ticket(), ValueError("thrown")
    thrown: list[tuple[Any, ...]] = [
        (error,),
        (ValueError,),
        (ValueError, "thrown"),
        (ValueError, error),
    ]
    for arguments in thrown:
        with pytest.raises(ValueError):
            ticket.throw(*arguments)
    traceback = error.__traceback__
    with pytest.raises(ValueError) as caught:
        ticket.throw(ValueError, error, traceback)
    assert caught.value is error
    ticket.close()
    assert not ticket.done()


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_only_a_waker_makes_tickets(desk: Desk) -> None:
    with pytest.raises(TypeError, match="made by a Waker"):
        Ticket()
    with pytest.raises(TypeError):
        copy.copy(desk.ticket())


def test_a_ticket_without_a_waker_is_an_error_and_no_crash() -> None:
    ticket = Ticket.__new__(Ticket)
    with pytest.raises(AttributeError):
        ticket.get_loop()
    ticket.add_done_callback(print)
    with pytest.raises(AttributeError):
        ticket.cancel()


@pytest.mark.parametrize("kind", [Ticket, Waker])
def test_subclassing_is_refused(kind: type) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Own", (kind,), {})


def test_what_is_no_ticket_is_refused(desk: Desk) -> None:
    for wrong in (None, desk.loop, 3):
        with pytest.raises((TypeError, AttributeError)):
            desk.waker.settle(wrong, 1)
        with pytest.raises((TypeError, AttributeError)):
            desk.waker.fail(wrong, ValueError())


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_that_are_no_u64_are_refused(desk: Desk, number: int) -> None:
    with pytest.raises(OverflowError):
        desk.waker.ticket(term=number)
    with pytest.raises(OverflowError):
        desk.waker.ticket(index=number)
    with pytest.raises(AttributeError):
        desk.ticket().term = 1  # the node's to set


def test_ticket_of_a_type() -> None:
    assert Ticket[int].__origin__ is Ticket
