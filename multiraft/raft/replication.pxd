# How entries travel: appends and their answers, commit, snapshots, and the one pass that lets out what has gathered.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.progress cimport Peer
from multiraft.raft.state cimport Engine, Message, Replica


# -- as follower ----------------------------------------------------------------------------------------------------------
cdef int commit_to(Engine engine, Replica* replica, uint64_t index) except -1       # never falls; within the log
cdef int handle_append(Engine engine, Replica* replica, const Message* message) except -1
cdef int handle_heartbeat(Engine engine, Replica* replica, const Message* message) except -1
cdef int handle_snapshot(Engine engine, Replica* replica, const Message* message) except -1

# -- as leader ------------------------------------------------------------------------------------------------------------
cdef int handle_append_ack(Engine engine, Replica* replica, Peer* peer, const Message* message) except -1
cdef int handle_heartbeat_ack(Engine engine, Replica* replica, Peer* peer, const Message* message) except -1
cdef int report_unreachable(Engine engine, Replica* replica, Peer* peer) except -1
cdef int report_snapshot(Engine engine, Replica* replica, Peer* peer, bint ok) except -1
cdef int send_snapshot(
    Engine engine, Replica* replica, Peer* peer, uint64_t index, uint64_t term, uint64_t context, bytes membership
) except -1
cdef int maybe_commit(Engine engine, Replica* replica) except -1
cdef int try_transfer(Engine engine, Replica* replica, Peer* peer) except -1        # TIMEOUT_NOW if the target caught up

# -- every role -----------------------------------------------------------------------------------------------------------
cdef int flush(Engine engine, Replica* replica) except -1                           # the pass over one dirty replica
cdef int release_memory(Replica* replica) except -1                                 # of runs that nobody needs again soon
cdef int stabilize(Engine engine, Replica* replica, uint32_t generation, uint64_t index) except -1      # entries are synced
cdef int fetched_run(Engine engine, Replica* replica, Peer* peer, const char* data, size_t length) except -1
