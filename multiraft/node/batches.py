"""The operations and conditions of a batch as its command has them: their kinds, and physical keys.

Plain functions. Which shard the keys lie in, and whether it is one, is the store's to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiraft.errors import InvalidCommand
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.node.operations import (
    Absent,
    Condition,
    Delete,
    DeleteRange,
    Operation,
    Present,
    Put,
    RevisionIs,
    ValueIs,
)
from multiraft.node.routing import Routing
from multiraft.node.writes import Writes

Step = tuple[Any, ...]


def step_of(routing: Routing, operation: Operation) -> Step:
    """One operation. Raises InvalidCommand or TooLarge."""
    physical = routing.physical
    if isinstance(operation, Put):
        return OperationKind.OPERATION_PUT, physical(operation.key), operation.value
    if isinstance(operation, Delete):
        return OperationKind.OPERATION_DELETE, physical(operation.key)
    if isinstance(operation, DeleteRange):
        ends = routing.physical_range(operation.start, operation.end)
        return OperationKind.OPERATION_DELETE_RANGE, *ends
    raise InvalidCommand(f"not an operation: {operation!r}")


def wish_of(routing: Routing, condition: Condition) -> Step:
    """One condition. Raises InvalidCommand or TooLarge."""
    physical = routing.physical
    if isinstance(condition, ValueIs):
        return ConditionKind.CONDITION_VALUE, physical(condition.key), condition.value
    if isinstance(condition, RevisionIs):
        if condition.revision == 0:
            return ConditionKind.CONDITION_ABSENT, physical(condition.key)
        return ConditionKind.CONDITION_REVISION, physical(condition.key), condition.revision
    if isinstance(condition, Absent):
        return ConditionKind.CONDITION_ABSENT, physical(condition.key)
    if isinstance(condition, Present):
        return ConditionKind.CONDITION_PRESENT, physical(condition.key)
    raise InvalidCommand(f"not a condition: {condition!r}")


def places_of(routing: Routing, steps: Sequence[Step], wishes: Sequence[Step]) -> tuple[int, int]:
    """(group, range epoch) of the one shard that all of it lies in. Raises InvalidCommand, or NoLeader as ``Routing.find``."""
    keys = [step[1] for step in steps] + [one[1] for one in wishes]
    if not keys:
        raise InvalidCommand("an empty batch")
    ends = [
        key for step in steps for key in step[1:] if step[0] == OperationKind.OPERATION_DELETE_RANGE
    ]
    places = {routing.find(key) for key in keys}
    if ends:
        places.add(routing.find_range(min(ends), max(ends)))
    if len(places) > 1:
        raise InvalidCommand(
            "the keys of a batch lie in two shards; a batch is atomic within one only"
        )
    return places.pop()


def kept(
    writes: Writes, operations: Sequence[Operation], conditions: Sequence[Condition]
) -> tuple[list[Operation], list[Condition]]:
    """The same for later: its caller may change its lists and buffers meanwhile. Raises InvalidCommand or TooLarge."""
    doing: list[Operation] = [
        Put(one.key, writes.checked(one.key, one.value)) if isinstance(one, Put) else one
        for one in operations
    ]
    wanted: list[Condition] = [
        ValueIs(one.key, writes.checked(one.key, one.value)) if isinstance(one, ValueIs) else one
        for one in conditions
    ]
    return doing, wanted
