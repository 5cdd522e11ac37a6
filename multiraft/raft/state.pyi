"""What rules share, as far as Python sees it."""

from __future__ import annotations

from enum import IntEnum
from typing import final

class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3

class ReadMode(IntEnum):
    READ_INDEX = 0
    READ_LEASE = 1

@final
class Nodes: ...

@final
class Engine:
    read_states: list[tuple[int, int, int | None]]
    wanted: list[tuple[int, int, int, int]]
    snapshots_wanted: list[tuple[int, int, int]]
    snapshots: list[tuple[int, int, int, int, int, bytes]]
    roles: list[tuple[int, int, int, int]]
