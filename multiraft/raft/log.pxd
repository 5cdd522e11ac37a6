# The log of one replica, as far as it is in memory: indexes, terms, and the tail of runs.
#
#     compacted |  on disk only   |        tail, in chunks        | proposals, in the arena |
#     ----------|-----------------|-------------------------------|-------------------------|
#           base_index      tail_first - 1   stable_index     sealed_index            last_index
#
# base_index <= applied_index <= applying_index <= min(commit_index, stable_index) and
# stable_index <= sealed_index <= last_index hold between any two calls.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from multiraft._core cimport Buffer, Chunk, RunHeader


# From `first` on, up to the next span, every entry has this term.
cdef struct TermSpan:
    uint64_t first
    uint64_t term


# A run in memory. `head` points at its header inside `chunk`; the entries follow. A reference to the chunk is held.
# A cut in the middle only lowers `count`: the bytes stay, and whoever copies them seals a header of its own.
cdef struct TailRun:
    uint64_t first
    uint32_t count
    uint32_t bytes          # of the first `count` entries
    RunHeader* head
    Chunk* chunk


cdef struct Log:
    TermSpan newest         # nearly every question about a term is about this one; 0, 0 while the log is empty
    uint64_t last_index     # the newest entry, wherever it is
    uint64_t sealed_index   # entries up to here were put into a batch; above it they are in the arena, under this term
    uint64_t stable_index   # entries up to here are synced on this node
    uint64_t commit_index   # never falls
    uint64_t applying_index # handed out to be applied
    uint64_t applied_index  # applied; never falls but by a restart
    TailRun* tail           # tail[tail_start : tail_start + tail_count], adjacent, up to sealed_index
    uint32_t tail_start
    uint32_t tail_count
    uint32_t tail_capacity
    uint32_t generation     # rises when entries that were handed out are cut: a sync that was asked before says nothing then
    uint32_t arena_count    # proposals in the arena ...
    uint32_t arena_bytes    # ... and what they take as entries of runs
    uint32_t arena_head     # offsets into the engine's arena; meaningless while arena_count is 0
    uint32_t arena_tail
    uint64_t base_index     # everything at and below it is gone from the log; moved by compaction and snapshots
    uint64_t base_term
    TermSpan* terms         # the older spans, ascending; the first of all spans begins right after base_index
    uint32_t terms_count
    uint32_t terms_capacity
    uint64_t* changes       # indexes above applied_index of entries that change the membership, ascending
    uint32_t changes_count
    uint32_t changes_capacity


cdef void log_init(Log* log, uint64_t base_index, uint64_t base_term) noexcept
cdef void log_free(Log* log) noexcept

# The term of the entry at `index`; 0 where the log does not know it (compacted away, or beyond its end). Index 0 has term 0.
cdef inline uint64_t log_term(const Log* log, uint64_t index) noexcept nogil:        # hot
    if log.newest.first <= index <= log.last_index and log.newest.first:
        return log.newest.term
    return log_older_term(log, index)

cdef uint64_t log_older_term(const Log* log, uint64_t index) noexcept nogil

cdef inline bint log_knows(const Log* log, uint64_t index) noexcept nogil:
    return log.base_index <= index <= log.last_index

cdef inline bint log_matches(const Log* log, uint64_t index, uint64_t term) noexcept nogil:
    return log_knows(log, index) and log_term(log, index) == term

cdef inline uint64_t log_last_term(const Log* log) noexcept nogil:
    return log_term(log, log.last_index)

# The highest index <= `index` whose term is <= `term`: where two logs may still agree (a whole term skipped at a time).
cdef uint64_t log_conflict_by_term(const Log* log, uint64_t index, uint64_t term) noexcept nogil

cdef int log_note_term(Log* log, uint64_t first, uint64_t term) except -1            # entries from `first` on have this term
cdef int log_recover(Log* log, object group_log, uint64_t applied_index) except -1
cdef int log_note_change(Log* log, uint64_t index) except -1                         # the entry there changes the membership
cdef bint log_change_between(const Log* log, uint64_t low, uint64_t high) noexcept nogil    # any in (low, high]?
cdef int log_push_run(Log* log, RunHeader* head, Chunk* chunk) except -1             # takes a reference; must be adjacent
cdef int log_cut(Log* log, uint64_t first) except -1                                 # drop everything at and after `first`
cdef void log_compact(Log* log, uint64_t index, uint64_t term) noexcept
cdef void log_restore(Log* log, uint64_t index, uint64_t term) noexcept              # a snapshot in place of everything
cdef void log_applied(Log* log, uint64_t index) noexcept
cdef void log_release(Log* log, uint64_t index) noexcept                             # drop runs wholly at or below, from memory
cdef void log_release_chunk(Log* log, const Chunk* chunk) noexcept                   # up to and with the runs in that chunk

cdef uint64_t log_tail_first(const Log* log) noexcept nogil                          # sealed_index + 1 for an empty tail
cdef TailRun* log_find_run(const Log* log, uint64_t index) noexcept nogil            # the one in memory holding it, or NULL

# Copy entries from `first` on as ONE sealed run (one term, one kind, at most `bytes_max` of body but at least one entry) to
# the end of `out`. `last` receives the last index copied. 0 where `first` is not in memory, else 1. Raises
# InvariantViolation where the bytes in memory no longer carry their checksum.
cdef int log_copy_run(
    const Log* log, uint64_t first, uint32_t bytes_max, uint32_t from_replica, Buffer* out, uint64_t* last
) except -1

# How many of `count` entries at `at` fit into `room` bytes; `bytes` receives what they take.
cdef uint32_t entries_fitting(const char* at, uint32_t count, uint64_t room, uint32_t* bytes) noexcept nogil

# The bytes of `count` entries of a run's body from entry `skip` on; `start` receives where they begin.
cdef uint32_t entries_span(const char* body, uint32_t skip, uint32_t count, const char** start) noexcept nogil
