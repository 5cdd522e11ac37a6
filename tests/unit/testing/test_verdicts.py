"""Hand-made histories, good and bad, for each model: the verdict, the smallest part of it, and what is said."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from multiraft.testing import (
    FAIL,
    INFO,
    MODELS,
    OK,
    UNKNOWN,
    BadOperation,
    BaseModel,
    Counter,
    History,
    KeyValue,
    Limits,
    ListAppend,
    Operation,
    Register,
    Verdict,
    check,
)
from multiraft.testing.problem import ANY, Cells
from multiraft.testing.smallest import without_refused
from tests.unit.testing.histories import Recipe, history, stale_read


def drawn(*rows: str) -> list[Operation]:
    """A history as a drawing: a row an operation, ``|`` where it begins and ends, then what it is.

    A row that has one ``|`` only never ended; one with ``!`` at its end failed.
    """
    found = []
    for process, row in enumerate(rows):
        line, _, what = row.partition("  :")
        f, argument, result = (*literal_eval(f"({what},)"), None, None)[:3]
        begin = line.index("|")
        ends = [at for at, letter in enumerate(line) if letter in "|!" and at > begin]
        outcome = INFO if not ends else FAIL if line[ends[0]] == "!" else OK
        # Positions of events are their columns; where two share one, the row decides.
        called, returned = begin * 100 + process, ends[0] * 100 + process if ends else None
        found.append(
            Operation(
                process,
                f,
                "x",
                argument,
                called,
                begin,
                outcome,
                result if outcome == OK else UNKNOWN,
                returned,
                ends[0] if ends else None,
            )
        )
    return sorted(found, key=lambda one: one.called)


GOOD = {
    "a read at the same time sees either": (
        "register",
        "|--|              :'write', 1",
        "    |-----|       :'write', 2",
        "     |-|          :'read', None, 2",
        "         |-|      :'read', None, 2",
    ),
    "a read at the same time sees the old value": (
        "register",
        "|--|              :'write', 1",
        "    |-----|       :'write', 2",
        "     |-|          :'read', None, 1",
    ),
    "an unknown write happens late": (
        "register",
        "|-                :'write', 1",
        "   |--|           :'read', None, None",
        "        |--|      :'write', 2",
        "            |--|  :'read', None, 1",
    ),
    "an unknown write never happens": (
        "register",
        "|-                :'write', 1",
        "   |--|           :'read', None, None",
        "        |--|      :'read', None, None",
    ),
    "an unknown cas explains a refused one": (
        "register",
        "|-                :'cas', (None, 1)",
        "   |--|           :'cas', (None, 2), False",
    ),
    "an unknown cas comes before a write that nobody sees": (
        "register",
        "|-                        :'cas', (None, 3)",
        " |--------|               :'write', 7",
        "   |--|                   :'read', None, 3",
        "               |--|       :'write', 3",
    ),
    "an unknown cas needs an unknown write": (
        "register",
        "|-                        :'write', 5",
        " |-                       :'cas', (5, 3)",
        "   |--|                   :'read', None, 3",
        "          |-|             :'write', 5",
        "               |--|       :'write', 3",
    ),
    "what failed is not there": (
        "register",
        "|-!               :'write', 1",
        "   |--|           :'read', None, None",
    ),
    "a cas and a refused one": (
        "register",
        "|----|            :'cas', (None, 1), True",
        " |----|           :'cas', (None, 2), False",
        "         |-|      :'read', None, 1",
    ),
    "a deleted value is gone": (
        "register",
        "|-|               :'write', 1",
        "    |-|           :'delete'",
        "        |-|       :'read', None, None",
    ),
    "an append at the same time": (
        "kv",
        "|-|               :'put', 'a'",
        "    |---|         :'append', 'b'",
        "    |---|         :'append', 'c'",
        "          |-|     :'get', None, 'acb'",
    ),
    "a cas of the store": (
        "kv",
        "|-|               :'put', 'a'",
        "    |-|           :'cas', ('a', 'b'), True",
        "        |-|       :'get', None, 'b'",
        "            |-|   :'delete'",
    ),
    "adds at the same time are counted in any order": (
        "counter",
        "|-----|           :'add', 1, 3",
        "|-----|           :'add', 2, 2",
        "        |-|       :'read', None, 3",
    ),
    "an unknown add is counted late": (
        "counter",
        "|-                :'add', 5",
        "   |-|            :'read', None, 0",
        "       |-|        :'read', None, 5",
    ),
    "lists grow at the end": (
        "list-append",
        "|----|            :'append', 1",
        "|----|            :'append', 2",
        "   |----|         :'read', None, (2,)",
        "          |-|     :'read', None, (2, 1)",
    ),
    "the same value is appended twice": (
        "list-append",
        "|-|               :'append', 1",
        "    |-|           :'append', 1",
        "        |-|       :'read', None, (1, 1)",
    ),
    "the same value is appended twice, and seen once": (
        "list-append",
        "|-|               :'append', 1",
        "    |-|           :'read', None, (1,)",
        "        |-|       :'append', 1",
    ),
    "an empty list may be nothing": ("list-append", "|-|        :'read', None, None"),
}

BAD = {
    "a stale read": (
        "register",
        "the last write of 1 was overwritten by write(2) -> None of process 1, acknowledged at 601, before this",
        3,
        "|-|               :'write', 1",
        "    |-|           :'write', 2",
        "          |-|     :'read', None, 1",
    ),
    "a lost update": (
        "register",
        "the first value, None, was overwritten by write(1)",
        2,
        "|-|               :'write', 1",
        "      |-|         :'read', None, None",
    ),
    "reads that go back": (
        "register",
        "overwritten by write(2) -> None of process 1, and that was seen by read() -> 2 of process 2, which had ended",
        4,
        "|-|                    :'write', 1",
        "    |----------|       :'write', 2",
        "     |-|               :'read', None, 2",
        "          |-|          :'read', None, 1",
    ),
    "two cas that both won": (
        "register",
        "replaced 0 too, which was there once only: both cannot have won",
        3,
        "|-|               :'write', 0",
        "    |---|         :'cas', (0, 1), True",
        "     |---|        :'cas', (0, 2), True",
        "            |-|   :'read', None, 2",
    ),
    "a refused cas that should have won": (
        "register",
        "fits nowhere",
        2,
        "|-|               :'write', 0",
        "    |-|           :'cas', (0, 1), False",
    ),
    "what failed is there": (
        "register",
        "the only one to write 1, write(1) -> fail of process 0 at 0, was reported as failed",
        1,
        "|-!               :'write', 1",
        "   |--|           :'read', None, 1",
    ),
    "a value from nowhere": (
        "register",
        "nobody wrote 7",
        1,
        "|-|               :'write', 1",
        "   |--|           :'read', None, 7",
    ),
    "a value from the future": (
        "register",
        "was written only after it had ended, by write(1)",
        1,
        "|-|               :'read', None, 1",
        "   |--|           :'write', 1",
    ),
    "an unknown write is seen, gone, and seen again": (
        "register",
        "the last write of 1 was overwritten by write(2) -> None of process 2, acknowledged at 902",
        4,
        "|-                          :'write', 1",
        "   |-|                      :'read', None, 1",
        "       |-|                  :'write', 2",
        "           |-|              :'read', None, 1",
    ),
    "an append that is lost": (
        "kv",
        "it fits nowhere",
        3,
        "|-|               :'put', 'a'",
        "    |-|           :'append', 'b'",
        "        |-|       :'get', None, 'a'",
    ),
    "a count too low": (
        "counter",
        "it must have been between 2 and 2: 1 adds had ended before it began, 0 were open",
        1,
        "|-|               :'add', 2",
        "    |-|           :'read', None, 1",
    ),
    "a count too high": (
        "counter",
        "it must have been between 1 and 4: 1 adds had ended before it began, 1 were open",
        2,
        "|-|               :'add', 1",
        "    |-            :'add', 3",
        "       |-|        :'read', None, 5",
    ),
    "two lists of another order": (
        "list-append",
        "has 1 where it has 2, at place 0",
        4,
        "|----|                 :'append', 1",
        "|----|                 :'append', 2",
        "       |-|             :'read', None, (1, 2)",
        "           |-|         :'read', None, (2, 1)",
    ),
    "an append that is missing": (
        "list-append",
        "2 is missing: append(2) -> None of process 1 was acknowledged at 601, before this began",
        2,
        "|-|               :'append', 1",
        "    |-|           :'append', 2",
        "        |-|       :'read', None, (1,)",
    ),
    "a failed append that is there": (
        "list-append",
        "1 was appended by append(1) -> fail of process 0 only, which was reported as failed",
        1,
        "|-!               :'append', 1",
        "        |-|       :'read', None, (1,)",
    ),
    "a list that got shorter": (
        "list-append",
        "had ended at 802, before this began, and saw more",
        3,
        "|----------------|     :'append', 1",
        "   |-                  :'append', 2",
        "     |--|              :'read', None, (1, 2)",
        "           |-|         :'read', None, (1,)",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    model, *rows = GOOD[name]
    verdict = check(drawn(*rows), MODELS[model])
    assert verdict.outcome == "ok" and verdict.ok and verdict.part is None
    assert str(verdict).startswith(f"linearizable: {len(rows)} operations in 1 parts")


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    model, said, size, *rows = BAD[name]
    assert isinstance(model, str) and isinstance(said, str)
    verdict = check(drawn(*map(str, rows)), MODELS[model])
    assert verdict.outcome == "violated" and not verdict.ok
    assert verdict.part is not None
    assert said in verdict.part.reason
    assert len(verdict.part.operations) == size, str(verdict)
    assert verdict.part.reason in str(verdict)
    assert verdict.facts()["part"]["reason"] == verdict.part.reason


def test_parts_are_judged_one_by_one() -> None:
    good, bad = (
        drawn(*GOOD["a deleted value is gone"][1:]),
        drawn(*map(str, BAD["a stale read"][3:])),
    )
    both = [
        Operation("p", one.f, key, one.argument, one.called, 0, OK, one.result, one.returned, 0)
        for key, rows in ((1, good), (2, bad))
        for one in rows
    ]
    verdict = check(both, Register())
    assert verdict.part is not None and verdict.part.key == 2
    assert (verdict.statistics.parts, verdict.statistics.violated) == (2, 1)
    assert verdict.statistics.outcomes == {"ok": 6}


# -- what cannot be decided, and what cannot be judged --------------------------------------------------------------------


def hard() -> list[Operation]:
    """Open adds of all sizes, of which some make up one number that was read: no rule helps."""
    rows = [f"|{'-' * 30}|  :'add', {1 << n}" for n in range(18)]
    return drawn(*rows, f"{' ' * 32}|-|  :'read', None, {(1 << 18) + 5}")


def test_a_limit_is_never_ok() -> None:
    verdict = check(hard(), Counter(), Limits(steps_max=200))
    assert verdict.outcome == "unknown" and not verdict.ok and verdict.part is None
    assert "1 parts reached a limit" in str(verdict)
    assert verdict.facts()["limit"]


def test_no_time_is_a_limit() -> None:
    verdict = check(hard(), Counter(), Limits(seconds=0.0))
    assert verdict.outcome == "unknown"


def test_a_violation_counts_more_than_a_part_that_is_undecided() -> None:
    bad = drawn(*map(str, BAD["a count too low"][3:]))
    moved = [
        Operation("q", one.f, "y", one.argument, one.called, 0, OK, one.result, one.returned, 0)
        for one in bad
    ]
    verdict = check([*hard(), *moved], Counter(), Limits(steps_max=200))
    assert verdict.outcome == "violated"
    assert verdict.statistics.undecided == 1


@pytest.mark.parametrize(
    ("model", "f", "argument"),
    [
        (Register(), "append", 1),
        (Register(), "cas", 1),
        (KeyValue(), "pop", 1),
        (Counter(), "add", "1"),
        (Counter(), "write", 1),
        (ListAppend(), "write", 1),
    ],
)
def test_an_operation_that_a_model_does_not_know_is_refused(
    model: Any, f: str, argument: Any
) -> None:
    one = Operation(1, f, "x", argument, 1, 0, OK, None, 2, 0)
    with pytest.raises(BadOperation):
        check([one], model)


def test_nothing_is_linearizable() -> None:
    assert check(History(), Register()).ok


# -- a model of one's own -------------------------------------------------------------------------------------------------


class Queue(BaseModel):
    """A queue of all keys together: ``push`` v, ``pop`` answers the oldest or None."""

    name = "queue"

    def initial(self) -> Hashable:
        return ()

    def part(self, operation: Operation) -> Hashable:
        return "all"

    def step(self, state: Any, f: str, argument: Any, result: Any) -> tuple[bool, Hashable]:
        if f == "push":
            return True, (*state, argument)
        head = state[0] if state else None
        return result is UNKNOWN or result == head, state[1:]


def test_a_model_of_ones_own() -> None:
    rows = ["|-----|  :'push', 1", "|-----|  :'push', 2", "        |-|  :'pop', None, 2"]
    assert check(drawn(*rows), Queue()).ok
    verdict = check(drawn(*rows, "             |-|  :'pop', None, 2"), Queue())
    assert verdict.outcome == "violated" and verdict.part is not None
    assert verdict.part.key == "all"


# -- what is large ----------------------------------------------------------------------------------------------------------


def large(model: Any, weights: dict[str, float], back: int) -> tuple[Verdict, Verdict]:
    recipe = Recipe(model, 4000, clients=32, unknown=0.01, weights=weights)
    operations = history(recipe, 3)
    return check(operations, model), check(stale_read(operations, 3000, back), model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "weights", "back", "size"),
    [
        (Register(), {"read": 1.0, "write": 1.0}, 200, 3),
        (Register(), {"read": 3.0, "write": 1.0, "cas": 1.0}, 200, 3),
        (ListAppend(), {"read": 0.05, "append": 0.95}, 2, 2),
        (Counter(), {"read": 1.0, "add": 1.0}, 200, 60),
    ],
    ids=["register", "register with cas", "list-append", "counter"],
)
def test_a_stale_read_of_a_hot_key_is_found_among_thousands_and_shown_small(
    model: Any, weights: dict[str, float], back: int, size: int
) -> None:
    good, bad = large(model, weights, back)
    assert good.ok
    assert bad.part is not None and len(bad.part.operations) <= size
    assert str(bad) == str(large(model, weights, back)[1]), "another run says something else"


@pytest.mark.slow
def test_no_history_is_too_deep() -> None:
    """Thousands of choices one after the other, each a value that comes back."""
    weights = {"read": 1.0, "write": 1.0}
    recipe = Recipe(Register(), 6000, clients=8, weights=weights, values=2)
    assert check(history(recipe, 5), Register()).ok


class Swap(Register):
    """A register with ``swap`` v, which is refused where v is there already, so that it avoids a value and gives one."""

    name = "swap"

    def step(self, state: Any, f: str, argument: Any, result: Any) -> tuple[bool, Hashable]:
        if f == "swap":
            return state != argument, argument if state != argument else state
        return super().step(state, f, argument, result)

    def pure(self, f: str, argument: Any, result: Any) -> bool:
        return f != "swap" and super().pure(f, argument, result)

    def cells(self, operations: Sequence[Operation], initial: Hashable) -> Cells | None:
        plain = [one for one in operations if one.f != "swap"]
        found = super().cells(plain, initial)
        rest = iter(found.cells if found else ())
        cells = [
            (ANY, one.argument, one.argument) if one.f == "swap" else next(rest)
            for one in operations
        ]
        return Cells(initial, cells)


def test_what_avoids_a_value_and_gives_one_is_not_left_out() -> None:
    operations = drawn("|-|                  :'swap', 1", "    |-|              :'read', None, 1")
    assert without_refused(operations, Swap()) == operations
    assert check(operations, Swap()).ok
