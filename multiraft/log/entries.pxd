# What the index knows of one group: its base, its runs of entries, where its records lie.
#
# Invariants: `items` ascend in first index and in the order they were written, never overlap, and are contiguous but while a
# log is loaded (then HOLES says so); `spans` cover the entries of `items`; every item and every slot that is set is counted
# in the books.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from multiraft.log.accounting cimport Books


# One stored run of entries, or as much of its beginning as is still in the log.
cdef struct Item:
    uint64_t first
    uint64_t place
    uint32_t offset         # of the run's header in its batch
    uint32_t bytes          # of the run as stored, header included
    uint32_t count          # entries of it that count
    uint32_t kind


# From `first` on the entries have this term.
cdef struct Span:
    uint64_t first
    uint64_t term


# Where a record of the group lies; place 0: there is none.
cdef struct Slot:
    uint64_t place
    uint32_t offset
    uint32_t bytes


cdef enum:
    SLOT_BASE               # the newest of BASE, SNAPSHOT_MARK, REPLICA_CREATED
    SLOT_HARD_STATE         # the newest, unless the base record holds the same or more
    SLOT_PENDING
    SLOT_TOMBSTONE
    SLOT_COMMIT             # the batch that recorded the highest commit index, while that is above the base; no bytes
    SLOTS


cdef enum:
    BASED = 1               # a base record was seen
    DEAD = 2                # a tombstone was seen, and nothing that begins anew
    MAYBE_CUT = 4           # while loading: a mark may have cut all items; what follows decides
    HOLES = 8               # while loading: there may be entries missing between items


cdef struct Group:
    uint64_t id
    uint64_t base_index
    uint64_t base_term
    uint64_t before_term    # term of the entry before the first item; meaningless without items
    uint64_t commit         # the highest recorded, not bounded by anything yet
    uint64_t term           # hard state
    uint64_t epoch
    uint32_t vote
    uint32_t leader
    uint32_t replica
    uint32_t flags
    uint64_t pending_index
    Item* items             # the first at `head`
    uint32_t head
    uint32_t count
    uint32_t capacity
    Span* spans
    uint32_t spans_count
    uint32_t spans_capacity
    uint64_t* rewritten     # places of rewritten batches that hold, or held, anything of this group
    uint32_t rewritten_count
    uint32_t rewritten_capacity
    Slot slots[SLOTS]


cdef void group_free(Group* group) noexcept
cdef uint64_t group_first(const Group* group) noexcept nogil       # of the first item; one past the base where there is none
cdef uint64_t group_last(const Group* group) noexcept nogil
cdef uint64_t group_term(const Group* group, uint64_t index) noexcept nogil     # 0: not known
cdef uint64_t group_commit(const Group* group) noexcept nogil                   # as recovered: bounded by base and last
cdef uint64_t group_conflict(
    const Group* group, uint64_t first, uint32_t count, uint64_t term, bint* certain
) noexcept nogil
cdef int64_t group_find(const Group* group, uint64_t index) noexcept nogil      # position in items, -1: none holds it

cdef int group_push(Group* group, Books* books, const Item* item, uint64_t term, uint64_t prev_term) except -1
cdef int group_cut(Group* group, Books* books, uint64_t first, uint64_t cutter) except -1
cdef int group_clear(Group* group, Books* books) except -1                      # all items are dead, though none was cut
cdef int group_advance(Group* group, Books* books, uint64_t index, uint64_t term) except -1
cdef int group_reset(Group* group, Books* books, uint64_t cutter) except -1     # another replica, or none any more
cdef int group_note_commit(Group* group, Books* books, uint64_t commit, uint64_t place) except -1
cdef int group_note_rewritten(Group* group, Books* books, uint64_t place) except -1

cdef int slot_set(Group* group, Books* books, int which, uint64_t place, uint32_t offset, uint32_t bytes) except -1
cdef int slot_clear(Group* group, Books* books, int which) except -1
