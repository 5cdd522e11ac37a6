# Where every run of the log lies, and what the newest records say. See index.pyx for the rules of a scan.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from multiraft._core cimport DirectoryItem, RunHeader
from multiraft.log.accounting cimport Books
from multiraft.log.entries cimport Group


# The body of a BASE, SNAPSHOT_MARK or REPLICA_CREATED run as far as it has a fixed form; the members follow.
cdef packed struct BasePayload: 
    uint32_t length
    uint32_t vote
    uint32_t leader
    uint64_t epoch
    uint64_t term
    uint64_t commit
    uint16_t membership_version
    uint16_t members


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
    cdef list commits               # of rewritten batches, until `finish`: (place, a hard state kept for its commit index)
    cdef dict pins                  # node -> (place, offset, bytes, boot_count, store_id, sequence)
    cdef readonly list findings
    cdef readonly uint64_t findings_count
    cdef readonly uint64_t last_sequence
    cdef readonly uint64_t last_rewritten

    cdef Group* find_group(self, uint64_t group) noexcept
    cdef Group* get_group(self, uint64_t group) except NULL
    cdef int scan(self, const char* data, size_t length, uint64_t place, bint bodies) except -1
    cdef int apply(self, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1

    # The parts of the above; for this module alone.
    cdef void enter(self, uint64_t group, uint32_t value) noexcept
    cdef int grow_table(self) except -1
    cdef int load_batch(self, const unsigned char[::1] batch, uint64_t place, bint bodies) except -1
    cdef int finish_group(self, Group* group) except -1
    cdef int report(self, kind, str message, uint64_t group=*, uint64_t first=*, uint64_t last=*) except -1
    cdef int report_run(self, const RunHeader* run, str message) except -1
    cdef int scan_run(self, const char* data, const DirectoryItem* item, uint64_t place, bint bodies) except -1
    cdef int carry(self, const RunHeader* outer, uint64_t place, uint32_t offset, bint bodies) except -1
    cdef int apply_entries(self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1
    cdef bint make_way(self, Group* group, const RunHeader* run, uint64_t sequence) except -1
    cdef int apply_truncate(self, Group* group, const RunHeader* run, uint64_t sequence) except -1
    cdef int apply_hard_state(self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset) except -1
    cdef int apply_base(self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1
    cdef bint may_base(self, Group* group, const RunHeader* run, uint64_t known) except -1
    cdef bint take_mark(self, Group* group, const RunHeader* run, uint64_t known, uint64_t sequence) except -1
    cdef bint take_hard_state(self, Group* group, const RunHeader* run, const BasePayload* base) except -1
    cdef int apply_pending(self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1
    cdef int apply_pinned(self, const RunHeader* run, uint64_t place, uint32_t offset) except -1
