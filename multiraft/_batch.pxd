# Batches under construction. Runs are written straight into chunks, which never move; sealing copies them once.

from libc.stdint cimport uint32_t, uint64_t
from multiraft._core cimport Chunk, RunHeader


cdef class BatchBuilder:
    cdef Chunk** chunks
    cdef uint32_t count
    cdef uint32_t capacity
    cdef readonly size_t pending_bytes
    cdef readonly uint32_t pending_runs

    # Room for a run of `body_bytes`; the caller fills header and body, then calls end_run before the next begin_run.
    cdef char* begin_run(self, uint32_t body_bytes, Chunk** chunk) except NULL
    cdef int end_run(self, RunHeader* run) except -1
