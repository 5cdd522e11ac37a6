"""The checker against all orders of small histories: the same verdict, and failing parts that fail by themselves.

``MULTIRAFT_CHECKER_SEEDS=200000`` judges more of them.
"""

from __future__ import annotations

import os
import random
from collections import Counter as Tally
from collections.abc import Callable

import pytest

import multiraft.testing.linearizability as judge
from multiraft.testing import Counter, KeyValue, ListAppend, Model, Register, check
from multiraft.testing.history import History
from tests.unit.testing.brute import Starting, linearizable
from tests.unit.testing.histories import Recipe, damaged, history

SEEDS = int(os.environ.get("MULTIRAFT_CHECKER_SEEDS", "1200"))


def register(chance: random.Random) -> Recipe:
    weights = chance.choice(
        (
            {"read": 1.0, "write": 1.0},
            {"read": 2.0, "write": 2.0, "cas": 2.0},
            {"read": 2.0, "write": 1.0, "cas": 3.0, "delete": 1.0},
            {"read": 1.0, "write": 1.0, "cas": 4.0},
        )
    )
    values, fresh = chance.choice((0, 0, 2, 3)), chance.choice((0.0, 0.5))
    stale = chance.choice((0.0, 0.3))
    return Recipe(Register(), 0, weights=weights, values=values, fresh=fresh, stale=stale)


def key_value(chance: random.Random) -> Recipe:
    weights = {"get": 2.0, "put": 1.0, "append": 2.0, "delete": 0.3}
    if chance.random() < 0.3:
        weights = {"get": 2.0, "put": 1.0, "cas": 2.0}
    return Recipe(KeyValue(), 0, weights=weights, values=0 if "cas" in weights else 3)


def counter(chance: random.Random) -> Recipe:
    amounts = chance.choice(((1,), (1, 2, 3), (1, -1), (0, 1)))
    return Recipe(Counter(), 0, weights={"add": 1.0, "read": 1.0}, amounts=amounts)


def list_append(chance: random.Random) -> Recipe:
    weights = {"append": 1.0, "read": 1.5}
    return Recipe(ListAppend(), 0, weights=weights, values=0)


@pytest.mark.slow
@pytest.mark.timeout(0 if SEEDS > 10_000 else 60)
@pytest.mark.parametrize("draw", [register, key_value, counter, list_append])
def test_the_verdict_is_that_of_all_orders(draw: Callable[[random.Random], Recipe]) -> None:
    compare(draw)


@pytest.mark.slow
@pytest.mark.timeout(0 if SEEDS > 10_000 else 60)
def test_the_verdict_is_the_same_where_every_search_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that each is tried without refused cas first."""
    monkeypatch.setattr(judge, "SOON_PER_OPERATION", 0)
    monkeypatch.setattr(judge, "SOON_MIN", 1)
    compare(register)


def compare(draw: Callable[[random.Random], Recipe]) -> None:
    tally: Tally[bool] = Tally()
    for seed in range(SEEDS):
        chance = random.Random(seed)
        recipe = draw(chance)
        recipe.count = chance.randrange(2, 10)
        recipe.clients = chance.randrange(2, 6)
        recipe.unknown = chance.choice((0.0, 0.2, 0.4))
        operations = damaged(history(recipe, seed), seed, chance.choice((0.0, 0.5, 0.9)))
        expected = linearizable(operations, recipe.model)
        verdict = check(History(tuple(operations)), recipe.model)
        assert verdict.outcome == ("ok" if expected else "violated"), f"seed {seed}: {operations}"
        tally[expected] += 1
        if verdict.part is not None:
            assert not linearizable(
                verdict.part.operations, Starting(recipe.model, verdict.part.initial)
            ), f"seed {seed}: the part fails not by itself"
            others = [one for one in verdict.part.operations if one != verdict.part.misfit]
            placed = [one.operation for one in verdict.part.order]
            assert all(one in placed for one in others if one.ended is not None), f"seed {seed}"
    assert min(tally[True], tally[False]) > SEEDS // 10, f"one verdict is rare: {tally}"


@pytest.mark.parametrize(
    "model", [Register(), KeyValue(), Counter(), ListAppend()], ids=lambda model: model.name
)
def test_a_correct_store_is_never_accused(model: Model) -> None:
    writes = {"register": "write", "kv": "put", "counter": "add", "list-append": "append"}
    for seed in range(20):
        weights = {"read": 1.0, writes[model.name]: 1.0}
        recipe = Recipe(model, 300, clients=12, keys=2, unknown=0.05, weights=weights)
        assert check(history(recipe, seed), model).ok, f"seed {seed}"
