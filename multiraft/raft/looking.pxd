# Questions about one replica that the layer above asks, answered without changing anything.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.progress cimport Peer
from multiraft.raft.state cimport Replica


# Of the other voters for whose node `linked(node)` is true the one with most of the log, or NULL.
cdef Peer* best_successor(const Replica* replica, object linked) except? NULL
# As leader the lowest index that every active member is known to have; else the applied index here.
cdef uint64_t slowest_match(const Replica* replica) noexcept nogil
# As leader: has that replica everything, or nearly, so that it can take over without a pause?
cdef bint caught_up(const Replica* replica, uint32_t to) noexcept nogil
