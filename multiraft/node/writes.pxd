# Writes of keys on their way in: one crossing from the caller's arguments to the ticket.

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from multiraft._routes cimport Route, RouteTable
from multiraft._ticket cimport Ticket
from multiraft.node.waiters cimport Waiters


# The part of a `put_many` that one shard gets. `at` is where its next pair is written.
cdef struct Part:
    const Route* route
    Py_ssize_t size
    uint32_t count
    char* at


cdef class Writes:
    cdef Waiters waiters
    cdef RouteTable table               # None until the shards are known; swapped whole, never changed
    cdef readonly uint16_t space
    cdef bint hashed
    cdef Py_ssize_t value_bytes_max
    cdef uint64_t timeout_ns            # of a call that names none
    cdef readonly bint closed

    cdef uint64_t until(self, object timeout) except? 0
    cdef const Route* find(self, object key, char* head, size_t* head_bytes) except NULL
