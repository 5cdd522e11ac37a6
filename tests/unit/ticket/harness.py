"""A node in miniature for the tests of tickets: it hands them out, answers them once a turn, and notices a hang.

A wake-up that goes wrong leaves a task waiting for ever, so every test here runs under `Desk.run`: where its coroutine
is not done in time it fails, and the loop is closed without waiting for tasks that nothing can wake any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import pytest
import uvloop

from multiraft._ticket import Ticket, Waker

T = TypeVar("T")

HANG_S = 5.0

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Desk:
    """One loop, one waker, and turns: what is proposed in one pass of the loop is answered in the next."""

    def __init__(self, loop_name: str, *, debug: bool = False):
        self.runner = asyncio.Runner(debug=debug, loop_factory=LOOPS[loop_name])
        self.loop = self.runner.get_loop()
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.problems: list[dict[str, Any]] = []
        self.waker = Waker(self.loop)
        self.value: Any = 7
        self._proposed: list[Ticket[Any]] = []
        self._hung = False

    # -- tickets

    def propose(self) -> Ticket[Any]:
        """A ticket that the next turn answers with `value`."""
        if not self._proposed:
            self.loop.call_soon(self._turn)
        self._proposed.append(ticket := self.waker.ticket())
        return ticket

    def ticket(self) -> Ticket[Any]:
        """A ticket that is answered when the test says so."""
        return self.waker.ticket()

    def answer(self, tickets: Iterable[Ticket[Any]], value: Any) -> None:
        """Settle them all and wake whoever waits, here and now."""
        for ticket in tickets:
            self.waker.settle(ticket, value)
        self.waker.drain()

    def answer_soon(self, *tickets: Ticket[Any], value: Any) -> None:
        """The same from the loop, where no task runs: as the turn does it."""
        self.loop.call_soon(self.answer, tickets, value)

    def _turn(self) -> None:
        proposed, self._proposed = self._proposed, []
        self.answer(proposed, self.value)

    # -- running

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it as a task and return what it returns; a hang is a failure."""
        return self.runner.run(self._watch(coroutine))

    async def _watch(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(coroutine)
        _, pending = await asyncio.wait({task}, timeout=HANG_S)
        if pending:
            self._hung = True
            pytest.fail(f"hung: {task!r}, errors of the loop: {self.problems}")
        return task.result()

    def take_problems(self) -> list[BaseException | None]:
        """What reached the loop's exception handler so far; a test that provokes such an error takes it here."""
        taken = [context.get("exception") for context in self.problems]
        self.problems.clear()
        return taken

    def close(self) -> None:
        if self._hung:
            self.loop.close()
        else:
            self.runner.close()
            assert not self.problems, "errors that only the loop's exception handler saw"


async def passes(count: int) -> None:
    """Let the loop come round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


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
