"""The reference of the checker: every subset of what may have happened, in every order that the times allow.

It knows only ``initial`` and ``step`` of a model, and none of the rules that it is the judge of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiraft.testing import INFO, Model, Operation


def linearizable(operations: Sequence[Operation], model: Model | Starting) -> bool:
    """Is there an order? One part only; what failed is left out."""
    left = frozenset(n for n, one in enumerate(operations) if one.outcome != "fail")
    return reaches(operations, model, left, model.initial())


def reaches(
    operations: Sequence[Operation], model: Model | Starting, left: frozenset[int], state: Any
) -> bool:
    """Can all that is left and ended be taken from here?"""
    if all(operations[n].outcome == INFO for n in left):
        return True
    for number in sorted(left):
        one = operations[number]
        ends = (operations[n].ended for n in left if n != number)
        if any(end is not None and end < one.called for end in ends):
            continue
        fits, after = model.step(state, one.f, one.argument, one.result)
        if fits and reaches(operations, model, left - {number}, after):
            return True
    return False


class Starting:
    """A model that begins with another state."""

    def __init__(self, model: Model, initial: Any):
        self.step = model.step
        self._initial = initial

    def initial(self) -> Any:
        return self._initial
