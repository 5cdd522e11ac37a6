"""One replica twice: the compiled one and its specification, given the same inputs and compared after each.

Around them a disk that syncs when told to, and a state machine that is the list of what it applied. A crash takes what is not
synced; what the state machine has checkpointed survives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from multiraft._core import RunKind, decode_batch, decode_run, encode_run
from multiraft.errors import MultiRaftError
from multiraft.interfaces import HardState, Membership
from multiraft.raft import (
    Entry,
    MembershipChange,
    Message,
    Options,
    Ready,
    Role,
    Snapshot,
    Status,
    Tag,
)
from multiraft.raft import Replica as Compiled
from multiraft.raft.messages import decode_entries
from multiraft.records import decode_hard_state
from tests.spec import raft, reads, replication
from tests.spec.state import Peer, Replica

GROUP = 1


class Differs(AssertionError):
    """The compiled replica and its specification part company."""


@dataclass(frozen=True, slots=True)
class Image:
    """A state machine at one moment: what a checkpoint and a snapshot hold."""

    index: int
    term: int
    membership: Membership
    applied: tuple[tuple[int, bytes], ...] = ()


@dataclass
class Disk:
    """What is synced."""

    hard_state: HardState = HardState()
    entries: dict[int, Entry] = field(default_factory=dict)
    base: tuple[int, int] = (0, 0)

    def write(self, ready: Ready) -> None:
        """Take the runs of its batches in their order, as a log store does at recovery."""
        for batch in ready.batches:
            for data in decode_batch(batch).runs:
                run = decode_run(data)
                if run.kind == RunKind.RUN_HARD_STATE:
                    self.hard_state = decode_hard_state(data)
                elif run.kind == RunKind.RUN_BASE:
                    self.forget((run.first, run.term))
                elif run.kind == RunKind.RUN_SNAPSHOT_MARK:
                    self.mark(run.first, run.term)
                else:
                    self.append(decode_entries(data))
                commit = max(self.hard_state.commit, run.commit)
                self.hard_state = replace(self.hard_state, commit=commit)

    def append(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            old = self.entries.get(entry.index)
            if old is not None and old.term != entry.term:
                self.entries = {i: e for i, e in self.entries.items() if i < entry.index}
            self.entries[entry.index] = entry

    def mark(self, index: int, term: int) -> None:
        """A snapshot replaces the log up to its index; a tail that does not fit goes, too."""
        kept = self.entries.get(index)
        if index <= self.base[0]:
            return
        if kept is None or kept.term != term:
            self.entries = {}
        self.forget((index, term))

    def forget(self, base: tuple[int, int]) -> None:
        self.base = base
        self.entries = {i: e for i, e in self.entries.items() if i > base[0]}

    def read(self, first: int, bytes_max: int) -> tuple[tuple[Entry, ...], ...]:
        """Runs from ``first`` on, as a log store reads them: one term and one kind each."""
        found: list[Entry] = []
        size = 0
        while (entry := self.entries.get(first + len(found))) is not None:
            size += 4 + len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return tuple(tuple(same) for _, same in groupby(found, key=lambda e: (e.term, e.kind)))


class Pair:
    """A replica and its specification. ``news`` is told of every ready and of every entry applied."""

    def __init__(self, id: int, options: Options, membership: Membership, seed: int) -> None:
        self.id = id
        self.options = options
        self.seed = seed
        self.disk = Disk()
        self.checkpoint = Image(0, 0, membership)
        self.unsynced: deque[Ready] = deque()
        self.tags: list[Tag] = []
        self.outbox: list[Message] = []
        self.offers: list[Snapshot] = []
        self.begin()

    def begin(self) -> None:
        """Start from the disk, as after a crash: a snapshot that the state machine holds is marked in the log first."""
        held = self.disk.entries.get(self.checkpoint.index)
        if held is None or held.term != self.checkpoint.term:
            self.disk.mark(self.checkpoint.index, self.checkpoint.term)
        commit = max(self.disk.hard_state.commit, self.checkpoint.index)
        hard_state = replace(self.disk.hard_state, commit=commit)
        entries = tuple(self.disk.entries[i] for i in sorted(self.disk.entries))
        self.seed += 100
        in_memory = self.seed // 100 % 2 == 0  # else all that is not applied is read again
        self.compiled = Compiled(
            self.options,
            replica=self.id,
            membership=self.checkpoint.membership,
            hard_state=hard_state,
            base_index=self.disk.base[0],
            base_term=self.disk.base[1],
            entries=entries,
            applied_index=self.checkpoint.index,
            seed=self.seed,
            in_memory=in_memory,
        )
        self.spec = raft.start(
            self.options,
            id=self.id,
            membership=self.checkpoint.membership,
            hard_state=hard_state,
            base=self.disk.base,
            entries=entries,
            applied=self.checkpoint.index,
            in_memory=in_memory,
        )
        self.applied = list(self.checkpoint.applied)
        self.to_apply: deque[Entry] = deque()
        self.wanted: list[tuple[int, int, int]] = []
        self.compare()

    def crash(self, kept: int) -> None:
        """Lose what is not synced, but for the oldest ``kept`` writes, which happened to reach the disk."""
        for _ in range(min(kept, len(self.unsynced))):
            self.disk.write(self.unsynced.popleft())
        self.unsynced.clear()
        for things in (self.tags, self.outbox, self.offers):
            things.clear()
        self.begin()

    # -- inputs --------------------------------------------------------------------------------------------------------

    def both(self, compiled: Callable[[], Any], spec: Callable[[Replica], Any]) -> Any:
        """Give one input to both. What they return, or raise, is the same; ``spec`` gives the replica, or it and a value."""
        left: Any
        right: Any
        try:
            left = compiled()
        except MultiRaftError as error:
            left = type(error)
        try:
            right = spec(self.spec)
        except MultiRaftError as error:
            right = type(error)
        else:
            self.spec, right = right if isinstance(right, tuple) else (right, left)
        if left != right:
            raise Differs(f"replica {self.id}: compiled gives {left}, specification {right}")
        self.compare()
        if isinstance(left, type) and issubclass(left, MultiRaftError):
            raise left
        return left

    def tick(self) -> None:
        self.both(self.compiled.tick, raft.tick)

    def step(self, message: Message) -> None:
        self.both(lambda: self.compiled.step(message), lambda r: raft.step(r, message))

    def propose(self, payload: bytes) -> int:
        def spec(r: Replica) -> tuple[Replica, int]:
            r = raft.propose(r, payload)
            return r, r.log.last

        return int(self.both(lambda: self.compiled.propose(payload), spec))

    def propose_membership(self, change: MembershipChange) -> bool:
        def spec(r: Replica) -> tuple[Replica, tuple[int, bool]]:
            r, accepted = raft.propose_membership(r, change)
            return r, (r.log.last, accepted)

        return bool(self.both(lambda: self.compiled.propose_membership(change), spec)[1])

    def read_index(self, context: int) -> bool:
        return bool(
            self.both(
                lambda: self.compiled.read_index(context), lambda r: raft.read_index(r, context)
            )
        )

    def campaign(self) -> None:
        self.both(self.compiled.campaign, raft.campaign)

    def transfer_leader(self, to: int) -> None:
        self.both(lambda: self.compiled.transfer_leader(to), lambda r: raft.transfer_leader(r, to))

    def forget_leader(self) -> None:
        self.both(self.compiled.forget_leader, raft.forget_leader)

    def report_unreachable(self, id: int) -> None:
        self.both(
            lambda: self.compiled.report_unreachable(id),
            lambda r: replication.report_unreachable(r, id),
        )

    def report_snapshot(self, id: int, ok: bool) -> None:
        self.both(
            lambda: self.compiled.report_snapshot(id, ok),
            lambda r: replication.report_snapshot(r, id, ok),
        )

    def send_snapshot(self, id: int, snapshot: Snapshot) -> None:
        self.both(
            lambda: self.compiled.send_snapshot(id, snapshot),
            lambda r: replication.send_snapshot(r, id, snapshot),
        )

    def fetched(self, id: int, runs: tuple[tuple[Entry, ...], ...]) -> None:
        data = [
            encode_run(
                group=GROUP,
                first=run[0].index,
                term=run[0].term,
                kind=run[0].kind,
                entries=[e.payload for e in run],
            )
            for run in runs
        ]
        self.both(
            lambda: self.compiled.fetched(id, data), lambda r: replication.fetched(r, id, runs)
        )

    def compact(self, index: int) -> None:
        """Forget the log up to ``index``, which the checkpoint covers."""
        self.both(lambda: self.compiled.compact(index), lambda r: replication.compact(r, index))

    def install(self, snapshot: Snapshot, image: Image) -> None:
        """The snapshot came whole: the state machine becomes it, durably, and then the replica is told."""
        if snapshot.index > self.compiled.status().applied_index:
            self.checkpoint = image
            self.applied = list(image.applied)
            self.to_apply = deque(entry for entry in self.to_apply if entry.index > snapshot.index)
        self.both(
            lambda: self.compiled.installed(snapshot), lambda r: replication.installed(r, snapshot)
        )

    def snapshot_failed(self) -> None:
        self.both(self.compiled.snapshot_failed, replication.snapshot_failed)

    # -- output --------------------------------------------------------------------------------------------------------

    def ready(self) -> Ready:
        """Take the output of both; keep it for the disk, the network and the state machine."""
        mine = self.compiled.ready()
        self.spec, other = replication.ready(self.spec)
        self._align_memory()
        self.compare()
        for name in (
            "role",
            "leader",
            "term",
            "entries",
            "must_sync",
            "tag",
            "committed",
            "snapshot",
            "wanted",
        ):
            self._same(name, getattr(mine, name), getattr(other, name))
        for name in ("read_states", "snapshots_wanted"):
            self._same(name, getattr(mine, name), getattr(other, name))
        for name in ("messages", "messages_after"):
            self._same(name, by_receiver(getattr(mine, name)), by_receiver(getattr(other, name)))
        self._same("hard_state", kept_of(mine.hard_state), kept_of(other.hard_state))
        if self.compiled.has_ready() and not mine.committed:
            raise Differs(f"replica {self.id} has more to hand out at once")
        self.outbox += mine.messages
        self.offers += [mine.snapshot] if mine.snapshot is not None else []
        self.wanted += mine.wanted
        self.to_apply.extend(mine.committed)
        self.unsynced.append(mine)
        return mine

    def _align_memory(self) -> None:
        """Which runs it lets go of, and when, is its own affair, as long as it keeps what is not applied: the rest can be read."""
        kept = self.compiled.entries()
        first = kept[0].index if kept else self.spec.log.sealed + 1
        gone = [run for run in self.spec.log.runs if run[1] < first]
        if gone and gone[-1][1] > self.spec.log.applied:
            raise Differs(f"replica {self.id} let go of entries up to {gone[-1][1]}")
        self.spec = replace(self.spec, log=self.spec.log.released(first - 1))

    def _same(self, name: str, mine: object, other: object) -> None:
        if mine != other:
            raise Differs(
                f"replica {self.id}, {name}:\n  compiled      {short(mine)}\n  specification {short(other)}"
            )

    def sync(self, count: int) -> None:
        """The oldest writes reach the disk, in order; ``persisted`` is told later."""
        for _ in range(min(count, len(self.unsynced))):
            ready = self.unsynced.popleft()
            self.disk.write(ready)
            self.outbox += ready.messages_after
            if ready.tag is not None:
                self.tags.append(ready.tag)

    def persisted(self, which: int = -1) -> None:
        """Say that what is synced is synced: the newest tag covers all before it, which may be told afterwards as well."""
        if self.tags:
            tag = self.tags.pop(which)
            self.both(
                lambda: self.compiled.persisted(tag),
                lambda r: raft.persisted(r, tag.term, tag.index, tag.generation),
            )

    def apply_one(self) -> Entry:
        """The state machine applies the next entry."""
        entry = self.to_apply.popleft()
        if entry.kind == RunKind.RUN_MEMBERSHIP:
            change = MembershipChange.decode(entry.payload)

            def spec(r: Replica) -> tuple[Replica, Membership]:
                r = raft.apply_membership(r, change)
                return r, raft.membership(r)

            self.both(lambda: self.compiled.apply_membership(entry.index, change), spec)
        self.applied.append((entry.index, entry.payload))
        self.both(
            lambda: self.compiled.applied(entry.index), lambda r: raft.applied(r, entry.index)
        )
        return entry

    def image(self) -> Image:
        """The state machine as it is."""
        status = self.compiled.status()
        term = self.compiled.term_at(status.applied_index)
        assert term is not None
        return Image(status.applied_index, term, status.membership, tuple(self.applied))

    # -- comparing -----------------------------------------------------------------------------------------------------

    def compare(self) -> Status:
        self._align_memory()
        status = self.compiled.status()
        low, high = self.options.election_ticks, 2 * self.options.election_ticks
        if not low <= status.election_timeout < high:
            raise Differs(f"replica {self.id}: an election timeout of {status.election_timeout}")
        self.spec = replace(self.spec, election_timeout=status.election_timeout)
        mine, other = view(status), spec_view(self.spec)
        if mine != other:
            wrong = {name: (mine[name], other[name]) for name in mine if mine[name] != other[name]}
            raise Differs(f"replica {self.id} (compiled, specification): {wrong}")
        log = self.spec.log
        terms = [self.compiled.term_at(index) for index in range(log.base_index, log.last + 1)]
        self._same(
            "terms", terms, [log.term(index) for index in range(log.base_index, log.last + 1)]
        )
        first = log.runs[0][0] if log.runs else log.sealed + 1
        first = max(first, log.base_index + 1)
        kept = log.entries[first - log.base_index - 1 : log.sealed - log.base_index]
        # How soon a run leaves the memory is the compiled replica's own affair; what it keeps must be the end of the log.
        held = self.compiled.entries(first)
        self._same("entries in memory", held, kept[len(kept) - len(held) :])
        return status


def short(value: object) -> object:
    """Entries without their payloads."""
    if isinstance(value, Entry):
        return (value.index, value.term, len(value.payload))
    return tuple(short(one) for one in value) if isinstance(value, tuple) else value


def by_receiver(messages: tuple[Message, ...]) -> list[Message]:
    """The order of messages to one receiver counts, that between receivers does not."""
    return sorted(messages, key=lambda message: message.to_replica)


def kept_of(hard_state: HardState | None) -> tuple[int, int, int] | None:
    return (
        None if hard_state is None else (hard_state.term, int(hard_state.vote), hard_state.commit)
    )


def view(status: Status) -> dict[str, object]:
    names = (
        "role", "term", "vote", "leader", "transfer_to", "first_index", "last_index", "stable_index", "commit_index",
        "applied_index", "election_elapsed", "promotable", "lease", "membership", "pending_change", "uncommitted_bytes",
        "applying_index",
    )  # fmt: skip
    return {
        **{name: getattr(status, name) for name in names},
        "peers": {
            id: (p.flags, p.node, p.state, p.match_index, p.next_index, p.paused, p.pending_snapshot, p.recently_active,
                 p.inflight, p.inflight_bytes)
            for id, p in status.peers.items()
        },
    }  # fmt: skip


def progress(r: Replica, peer: Peer) -> tuple[str, int, int]:
    """A leader counts its own log as far as it is synced."""
    if r.role == Role.LEADER and peer.replica == r.id:
        return "replicate", r.log.stable, r.log.last + 1
    return peer.state, peer.match, peer.next


def spec_view(r: Replica) -> dict[str, object]:
    return {
        "role": r.role,
        "term": r.term,
        "vote": r.vote,
        "leader": r.leader,
        "transfer_to": r.transfer_to,
        "first_index": r.log.base_index + 1,
        "last_index": r.log.last,
        "stable_index": r.log.stable,
        "commit_index": r.log.commit,
        "applied_index": r.log.applied,
        "election_elapsed": r.election_elapsed,
        "promotable": r.promotable,
        "lease": reads.lease_runs(r),
        "membership": raft.membership(r),
        "pending_change": r.change_index if r.change_index > r.log.applied else 0,
        "uncommitted_bytes": r.uncommitted_bytes,
        "applying_index": r.log.applying,
        "peers": {
            p.replica: (p.flags, p.node, *progress(r, p), p.paused, p.pending_snapshot, p.recently_active,
                        len(p.window), sum(size for _, size in p.window))
            for p in r.peers
        },
    }  # fmt: skip
