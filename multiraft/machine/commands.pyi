from collections.abc import Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

VALUE_BYTES_MAX: int
KEY_BYTES_LIMIT: int

class CommandKind(IntFlag):
    COMMAND_PUT = 1
    COMMAND_DELETE = 2
    COMMAND_PUT_MANY = 3
    COMMAND_DELETE_RANGE = 4
    COMMAND_BATCH = 5
