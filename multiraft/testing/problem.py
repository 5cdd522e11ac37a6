"""One part of a history, made ready for the search: numbers in place of operations, values and lines.

Two kinds. *Cells*: each operation needs one value of the state (or any), may have to avoid one, and leaves one (or keeps
it). *Steps*: whatever a model's ``step`` says. For cells much can be decided beforehand, by rules that are proved here:

**Seen, so it happened.** A value that some finished operation needs, and that exactly one operation gives (and that is not
the first one), was given by that one, even if nobody knows its outcome. It took effect before the first of those that need
it ended, so it may be treated as one that ended then. (Nothing that began between the two is ordered by this more than it
was: it began after that end, so it comes after it and hence after the gift.)

**Seen by nobody, so it does not matter.** Let nobody need v, and nobody avoid any value. Take an operation that gives v out of
a linearization: until the next gift the state is another, and nobody in between asked for it, since they did not need v and
avoid nothing. So an operation of unknown outcome that gives v may be left out: with it there is a linearization if and only
if there is one without it. Where somebody avoids a value this does not hold (v may be what stood in its place); there, all
values that nobody needs or avoids become one, ``NOBODY``, so that all such operations are alike.

**Alike, so the most urgent first.** Of two operations with the same needs and gifts that both may come next, the one that
ends first may be taken: whoever has a linearization that takes the other can exchange the two. What never ends is last.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, Protocol, TypeAlias

from multiraft.testing.history import Operation, Value


class Mark:
    """A word of this module that equals no value."""

    __slots__ = ("_name",)

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return self._name


ANY: Final = Mark("ANY")
"""As a need: every state will do."""
NEVER: Final = Mark("NEVER")
"""As what is avoided: nothing."""
KEEP: Final = Mark("KEEP")
"""As a gift: the state stays."""
NOBODY: Final = Mark("NOBODY")
"""A state that nobody needs or avoids, whichever it is."""
FAILED: Final = Mark("FAILED")
"""As the next state: it cannot happen here."""
IMPOSSIBLE: Final = Mark("IMPOSSIBLE")
"""As a need: no state will do. The answer is a list of values that cannot have been there so."""
NO_END: Final = 1 << 62
"""After every position."""

Cell: TypeAlias = tuple[Value, Value, Value]
"""(needs or ANY, avoids or NEVER, gives or KEEP)."""


@dataclass(slots=True)
class Cells:
    """Operations as cells, in their order, and the first value."""

    initial: Hashable
    cells: list[Cell]


@dataclass(slots=True)
class Steps:
    """Operations as one function of (state, number) that answers the next state or FAILED."""

    initial: Hashable
    step: Callable[[Any, int], Any]
    classes: list[Hashable]
    """Operations of one class are alike in every state."""
    needs: dict[int, Any] = field(default_factory=dict)
    """Number -> the one state in which it can happen, where that is known."""
    rising: bool = False
    """States are numbers that never get less."""


class Stepping(Protocol):
    """The part of a model that makes steps."""

    def step(self, state: Any, f: str, argument: Value, result: Value) -> tuple[bool, Hashable]: ...


def steps_of(model: Stepping, operations: Sequence[Operation], initial: Hashable) -> Steps:
    """Steps by a model's own ``step``. Operations are alike when name, argument and result are equal."""
    calls = [(one.f, one.argument, one.result) for one in operations]

    def step(state: Any, number: int) -> Any:
        fits, after = model.step(state, *calls[number])
        return after if fits else FAILED

    return Steps(initial, step, list(calls))


@dataclass(slots=True)
class Problem:
    """What the search works on. Numbers below ``known`` end; those from there on never do, and need not happen.

    Both sorts are in the order of their beginnings. Values of cells are numbers, -1 is none.
    """

    initial: Any
    known: int
    operations: list[int]
    """Number -> place among the operations that the problem was made of."""
    call: list[int]
    ends: list[int]
    pure: list[bool]
    classes: list[int]
    needs: list[int]
    avoids: list[int]
    gives: list[int]
    waiting: list[int]
    """Value -> how many known operations need it."""
    avoiders: list[int]
    unique: list[bool]
    """Value -> once left, it never comes back."""
    step: Callable[[Any, int], Any] | None = None
    """Number and state -> next state; None for cells."""
    risen: list[Any] | None = None
    """Of rising steps the states that somebody needs, in order; ``needs`` counts in it."""
    by_end: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    """For each of ``by_end``, how many known operations began before it."""
    slot: list[int] = field(default_factory=list)
    """Bits that no two operations share which are open at once: what a set of open operations is made of."""

    def arrange(self) -> Problem:
        """Fill in what follows from beginnings and ends."""
        call, ends, known = self.call, self.ends, self.known
        self.by_end = sorted(range(known), key=ends.__getitem__)
        at = 0
        for number in self.by_end:
            while at < known and call[at] < ends[number]:
                at += 1
            self.begun.append(at)
        free: list[int] = []
        slots = [0] * known
        used = ended = 0
        for number in range(known):
            while ended < known and ends[self.by_end[ended]] < call[number]:
                heappush(free, slots[self.by_end[ended]])
                ended += 1
            if free:
                slots[number] = heappop(free)
            else:
                slots[number] = used
                used += 1
        self.slot = [1 << slot for slot in slots]
        return self


# -- cells --------------------------------------------------------------------------------------------------------------


class Drawn:
    """Cells on their way to a problem: which operations end, which happened, which do not matter."""

    def __init__(self, operations: Sequence[Operation], cells: Cells):
        ids: dict[Any, int] = {ANY: -1, NEVER: -1, KEEP: -1, cells.initial: 0}
        self.needs: list[int] = []
        self.avoids: list[int] = []
        self.gives: list[int] = []
        for needs, avoids, gives in cells.cells:
            self.needs.append(ids.setdefault(needs, len(ids) - 3))
            self.avoids.append(ids.setdefault(avoids, len(ids) - 3))
            self.gives.append(ids.setdefault(gives, len(ids) - 3))
        self.values = len(ids) - 3
        self.call = [one.called for one in operations]
        self.ends = [NO_END if (end := one.ended) is None else end for one in operations]
        self.kept = [
            end != NO_END or gives >= 0 for end, gives in zip(self.ends, self.gives, strict=True)
        ]
        self.givers: list[int] = [0] * self.values
        self.giver: list[int] = [-1] * self.values
        self.givers[0] = 1
        for number, value in enumerate(self.gives):
            if value >= 0:
                self.givers[value] += 1
                self.giver[value] = number

    def promote(self) -> None:
        """What was seen happened: it ends with the first that needs it, and what it needs was seen by it."""
        if NO_END not in self.ends:
            return
        first_end = [NO_END] * self.values
        work = []
        for number, value in enumerate(self.needs):
            if value >= 0 and self.ends[number] < first_end[value]:
                first_end[value] = self.ends[number]
                work.append(value)
        unknown = [end == NO_END for end in self.ends]
        while work:
            value = work.pop()
            number, end = self.giver[value], first_end[value]
            if self.givers[value] != 1 or number < 0 or not unknown[number]:
                continue
            if self.call[number] < end < self.ends[number]:
                self.ends[number] = end
                need = self.needs[number]
                if need >= 0 and end < first_end[need]:
                    first_end[need] = end
                    work.append(need)

    def forget(self) -> None:
        """What nobody saw does not matter: left out where that is proved, else all alike."""
        asked = [0] * self.values
        for number, value in enumerate(self.needs):
            if value >= 0 and self.kept[number]:
                asked[value] += 1
        avoided = [value for value in self.avoids if value >= 0]
        nobody = self.values
        if avoided:
            for value in avoided:
                asked[value] += 1
            self.values += 1
            self.givers.append(0)
            self.gives = [
                nobody if value >= 0 and not asked[value] else value for value in self.gives
            ]
            return
        unknown: dict[int, list[int]] = {}
        for number, end in enumerate(self.ends):
            if end == NO_END and self.kept[number]:
                unknown.setdefault(self.gives[number], []).append(number)
        work = [value for value in unknown if not asked[value]]
        while work:
            for number in unknown.pop(work.pop(), ()):
                self.kept[number] = False
                need = self.needs[number]
                if need >= 0:
                    asked[need] -= 1
                    if not asked[need]:
                        work.append(need)
        self.values += 1
        self.givers.append(0)
        self.gives = [nobody if value >= 0 and not asked[value] else value for value in self.gives]

    def problem(self) -> Problem:
        """The problem of what is left."""
        numbers = [n for n in range(len(self.call)) if self.kept[n] and self.ends[n] != NO_END]
        known = len(numbers)
        numbers += [n for n in range(len(self.call)) if self.kept[n] and self.ends[n] == NO_END]
        needs = [self.needs[n] for n in numbers]
        avoids = [self.avoids[n] for n in numbers]
        gives = [self.gives[n] for n in numbers]
        waiting, avoiders = [0] * self.values, [0] * self.values
        for number in range(known):
            if needs[number] >= 0:
                waiting[needs[number]] += 1
            if avoids[number] >= 0:
                avoiders[avoids[number]] += 1
        classes: dict[tuple[int, int, int], int] = {}
        return Problem(
            0,
            known,
            numbers,
            [self.call[n] for n in numbers],
            [self.ends[n] for n in numbers],
            [value < 0 for value in gives],
            [
                classes.setdefault(triple, len(classes))
                for triple in zip(needs, avoids, gives, strict=True)
            ],
            needs,
            avoids,
            gives,
            waiting,
            avoiders,
            [count <= 1 for count in self.givers],
        ).arrange()


def problem_of_cells(operations: Sequence[Operation], cells: Cells) -> Problem:
    drawn = Drawn(operations, cells)
    drawn.promote()
    drawn.forget()
    return drawn.problem()


# -- steps --------------------------------------------------------------------------------------------------------------


def problem_of_steps(
    operations: Sequence[Operation], steps: Steps, pure: Sequence[bool]
) -> Problem:
    """A pure operation of unknown outcome says nothing, so it is left out."""
    ends = [NO_END if one.ended is None else one.ended for one in operations]
    numbers = [n for n in range(len(ends)) if ends[n] != NO_END]
    known = len(numbers)
    numbers += [n for n in range(len(ends)) if ends[n] == NO_END and not pure[n]]
    risen = sorted(set(steps.needs.values())) if steps.rising else []
    ids = {value: number for number, value in enumerate(risen)}
    needs = [ids.get(steps.needs.get(n, ANY), -1) for n in numbers]
    waiting = [0] * len(risen)
    for number in range(known):
        if needs[number] >= 0:
            waiting[needs[number]] += 1
    classes: dict[Hashable, int] = {}
    none = [-1] * len(numbers)
    step = steps.step

    def renumbered(state: Any, number: int) -> Any:
        return step(state, numbers[number])

    return Problem(
        steps.initial,
        known,
        numbers,
        [operations[n].called for n in numbers],
        [ends[n] for n in numbers],
        [pure[n] for n in numbers],
        [classes.setdefault(steps.classes[n], len(classes)) for n in numbers],
        needs,
        none,
        none,
        waiting,
        [],
        [],
        renumbered,
        risen,
    ).arrange()
