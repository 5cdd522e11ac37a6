"""What a correct store does, as small sequential machines: register, key-value, counter and list-append.

States are hashable. The result UNKNOWN (of an operation whose outcome nobody knows) fits any state. Each hint that a model
gives here carries its proof.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final

from multiraft.testing.history import OK, UNKNOWN, Operation, Value
from multiraft.testing.model import BadOperation, BaseModel, Model, State, unknown_function
from multiraft.testing.problem import (
    ANY,
    FAILED,
    IMPOSSIBLE,
    KEEP,
    NEVER,
    Cell,
    Cells,
    Steps,
    steps_of,
)

# -- register and key-value ---------------------------------------------------------------------------------------------


class Register(BaseModel):
    """One value a key, None until it is written.

    ``read`` answers the value; ``write`` v; ``delete`` makes it None; ``cas`` [old, new] answers False where the value is
    not old (and then changes nothing), anything else where it was.
    """

    name = "register"
    FUNCTIONS: ClassVar[Mapping[str, str]] = {
        "read": "read",
        "write": "write",
        "delete": "delete",
        "cas": "cas",
    }

    def initial(self) -> State:
        return None

    def _function(self, f: str) -> str:
        try:
            return self.FUNCTIONS[f]
        except KeyError:
            raise unknown_function(self.name, f, ", ".join(self.FUNCTIONS)) from None

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, State]:
        what = self._function(f)
        if what == "append":
            return joined(state, argument)
        needs, avoids, gives = cell_of(what, argument, result)
        fits = (needs is ANY or needs == state) and (avoids is NEVER or avoids != state)
        if result is UNKNOWN and not fits:
            return True, state
        return fits, state if gives is KEEP else gives

    def pure(self, f: str, argument: Value, result: Value) -> bool:
        what = self._function(f)
        return what == "read" or (what == "cas" and result is False)

    def cells(self, operations: Sequence[Operation], initial: State) -> Cells | None:
        names = [self._function(one.f) for one in operations]
        if "append" in names:
            return None
        triples = [
            cell_of(name, one.argument, one.result)
            for name, one in zip(names, operations, strict=True)
        ]
        return Cells(initial, triples)

    def fold(
        self, operations: Sequence[Operation], initial: State
    ) -> list[tuple[list[Operation], State]]:
        """A chain of cas from the first value on is where the rest begins.

        Where a value is given once and one finished cas is all that needs it, nothing can come between its gift and that
        cas; so with only such values, the chain comes before all else.
        """
        cells = self.cells(operations, initial)
        if cells is None or any(avoids is not NEVER for _, avoids, _ in cells.cells):
            return []
        askers: dict[Any, list[int]] = {}
        givers: dict[Any, int] = {initial: 1}
        for at, (needs, _, gives) in enumerate(cells.cells):
            askers.setdefault(needs, []).append(at)
            givers[gives] = givers.get(gives, 0) + 1
        value, chain = initial, []
        while givers[value] == 1 and len(asking := askers.get(value, [])) == 1:
            if operations[asking[0]].outcome != OK or cells.cells[asking[0]][2] is KEEP:
                break
            chain.append(asking[0])
            value = cells.cells[asking[0]][2]
        found: list[tuple[list[Operation], State]] = []
        length = len(chain)
        while length:
            gone = set(chain[:length])
            left = [one for at, one in enumerate(operations) if at not in gone]
            found.append((left, cells.cells[chain[length - 1]][2]))
            length //= 2
        return found


def cell_of(f: str, argument: Value, result: Value) -> Cell:
    """An operation of a register as (the value it needs, the value it must not meet, the value it leaves)."""
    if f == "read":
        return ANY if result is UNKNOWN else result, NEVER, KEEP
    if f == "write":
        return ANY, NEVER, argument
    if f == "delete":
        return ANY, NEVER, None
    try:
        old, new = argument
    except (TypeError, ValueError):
        raise BadOperation(f"cas takes [old, new], not {argument!r}") from None
    return (ANY, old, KEEP) if result is False else (old, NEVER, new)


def joined(state: Any, argument: Value) -> tuple[bool, State]:
    """What an append leaves: text or bytes or a list, longer by the argument; nothing else can be appended to."""
    if state is None:
        state = argument[:0] if isinstance(argument, str | bytes) else ()
    if isinstance(state, tuple):
        return True, (*state, argument)
    if isinstance(state, str) and isinstance(argument, str):
        return True, state + argument
    if isinstance(state, bytes) and isinstance(argument, bytes):
        return True, state + argument
    return False, state


class KeyValue(Register):
    """A register under the names of a store, and ``append``: ``get``, ``put``, ``delete``, ``cas`` and ``append``.

    ``append`` makes text or bytes longer by its argument, a list by one item; an absent key becomes the argument where that
    is text or bytes, else a list of it.
    """

    name = "kv"
    FUNCTIONS: ClassVar[Mapping[str, str]] = {
        "get": "read",
        "put": "write",
        "read": "read",
        "write": "write",
        "delete": "delete",
        "cas": "cas",
        "append": "append",
    }


# -- counter ------------------------------------------------------------------------------------------------------------


class Counter(BaseModel):
    """A number, 0 at first. ``add`` n (a negative one subtracts) answers None or the new number; ``read`` answers it."""

    name = "counter"

    def initial(self) -> State:
        return 0

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, State]:
        if f == "read":
            return result is UNKNOWN or result == state, state
        if f != "add":
            raise unknown_function(self.name, f, "add, read")
        if not isinstance(argument, int | float):
            raise BadOperation(f"add takes a number, not {argument!r}")
        after = state + argument
        return result is UNKNOWN or result is None or result == after, after

    def pure(self, f: str, argument: Value, result: Value) -> bool:
        return f == "read"

    def steps(self, operations: Sequence[Operation], initial: State) -> Steps:
        """While nothing is subtracted, a number that was passed never comes back."""
        steps = steps_of(self, operations, initial)
        for number, one in enumerate(operations):
            if one.f == "add" and one.result is UNKNOWN:
                steps.classes[number] = (one.f, one.argument, None)  # as one that answers nothing
        numbers = [one.argument for one in operations if one.f == "add"]
        numbers += [one.result for one in operations if one.result not in (None, UNKNOWN)]
        if not all(isinstance(number, int) for number in (initial, *numbers)):
            return steps  # sums of floats depend on their order
        steps.rising = all(one.argument >= 0 for one in operations if one.f == "add")
        for number, one in enumerate(operations):
            if isinstance(one.result, int):
                steps.needs[number] = one.result - (one.argument if one.f == "add" else 0)
        return steps

    def fold(
        self, operations: Sequence[Operation], initial: State
    ) -> list[tuple[list[Operation], State]]:
        """What was added before all that shows the number began, is where the rest begins.

        An add that shows it counts among these, unless it is as early itself: then what it showed is forgotten.
        """
        known = [one for one in operations if one.outcome == OK and one.returned is not None]
        shows = [one for one in known if one.f == "add" and one.result is not None]
        cut = min((one.called for one in known if one.f != "add"), default=None)
        while cut is not None:
            late = [one.called for one in shows if (one.returned or 0) >= cut > one.called]
            if not late:
                break
            cut = min(late)
        start: Any = initial
        early = set()
        for one in known:
            if one.f == "add" and cut is not None and (one.returned or 0) < cut:
                early.add(one.called)
                start += one.argument
        return [([one for one in operations if one.called not in early], start)] if early else []


# -- list-append --------------------------------------------------------------------------------------------------------


class ListAppend(BaseModel):
    """A list, empty at first. ``append`` v makes it longer by v, whatever it answers; ``read`` answers all of it."""

    name = "list-append"

    def initial(self) -> State:
        return ()

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, State]:
        if f == "read":
            return result is UNKNOWN or result == state or (result is None and state == ()), state
        if f != "append":
            raise unknown_function(self.name, f, "append, read")
        return True, (*state, argument)

    def pure(self, f: str, argument: Value, result: Value) -> bool:
        return f == "read"

    def cells(self, operations: Sequence[Operation], initial: State) -> Cells | None:
        """Where each value is appended once, the longest list that was read is the order of the appends.

        A list never gets shorter, so while it is not as long as the longest that some read has yet to answer, the only
        append that may come is that of the next value in it; its length says all about the state. What is in no list
        comes after all reads. Both are what a register does with lengths for values: the append of value n compares n
        with the length and sets n + 1, a read needs its length (or what never is, where it is no beginning of the
        longest), and an append that nobody saw sets a length that nobody asks for.
        """
        appended = [one.argument for one in operations if one.f == "append"]
        longest, where = self._longest(operations, initial)
        if where is None or len(set(appended)) != len(appended):
            return None
        begin: Any = initial
        cells: list[Cell] = []
        for number, one in enumerate(operations):
            if one.f == "append":
                at = where.get(one.argument)
                cells.append((ANY, NEVER, (number,)) if at is None else (at, NEVER, at + 1))
            elif one.f == "read":
                cells.append(self._read_cell(one, longest))
            else:
                raise unknown_function(self.name, one.f, "append, read")
        return Cells(len(begin), cells)

    def steps(self, operations: Sequence[Operation], initial: State) -> Steps:
        """Where a value is appended twice: still only the next value of the longest list may come, and lengths are states."""
        begin: Any = initial
        longest, _ = self._longest(operations, initial)
        needs = {
            number: self._read_cell(one, longest)[0]
            for number, one in enumerate(operations)
            if one.f == "read" and one.result is not UNKNOWN
        }
        beyond = len(longest) + 1

        def step(length: Any, number: int) -> Any:
            one = operations[number]
            if one.f == "read":
                return length if needs.get(number, length) == length else FAILED
            if length >= len(longest):
                return beyond
            return length + 1 if longest[length] == one.argument else FAILED

        classes: list[Hashable] = [(one.f, one.argument, None) for one in operations]
        known = {number: at for number, at in needs.items() if isinstance(at, int)}
        return Steps(len(begin), step, classes, known, rising=True)

    @staticmethod
    def _read_cell(one: Operation, longest: tuple[Value, ...]) -> Cell:
        if one.result is UNKNOWN:
            return ANY, NEVER, KEEP
        found = () if one.result is None else one.result
        fits = isinstance(found, tuple) and longest[: len(found)] == found
        return len(found) if fits else IMPOSSIBLE, NEVER, KEEP

    @staticmethod
    def _longest(
        operations: Sequence[Operation], initial: State
    ) -> tuple[tuple[Value, ...], dict[Value, int] | None]:
        """The longest list that was read, and where each value of it stands; None where a value stands there twice."""
        begin: Any = initial
        longest: tuple[Value, ...] = begin
        for one in operations:
            if one.f == "read" and isinstance(one.result, tuple) and len(one.result) > len(longest):
                longest = one.result
        where = {value: at for at, value in enumerate(longest)}
        return longest, where if len(where) == len(longest) else None

    def fold(
        self, operations: Sequence[Operation], initial: State
    ) -> list[tuple[list[Operation], State]]:
        """What was appended at the beginning of all lists that were read is where the rest begins."""
        begin: Any = initial
        lists = [
            () if one.result is None else one.result
            for one in operations
            if one.f == "read" and one.outcome == OK
        ]
        if not lists or not all(isinstance(one, tuple) for one in lists):
            return []
        appended = [one.argument for one in operations if one.f == "append"]
        if len(set(appended)) != len(appended):
            return []
        found: list[tuple[list[Operation], State]] = []
        length = self._shared(lists, len(begin), set(appended)) - len(begin)
        while length > 0:
            start = lists[0][: len(begin) + length]
            early = set(start[len(begin) :])
            left = [one for one in operations if one.f != "append" or one.argument not in early]
            found.append((left, start))
            length //= 2
        return found

    @staticmethod
    def _shared(lists: list[tuple[Value, ...]], begin: int, appended: set[Value]) -> int:
        """How far all lists are the same, and their values appended by somebody."""
        first, shortest = lists[0], min(map(len, lists))
        for at in range(begin, shortest):
            if first[at] not in appended or any(one[at] != first[at] for one in lists):
                return at
        return shortest


MODELS: Final[dict[str, Model]] = {
    model.name: model for model in (Register(), KeyValue(), Counter(), ListAppend())
}
"""The models that ship, by name."""
