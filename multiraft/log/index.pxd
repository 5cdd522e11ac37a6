# Where every run of the log lies, and what the newest records say. See index.pyx for the rules of a scan.

from libc.stdint cimport uint32_t, uint64_t

from multiraft._core cimport RunHeader
from multiraft.log.accounting cimport Books
from multiraft.log.entries cimport Group


cdef class LogIndex:
    cdef Books books
    cdef Group** groups             # every group ever seen, in the order of first sight; a group's struct never moves
    cdef uint32_t groups_count
    cdef uint32_t groups_capacity
    cdef uint32_t* table            # open addressing: position in `groups` + 1, 0 where free
    cdef uint32_t table_capacity
    cdef uint64_t store_id
    cdef bint strict                # False while loading: what lies before the oldest batch is not known
    cdef bint settling              # rewritten runs are being put in their places
    cdef list carried               # of rewritten batches, until `settle`: (sequence, position, place, offset, bytes)
    cdef dict pins                  # node -> (place, offset, bytes, boot_count, store_id, sequence)
    cdef readonly list findings
    cdef readonly uint64_t findings_count
    cdef readonly uint64_t last_sequence
    cdef readonly uint64_t last_rewritten

    cdef Group* find_group(self, uint64_t group) noexcept
    cdef Group* get_group(self, uint64_t group) except NULL
    cdef int scan(self, const char* data, size_t length, uint64_t place, bint bodies) except -1
    cdef int apply(self, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1
