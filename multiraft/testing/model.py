"""What a model is: the sequential machine that a history is compared with, and the hints that it may give.

A model says which state comes first and what each operation does to it. That is enough to judge a history
(``linearizability.check``); the hints that it may give besides make the judge fast, and never change what it says.
A model is a value: it keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from multiraft.testing.history import HistoryError, Operation, Value
from multiraft.testing.problem import Cells, Steps, steps_of

State = Hashable


class BadOperation(HistoryError):
    """A model does not know an operation, or cannot use its argument."""


class Model(Protocol):
    """What ``check`` needs. Inherit ``BaseModel`` to write ``initial`` and ``step`` only."""

    name: str

    def initial(self) -> State:
        """The state of a part before anything happened to it."""

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, State]:
        """Could ``f(argument)`` answer ``result`` in this state, and which state does it leave?

        Raises BadOperation for what it does not know. UNKNOWN fits; the state is then that of the operation carried out.
        """

    def part(self, operation: Operation) -> Hashable:
        """Which part of the history an operation belongs to. Parts are judged one by one, so none may affect another."""

    def pure(self, f: str, argument: Value, result: Value) -> bool:
        """Hint: with this result, the operation changes no state whatever. A wrong True makes the verdict wrong."""

    def cells(self, operations: Sequence[Operation], initial: State) -> Cells | None:
        """Hint: the operations of a part as needs and gifts of single values; None where they are more than that."""

    def steps(self, operations: Sequence[Operation], initial: State) -> Steps:
        """Hint: the operations of a part as one function of (state, number); ``steps_of`` makes it from ``step``."""

    def fold(
        self, operations: Sequence[Operation], initial: State
    ) -> list[tuple[list[Operation], State]]:
        """Hint for a smaller failing part: smaller parts, smallest first, each linearizable if the whole is."""


class BaseModel:
    """The hints that are always right: none. One part a key."""

    name = "model"

    def initial(self) -> State:
        raise NotImplementedError(f"{type(self).__name__}.initial")

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, State]:
        raise NotImplementedError(f"{type(self).__name__}.step")

    def part(self, operation: Operation) -> Hashable:
        key: Hashable = operation.key
        return key

    def pure(self, f: str, argument: Value, result: Value) -> bool:
        return False

    def cells(self, operations: Sequence[Operation], initial: State) -> Cells | None:
        return None

    def steps(self, operations: Sequence[Operation], initial: State) -> Steps:
        return steps_of(self, operations, initial)

    def fold(
        self, operations: Sequence[Operation], initial: State
    ) -> list[tuple[list[Operation], State]]:
        return []


def unknown_function(model: str, f: str, known: str) -> BadOperation:
    return BadOperation(f"the model {model} has no operation {f!r}: it knows {known}")
