"""All replicas of a node behind one face: one call per received frame, per tick and per turn, whatever the number of groups.

It owns the replicas, steps whole frames into them, and gathers in one pass over the dirty ones what they want done: batches
for the log, frames for the nodes, committed runs for the state machines. It does no I/O and knows no clock. What must not
leave before a sync is kept here and released by ``persisted`` alone.

Invariants: a held frame leaves only when every batch handed out before it was made is synced; a batch's sequence is one
above the last; a replica that was removed is never touched again (its handouts are cleared, its door is closed).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer

from multiraft._core cimport (
    FRAME_HEADER_BYTES,
    MESSAGE_HEADER_BYTES,
    MSG_FORWARD,
    RUN_ENTRIES,
    RUN_PINNED,
    RUN_REPLICA_CREATED,
    RUN_SNAPSHOT_PENDING,
    RUN_TOMBSTONE,
    Buffer,
    CommittedRun,
    CommittedRuns,
    MessageHeader,
    buffer_room,
    chunk_bytes_total,
)
from multiraft.raft.door cimport Replica as Door, engine_configure
from multiraft.raft.framing cimport frames_of, tell_status
from multiraft.raft.looking cimport best_successor, caught_up, slowest_match
from multiraft.raft.log cimport Log, log_init, log_recover, log_release
from multiraft.raft.membership cimport Members, members_from
from multiraft.raft.progress cimport Outbox, Peer
from multiraft.raft.reads cimport ask_read, committed_in_term, holds_lease, sole_voter
from multiraft.raft.replica cimport (
    applied,
    apply_change,
    check_proposal,
    check_room,
    compact,
    installed,
    message_parse,
    persisted,
    propose,
    propose_change,
    snapshot_failed,
    step,
    tick,
    transfer_leader,
    write_base,
)
from multiraft.raft.replication cimport fetched_run, flush, report_snapshot, report_unreachable, send_snapshot
from multiraft.raft.state cimport (
    LEADER,
    Engine,
    Handout,
    Message,
    Nodes,
    Replica,
    append_proposal,
    draw_timeout,
    engine_mark,
    fail_reads,
    find_peer,
    replica_free,
    replica_new,
    replica_set_members,
    seal_proposals,
    write_hard_state,
    write_record,
)
from multiraft.raft.table cimport table_free, table_get, table_put, table_remove

from multiraft._core import Fault
from multiraft.errors import InvariantViolation, NoLeader, PeerProtocolError, TooLarge
from multiraft.records import encode_membership
from multiraft.raft.door import Options
from multiraft.raft.handouts import Ready

cdef enum:
    POST_BYTES_MAX = 16 * 1024 * 1024


# -- all replicas of a node -----------------------------------------------------------------------------------------------


@cython.final
cdef class MultiRaft:
    """The replicas of one node.

    ``sequence`` is that of the newest batch in the log store at start; all up to it are synced. Deterministic for a given
    ``seed`` and the same calls.
    """

    def __init__(self, options=None, *, store_id, sequence=0, boot_count=0, seed=0):
        self.engine = Engine()
        engine_configure(self.engine, options if options is not None else Options(), seed)
        self.store_id = store_id
        self.boot_count = boot_count
        self.sequence = self.persisted_sequence = sequence
        self.free_slots = []
        self.doors = {}
        self.held = []
        self.released = []
        self.posts = []

    def __dealloc__(self):
        cdef uint32_t at
        for at in range(self.slots_count):
            if self.slots[at] != NULL:
                replica_free(self.slots[at])
        free(self.slots)
        table_free(&self.table)
        free(self.waiting)

    def __len__(self):
        return self.table.count

    def __contains__(self, group):
        return self.find(group) != NULL

    cdef Replica* find(self, uint64_t group) noexcept:
        return table_get(&self.table, group)

    cdef Replica* get(self, uint64_t group) except NULL:
        cdef Replica* replica = self.find(group)
        if replica == NULL:
            raise NoLeader(f"this node has no replica of group {group}")
        return replica

    # -- replicas come and go -----------------------------------------------------------------------------------------------

    def create(self, group, *, replica, membership, sink=0, base_index=0, base_term=0):
        """A replica that begins: with nothing, or at a base. Its REPLICA_CREATED record goes into the next batch."""
        cdef Replica* made = self._add(group, replica, membership, sink, base_index, base_term)
        made.log.commit_index = made.log.applied_index = made.log.applying_index = base_index
        write_base(self.engine, made, RUN_REPLICA_CREATED, base_index, base_term, membership)

    def restore(self, group_log, *, membership, applied_index, sink=0):
        """A replica as the log store found it (interfaces.GroupLog); ``membership`` is that in force at ``applied_index``."""
        hard = group_log.hard_state
        base = group_log.base
        commit = max(hard.commit, applied_index, base.index)
        if commit > group_log.last_index:
            raise InvariantViolation(
                f"group {group_log.group}: {applied_index} is applied and {hard.commit} committed, but the log ends at "
                f"{group_log.last_index}: an older copy of the log?"
            )
        cdef Replica* made = self._add(group_log.group, base.replica, membership, sink, base.index, base.term)
        log_recover(&made.log, group_log, max(applied_index, base.index))
        made.log.commit_index = commit
        made.term = made.written_term = made.told_term = hard.term
        made.vote = made.written_vote = hard.vote
        made.epoch = hard.epoch
        made.written_commit = hard.commit
        if self.engine.options.read_mode:
            made.embargo_ticks = self.engine.options.election_ticks
        engine_mark(self.engine, made)

    cdef Replica* _add(self, group, replica, membership, sink, base_index, base_term) except NULL:
        cdef Members members
        cdef Replica* made
        cdef void* grown
        cdef uint32_t slot
        if self.find(group) != NULL:
            raise InvariantViolation(f"this node has a replica of group {group} already")
        members_from(membership, &members)
        made = replica_new(self.engine, group, replica)
        try:
            log_init(&made.log, base_index, base_term)
            made.sink = sink
            replica_set_members(self.engine, made, &members)
            if self.free_slots:
                slot = self.free_slots.pop()
            else:
                slot = self.slots_count
                if slot == self.slots_capacity:
                    grown = realloc(self.slots, (self.slots_capacity * 2 + 64) * sizeof(Replica*))
                    if grown == NULL:
                        raise MemoryError
                    self.slots = <Replica**>grown
                    self.slots_capacity = self.slots_capacity * 2 + 64
                self.slots_count += 1
            table_put(&self.table, group, made)
        except BaseException:
            replica_free(made)
            raise
        made.slot = slot
        self.slots[slot] = made
        return made

    def remove(self, group, reason=""):
        """The replica is gone for good: a TOMBSTONE goes into the next batch, and its reads are answered."""
        cdef Replica* replica = self.get(group)
        cdef Door door = self.doors.pop(group, None)
        cdef size_t at
        fail_reads(self.engine, replica)
        seal_proposals(self.engine, replica)
        write_record(self.engine, RUN_TOMBSTONE, group, 0, 0, 0, replica.id, reason.encode())
        if door is not None:
            door.state = NULL
        for at in range(self.waiting_start, self.waiting_start + self.waiting_count):
            if self.waiting[at].replica == replica:
                self.waiting[at].replica = NULL
        self._unmark(replica)
        table_remove(&self.table, group)
        self.slots[replica.slot] = NULL
        self.free_slots.append(replica.slot)
        replica_free(replica)

    cdef int _unmark(self, Replica* replica) except -1:
        cdef uint32_t at, kept = 0
        for at in range(self.engine.dirty_count):
            if self.engine.dirty[at] != replica:
                self.engine.dirty[kept] = self.engine.dirty[at]
                kept += 1
        self.engine.dirty_count = kept
        return 0

    def replica(self, group):
        """The Python door to a live replica: the same inputs and inspection; its work leaves with ``ready`` here."""
        cdef Door door = self.doors.get(group)
        if door is None:
            self.get(group)
            door = Door.__new__(Door)
            door.engine = self.engine
            door.state = self.find(group)
            door.owned = False
            door.owner = self
            self.doors[group] = door
        return door

    def groups(self):
        """The ids of all groups that have a replica here, in slot order."""
        return [self.slots[at].group for at in range(self.slots_count) if self.slots[at] != NULL]

    # -- inputs ---------------------------------------------------------------------------------------------------------------

    def step_frame(self, node, view):
        """Step every message of one checked frame from ``node``. Raises PeerProtocolError for one that is none, or that cannot be
        true: it changes nothing, and those behind it are not looked at.

        Messages for groups that are not here are counted and dropped: they never make a replica (pitfall 67).
        """
        cdef Py_buffer buffer
        cdef Outbox* origin = self.engine.outbox_of(node)
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        try:
            self._step_messages(origin, <const char*>buffer.buf + FRAME_HEADER_BYTES, buffer.len - FRAME_HEADER_BYTES)
        finally:
            PyBuffer_Release(&buffer)

    cdef int _step_messages(self, Outbox* origin, const char* data, Py_ssize_t left) except -1:
        cdef Engine engine = self.engine
        cdef Message message
        cdef Replica* replica
        cdef int fault
        message.origin = origin
        while left > 0:
            fault = message_parse(data, left, &message)
            if fault:
                raise PeerProtocolError(f"node {origin.node} sent a message that is none: {Fault(fault).name}")
            self.messages_stepped += 1
            if message.head.kind >= MSG_FORWARD:
                self._post(origin.node, &message)
            else:
                replica = table_get(&self.table, message.head.group)
                if replica != NULL:
                    step(engine, replica, &message)
                else:
                    self.unknown_group_messages += 1
            data += message.head.length
            left -= message.head.length
        return 0

    cdef int _post(self, uint32_t node, const Message* message) except -1:
        cdef const MessageHeader* head = message.head
        self.posts.append(
            (
                node,
                head.kind,
                head.group,
                head.context,
                head.index,
                head.term,
                head.flags,
                message.body[: message.body_bytes] if message.body_bytes else b"",
            )
        )
        return 0

    def post(self, node, kind, *, group=0, context=0, index=0, term=0, flags=0, body=b""):
        """A message of the layer above (FORWARD and higher) into the next frame for ``node``."""
        cdef bytes data = body
        self.post_bytes(node, kind, group, context, index, term, flags, <const char*>data, len(data))

    cdef int post_bytes(
        self, uint32_t node, uint32_t kind, uint64_t group, uint64_t context, uint64_t index, uint64_t term, uint32_t flags,
        const char* data, size_t length,
    ) except -1:
        cdef Outbox* box = self.engine.outbox_of(node)
        cdef MessageHeader* head
        if length > POST_BYTES_MAX:
            raise TooLarge(f"a message of {length} bytes; the limit is {POST_BYTES_MAX}")
        head = <MessageHeader*>buffer_room(&box.now, MESSAGE_HEADER_BYTES + length)
        memset(head, 0, MESSAGE_HEADER_BYTES)
        head.kind = <uint16_t>kind
        head.flags = <uint16_t>flags
        head.length = <uint32_t>(MESSAGE_HEADER_BYTES + length)
        head.group = group
        head.context = context
        head.index = index
        head.term = term
        memcpy(<char*>head + MESSAGE_HEADER_BYTES, data, length)
        box.now.size += MESSAGE_HEADER_BYTES + length
        box.now_count += 1
        return 0

    def tick(self, now_ns):
        """One tick passes for every replica. ``now_ns`` is what leases are judged by."""
        cdef Engine engine = self.engine
        cdef uint32_t at
        engine.now_ns = now_ns
        for at in range(self.slots_count):
            if self.slots[at] != NULL:
                tick(engine, self.slots[at])

    cdef int propose_bytes(self, uint64_t group, const char* data, size_t length, uint64_t* term, uint64_t* index) except -1:
        cdef Replica* replica = self.get(group)
        index[0] = propose(self.engine, replica, data, length)
        term[0] = replica.term
        return 0

    def propose(self, group, payload):
        """(term, index): the proposal's ticket. Nothing happened where it raises (see ``door.Replica``)."""
        cdef uint64_t term = 0, index = 0
        cdef bytes data = payload
        self.propose_bytes(group, <const char*>data, len(data), &term, &index)
        return term, index

    def propose_many(self, group, payloads):
        """(term, first index, last index) of proposals that follow one another. All are taken, or none."""
        cdef Replica* replica = self.get(group)
        cdef uint64_t index = 0
        cdef bytes data
        cdef size_t length = 0
        for data in payloads:
            length += len(data)
            check_proposal(self.engine, replica, len(data))
        check_room(self.engine, replica, length)
        first = replica.log.last_index + 1
        for data in payloads:
            index = append_proposal(self.engine, replica, RUN_ENTRIES, <const char*>data, <uint32_t>len(data))
        return replica.term, first, index if index else first - 1

    def read_index(self, group, context):
        """Ask for a read index; it comes in ``read_states`` of a ready. False where no leader is known."""
        return bool(ask_read(self.engine, self.get(group), context))

    def persisted(self, sequence):
        """Every batch up to ``sequence`` is synced: acknowledgements may leave, and commit indexes may move."""
        cdef Engine engine = self.engine
        cdef Handout* handout
        cdef uint64_t newest = sequence
        if not self.persisted_sequence <= newest <= self.sequence:
            raise InvariantViolation(
                f"batch {sequence} cannot be synced: {self.persisted_sequence} was, and {self.sequence} is the newest"
            )
        self.persisted_sequence = newest
        while self.waiting_count and self.waiting[self.waiting_start].sequence <= newest:
            handout = &self.waiting[self.waiting_start]
            self.waiting_start += 1
            self.waiting_count -= 1
            if handout.replica != NULL:
                persisted(engine, handout.replica, handout.term, handout.generation, handout.index)
        if self.waiting_count == 0:
            self.waiting_start = 0
        kept = 0
        while kept < len(self.held) and self.held[kept][0] <= sequence:
            kept += 1
        self.released.extend((node, frame) for _, node, frame in self.held[:kept])
        del self.held[:kept]

    def applied(self, CommittedRuns runs not None, Py_ssize_t start, Py_ssize_t end):
        """Items ``start .. end - 1`` of ``runs`` are applied, and the first ``skip`` entries of item ``end`` if any."""
        cdef Engine engine = self.engine
        cdef Py_ssize_t at
        cdef CommittedRun* item
        cdef Replica* replica
        if not 0 <= start <= end <= runs.count:
            raise InvariantViolation(f"items {start} to {end} of {runs.count} committed runs")
        for at in range(start, end):
            item = &runs.items[at]
            if item.count == 0:
                continue                     # all of it was held back: that says nothing of the entries before it
            replica = self.find(item.group)
            if replica != NULL:
                applied(engine, replica, item.first + item.count - 1)
        if end < runs.count and runs.items[end].skip:
            item = &runs.items[end]
            replica = self.find(item.group)
            if replica != NULL:
                applied(engine, replica, item.first + item.skip - 1)

    def applied_to(self, group, index):
        """The same for one group, whose machine runs elsewhere and reports by itself: all up to ``index`` is applied."""
        cdef Replica* replica = self.find(group)
        if replica != NULL:
            applied(self.engine, replica, index)

    def apply_membership(self, group, index, payload):
        """A membership entry takes effect; the encoded membership from here on."""
        cdef Replica* replica = self.get(group)
        cdef bytes data = payload
        apply_change(self.engine, replica, index, <const char*>data, <uint32_t>len(data))
        return encode_membership(self.replica(group).membership())

    def propose_membership(self, group, payload):
        """((term, index), accepted) of an encoded change; see ``door.Replica.propose_membership``."""
        cdef Replica* replica = self.get(group)
        cdef bint accepted = False
        cdef bytes data = payload
        index = propose_change(self.engine, replica, <const char*>data, <uint32_t>len(data), &accepted)
        return (replica.term, index), bool(accepted)

    def fetched(self, group, peer, runs):
        """Encoded runs read from the log for what ``wanted`` named; None where reading failed."""
        if group in self:
            self.replica(group).fetched(peer, runs)

    def unreachable(self, node):
        """Frames to ``node`` may have been lost: every leader here feels its way to the replicas there again."""
        cdef uint32_t at, which
        cdef Replica* replica
        for at in range(self.slots_count):
            replica = self.slots[at]
            if replica != NULL and replica.role == LEADER:
                for which in range(replica.peers_count):
                    if replica.peers[which].node == node and replica.peers[which].replica != replica.id:
                        report_unreachable(self.engine, replica, &replica.peers[which])

    def discard(self, node):
        """Forget what waits to be sent to ``node``: its link is gone, and a new one begins with nothing."""
        cdef Outbox* box = self.engine.outbox_of(node)
        box.now.size = box.after.size = 0
        box.now_count = box.after_count = 0
        box.told_sequence = 0
        self.held = [item for item in self.held if item[1] != node]
        self.released = [item for item in self.released if item[0] != node]

    def transfer_leader(self, group, to):
        transfer_leader(self.engine, self.get(group), to)

    def hand_over(self, group, linked):
        """As leader: transfer to the voter on a linked node that has most of the log. False where there is none."""
        cdef Replica* replica = self.get(group)
        cdef Peer* best = best_successor(replica, linked)
        if best == NULL or replica.role != LEADER or replica.transfer_to:
            return False
        transfer_leader(self.engine, replica, best.replica)
        return True

    def quarantine(self, group, on=True):
        """Its state machine failed, or none runs here: it applies nothing more and does not campaign; a leader should hand over.

        ``on=False``: the machine runs again, and goes on behind what it has applied.
        """
        cdef Replica* replica = self.get(group)
        replica.quarantined = bool(on)
        if not on:                               # what was handed out and not applied was dropped by whoever failed
            replica.log.applying_index = replica.log.applied_index
        engine_mark(self.engine, replica)

    def hold(self, group, on):
        """Its state machine is behind (or has room again): meanwhile nothing is handed out to it, nor proposed here."""
        cdef Replica* replica = self.get(group)
        replica.held = bool(on)
        engine_mark(self.engine, replica)

    # -- records for the log that concern one group or the node -----------------------------------------------------------------

    def record_commit(self, group):
        """Put the hard state with its commit index into the next batch; True if that is not written already."""
        cdef Replica* replica = self.get(group)
        cdef bint needed = replica.log.commit_index > replica.written_commit
        write_hard_state(self.engine, replica)
        if needed:
            engine_mark(self.engine, replica)
        return bool(needed)

    def compact(self, group, index, membership=None):
        compact(self.engine, self.get(group), index, membership)

    def installed(self, group, index, term, membership):
        installed(self.engine, self.get(group), index, term, membership)

    def snapshot_failed(self, group):
        snapshot_failed(self.engine, self.get(group))

    def record_pending_snapshot(self, group, index, term, payload):
        """A SNAPSHOT_PENDING record: the file is here, whole and synced, and about to be installed."""
        write_record(self.engine, RUN_SNAPSHOT_PENDING, group, index, term, 0, self.get(group).id, payload)

    def record_pinned(self, payload):
        """A PINNED record: what this node will remember of a peer's store."""
        write_record(self.engine, RUN_PINNED, 0, 0, 0, 0, 0, payload)

    # -- output -----------------------------------------------------------------------------------------------------------------

    def pending(self):
        """Would ``ready`` hand out anything? Cheap: asked after every input."""
        cdef Engine engine = self.engine
        cdef Nodes nodes = engine.nodes
        cdef uint32_t at
        if engine.dirty_count or self.posts or self.released or engine.builder.pending_bytes:
            return True
        for at in range(nodes.count):
            if nodes.items[at].now_count or nodes.items[at].after_count:
                return True
        return bool(engine.read_states or engine.wanted or engine.snapshots or engine.snapshots_wanted)

    def ready(self, now_ns=None):
        """One pass over the dirty replicas: everything that the node must do now. Nothing is handed out twice.

        ``now_ns`` is the time, read after the last read came in: leases are judged by it, and without it none is used. The time
        of the last tick will not do: a node that was stopped since would read under a lease that is long over (pitfall 37).
        """
        cdef Engine engine = self.engine
        self._set_now(now_ns)
        self._flush_dirty()
        engine.now_known = False
        batches = engine.builder.seal(self.sequence + 1, self.store_id)
        self.sequence += len(batches)
        self._queue_handouts()
        frames = self.released
        self.released = []
        self._take_frames(frames)
        ready = Ready(
            batches=batches,
            frames=frames,
            committed=engine.sink0 if len(engine.sink0) else None,
            committed_users=engine.sink1 if len(engine.sink1) else None,
            read_states=engine.read_states,
            wanted=engine.wanted,
            snapshots=engine.snapshots,
            snapshots_wanted=engine.snapshots_wanted,
            roles=engine.roles,
            posts=self.posts,
        )
        if ready.committed is not None:
            engine.sink0 = CommittedRuns()
        if ready.committed_users is not None:
            engine.sink1 = CommittedRuns()
        engine.read_states, engine.wanted, engine.snapshots = [], [], []
        engine.snapshots_wanted, engine.roles, self.posts = [], [], []
        return ready

    cdef int _flush_dirty(self) except -1:
        """Replicas that are marked while others are flushed (more to hand out) wait for the next turn."""
        cdef Engine engine = self.engine
        cdef uint32_t at, count = engine.dirty_count
        for at in range(count):
            flush(engine, engine.dirty[at])
        memmove(engine.dirty, engine.dirty + count, (engine.dirty_count - count) * sizeof(Replica*))
        engine.dirty_count -= count
        engine.arena.size = 0
        return 0

    cdef int _queue_handouts(self) except -1:
        cdef Engine engine = self.engine
        cdef size_t need = self.waiting_count + engine.handouts_count
        cdef size_t at
        cdef void* grown
        if engine.handouts_count == 0:
            return 0
        if self.waiting_start:
            memmove(self.waiting, self.waiting + self.waiting_start, self.waiting_count * sizeof(Handout))
            self.waiting_start = 0
        if need > self.waiting_capacity:
            grown = realloc(self.waiting, need * 2 * sizeof(Handout))
            if grown == NULL:
                raise MemoryError
            self.waiting = <Handout*>grown
            self.waiting_capacity = need * 2
        for at in range(engine.handouts_count):
            self.waiting[self.waiting_count] = engine.handouts[at]
            self.waiting[self.waiting_count].sequence = self.sequence
            self.waiting_count += 1
        engine.handouts_count = 0
        return 0

    cdef int _take_frames(self, list frames) except -1:
        """Make one frame a node of what may go, and hold back what must wait for the batches handed out so far."""
        cdef Nodes nodes = self.engine.nodes
        cdef Outbox* box
        cdef uint32_t at
        cdef bint synced = self.persisted_sequence == self.sequence
        for at in range(nodes.count):
            box = nodes.items[at]
            self.messages_sent += box.now_count + box.after_count
            if box.after_count and not synced:
                tell_status(box, &box.after, self.boot_count, self.sequence)
                self.held.extend([(self.sequence, box.node, frame) for frame in frames_of(&box.after, NULL)])
                box.after.size = 0
                box.after_count = 0
            if box.now_count or box.after_count:
                tell_status(box, &box.now, self.boot_count, self.persisted_sequence)
                frames.extend([(box.node, frame) for frame in frames_of(&box.now, &box.after)])
                box.now.size = box.after.size = 0
                box.now_count = box.after_count = 0
        return 0

    def trim_memory(self, bytes_max):
        """If runs in memory take more than that: let go of all that is applied, whoever may still need it.

        Where a machine is held back or failed, let go of all that is synced: it is read again when its turn comes.
        """
        cdef uint32_t at
        cdef Replica* replica
        if chunk_bytes_total() > bytes_max:
            for at in range(self.slots_count):
                replica = self.slots[at]
                if replica != NULL:
                    waits = replica.held or replica.quarantined
                    log_release(&replica.log, replica.log.stable_index if waits else replica.log.applied_index)

    # -- looking ------------------------------------------------------------------------------------------------------------------

    def leads(self, group):
        """Does the replica here lead its group, and has it committed in its own term?"""
        cdef Replica* replica = self.find(group)
        return replica != NULL and bool(committed_in_term(replica))

    cdef uint32_t led_elsewhere(self, uint64_t group) noexcept:
        cdef Replica* replica = self.find(group)
        cdef Peer* peer
        if replica == NULL or replica.role == LEADER or replica.leader == 0:
            return 0
        peer = find_peer(replica, replica.leader)
        return peer.node if peer != NULL else 0

    cdef bint feeds_store(self, uint64_t group) noexcept:
        cdef Replica* replica = self.find(group)
        return replica != NULL and replica.sink == 0

    def leader_node(self, group):
        """The node that the replica here believes to lead, or None."""
        cdef Replica* replica = self.find(group)
        cdef Peer* peer = find_peer(replica, replica.leader) if replica != NULL else NULL
        return peer.node if peer != NULL else None

    def slowest_match(self, group):
        """As leader the lowest index that every active member is known to have; else the applied index here."""
        return slowest_match(self.get(group))

    def match_index(self, group, to):
        """As leader the last index that a member is known to have; None where this replica does not lead, or it is no member."""
        cdef Replica* replica = self.find(group)
        cdef Peer* peer = find_peer(replica, to) if replica != NULL and replica.role == LEADER else NULL
        return peer.match_index if peer != NULL else None

    def caught_up(self, group, to):
        """As leader: has that replica everything, or nearly, so that it can take over without a pause?"""
        return bool(caught_up(self.get(group), to))

    def reads_at_once(self, group, now_ns=None):
        """May a linearizable read be served here and now? The only voter leads, or a lease holds, and all is applied.

        ``now_ns`` is the time, read after the read came; without it no lease counts.
        """
        cdef Replica* replica = self.find(group)
        self._set_now(now_ns)
        now = (
            replica != NULL
            and replica.log.applied_index >= replica.log.commit_index
            and committed_in_term(replica)
            and (sole_voter(replica) or holds_lease(self.engine, replica))
        )
        self.engine.now_known = False
        return bool(now)

    cdef int _set_now(self, now_ns) except -1:
        if now_ns is not None:
            self.engine.now_ns = now_ns
        self.engine.now_known = now_ns is not None
        return 0

    def indexes(self, group):
        """(base, stable, commit, applied, last) index of the replica here."""
        cdef Replica* replica = self.get(group)
        cdef Log* log = &replica.log
        return log.base_index, log.stable_index, log.commit_index, log.applied_index, log.last_index
