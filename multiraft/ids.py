"""The numbers that name things, as types of their own, and the limits that they keep.

Ids are never reused. This module imports nothing of ours and holds no logic beyond making a random id.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import NewType

NodeId = NewType("NodeId", int)
"""A process of the cluster: 1 .. 2**32 - 1, given by its operator."""

GroupId = NewType("GroupId", int)
"""A Raft group: 0 .. 2**64 - 1, from a counter in group 0. Group 0 is the meta group."""

ReplicaId = NewType("ReplicaId", int)
"""A member of one group: 1 .. 2**32 - 1, from a counter in the group's descriptor. 0 means nobody."""

ClusterId = NewType("ClusterId", int)
"""Random, written once by the first leader of group 0; 0 means not known yet."""

StoreId = NewType("StoreId", int)
"""Random, made once for a node's data directory; a wiped directory gets another."""

META_GROUP = GroupId(0)
NOBODY = ReplicaId(0)
NODE_ID_MAX = 2**32 - 1
GROUP_ID_MAX = 2**64 - 1
REPLICA_ID_MAX = 2**32 - 1


def random_id() -> int:
    """A random id of 63 bits, never 0: for clusters and stores, which must differ from all others ever made."""
    while True:
        value = secrets.randbits(63)
        if value:
            return value


def message_ids(boot_count: int) -> Iterator[int]:
    """Numbers for messages that ask for an answer: no earlier run of this store has used them.

    Another node may answer after we were restarted, over the new link. If both runs counted from 1, that answer would pass for
    the one to another question: a write would be acknowledged that never happened.
    """
    return itertools.count(((boot_count & 0xFF_FFFF) << 40) + 1)
