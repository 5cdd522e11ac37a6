"""Which slot holds the replica of a group: a hash table in C, asked once per message.

Open addressing with linear probing over numbers; nothing here knows what a slot holds.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef enum:
    EMPTY = -1
    REMOVED = -2

cdef inline uint32_t place(uint64_t group, uint32_t capacity) noexcept nogil:
    return <uint32_t>((group * <uint64_t>0x9E3779B97F4A7C15U) >> 32) & (capacity - 1)


cdef int32_t table_get(const GroupTable* table, uint64_t group) noexcept nogil:
    cdef uint32_t at
    if table.capacity == 0:
        return EMPTY
    at = place(group, table.capacity)
    while table.slots[at] != EMPTY:
        if table.slots[at] != REMOVED and table.groups[at] == group:
            return table.slots[at]
        at = (at + 1) & (table.capacity - 1)
    return EMPTY


cdef int table_grow(GroupTable* table) except -1:
    cdef GroupTable old = table[0]
    cdef uint32_t at
    table.capacity = old.capacity if old.count * 2 < old.used else max(64, old.capacity * 2)
    table.groups = <uint64_t*>malloc(table.capacity * sizeof(uint64_t))
    table.slots = <int32_t*>malloc(table.capacity * sizeof(int32_t))
    if table.groups == NULL or table.slots == NULL:
        free(table.groups)
        free(table.slots)
        table[0] = old
        raise MemoryError
    table.used = table.count = 0
    memset(table.slots, 0xFF, table.capacity * sizeof(int32_t))     # all EMPTY
    for at in range(old.capacity):
        if old.slots[at] >= 0:
            table_put(table, old.groups[at], old.slots[at])
    free(old.groups)
    free(old.slots)
    return 0


cdef int table_put(GroupTable* table, uint64_t group, int32_t slot) except -1:
    cdef uint32_t at
    if table.used * 4 >= table.capacity * 3:
        table_grow(table)
    at = place(group, table.capacity)
    while table.slots[at] != EMPTY:
        at = (at + 1) & (table.capacity - 1)
    table.groups[at] = group
    table.slots[at] = slot
    table.used += 1
    table.count += 1
    return 0


cdef void table_remove(GroupTable* table, uint64_t group) noexcept nogil:
    cdef uint32_t at = place(group, table.capacity)
    while table.slots[at] == REMOVED or table.groups[at] != group:
        at = (at + 1) & (table.capacity - 1)
    table.slots[at] = REMOVED
    table.count -= 1


cdef void table_free(GroupTable* table) noexcept nogil:
    free(table.groups)
    free(table.slots)
    memset(table, 0, sizeof(GroupTable))
