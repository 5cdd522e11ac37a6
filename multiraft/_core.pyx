"""Ring 0: bytes and numbers. (stand-in)"""
from libc.stdlib cimport malloc, realloc, free, calloc
from libc.string cimport memcpy, memset
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from collections import namedtuple
from multiraft.errors import LogCorrupt

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    __attribute__((target("sse4.2"))) static uint32_t crc_hw(uint32_t c, const unsigned char* p, size_t n) {
        uint64_t x = c ^ 0xffffffffu;
        while (n >= 8) { uint64_t v; memcpy(&v, p, 8); x = __builtin_ia32_crc32di(x, v); p += 8; n -= 8; }
        while (n--) x = __builtin_ia32_crc32qi((uint32_t)x, *p++);
        return (uint32_t)x ^ 0xffffffffu;
    }
    """
    uint32_t crc_hw(uint32_t c, const unsigned char* p, size_t n) nogil

cdef size_t total = 0
cdef char* buffer_room(Buffer* b, size_t more) except NULL:
    cdef size_t cap
    cdef char* d
    if b.size + more > b.capacity:
        cap = b.capacity * 2 if b.capacity else 256
        while cap < b.size + more: cap *= 2
        d = <char*>realloc(b.data, cap)
        if d == NULL: raise MemoryError
        b.data = d; b.capacity = cap
    elif b.data == NULL:
        b.data = <char*>malloc(64); b.capacity = 64
    return b.data + b.size
cdef void buffer_free(Buffer* b) noexcept nogil:
    free(b.data); b.data = NULL; b.size = b.capacity = 0
cdef Chunk* chunk_new(size_t capacity) except NULL:
    global total
    cdef Chunk* c = <Chunk*>malloc(sizeof(Chunk) + capacity)
    if c == NULL: raise MemoryError
    c.references = 1; c.runs = 0; c.size = 0; c.capacity = capacity; c.data = <char*>c + sizeof(Chunk)
    total += capacity
    return c
cdef void chunk_take(Chunk* c) noexcept nogil:
    c.references += 1
cdef void chunk_drop(Chunk* c) noexcept nogil:
    global total
    c.references -= 1
    if c.references == 0:
        total -= c.capacity
        free(c)
cdef size_t chunk_bytes_total() noexcept nogil:
    return total
cdef uint32_t crc32c_update(uint32_t crc, const void* data, size_t length) noexcept nogil:
    return crc_hw(crc, <const unsigned char*>data, length)
cdef uint32_t run_body_crc(const RunHeader* run, const char* body) noexcept nogil:
    cdef uint32_t two[2]
    cdef uint32_t crc = crc32c_update(0, run, 24)
    two[0] = run.count; two[1] = run.kind
    crc = crc32c_update(crc, two, 8)
    return crc32c_update(crc, body, run.bytes)
cdef void run_seal_header(RunHeader* run) noexcept nogil:
    run.head_crc = crc32c_update(0, run, 60)
cdef int run_check(const char* data, size_t available, bint check_body) noexcept nogil:
    cdef const RunHeader* run = <const RunHeader*>data
    cdef uint32_t at = 0, n, length
    if available < 64: return FAULT_SHORT
    if run.bytes > RUN_BYTES_MAX or run.count > RUN_ENTRIES_MAX: return FAULT_LIMIT
    if available < 64 + <size_t>run.bytes: return FAULT_SHORT
    if crc32c_update(0, data, 60) != run.head_crc: return FAULT_CHECKSUM
    if not 1 <= run.kind <= 11 or run.flags: return FAULT_KIND
    if check_body:
        for n in range(run.count):
            if at + 4 > run.bytes: return FAULT_SHAPE
            memcpy(&length, data + 64 + at, 4)
            if length > run.bytes - at - 4: return FAULT_SHAPE
            at += 4 + length
        if at != run.bytes: return FAULT_SHAPE
        if run_body_crc(run, data + 64) != run.body_crc: return FAULT_CHECKSUM
    return 0
cdef int batch_check(const char* data, size_t available) noexcept nogil:
    return 0
cdef int frame_check(const char* data, size_t available, size_t length_max) noexcept nogil:
    return 0
cdef uint64_t majority_index(const uint64_t* acks, int count) noexcept nogil:
    cdef uint64_t a[REPLICAS_MAX + 1]
    cdef int i, j
    cdef uint64_t v
    if count == 0: return <uint64_t>-1
    for i in range(count):
        v = acks[i]; j = i
        while j > 0 and a[j-1] < v:
            a[j] = a[j-1]; j -= 1
        a[j] = v
    return a[count // 2]
cdef int majority_vote(const signed char* votes, int count) noexcept nogil:
    cdef int y = 0, no = 0, i, need = count // 2 + 1
    if count == 0: return VOTE_WON
    for i in range(count):
        if votes[i] > 0: y += 1
        elif votes[i] < 0: no += 1
    if y >= need: return VOTE_WON
    if count - no < need: return VOTE_LOST
    return VOTE_PENDING
cdef class CommittedRuns:
    def __len__(self): return self.count
    cdef CommittedRun* add(self) except NULL:
        cdef void* g
        if self.count == self.capacity:
            g = realloc(self.items, (self.capacity * 2 + 16) * sizeof(CommittedRun))
            if g == NULL: raise MemoryError
            self.items = <CommittedRun*>g; self.capacity = self.capacity * 2 + 16
        memset(&self.items[self.count], 0, sizeof(CommittedRun))
        self.count += 1
        return &self.items[self.count - 1]
    def clear(self):
        cdef Py_ssize_t i
        for i in range(self.count): chunk_drop(self.items[i].chunk)
        self.count = 0; self.done = 0
    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count): chunk_drop(self.items[i].chunk)
        free(self.items)
    def __iter__(self):
        cdef Py_ssize_t i
        cdef const char* p
        cdef uint32_t n, k
        for i in range(self.count):
            p = self.items[i].entries
            out = []
            for k in range(self.items[i].count):
                memcpy(&n, p, 4)
                out.append(p[4:4+n])
                p += 4 + n
            yield (self.items[i].group, self.items[i].first, self.items[i].term, self.items[i].kind, out)
Run = namedtuple("Run", "group first term prev_term commit from_replica kind entries")
def encode_run(*, group, first, term, prev_term=0, commit=0, from_replica=0, kind=1, entries=()):
    import struct
    body = b"".join(struct.pack("<I", len(e)) + e for e in entries)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 64 + len(body))
    cdef RunHeader* r = <RunHeader*>PyBytes_AS_STRING(out)
    memset(r, 0, 64)
    r.group = group; r.first = first; r.term = term; r.prev_term = prev_term; r.commit = commit
    r.count = len(entries); r.bytes = len(body); r.from_replica = from_replica; r.kind = kind
    memcpy(<char*>r + 64, <const char*>body, len(body))
    r.body_crc = run_body_crc(r, <char*>r + 64)
    run_seal_header(r)
    return out
def decode_run(data):
    cdef bytes d = bytes(data)
    cdef const RunHeader* r = <const RunHeader*>PyBytes_AS_STRING(d)
    cdef int f = run_check(PyBytes_AS_STRING(d), len(d), True)
    if f: raise LogCorrupt(str(f))
    out = []
    cdef const char* p = PyBytes_AS_STRING(d) + 64
    cdef uint32_t n, k
    for k in range(r.count):
        memcpy(&n, p, 4)
        out.append(p[4:4+n])
        p += 4 + n
    return Run(r.group, r.first, r.term, r.prev_term, r.commit, r.from_replica, r.kind, tuple(out))
Batch = namedtuple("Batch", "sequence store_id runs")
def decode_batch(data):
    cdef bytes d = bytes(data)
    cdef const BatchHeader* h = <const BatchHeader*>PyBytes_AS_STRING(d)
    cdef const DirectoryItem* it = <const DirectoryItem*>(PyBytes_AS_STRING(d) + 40)
    return Batch(h.sequence, h.store_id, tuple(d[it[i].offset: it[i].offset + it[i].length] for i in range(h.count)))
