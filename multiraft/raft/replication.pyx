"""Replication: appends, acknowledgements, commit, snapshots, and the flush that lets out what has gathered.

Paper section 5.3 and 5.4, thesis sections 3.5 to 3.6 and 10.2. What holds here, always:

- a follower acknowledges the end of the run that matched, never what else it has;
- an acknowledgement goes into the ``after`` half of an outbox: it leaves when the entries are synced;
- a leader counts its own entries only once they are synced, and commits by counting only entries of its own term;
- nothing at or below the commit index is ever cut; the commit index never falls.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from multiraft._core cimport (
    FLAG_REJECT,
    FLAG_RUN,
    MESSAGE_HEADER_BYTES,
    MSG_APPEND,
    MSG_APPEND_ACK,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_ACK,
    MSG_SNAPSHOT,
    MSG_TIMEOUT_NOW,
    RUN_HEADER_BYTES,
    RUN_MEMBERSHIP,
    Buffer,
    Chunk,
    CommittedRun,
    CommittedRuns,
    MessageHeader,
    RunHeader,
    buffer_room,
    chunk_drop,
    chunk_new,
    chunk_take,
    run_body_crc,
    run_check,
    run_seal_header,
)
from multiraft.raft.log cimport (
    Log,
    TailRun,
    entries_fitting,
    entries_span,
    log_change_between,
    log_conflict_by_term,
    log_copy_run,
    log_cut,
    log_find_run,
    log_matches,
    log_note_change,
    log_note_term,
    log_push_run,
    log_release,
    log_term,
)
from multiraft.raft.progress cimport (
    PROBE,
    REPLICATE,
    SNAPSHOT,
    Outbox,
    Peer,
    inflights_add,
    inflights_free_to,
    inflights_full,
    peer_become_probe,
    peer_become_replicate,
    peer_become_snapshot,
    peer_paused,
    peer_step_back,
    peer_update,
)
from multiraft.raft.reads cimport start_round
from multiraft.raft.state cimport (
    LEADER,
    TALLY_MATCH,
    Engine,
    Handout,
    Message,
    Replica,
    emit,
    engine_mark,
    quorum_index,
    seal_proposals,
    write_hard_state,
    write_vote,
)

from multiraft.errors import InvariantViolation, LogCorrupt, PeerProtocolError


# -- as follower ------------------------------------------------------------------------------------------------------------


cdef int commit_to(Engine engine, Replica* replica, uint64_t index) except -1:
    if index <= replica.log.commit_index:
        return 0
    if index > replica.log.last_index:
        raise InvariantViolation(
            f"group {replica.group}: commit index {index} is beyond the last index {replica.log.last_index}: was the log of "
            "this replica cut or its directory replaced?"
        )
    replica.log.commit_index = index
    engine_mark(engine, replica)
    return 0


cdef uint64_t first_conflict(const Log* log, const RunHeader* run) noexcept nogil:
    """The first index of the run that the log lacks or has under another term; one past the run where there is none."""
    cdef uint64_t index = run.first, end = run.first + run.count
    if index > log.last_index:
        return index
    while index < end and index <= log.last_index and log_term(log, index) == run.term:
        index += 1
    return index


cdef int append_run(Engine engine, Replica* replica, const RunHeader* run, uint64_t first) except -1:
    """Take the run's entries from ``first`` on into the batch and the tail, cutting what conflicts."""
    cdef Log* log = &replica.log
    cdef uint32_t skip = <uint32_t>(first - run.first)
    cdef const char* start = <const char*>run + RUN_HEADER_BYTES
    cdef uint32_t span = run.bytes
    cdef RunHeader* own
    cdef Chunk* chunk
    cdef uint32_t at
    if first <= log.last_index:
        log_cut(log, first)
    write_vote(engine, replica)              # the term comes before its entries, whatever prefix a crash leaves
    if skip:
        span = entries_span(start, skip, run.count - skip, &start)
    own = <RunHeader*>engine.builder.begin_run(span, &chunk)
    memcpy(own, run, RUN_HEADER_BYTES)
    memcpy(<char*>own + RUN_HEADER_BYTES, start, span)
    if skip:
        own.first = first
        own.count = run.count - skip
        own.bytes = span
        own.prev_term = run.term
        own.body_crc = run_body_crc(own, <char*>own + RUN_HEADER_BYTES)
    own.commit = log.commit_index
    engine.builder.end_run(own)
    log_note_term(log, first, run.term)
    log_push_run(log, own, chunk)
    replica.written_commit = max(replica.written_commit, own.commit)
    replica.handout_due = True
    if run.kind == RUN_MEMBERSHIP:
        for at in range(own.count):
            log_note_change(log, first + at)
    engine_mark(engine, replica)
    return 0


cdef int acknowledge(Engine engine, Replica* replica, const Message* message, uint64_t index) except -1:
    cdef MessageHeader* answer = emit(engine, replica, message.origin, MSG_APPEND_ACK, message.head.from_replica, True)
    answer.index = index
    return 0


cdef int handle_append(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    cdef Log* log = &replica.log
    cdef uint64_t hint, end, first
    cdef MessageHeader* answer
    engine_mark(engine, replica)
    if head.index < log.commit_index:
        return acknowledge(engine, replica, message, log.commit_index)
    if not log_matches(log, head.index, head.log_term):
        hint = head.index if head.index < log.last_index else log.last_index
        hint = log_conflict_by_term(log, hint, head.log_term)
        answer = emit(engine, replica, message.origin, MSG_APPEND_ACK, head.from_replica, True)
        answer.flags = FLAG_REJECT
        answer.index = head.index
        answer.hint = hint
        answer.log_term = log_term(log, hint)
        return 0
    end = head.index
    if message.run != NULL:
        end = message.run.first + message.run.count - 1
        first = first_conflict(log, message.run)
        if first <= end:
            append_run(engine, replica, message.run, first)
    commit_to(engine, replica, head.commit if head.commit < end else end)
    return acknowledge(engine, replica, message, end)


cdef int handle_heartbeat(Engine engine, Replica* replica, const Message* message) except -1:
    cdef MessageHeader* answer
    # The leader bounds it by our match; we bound it again, for it is our log that must not be outrun (pitfall 9).
    commit_to(engine, replica, min(message.head.commit, replica.log.last_index))
    answer = emit(engine, replica, message.origin, MSG_HEARTBEAT_ACK, message.head.from_replica, False)
    answer.context = message.head.context
    return 0


cdef int handle_snapshot(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    cdef Log* log = &replica.log
    engine_mark(engine, replica)
    if head.index <= log.commit_index:
        return acknowledge(engine, replica, message, log.commit_index)
    if log_matches(log, head.index, head.log_term):
        # The entries are all here: the snapshot tells us no more than that they are committed.
        commit_to(engine, replica, head.index)
        return acknowledge(engine, replica, message, log.commit_index)
    replica.snapshot_pending = True
    engine.snapshots.append(
        (
            replica.group,
            head.index,
            head.log_term,
            head.context,
            head.from_replica,
            message.body[: message.body_bytes] if message.body_bytes else b"",
        )
    )
    return 0


# -- as leader --------------------------------------------------------------------------------------------------------------


cdef int maybe_commit(Engine engine, Replica* replica) except -1:
    """Commit what both halves have, if it is of our own term (paper 5.4.2). Followers hear of it with the flush."""
    cdef uint64_t index = quorum_index(replica, TALLY_MATCH)
    if index > replica.log.commit_index and index >= replica.term_start and log_term(&replica.log, index) == replica.term:
        commit_to(engine, replica, index)
    return 0


cdef inline bint owes(const Log* log, const Peer* peer) noexcept nogil:
    """Might ``replicate`` have anything to send to the peer?"""
    return not peer.paused and (
        peer.next_index <= log.sealed_index
        or peer.sent_commit < log.commit_index
        or peer.must_send
        or peer.state == PROBE
    )


cdef int try_transfer(Engine engine, Replica* replica, Peer* peer) except -1:
    if replica.transfer_to == peer.replica and peer.match_index == replica.log.last_index:
        emit(engine, replica, peer.outbox, MSG_TIMEOUT_NOW, peer.replica, False)
    return 0


cdef int handle_refusal(Engine engine, Replica* replica, Peer* peer, const MessageHeader* head) except -1:
    cdef uint64_t hint = head.hint
    if head.log_term:
        # It has an entry of this term at its hint; ours of a higher term before it cannot match either (one round a term).
        hint = log_conflict_by_term(&replica.log, head.hint, head.log_term)
    if peer_step_back(peer, head.index, hint):
        if peer.state == REPLICATE:
            peer_become_probe(peer)
        peer.must_send = True
        engine_mark(engine, replica)
    return 0


cdef int handle_append_ack(Engine engine, Replica* replica, Peer* peer, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    if head.index > replica.log.last_index and not head.flags & FLAG_REJECT:
        raise PeerProtocolError(
            f"group {replica.group}: replica {peer.replica} acknowledges {head.index}, but this log, whose term it is, ends at "
            f"{replica.log.last_index}"
        )
    if not peer.recently_active:
        peer.recently_active = True
        engine_mark(engine, replica)         # whoever speaks again may be given the snapshot that it needs
    if head.flags & FLAG_REJECT:
        return handle_refusal(engine, replica, peer, head)
    if not peer_update(peer, head.index) and not (peer.match_index == head.index and peer.state == PROBE):
        return 0
    if peer.state == PROBE:
        peer_become_replicate(peer)
    elif peer.state == SNAPSHOT:
        if peer.match_index >= replica.log.base_index:
            peer_become_probe(peer)
            peer_become_replicate(peer)
    else:
        inflights_free_to(peer, head.index)
        peer.paused = False
    if head.index > replica.log.commit_index:        # what rose to no more than that commits nothing
        maybe_commit(engine, replica)
    if owes(&replica.log, peer):
        engine_mark(engine, replica)
    else:
        release_memory(replica)
    return try_transfer(engine, replica, peer) if replica.transfer_to else 0


cdef int handle_heartbeat_ack(Engine engine, Replica* replica, Peer* peer, const Message* message) except -1:
    peer.recently_active = True
    peer.paused = False
    if message.head.context > peer.read_round and message.head.context <= replica.round:
        peer.read_round = message.head.context
    if peer.match_index < replica.log.last_index or peer.state == PROBE:
        # Something sent before may have been lost; an append, even an empty one, makes it say so.
        peer.must_send = peer.state != SNAPSHOT
        engine_mark(engine, replica)
    return 0


cdef int report_unreachable(Engine engine, Replica* replica, Peer* peer) except -1:
    """Appends that were sent ahead may be lost: feel the way again, from what is known to be there."""
    if peer.state == REPLICATE:
        peer_become_probe(peer)
        engine_mark(engine, replica)
    return 0


cdef int report_snapshot(Engine engine, Replica* replica, Peer* peer, bint ok) except -1:
    peer.snapshot_wanted = False
    if peer.state == SNAPSHOT:
        if not ok:
            peer.pending_snapshot = 0
        peer_become_probe(peer)
        peer.paused = ok                     # a good one is acknowledged by itself; until then, or a heartbeat, wait
    engine_mark(engine, replica)
    return 0


cdef int send_snapshot(
    Engine engine, Replica* replica, Peer* peer, uint64_t index, uint64_t term, uint64_t context, bytes membership
) except -1:
    """Offer it; 0 where it came too late and was not offered."""
    cdef MessageHeader* head
    cdef uint32_t length = <uint32_t>len(membership)
    cdef const char* data = membership
    if replica.role != LEADER:
        return 0
    if index <= peer.match_index:            # it caught up by itself while the snapshot was made
        return report_snapshot(engine, replica, peer, True)
    if index < replica.log.base_index:       # the log was cut beyond it meanwhile: one more would be needed (pitfall 61)
        return report_snapshot(engine, replica, peer, False)
    peer_become_snapshot(peer, index)
    head = emit(engine, replica, peer.outbox, MSG_SNAPSHOT, peer.replica, False)
    head.index = index
    head.log_term = term
    head.context = context
    head.length += length
    memcpy(buffer_room(&peer.outbox.now, length), data, length)
    peer.outbox.now.size += length
    return 1


# -- sending appends ----------------------------------------------------------------------------------------------------------


cdef int note_sent(Engine engine, Replica* replica, Peer* peer, uint64_t last, uint64_t bytes) except -1:
    if peer.state == REPLICATE:
        if last >= peer.next_index:
            peer.next_index = last + 1
            inflights_add(peer, last, bytes, engine.options.inflight_messages_max)
        peer.paused = inflights_full(peer, engine.options.inflight_messages_max, engine.options.inflight_bytes_max)
    else:
        peer.paused = True                   # one probe at a time, until it is answered
    peer.must_send = False
    peer.sent_commit = replica.log.commit_index
    return 0


cdef int send_append(Engine engine, Replica* replica, Peer* peer, bint empty) except -1:
    """One append from ``next_index`` on: a run, or nothing but the commit index. 0 where its entries are not in memory."""
    cdef Log* log = &replica.log
    cdef uint64_t before = peer.next_index - 1, last = before
    cdef uint64_t prev_term = log_term(log, before)
    cdef Buffer* out = &peer.outbox.now
    cdef size_t offset
    cdef MessageHeader* head = emit(engine, replica, peer.outbox, MSG_APPEND, peer.replica, False)
    head.index = before
    head.log_term = prev_term
    head.commit = log.commit_index
    if not empty:
        offset = out.size - MESSAGE_HEADER_BYTES
        if not log_copy_run(log, peer.next_index, engine.options.message_bytes_max, replica.id, out, &last):
            out.size = offset
            peer.outbox.now_count -= 1
            return 0
        head = <MessageHeader*>(out.data + offset)
        head.flags = FLAG_RUN
        head.length = <uint32_t>(out.size - offset)
    note_sent(engine, replica, peer, last, head.length if not empty else 0)
    return 1


cdef int ask_for_snapshot(Engine engine, Replica* replica, Peer* peer) except -1:
    if not peer.recently_active:
        return 0                             # nobody there to take it
    peer.snapshot_wanted = True
    engine.snapshots_wanted.append((replica.group, peer.replica, peer.node))
    return 0


cdef int replicate(Engine engine, Replica* replica, Peer* peer) except -1:
    """Send the peer what it lacks, as far as its window allows."""
    cdef Log* log = &replica.log
    cdef bint full
    while not peer_paused(peer):
        if peer.next_index - 1 < log.base_index:
            return ask_for_snapshot(engine, replica, peer)
        full = peer.state == REPLICATE and inflights_full(
            peer, engine.options.inflight_messages_max, engine.options.inflight_bytes_max
        )
        if full or peer.next_index > log.sealed_index:
            # With a full window only an empty one goes out, so that a lost window is noticed at all.
            if peer.must_send or peer.state == PROBE or peer.sent_commit < log.commit_index:
                send_append(engine, replica, peer, True)
            return 0
        if not send_append(engine, replica, peer, False):
            peer.wanted = True
            engine.wanted.append((replica.group, peer.replica, peer.next_index, engine.options.message_bytes_max))
    return 0


cdef int fetched_run(Engine engine, Replica* replica, Peer* peer, const char* data, size_t length) except -1:
    """A run read from the disk for ``peer``, or with NULL for applying: pass it on if it is still what is wanted."""
    cdef const RunHeader* run = <const RunHeader*>data
    cdef uint64_t next_index
    cdef uint32_t skip, span
    cdef const char* start
    cdef Chunk* chunk
    cdef RunHeader* own
    if run_check(data, length, True):
        raise LogCorrupt(f"group {replica.group}: a run read from the log fails its checks")
    if run.group != replica.group:
        raise InvariantViolation(f"a run of group {run.group} was read for group {replica.group}")
    if peer != NULL and (replica.role != LEADER or peer_paused(peer)):
        return 0                             # we lead no more, or its window is full
    if peer == NULL and replica.snapshot_pending:
        return 0                             # a snapshot was offered meanwhile: it may be installed before these are taken
    next_index = peer.next_index if peer != NULL else replica.log.applying_index + 1
    if not run.first <= next_index < run.first + run.count or log_term(&replica.log, next_index) != run.term:
        return 0                             # the world has moved on; what is needed now is asked for anew
    skip = <uint32_t>(next_index - run.first)
    span = entries_span(data + RUN_HEADER_BYTES, skip, run.count - skip, &start)
    chunk = chunk_new(RUN_HEADER_BYTES + span)
    try:
        own = <RunHeader*>chunk.data
        memcpy(own, run, RUN_HEADER_BYTES)
        memcpy(chunk.data + RUN_HEADER_BYTES, start, span)
        chunk.size = RUN_HEADER_BYTES + span
        own.first = next_index
        own.count = run.count - skip
        own.bytes = span
        if peer != NULL:
            send_fetched(engine, replica, peer, own)
        else:
            hand_out(engine, replica, own, 0, own.count, chunk, <uint64_t>-1, True)
    finally:
        chunk_drop(chunk)
    return 0


cdef int send_fetched(Engine engine, Replica* replica, Peer* peer, RunHeader* run) except -1:
    cdef size_t length = RUN_HEADER_BYTES + run.bytes
    cdef uint64_t prev_term = log_term(&replica.log, run.first - 1)
    cdef MessageHeader* head
    run.prev_term = prev_term
    run.commit = replica.log.commit_index
    run.from_replica = replica.id
    run.body_crc = run_body_crc(run, <char*>run + RUN_HEADER_BYTES)
    run_seal_header(run)
    head = emit(engine, replica, peer.outbox, MSG_APPEND, peer.replica, False)
    head.index = run.first - 1
    head.log_term = prev_term
    head.commit = replica.log.commit_index
    head.flags = FLAG_RUN
    head.length = <uint32_t>(MESSAGE_HEADER_BYTES + length)
    memcpy(buffer_room(&peer.outbox.now, length), run, length)
    peer.outbox.now.size += length
    return note_sent(engine, replica, peer, run.first + run.count - 1, MESSAGE_HEADER_BYTES + length)


# -- committed entries, on their way to the state machine ---------------------------------------------------------------------


cdef int hand_out(
    Engine engine, Replica* replica, RunHeader* run, uint32_t skip, uint32_t count, Chunk* chunk, uint64_t room, bint alone
) except -1:
    """Entries of a run in a chunk, the next to be applied, go to the group's sink as far as they may; returns their bytes.

    What does not fit into ``room`` waits, but for the first entry where ``alone`` says that nothing went before it.
    """
    cdef Log* log = &replica.log
    cdef uint64_t limit = min(log.commit_index, log.stable_index)
    cdef CommittedRuns sink = engine.sink1 if replica.sink else engine.sink0
    cdef CommittedRun* item
    cdef const char* start
    cdef uint32_t payload, span
    if run.first + skip != log.applying_index + 1:
        raise InvariantViolation(f"group {replica.group}: {run.first + skip} would be applied after {log.applying_index}")
    if run.first + skip > limit:
        return 0
    count = <uint32_t>min(<uint64_t>count, limit - log.applying_index)
    span = entries_span(<const char*>run + RUN_HEADER_BYTES, skip, count, &start)
    if span > room:
        count = entries_fitting(start, count, room, &span)
        if count == 0:
            if not alone:
                return 0
            count = 1
            span = entries_span(start, 0, 1, &start)
    item = sink.add()
    item.bytes = span
    item.group = replica.group
    item.first = run.first + skip
    item.term = run.term
    item.count = count
    item.kind = run.kind
    item.entries = start
    item.chunk = chunk
    chunk_take(chunk)
    log.applying_index = item.first + count - 1
    payload = item.bytes - 4 * count
    replica.uncommitted_bytes -= min(replica.uncommitted_bytes, <uint64_t>payload)
    return <int>item.bytes


cdef int hand_out_tail(Engine engine, Replica* replica) except -1:
    """All that is committed and synced here, up to the limit of one flush; what is not in memory is asked for."""
    cdef Log* log = &replica.log
    cdef uint64_t bytes = 0, room
    cdef TailRun* run
    cdef uint32_t skip, taken
    # What a snapshot on its way will hold is not applied besides: the state machine is about to be replaced.
    if replica.quarantined or replica.held or replica.waits_to_apply or replica.snapshot_pending:
        return 0
    while log.applying_index < min(log.commit_index, log.stable_index):
        run = log_find_run(log, log.applying_index + 1)
        if run == NULL:
            replica.waits_to_apply = True
            engine.wanted.append((replica.group, 0, log.applying_index + 1, engine.options.committed_bytes_max))
            return 0
        skip = <uint32_t>(log.applying_index + 1 - run.first)
        room = engine.options.committed_bytes_max - min(bytes, engine.options.committed_bytes_max)
        taken = hand_out(engine, replica, run.head, skip, run.count - skip, run.chunk, room, bytes == 0)
        if taken == 0:
            engine_mark(engine, replica)     # the rest in the next turn
            return 0
        bytes += taken
    return 0


# -- the flush --------------------------------------------------------------------------------------------------------------


cdef int send_heartbeats(Engine engine, Replica* replica) except -1:
    cdef MessageHeader* head
    cdef Peer* peer
    cdef uint32_t at
    replica.heartbeat_due = False
    for at in range(replica.peers_count):
        peer = &replica.peers[at]
        if peer.replica != replica.id:
            head = emit(engine, replica, peer.outbox, MSG_HEARTBEAT, peer.replica, False)
            head.commit = min(peer.match_index, replica.log.commit_index)
            head.context = replica.round
    return 0


cdef int note_handout(Engine engine, Replica* replica) except -1:
    """Remember what the sync of the batch under way will mean for this replica."""
    cdef Handout* handout
    cdef void* grown
    if engine.handouts_count == engine.handouts_capacity:
        grown = realloc(engine.handouts, (engine.handouts_capacity * 2 + 64) * sizeof(Handout))
        if grown == NULL:
            raise MemoryError
        engine.handouts = <Handout*>grown
        engine.handouts_capacity = engine.handouts_capacity * 2 + 64
    handout = &engine.handouts[engine.handouts_count]
    handout.replica = replica
    handout.sequence = 0
    handout.term = replica.term
    handout.index = replica.log.sealed_index
    handout.generation = replica.log.generation
    engine.handouts_count += 1
    replica.handout_due = False
    return 0


cdef int release_memory(Replica* replica) except -1:
    """Let go of runs that nobody needs again soon: applied here, and acknowledged by all who are there to answer."""
    cdef Log* log = &replica.log
    cdef uint64_t keep = log.applied_index
    cdef Peer* peer = replica.peers
    cdef Peer* end = peer + replica.peers_count
    if log.tail_count == 0 or log.tail[log.tail_start].first > keep:
        return 0
    if replica.role == LEADER:
        while peer < end:
            if peer.match_index < keep and peer.recently_active and peer.replica != replica.id:
                keep = peer.match_index
            peer += 1
    log_release(log, keep)
    return 0


cdef int tell_role(Engine engine, Replica* replica) except -1:
    if (
        replica.told_role != replica.role
        or replica.told_leader != replica.leader
        or replica.told_term != replica.term
    ):
        engine.roles.append((replica.group, replica.role, replica.leader, replica.term))
        replica.told_role = replica.role
        replica.told_leader = replica.leader
        replica.told_term = replica.term
    return 0


cdef int flush(Engine engine, Replica* replica) except -1:       # hot
    """Let out what has gathered in one replica: runs, messages, committed runs, news. Called for dirty replicas only."""
    cdef Log* log = &replica.log
    cdef Peer* peer = replica.peers
    cdef Peer* end = peer + replica.peers_count
    replica.dirty = False
    if log.arena_count:
        seal_proposals(engine, replica)
    write_vote(engine, replica)
    # Whoever acknowledges the next membership change must know, also after a crash, that this one is committed: it would
    # stand for election under a membership two changes old, whose majority need not meet that of the newest (pitfall 29).
    if replica.log.changes_count and log_change_between(&replica.log, replica.written_commit, replica.log.commit_index):
        write_hard_state(engine, replica)
    if replica.role == LEADER:
        if replica.reads_count:
            start_round(engine, replica)
        if replica.heartbeat_due:
            send_heartbeats(engine, replica)
        while peer < end:
            if owes(log, peer) and peer.replica != replica.id:
                replicate(engine, replica, peer)
            peer += 1
    if log.applying_index < min(log.commit_index, log.stable_index):
        hand_out_tail(engine, replica)
    if replica.handout_due:
        note_handout(engine, replica)
    tell_role(engine, replica)
    return release_memory(replica)


cdef int stabilize(Engine engine, Replica* replica, uint32_t generation, uint64_t index) except -1:
    """Entries up to ``index``, as they were in that generation of the log, are synced on this node (pitfalls 3, 5, 6)."""
    cdef Log* log = &replica.log
    if generation != log.generation or index <= log.stable_index:
        return 0
    if index > log.sealed_index:
        raise InvariantViolation(f"group {replica.group}: index {index} was synced before it was handed out")
    log.stable_index = index
    if replica.role == LEADER and index > log.commit_index:
        maybe_commit(engine, replica)
    engine_mark(engine, replica)
    return 0
