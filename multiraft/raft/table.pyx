"""Which replica is that of a group: a hash table in C, asked once per message.

Open addressing with linear probing over numbers; nothing here looks into a replica. A removal closes the gap it leaves, so
that a table from which groups come and go stays as short to search as a new one.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from multiraft.raft.state cimport Replica


cdef int table_grow(GroupTable* table) except -1:
    cdef GroupTable old = table[0]
    cdef uint32_t at, capacity = max(64, old.capacity * 2)
    cdef GroupPlace* places = <GroupPlace*>calloc(capacity, sizeof(GroupPlace))
    if places == NULL:
        raise MemoryError
    table.places = places
    table.capacity = capacity
    table.count = 0
    for at in range(old.capacity):
        if old.places[at].replica != NULL:
            table_put(table, old.places[at].group, old.places[at].replica)
    free(old.places)
    return 0


cdef int table_put(GroupTable* table, uint64_t group, Replica* replica) except -1:
    cdef uint32_t at
    if (table.count + 1) * 4 > table.capacity * 3:
        table_grow(table)
    at = table_start(group, table.capacity)
    while table.places[at].replica != NULL:
        at = (at + 1) & (table.capacity - 1)
    table.places[at].group = group
    table.places[at].replica = replica
    table.count += 1
    return 0


cdef void table_remove(GroupTable* table, uint64_t group) noexcept nogil:
    cdef uint32_t mask = table.capacity - 1, gap = table_start(group, table.capacity), at, start
    while table.places[gap].group != group or table.places[gap].replica == NULL:
        gap = (gap + 1) & mask
    at = gap
    while True:
        at = (at + 1) & mask
        if table.places[at].replica == NULL:
            break
        start = table_start(table.places[at].group, table.capacity)
        if ((at - start) & mask) >= ((at - gap) & mask):     # it may stand in the gap: that is not before its start
            table.places[gap] = table.places[at]
            gap = at
    table.places[gap].replica = NULL
    table.count -= 1


cdef void table_free(GroupTable* table) noexcept nogil:
    free(table.places)
    memset(table, 0, sizeof(GroupTable))
