"""Batches under construction: runs in, sealed batches out, with the layout of docs/formats.md.

Runs are written straight into chunks and keep their place, so that a replica's tail points at the bytes that will go to the
disk; sealing copies each run once. It never looks into a body, never waits, and decides nothing about Raft.

Invariants: chunk memory never moves, and lives as long as anybody holds a reference. A batch holds at most
`BATCH_SEAL_BYTES` of runs, or one run. A batch is spread over chunks that double from small to that size, so that a replica
that keeps one small entry does not pin a whole batch's memory. `seal` either hands out everything pending, or raises and
keeps it.
"""

from multiraft.errors import InvariantViolation, TooLarge

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

cimport cython

from multiraft._core cimport (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    BATCH_RUNS_MAX,
    BATCH_SEAL_BYTES,
    DIRECTORY_ITEM_BYTES,
    FAULT_NONE,
    FORMAT_VERSION,
    RUN_BYTES_MAX,
    RUN_HEADER_BYTES,
    BatchHeader,
    DirectoryItem,
    chunk_drop,
    chunk_new,
    crc32c_update,
    run_check,
    run_seal_header,
)

from multiraft._core import Fault


cdef enum:
    CHUNK_BYTES_MIN = 4096
    SEGMENTS_MIN = 8
    HEAD_CRC_AT = 36


# A batch being laid out in the bytes object that it will be.
cdef struct Layout:
    char* start
    uint32_t listed                     # runs so far
    uint32_t offset                     # where the next one goes


cdef bytes layout_open(Layout* layout, uint32_t count, size_t run_bytes):
    """The bytes of a batch of so many runs with so many bytes, its header zeroed."""
    cdef size_t directory_end = BATCH_HEADER_BYTES + <size_t>count * DIRECTORY_ITEM_BYTES
    cdef bytes batch = PyBytes_FromStringAndSize(NULL, directory_end + run_bytes)
    layout.start = PyBytes_AS_STRING(batch)
    layout.listed = 0
    layout.offset = <uint32_t>directory_end
    memset(layout.start, 0, directory_end)
    return batch


cdef void layout_put(Layout* layout, const char* runs, uint32_t count, size_t size) noexcept nogil:
    """Copy `count` sound runs that lie back to back, and list them."""
    cdef DirectoryItem* item = <DirectoryItem*>(layout.start + BATCH_HEADER_BYTES) + layout.listed
    cdef const RunHeader* run
    memcpy(layout.start + layout.offset, runs, size)
    for _ in range(count):
        run = <const RunHeader*>runs
        item.group = run.group
        item.kind = run.kind
        item.length = RUN_HEADER_BYTES + run.bytes
        item.offset = layout.offset
        layout.offset += item.length
        runs += item.length
        item += 1
    layout.listed += count


cdef void layout_seal(Layout* layout, uint64_t sequence, uint64_t store_id) noexcept nogil:
    """Fill in the header once all runs are there."""
    cdef BatchHeader* batch = <BatchHeader*>layout.start
    batch.magic = BATCH_MAGIC
    batch.version = FORMAT_VERSION
    batch.length = layout.offset
    batch.count = layout.listed
    batch.sequence = sequence
    batch.store_id = store_id
    batch.directory_crc = crc32c_update(
        0, layout.start + BATCH_HEADER_BYTES, <size_t>layout.listed * DIRECTORY_ITEM_BYTES
    )
    batch.head_crc = crc32c_update(0, layout.start, HEAD_CRC_AT)


cdef int check_whole(bytes run) except -1:
    """Raise unless these are the bytes of one sound run and nothing else."""
    cdef const char* data = PyBytes_AS_STRING(run)
    cdef size_t size = PyBytes_GET_SIZE(run)
    cdef int fault = run_check(data, size, True)
    if fault != FAULT_NONE:
        raise InvariantViolation(f"a run that is not sound was to be put in a batch: {Fault(fault).name}")
    if size != RUN_HEADER_BYTES + (<const RunHeader*>data).bytes:
        raise InvariantViolation("a run with something after it was to be put in a batch")
    return 0


cdef int check_sequence(uint64_t sequence) except -1:
    if sequence == 0:
        raise InvariantViolation("batches are counted from 1")
    return 0


def encode_batch(runs, *, uint64_t sequence, uint64_t store_id) -> bytes:
    """One sealed batch of whole runs, whatever their size together. Raises TooLarge over the format's limits."""
    cdef list whole = [bytes(memoryview(run)) for run in runs]
    cdef size_t run_bytes = 0
    cdef Layout layout
    cdef bytes run, batch
    check_sequence(sequence)
    for run in whole:
        check_whole(run)
        run_bytes += PyBytes_GET_SIZE(run)
    if len(whole) > BATCH_RUNS_MAX:
        raise TooLarge(f"{len(whole)} runs; a batch has at most {BATCH_RUNS_MAX}")
    if BATCH_HEADER_BYTES + len(whole) * <size_t>DIRECTORY_ITEM_BYTES + run_bytes > BATCH_BYTES_MAX:
        raise TooLarge(f"{run_bytes} bytes of runs; a batch has at most {BATCH_BYTES_MAX} with its directory")
    batch = layout_open(&layout, <uint32_t>len(whole), run_bytes)
    for run in whole:
        layout_put(&layout, PyBytes_AS_STRING(run), 1, PyBytes_GET_SIZE(run))
    layout_seal(&layout, sequence, store_id)
    return batch


@cython.final
cdef class BatchBuilder:
    """Collects runs and seals them into batches; see `_batch.pxd`."""

    def __dealloc__(self):
        for at in range(self.count):
            chunk_drop(self.segments[at].chunk)
        free(self.segments)

    cdef char* begin_run(self, uint32_t body_bytes, Chunk** chunk) except NULL:
        cdef size_t needed = RUN_HEADER_BYTES + <size_t>body_bytes
        cdef Chunk* last = self.segments[self.count - 1].chunk if self.count else NULL
        cdef bint opens = last == NULL or (
            self.batch_runs > 0
            and (self.batch_bytes + needed > BATCH_SEAL_BYTES or self.batch_runs == BATCH_RUNS_MAX)
        )
        self.open_at = NULL
        if body_bytes > RUN_BYTES_MAX:
            raise TooLarge(f"a run of {body_bytes} bytes; the limit is {RUN_BYTES_MAX}")
        if opens or last.capacity - last.size < needed:
            last = add_segment(self, needed, opens)
        self.open_at = last.data + last.size
        self.open_bytes = body_bytes
        chunk[0] = last
        return self.open_at

    cdef int end_run(self, RunHeader* run) except -1:
        cdef Chunk* last
        cdef size_t size
        if self.open_at == NULL or <char*>run != self.open_at or run.bytes > self.open_bytes:
            raise InvariantViolation("a run was ended that is not the one begun, or is longer than it was to be")
        run_seal_header(run)
        last = self.segments[self.count - 1].chunk
        size = RUN_HEADER_BYTES + <size_t>run.bytes
        last.size += size
        last.runs += 1
        self.batch_bytes += size
        self.batch_runs += 1
        self.pending_bytes += size
        self.pending_runs += 1
        self.open_at = NULL
        return 0

    def add_run(self, bytes run not None) -> None:
        """Copy a whole run in. Raises InvariantViolation where it is not sound."""
        cdef Chunk* chunk
        cdef char* to
        check_whole(run)
        to = self.begin_run(<uint32_t>(PyBytes_GET_SIZE(run) - RUN_HEADER_BYTES), &chunk)
        memcpy(to, PyBytes_AS_STRING(run), PyBytes_GET_SIZE(run))
        self.end_run(<RunHeader*>to)

    def seal(self, uint64_t next_sequence, uint64_t store_id) -> list:
        """All that is pending as batches numbered from ``next_sequence``; the builder is empty afterwards."""
        cdef list batches = []
        cdef uint32_t start = 0, end
        check_sequence(next_sequence)
        while start < self.count:
            end = start + 1
            while end < self.count and not self.segments[end].opens:
                end += 1
            batch = seal_segments(self.segments + start, end - start, next_sequence + len(batches), store_id)
            if batch is not None:
                batches.append(batch)
            start = end
        for at in range(self.count):
            chunk_drop(self.segments[at].chunk)
        self.count = 0
        self.batch_bytes = self.pending_bytes = 0
        self.batch_runs = self.pending_runs = 0
        self.open_at = NULL
        return batches


cdef Chunk* add_segment(BatchBuilder builder, size_t needed, bint opens) except NULL:
    """A chunk with room for `needed` bytes at the end: of the batch that is open, or of one that it opens."""
    cdef size_t capacity = CHUNK_BYTES_MIN
    cdef uint32_t more
    cdef Segment* segments
    if builder.count == builder.capacity:
        more = max(<uint32_t>SEGMENTS_MIN, builder.capacity * 2)
        segments = <Segment*>realloc(builder.segments, more * sizeof(Segment))
        if segments == NULL:
            raise MemoryError(f"no memory for {more} chunks of a batch")
        builder.segments = segments
        builder.capacity = more
    if builder.count:
        capacity = min(builder.segments[builder.count - 1].chunk.capacity * 2, <size_t>BATCH_SEAL_BYTES)
    cdef Chunk* chunk = chunk_new(max(capacity, needed))
    builder.segments[builder.count].chunk = chunk
    builder.segments[builder.count].opens = opens
    builder.count += 1
    if opens:
        builder.batch_bytes = 0
        builder.batch_runs = 0
    return chunk


cdef object seal_segments(const Segment* segments, uint32_t count, uint64_t sequence, uint64_t store_id):
    """The batch of these chunks, or None where no run was ended in them."""
    cdef size_t run_bytes = 0
    cdef uint32_t runs = 0
    cdef Layout layout
    for at in range(count):
        run_bytes += segments[at].chunk.size
        runs += segments[at].chunk.runs
    if runs == 0:
        return None
    batch = layout_open(&layout, runs, run_bytes)
    for at in range(count):
        layout_put(&layout, segments[at].chunk.data, segments[at].chunk.runs, segments[at].chunk.size)
    layout_seal(&layout, sequence, store_id)
    return batch
