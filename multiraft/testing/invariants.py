"""What must hold after every turn of every node, whatever befalls them; what does not is a violation.

- Election safety: a term of a group has one leader (Raft paper, figure 3).
- Leader completeness: whoever becomes leader has every entry that is known to be committed.
- State machine safety and log matching on what is committed: an index of a group, once committed anywhere, has one entry.
- A life of a node never takes back a commit or an applied index, applies nothing that is not committed, and a restarted one
  comes back with all that it had synced.
- Replicas that have applied the same index have the same state.

Everything is looked at from outside, through the doors of the production code; nothing here changes a node.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from multiraft.testing.cluster import Life

Entry = tuple[int, int]
"""Term, and a checksum of the payload."""


@dataclass(slots=True)
class Seen:
    """What one life of a node showed of one group."""

    indexes: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    checked: int = 0


@dataclass(slots=True)
class GroupTruth:
    """What is known of one group for good."""

    leaders: dict[int, str] = field(default_factory=dict)
    """By term."""
    committed: dict[int, Entry] = field(default_factory=dict)
    last: int = 0
    """The highest index known to be committed."""
    hashes: dict[int, tuple[object, str]] = field(default_factory=dict)
    """Of the state after an index, and whose it was."""


class Invariants:
    """The checks of one run; ``violated`` is told of the first thing that is wrong, in one line."""

    def __init__(
        self, generator: random.Random, violated: Callable[[str], None], *, hash_share: float = 0.02
    ) -> None:
        self._generator = generator
        self._violated = violated
        self._hash_share = hash_share
        self._groups: dict[int, GroupTruth] = {}
        self._seen: dict[tuple[str, int], Seen] = {}
        self.checks = 0

    def group(self, group: int) -> GroupTruth:
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = GroupTruth()
        return found

    def leads(self, life: Life, group: int, term: int) -> None:
        """A replica of a node became leader, or says so again."""
        truth = self.group(group)
        before = truth.leaders.setdefault(term, f"node {life.number}")
        if before != f"node {life.number}":
            self._violated(
                f"group {group} has two leaders in term {term}: {before} and node {life.number}"
            )
        replica = life.node.multi.replica(group)
        status = replica.status()
        if status.term != term:
            return
        leader = f"node {life.number} leads group {group} in term {term}"
        if status.last_index < truth.last:
            self._violated(
                f"{leader} with entries up to {status.last_index}; {truth.last} is committed"
            )
            return
        known = truth.committed.get(truth.last)
        mine = replica.term_at(truth.last) if truth.last >= status.first_index - 1 else None
        if known is not None and mine is not None and mine != known[0]:
            self._violated(f"{leader}; its entry {truth.last} is of term {mine}, not {known[0]}")

    def turned(self, life: Life) -> None:
        """A turn of a node is over."""
        multi = life.node.multi
        for group in multi.groups():
            indexes = multi.indexes(group)
            seen = self._seen.get((life.name, group))
            if seen is None:
                seen = self._seen[life.name, group] = Seen()
            if indexes != seen.indexes:
                self._moved(life, group, seen, indexes)

    def _moved(
        self, life: Life, group: int, seen: Seen, indexes: tuple[int, int, int, int, int]
    ) -> None:
        self.checks += 1
        base, stable, commit, applied, last = indexes
        _, _, commit_before, applied_before, _ = seen.indexes
        seen.indexes = indexes
        where = f"group {group} on node {life.name}"
        if commit < commit_before or applied < applied_before:
            self._violated(
                f"{where} went back from commit {commit_before} and applied {applied_before} to {commit} and {applied}"
            )
        if not base <= applied <= min(commit, stable) or max(commit, stable) > last:
            self._violated(
                f"{where}: base {base}, applied {applied}, commit {commit}, stable {stable}, last {last}"
            )
        if commit > seen.checked:
            self._committed(life, group, max(seen.checked, base), commit)
            seen.checked = commit
        if applied != applied_before and self._generator.random() < self._hash_share:
            self.compare_state(life, group)

    def _committed(self, life: Life, group: int, after: int, commit: int) -> None:
        truth = self.group(group)
        truth.last = max(truth.last, commit)
        for entry in life.node.multi.replica(group).entries(after + 1, commit):
            made = entry.term, crc32(entry.payload)
            known = truth.committed.setdefault(entry.index, made)
            if known != made:
                self._violated(
                    f"entry {entry.index} of group {group} is committed as {known} and, on node {life.name}, as {made}"
                )

    def compare_state(self, life: Life, group: int) -> None:
        """Compare the whole state of a shard with that of others who have applied as much."""
        machine = life.node.machine
        if group not in machine.table.shards:
            return
        applied = machine.shard(group).applied_index
        found = machine.state_hash(group)
        while found.resume is not None:
            found = machine.state_hash(group, found)
        value = found.crc, found.keys
        known, whose = self.group(group).hashes.setdefault(applied, (value, life.name))
        if known != value:
            self._violated(
                f"the state of group {group} after entry {applied} differs between node {whose} and node {life.name}"
            )
