# Records as the tree on disk holds them, and pages of keys merged from memtables and the tree.

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from multiraft.machine.memtable cimport Memtable, Place

cdef enum:
    RECORD_HEADER_BYTES = 20        # crc u32, revision u64, expiry_ms u64; then the value

# Whether the record belongs to the key and neither is damaged.
cdef bint record_sound(const char* key, size_t key_bytes, const char* record, size_t record_bytes) noexcept nogil
cdef uint64_t record_revision(const char* record) noexcept nogil
# (revision, value) of a record. Raises StorageError, naming the key, where either is damaged.
cdef tuple opened(bytes key, bytes record)


# A walk over a sorted, frozen memtable, for the flush: record by record, in chunks, on a worker.
cdef class Walk:
    cdef readonly Memtable memtable
    cdef Place place


# What memtables know of a stretch of keys, copied out of them, so that a worker can merge it with the tree.
cdef class Overlay:
    cdef readonly list items        # ascending, or descending where `reverse`: Entry tuples, `value` None where it is gone
    cdef readonly list ranges       # deleted ranges that meet the stretch: (start, end, endless), in the same order
    cdef readonly object bound      # key of the last item where the stretch goes on behind it; None: this is all of it
    cdef readonly bint reverse
