"""Says in a sentence why an operation fits nowhere, from what happened to the value that it needs.

It looks for the plain stories first (nobody wrote it; it was overwritten before; it came later; two took the same value)
and falls back to the state after the longest order. It decides nothing.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Hashable, Sequence

from multiraft.testing.history import FAIL, INFO, OK, UNKNOWN, Operation, Value
from multiraft.testing.model import Model
from multiraft.testing.models import Counter, ListAppend, Register
from multiraft.testing.problem import ANY, KEEP


def shown(one: Operation) -> str:
    """What was asked, and what came of it."""
    argument = "" if one.argument is None else brief(one.argument)
    came = brief(one.result) if one.outcome == OK else "?" if one.outcome == INFO else FAIL
    return f"{one.f}({argument}) -> {came}"


def line_of(one: Operation) -> str:
    """One operation in a line of text: where it began and ended, whose it is, and what it was."""
    until = "" if one.returned is None or one.outcome == INFO else f"-{one.returned}"
    return f"[{one.called}{until}] process {one.process}: {shown(one)}"


def brief(value: Value, width: int = 60) -> str:
    """A value in few letters: the middle of what is long is left out."""
    if isinstance(value, tuple) and len(value) > 12:
        first, last = ", ".join(map(repr, value[:2])), ", ".join(map(repr, value[-6:]))
        return f"({first}, ... {len(value) - 8} more ..., {last})"
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 20]}...{text[-16:]}"


def named(one: Operation) -> str:
    """An operation in the middle of a sentence."""
    return f"{shown(one)} of process {one.process}"


Story = tuple[str, list[Operation]]
"""What is to be said, and whom it speaks of."""


def story(
    model: Model, misfit: Operation, operations: Sequence[Operation], failed: Sequence[Operation]
) -> Story | None:
    """One of the plain stories, if it is one."""
    if isinstance(model, Register):
        return of_register(model, misfit, operations, failed)
    if isinstance(model, ListAppend) and misfit.f == "read":
        return of_list(misfit, operations, failed)
    if isinstance(model, Counter) and misfit.f == "read":
        return of_counter(misfit, operations)
    return None


def sentence(
    model: Model,
    misfit: Operation,
    operations: Sequence[Operation],
    failed: Sequence[Operation],
    state: Hashable,
) -> str:
    """Why ``misfit`` fits nowhere. ``state`` is that after the longest order."""
    told = story(model, misfit, operations, failed)
    if told is None:
        return (
            f"{named(misfit)}, but it fits nowhere: after the longest order that explains the others "
            f"the state is {brief(state)}"
        )
    return f"{named(misfit)}, but {told[0]}"


# -- register -----------------------------------------------------------------------------------------------------------


def of_register(
    model: Register, misfit: Operation, operations: Sequence[Operation], failed: Sequence[Operation]
) -> Story | None:
    """What became of the value that it needs."""
    cells = model.cells((misfit, *operations), model.initial())
    if cells is None or (wanted := cells.cells[0][0]) is ANY:
        return None
    what = brief(wanted)
    gifts = [
        (one, gives)
        for one, (_, _, gives) in zip(operations, cells.cells[1:], strict=True)
        if gives is not KEEP and one.called != misfit.called
    ]
    writers = [one for one, gives in gifts if gives == wanted]
    if not writers and wanted != model.initial():
        return never_written(model, what, wanted, failed)
    in_time = [one for one in writers if one.called < end_of(misfit)]
    if not in_time and wanted != model.initial():
        text = f"{what} was written only after it had ended, by {named(writers[0])} at {writers[0].called}"
        return text, writers
    if rival := rival_of(model, misfit, operations, wanted, len(writers)):
        return rival
    sights: dict[Value, Operation] = {}
    for one, (needs, _, _) in zip(operations, cells.cells[1:], strict=True):
        if one.called != misfit.called and end_of(one) < end_of(sights.get(needs, misfit)):
            sights[needs] = one
    last = max(map(end_of, writers), default=-1)
    if len(writers) == 1 and wanted in sights and wanted != model.initial():
        last = min(last, end_of(sights[wanted]))
    return overwritten(misfit, gifts, writers, wanted, last, sights)


def end_of(one: Operation) -> int | float:
    return float("inf") if one.ended is None else one.ended


def never_written(model: Register, what: str, wanted: Value, failed: Sequence[Operation]) -> Story:
    """Nobody who may have succeeded wrote it."""
    cells = model.cells(failed, model.initial())
    gifts = [] if cells is None else [gives for _, _, gives in cells.cells]
    liars = [one for one, gives in zip(failed, gifts, strict=False) if gives == wanted]
    if liars:
        who = f"{named(liars[0])} at {liars[0].called}"
        return f"the only one to write {what}, {who}, was reported as failed", []
    return f"nobody wrote {what}", []


def rival_of(
    model: Register,
    misfit: Operation,
    operations: Sequence[Operation],
    wanted: Value,
    writers: int,
) -> Story | None:
    """Another cas that replaced the same value, which was there once."""
    if model.FUNCTIONS.get(misfit.f) != "cas" or writers + (wanted == model.initial()) != 1:
        return None
    for one in operations:
        if (
            one.called != misfit.called
            and one.outcome == OK
            and model.FUNCTIONS.get(one.f) == "cas"
            and one.result is not False
            and one.argument[0] == wanted
        ):
            what = f"{brief(wanted)} too, which was there once only"
            return f"{named(one)} replaced {what}: both cannot have won", [one]
    return None


def overwritten(
    misfit: Operation,
    gifts: list[tuple[Operation, Value]],
    writers: list[Operation],
    wanted: Value,
    last: int | float,
    sights: dict[Value, Operation],
) -> Story | None:
    """The last write of the value, at ``last``, was followed by another, acknowledged or seen before this began.

    ``sights`` are the first to have seen a value. Where it was given once, its gift came before.
    """
    what = brief(wanted)
    who = f"the last write of {what}" if writers else f"the first value, {what},"
    times = Tally(gives for _, gives in gifts)
    before = f"before this began at {misfit.called}"
    for one, gives in gifts:
        if gives == wanted or one.called < last:
            continue
        if end_of(one) < misfit.called:
            text = f"{who} was overwritten by {named(one)}, acknowledged at {one.ended}, {before}"
            return text, [one, *writers]
        seen = sights.get(gives)
        if seen is not None and times[gives] == 1 and end_of(seen) < misfit.called:
            by = f"{named(seen)}, which had ended at {seen.ended}, {before}"
            text = f"{who} was overwritten by {named(one)}, and that was seen by {by}"
            return text, [one, seen, *writers]
    return None


# -- the others ---------------------------------------------------------------------------------------------------------


def of_list(
    misfit: Operation, operations: Sequence[Operation], failed: Sequence[Operation]
) -> Story | None:
    """What is in the list and should not be, or is missing in it, or stands otherwise in another."""
    found = misfit.result if isinstance(misfit.result, tuple) else ()
    appends = [one for one in operations if one.f == "append"]
    known = {one.argument for one in appends}
    for value in found:
        if value not in known:
            liars = [one for one in failed if one.f == "append" and one.argument == value]
            why = (
                f"by {named(liars[0])} only, which was reported as failed" if liars else "by nobody"
            )
            return f"{brief(value)} was appended {why}", []
    there = set(found)
    for one in appends:
        if end_of(one) < misfit.called and one.argument not in there:
            when = f"acknowledged at {one.ended}, before this began at {misfit.called}"
            return f"{brief(one.argument)} is missing: {named(one)} was {when}", [one]
    for one in operations:
        other = one.result if one.f == "read" and isinstance(one.result, tuple) else ()
        length = min(len(other), len(found))
        if other[:length] != found[:length]:
            at = next(n for n in range(length) if other[n] != found[n])
            where = f"{brief(other[at])} where it has {brief(found[at])}, at place {at}"
            return f"{named(one)} has {where}", [one]
        if end_of(one) < misfit.called and len(other) > len(found):
            return f"{named(one)} had ended at {one.ended}, before this began, and saw more", [one]
    return None


def of_counter(misfit: Operation, operations: Sequence[Operation]) -> Story | None:
    """The least and the most that can have been there."""
    adds = [one for one in operations if one.f == "add" and one.called < end_of(misfit)]
    if misfit.result is UNKNOWN or not all(isinstance(one.argument, int) for one in adds):
        return None
    sure = [one.argument for one in adds if end_of(one) < misfit.called]
    maybe = [one.argument for one in adds if end_of(one) >= misfit.called]
    least = sum(sure) + sum(min(0, one) for one in maybe)
    most = sum(sure) + sum(max(0, one) for one in maybe)
    if least <= misfit.result <= most:
        return None
    counts = f"{len(sure)} adds had ended before it began, {len(maybe)} were open"
    return f"it must have been between {least} and {most}: {counts}", []
