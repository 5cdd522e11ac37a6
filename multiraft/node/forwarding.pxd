# Commands on their way to the leader's node, and those that wait for one.

from libc.stdint cimport uint32_t, uint64_t

from multiraft.node.waiters cimport Call, Waiters
from multiraft.raft.multi cimport MultiRaft


cdef class Forwarding:
    cdef MultiRaft multi
    cdef object contexts                # ids.message_ids: numbers that no earlier run of this node has used
    cdef uint64_t timeout_ns            # of a call that another node forwards
    cdef readonly dict away                      # context -> Call, with the node that it was sent to
    cdef dict parked                    # group -> list of Calls that wait for a leader, or for room
    cdef dict crowded                   # node -> list of Calls that wait until its queue is less than half full
    cdef Py_ssize_t parked_count        # of both
    cdef dict rooms                     # node -> bytes that forwards may still bring into its queue in this turn
    cdef public Waiters waiters         # set by the node, which makes the two for each other
    cdef public object kick             # called when the turn has something to send
    cdef public object linked           # (node) -> is there a link?
    cdef public object room             # (node) -> bytes until its queue is half full
    cdef readonly uint64_t forwarded
    cdef readonly uint64_t asked            # how many calls other nodes have forwarded to this one

    cpdef object homeless(self, Call call, error)
    cpdef object answer(self, Call call, value)
    cdef int send(self, Call call, uint32_t node) except -1
    cdef int park(self, Call call) except -1
    cdef int keep(self, dict where, key, Call call) except -1
    cdef bint has_room(self, uint32_t node) except -1
    cdef int send_crowded(self, uint32_t node) except -1
    cdef int reroute_crowded(self) except -1
    cdef int expire_waiting(self, dict where, uint64_t now_ns) except -1
    cdef int refuse(self, uint32_t node, uint64_t context, error) except -1
    cdef int received(self, uint32_t node, uint64_t group, uint64_t context, uint32_t flags, bytes body) except -1
    cdef int answered(self, uint32_t node, uint64_t context, uint64_t index, uint32_t flags, bytes body) except -1
