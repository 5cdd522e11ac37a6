"""What a log store should hold, in plain Python, and a generator of changes that a correct node could write.

The model keeps every entry as a tuple in a dict. It knows nothing of batches, sequences or compaction: that is the point.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace

from multiraft._core import RunKind
from multiraft.ids import GroupId, NodeId, ReplicaId, StoreId
from multiraft.interfaces import (
    Base,
    GroupLog,
    HardState,
    Member,
    Membership,
    Pinned,
    SnapshotRecord,
)
from tests.unit.log import harness as h

Entry = tuple[int, int, bytes]
"""(term, kind, payload)"""


@dataclass
class GroupModel:
    """One group. ``entries`` holds exactly base.index + 1 .. last."""

    group: int
    base: Base
    hard_state: HardState = field(default_factory=HardState)
    entries: dict[int, Entry] = field(default_factory=dict)
    commit: int = 0
    pending: SnapshotRecord | None = None
    dead: bool = False

    @property
    def last(self) -> int:
        return self.base.index + len(self.entries)

    def term(self, index: int) -> int:
        return self.base.term if index == self.base.index else self.entries[index][0]

    def log(self) -> GroupLog:
        terms: list[tuple[int, int]] = []
        for index in sorted(self.entries):
            if not terms or terms[-1][1] != self.entries[index][0]:
                terms.append((index, self.entries[index][0]))
        hard_state = self.hard_state
        commit = max(min(self.commit, self.last), self.base.index)
        return GroupLog(
            group=GroupId(self.group),
            base=self.base,
            hard_state=HardState(
                hard_state.term, hard_state.vote, hard_state.leader, hard_state.epoch, commit
            ),
            last_index=self.last,
            terms=tuple(terms),
            changes=tuple(index for index in sorted(self.entries) if self.entries[index][1] == 2),
            pending=self.pending,
            tombstone=self.dead,
        )


class Model:
    """All groups, and a source of chance that decides what happens next."""

    def __init__(self, seed: int, groups: int = 6):
        self.chance = random.Random(seed)
        self.ids = [0, *(self.chance.randrange(1, 2**64) for _ in range(groups - 1))]
        self.groups: dict[int, GroupModel] = {}
        self.replicas = dict.fromkeys(self.ids, 0)
        self.pins: dict[int, Pinned] = {}
        self.serial = 0

    def snapshot(self) -> Model:
        """The same state, to go back to; chance goes on as it would have."""
        made = copy.copy(self)
        made.groups = {
            group: replace(each, entries=dict(each.entries)) for group, each in self.groups.items()
        }
        made.replicas, made.pins = dict(self.replicas), dict(self.pins)
        return made

    def batch(self) -> list[bytes]:
        """The runs of one batch; the model has taken them in."""
        runs: list[bytes] = []
        for _ in range(self.chance.randint(1, 4)):
            # Few groups are busy and the others idle, so that there is something to rewrite.
            group = self.ids[min(int(self.chance.expovariate(0.7)), len(self.ids) - 1)]
            runs += self.step(group)
        return runs or [self.pin()]

    def step(self, group: int) -> list[bytes]:
        found = self.groups.get(group)
        if found is None or found.dead:
            return [self.create(group)]
        actions = [
            (30, self.extend),
            (6, self.conflict),
            (3, self.overlap),
            (3, self.truncate),
            (8, self.set_hard_state),
            (12, self.compact),
            (3, self.mark),
            (2, self.set_pending),
            (1, self.withdraw),
            (1, self.kill),
        ]
        action = self.chance.choices(
            [each for _, each in actions], [weight for weight, _ in actions]
        )[0]
        return [*action(found), *([self.pin()] if self.chance.random() < 0.03 else [])]

    # -- one action each: the model changes, and the runs that say so are returned ------------------------------------

    def membership(self) -> Membership:
        count = self.chance.randint(0, 4)
        return Membership(
            tuple(Member(ReplicaId(at + 1), NodeId(at + 7), 1) for at in range(count))
        )

    def create(self, group: int) -> bytes:
        self.replicas[group] += self.chance.randint(1, 3)
        index = self.chance.choice([0, 0, 10])
        base = h.base_of(
            index, 2 if index else 0, replica=self.replicas[group], membership=self.membership()
        )
        self.groups[group] = GroupModel(group, base, commit=index)
        return h.base_run(RunKind.RUN_REPLICA_CREATED, group, base)

    def payloads(self) -> list[bytes]:
        self.serial += 1
        sizes = [self.chance.choice([0, 3, 40, 700]) for _ in range(self.chance.randint(1, 6))]
        return [f"{self.serial}:{at}".encode().ljust(size, b".") for at, size in enumerate(sizes)]

    def put(
        self, group: GroupModel, first: int, term: int, payloads: list[bytes], kind: int
    ) -> list[bytes]:
        prev_term = group.term(first - 1)
        for index in range(first, group.last + 1):
            del group.entries[index]
        for at, payload in enumerate(payloads):
            group.entries[first + at] = (term, kind, payload)
        header_commit = self.chance.choice(
            [0, 0, self.chance.randint(group.commit, first + len(payloads) + 3)]
        )
        group.commit = max(group.commit, min(header_commit, first + len(payloads) - 1))
        return [
            h.entries_run(
                group.group,
                first,
                term,
                payloads,
                prev_term=prev_term,
                commit=header_commit,
                kind=kind,
            )
        ]

    def extend(self, group: GroupModel) -> list[bytes]:
        term = max(group.term(group.last), 1) + (self.chance.random() < 0.1)
        kind = 2 if self.chance.random() < 0.15 else 1
        return self.put(group, group.last + 1, term, self.payloads(), kind)

    def conflict(self, group: GroupModel) -> list[bytes]:
        if group.last <= group.commit:
            return self.extend(group)
        first = self.chance.randint(group.commit + 1, group.last)
        low = max(group.term(first - 1), 1)
        term = self.chance.choice([low, low + 1, group.term(group.last) + 1])
        if term == group.term(first):
            term = group.term(group.last) + 1
        return self.put(group, first, term, self.payloads(), 1)

    def overlap(self, group: GroupModel) -> list[bytes]:
        """The last entries again, and more: nothing of it is a conflict."""
        if not group.entries:
            return self.extend(group)
        term = group.term(group.last)
        first = group.last
        while (
            first - 1 > group.base.index
            and group.term(first - 1) == term
            and self.chance.random() < 0.7
        ):
            first -= 1
        same = [group.entries[index] for index in range(first, group.last + 1)]
        kind = same[0][1]
        if any(each[1] != kind for each in same):
            return self.extend(group)
        return self.put(group, first, term, [*(each[2] for each in same), *self.payloads()], kind)

    def truncate(self, group: GroupModel) -> list[bytes]:
        if group.last <= group.commit:
            return self.extend(group)
        first = self.chance.randint(group.commit + 1, group.last)
        for index in range(first, group.last + 1):
            del group.entries[index]
        return [h.truncated(group.group, first)]

    def set_hard_state(self, group: GroupModel) -> list[bytes]:
        old = group.hard_state
        term = old.term + self.chance.randint(0, 2)
        vote = self.chance.randint(0, 3) if term > old.term or not old.vote else old.vote
        commit = self.chance.randint(group.commit, max(group.last, group.commit))
        state = HardState(term, ReplicaId(vote), ReplicaId(vote), self.chance.randint(0, 5), commit)
        group.hard_state = state
        group.commit = max(group.commit, commit)
        return [h.hard(group.group, state, replica=group.base.replica)]

    def compact(self, group: GroupModel) -> list[bytes]:
        top = min(group.commit, group.last)
        if top <= group.base.index:
            return self.extend(group)
        index = self.chance.choice([top, self.chance.randint(group.base.index + 1, top)])
        base = self.based(group, index, group.term(index))
        group.entries = {at: entry for at, entry in group.entries.items() if at > index}
        return [h.base_run(RunKind.RUN_BASE, group.group, base)]

    def based(self, group: GroupModel, index: int, term: int) -> Base:
        """A base that carries the hard state of now, or an older one that must not count."""
        state = group.hard_state
        state = HardState(
            state.term, state.vote, state.leader, state.epoch, min(group.commit, group.last)
        )
        group.base = Base(index, term, group.base.replica, self.membership(), state)
        if group.pending is not None and group.pending.base.index <= index:
            group.pending = None
        group.commit = max(group.commit, index)
        return group.base

    def mark(self, group: GroupModel) -> list[bytes]:
        """A snapshot: beyond the log, or within it, fitting or not."""
        index = self.chance.randint(group.base.index + 1, group.last + 5)
        if index <= group.last and (group.commit >= index or self.chance.random() < 0.5):
            term = group.term(index)
            kept = {at: entry for at, entry in group.entries.items() if at > index}
        else:
            term = max(group.term(group.last), 1) + 1
            kept = {}
        commit = group.commit
        base = self.based(group, index, term)
        group.entries = kept
        group.commit = max(commit, index)
        return [h.base_run(RunKind.RUN_SNAPSHOT_MARK, group.group, base)]

    def set_pending(self, group: GroupModel) -> list[bytes]:
        index = group.last + self.chance.randint(1, 9)
        base = Base(index, 9, group.base.replica, self.membership(), HardState())
        group.pending = SnapshotRecord(base, f"snapshot-{self.serial}", 12345, 678)
        return [h.pending(group.group, group.pending)]

    def withdraw(self, group: GroupModel) -> list[bytes]:
        group.pending = None
        return [h.withdrawn(group.group, replica=group.base.replica)]

    def kill(self, group: GroupModel) -> list[bytes]:
        replica = group.base.replica
        self.groups[group.group] = GroupModel(
            group.group, Base(0, 0, replica, Membership()), dead=True
        )
        return [h.tombstone(group.group, replica=replica)]

    def pin(self) -> bytes:
        node = self.chance.randint(1, 3)
        self.serial += 1
        self.pins[node] = Pinned(NodeId(node), StoreId(node * 1000), self.serial, self.serial * 2)
        return h.pin(node, node * 1000, self.serial, self.serial * 2)
