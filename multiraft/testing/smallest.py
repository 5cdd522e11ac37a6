"""Makes a failing part of a history small: as short as it can be cut, and nothing in it that is not needed.

Only what keeps the evidence sound is left out: whatever is tried here is linearizable if the whole is, so that a small part
that fails proves that the whole fails. Three things may be done:

- *Cut the end off.* What had not ended at the cut may yet have happened: it becomes unknown. (Linearizability is closed
  under prefixes; so the shortest failing one is found by halving.)
- *Leave out what changes nothing:* a read, a cas that was refused.
- *Leave out gifts that nobody asks for* among what is left, while nobody avoids a value (the proof is in ``problem``).
- *Fold:* let the part begin with the state that must have been reached, where a model knows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from multiraft.testing.explain import story
from multiraft.testing.history import INFO, OK, UNKNOWN, Operation
from multiraft.testing.model import Model
from multiraft.testing.problem import ANY, IMPOSSIBLE, KEEP, NEVER


@dataclass(slots=True)
class Smaller:
    """Some operations, and the state that they begin with."""

    operations: list[Operation]
    initial: Hashable


def smallest(
    whole: Smaller,
    model: Model,
    fails: Callable[[Smaller], bool | None],
    reached: int,
) -> Smaller:
    """The smallest failing part that is found. ``fails`` answers None when it will not look any more.

    ``reached`` is how many ends the longest order of the whole explains: the shortest failing beginning is not far.
    """
    part = shortest_beginning(whole, fails, reached)
    last = last_end(part.operations)
    told = story(model, last, part.operations, ()) if last is not None else None
    keep = {one.called for one in told[1]} if told is not None else set()
    keep.update([] if last is None else [last.called])
    tried = without(part, 0, len(part.operations), model, keep)
    if fails(tried):
        part = tried
    part = folded(part, model, fails)
    return without_needless(part, model, fails)


def without_refused(operations: list[Operation], model: Model) -> list[Operation]:
    """Without those that only avoid a value. They change nothing, so this is linearizable if the whole is."""
    cells = model.cells(operations, model.initial())
    if cells is None:
        return operations
    return [
        one
        for one, (_, avoids, gives) in zip(operations, cells.cells, strict=True)
        if avoids is NEVER or gives is not KEEP
    ]


def last_end(operations: list[Operation]) -> Operation | None:
    """The operation whose end is the last."""
    ended = [one for one in operations if one.ended is not None]
    return max(ended, key=lambda one: one.ended or 0, default=None)


def shortest_beginning(
    whole: Smaller, fails: Callable[[Smaller], bool | None], reached: int
) -> Smaller:
    """Cut after the first end that cannot be explained."""
    ends = sorted(
        one.returned for one in whole.operations if one.ended is not None and one.returned
    )

    def cut(count: int) -> Smaller:
        return Smaller(cut_after(whole.operations, ends[count - 1]), whole.initial)

    good, step = 0, 1
    bad = min(max(reached, 0) + 1, len(ends))
    while bad < len(ends) and not fails(cut(bad)):
        good = bad
        bad = min(bad + step, len(ends))
        step *= 2
    while good + 1 < bad:
        middle = (good + bad) // 2
        if fails(cut(middle)):
            bad = middle
        else:
            good = middle
    return cut(bad)


def cut_after(operations: list[Operation], position: int) -> list[Operation]:
    """The operations as they looked at a position: what had not ended may yet happen."""
    found = []
    for one in operations:
        if one.called > position:
            break
        if one.returned is not None and one.returned > position and one.outcome == OK:
            one = replace(one, outcome=INFO, result=UNKNOWN, returned=None, return_time=None)
        found.append(one)
    return found


def without_needless(
    part: Smaller, model: Model, fails: Callable[[Smaller], bool | None]
) -> Smaller:
    """Leave out pieces that get smaller, until each operation that is left is needed. The last to end always stays."""
    last = last_end(part.operations)
    keep = set() if last is None else {last.called}
    size = len(part.operations)
    while size:
        before = len(part.operations)
        at = 0
        while at < len(part.operations):
            tried = without(part, at, at + size, model, keep)
            if len(tried.operations) < len(part.operations) and fails(tried):
                part = folded(tried, model, fails)
            else:
                at += size
        if size > 1 or len(part.operations) == before:
            size //= 2
    return part


def without(part: Smaller, begin: int, end: int, model: Model, keep: set[int]) -> Smaller:
    """A part without what can be spared between two places; ``keep`` are beginnings of those that cannot."""
    left: list[Operation] = []
    gifts: list[int] = []
    for at, one in enumerate(part.operations):
        spared = begin <= at < end and one.called not in keep
        if not spared or not model.pure(one.f, one.argument, one.result):
            if spared:
                gifts.append(len(left))
            left.append(one)
    cells = model.cells(left, part.initial)
    if cells is None or any(avoids is not NEVER for _, avoids, _ in cells.cells):
        return Smaller(left, part.initial)
    asked = Counter(needs for needs, _, _ in cells.cells if needs is not ANY)
    gone = set(gifts)
    for at in gifts:
        asked[cells.cells[at][0]] -= 1
    shown: set[Hashable] = set()
    for one, (needs, _, _) in zip(left, cells.cells, strict=True):
        if needs is IMPOSSIBLE and isinstance(one.result, tuple):
            shown.update(one.result)  # without them it would look as if nobody had given these
    work = [
        at
        for at in gifts
        if asked[cells.cells[at][2]] > 0 or (shown and left[at].argument in shown)
    ]
    givers: dict[Hashable, list[int]] = {}
    for at in gifts:
        givers.setdefault(cells.cells[at][2], []).append(at)
    while work:  # whose gift is asked for by what stays, stays, and asks itself
        at = work.pop()
        if at in gone:
            gone.discard(at)
            need = cells.cells[at][0]
            asked[need] += 1
            if need is not ANY:
                work += givers.get(need, ())
    return Smaller([one for at, one in enumerate(left) if at not in gone], part.initial)


def folded(part: Smaller, model: Model, fails: Callable[[Smaller], bool | None]) -> Smaller:
    """What the model folds away, as long as the rest fails."""
    again = True
    while again:
        again = False
        for operations, initial in model.fold(part.operations, part.initial):
            if fails(smaller := Smaller(operations, initial)):
                part, again = smaller, True
                break
    return part
