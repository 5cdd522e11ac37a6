"""(stand-in)"""
from libc.stdlib cimport realloc, free
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from multiraft._core cimport *
cdef class BatchBuilder:
    cdef char* begin_run(self, uint32_t body, Chunk** chunk) except NULL:
        cdef Chunk* c = self.chunks[self.count-1] if self.count else NULL
        cdef void* g
        cdef char* p
        if c == NULL or c.size + 64 + body > c.capacity:
            g = realloc(self.chunks, (self.count + 1) * sizeof(Chunk*))
            self.chunks = <Chunk**>g
            c = chunk_new(max(BATCH_SEAL_BYTES, 64 + body))
            self.chunks[self.count] = c; self.count += 1
        p = c.data + c.size
        c.size += 64 + body; c.runs += 1
        self.pending_bytes += 64 + body; self.pending_runs += 1
        chunk[0] = c
        return p
    cdef int end_run(self, RunHeader* run) except -1:
        run_seal_header(run)
        return 0
    def seal(self, uint64_t seq, uint64_t store):
        out = []
        cdef Chunk* c
        cdef bytes b
        cdef char* p
        cdef DirectoryItem* d
        cdef RunHeader* r
        cdef uint32_t i, k
        cdef size_t off
        for i in range(self.count):
            c = self.chunks[i]
            b = PyBytes_FromStringAndSize(NULL, 40 + 24*c.runs + c.size)
            p = PyBytes_AS_STRING(b); memset(p, 0, 40 + 24*c.runs)
            (<BatchHeader*>p).magic = BATCH_MAGIC; (<BatchHeader*>p).version = 1; (<BatchHeader*>p).length = len(b)
            (<BatchHeader*>p).count = c.runs; (<BatchHeader*>p).sequence = seq + i; (<BatchHeader*>p).store_id = store
            memcpy(p + 40 + 24*c.runs, c.data, c.size)
            off = 0; d = <DirectoryItem*>(p + 40)
            for k in range(c.runs):
                r = <RunHeader*>(c.data + off)
                d[k].group = r.group; d[k].kind = r.kind; d[k].length = 64 + r.bytes; d[k].offset = 40 + 24*c.runs + off
                off += 64 + r.bytes
            (<BatchHeader*>p).directory_crc = crc32c_update(0, p + 40, 24*c.runs)
            (<BatchHeader*>p).head_crc = crc32c_update(0, p, 36)
            out.append(b)
            chunk_drop(c)
        self.count = 0; self.pending_bytes = 0; self.pending_runs = 0
        return out
    def __dealloc__(self):
        for i in range(self.count): chunk_drop(self.chunks[i])
        free(self.chunks)
