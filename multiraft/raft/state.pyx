"""The state of a replica and what all rules share: terms, members, quorums, messages into outboxes.

Deterministic: no clock (the time is passed in), no randomness but the engine's seeded generator, no iteration over sets.
It decides no rule of Raft but two: a vote is cleared only when the term rises, and a follower's step down.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from multiraft._batch cimport BatchBuilder
from multiraft._core cimport (
    BATCH_SEAL_BYTES,
    FLAG_REJECT,
    MEMBER_LEARNER,
    MEMBER_OUTGOING,
    MEMBER_VOTER,
    MESSAGE_HEADER_BYTES,
    MSG_READ_INDEX_ACK,
    REPLICAS_MAX,
    RUN_ENTRIES_MAX,
    RUN_HARD_STATE,
    RUN_HEADER_BYTES,
    RUN_MEMBERSHIP,
    VOTE_LOST,
    VOTE_WON,
    Buffer,
    Chunk,
    CommittedRuns,
    MessageHeader,
    RunHeader,
    buffer_free,
    buffer_room,
    majority_index,
    majority_vote,
    run_body_crc,
)
from multiraft.raft.log cimport Log, log_free, log_init, log_note_change, log_note_term, log_push_run, log_term
from multiraft.raft.membership cimport Members
from multiraft.raft.progress cimport Outbox, Peer, inflights_clear, peer_reset

cimport cython

from multiraft.errors import InvariantViolation


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** memory, size_t alignment, size_t size)


cdef enum:
    CACHE_LINE_BYTES = 64


cdef packed struct HardStatePayload:
    uint32_t length
    uint32_t vote
    uint32_t leader
    uint64_t epoch
    uint64_t commit


@cython.final
cdef class Nodes:
    def __dealloc__(self):
        cdef uint32_t at
        for at in range(self.count):
            buffer_free(&self.items[at].now)
            buffer_free(&self.items[at].after)
            free(self.items[at])
        free(self.items)


@cython.final
cdef class Engine:
    def __cinit__(self):
        self.nodes = Nodes()
        self.builder = BatchBuilder()
        self.sink0 = CommittedRuns()
        self.sink1 = CommittedRuns()
        self.read_states = []
        self.wanted = []
        self.snapshots_wanted = []
        self.snapshots = []
        self.roles = []

    def __dealloc__(self):
        buffer_free(&self.arena)
        free(self.dirty)
        free(self.handouts)

    cdef Outbox* outbox_of(self, uint32_t node) except NULL:
        cdef Nodes nodes = self.nodes
        cdef uint32_t at
        cdef void* grown
        for at in range(nodes.count):
            if nodes.items[at].node == node:
                return nodes.items[at]
        grown = realloc(nodes.items, (nodes.count + 1) * sizeof(Outbox*))
        if grown == NULL:
            raise MemoryError
        nodes.items = <Outbox**>grown
        nodes.items[nodes.count] = <Outbox*>calloc(1, sizeof(Outbox))
        if nodes.items[nodes.count] == NULL:
            raise MemoryError
        nodes.items[nodes.count].node = node
        nodes.count += 1
        return nodes.items[nodes.count - 1]


cdef int engine_queue(Engine engine, Replica* replica) except -1:
    cdef void* grown
    if engine.dirty_count == engine.dirty_capacity:
        grown = realloc(engine.dirty, (engine.dirty_capacity * 2 + 16) * sizeof(Replica*))
        if grown == NULL:
            raise MemoryError
        engine.dirty = <Replica**>grown
        engine.dirty_capacity = engine.dirty_capacity * 2 + 16
    engine.dirty[engine.dirty_count] = replica
    engine.dirty_count += 1
    replica.dirty = True
    return 0


cdef uint32_t engine_random(Engine engine, uint32_t below) noexcept:
    # xorshift64*: small, seeded by whoever made the engine, good enough to spread election timeouts.
    cdef uint64_t x = engine.random
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    engine.random = x
    return <uint32_t>(((x * 0x2545F4914F6CDD1D) >> 33) % below)


# -- a replica and its members ----------------------------------------------------------------------------------------------


cdef Replica* replica_new(Engine engine, uint64_t group, uint32_t id) except NULL:
    cdef void* memory
    cdef Replica* replica
    if posix_memalign(&memory, CACHE_LINE_BYTES, sizeof(Replica)):
        raise MemoryError
    memset(memory, 0, sizeof(Replica))
    replica = <Replica*>memory
    replica.group = group
    replica.id = id
    log_init(&replica.log, 0, 0)
    draw_timeout(engine, replica)
    return replica


cdef void replica_free(Replica* replica) noexcept:
    cdef uint32_t at
    for at in range(replica.peers_count):
        inflights_clear(&replica.peers[at])
    free(replica.peers)
    free(replica.reads)
    log_free(&replica.log)
    free(replica)


cdef int replica_set_members(Engine engine, Replica* replica, const Members* members) except -1:
    """Make the peers those of ``members``, keeping what is known of those who stay."""
    cdef Peer* peers = <Peer*>calloc(members.count if members.count else 1, sizeof(Peer))
    cdef Peer* known
    cdef uint32_t at
    if peers == NULL:
        raise MemoryError
    for at in range(members.count):
        known = find_peer(replica, members.items[at].replica)
        if known != NULL:
            peers[at] = known[0]
            memset(known, 0, sizeof(Peer))           # its window went along
        else:
            peers[at].replica = members.items[at].replica
            peer_reset(&peers[at], replica.log.last_index)
            # A new member counts as active at first, or a quorum check could fail before it had a chance to speak.
            peers[at].recently_active = True
        peers[at].flags = <uint8_t>members.items[at].flags
        peers[at].node = members.items[at].node
        peers[at].outbox = engine.outbox_of(peers[at].node)
    for at in range(replica.peers_count):
        inflights_clear(&replica.peers[at])
    free(replica.peers)
    replica.peers = peers
    replica.peers_count = members.count
    replica.auto_leave = members.auto_leave
    return 0


cdef void replica_members(const Replica* replica, Members* out) noexcept:
    cdef uint32_t at
    out.count = replica.peers_count
    out.auto_leave = replica.auto_leave
    for at in range(replica.peers_count):
        out.items[at].replica = replica.peers[at].replica
        out.items[at].node = replica.peers[at].node
        out.items[at].flags = replica.peers[at].flags


cdef bint is_voter(const Replica* replica, uint32_t id) noexcept nogil:
    cdef Peer* peer = find_peer(replica, id)
    return peer != NULL and (peer.flags & (MEMBER_VOTER | MEMBER_OUTGOING)) != 0


cdef bint is_joint(const Replica* replica) noexcept nogil:
    cdef uint32_t at
    for at in range(replica.peers_count):
        if replica.peers[at].flags & MEMBER_OUTGOING:
            return True
    return False


cdef bint is_promotable(const Replica* replica) noexcept nogil:
    """May this replica stand for election at all?"""
    cdef Peer* own = find_peer(replica, replica.id)
    return own != NULL and not (own.flags & MEMBER_LEARNER) and not replica.snapshot_pending and not replica.quarantined


# -- quorums ------------------------------------------------------------------------------------------------------------------


cdef uint64_t half_index(const Replica* replica, Tally what, uint8_t half) noexcept nogil:       # hot
    cdef uint64_t acks[REPLICAS_MAX]
    cdef int count = 0
    cdef Peer* peer = replica.peers
    cdef Peer* end = peer + replica.peers_count
    while peer < end:
        if peer.flags & half:
            if peer.replica == replica.id:
                # Our own entries count once they are synced here; our own word on a round counts at once.
                acks[count] = replica.log.stable_index if what == TALLY_MATCH else <uint64_t>-1
            else:
                acks[count] = peer.match_index if what == TALLY_MATCH else peer.read_round
            count += 1
        peer += 1
    return majority_index(acks, count) if count else <uint64_t>-1


cdef uint64_t quorum_index(const Replica* replica, Tally what) noexcept nogil:
    cdef uint64_t incoming = half_index(replica, what, MEMBER_VOTER)
    cdef uint64_t outgoing = half_index(replica, what, MEMBER_OUTGOING)
    return incoming if incoming < outgoing else outgoing


cdef int half_vote(const Replica* replica, uint8_t half, bint activity) noexcept nogil:
    cdef signed char votes[REPLICAS_MAX]
    cdef int count = 0
    cdef uint32_t at
    cdef Peer* peer
    for at in range(replica.peers_count):
        peer = &replica.peers[at]
        if peer.flags & half:
            if activity:
                votes[count] = 1 if peer.recently_active or peer.replica == replica.id else -1
            else:
                votes[count] = peer.vote
            count += 1
    return majority_vote(votes, count)


cdef int quorum_vote(const Replica* replica) noexcept nogil:
    cdef int incoming = half_vote(replica, MEMBER_VOTER, False)
    cdef int outgoing = half_vote(replica, MEMBER_OUTGOING, False)
    if incoming == outgoing:
        return incoming
    if incoming == VOTE_LOST or outgoing == VOTE_LOST:
        return VOTE_LOST
    return 0


cdef bint quorum_active(const Replica* replica) noexcept nogil:
    return half_vote(replica, MEMBER_VOTER, True) == VOTE_WON and half_vote(replica, MEMBER_OUTGOING, True) == VOTE_WON


# -- messages and the hard state ------------------------------------------------------------------------------------------


cdef MessageHeader* emit(Engine engine, Replica* replica, Outbox* outbox, uint16_t kind, uint32_t to, bint waits) except NULL:
    """A new message at the end of an outbox, under the replica's term; the caller fills the rest at once.

    The pointer is valid until the next message is put into the same outbox.
    """
    cdef Buffer* buffer = &outbox.after if waits else &outbox.now
    cdef MessageHeader* head
    if buffer.capacity - buffer.size < MESSAGE_HEADER_BYTES:
        buffer_room(buffer, MESSAGE_HEADER_BYTES)
    head = <MessageHeader*>(buffer.data + buffer.size)
    buffer.size += MESSAGE_HEADER_BYTES
    if waits:
        outbox.after_count += 1
    else:
        outbox.now_count += 1
    memset(head, 0, MESSAGE_HEADER_BYTES)
    head.kind = kind
    head.length = MESSAGE_HEADER_BYTES
    head.group = replica.group
    head.from_replica = replica.id
    head.to_replica = to
    head.term = replica.term
    return head


# -- proposals: into the arena, then into runs --------------------------------------------------------------------------------


# Offsets are stored by one more than they are, so that 0 can mean "none".
cdef struct ArenaEntry:
    uint32_t next
    uint32_t length
    uint32_t kind


cdef uint64_t append_proposal(Engine engine, Replica* replica, uint32_t kind, const char* data, uint32_t length) except 0:
    cdef Log* log = &replica.log
    cdef uint32_t offset = <uint32_t>engine.arena.size
    cdef ArenaEntry* entry
    entry = <ArenaEntry*>buffer_room(&engine.arena, sizeof(ArenaEntry) + length + 8)
    entry.next = 0
    entry.length = length
    entry.kind = kind
    memcpy(<char*>entry + sizeof(ArenaEntry), data, length)
    engine.arena.size += (sizeof(ArenaEntry) + length + 7) & ~<size_t>7
    log_note_term(log, log.last_index + 1, replica.term)
    if log.arena_count:
        (<ArenaEntry*>(engine.arena.data + log.arena_tail)).next = offset + 1
    else:
        log.arena_head = offset
        log.arena_bytes = 0
    log.arena_tail = offset
    log.arena_count += 1
    log.arena_bytes += 4 + length
    log.last_index += 1
    if kind == RUN_MEMBERSHIP:
        log_note_change(log, log.last_index)
    replica.uncommitted_bytes += length
    engine_mark(engine, replica)
    return log.last_index


cdef uint32_t stretch(const char* arena, uint32_t offset, uint32_t kind, uint32_t* bytes) noexcept nogil:
    """How many proposals from the one at ``offset`` on make one run: of its kind, within the limits of a run."""
    cdef const ArenaEntry* entry
    cdef uint32_t count = 0, link = offset + 1
    bytes[0] = 0
    while link:
        entry = <const ArenaEntry*>(arena + link - 1)
        if entry.kind != kind or count == RUN_ENTRIES_MAX:
            break
        if count and bytes[0] + 4 + entry.length > BATCH_SEAL_BYTES:
            break
        bytes[0] += 4 + entry.length
        count += 1
        link = entry.next
    return count


cdef int seal_proposals(Engine engine, Replica* replica) except -1:
    cdef Log* log = &replica.log
    cdef uint32_t at, bytes, count, left = log.arena_count, offset = log.arena_head
    cdef const ArenaEntry* entry
    cdef RunHeader* run
    cdef Chunk* chunk
    cdef char* to
    if left == 0:
        return 0
    write_vote(engine, replica)
    log.arena_count = 0                      # from here on the tail speaks for them
    while left:
        entry = <const ArenaEntry*>(engine.arena.data + offset)
        count = stretch(engine.arena.data, offset, entry.kind, &bytes)
        run = <RunHeader*>engine.builder.begin_run(bytes, &chunk)
        run.group = replica.group
        run.first = log.sealed_index + 1
        run.term = replica.term
        run.prev_term = log_term(log, log.sealed_index)
        run.commit = log.commit_index
        run.count = count
        run.bytes = bytes
        run.from_replica = replica.id
        run.kind = <uint16_t>entry.kind
        run.flags = 0
        to = <char*>run + RUN_HEADER_BYTES
        for at in range(count):
            entry = <const ArenaEntry*>(engine.arena.data + offset)
            memcpy(to, &entry.length, 4)
            memcpy(to + 4, <const char*>entry + sizeof(ArenaEntry), entry.length)
            to += 4 + entry.length
            offset = entry.next - 1
        run.body_crc = run_body_crc(run, <char*>run + RUN_HEADER_BYTES)
        engine.builder.end_run(run)
        log_push_run(log, run, chunk)
        left -= count
    replica.written_commit = max(replica.written_commit, log.commit_index)
    replica.handout_due = True
    return 0


cdef int write_record(
    Engine engine,
    uint32_t kind,
    uint64_t group,
    uint64_t index,
    uint64_t term,
    uint64_t commit,
    uint32_t from_replica,
    bytes payload,
) except -1:
    cdef uint32_t length = <uint32_t>len(payload)
    cdef Chunk* chunk
    cdef RunHeader* run = <RunHeader*>engine.builder.begin_run(4 + length, &chunk)
    memset(run, 0, RUN_HEADER_BYTES)
    run.group = group
    run.first = index
    run.term = term
    run.commit = commit
    run.count = 1
    run.bytes = 4 + length
    run.from_replica = from_replica
    run.kind = <uint16_t>kind
    memcpy(<char*>run + RUN_HEADER_BYTES, &length, 4)
    memcpy(<char*>run + RUN_HEADER_BYTES + 4, <const char*>payload, length)
    run.body_crc = run_body_crc(run, <char*>run + RUN_HEADER_BYTES)
    engine.builder.end_run(run)
    return 0


cdef int write_hard_state(Engine engine, Replica* replica) except -1:
    cdef HardStatePayload payload
    cdef RunHeader* run
    cdef Chunk* chunk
    if (
        replica.term == replica.written_term
        and replica.vote == replica.written_vote
        and replica.log.commit_index <= replica.written_commit
    ):
        return 0
    payload.length = sizeof(HardStatePayload) - 4
    payload.vote = replica.vote
    payload.leader = replica.leader
    payload.epoch = replica.epoch
    payload.commit = replica.log.commit_index
    run = <RunHeader*>engine.builder.begin_run(sizeof(HardStatePayload), &chunk)
    memset(run, 0, RUN_HEADER_BYTES)
    run.group = replica.group
    run.term = replica.term
    run.commit = replica.log.commit_index
    run.count = 1
    run.bytes = sizeof(HardStatePayload)
    run.from_replica = replica.id
    run.kind = RUN_HARD_STATE
    memcpy(<char*>run + RUN_HEADER_BYTES, &payload, sizeof(HardStatePayload))
    run.body_crc = run_body_crc(run, <char*>run + RUN_HEADER_BYTES)
    engine.builder.end_run(run)
    replica.handout_due = True
    replica.written_term = replica.term
    replica.written_vote = replica.vote
    replica.written_commit = replica.log.commit_index
    return 0


# -- terms ----------------------------------------------------------------------------------------------------------------


cdef void draw_timeout(Engine engine, Replica* replica) noexcept:
    replica.election_timeout = engine.options.election_ticks + engine_random(engine, engine.options.election_ticks)


cdef int enter_term(Engine engine, Replica* replica, uint64_t term) except -1:
    """Forget what belonged to the role or the term before."""
    cdef uint32_t at
    seal_proposals(engine, replica)          # they were appended under the old term and stay its entries
    if replica.term != term:
        replica.term = term
        replica.vote = 0
    replica.leader = 0
    replica.election_elapsed = 0
    replica.heartbeat_elapsed = 0
    replica.transfer_to = 0
    replica.change_index = 0
    replica.uncommitted_bytes = 0
    replica.voted_durably = False
    replica.heartbeat_due = False
    replica.lease_until_ns = 0
    replica.lease_barred = False
    memset(replica.rounds, 0, sizeof(replica.rounds))
    draw_timeout(engine, replica)
    for at in range(replica.peers_count):
        peer_reset(&replica.peers[at], replica.log.last_index)
        replica.peers[at].vote = 0
        replica.peers[at].recently_active = False
    return 0


cdef int become_follower(Engine engine, Replica* replica, uint64_t term, uint32_t leader) except -1:
    if term < replica.term:
        raise InvariantViolation(f"group {replica.group}: the term would fall from {replica.term} to {term}")
    enter_term(engine, replica, term)
    replica.role = FOLLOWER
    replica.leader = leader
    fail_reads(engine, replica)
    engine_mark(engine, replica)
    return 0


cdef int fail_reads(Engine engine, Replica* replica) except -1:
    """Answer every waiting read with "ask anew": none is left without an answer (pitfall 42)."""
    cdef uint32_t at
    cdef PendingRead* read
    cdef MessageHeader* answer
    for at in range(replica.reads_count):
        read = &replica.reads[at]
        if read.from_replica == 0:
            engine.read_states.append((replica.group, read.context, None))
        else:
            answer = emit(engine, replica, read.origin, MSG_READ_INDEX_ACK, read.from_replica, False)
            answer.flags = FLAG_REJECT
            answer.context = read.context
    replica.reads_count = 0
    return 0
