# One replica's inputs: everything that may happen to it. Both doors (frames and Python) end here; there is no third path.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.progress cimport Outbox
from multiraft.raft.state cimport LEADER, Engine, Message, Replica


# Check foreign bytes and make a Message of them; nothing is copied. -> 0, or the _core.Fault that makes it no message.
cdef int message_parse(const char* data, size_t available, Message* out) noexcept

cdef int step(Engine engine, Replica* replica, const Message* message) except -1

# One tick passes: for nearly all, it only passes.
cdef inline int tick(Engine engine, Replica* replica) except -1:             # hot
    replica.election_elapsed += 1
    if replica.role != LEADER:
        replica.embargo_ticks -= replica.embargo_ticks != 0
        if replica.election_elapsed < replica.election_timeout:
            return 0
    return act_on_tick(engine, replica)

cdef int act_on_tick(Engine engine, Replica* replica) except -1

# The index the proposal gets. Raises NotLeader, NoLeader, Overloaded, TooLarge: then nothing happened.
cdef uint64_t propose(Engine engine, Replica* replica, const char* data, size_t length) except 0
cdef int check_proposal(Engine engine, const Replica* replica, size_t length) except -1
cdef int check_room(Engine engine, const Replica* replica, size_t length) except -1
# The index, and whether the change stands there: a refused one is replaced by an empty entry.
cdef uint64_t propose_change(Engine engine, Replica* replica, const char* data, uint32_t length, bint* accepted) except 0
cdef int apply_change(Engine engine, Replica* replica, uint64_t index, const char* data, uint32_t length) except -1
cdef int applied(Engine engine, Replica* replica, uint64_t index) except -1
cdef int persisted(Engine engine, Replica* replica, uint64_t term, uint32_t generation, uint64_t index) except -1
cdef int transfer_leader(Engine engine, Replica* replica, uint32_t to) except -1
cdef int forget_leader(Engine engine, Replica* replica) except -1
cdef int compact(Engine engine, Replica* replica, uint64_t index, membership) except -1
cdef int snapshot_failed(Engine engine, Replica* replica) except -1
cdef int installed(Engine engine, Replica* replica, uint64_t index, uint64_t term, membership) except -1
cdef int write_base(Engine engine, Replica* replica, uint32_t kind, uint64_t index, uint64_t term, membership) except -1
