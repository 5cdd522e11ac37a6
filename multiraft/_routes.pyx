"""Which group serves a key: a table of ranges, the slots of hashed spaces, and keys as all groups see them.

It never learns that a shard moved and never changes: `placement/` builds a new table and swaps it in. Physical keys are the
keys of all spaces in one order; a hashed space puts the key's slot first, so that its keys spread evenly over ranges.

Invariants: the first range starts at b"" and starts ascend strictly, so that every key has exactly one range. The slot of a
key is that of Redis Cluster, for ever: it is part of every key on the disk.
"""

from multiraft.errors import ConfigError

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

cimport cython


cdef uint16_t crc16_table[256]


cdef void crc16_fill() noexcept:
    """CRC-16/XMODEM: polynomial 0x1021, not reflected, initial value 0."""
    cdef uint32_t value
    for byte in range(256):
        value = <uint32_t>byte << 8
        for _ in range(8):
            value = (value << 1) ^ (0x1021 if value & 0x8000 else 0)
        crc16_table[byte] = <uint16_t>value


# At import, so that no lookup has to ask whether the table is there.
crc16_fill()


cdef uint16_t slot_of_key(const char* key, size_t length) noexcept nogil:
    cdef const char* tag = <const char*>memchr(key, c"{", length)
    cdef const char* end = NULL
    cdef uint16_t crc = 0
    if tag != NULL:
        tag += 1
        end = <const char*>memchr(tag, c"}", length - (tag - key))
    if end != NULL and end != tag:      # only the first braces count, and only with something between them
        key = tag
        length = end - tag
    for at in range(length):
        crc = <uint16_t>(crc << 8) ^ crc16_table[(crc >> 8) ^ <unsigned char>key[at]]
    return crc % SLOT_COUNT


cdef size_t physical_prefix(char* to, uint16_t space, const char* key, size_t length, bint hashed) noexcept nogil:
    cdef uint16_t slot
    to[0] = <char>(space >> 8)
    to[1] = <char>(space & 255)
    if not hashed:
        return 2
    slot = slot_of_key(key, length)
    to[2] = <char>(slot >> 8)
    to[3] = <char>(slot & 255)
    return 4


def slot_of(bytes key not None) -> int:
    """The slot of a key: CRC16 of it, or of what stands in its first ``{...}`` where that is not empty, modulo 16,384."""
    return slot_of_key(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


def physical_key(uint16_t space, bytes key not None, bint hashed) -> bytes:
    """The key as groups see it: space id, the slot where the space is hashed (two big-endian bytes each), the key."""
    cdef char prefix[PHYSICAL_PREFIX_BYTES_MAX]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    cdef size_t head = physical_prefix(prefix, space, PyBytes_AS_STRING(key), size, hashed)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, head + size)
    memcpy(PyBytes_AS_STRING(out), prefix, head)
    memcpy(PyBytes_AS_STRING(out) + head, PyBytes_AS_STRING(key), size)
    return out


cdef inline uint64_t prefix_of(const char* key, size_t length) noexcept nogil:
    """The first eight bytes as a number that orders as they do; a shorter key is filled up with zeros."""
    cdef uint64_t prefix = 0
    for at in range(<size_t>8):
        prefix = (prefix << 8) | (<unsigned char>key[at] if at < length else 0)
    return prefix


cdef size_t check_ranges(list ranges) except? 0:
    """Raise ConfigError unless these cut all keys into ranges. Returns how many bytes of start keys there are."""
    cdef bytes start, before = b""
    cdef size_t size = 0
    for at, (start, _, _) in enumerate(ranges):
        if start is None:           # the one value that is not bytes and still passes for them
            raise TypeError("a range starts at a key, not at None")
        if at == 0 and start:
            raise ConfigError(f"the first range starts at {start!r}, not at the empty key: nobody serves what is before it")
        if at and start <= before:
            raise ConfigError(f"the ranges do not ascend: {start!r} after {before!r}")
        before = start
        size += PyBytes_GET_SIZE(start)
    if not ranges:
        raise ConfigError("a route table without ranges serves no key")
    if size > <uint32_t>-1 or len(ranges) > <uint32_t>-1:
        raise ConfigError(f"{len(ranges)} ranges with {size} bytes of start keys are too many for one table")
    return size


@cython.final
cdef class RouteTable:
    """Ranges of keys and who serves them; see `_routes.pxd`.

    ``ranges``: (start key, group, epoch) by ascending start, the first b"". Raises ConfigError for any other.
    """

    def __cinit__(self, ranges):
        # Taken apart once: what is checked is what is copied, whatever the caller's objects would say a second time.
        cdef list given = [(start, group, epoch) for start, group, epoch in ranges]
        cdef size_t size = check_ranges(given)
        cdef Route* route
        cdef bytes start
        self.starts = <char*>malloc(size + 1)       # one more, so that NULL always means that there was no memory
        self.routes = <Route*>malloc(len(given) * sizeof(Route))
        if self.starts == NULL or self.routes == NULL:
            raise MemoryError(f"no memory for {len(given)} routes")
        for start, group, epoch in given:
            route = &self.routes[self.count]
            route.offset = <uint32_t>self.starts_bytes
            route.length = <uint32_t>PyBytes_GET_SIZE(start)
            route.prefix = prefix_of(PyBytes_AS_STRING(start), route.length)
            route.group = group
            route.epoch = epoch
            memcpy(self.starts + route.offset, PyBytes_AS_STRING(start), route.length)
            self.starts_bytes += route.length
            self.count += 1

    def __dealloc__(self):
        free(self.routes)
        free(self.starts)

    def __len__(self):
        return self.count

    cdef const Route* lookup(self, const char* key, size_t length) noexcept nogil:
        cdef uint64_t prefix = prefix_of(key, length)
        cdef const Route* low = self.routes     # starts at or before the key, always
        cdef uint32_t left = self.count         # how many from `low` on may
        cdef uint32_t half
        while left > 1:
            half = left // 2
            if starts_by(self.starts, low + half, prefix, key, length):
                low += half
                left -= half
            else:
                left = half
        return low

    def find(self, bytes key not None) -> tuple:
        """(group, epoch) of the range of a physical key."""
        cdef const Route* route = self.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return route.group, route.epoch


cdef bint starts_by(const char* starts, const Route* route, uint64_t prefix, const char* key, size_t length) noexcept nogil:
    """Does the range start at or before the key?"""
    cdef int order
    if route.prefix != prefix:
        return route.prefix < prefix
    order = memcmp(starts + route.offset, key, min(<size_t>route.length, length))
    return order < 0 or (order == 0 and route.length <= length)
