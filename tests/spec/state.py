"""One replica as a value, and its log as another: what the rules in ``raft.py`` read and replace.

A log is a plain tuple of entries. What the compiled log keeps beside it - which of them are in a batch, on the disk, in memory
- are numbers here, too, since they decide what is sent and what must be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from multiraft._core import MemberFlag, RunKind
from multiraft.errors import InvariantViolation
from multiraft.interfaces import HardState, Membership
from multiraft.raft import Entry, Message, Options, Role, Snapshot
from tests.spec.members import committed_index

RUN_BYTES = 256 * 1024
"""A run of proposals is sealed when it would grow beyond this; a larger entry makes one alone."""
RUN_ENTRIES = 1024 * 1024
HEADS_BYTES = 72 + 64
"""What the headers of a message and of its run add to its entries."""


def run_bytes(entries: tuple[Entry, ...]) -> int:
    return sum(4 + len(entry.payload) for entry in entries)


@dataclass(frozen=True, slots=True)
class Log:
    """``entries`` are all above the base, known to this replica, whether or not they are still in memory."""

    base_index: int = 0
    base_term: int = 0
    entries: tuple[Entry, ...] = ()
    sealed: int = 0
    """Entries up to here were handed to the disk; those above are proposals since the last ready."""
    stable: int = 0
    """Entries up to here are synced."""
    commit: int = 0
    applying: int = 0
    """Handed out to be applied."""
    applied: int = 0
    generation: int = 1
    """Rises when entries are cut: a sync that was asked for before says nothing any more."""
    runs: tuple[tuple[int, int], ...] = ()
    """(first, last) of the runs in memory, adjacent, ending at ``sealed``."""

    @property
    def last(self) -> int:
        return self.base_index + len(self.entries)

    def at(self, index: int) -> Entry:
        return self.entries[index - self.base_index - 1]

    def knows(self, index: int) -> bool:
        return self.base_index <= index <= self.last

    def term(self, index: int) -> int:
        """0 where it is not known."""
        if index == self.base_index:
            return self.base_term
        return self.at(index).term if self.knows(index) else 0

    def matches(self, index: int, term: int) -> bool:
        return self.knows(index) and self.term(index) == term

    def in_memory(self, index: int) -> bool:
        return bool(self.runs) and self.runs[0][0] <= index <= self.sealed

    def changes(self, low: int, high: int) -> bool:
        """Does an entry above ``low`` and up to ``high`` change the membership?"""
        span = range(max(low, self.applied, self.base_index) + 1, min(high, self.last) + 1)
        return any(self.at(index).kind == RunKind.RUN_MEMBERSHIP for index in span)

    def conflict(self, index: int, term: int) -> int:
        """The highest index, at most ``index``, whose term is at most ``term``: where two logs may still agree."""
        if index > self.last:
            return index
        while index > self.base_index and self.term(index) > term:
            index -= 1
        return max(index, self.base_index)

    def stretch(self, first: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from ``first`` on for one message: of one term and one kind, at least one, at most so many bytes."""
        head = self.at(first)
        taken: list[Entry] = []
        size = 0
        for index in range(first, self.sealed + 1):
            entry = self.at(index)
            size += 4 + len(entry.payload)
            if (entry.term, entry.kind) != (head.term, head.kind) or (taken and size > bytes_max):
                break
            taken.append(entry)
        return tuple(taken)

    # -- changes ------------------------------------------------------------------------------------------------------------------

    def proposed(self, entry: Entry) -> Log:
        return replace(self, entries=(*self.entries, entry))

    def sealed_all(self) -> Log:
        """Make runs of the proposals: one kind each, within the limits of a run."""
        runs = list(self.runs)
        for _, same in groupby(self.entries[self.sealed - self.base_index :], key=lambda entry: entry.kind):
            first = last = size = 0
            for entry in same:
                size += 4 + len(entry.payload)
                if first and (size > RUN_BYTES or last - first + 1 == RUN_ENTRIES):
                    runs.append((first, last))
                    first, size = 0, 4 + len(entry.payload)
                first, last = first or entry.index, entry.index
            runs.append((first, last))
        return replace(self, sealed=self.last, runs=tuple(runs))

    def cut(self, first: int) -> Log:
        """Forget everything from ``first`` on."""
        if first <= self.commit:
            raise InvariantViolation(f"{first} is committed")
        runs = tuple((low, min(high, first - 1)) for low, high in self.runs if low < first)
        return replace(
            self,
            entries=self.entries[: first - self.base_index - 1],
            sealed=first - 1,
            stable=min(self.stable, first - 1),
            generation=self.generation + 1,
            runs=runs,
        )

    def appended(self, entries: tuple[Entry, ...]) -> Log:
        """One run from a leader behind the log."""
        run = (entries[0].index, entries[-1].index)
        return replace(self, entries=self.entries + entries, sealed=run[1], runs=(*self.runs, run))

    def released(self, index: int) -> Log:
        """Let go of the runs that end at or below ``index``; they are on the disk."""
        return replace(self, runs=tuple(run for run in self.runs if run[1] > index))

    def compacted(self, index: int, term: int) -> Log:
        if index <= self.base_index:
            return self
        log = self.released(index)
        return replace(log, base_index=index, base_term=term, entries=self.entries[index - self.base_index :])

    def restored(self, index: int, term: int) -> Log:
        """A snapshot in place of everything."""
        log = Log(index, term, generation=self.generation + 1)
        return replace(log, sealed=index, stable=index, commit=index, applying=index, applied=index)


@dataclass(frozen=True, slots=True)
class Peer:
    """What a leader knows of one member, and as candidate of its vote."""

    replica: int
    node: int
    flags: int
    state: str = "probe"
    paused: bool = False
    recently_active: bool = True
    must_send: bool = False
    wanted: bool = False
    snapshot_wanted: bool = False
    vote: int = 0
    match: int = 0
    next: int = 1
    sent_commit: int = 0
    pending_snapshot: int = 0
    read_round: int = 0
    window: tuple[tuple[int, int], ...] = ()
    """(last index, bytes) of the appends on their way."""

    @property
    def votes(self) -> bool:
        return bool(self.flags & (MemberFlag.MEMBER_VOTER | MemberFlag.MEMBER_OUTGOING))

    @property
    def learner(self) -> bool:
        return bool(self.flags & MemberFlag.MEMBER_LEARNER)

    def silent(self) -> bool:
        """Is nothing sent to it just now?"""
        return self.state == "snapshot" or self.paused or self.wanted or self.snapshot_wanted

    def full(self, options: Options) -> bool:
        size = sum(size for _, size in self.window)
        return len(self.window) >= options.inflight_messages_max or 0 < options.inflight_bytes_max <= size

    def reset(self, last_index: int) -> Peer:
        return Peer(self.replica, self.node, self.flags, recently_active=False, next=last_index + 1)

    def enter(self, state: str, next_index: int) -> Peer:
        return replace(
            self, state=state, next=next_index, window=(), paused=False, must_send=False, pending_snapshot=0
        )

    def probe(self) -> Peer:
        behind = max(self.match, self.pending_snapshot if self.state == "snapshot" else 0)
        return replace(self.enter("probe", behind + 1), sent_commit=0, wanted=False)

    def replicate(self) -> Peer:
        return self.enter("replicate", self.match + 1)

    def snapshot(self, index: int) -> Peer:
        peer = self.enter("snapshot", index + 1)
        return replace(peer, pending_snapshot=index, sent_commit=0, snapshot_wanted=False)


@dataclass(frozen=True, slots=True)
class Read:
    """A read that waits: its round is 0 until one is started for it."""

    context: int
    from_replica: int
    index: int = 0
    round: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """Everything that one replica is. ``now`` and ``after`` are messages that leave with the next ready."""

    options: Options
    id: int
    peers: tuple[Peer, ...]
    log: Log
    auto_leave: bool = False
    term: int = 0
    vote: int = 0
    role: int = Role.FOLLOWER
    leader: int = 0
    transfer_to: int = 0
    election_elapsed: int = 0
    heartbeat_elapsed: int = 0
    election_timeout: int = 0
    embargo: int = 0
    change_index: int = 0
    term_start: int = 0
    uncommitted_bytes: int = 0
    # -- reads
    reads: tuple[Read, ...] = ()
    round: int = 0
    rounds_sent: tuple[tuple[int, int], ...] = ()
    lease_until: int = 0
    lease_barred: bool = False
    time: int = 0
    # -- what the disk was given
    written: HardState = HardState()
    told: HardState = HardState()
    handout_due: bool = False
    new_entries: tuple[Entry, ...] = ()
    # -- what the next ready hands out
    heartbeat_due: bool = False
    waits_to_apply: bool = False
    snapshot_pending: bool = False
    now: tuple[Message, ...] = ()
    after: tuple[Message, ...] = ()
    committed: tuple[Entry, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    read_states: tuple[tuple[int, int | None], ...] = ()
    wanted: tuple[tuple[int, int, int], ...] = ()
    snapshots_wanted: tuple[int, ...] = ()

    def peer(self, id: int) -> Peer | None:
        return next((peer for peer in self.peers if peer.replica == id), None)

    @property
    def joint(self) -> bool:
        return any(peer.flags & MemberFlag.MEMBER_OUTGOING for peer in self.peers)

    @property
    def promotable(self) -> bool:
        own = self.peer(self.id)
        return own is not None and not own.learner and not self.snapshot_pending

    def half(self, flag: int) -> list[int]:
        return [peer.replica for peer in self.peers if peer.flags & flag]

    def quorum_index(self, acks: dict[int, int]) -> int:
        """What a majority of both halves has reached."""
        return committed_index(self.half(MemberFlag.MEMBER_VOTER), self.half(MemberFlag.MEMBER_OUTGOING), acks)


def with_peer(r: Replica, peer: Peer) -> Replica:
    return replace(r, peers=tuple(peer if old.replica == peer.replica else old for old in r.peers))


def with_log(r: Replica, log: Log) -> Replica:
    return replace(r, log=log)


def with_members(r: Replica, membership: Membership) -> Replica:
    """The peers of that membership, keeping what is known of those who stay."""
    peers = []
    for member in membership.members:
        known = r.peer(member.replica) or Peer(member.replica, member.node, member.flags, next=r.log.last + 1)
        peers.append(replace(known, node=member.node, flags=member.flags))
    return replace(r, peers=tuple(peers), auto_leave=membership.auto_leave)


def queue(r: Replica, message: Message, *, waits: bool) -> Replica:
    """A message that leaves with the next ready; ``waits``: when everything handed to the disk before is synced."""
    if waits:
        return replace(r, after=(*r.after, message))
    return replace(r, now=(*r.now, message))
