# Batches under construction. Runs are written straight into chunks, which never move; sealing copies them once.

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from multiraft._core cimport Chunk, RunHeader


# One chunk of the batches under construction, in the order in which they will be sealed.
cdef struct Segment:
    Chunk* chunk                        # a reference is the builder's
    bint opens                          # the first of its batch


cdef class BatchBuilder:
    cdef Segment* segments
    cdef uint32_t count
    cdef uint32_t capacity
    cdef size_t batch_bytes             # of the runs in the batch that is open, the last one
    cdef uint32_t batch_runs
    cdef char* open_at                  # the run between begin_run and end_run, NULL outside; it counts nowhere yet
    cdef uint32_t open_bytes            # how long its body may be
    cdef readonly size_t pending_bytes
    cdef readonly uint32_t pending_runs

    # Where to write the header and `body_bytes` of body, and the chunk that this is in (borrowed: who keeps a pointer into
    # it takes a reference). A begin_run without its end_run is forgotten by the next one.
    cdef char* begin_run(self, uint32_t body_bytes, Chunk** chunk) except NULL
    # Seals the header of the run just begun, whose body is complete and has its crc, and counts it. It may be shorter.
    cdef int end_run(self, RunHeader* run) except -1
