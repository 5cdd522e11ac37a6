# The Python door of a replica, as far as MultiRaft lends it.

from libc.stdint cimport uint64_t
from multiraft.raft.state cimport Engine, Replica as State


cdef class Replica:
    cdef Engine engine
    cdef State* state       # NULL once the replica was removed
    cdef bint owned         # made here, and freed with this object
    cdef object owner       # the MultiRaft that lent it: the replica lives as long as its node's table does
    cdef uint64_t sequence  # of the newest batch sealed here
    cdef uint64_t told_commit   # the commit index of the last hard state that was handed out

    cdef State* live(self) except NULL

cdef int engine_configure(Engine engine, object options, uint64_t seed) except -1
