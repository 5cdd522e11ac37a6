# Linearizable reads: read index and leases. A read is answered with an index; whoever asked serves it once it applied that far.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.progress cimport Outbox
from multiraft.raft.state cimport Engine, Message, Replica


# 1: the answer comes in a ready. 0: no leader is known, ask again later.
cdef int ask_read(Engine engine, Replica* replica, uint64_t context) except -1
cdef int handle_read_index(Engine engine, Replica* replica, const Message* message) except -1
cdef int handle_read_index_ack(Engine engine, Replica* replica, const Message* message) except -1

cdef bint committed_in_term(const Replica* replica) noexcept nogil     # a new leader serves no read before (pitfall 34)
cdef bint sole_voter(const Replica* replica) noexcept nogil            # nobody else's word is needed
cdef bint lease_runs(Engine engine, const Replica* replica) noexcept     # ... as of the last time that was passed in
cdef bint holds_lease(Engine engine, const Replica* replica) noexcept    # ... and that is the present
# Start one round of heartbeats for all reads that wait for one; as the only voter, or under a lease, answer them at once.
cdef int start_round(Engine engine, Replica* replica) except -1
cdef int next_round(Engine engine, Replica* replica) except -1         # a round for its own sake: it renews a lease
cdef int answer_confirmed(Engine engine, Replica* replica) except -1   # reads whose round a quorum answered
