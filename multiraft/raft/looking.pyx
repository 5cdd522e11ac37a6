"""Questions about one replica that ``MultiRaft`` passes on: who could take over, how far everybody is.

Nothing here changes a replica, sends, or raises; no rule of Raft is decided.
"""

from libc.stdint cimport uint32_t, uint64_t

from multiraft._core cimport MEMBER_VOTER
from multiraft.raft.progress cimport Peer
from multiraft.raft.state cimport LEADER, Replica, find_peer

cdef enum:
    CAUGHT_UP_ENTRIES = 1024


cdef Peer* best_successor(const Replica* replica, object linked) except? NULL:
    cdef Peer* best = NULL
    cdef Peer* peer
    cdef uint32_t at
    for at in range(replica.peers_count):
        peer = &replica.peers[at]
        if peer.replica != replica.id and peer.flags & MEMBER_VOTER and linked(peer.node):
            if best == NULL or peer.match_index > best.match_index:
                best = peer
    return best


cdef uint64_t slowest_match(const Replica* replica) noexcept nogil:
    cdef uint64_t lowest = replica.log.applied_index
    cdef const Peer* peer
    cdef uint32_t at
    if replica.role == LEADER:
        for at in range(replica.peers_count):
            peer = &replica.peers[at]
            if peer.replica != replica.id and peer.recently_active and peer.match_index < lowest:
                lowest = peer.match_index
    return lowest


cdef bint caught_up(const Replica* replica, uint32_t to) noexcept nogil:
    cdef Peer* peer = find_peer(replica, to)
    return (
        peer != NULL
        and peer.recently_active
        and replica.transfer_to == 0
        and peer.match_index + CAUGHT_UP_ENTRIES >= replica.log.last_index
    )
