"""When a member is offered a snapshot again: soon, but ever later where one after another came to nothing.

A member that cannot take what it is sent - its version does not know the format, its state is damaged - asks for the next
snapshot as soon as it has refused one, and its leader would write and send the whole state without pause. So what came to
nothing is counted for each (group, replica), and each one more in a row doubles the pause before the next, up to a limit.

It never makes or sends anything, and knows ticks only: no clock, no chance. Invariants: nobody waits longer than
``PAUSE_TICKS_MAX``; a member that has caught up, however it did, and one whose node has a new link - so also after its
restart - wait for one tick at most, and begin anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from multiraft.raft import MultiRaft

logger = logging.getLogger("multiraft.node")

RETRY_TICKS = 5
"""The pause where no place was found, and the first one after a snapshot that came to nothing."""
PAUSE_TICKS_MAX = 160

Key = tuple[int, int]
"""A group and the replica in it that is too far behind."""


@dataclass(slots=True)
class Tries:
    """Snapshots for one member, since it last had no need of any."""

    node: int
    failures: int = 0
    index: int = 0
    """Of the last one that left whole; 0 while none did."""
    unanswered: bool = False
    """Nobody knows yet what became of that one."""


class Retries:
    """The pauses of one node. ``failures`` counts all snapshots for others that came to nothing."""

    def __init__(self, multi: MultiRaft) -> None:
        self._multi = multi
        self._tries: dict[Key, Tries] = {}
        self._pauses: dict[Key, int] = {}
        self.failures = 0

    def later(self, key: Key) -> None:
        """There is no place for a snapshot now: ask again soon."""
        self._pauses.setdefault(key, RETRY_TICKS)

    def must_wait(self, key: Key, node: int) -> bool:
        """A member wants a snapshot: must it wait? If the last one left whole, it was not taken."""
        one = self._tries.get(key)
        if one is not None and one.unanswered and not self._caught_up(key, one):
            self.failed(key, node, f"that at index {one.index} was sent and is not taken")
        return key in self._pauses

    def sent(self, key: Key, node: int, index: int) -> None:
        """A snapshot left whole; whether it was taken shows in what the member has, or in that it wants another."""
        one = self._tries.setdefault(key, Tries(node))
        one.index, one.unanswered = index, True

    def failed(self, key: Key, node: int, why: object) -> None:
        """A snapshot for a member came to nothing: the next one waits, twice as long as the one before."""
        one = self._tries.setdefault(key, Tries(node))
        pause = min(RETRY_TICKS << min(one.failures, 16), PAUSE_TICKS_MAX)
        one.failures += 1
        one.unanswered = False
        self._pauses[key] = pause
        self.failures += 1
        group, replica = key
        logger.warning(
            "no snapshot of group %d for replica %d on node %d, %d in a row: %s; the next one not before %d ticks",
            group,
            replica,
            node,
            one.failures,
            why,
            pause,
            extra={"group": group},
        )

    def link_up(self, node: int) -> None:
        """A node has a new link, perhaps since it was restarted: what it did not take before says nothing any more."""
        for key in [key for key, one in self._tries.items() if one.node == node]:
            self._forget(key)

    def tick(self) -> list[Key]:
        """Let a tick pass; the members whose pause is over, or that wait for no snapshot any more."""
        for key in [key for key, one in self._tries.items() if self._caught_up(key, one)]:
            self._forget(key)
        due = [key for key, left in self._pauses.items() if left <= 1]
        for key in due:
            del self._pauses[key]
        for key in self._pauses:
            self._pauses[key] -= 1
        return due

    def _caught_up(self, key: Key, one: Tries) -> bool:
        """Has the member what it was sent, or else all that the log lacks? Who leads no more has nothing to send, either."""
        group, replica = key
        match_index = self._multi.match_index(group, replica)
        if match_index is None:
            return True
        return match_index >= (one.index or self._multi.indexes(group)[0])

    def _forget(self, key: Key) -> None:
        del self._tries[key]
        if key in self._pauses:
            self._pauses[key] = 1
