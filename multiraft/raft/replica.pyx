"""One replica: the term rule, then the role's part of each input.

This is the whole of what may happen to a replica; what follows from it is written down in ``state``, ``replication``,
``election`` and ``reads``, and leaves with the next flush. No I/O, no clock, no logging.

What another node sends is never evidence against this one: a message that contradicts itself, the rules or what is known here
raises PeerProtocolError, which costs that node its link, and it does so before it has changed anything. InvariantViolation,
which ends the node, is left for what no message can bring about.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from multiraft._core cimport (
    ENTRY_BYTES_MAX,
    FAULT_KIND,
    FAULT_LIMIT,
    FAULT_NONE,
    FAULT_SHAPE,
    FAULT_SHORT,
    FLAG_REJECT,
    FLAG_RUN,
    FLAG_TRANSFER,
    MEMBER_LEARNER,
    MESSAGE_HEADER_BYTES,
    MSG_APPEND,
    MSG_APPEND_ACK,
    MSG_HEARTBEAT,
    MSG_HEARTBEAT_ACK,
    MSG_NODE_STATUS,
    MSG_PRE_VOTE,
    MSG_PRE_VOTE_ACK,
    MSG_READ_INDEX,
    MSG_READ_INDEX_ACK,
    MSG_SNAPSHOT,
    MSG_TIMEOUT_NOW,
    MSG_TRANSFER_LEADER,
    MSG_VOTE,
    MSG_VOTE_ACK,
    RUN_BASE,
    RUN_ENTRIES,
    RUN_HEADER_BYTES,
    RUN_MEMBERSHIP,
    RUN_SNAPSHOT_MARK,
    MessageHeader,
    RunHeader,
    run_check,
)
from multiraft.raft.election cimport (
    CAMPAIGN,
    CAMPAIGN_TRANSFER,
    handle_vote,
    handle_vote_ack,
    hup,
    ignores_vote,
    own_vote_synced,
)
from multiraft.raft.log cimport Log, log_applied, log_compact, log_matches, log_restore, log_term
from multiraft.raft.membership cimport (
    Change,
    Members,
    change_decode,
    members_after,
    members_from,
    members_to,
)
from multiraft.raft.progress cimport Outbox, Peer
from multiraft.raft.reads cimport answer_confirmed, handle_read_index, handle_read_index_ack, next_round
from multiraft.raft.replication cimport (
    handle_append,
    handle_append_ack,
    handle_heartbeat,
    handle_heartbeat_ack,
    handle_snapshot,
    maybe_commit,
    release_memory,
    stabilize,
    try_transfer,
)
from multiraft.raft.state cimport (
    ARENA_BYTES_MAX,
    FOLLOWER,
    LEADER,
    PRE_CANDIDATE,
    READ_LEASE,
    Engine,
    Message,
    Replica,
    append_proposal,
    become_follower,
    emit,
    engine_mark,
    find_peer,
    is_joint,
    is_promotable,
    is_voter,
    quorum_active,
    replica_members,
    replica_set_members,
    seal_proposals,
    write_hard_state,
    write_record,
)

from multiraft.errors import (
    FormatUnsupported,
    InvariantViolation,
    LogCorrupt,
    MembershipRefused,
    NoLeader,
    NotLeader,
    Overloaded,
    PeerProtocolError,
    TooLarge,
)
from multiraft.records import decode_membership, encode_base
from multiraft.interfaces import Base, HardState


cdef enum:
    NUMBER_BITS = 62                # of terms and indexes in messages: arithmetic on them cannot overflow


# -- messages -----------------------------------------------------------------------------------------------------------------


cdef int message_parse(const char* data, size_t available, Message* out) noexcept:
    cdef const MessageHeader* head = <const MessageHeader*>data
    cdef int fault
    if available < MESSAGE_HEADER_BYTES:
        return FAULT_SHORT
    if head.length < MESSAGE_HEADER_BYTES or head.length > available:
        return FAULT_SHORT
    if not MSG_APPEND <= head.kind <= MSG_NODE_STATUS or head.flags & ~(FLAG_REJECT | FLAG_TRANSFER | FLAG_RUN):
        return FAULT_KIND
    if (head.term | head.index) >> NUMBER_BITS:
        return FAULT_LIMIT                   # nobody gets there; one above it must never wrap round to 0
    out.head = head
    out.run = NULL
    out.body = data + MESSAGE_HEADER_BYTES
    out.body_bytes = head.length - MESSAGE_HEADER_BYTES
    if not head.flags & FLAG_RUN:
        return snapshot_fits(out) if head.kind == MSG_SNAPSHOT else FAULT_NONE
    fault = run_check(out.body, out.body_bytes, True)
    if fault:
        return fault
    out.run = <const RunHeader*>out.body
    out.body_bytes = 0
    return run_fits(head, out.run)


cdef inline int run_fits(const MessageHeader* head, const RunHeader* run) noexcept:
    """Does the run say what its message says? A run of entries, at the place named, and nothing behind it."""
    if head.kind != MSG_APPEND or run.kind not in (RUN_ENTRIES, RUN_MEMBERSHIP) or run.count == 0:
        return FAULT_KIND
    if head.length != MESSAGE_HEADER_BYTES + RUN_HEADER_BYTES + run.bytes or run.group != head.group:
        return FAULT_SHAPE
    if run.first != head.index + 1 or run.first + run.count < run.first:
        return FAULT_SHAPE
    if run.term > head.term or run.term < head.log_term or run.term == 0 or run.prev_term != head.log_term:
        return FAULT_SHAPE
    return changes_fit(run) if run.kind == RUN_MEMBERSHIP else FAULT_NONE


cdef int changes_fit(const RunHeader* run) noexcept:
    """Can its membership changes be read? Once they are in the log, every replica would have to stop before them."""
    cdef Change change
    cdef const char* at = <const char*>run + RUN_HEADER_BYTES
    cdef uint32_t length, position
    try:
        for position in range(run.count):
            memcpy(&length, at, 4)
            change_decode(at + 4, length, &change)
            at += 4 + length
    except (LogCorrupt, FormatUnsupported):
        return FAULT_SHAPE
    return FAULT_NONE


cdef int snapshot_fits(const Message* message) noexcept:
    """Can the membership of an announced snapshot be read?"""
    try:
        if message.body_bytes:
            decode_membership(message.body[: message.body_bytes])
    except LogCorrupt:
        return FAULT_SHAPE
    return FAULT_NONE


cdef bint from_leader(uint16_t kind) noexcept nogil:
    return kind == MSG_APPEND or kind == MSG_HEARTBEAT or kind == MSG_SNAPSHOT


cdef int newer_term(Engine engine, Replica* replica, const Message* message) except -1:
    """The term rule for a term above ours. A pre-vote, or a granted one, names a term that nobody has entered yet."""
    cdef const MessageHeader* head = message.head
    if head.kind == MSG_PRE_VOTE or (head.kind == MSG_PRE_VOTE_ACK and not head.flags & FLAG_REJECT):
        return 0
    return become_follower(engine, replica, head.term, head.from_replica if from_leader(head.kind) else 0)


cdef int older_term(Engine engine, Replica* replica, const Message* message) except -1:
    """Somebody lags behind. Where we would not answer its elections it could stay so for ever: let it see our term."""
    cdef const MessageHeader* head = message.head
    cdef MessageHeader* answer
    if head.kind == MSG_PRE_VOTE:
        answer = emit(engine, replica, message.origin, MSG_PRE_VOTE_ACK, head.from_replica, True)
        answer.flags = FLAG_REJECT
        engine_mark(engine, replica)
    elif (head.kind == MSG_APPEND or head.kind == MSG_HEARTBEAT) and (
        engine.options.check_quorum or engine.options.pre_vote
    ):
        emit(engine, replica, message.origin, MSG_APPEND_ACK, head.from_replica, True)
        engine_mark(engine, replica)
    return 0


cdef int step(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    if head.to_replica != replica.id or head.from_replica == replica.id or head.from_replica == 0:
        return 0                             # for a replica that is no more, or never was here (pitfall 50)
    if head.term == replica.term and head.kind <= MSG_HEARTBEAT_ACK:
        return step_role(engine, replica, message)           # nothing but the role decides about these, in our term
    if head.kind == MSG_READ_INDEX:
        return handle_read_index(engine, replica, message)
    if head.kind == MSG_READ_INDEX_ACK:
        return handle_read_index_ack(engine, replica, message)
    if head.kind == MSG_TRANSFER_LEADER:
        return transfer_leader(engine, replica, <uint32_t>head.hint) if replica.role == LEADER else 0
    if head.kind == MSG_VOTE or head.kind == MSG_PRE_VOTE:
        if ignores_vote(engine, replica, message):
            return 0
    if head.term > replica.term:
        newer_term(engine, replica, message)
    elif head.term < replica.term:
        return older_term(engine, replica, message)
    if head.kind == MSG_VOTE or head.kind == MSG_PRE_VOTE:
        return handle_vote(engine, replica, message)
    return step_role(engine, replica, message)


cdef int step_role(Engine engine, Replica* replica, const Message* message) except -1:   # hot
    if replica.role == LEADER:
        return step_leader(engine, replica, message)
    if replica.role == FOLLOWER:
        return step_follower(engine, replica, message)
    return step_candidate(engine, replica, message)


cdef int step_leader(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    cdef Peer* peer
    if from_leader(head.kind):
        raise PeerProtocolError(
            f"group {replica.group}: replicas {replica.id}, here, and {head.from_replica} both lead in term {replica.term}"
        )
    peer = find_peer(replica, head.from_replica)
    if peer == NULL:
        return 0
    if head.kind == MSG_APPEND_ACK:
        return handle_append_ack(engine, replica, peer, message)
    if head.kind == MSG_HEARTBEAT_ACK:
        handle_heartbeat_ack(engine, replica, peer, message)
        if head.context:
            return answer_confirmed(engine, replica)
    return 0


cdef int step_candidate(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    if from_leader(head.kind):
        become_follower(engine, replica, head.term, head.from_replica)
        return step_follower(engine, replica, message)
    if head.kind == (MSG_PRE_VOTE_ACK if replica.role == PRE_CANDIDATE else MSG_VOTE_ACK):
        return handle_vote_ack(engine, replica, message)
    return 0


cdef int step_follower(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    if from_leader(head.kind):
        if replica.leader != 0 and replica.leader != head.from_replica:
            raise PeerProtocolError(
                f"group {replica.group}: replicas {replica.leader} and {head.from_replica} both say that they lead in term "
                f"{replica.term}"
            )
        replica.election_elapsed = 0
        if engine.options.read_mode == READ_LEASE:
            replica.embargo_ticks = engine.options.election_ticks
        if replica.leader == 0:
            replica.leader = head.from_replica
            engine_mark(engine, replica)
        if head.kind == MSG_APPEND:
            return handle_append(engine, replica, message)
        if head.kind == MSG_HEARTBEAT:
            return handle_heartbeat(engine, replica, message)
        return handle_snapshot(engine, replica, message)
    if head.kind == MSG_TIMEOUT_NOW:
        return hup(engine, replica, CAMPAIGN_TRANSFER)
    return 0


# -- time -----------------------------------------------------------------------------------------------------------------------


cdef int act_on_tick(Engine engine, Replica* replica) except -1:
    if replica.role == LEADER:
        return tick_leader(engine, replica)
    if replica.election_elapsed >= replica.election_timeout and is_promotable(replica):
        replica.election_elapsed = 0
        hup(engine, replica, CAMPAIGN)
    return 0


cdef int tick_leader(Engine engine, Replica* replica) except -1:
    cdef uint32_t at
    replica.heartbeat_elapsed += 1
    if replica.election_elapsed >= engine.options.election_ticks:
        replica.election_elapsed = 0
        if engine.options.check_quorum and not quorum_active(replica):
            return become_follower(engine, replica, replica.term, 0)
        for at in range(replica.peers_count):
            replica.peers[at].recently_active = replica.peers[at].replica == replica.id
        replica.transfer_to = 0              # it had one election timeout
    if replica.heartbeat_elapsed >= engine.options.heartbeat_ticks:
        replica.heartbeat_elapsed = 0
        replica.heartbeat_due = True
        if engine.options.read_mode == READ_LEASE:
            next_round(engine, replica)
        engine_mark(engine, replica)
    return 0


# -- proposals ------------------------------------------------------------------------------------------------------------------


cdef int check_proposal(Engine engine, const Replica* replica, size_t length) except -1:
    if replica.role != LEADER:
        if replica.leader == 0:
            raise NoLeader(f"group {replica.group} has no leader that this replica knows of")
        raise NotLeader(f"group {replica.group} is led by replica {replica.leader}")
    if replica.transfer_to or replica.quarantined:
        raise NoLeader(f"group {replica.group}: the leader is handing over")
    if find_peer(replica, replica.id) == NULL:
        raise NoLeader(f"group {replica.group}: the leader was removed")
    if length > ENTRY_BYTES_MAX:
        raise TooLarge(f"a command of {length} bytes; the limit is {ENTRY_BYTES_MAX}")
    if replica.held:
        raise Overloaded(f"group {replica.group}: its state machine is behind")
    return check_room(engine, replica, length)


cdef int check_room(Engine engine, const Replica* replica, size_t length) except -1:
    """Is there room for proposals of so many bytes? One that is larger than the limit alone is taken when nothing waits, an
    empty one always."""
    if engine.arena.size + length > ARENA_BYTES_MAX:
        raise Overloaded(f"{engine.arena.size} bytes of proposals wait for the next turn")
    if (
        engine.options.uncommitted_bytes_max
        and length
        and replica.uncommitted_bytes
        and replica.uncommitted_bytes + length > engine.options.uncommitted_bytes_max
    ):
        raise Overloaded(f"group {replica.group}: {replica.uncommitted_bytes} bytes of proposals wait for their commit")
    return 0


cdef uint64_t propose(Engine engine, Replica* replica, const char* data, size_t length) except 0:
    check_proposal(engine, replica, length)
    return append_proposal(engine, replica, RUN_ENTRIES, data, <uint32_t>length)


cdef bint change_stands(Engine engine, Replica* replica, const Change* change) except -1:
    """May this change be proposed now? It must follow from the present membership, no other may be pending, and an entry
    of our own term must be committed: without that, two leaders could each change one member and share no quorum.
    """
    cdef Members before, after
    if replica.log.commit_index < replica.term_start or replica.change_index > replica.log.applied_index:
        return False
    if not engine.options.validate_changes:
        return True
    replica_members(replica, &before)
    try:
        members_after(&before, change, &after)
    except MembershipRefused:
        return False
    return True


cdef uint64_t propose_change(Engine engine, Replica* replica, const char* data, uint32_t length, bint* accepted) except 0:
    cdef Change change
    cdef uint64_t index
    check_proposal(engine, replica, length)
    change_decode(data, length, &change)
    accepted[0] = change_stands(engine, replica, &change)
    if not accepted[0]:
        return append_proposal(engine, replica, RUN_ENTRIES, "", 0)
    index = append_proposal(engine, replica, RUN_MEMBERSHIP, data, length)
    replica.change_index = index
    return index


cdef int leave_by_itself(Engine engine, Replica* replica) except -1:
    """A joint membership that asked for it is left as soon as it is applied, by whoever leads then (pitfalls 46, 47)."""
    # version 1, transition automatic, no operations, no context
    cdef const char* leave = "\x01\x00\x00\x00\x00\x00\x00\x00"
    if replica.role != LEADER or not replica.auto_leave or not is_joint(replica):
        return 0
    if replica.change_index > replica.log.applied_index or replica.log.applied_index < replica.term_start:
        return 0
    replica.change_index = append_proposal(engine, replica, RUN_MEMBERSHIP, leave, 8)
    return 0


# -- applying -----------------------------------------------------------------------------------------------------------------


cdef int applied(Engine engine, Replica* replica, uint64_t index) except -1:
    if index > replica.log.applying_index:
        raise InvariantViolation(
            f"group {replica.group}: {index} was applied, but entries were handed out up to {replica.log.applying_index} only"
        )
    log_applied(&replica.log, index)
    leave_by_itself(engine, replica)
    return release_memory(replica)


cdef int apply_change(Engine engine, Replica* replica, uint64_t index, const char* data, uint32_t length) except -1:
    """The membership entry at ``index`` takes effect now. One that cannot follow changes nothing, on every replica alike."""
    cdef Change change
    cdef Members before, after
    change_decode(data, length, &change)
    replica_members(replica, &before)
    try:
        members_after(&before, &change, &after)
    except MembershipRefused:
        return 0
    replica_set_members(engine, replica, &after)
    replica.membership_index = index
    engine_mark(engine, replica)
    return after_change(engine, replica)


cdef int after_change(Engine engine, Replica* replica) except -1:
    cdef Peer* own = find_peer(replica, replica.id)
    if replica.role != LEADER:
        return 0
    if own == NULL or own.flags & MEMBER_LEARNER:
        if engine.options.step_down_on_removal:
            return become_follower(engine, replica, replica.term, 0)
        return 0
    maybe_commit(engine, replica)            # fewer may be needed now
    if replica.transfer_to and not is_voter(replica, replica.transfer_to):
        replica.transfer_to = 0
    return answer_confirmed(engine, replica)


cdef int persisted(Engine engine, Replica* replica, uint64_t term, uint32_t generation, uint64_t index) except -1:
    """The batch that carried this replica's hard state of ``term`` and its entries up to ``index`` is synced."""
    stabilize(engine, replica, generation, index)
    return own_vote_synced(engine, replica, term)


# -- leadership by command ----------------------------------------------------------------------------------------------------


cdef int transfer_leader(Engine engine, Replica* replica, uint32_t to) except -1:
    cdef Peer* peer
    cdef MessageHeader* head
    if replica.role != LEADER:
        peer = find_peer(replica, replica.leader)
        if peer != NULL:
            head = emit(engine, replica, peer.outbox, MSG_TRANSFER_LEADER, peer.replica, False)
            head.hint = to
        return 0
    peer = find_peer(replica, to)
    if to == replica.id:
        replica.transfer_to = 0              # we are to lead: what was under way is called off
        return 0
    if peer == NULL or peer.flags & MEMBER_LEARNER or to == replica.transfer_to:
        return 0
    replica.transfer_to = to
    replica.lease_barred = True              # the target may win at any time from here on, however late it hears of it
    replica.lease_until_ns = 0
    replica.election_elapsed = 0             # it has one election timeout from now
    seal_proposals(engine, replica)
    peer.must_send = True
    engine_mark(engine, replica)
    return try_transfer(engine, replica, peer)


cdef int forget_leader(Engine engine, Replica* replica) except -1:
    """Follow nobody, so that votes are free again; refused while leases count on our word."""
    if replica.role == FOLLOWER and engine.options.read_mode != READ_LEASE and replica.leader != 0:
        replica.leader = 0
        engine_mark(engine, replica)
    return 0


# -- compaction and snapshots -------------------------------------------------------------------------------------------------


cdef int write_base(Engine engine, Replica* replica, uint32_t kind, uint64_t index, uint64_t term, membership) except -1:
    """A BASE, SNAPSHOT_MARK or REPLICA_CREATED run for the batch under way; with None the present membership."""
    cdef Members members
    cdef uint64_t commit = replica.log.commit_index
    if membership is None:
        replica_members(replica, &members)
        membership = members_to(&members)
    hard = HardState(replica.term, replica.vote, replica.leader, replica.epoch, commit)
    payload = encode_base(Base(index, term, replica.id, membership, hard))
    write_record(engine, kind, replica.group, index, term, commit, replica.id, payload)
    replica.handout_due = True
    engine_mark(engine, replica)
    return 0


cdef int compact(Engine engine, Replica* replica, uint64_t index, membership) except -1:
    """Forget everything at and below ``index``, which the state machine holds durably.

    The BASE that stands for it carries ``membership``, or with None the present one, which may be newer than that at ``index``: all
    that is applied by now, so nothing that could be cut again. No start goes wrong by it. A replica is restored with the
    membership of its state, which is exact at the state's applied index, and the changes behind that are applied anew. A BASE's own
    counts in three cases only (``node/placing``): at index 0, where no compaction has written it; until the mark of an installed
    snapshot takes its place, before any message is taken; and where the state is gone: then the replica applies nothing
    and does not campaign until a snapshot brings another.
    """
    cdef uint64_t term = log_term(&replica.log, index)
    if index <= replica.log.base_index:
        return 0
    if index > replica.log.applied_index:
        raise InvariantViolation(
            f"group {replica.group}: the log would be cut at {index}, but only {replica.log.applied_index} is applied"
        )
    seal_proposals(engine, replica)
    write_base(engine, replica, RUN_BASE, index, term, membership)
    log_compact(&replica.log, index, term)
    return 0


cdef int snapshot_failed(Engine engine, Replica* replica) except -1:
    """The snapshot that was handed out will not be installed; what came by itself meanwhile may be applied."""
    replica.snapshot_pending = False
    engine_mark(engine, replica)
    return 0


cdef int installed(Engine engine, Replica* replica, uint64_t index, uint64_t term, membership) except -1:
    """The state machine now holds the snapshot at ``index``, durably: the log begins there (pitfalls 53, 54, 60)."""
    cdef Log* log = &replica.log
    cdef Members members
    cdef Peer* leader
    cdef MessageHeader* answer
    replica.snapshot_pending = False
    engine_mark(engine, replica)
    if index <= log.applied_index:
        return 0
    members_from(membership, &members)
    if log_matches(log, index, term):        # entries came by themselves meanwhile, and what we acknowledged stays
        log_compact(log, index, term)
        log.commit_index = max(log.commit_index, index)
        log.stable_index = max(log.stable_index, index)
        log.applying_index = max(log.applying_index, index)
        log_applied(log, index)
    else:
        log_restore(log, index, term)
    replica.waits_to_apply = False
    replica_set_members(engine, replica, &members)
    replica.membership_index = index
    # The mark first: until it is read, the entry at its index may be another, and must not be known to be committed.
    write_base(engine, replica, RUN_SNAPSHOT_MARK, index, term, membership)
    write_hard_state(engine, replica)
    leader = find_peer(replica, replica.leader)
    if leader != NULL and replica.role == FOLLOWER:
        answer = emit(engine, replica, leader.outbox, MSG_APPEND_ACK, leader.replica, True)
        answer.index = index
    return 0
