"""The operations of a client and their values, as bytes: what ``dispatch`` reads and ``multiraft.Client`` writes.

Plain functions, both directions side by side. What is packed by one program is refused by the other where it makes no sense
(PeerProtocolError); what a caller hands over and cannot be packed is refused here (InvalidCommand).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

from multiraft.errors import InvalidCommand, PeerProtocolError
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
from multiraft.transport.calls import pack_many, unpack_whole

_REVISION = struct.Struct("<Q")


class Call(enum.IntEnum):
    """The operations of a client, by their numbers on the wire."""

    PUT = 1
    DELETE = 2
    GET = 3
    GET_ENTRY = 4
    PUT_MANY = 5
    GET_MANY = 6
    DELETE_RANGE = 7
    BATCH = 8
    SCAN = 9
    SCAN_NEXT = 10
    SCAN_CLOSE = 11
    STATUS = 12


def pack_operations(operations: Sequence[Operation]) -> bytes:
    """The steps of a batch: kind, key, and a value or the end of a range, for each. Raises InvalidCommand."""
    packed: list[bytes] = []
    for one in operations:
        if isinstance(one, Put):
            packed += (bytes([OperationKind.OPERATION_PUT]), _key(one.key), _value(one.value))
        elif isinstance(one, Delete):
            packed += (bytes([OperationKind.OPERATION_DELETE]), _key(one.key), b"")
        elif isinstance(one, DeleteRange):
            kind = bytes([OperationKind.OPERATION_DELETE_RANGE])
            packed += (kind, _key(one.start), _key(one.end))
        else:
            raise InvalidCommand(f"not an operation: {one!r}")
    return pack_many(packed)


def unpack_operations(data: object) -> list[Operation]:
    """The steps again. Raises PeerProtocolError."""
    made: list[Operation] = []
    for kind, key, other in _threes(data):
        if kind == OperationKind.OPERATION_PUT:
            made.append(Put(key, other))
        elif kind == OperationKind.OPERATION_DELETE:
            made.append(Delete(key))
        elif kind == OperationKind.OPERATION_DELETE_RANGE:
            made.append(DeleteRange(key, other))
        else:
            raise PeerProtocolError(f"an operation of kind {kind} is not known here")
    return made


def pack_conditions(conditions: Sequence[Condition]) -> bytes:
    """The conditions of a batch: kind, key, and a value or a revision, for each. Raises InvalidCommand."""
    packed: list[bytes] = []
    for one in conditions:
        if isinstance(one, ValueIs):
            kind, other = ConditionKind.CONDITION_VALUE, _value(one.value)
        elif isinstance(one, RevisionIs):
            if not 0 <= one.revision < 2**64:
                raise InvalidCommand(f"not a revision: {one.revision!r}")
            kind, other = ConditionKind.CONDITION_REVISION, _REVISION.pack(one.revision)
        elif isinstance(one, Absent):
            kind, other = ConditionKind.CONDITION_ABSENT, b""
        elif isinstance(one, Present):
            kind, other = ConditionKind.CONDITION_PRESENT, b""
        else:
            raise InvalidCommand(f"not a condition: {one!r}")
        packed += (bytes([kind]), _key(one.key), other)
    return pack_many(packed)


def unpack_conditions(data: object) -> list[Condition]:
    """The conditions again. Raises PeerProtocolError."""
    made: list[Condition] = []
    for kind, key, other in _threes(data):
        if kind == ConditionKind.CONDITION_VALUE:
            made.append(ValueIs(key, other))
        elif kind == ConditionKind.CONDITION_REVISION and len(other) == _REVISION.size:
            made.append(RevisionIs(key, *_REVISION.unpack(other)))
        elif kind == ConditionKind.CONDITION_ABSENT:
            made.append(Absent(key))
        elif kind == ConditionKind.CONDITION_PRESENT:
            made.append(Present(key))
        else:
            raise PeerProtocolError(f"a condition of kind {kind} is not known here")
    return made


def _threes(data: object) -> list[tuple[int, bytes, bytes]]:
    parts = unpack_whole(data)
    if len(parts) % 3 or any(len(kind) != 1 for kind in parts[::3]):
        raise PeerProtocolError("a batch whose parts are no threes")
    return [
        (kind[0], key, other)
        for kind, key, other in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def _key(key: object) -> bytes:
    if not isinstance(key, bytes):
        raise InvalidCommand(f"a key is bytes, and not {key!r:.50}")
    return key


def _value(value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidCommand(f"a value is bytes, and not {value!r:.50}")
    return bytes(value)


def pack_revisions(revisions: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(revisions)}Q", *revisions)


def unpack_revisions(data: object) -> list[int]:
    """Raises PeerProtocolError."""
    if type(data) is not bytes or len(data) % _REVISION.size:
        raise PeerProtocolError("revisions that are cut short")
    return list(struct.unpack(f"<{len(data) // _REVISION.size}Q", data))
