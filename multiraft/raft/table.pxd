# group id -> slot of the node's table of replicas.

from libc.stdint cimport int32_t, uint32_t, uint64_t


# group id -> slot, open addressing with linear probing; a slot of -1 is an empty place, -2 one that was removed.
cdef struct GroupTable:
    uint64_t* groups
    int32_t* slots
    uint32_t capacity       # a power of two
    uint32_t used           # places that are not empty, removed ones included
    uint32_t count


cdef int32_t table_get(const GroupTable* table, uint64_t group) noexcept nogil      # below 0 where there is none
cdef int table_put(GroupTable* table, uint64_t group, int32_t slot) except -1       # the group must not be there yet
cdef void table_remove(GroupTable* table, uint64_t group) noexcept nogil            # the group must be there
cdef void table_free(GroupTable* table) noexcept nogil
