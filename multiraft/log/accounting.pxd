# What each batch on disk still holds that is needed. Kept by every change of the index, so that "which batches are dead"
# and "how much is alive" are answered without a search.
#
# A *place* names a batch: a sequence (first-hand batches), or REWRITTEN | number (those that compaction wrote).

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #define MR_REWRITTEN (1ULL << 63)
    """
    const uint64_t REWRITTEN "MR_REWRITTEN"


# One batch on disk. `live` counts runs that are needed (and one for a commit index that is recorded nowhere else).
cdef struct Batch:
    uint32_t bytes          # of the whole batch; 0: there is none, it was deleted
    uint32_t live           # needed runs in it
    uint32_t live_bytes     # their bytes, headers included
    uint32_t zero
    uint64_t cutter         # rewritten batches: the oldest sequence whose cut is not yet visible in them; 0 none


# Batches with ascending numbers, the oldest at `start`. Numbers between `first` and `next` are all here.
cdef struct Shelf:
    Batch* batches
    uint64_t first          # number of the oldest
    uint64_t next           # one past the newest; equal to `first` where there are none
    size_t start            # of the oldest within the array
    size_t capacity
    uint64_t bytes          # of all batches
    uint64_t live_bytes


cdef struct Books:
    Shelf direct            # batches as the caller appended them, by sequence
    Shelf rewritten         # batches that compaction wrote, by number


cdef void books_free(Books* books) noexcept
cdef Shelf* books_shelf(Books* books, uint64_t place) noexcept nogil
cdef Batch* books_batch(Books* books, uint64_t place) except NULL
cdef int books_add(Books* books, uint64_t place, uint32_t bytes) except -1     # the newest of its shelf
cdef int books_take(Books* books, uint64_t place, uint32_t bytes) except -1    # one more run of it is needed
cdef int books_drop(Books* books, uint64_t place, uint32_t bytes) except -1    # one less
cdef int books_stale(Books* books, uint64_t place, uint64_t cutter) except -1  # a run in it was cut by `cutter`
cdef int books_delete(Books* books, uint64_t place) except -1                  # nothing in it is needed, or we are wrong
