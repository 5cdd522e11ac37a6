"""A few replicas in one thread, for tests: a disk that syncs when told to, a network that delivers when told to.

By default everything is prompt: ``settle`` delivers and syncs until nothing is left to do. A test that needs a moment in
between drives the parts by hand: ``collect`` takes a replica's output, ``sync`` makes it durable, ``deliver`` moves messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from multiraft._core import MemberFlag, RunKind, encode_run
from multiraft.interfaces import HardState, Member, Membership
from multiraft.raft import Entry, MembershipChange, Message, Options, Ready, Replica, Role, Snapshot

PLAIN = Options(election_ticks=10, heartbeat_ticks=1, pre_vote=False, check_quorum=False)


def voters(*ids: int, learners: Iterable[int] = ()) -> Membership:
    """A membership of those voters and learners, replica n on node n."""
    parts = {id: int(MemberFlag.MEMBER_VOTER) for id in ids} | {
        id: int(MemberFlag.MEMBER_LEARNER) for id in learners
    }
    return Membership(tuple(Member(id, id, parts[id]) for id in sorted(parts)))  # type: ignore[arg-type]


@dataclass
class Disk:
    """What is synced: a crash keeps exactly this."""

    hard_state: HardState = HardState()
    entries: dict[int, Entry] = field(default_factory=dict)
    base: tuple[int, int] = (0, 0)

    def read(self, group: int, first: int) -> list[bytes]:
        """The run that begins at ``first``, encoded, as a log store reads it."""
        stretch: list[Entry] = []
        while (entry := self.entries.get(first + len(stretch))) is not None:
            if stretch and (entry.term, entry.kind) != (stretch[0].term, stretch[0].kind):
                break
            stretch.append(entry)
        if not stretch:
            return []
        head, payloads = stretch[0], [entry.payload for entry in stretch]
        return [
            encode_run(group=group, first=first, term=head.term, kind=head.kind, entries=payloads)
        ]

    def write(self, ready: Ready) -> None:
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        for entry in ready.entries:
            old = self.entries.get(entry.index)
            if old is not None and old.term != entry.term:
                self.entries = {i: e for i, e in self.entries.items() if i < entry.index}
            self.entries[entry.index] = entry


class Node:
    """One replica with its disk and its state machine (a list of the payloads applied)."""

    def __init__(self, id: int, membership: Membership, options: Options, seed: int = 0) -> None:
        self.id = id
        self.options = options
        self.disk = Disk()
        self.first_membership = membership
        self.replica = Replica(options, replica=id, membership=membership, seed=seed * 1000 + id)
        self.unsynced: deque[Ready] = deque()
        self.applied: list[Entry] = []
        self.outbox: list[Message] = []
        self.reads: list[tuple[int, int | None]] = []
        self.snapshots: list[Snapshot] = []

    def collect(self) -> Ready:
        """Take the output; messages that may go are put into the outbox, the rest waits for ``sync``."""
        ready = self.replica.ready()
        self.outbox += ready.messages
        self.reads += ready.read_states
        for peer, first, _bytes in ready.wanted:
            self.replica.fetched(peer, self.disk.read(1, first))
        if ready.snapshot is not None:
            self.snapshots.append(ready.snapshot)
        self.unsynced.append(ready)
        for entry in ready.committed:
            if entry.kind == RunKind.RUN_MEMBERSHIP:
                self.replica.apply_membership(entry.index, MembershipChange.decode(entry.payload))
            self.applied.append(entry)
            self.replica.applied(entry.index)
        return ready

    def sync(self, count: int | None = None) -> None:
        """Make the oldest ``count`` outputs durable (all of them by default), oldest first, and release what waited."""
        for _ in range(len(self.unsynced) if count is None else count):
            ready = self.unsynced.popleft()
            self.disk.write(ready)
            if ready.tag is not None:
                self.replica.persisted(ready.tag)
            self.outbox += ready.messages_after

    def crash(self) -> None:
        """Lose everything that is not synced, and start again from the disk; what was applied is applied anew."""
        self.unsynced.clear()
        self.outbox.clear()
        self.applied.clear()
        self.replica = Replica(
            self.options,
            replica=self.id,
            membership=self.first_membership,
            hard_state=self.disk.hard_state,
            entries=[self.disk.entries[i] for i in sorted(self.disk.entries)],
        )


class Cluster:
    """Nodes 1..n and the messages between them. ``cut`` drops what it says True to; nothing is ever late by itself."""

    def __init__(
        self,
        count: int = 3,
        options: Options = PLAIN,
        *,
        learners: Iterable[int] = (),
        seed: int = 0,
    ) -> None:
        members = [id for id in range(1, count + 1) if id not in set(learners)]
        membership = voters(*members, learners=learners)
        self.nodes = {id: Node(id, membership, options, seed) for id in range(1, count + 1)}
        self.cut: Callable[[Message], bool] = lambda message: False
        self.seen: list[Message] = []

    def __getitem__(self, id: int) -> Replica:
        return self.nodes[id].replica

    def isolate(self, *ids: int) -> None:
        """Messages between these and the others are lost from here on; ``heal`` ends it."""
        self.cut = lambda message: (message.from_replica in ids) != (message.to_replica in ids)

    def heal(self) -> None:
        self.cut = lambda message: False

    def take(self) -> list[Message]:
        """All messages that wait to be delivered, in order of their senders; those that are cut off are lost here."""
        messages = [message for node in self.nodes.values() for message in node.outbox]
        for node in self.nodes.values():
            node.outbox.clear()
        return [message for message in messages if not self.cut(message)]

    def deliver(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.seen.append(message)
            if message.to_replica in self.nodes:
                self.nodes[message.to_replica].replica.step(message)

    def settle(self, rounds: int = 200) -> None:
        """Collect, sync and deliver until nothing moves any more."""
        for _ in range(rounds):
            for node in self.nodes.values():
                while node.replica.has_ready():
                    node.collect()
                    node.sync()
            messages = self.take()
            if not messages:
                return
            self.deliver(messages)
        raise AssertionError("the cluster does not come to rest")

    def tick(self, count: int = 1, *ids: int) -> None:
        for _ in range(count):
            for id in ids or self.nodes:
                self.nodes[id].replica.tick()

    def elect(self, id: int) -> Replica:
        """Let that node stand for election, and win."""
        self[id].campaign()
        self.settle()
        assert self[id].status().role == Role.LEADER, self[id].status()
        return self[id]

    def leaders(self) -> list[int]:
        return [id for id, node in self.nodes.items() if node.replica.status().role == Role.LEADER]

    def payloads(self, id: int) -> list[bytes]:
        """What the node applied, without the empty entries of new leaders."""
        return [
            entry.payload
            for entry in self.nodes[id].applied
            if entry.payload and entry.kind != RunKind.RUN_MEMBERSHIP
        ]
