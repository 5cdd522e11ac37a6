"""What all replicas of a node want done after one pass over them: a plain value, made by ``MultiRaft.ready``."""

from __future__ import annotations

from dataclasses import dataclass

from multiraft._core import CommittedRuns
from multiraft.ids import NodeId


@dataclass(slots=True)
class Ready:
    """What the node must do now: write ``batches``, send ``frames``, apply ``committed``; the rest are rare news.

    ``frames`` may leave at once, before the batches are even written. ``committed`` feeds the built-in store and
    ``committed_users`` all other machines. See ``door.Ready`` and ``state.Engine`` for the tuples.
    """

    batches: list[bytes]
    frames: list[tuple[NodeId, bytes]]
    """(node, frame)."""
    committed: CommittedRuns | None
    committed_users: CommittedRuns | None
    read_states: list[tuple[int, int, int | None]]
    """(group, context, read index); None where the read must be asked anew."""
    wanted: list[tuple[int, int, int, int]]
    """(group, replica id of the peer or 0 for applying, first index, bytes)."""
    snapshots: list[tuple[int, int, int, int, int, bytes]]
    """(group, index, term, context, from replica, encoded membership)."""
    snapshots_wanted: list[tuple[int, int, int]]
    """(group, replica id of the peer, its node)."""
    roles: list[tuple[int, int, int, int]]
    """(group, role, leader, term)."""
    posts: list[tuple[int, int, int, int, int, int, int, bytes]]
    """(node, kind, group, context, index, term, flags, body)."""
