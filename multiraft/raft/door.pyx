"""The Python door of one replica: build it, drive it, look at it.

It is the same room as the frame loop's: each method builds the struct and calls the very functions that ``MultiRaft`` calls.
Tests, transcripts and the executable specification use it; so may whoever wants a single replica without a node. The
contract (what the caller owes, in which order) stands in ``multiraft/raft/__init__.py``.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

cimport cython

from multiraft._core cimport (
    MEMBER_LEARNER,
    RUN_ENTRIES,
    RUN_ENTRIES_MAX,
    RUN_HARD_STATE,
    RUN_MEMBERSHIP,
    Buffer,
    Chunk,
    RunHeader,
    buffer_free,
    chunk_drop,
    chunk_new,
)
from multiraft.raft.election cimport CAMPAIGN, hup
from multiraft.raft.log cimport (
    log_copy_run,
    log_init,
    log_note_change,
    log_note_term,
    log_push_run,
    log_release,
    log_tail_first,
    log_term,
)
from multiraft.raft.membership cimport Members, members_from, members_to
from multiraft.raft.progress cimport Outbox, Peer
from multiraft.raft.reads cimport ask_read, lease_runs
from multiraft.raft.replica cimport (
    applied,
    apply_change,
    compact,
    forget_leader,
    installed,
    message_parse,
    persisted,
    propose,
    propose_change,
    snapshot_failed,
    step,
    tick,
    transfer_leader,
)
from multiraft.raft.replication cimport fetched_run, flush, report_snapshot, report_unreachable, send_snapshot
from multiraft.raft.state cimport (
    LEADER,
    Engine,
    Handout,
    Message as CMessage,
    Nodes,
    Replica as State,
    draw_timeout,
    engine_mark,
    find_peer,
    is_promotable,
    replica_free,
    replica_members,
    replica_new,
    replica_set_members,
)

from dataclasses import dataclass, field

from multiraft._core import Fault, decode_batch, encode_run
from multiraft.errors import Closed, InvariantViolation, PeerProtocolError
from multiraft.interfaces import HardState, Membership
from multiraft.raft.messages import Entry, decode_entries, decode_messages
from multiraft.records import decode_hard_state, decode_membership, encode_membership


@dataclass(frozen=True, slots=True)
class Options:
    """How a replica behaves; the same for all replicas of a node. Times are in ticks, sizes in bytes.

    ``lease_ns`` is how long a lease lasts from the send of its round: the shortest election timeout, less what clocks may
    drift apart in it. ``uncommitted_bytes_max`` and ``inflight_bytes_max`` of 0 mean no limit.
    """

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 0
    message_bytes_max: int = 1024 * 1024
    committed_bytes_max: int = 16 * 1024 * 1024
    uncommitted_bytes_max: int = 0
    pre_vote: bool = True
    check_quorum: bool = True
    lease_reads: bool = False
    lease_ns: int = 0
    validate_changes: bool = True
    step_down_on_removal: bool = True

    def __post_init__(self):
        if not 1 <= self.heartbeat_ticks < self.election_ticks:
            raise ValueError(f"heartbeat_ticks {self.heartbeat_ticks} must be below election_ticks {self.election_ticks}")
        if self.inflight_messages_max < 1 or self.message_bytes_max < 1 or self.committed_bytes_max < 1:
            raise ValueError("inflight_messages_max, message_bytes_max and committed_bytes_max begin at 1")
        if self.message_bytes_max > 4 * RUN_ENTRIES_MAX:
            raise ValueError(f"message_bytes_max {self.message_bytes_max} is above {4 * RUN_ENTRIES_MAX}: no peer would take it")
        if self.lease_reads and (not self.check_quorum or self.lease_ns <= 0):
            raise ValueError("lease_reads need check_quorum and a lease_ns above 0")


cdef int engine_configure(Engine engine, object options, uint64_t seed) except -1:
    engine.options.election_ticks = options.election_ticks
    engine.options.heartbeat_ticks = options.heartbeat_ticks
    engine.options.inflight_messages_max = options.inflight_messages_max
    engine.options.inflight_bytes_max = options.inflight_bytes_max
    engine.options.message_bytes_max = options.message_bytes_max
    engine.options.committed_bytes_max = options.committed_bytes_max
    engine.options.uncommitted_bytes_max = options.uncommitted_bytes_max
    engine.options.pre_vote = options.pre_vote
    engine.options.check_quorum = options.check_quorum
    engine.options.read_mode = 1 if options.lease_reads else 0
    engine.options.lease_ns = options.lease_ns
    engine.options.validate_changes = options.validate_changes
    engine.options.step_down_on_removal = options.step_down_on_removal
    engine.random = (seed * <uint64_t>0x9E3779B97F4A7C15U + <uint64_t>0x632BE59BD9B4E019U) or 1
    return 0


@dataclass(frozen=True, slots=True)
class Tag:
    """Names what a ready handed to the log; given back with ``persisted`` when all of it, and all before it, is synced."""

    term: int
    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that a leader offers: ``context`` names its transfer, ``from_replica`` who sends it."""

    index: int
    term: int
    membership: Membership
    context: int = 0
    from_replica: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """What a replica wants done, in this order: ``messages`` may go at once; ``hard_state`` and ``entries`` are written
    and synced together, then ``persisted(tag)`` is called and ``messages_after`` may go; ``committed`` is applied."""

    role: int
    leader: int
    term: int
    messages: tuple = ()
    messages_after: tuple = ()
    hard_state: HardState | None = None
    entries: tuple = ()
    must_sync: bool = False
    tag: Tag | None = None
    batches: tuple = ()
    committed: tuple = ()
    snapshot: Snapshot | None = None
    read_states: tuple = ()
    wanted: tuple = ()
    snapshots_wanted: tuple = ()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What a leader knows of one member; of itself, what it counts: its own log as far as it is synced."""

    replica: int
    node: int
    flags: int
    state: str
    match_index: int
    next_index: int
    paused: bool
    pending_snapshot: int
    recently_active: bool
    inflight: int
    inflight_bytes: int
    learner: bool


@dataclass(frozen=True, slots=True)
class Status:
    """One replica at a moment.

    ``pending_change`` is, on a leader, the index that must be applied before it takes another membership change; entries up
    to ``applying_index`` were handed out to be applied; ``lease`` says whether a read would be answered under one now.
    """

    group: int
    replica: int
    role: int
    term: int
    vote: int
    leader: int
    transfer_to: int
    first_index: int
    last_index: int
    stable_index: int
    commit_index: int
    applied_index: int
    election_elapsed: int
    election_timeout: int
    promotable: bool
    lease: bool
    membership: Membership
    pending_change: int
    uncommitted_bytes: int
    applying_index: int
    peers: dict = field(default_factory=dict)


_FLOW = ("probe", "replicate", "snapshot")


@cython.final
cdef class Replica:
    """One replica. Made here it owns its engine and hands out its work with ``ready``; lent by a ``MultiRaft`` it takes
    inputs and shows its state, and the work leaves with the node's turn.

    ``entries`` are those above ``base_index`` that are on the disk already, ``membership`` is as of ``applied_index``, and
    ``seed`` draws the election timeouts. Raises MembershipRefused where ``membership`` is not one, InvariantViolation where
    what was stored contradicts itself. Errors of inputs: NotLeader, NoLeader, Overloaded, TooLarge (nothing happened),
    InvariantViolation (we are wrong), PeerProtocolError (a message is not one), Closed (the replica was removed).
    """

    def __init__(
        self,
        options=None,
        *,
        replica,
        membership,
        group=1,
        hard_state=None,
        base_index=0,
        base_term=0,
        entries=(),
        applied_index=None,
        seed=0,
        in_memory=True,
    ):
        cdef Members members
        options = options if options is not None else Options()
        self.engine = Engine()
        self.engine.now_known = True             # as far as a replica by itself knows, time passes with its inputs only
        self.owned = True
        engine_configure(self.engine, options, seed)
        members_from(membership, &members)
        self.state = replica_new(self.engine, group, replica)
        log_init(&self.state.log, base_index, base_term)
        self._load(entries, in_memory)
        replica_set_members(self.engine, self.state, &members)
        draw_timeout(self.engine, self.state)
        if options.lease_reads:
            self.state.embargo_ticks = options.election_ticks
        self._restore(hard_state if hard_state is not None else HardState(), applied_index)
        self.sequence = 0

    def __dealloc__(self):
        if self.owned and self.state != NULL:
            replica_free(self.state)

    def _load(self, entries, in_memory):
        """Put stored entries behind the base, run by run, as the log store's recovery does."""
        cdef Chunk* chunk
        cdef bytes run
        cdef size_t length
        stretch = []
        for entry in [*entries, None]:
            if stretch and (entry is None or (entry.term, entry.kind) != (stretch[0].term, stretch[0].kind)):
                run = encode_run(
                    group=self.state.group,
                    first=stretch[0].index,
                    term=stretch[0].term,
                    prev_term=log_term(&self.state.log, stretch[0].index - 1),
                    kind=stretch[0].kind,
                    entries=[one.payload for one in stretch],
                )
                length = len(run)
                log_note_term(&self.state.log, stretch[0].index, stretch[0].term)
                chunk = chunk_new(length)
                memcpy(chunk.data, <const char*>run, length)
                chunk.size = length
                log_push_run(&self.state.log, <RunHeader*>chunk.data, chunk)
                chunk_drop(chunk)
                stretch = []
            if entry is not None:
                if entry.kind == RUN_MEMBERSHIP:
                    log_note_change(&self.state.log, entry.index)
                stretch.append(entry)
        self.state.log.stable_index = self.state.log.last_index
        if not in_memory:
            log_forget(self.state)

    def _restore(self, hard_state, applied_index):
        cdef State* state = self.state
        at = state.log.base_index if applied_index is None else applied_index
        commit = max(hard_state.commit, at)  # what was applied is committed, whether or not that was written in time
        if commit > state.log.last_index:
            raise InvariantViolation(f"commit index {commit} is beyond the last index {state.log.last_index}")
        if at < state.log.base_index:
            raise InvariantViolation(f"applied index {at} is below the base {state.log.base_index}")
        state.term = state.written_term = state.told_term = hard_state.term
        state.vote = state.written_vote = hard_state.vote
        state.epoch = hard_state.epoch
        state.log.commit_index = state.written_commit = self.told_commit = commit
        state.log.applied_index = state.log.applying_index = at
        if state.log.commit_index > at:
            engine_mark(self.engine, state)

    cdef State* live(self) except NULL:
        if self.state == NULL:
            raise Closed("this replica was removed")
        return self.state

    # -- inputs -------------------------------------------------------------------------------------------------------------

    def tick(self, now_ns=None):
        """One tick passes. ``now_ns`` is the time that leases are judged by; a tick counts as 1 where it is not given."""
        self.engine.now_ns = now_ns if now_ns is not None else self.engine.now_ns + 1
        tick(self.engine, self.live())

    def step(self, message):
        """Take a message. One for another replica is ignored; one that is malformed raises PeerProtocolError."""
        cdef CMessage parsed
        cdef bytes data = message.encode()
        cdef int fault = message_parse(<const char*>data, len(data), &parsed)
        if fault:
            raise PeerProtocolError(f"{message!r} is no message: {Fault(fault).name}")
        parsed.origin = self.engine.outbox_of(self._node_of(message.from_replica))
        step(self.engine, self.live(), &parsed)

    def _node_of(self, replica):
        cdef Peer* peer = find_peer(self.live(), replica)
        return peer.node if peer != NULL else replica

    def propose(self, payload):
        """The index that the proposal gets; whether it stands there shows when that index is committed, by its term."""
        cdef bytes data = payload
        return propose(self.engine, self.live(), <const char*>data, len(data))

    def propose_membership(self, change):
        """(index, accepted). A change that is refused - one is pending, or it cannot follow - leaves an empty entry."""
        cdef bint accepted = False
        cdef bytes data = change.encode()
        index = propose_change(self.engine, self.live(), <const char*>data, <uint32_t>len(data), &accepted)
        return index, bool(accepted)

    def apply_membership(self, index, change):
        """The change at ``index`` takes effect; the membership from here on."""
        cdef bytes data = change if isinstance(change, bytes) else change.encode()
        apply_change(self.engine, self.live(), index, <const char*>data, <uint32_t>len(data))
        return self.membership()

    def read_index(self, context, now_ns=None):
        """Ask for a read index; it comes in ``read_states``. False where no leader is known."""
        if now_ns is not None:
            self.engine.now_ns = now_ns
        return bool(ask_read(self.engine, self.live(), context))

    def campaign(self):
        """Stand for election now, as if the election timeout had passed."""
        hup(self.engine, self.live(), CAMPAIGN)

    def transfer_leader(self, to):
        transfer_leader(self.engine, self.live(), to)

    def forget_leader(self):
        forget_leader(self.engine, self.live())

    def report_unreachable(self, replica):
        """Messages to that member may have been lost: feel the way again instead of sending ahead."""
        cdef Peer* peer = find_peer(self.live(), replica)
        if peer != NULL:
            report_unreachable(self.engine, self.state, peer)

    def report_snapshot(self, replica, ok):
        """The transfer of a snapshot to that member ended, well or not."""
        cdef Peer* peer = find_peer(self.live(), replica)
        if peer != NULL:
            report_snapshot(self.engine, self.state, peer, ok)

    def send_snapshot(self, to, snapshot):
        """Offer a snapshot to a member that was named in ``snapshots_wanted``.

        False where it came too late: we lead no more, the member caught up by itself or is gone, or the log was cut beyond it.
        """
        cdef Peer* peer = find_peer(self.live(), to)
        if peer == NULL:
            return False
        body = encode_membership(snapshot.membership)
        return bool(send_snapshot(self.engine, self.state, peer, snapshot.index, snapshot.term, snapshot.context, body))

    def compact(self, index, membership=None):
        """Forget the log at and below ``index``, which must be applied and held durably by the state machine."""
        compact(self.engine, self.live(), index, membership)

    def installed(self, snapshot):
        """The state machine holds that snapshot durably now."""
        installed(self.engine, self.live(), snapshot.index, snapshot.term, snapshot.membership)

    def snapshot_failed(self):
        """The snapshot that was offered did not come whole; the leader will offer one again."""
        snapshot_failed(self.engine, self.live())

    def applied(self, index):
        """The state machine has applied everything up to ``index``."""
        applied(self.engine, self.live(), index)

    def fetched(self, replica, runs):
        """Encoded runs that were read for what ``wanted`` named: for that peer, or with 0 for applying. None: it failed."""
        cdef Peer* peer = NULL
        cdef bytes run
        if replica:
            peer = find_peer(self.live(), replica)
            if peer == NULL:
                return
            peer.wanted = False
        else:
            self.live().waits_to_apply = False
        for run in runs or ():
            fetched_run(self.engine, self.state, peer, <const char*>run, len(run))
        engine_mark(self.engine, self.state)

    def persisted(self, tag):
        """Everything that was handed out up to the ready with this tag is synced."""
        self._require_owned()
        persisted(self.engine, self.live(), tag.term, tag.generation, tag.index)

    def _written(self, batches):
        """What sealed batches say: (entries, hard state or None). A run of entries carries a commit index, too."""
        cdef State* state = self.state
        entries, hard_state = [], None
        for batch in batches:
            for run in decode_batch(batch).runs:
                kind = RunHeader_kind(bytes(run[:64]))
                if kind in (RUN_ENTRIES, RUN_MEMBERSHIP):
                    entries.extend(decode_entries(run))
                elif kind == RUN_HARD_STATE:
                    hard_state = decode_hard_state(run)
        if hard_state is not None or state.written_commit > self.told_commit:
            leader, epoch = (hard_state.leader, hard_state.epoch) if hard_state else (state.leader, state.epoch)
            hard_state = HardState(state.written_term, state.written_vote, leader, epoch, state.written_commit)
            self.told_commit = state.written_commit
        return tuple(entries), hard_state

    # -- output -------------------------------------------------------------------------------------------------------------

    def _require_owned(self):
        if not self.owned:
            raise InvariantViolation("a replica of a MultiRaft gives its work to the node's turn")

    def ready(self, now_ns=None):
        """Take what has gathered since the last call. Nothing is handed out twice; earlier output may be unacknowledged.

        ``now_ns`` is the time that leases are judged by, read after the last read came; not given it is that of the last tick.
        """
        cdef Engine engine = self.engine
        cdef State* state = self.live()
        cdef Handout* handout
        self._require_owned()
        if now_ns is not None:
            engine.now_ns = now_ns
        if engine.dirty_count:
            engine.dirty_count = 0
            flush(engine, state)             # it may mark itself again: there is more to apply, in the next ready
        engine.arena.size = 0
        batches = engine.builder.seal(self.sequence + 1, 1)
        self.sequence += len(batches)
        entries, hard_state = self._written(batches)
        tag = None
        if engine.handouts_count:
            handout = &engine.handouts[engine.handouts_count - 1]
            tag = Tag(handout.term, handout.index, handout.generation)
            engine.handouts_count = 0
        now, after = take_messages(engine)
        return Ready(
            role=state.role,
            leader=state.leader,
            term=state.term,
            messages=tuple(decode_messages(now)),
            messages_after=tuple(decode_messages(after)),
            hard_state=hard_state,
            entries=entries,
            must_sync=tag is not None,
            tag=tag,
            batches=tuple(batches),
            committed=_committed(engine),
            snapshot=_offered(_take(engine.snapshots)),
            read_states=tuple((context, index) for _, context, index in _take(engine.read_states)),
            wanted=tuple((peer, first, size) for _, peer, first, size in _take(engine.wanted)),
            snapshots_wanted=tuple(peer for _, peer, _node in _take(engine.snapshots_wanted)),
        )

    def has_ready(self):
        """Is there anything that ``ready`` would hand out?"""
        cdef Engine engine = self.engine
        return bool(
            engine.dirty_count
            or outboxes_filled(engine)
            or engine.snapshots
            or engine.read_states
            or engine.wanted
            or engine.snapshots_wanted
        )

    # -- inspection ---------------------------------------------------------------------------------------------------------

    def membership(self):
        """The membership in force: that of the last change applied."""
        cdef Members members
        replica_members(self.live(), &members)
        return members_to(&members)

    def term_at(self, index):
        """The term of the entry at ``index``, or None where the log does not hold it (the base itself is known)."""
        cdef State* state = self.live()
        if not state.log.base_index <= index <= state.log.last_index:
            return None
        return log_term(&state.log, index)

    def entries(self, first=None, last=None):
        """Those entries from ``first`` to ``last`` inclusive that are in memory and were handed out by a ready to be written."""
        cdef State* state = self.live()
        low = max(first if first is not None else 0, log_tail_first(&state.log))
        high = min(last if last is not None else state.log.sealed_index, state.log.sealed_index)
        return copy_entries(state, low, high)

    def status(self):
        """Everything about it at this moment, as values."""
        cdef State* state = self.live()
        return Status(
            group=state.group,
            replica=state.id,
            role=state.role,
            term=state.term,
            vote=state.vote,
            leader=state.leader,
            transfer_to=state.transfer_to,
            first_index=state.log.base_index + 1,
            last_index=state.log.last_index,
            stable_index=state.log.stable_index,
            commit_index=state.log.commit_index,
            applied_index=state.log.applied_index,
            election_elapsed=state.election_elapsed,
            election_timeout=state.election_timeout,
            promotable=bool(is_promotable(state)),
            lease=bool(lease_runs(self.engine, state)),
            membership=self.membership(),
            pending_change=state.change_index if state.change_index > state.log.applied_index else 0,
            uncommitted_bytes=state.uncommitted_bytes,
            applying_index=state.log.applying_index,
            peers={state.peers[at].replica: peer_status(state, &state.peers[at]) for at in range(state.peers_count)},
        )


cdef object peer_status(const State* state, const Peer* peer):
    cdef bint leads_itself = state.role == LEADER and peer.replica == state.id
    return PeerStatus(
        replica=peer.replica,
        node=peer.node,
        flags=peer.flags,
        state="replicate" if leads_itself else _FLOW[peer.state],
        match_index=state.log.stable_index if leads_itself else peer.match_index,
        next_index=state.log.last_index + 1 if leads_itself else peer.next_index,
        paused=bool(peer.paused),
        pending_snapshot=peer.pending_snapshot,
        recently_active=bool(peer.recently_active),
        inflight=peer.inflight_count,
        inflight_bytes=peer.inflight_bytes,
        learner=bool(peer.flags & MEMBER_LEARNER),
    )


cdef void log_forget(State* state) noexcept:
    """Drop what is in memory, as after a restart: entries are then asked for by ``wanted``."""
    log_release(&state.log, state.log.sealed_index)


cdef object copy_entries(State* state, uint64_t low, uint64_t high):
    cdef Buffer out
    cdef uint64_t last = 0
    found = []
    while low <= high:
        memset(&out, 0, sizeof(Buffer))
        try:
            if not log_copy_run(&state.log, low, <uint32_t>-1, state.id, &out, &last):
                break
            found.extend(decode_entries(out.data[: out.size]))
        finally:
            buffer_free(&out)
        low = last + 1
    return tuple(entry for entry in found if entry.index <= high)


cdef bint outboxes_filled(Engine engine) noexcept:
    cdef Nodes nodes = engine.nodes
    cdef uint32_t at
    for at in range(nodes.count):
        if nodes.items[at].now_count or nodes.items[at].after_count:
            return True
    return False


cdef object take_messages(Engine engine):
    """The encoded messages of all outboxes: those that may go, and those that wait."""
    cdef Nodes nodes = engine.nodes
    cdef Outbox* box
    cdef uint32_t at
    now, after = [], []
    for at in range(nodes.count):
        box = nodes.items[at]
        if box.now_count:
            now.append(box.now.data[: box.now.size])
        if box.after_count:
            after.append(box.after.data[: box.after.size])
        box.now.size = box.after.size = 0
        box.now_count = box.after_count = 0
    return b"".join(now), b"".join(after)


def _take(list items):
    taken = items[:]
    items.clear()
    return taken


cdef uint32_t RunHeader_kind(bytes head) except? 0:
    cdef const char* data = head
    return (<const RunHeader*>data).kind


def _committed(Engine engine):
    found = []
    for sink in (engine.sink0, engine.sink1):
        for _group, first, term, kind, payloads in sink:
            found.extend(Entry(first + at, term, payload, kind) for at, payload in enumerate(payloads))
        sink.clear()
    return tuple(found)


def _offered(snapshots):
    """The newest of the snapshots offered: an older one would only be ignored (pitfall 60)."""
    if not snapshots:
        return None
    _group, index, term, context, from_replica, body = max(snapshots, key=lambda one: one[1])
    return Snapshot(index, term, decode_membership(body) if body else Membership(), context, from_replica)
