"""Histories for the tests and benchmarks of the checker: what clients of a correct store would see, and then damaged ones.

A simulated store takes each operation at one moment between its beginning and its end, both after random times; of some
the outcome stays unknown, and these happen, happen late, or never happen. Everything comes from the seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multiraft.testing import INFO, OK, UNKNOWN, Model, Operation

NEVER, LATE = 0.4, 0.2
"""Of unknown operations, how many never happen, and how many after they were given up."""


@dataclass
class Recipe:
    """What the clients of one store do."""

    model: Model
    count: int
    clients: int = 4
    keys: int = 1
    unknown: float = 0.0
    weights: dict[str, float] = field(default_factory=lambda: {"read": 0.5, "write": 0.5})
    values: int = 0
    """How many different values are written; 0 is a new one each time."""
    fresh: float = 0.0
    """Where there are ``values``, how many are new all the same."""
    stale: float = 0.3
    """How many cas expect what is not there."""
    amounts: Sequence[int] = (1,)


@dataclass
class Going:
    """An operation on its way."""

    process: int
    f: str
    key: int
    argument: Any
    called: int
    result: Any = None
    outcome: str = OK
    returned: int | None = None

    def operation(self) -> Operation:
        result = self.result if self.outcome == OK else UNKNOWN
        if isinstance(result, list):
            result = tuple(result)
        return Operation(
            self.process,
            self.f,
            self.key,
            self.argument,
            self.called,
            self.called,
            self.outcome,
            result,
            self.returned,
            self.returned,
        )


class Store:
    """The correct store: one state a key, changed in place where that is cheaper."""

    def __init__(self, recipe: Recipe, chance: random.Random):
        self.recipe = recipe
        self.chance = chance
        self.states: dict[int, Any] = {}
        self.written = 0

    def state(self, key: int) -> Any:
        return self.states.get(key, self.recipe.model.initial())

    def ask(self, process: int, called: int) -> Going:
        """An operation that a client might begin now."""
        recipe, chance = self.recipe, self.chance
        key = chance.randrange(recipe.keys)
        f = chance.choices(list(recipe.weights), list(recipe.weights.values()))[0]
        self.written += 1
        value = self.written
        if recipe.values:
            value = chance.randrange(recipe.values)
            if chance.random() < recipe.fresh:
                value = 100 + self.written
        argument: Any = value
        if f == "cas":
            there = self.state(key)
            old = there if chance.random() > recipe.stale else (there or 1) - 1
            argument = (old, value)
        elif f == "add":
            argument = chance.choice(recipe.amounts)
        elif f in ("read", "get", "delete"):
            argument = None
        elif "append" in recipe.weights and recipe.model.name == "kv":
            argument = "abc"[value % 3]
        return Going(process, f, key, argument, called)

    def carry_out(self, one: Going) -> None:
        state = self.state(one.key)
        if one.f in ("read", "get"):
            one.result = tuple(state) if isinstance(state, list) else state
        elif one.f == "append" and self.recipe.model.name == "list-append":
            self.states.setdefault(one.key, []).append(one.argument)
        elif one.f == "cas":
            one.result = state == one.argument[0]
            if one.result:
                self.states[one.key] = one.argument[1]
        else:
            _, self.states[one.key] = self.recipe.model.step(state, one.f, one.argument, UNKNOWN)
            if one.f == "add" and self.chance.random() < 0.2:
                one.result = self.states[one.key]


def history(recipe: Recipe, seed: int) -> list[Operation]:
    """A linearizable history, in the order of beginnings."""
    chance = random.Random(seed)
    store = Store(recipe, chance)
    events: list[tuple[float, int, str, Going | None]] = []
    for process in range(recipe.clients):
        heapq.heappush(events, (chance.random(), process, "begin", None))
    going: list[Going] = []
    position = 0
    while events:
        now, process, what, one = heapq.heappop(events)
        if what == "do" and one is not None:
            store.carry_out(one)
        elif what == "end" and one is not None:
            position += 1
            one.returned = position
            heapq.heappush(events, (now + chance.expovariate(2), process, "begin", None))
        elif len(going) < recipe.count:
            position += 1
            one = store.ask(process, position)
            going.append(one)
            until = chance.expovariate(1)
            moment = until * chance.random()
            if chance.random() < recipe.unknown:
                one.outcome = INFO
                luck = chance.random()
                moment = -1 if luck < NEVER else until * 20 if luck < NEVER + LATE else moment
            if moment >= 0:
                heapq.heappush(events, (now + moment, process, "do", one))
            heapq.heappush(events, (now + until, process, "end", one))
    return [one.operation() for one in going]


def stale_read(operations: list[Operation], after: int, back: int) -> list[Operation]:
    """The history with one read, after so many operations, that says what an earlier one said."""
    found = list(operations)
    reads = [n for n, one in enumerate(found) if one.f == "read" and one.outcome == OK]
    at = next(n for n in reads if n >= after)
    earlier = [n for n in reads if (found[n].returned or 0) < found[at].called and n < at]
    found[at] = replace(found[at], result=found[earlier[-back]].result)
    return found


def damaged(operations: list[Operation], seed: int, part: float) -> list[Operation]:
    """The history with some answers changed to others that might have been."""
    chance = random.Random(seed)
    results = [one.result for one in operations if one.outcome == OK]
    found = []
    for one in operations:
        if one.outcome == OK and chance.random() < part:
            one = replace(one, result=other_result(one, results, chance))
        found.append(one)
    return found


def other_result(one: Operation, results: list[Any], chance: random.Random) -> Any:
    if one.f == "cas":
        return not one.result
    if one.f == "add":
        return None if one.result is None else one.result + chance.choice((-1, 1))
    if one.f not in ("read", "get"):
        return one.result
    if isinstance(one.result, tuple) and one.result:
        rest = list(one.result)
        if chance.random() < 0.5:
            del rest[chance.randrange(len(rest))]
        else:
            chance.shuffle(rest)
        return tuple(rest)
    if isinstance(one.result, str) and one.result:
        return one.result[1:] if chance.random() < 0.5 else one.result[::-1] + "a"
    if isinstance(one.result, int) and not isinstance(one.result, bool) and chance.random() < 0.5:
        return one.result + chance.choice((-1, 1))
    same = [value for value in results if type(value) is type(one.result)]
    return chance.choice(same or [None])
