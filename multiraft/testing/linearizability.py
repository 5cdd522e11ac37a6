"""The judge: could one machine, taking the operations one at a time, have given all these answers?

``check`` cuts a history into parts (a key each), judges each by ``search``, and says ok, violated or unknown. Unknown means
that a limit was reached; it is never taken for ok. A violation comes with the smallest part of the history found that shows
it by itself (``smallest``), the longest order that explains most of it, and a sentence that says why nothing fits.

Sound and complete within its limits: each part is linearizable by itself if and only if the whole is (Herlihy and Wing,
1990), and every rule that spares work is proved where it stands (``problem``, ``search``) and held against all orders of
small histories by the tests. The same history gives the same verdict, unless ``seconds`` is given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from multiraft.errors import InvariantViolation
from multiraft.testing.explain import line_of, sentence
from multiraft.testing.history import FAIL, INFO, UNKNOWN, History, Operation
from multiraft.testing.model import BadOperation, Model
from multiraft.testing.problem import Problem, problem_of_cells, problem_of_steps
from multiraft.testing.search import Search
from multiraft.testing.smallest import Smaller, last_end, smallest, without_refused

LINEARIZABLE: Final = "ok"
VIOLATED: Final = "violated"
UNDECIDED: Final = "unknown"
SOON_PER_OPERATION: Final = 2
"""Steps that a search without hard places takes at most, and then some ..."""
SOON_MIN: Final = 1000
"""... and what is soon for a part of any length."""


@dataclass(slots=True, frozen=True)
class Limits:
    """How much a check may cost before it says unknown."""

    steps_max: int = 5_000_000
    """Steps of the search in one part; a history without hard places takes one for each change of the state."""
    shrink_steps_max: int = 10_000_000
    """Steps, and operations looked at, of all searches for a smaller failing part; then the smallest so far is shown."""
    seconds: float | None = None
    """CPU time of the whole check; None is no limit. With it, a verdict may differ from run to run: to unknown."""


@dataclass(slots=True)
class Statistics:
    """What was judged, and what it took."""

    operations: int = 0
    parts: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """ok, fail and info -> how many operations."""
    steps: int = 0
    choices: int = 0
    """Places where more than one operation could have come next."""
    violated: int = 0
    """Parts that are violated ..."""
    undecided: int = 0
    """... and those where a limit was reached."""
    seconds: float = 0.0
    """CPU time."""


@dataclass(slots=True, frozen=True)
class Placed:
    """An operation in an order, and the state that it leaves."""

    operation: Operation
    state: Hashable


@dataclass(slots=True, frozen=True)
class FailingPart:
    """A small part of a history that no order explains; by itself, it shows the violation."""

    key: Hashable
    initial: Hashable
    """The state that it begins with: what was forced by operations left out stands in it."""
    operations: tuple[Operation, ...]
    """In the order of their beginnings. One that was cut off at the end of the part is of unknown outcome."""
    order: tuple[Placed, ...]
    """The longest order found."""
    misfit: Operation
    """The first to end that no order reaches."""
    reason: str
    of: int
    """How many operations the whole part had that it was taken from."""


@dataclass(slots=True, frozen=True)
class Verdict:
    """``outcome`` is "ok", "violated" or "unknown"; ``str`` says it in a few lines."""

    outcome: str
    model: str
    statistics: Statistics
    part: FailingPart | None = None
    """Of the first part that is violated."""
    limit: str = ""
    """What was reached, where a part is undecided."""

    @property
    def ok(self) -> bool:
        """Surely linearizable? False for unknown, too."""
        return self.outcome == LINEARIZABLE

    def __str__(self) -> str:
        facts = self.statistics
        counted = f"{facts.operations} operations in {facts.parts} parts, by the model {self.model}"
        if self.outcome == LINEARIZABLE:
            return f"linearizable: {counted}"
        if self.part is None:
            return f"undecided: {counted}; {self.limit}"
        lines = [
            f"not linearizable: {counted}; {facts.violated} violated",
            f"key {self.part.key!r}: {self.part.reason}",
            f"{len(self.part.operations)} of its {self.part.of} operations show it by themselves:",
        ]
        return "\n".join([*lines, *(f"  {line_of(one)}" for one in self.part.operations)])

    def facts(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        found: dict[str, Any] = {"outcome": self.outcome, "model": self.model}
        facts = self.statistics
        found["statistics"] = {name: getattr(facts, name) for name in facts.__slots__}
        if self.limit:
            found["limit"] = self.limit
        if self.part is not None:
            found["part"] = {
                "key": repr(self.part.key),
                "initial": repr(self.part.initial),
                "reason": self.part.reason,
                "misfit": line_of(self.part.misfit),
                "operations": [line_of(one) for one in self.part.operations],
                "order": [[line_of(one.operation), repr(one.state)] for one in self.part.order],
                "of": self.part.of,
            }
        return found


# -- the check ----------------------------------------------------------------------------------------------------------


def check(
    history: History | Iterable[Operation], model: Model, limits: Limits | None = None
) -> Verdict:
    """Judge a history by a model. Raises BadOperation for an operation that the model does not know."""
    return Check(model, limits or Limits()).run(history)


class Check:
    """One check on its way: a model, its limits, what has been spent."""

    def __init__(self, model: Model, limits: Limits):
        self.model = model
        self.limits = limits
        self.facts = Statistics()
        self.began = time.process_time()
        self.deadline = None if limits.seconds is None else self.began + limits.seconds

    def run(self, history: Iterable[Operation]) -> Verdict:
        """Judge part after part; all of them, so that the counts are of the whole."""
        parts: dict[Hashable, list[Operation]] = {}
        failed: dict[Hashable, list[Operation]] = {}
        outcomes: Counter[str] = Counter()
        part_of = self.model.part
        for one in history:
            outcomes[one.outcome] += 1
            sort = failed if one.outcome == FAIL else parts
            sort.setdefault(part_of(one), []).append(one)
        facts = self.facts
        facts.outcomes = dict(sorted(outcomes.items()))
        facts.operations, facts.parts = sum(outcomes.values()), len(parts.keys() | failed.keys())
        first: tuple[Hashable, list[Operation], Search] | None = None
        for key, operations in parts.items():
            search, looked_at, said = self.decide(operations)
            if said is None:
                facts.undecided += 1
            elif not said:
                facts.violated += 1
                first = first or (key, looked_at, search)
        part = None
        if first is not None:
            key, looked_at, search = first
            part = self.failing(key, parts[key], looked_at, failed.get(key, []), search)
        outcome = VIOLATED if part else UNDECIDED if facts.undecided else LINEARIZABLE
        facts.seconds = time.process_time() - self.began
        limit = f"{facts.undecided} parts reached a limit" if facts.undecided else ""
        return Verdict(outcome, self.model.name, facts, part, limit)

    def decide(self, operations: list[Operation]) -> tuple[Search, list[Operation], bool | None]:
        """Judge one part: the search that decided, what it looked at, and what it says.

        What makes a search long is mostly who avoids a value, such as a refused cas. They change nothing; so where a search
        is not done soon, it is tried without them: if that part fails, then so does the whole.
        """
        soon = min(self.limits.steps_max, SOON_PER_OPERATION * len(operations) + SOON_MIN)
        attempts: list[tuple[list[Operation], int, tuple[bool, ...]]] = [
            (operations, soon, (True, False)),
            (without_refused(operations, self.model), soon, (False,)),
            (operations, self.limits.steps_max, (True, False)),
        ]
        search, said = None, None
        for looked_at, steps_max, decides in attempts:
            if search is not None and len(looked_at) == len(operations) and steps_max == soon:
                continue  # nobody avoids anything
            search, _ = self.judge(looked_at, self.model.initial(), steps_max)
            said = search.run()
            self.facts.steps += search.steps
            self.facts.choices += search.choices
            if said in decides:
                return search, looked_at, said
        if search is None:
            raise InvariantViolation("no attempt was made to judge a part")
        return search, operations, None

    def judge(
        self, operations: Sequence[Operation], initial: Hashable, steps_max: int
    ) -> tuple[Search, Problem]:
        """The search over one part, not run yet."""
        model = self.model
        for one in operations:
            if one.outcome == FAIL:
                raise BadOperation("what failed did not happen, and is not judged", line=one.called)
        cells = model.cells(operations, initial)
        if cells is not None:
            problem = problem_of_cells(operations, cells)
        else:
            pure = [model.pure(one.f, one.argument, one.result) for one in operations]
            problem = problem_of_steps(operations, model.steps(operations, initial), pure)
        return Search(problem, steps_max, self.deadline), problem

    def failing(
        self,
        key: Hashable,
        operations: list[Operation],
        looked_at: list[Operation],
        failed: list[Operation],
        search: Search,
    ) -> FailingPart:
        """The smallest part of a key's operations that shows its violation, and what can be said about it."""
        left = self.limits.shrink_steps_max

        def fails(smaller: Smaller) -> bool | None:
            nonlocal left
            if left <= 0:
                return None
            one, _ = self.judge(smaller.operations, smaller.initial, left)
            said = one.run()
            left -= one.steps + len(smaller.operations)
            return None if said is None else not said

        whole = Smaller(looked_at, self.model.initial())
        plain = Smaller(without_refused(looked_at, self.model), self.model.initial())
        if len(plain.operations) < len(looked_at) and fails(plain):
            whole = plain
        found = smallest(whole, self.model, fails, search.best_frontier)
        misfit, order = self.longest(found)
        state = order[-1].state if order else found.initial
        reason = sentence(self.model, misfit, operations, failed, state)
        return FailingPart(
            key,
            found.initial,
            tuple(found.operations),
            tuple(order),
            misfit,
            reason,
            len(operations) + len(failed),
        )

    def longest(self, part: Smaller) -> tuple[Operation, list[Placed]]:
        """The operation that does not fit, and the longest order of the others.

        A part was cut at the first end that cannot be explained; so, unless a limit kept the cut from being exact, it is
        the last to end that does not fit, and all others have an order.
        """
        last = last_end(part.operations)
        if last is None:
            raise InvariantViolation("a part in which nothing ended cannot fail")
        others = [
            replace(one, outcome=INFO, result=UNKNOWN) if one is last else one
            for one in part.operations
        ]
        search, problem = self.judge(others, part.initial, self.limits.steps_max)
        if search.run():
            return last, self.placed(part, [problem.operations[number] for number in search.best])
        search, problem = self.judge(part.operations, part.initial, self.limits.steps_max)
        search.run()
        misfit = part.operations[problem.operations[problem.by_end[search.best_frontier]]]
        return misfit, self.placed(part, [problem.operations[number] for number in search.best])

    def placed(self, part: Smaller, numbers: list[int]) -> list[Placed]:
        """An order with the states along it."""
        state: Any = part.initial
        order = []
        for number in numbers:
            one = part.operations[number]
            _, state = self.model.step(state, one.f, one.argument, one.result)
            order.append(Placed(one, state))
        return order
