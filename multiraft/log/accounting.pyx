"""How much of each batch on disk is still needed.

Plain arrays and counters, changed together with the index and by nothing else. No disk, no clock, no rule of Raft.

Invariants: a batch with ``live == 0`` may be deleted without changing what a scan of the rest finds (first-hand batches:
once all before it are deleted too); ``live`` never falls below zero, and a batch that is deleted has none: both raise.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from multiraft.errors import InvariantViolation


cdef void books_free(Books* books) noexcept:
    free(books.direct.batches)
    free(books.rewritten.batches)
    memset(books, 0, sizeof(Books))


cdef Shelf* books_shelf(Books* books, uint64_t place) noexcept nogil:
    return &books.rewritten if place & REWRITTEN else &books.direct


cdef Batch* books_batch(Books* books, uint64_t place) except NULL:
    cdef Shelf* shelf = books_shelf(books, place)
    cdef uint64_t number = place & ~REWRITTEN
    if number < shelf.first or number >= shelf.next:
        raise InvariantViolation(f"the log index names batch {name_of(place)}, which is not there")
    return &shelf.batches[shelf.start + (number - shelf.first)]


cdef int books_add(Books* books, uint64_t place, uint32_t bytes) except -1:
    cdef Shelf* shelf = books_shelf(books, place)
    cdef uint64_t number = place & ~REWRITTEN
    cdef Batch* batch = NULL
    if shelf.first == shelf.next:
        shelf.first = shelf.next = number
        shelf.start = 0
    if number < shelf.next:
        raise InvariantViolation(f"batch {name_of(place)} is on the shelf already")
    make_room(shelf, number - shelf.next + 1)
    while shelf.next <= number:
        batch = &shelf.batches[shelf.start + (shelf.next - shelf.first)]
        memset(batch, 0, sizeof(Batch))
        shelf.next += 1
    batch.bytes = bytes
    shelf.bytes += bytes
    return 0


cdef int make_room(Shelf* shelf, uint64_t more) except -1:
    cdef size_t used = <size_t>(shelf.next - shelf.first)
    cdef size_t wanted
    cdef void* grown
    if shelf.start + used + more <= shelf.capacity:
        return 0
    if shelf.start > used:                   # more than half of what is used lies free before it
        memmove(shelf.batches, shelf.batches + shelf.start, used * sizeof(Batch))
        shelf.start = 0
        if used + more <= shelf.capacity:
            return 0
    if more > <uint64_t>1 << 32:
        raise MemoryError
    wanted = (shelf.start + used + more) * 2 + 64
    grown = realloc(shelf.batches, wanted * sizeof(Batch))
    if grown == NULL:
        raise MemoryError
    shelf.batches = <Batch*>grown
    shelf.capacity = wanted
    return 0


cdef int books_take(Books* books, uint64_t place, uint32_t bytes) except -1:
    cdef Batch* batch = books_batch(books, place)
    batch.live += 1
    batch.live_bytes += bytes
    books_shelf(books, place).live_bytes += bytes
    return 0


cdef int books_drop(Books* books, uint64_t place, uint32_t bytes) except -1:
    cdef Batch* batch = books_batch(books, place)
    if batch.live == 0 or batch.live_bytes < bytes:
        raise InvariantViolation(f"batch {name_of(place)} is needed less than not at all: the log index is wrong")
    batch.live -= 1
    batch.live_bytes -= bytes
    books_shelf(books, place).live_bytes -= bytes
    return 0


cdef int books_stale(Books* books, uint64_t place, uint64_t cutter) except -1:
    cdef Batch* batch
    if not place & REWRITTEN:                # first-hand batches are deleted in order, so what cuts outlives what is cut
        return 0
    batch = books_batch(books, place)
    if batch.cutter == 0 or cutter < batch.cutter:
        batch.cutter = cutter
    return 0


cdef int books_delete(Books* books, uint64_t place) except -1:
    cdef Shelf* shelf = books_shelf(books, place)
    cdef Batch* batch = books_batch(books, place)
    if batch.live:
        raise InvariantViolation(f"batch {name_of(place)} would be deleted with {batch.live} runs that are needed")
    if not place & REWRITTEN and place != shelf.first:
        raise InvariantViolation(f"batch {place} would be deleted before batch {shelf.first}")
    shelf.bytes -= batch.bytes
    memset(batch, 0, sizeof(Batch))
    while shelf.first < shelf.next and shelf.batches[shelf.start].bytes == 0:
        shelf.first += 1
        shelf.start += 1
    if shelf.first == shelf.next:
        shelf.start = 0
    return 0


cdef str name_of(uint64_t place):
    return f"rewritten {place & ~REWRITTEN}" if place & REWRITTEN else f"{place}"
