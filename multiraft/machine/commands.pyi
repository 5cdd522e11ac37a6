"""The command envelope of the built-in store; ``docs/formats.md`` has its layout."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, TypeAlias

_Buffer: TypeAlias = bytes | bytearray | memoryview
# Keys are bytes; a value may be any buffer. The third part is a value, the end of a range, or a revision.
_Operation: TypeAlias = tuple[int, bytes] | tuple[int, bytes, _Buffer]
_Condition: TypeAlias = tuple[int, bytes] | tuple[int, bytes, _Buffer | int]

VALUE_BYTES_MAX: int
KEY_BYTES_LIMIT: int

class CommandKind(IntEnum):
    COMMAND_PUT = 1
    COMMAND_DELETE = 2
    COMMAND_PUT_MANY = 3
    COMMAND_DELETE_RANGE = 4
    COMMAND_BATCH = 5

class CommandFlag(IntEnum):
    COMMAND_SESSION = 1
    COMMAND_TIME = 2
    COMMAND_EXPIRY = 4

class OperationKind(IntEnum):
    OPERATION_PUT = 1
    OPERATION_DELETE = 2
    OPERATION_DELETE_RANGE = 3

class ConditionKind(IntEnum):
    CONDITION_VALUE = 1
    CONDITION_REVISION = 2
    CONDITION_ABSENT = 3
    CONDITION_PRESENT = 4

class Decoded(NamedTuple):
    kind: int
    flags: int
    space: int
    epoch: int
    session: int
    sequence: int
    acked_through: int
    time_ms: int
    expiry_ms: int
    conditions: list[tuple[int, bytes] | tuple[int, bytes, bytes | int]]
    operations: list[tuple[int, bytes] | tuple[int, bytes, bytes]]

def encode_put(
    space: int,
    epoch: int,
    key: bytes,
    value: _Buffer,
    value_bytes_max: int = 1048576,
    expiry_ms: int = 0,
) -> bytes: ...
def encode_delete(space: int, epoch: int, key: bytes) -> bytes: ...
def encode_delete_range(space: int, epoch: int, start: bytes, end: bytes) -> bytes: ...
def encode_put_many(
    space: int,
    epoch: int,
    items: Iterable[tuple[bytes, _Buffer]],
    value_bytes_max: int = 1048576,
    expiry_ms: int = 0,
) -> bytes: ...
def encode_batch(
    space: int,
    epoch: int,
    operations: Iterable[_Operation],
    conditions: Iterable[_Condition] = (),
    value_bytes_max: int = 1048576,
    expiry_ms: int = 0,
) -> bytes: ...
def with_session(command: bytes, *, session: int, sequence: int, acked_through: int) -> bytes: ...
def with_time(command: bytes, *, time_ms: int) -> bytes: ...
def only_deletes(command: bytes) -> bool: ...
def decode(command: bytes) -> Decoded: ...
