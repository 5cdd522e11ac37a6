"""Flow control towards one member: probe, replicate or snapshot, and the window of appends in flight.

Pure arithmetic over the ``Peer`` struct of the header file. It sends nothing and knows no role, term or quorum.
Source: Ongaro's thesis, sections 10.1.2 and 10.2.1 (pipelining), with the three states of etcd's progress tracker.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from multiraft.errors import InvariantViolation


cdef void peer_reset(Peer* peer, uint64_t last_index) noexcept:
    inflights_clear(peer)
    peer.state = PROBE
    peer.paused = False
    peer.must_send = False
    peer.wanted = False
    peer.snapshot_wanted = False
    peer.match_index = 0
    peer.next_index = last_index + 1
    peer.sent_commit = 0
    peer.pending_snapshot = 0
    peer.read_round = 0


cdef inline void enter(Peer* peer, FlowState state) noexcept:
    inflights_clear(peer)
    peer.state = state
    peer.paused = False
    peer.must_send = False
    peer.pending_snapshot = 0


cdef void peer_become_probe(Peer* peer) noexcept:
    cdef uint64_t pending = peer.pending_snapshot if peer.state == SNAPSHOT else 0
    enter(peer, PROBE)
    peer.next_index = (pending if pending > peer.match_index else peer.match_index) + 1
    peer.sent_commit = 0
    peer.wanted = False


cdef void peer_become_replicate(Peer* peer) noexcept:
    enter(peer, REPLICATE)
    peer.next_index = peer.match_index + 1


cdef void peer_become_snapshot(Peer* peer, uint64_t snapshot_index) noexcept:
    enter(peer, SNAPSHOT)
    peer.pending_snapshot = snapshot_index
    peer.next_index = snapshot_index + 1
    peer.sent_commit = 0
    peer.snapshot_wanted = False


cdef bint peer_step_back(Peer* peer, uint64_t refused, uint64_t hint) noexcept:
    cdef uint64_t to
    if peer.state == REPLICATE:
        if refused <= peer.match_index:
            return False                     # it acknowledged more since: the rejection was overtaken
        peer.next_index = peer.match_index + 1
        if peer.sent_commit >= peer.next_index:
            peer.sent_commit = peer.next_index - 1
        return True
    if peer.next_index - 1 != refused:
        return False                         # it answers an earlier probe
    to = refused if refused < hint + 1 else hint + 1
    peer.next_index = to if to > peer.match_index + 1 else peer.match_index + 1
    peer.paused = False
    if peer.sent_commit >= peer.next_index:
        peer.sent_commit = peer.next_index - 1
    return True


# -- the window -------------------------------------------------------------------------------------------------------------


cdef int inflights_add(Peer* peer, uint64_t index, uint64_t bytes, uint32_t messages_max) except -1:
    cdef Inflight* grown
    cdef uint32_t capacity, at
    if peer.inflight_count >= messages_max:
        raise InvariantViolation("an append was sent although the window of its peer is full")
    if peer.inflight_count == peer.inflight_capacity:
        capacity = peer.inflight_capacity * 2 if peer.inflight_capacity else 4
        grown = <Inflight*>malloc(capacity * sizeof(Inflight))
        if grown == NULL:
            raise MemoryError
        for at in range(peer.inflight_count):
            grown[at] = peer.inflights[(peer.inflight_start + at) % peer.inflight_capacity]
        free(peer.inflights)
        peer.inflights = grown
        peer.inflight_capacity = capacity
        peer.inflight_start = 0
    at = (peer.inflight_start + peer.inflight_count) % peer.inflight_capacity
    peer.inflights[at].index = index
    peer.inflights[at].bytes = bytes
    peer.inflight_count += 1
    peer.inflight_bytes += bytes
    return 0


cdef void inflights_free_to(Peer* peer, uint64_t index) noexcept:
    while peer.inflight_count and peer.inflights[peer.inflight_start].index <= index:
        peer.inflight_bytes -= peer.inflights[peer.inflight_start].bytes
        peer.inflight_start = (peer.inflight_start + 1) % peer.inflight_capacity
        peer.inflight_count -= 1


cdef void inflights_clear(Peer* peer) noexcept:
    """Also gives the memory of a large window back: an idle group keeps none."""
    free(peer.inflights)
    peer.inflights = NULL
    peer.inflight_capacity = 0
    peer.inflight_start = 0
    peer.inflight_count = 0
    peer.inflight_bytes = 0
