# Which group serves a key. Built by `placement/`, looked up on the path of each call.

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef enum:
    SLOT_COUNT = 16384
    PHYSICAL_PREFIX_BYTES_MAX = 4       # space id, and the slot where the space is hashed


# One range of keys: from its own start to the next one's.
cdef struct Route:
    uint64_t prefix         # the first eight bytes of the start, big endian, filled up with zeros: most searches need no more
    uint32_t offset         # of the start in `starts`
    uint32_t length
    uint64_t group
    uint64_t epoch


# The slot of a key, by Redis Cluster's rule.
cdef uint16_t slot_of_key(const char* key, size_t length) noexcept nogil
# Writes the prefix of a physical key, which the key follows; returns its length.
cdef size_t physical_prefix(char* to, uint16_t space, const char* key, size_t length, bint hashed) noexcept nogil


# Immutable once built, so that a reader may keep it over an await: the router swaps in another one.
cdef class RouteTable:
    cdef Route* routes
    cdef uint32_t count
    cdef char* starts
    cdef size_t starts_bytes

    # The range of the (physical) key; there always is one, since the first starts at b"".
    cdef const Route* lookup(self, const char* key, size_t length) noexcept nogil
