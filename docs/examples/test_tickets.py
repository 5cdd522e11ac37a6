"""A machine with a bug, and the two tests that find it: `pytest test_tickets.py`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count

import multiraft
from multiraft.testing import UNKNOWN, BaseModel
from multiraft.testing.guard import guarded


class Tickets:
    """Numbers for requests. One that comes twice, since its answer was lost, gets the same number."""

    def __init__(self):
        self.next = 1
        self.numbers = {}

    def apply(self, command, index, term):
        if command not in self.numbers:
            self.numbers[command] = self.next
            self.next += 1
        return self.numbers[command]

    def read(self, query):
        return self.next

    def snapshot(self):
        yield str(self.next).encode()  # the bug: where are the numbers?

    def restore(self, chunks):
        self.next = int(b"".join(chunks))


class SameNumber(BaseModel):
    """What is right: every request, judged by itself, has one number."""

    name = "same-number"

    def initial(self):
        return None

    def step(self, state, f, argument, result):
        if result == UNKNOWN:
            return True, state
        return state in (None, result), result


def test_a_request_keeps_its_number(multiraft_simulation, multiraft_nemesis, multiraft_history):
    recorder = multiraft_history(SameNumber())

    async def customer(node, name):  # at every node, from each of its starts until it is killed
        tickets = await node.create_group("tickets", Tickets, timeout=60)
        for number in count():
            request = f"{name}-{number}"
            for _ in range(3):
                with suppress(multiraft.MultiRaftError):
                    with recorder.invoke(name, "take", request) as call:
                        call.ok(await tickets.propose(request.encode(), timeout=2))
                await asyncio.sleep(1)

    trial = multiraft_simulation(machines={"tickets": Tickets}, machine_log_bytes_max=1)
    trial.clients(customer, each=2)
    multiraft_nemesis(trial, "crash", seconds=60)
    trial.run(60)
    trial.settle()


def test_tickets_are_deterministic():
    tickets = guarded(Tickets)()
    for index, command in enumerate([b"anna", b"bert", b"anna"], 1):
        tickets.apply(command, index, 1)
