# One replica as a struct, and the engine that many of them share. Theory first:
#
# A replica is changed by free functions of this package only, always as f(engine, replica, ...). Nothing is sent and nothing
# is written when something happens: the replica is marked dirty, and one pass over the dirty replicas (`flush` in
# replication.pyx) turns what has gathered into runs of a batch, messages in outboxes and committed runs. The exceptions
# are answers, which are encoded into their outbox at once, and a hard state that must precede entries in the batch.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from multiraft._batch cimport BatchBuilder
from multiraft._core cimport Buffer, CommittedRuns, MessageHeader, RunHeader
from multiraft.raft.log cimport Log
from multiraft.raft.membership cimport Members
from multiraft.raft.progress cimport Outbox, Peer


cpdef enum Role:
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3

cpdef enum ReadMode:
    READ_INDEX = 0          # every read waits for a round of heartbeats that began after it arrived
    READ_LEASE = 1          # under a lease a read is answered at once


cdef struct Options:
    uint32_t election_ticks             # a follower campaigns after election_ticks .. 2 * election_ticks - 1 of silence
    uint32_t heartbeat_ticks
    uint32_t inflight_messages_max      # appends on their way to one peer
    uint64_t inflight_bytes_max         # 0: no limit
    uint32_t message_bytes_max          # of entries in one append; one entry always fits
    uint64_t committed_bytes_max        # of entries handed out to be applied in one ready
    uint64_t uncommitted_bytes_max      # a leader refuses proposals beyond; 0: no limit
    uint64_t lease_ns                   # a lease lasts so long from the send of its round: the election timeout less the drift
    uint8_t pre_vote
    uint8_t check_quorum
    uint8_t read_mode                   # ReadMode
    uint8_t validate_changes            # refuse membership changes that cannot follow from the present one
    uint8_t step_down_on_removal


# A read that waits. Its round is 0 until one is started for it, which needs a committed entry of the leader's own term.
cdef struct PendingRead:
    uint64_t context        # whose read: chosen by the node that asked
    uint64_t index          # commit index when its round was started: the read index
    uint64_t round
    uint32_t from_replica   # 0: asked here
    Outbox* origin          # where the answer goes, for a read from elsewhere

# When a round of heartbeats was sent: what a lease counts from.
cdef struct RoundSent:
    uint64_t round
    uint64_t sent_ns

cdef enum:
    ROUNDS_KEPT = 4
    ARENA_BYTES_MAX = 1 << 30       # of proposals between two turns; offsets into the arena are 32 bits wide


# In the order in which it is needed: what every message touches stands first, and the whole begins on a cache line.
cdef struct Replica:
    uint64_t group
    uint32_t id
    uint32_t election_timeout       # drawn anew with each election
    uint64_t term                   # hard state: synced before any answer that depends on it leaves
    uint32_t vote                   # hard state, in this term; cleared only when the term rises, in one function
    uint32_t leader                 # whom we follow in this term; ourselves as leader; 0 unknown
    uint8_t role                    # Role
    uint8_t dirty                   # queued for the next flush
    uint8_t handout_due             # something of ours was put into the batch under way
    uint8_t voted_durably           # as candidate: our own vote is synced and counts
    uint8_t quarantined             # its state machine failed: it applies nothing, and does not campaign
    uint8_t sink                    # which list of committed runs it feeds
    uint8_t auto_leave
    uint8_t waits_to_apply          # entries to apply are being read from the disk
    uint8_t heartbeat_due           # the next flush sends heartbeats
    uint8_t snapshot_pending        # a snapshot was handed out and is not installed yet
    uint8_t lease_barred            # we told another to campaign in this term: our leases are worth nothing any more
    uint8_t told_role               # with told_leader and told_term: what was told to the layer above last
    uint32_t election_elapsed       # ticks since we heard of a leader, or as leader since the last check of the quorum
    Peer* peers                     # all members, ourselves included if we are one; ascending by replica id
    uint32_t peers_count
    # Votes are refused so long, with leases on: after a start and after each word from a leader, whatever terms and leaders
    # come and go meanwhile; a lease may run on our answer.
    uint32_t embargo_ticks
    Log log
    # -- what of the hard state was put into a batch last ------------------------------------------------------------------
    uint64_t written_term
    uint64_t written_commit         # by a hard state, or by the header of a run
    uint32_t written_vote
    uint32_t told_leader
    uint64_t told_term
    uint32_t transfer_to            # as leader: handing over to it, and refusing proposals meanwhile
    uint32_t slot                   # where MultiRaft keeps it
    uint64_t uncommitted_bytes      # as leader: proposed and not yet handed out to be applied
    uint64_t term_start             # as leader: index of the first entry of our term
    uint32_t heartbeat_elapsed
    uint32_t reads_count
    uint8_t held                    # its state machine is behind: nothing more is handed out, nor taken as leader
    uint64_t epoch                  # hard state
    uint64_t change_index           # as leader: no other membership change before this index is applied
    uint64_t membership_index       # the entry that made the present membership, or the base
    # -- reads ---------------------------------------------------------------------------------------------------------------
    PendingRead* reads
    uint32_t reads_capacity
    uint64_t round                  # newest round of heartbeats that was started
    uint64_t lease_until_ns
    RoundSent rounds[ROUNDS_KEPT]


# A message being stepped. Everything points into the frame it came in: valid during the step only.
cdef struct Message:
    const MessageHeader* head
    const RunHeader* run            # checked: lengths, head and body checksum; NULL where there is none
    const char* body                # of a message without a run
    uint32_t body_bytes
    Outbox* origin                  # the node it came from: where an answer goes


# A batch's answer to come: when everything up to `sequence` is synced, this replica's log is stable up to `index`, if no
# entry that had been handed out was cut since (generation), and its vote in `term` counts.
cdef struct Handout:
    Replica* replica                # NULL once the replica was removed
    uint64_t sequence
    uint64_t term
    uint64_t index
    uint32_t generation


# The outboxes by node id: pointers that stay valid as long as the engine lives.
cdef class Nodes:
    cdef Outbox** items
    cdef uint32_t count


cdef class Engine:
    cdef Options options
    cdef Buffer arena               # proposals since the last flush, chained per replica
    cdef BatchBuilder builder
    cdef uint64_t random            # state of the seeded generator
    cdef uint64_t now_ns            # as of the last tick or call that passed it; only leases look at it
    cdef bint now_known             # it is the time of this very call, so that a lease may be judged by it
    cdef Replica** dirty
    cdef uint32_t dirty_count
    cdef uint32_t dirty_capacity
    cdef Nodes nodes
    cdef CommittedRuns sink0        # committed runs of the built-in store's groups ...
    cdef CommittedRuns sink1        # ... and of all others
    # Handouts of the flush under way; the owner of the engine moves them on with the batch's sequence.
    cdef Handout* handouts
    cdef uint32_t handouts_count
    cdef uint32_t handouts_capacity
    # Rare things for the layer above, as lists of tuples; taken and emptied with each ready.
    cdef public list read_states        # (group, context, read index, or None where the read must be asked anew)
    cdef public list wanted             # (group, replica id of the peer or 0 for applying, first index, bytes)
    cdef public list snapshots_wanted   # (group, replica id of the peer, its node)
    cdef public list snapshots          # (group, index, term, context, from replica, membership bytes): to be installed
    cdef public list roles              # (group, role, leader, term) of replicas whose role, leader or term changed

    cdef Outbox* outbox_of(self, uint32_t node) except NULL


cdef int engine_queue(Engine engine, Replica* replica) except -1

# Queue the replica for the next flush.
cdef inline int engine_mark(Engine engine, Replica* replica) except -1:      # hot
    return 0 if replica.dirty else engine_queue(engine, replica)

cdef uint32_t engine_random(Engine engine, uint32_t below) noexcept

cdef Replica* replica_new(Engine engine, uint64_t group, uint32_t id) except NULL
cdef void replica_free(Replica* replica) noexcept
cdef int replica_set_members(Engine engine, Replica* replica, const Members* members) except -1
cdef void replica_members(const Replica* replica, Members* out) noexcept

cdef inline Peer* find_peer(const Replica* replica, uint32_t id) noexcept nogil:     # hot
    cdef Peer* peer = replica.peers
    cdef Peer* end = peer + replica.peers_count
    while peer < end:
        if peer.replica == id:
            return peer
        peer += 1
    return NULL

cdef bint is_voter(const Replica* replica, uint32_t id) noexcept nogil             # in either half
cdef bint is_joint(const Replica* replica) noexcept nogil
cdef bint is_promotable(const Replica* replica) noexcept nogil

# The highest index (or round) that both halves of the membership have reached; `kind` says of what.
cdef enum Tally:
    TALLY_MATCH = 0
    TALLY_READ_ROUND = 1

cdef uint64_t quorum_index(const Replica* replica, Tally what) noexcept nogil
cdef int quorum_vote(const Replica* replica) noexcept nogil                         # -> VoteResult of peer.vote
cdef bint quorum_active(const Replica* replica) noexcept nogil

# Answers and requests. `waits`: only after everything that was handed to the log so far is synced.
cdef MessageHeader* emit(Engine engine, Replica* replica, Outbox* outbox, uint16_t kind, uint32_t to, bint waits) except NULL

# Put a proposal behind the log, in the arena: it gets the next index, and joins a run with its neighbours when sealed.
cdef uint64_t append_proposal(Engine engine, Replica* replica, uint32_t kind, const char* data, uint32_t length) except 0
# Make runs of what is in the arena, in the batch and in the tail.
cdef int seal_proposals(Engine engine, Replica* replica) except -1

# A run of one entry that is no entry of a log, into the batch under way.
cdef int write_record(
    Engine engine,
    uint32_t kind,
    uint64_t group,
    uint64_t index,
    uint64_t term,
    uint64_t commit,
    uint32_t from_replica,
    bytes payload,
) except -1
cdef int write_hard_state(Engine engine, Replica* replica) except -1               # if it differs from what was written

# The same before entries are written: those carry the commit index themselves, so only a new term or vote needs a record.
cdef inline int write_vote(Engine engine, Replica* replica) except -1:
    if replica.term != replica.written_term or replica.vote != replica.written_vote:
        return write_hard_state(engine, replica)
    return 0

cdef int become_follower(Engine engine, Replica* replica, uint64_t term, uint32_t leader) except -1
cdef int enter_term(Engine engine, Replica* replica, uint64_t term) except -1        # the only place that clears a vote
cdef int fail_reads(Engine engine, Replica* replica) except -1
cdef void draw_timeout(Engine engine, Replica* replica) noexcept
