"""Reads that are linearizable without a log entry: by read index, or under a lease.

A read's round of heartbeats starts after the read arrived, never before (pitfall 35); its index is the commit index when the
round started; a quorum's answers to that round, or to a later one, prove that this leader still led at some moment
after the read came. Source: Ongaro's thesis, sections 6.4 (read index) and 6.4.1 (leases), with one round for all the
reads that wait. A lease counts from the moment its round was *sent*, on the leader's own clock, and a leader that told
another to campaign never uses one again in that term, however late that message arrives (pitfall 40).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from multiraft._core cimport FLAG_REJECT, MEMBER_OUTGOING, MEMBER_VOTER, MSG_READ_INDEX, MSG_READ_INDEX_ACK, MessageHeader
from multiraft.raft.progress cimport Outbox, Peer
from multiraft.raft.state cimport (
    LEADER,
    READ_LEASE,
    ROUNDS_KEPT,
    TALLY_READ_ROUND,
    Engine,
    Message,
    PendingRead,
    Replica,
    emit,
    engine_mark,
    find_peer,
    quorum_index,
)


from multiraft.errors import Overloaded

cdef enum:
    READS_WAITING_MAX = 65536       # of one group; beyond, the reader must slow down


cdef bint committed_in_term(const Replica* replica) noexcept nogil:
    return replica.role == LEADER and replica.log.commit_index >= replica.term_start


cdef bint holds_lease(Engine engine, const Replica* replica) noexcept:
    return engine.now_known and lease_runs(engine, replica)


cdef bint lease_runs(Engine engine, const Replica* replica) noexcept:
    return (
        engine.options.read_mode == READ_LEASE
        and not replica.lease_barred
        and committed_in_term(replica)
        and engine.now_ns < replica.lease_until_ns
    )


cdef bint sole_voter(const Replica* replica) noexcept nogil:
    cdef uint32_t at
    for at in range(replica.peers_count):
        if replica.peers[at].flags & (MEMBER_VOTER | MEMBER_OUTGOING) and replica.peers[at].replica != replica.id:
            return False
    return True


# -- asking -----------------------------------------------------------------------------------------------------------------


cdef int add_read(Engine engine, Replica* replica, uint64_t context, uint32_t from_replica, Outbox* origin) except -1:
    cdef PendingRead* read
    cdef void* grown
    if replica.reads_count == READS_WAITING_MAX:
        raise Overloaded(f"group {replica.group}: {READS_WAITING_MAX} reads wait for their round")
    if replica.reads_count == replica.reads_capacity:
        grown = realloc(replica.reads, (replica.reads_capacity * 2 + 8) * sizeof(PendingRead))
        if grown == NULL:
            raise MemoryError
        replica.reads = <PendingRead*>grown
        replica.reads_capacity = replica.reads_capacity * 2 + 8
    read = &replica.reads[replica.reads_count]
    read.context = context
    read.index = 0
    read.round = 0
    read.from_replica = from_replica
    read.origin = origin
    replica.reads_count += 1
    engine_mark(engine, replica)
    return 0


cdef int ask_read(Engine engine, Replica* replica, uint64_t context) except -1:
    cdef Peer* leader
    cdef MessageHeader* head
    if replica.role == LEADER:
        add_read(engine, replica, context, 0, NULL)
        return 1
    leader = find_peer(replica, replica.leader)
    if leader == NULL:
        return 0
    head = emit(engine, replica, leader.outbox, MSG_READ_INDEX, leader.replica, False)
    head.context = context
    return 1


cdef int handle_read_index(Engine engine, Replica* replica, const Message* message) except -1:
    cdef MessageHeader* answer
    if replica.role == LEADER and replica.reads_count < READS_WAITING_MAX:
        return add_read(engine, replica, message.head.context, message.head.from_replica, message.origin)
    answer = emit(engine, replica, message.origin, MSG_READ_INDEX_ACK, message.head.from_replica, False)
    answer.flags = FLAG_REJECT
    answer.context = message.head.context
    return 0


cdef int handle_read_index_ack(Engine engine, Replica* replica, const Message* message) except -1:
    cdef bint refused = message.head.flags & FLAG_REJECT
    engine.read_states.append((replica.group, message.head.context, None if refused else message.head.index))
    return 0


# -- rounds -----------------------------------------------------------------------------------------------------------------


cdef int next_round(Engine engine, Replica* replica) except -1:
    replica.round += 1
    replica.rounds[replica.round % ROUNDS_KEPT].round = replica.round
    replica.rounds[replica.round % ROUNDS_KEPT].sent_ns = engine.now_ns
    replica.heartbeat_due = True             # who calls this flushes the replica, or marks it
    return 0


cdef int start_round(Engine engine, Replica* replica) except -1:
    cdef uint32_t at
    cdef bint started = False
    if replica.reads_count == 0 or not committed_in_term(replica):
        return 0
    for at in range(replica.reads_count):
        if replica.reads[at].round == 0:
            if not started:
                started = True
                next_round(engine, replica)
            replica.reads[at].round = replica.round
            replica.reads[at].index = replica.log.commit_index
    if sole_voter(replica) or holds_lease(engine, replica):
        answer_up_to(engine, replica, replica.round)
    return 0


cdef int answer_confirmed(Engine engine, Replica* replica) except -1:
    cdef uint64_t confirmed = quorum_index(replica, TALLY_READ_ROUND)
    cdef uint64_t until
    cdef uint32_t at
    if engine.options.read_mode == READ_LEASE:
        for at in range(ROUNDS_KEPT):
            if 0 < replica.rounds[at].round <= confirmed:
                until = replica.rounds[at].sent_ns + engine.options.lease_ns
                replica.lease_until_ns = max(replica.lease_until_ns, until)
        if replica.reads_count:
            engine_mark(engine, replica)     # those that wait for a later round may be answered under the longer lease
    return answer_up_to(engine, replica, confirmed)


cdef int answer_up_to(Engine engine, Replica* replica, uint64_t round) except -1:
    cdef uint32_t at, kept = 0
    cdef PendingRead* read
    for at in range(replica.reads_count):
        read = &replica.reads[at]
        if 0 < read.round <= round:
            answer(engine, replica, read)
        else:
            replica.reads[kept] = read[0]
            kept += 1
    replica.reads_count = kept
    if kept == 0 and replica.reads_capacity > 64:        # a burst is over
        free(replica.reads)
        replica.reads = NULL
        replica.reads_capacity = 0
    return 0


cdef int answer(Engine engine, Replica* replica, const PendingRead* read) except -1:
    cdef MessageHeader* head
    if read.from_replica == 0:
        engine.read_states.append((replica.group, read.context, read.index))
        return 0
    head = emit(engine, replica, read.origin, MSG_READ_INDEX_ACK, read.from_replica, False)
    head.context = read.context
    head.index = read.index
    return 0
