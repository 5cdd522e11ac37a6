# group id -> the replica of it on this node: asked once per message.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.state cimport Replica


cdef struct GroupPlace:
    uint64_t group
    Replica* replica        # NULL: an empty place

# Open addressing with linear probing. Invariant: no empty place lies between where a group belongs and where it is.
cdef struct GroupTable:
    GroupPlace* places
    uint32_t capacity       # a power of two, or 0; never full
    uint32_t count


cdef inline uint32_t table_start(uint64_t group, uint32_t capacity) noexcept nogil:
    return <uint32_t>((group * <uint64_t>0x9E3779B97F4A7C15U) >> 32) & (capacity - 1)

cdef inline Replica* table_get(const GroupTable* table, uint64_t group) noexcept nogil:        # hot
    cdef uint32_t at
    if table.capacity == 0:
        return NULL
    at = table_start(group, table.capacity)
    while table.places[at].replica != NULL and table.places[at].group != group:
        at = (at + 1) & (table.capacity - 1)
    return table.places[at].replica

cdef int table_put(GroupTable* table, uint64_t group, Replica* replica) except -1   # the group must not be there yet
cdef void table_remove(GroupTable* table, uint64_t group) noexcept nogil            # the group must be there
cdef void table_free(GroupTable* table) noexcept nogil
