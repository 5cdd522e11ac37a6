# What a leader knows of one member's log, and how it sends to it. Flow control only; no rule of Raft is decided here.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from multiraft._core cimport Buffer


# Where messages for one node are gathered, encoded, until the turn takes them. `after` waits for the sync of everything
# that was handed to the log up to the ready() that takes it; `now` does not.
cdef struct Outbox:
    uint32_t node
    uint32_t now_count      # messages in each
    uint32_t after_count
    Buffer now
    Buffer after
    uint64_t told_sequence  # newest synced batch of ours that a frame for this node carries


cpdef enum FlowState:
    PROBE = 0               # the match is not known: one append at a time, until it is answered
    REPLICATE = 1           # appends are sent ahead of their answers, up to the window
    SNAPSHOT = 2            # nothing is sent until the snapshot at pending_snapshot is there, or has failed


cdef struct Inflight:
    uint64_t index          # last index of the append
    uint64_t bytes


# Invariant: match_index < next_index. In REPLICATE, inflight appends cover (match_index, next_index) in part or whole.
cdef struct Peer:
    uint32_t replica
    uint32_t node
    uint8_t flags           # MemberFlag bits
    uint8_t state           # FlowState
    uint8_t paused          # an append is on its way (PROBE), or the window is full, and neither answer nor heartbeat came since
    uint8_t recently_active # heard of since the last check of the quorum
    uint8_t must_send       # send even an empty append: only its answer can tell whether something was lost
    uint8_t wanted          # entries for it are being read from the disk
    uint8_t snapshot_wanted # the layer above was asked for a snapshot
    signed char vote        # as candidate: 1 granted, -1 refused, 0 not heard
    uint64_t match_index
    uint64_t next_index
    uint64_t sent_commit    # highest commit index sent to it
    Outbox* outbox
    Inflight* inflights     # ring of capacity inflight_capacity
    uint32_t inflight_start
    uint32_t inflight_count
    uint32_t inflight_capacity
    uint64_t inflight_bytes
    uint64_t pending_snapshot
    uint64_t read_round     # newest round of heartbeats that it answered


cdef void peer_reset(Peer* peer, uint64_t last_index) noexcept          # to PROBE right behind last_index
cdef void peer_become_probe(Peer* peer) noexcept
cdef void peer_become_replicate(Peer* peer) noexcept
cdef void peer_become_snapshot(Peer* peer, uint64_t snapshot_index) noexcept

# An acknowledgement; True if match rose.
cdef inline bint peer_update(Peer* peer, uint64_t index) noexcept:      # hot
    if index <= peer.match_index:
        return False
    peer.match_index = index
    if peer.next_index <= index:
        peer.next_index = index + 1
    peer.paused = False
    return True

cdef bint peer_step_back(Peer* peer, uint64_t refused, uint64_t hint) noexcept    # a rejection; False if it is stale

cdef inline bint peer_paused(const Peer* peer) noexcept nogil:          # hot
    return peer.paused or peer.wanted or peer.snapshot_wanted or peer.state == SNAPSHOT

cdef inline bint inflights_full(const Peer* peer, uint32_t messages_max, uint64_t bytes_max) noexcept nogil:     # hot
    return peer.inflight_count >= messages_max or (bytes_max != 0 and peer.inflight_bytes >= bytes_max)

cdef int inflights_add(Peer* peer, uint64_t index, uint64_t bytes, uint32_t messages_max) except -1
cdef void inflights_free_to(Peer* peer, uint64_t index) noexcept
cdef void inflights_clear(Peer* peer) noexcept
