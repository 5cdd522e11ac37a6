"""Ring 0: bytes and numbers. Memory, CRC-32C, runs, batches, frames, quorums; docs/formats.md is the law for every layout.

It never touches a clock, a socket or a file, knows no rule of Raft beyond what a quorum is, and makes no Python object
on the compiled paths. The `*_check` functions are the gateways for foreign bytes: they read nothing past `available`,
allocate nothing, and judge what stands at the start of the bytes given; whoever knows that nothing may follow compares
lengths after them. What passed them may be read through the structs of `_core.pxd` without another look.

Invariants: `chunk_bytes_total()` is the sum of the capacities of all live chunks; a chunk's `data` never moves; the
Python doors run the same code as the compiled callers.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cimport cython


cdef extern from *:
    """
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "multiraft reads its little-endian formats in place: a big-endian machine is not supported"
    #endif

    /* CRC-32C, polynomial 0x82f63b78 (reflected). `state` is the register: inverted by the caller, before and after. */

    static uint32_t multiraft_crc_table[8][256];

    static void multiraft_crc_fill(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; bit++)
                value = (value >> 1) ^ (0x82f63b78u & (0u - (value & 1)));
            multiraft_crc_table[0][byte] = value;
        }
        for (int slice = 1; slice < 8; slice++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t value = multiraft_crc_table[slice - 1][byte];
                multiraft_crc_table[slice][byte] = (value >> 8) ^ multiraft_crc_table[0][value & 255];
            }
    }

    static uint32_t multiraft_crc_by_table(uint32_t state, const unsigned char* data, size_t length) {
        while (length >= 8) {
            uint32_t low, high;
            memcpy(&low, data, 4);
            memcpy(&high, data + 4, 4);
            low ^= state;
            state = multiraft_crc_table[7][low & 255] ^ multiraft_crc_table[6][(low >> 8) & 255]
                  ^ multiraft_crc_table[5][(low >> 16) & 255] ^ multiraft_crc_table[4][low >> 24]
                  ^ multiraft_crc_table[3][high & 255] ^ multiraft_crc_table[2][(high >> 8) & 255]
                  ^ multiraft_crc_table[1][(high >> 16) & 255] ^ multiraft_crc_table[0][high >> 24];
            data += 8;
            length -= 8;
        }
        while (length--)
            state = (state >> 8) ^ multiraft_crc_table[0][(state ^ *data++) & 255];
        return state;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <nmmintrin.h>
    #define MULTIRAFT_CRC_TARGET __attribute__((target("sse4.2")))
    #define MULTIRAFT_CRC_AVAILABLE __builtin_cpu_supports("sse4.2")
    #define MULTIRAFT_CRC_8(state, word) ((uint32_t)_mm_crc32_u64(state, word))
    #define MULTIRAFT_CRC_1(state, byte) _mm_crc32_u8(state, byte)
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    #define MULTIRAFT_CRC_TARGET
    #define MULTIRAFT_CRC_AVAILABLE 1
    #define MULTIRAFT_CRC_8(state, word) __crc32cd(state, word)
    #define MULTIRAFT_CRC_1(state, byte) __crc32cb(state, byte)
    #endif

    #ifdef MULTIRAFT_CRC_TARGET
    MULTIRAFT_CRC_TARGET
    static uint32_t multiraft_crc_by_instruction(uint32_t state, const unsigned char* data, size_t length) {
        for (; length >= 8; data += 8, length -= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            state = MULTIRAFT_CRC_8(state, word);
        }
        while (length--)
            state = MULTIRAFT_CRC_1(state, *data++);
        return state;
    }
    #else
    #define MULTIRAFT_CRC_AVAILABLE 0
    #define multiraft_crc_by_instruction multiraft_crc_by_table
    #endif

    static inline uint32_t multiraft_crc(uint32_t state, const unsigned char* data, size_t length) {
        return MULTIRAFT_CRC_AVAILABLE ? multiraft_crc_by_instruction(state, data, length)
                                       : multiraft_crc_by_table(state, data, length);
    }
    """
    void multiraft_crc_fill() noexcept nogil
    uint32_t multiraft_crc(uint32_t state, const unsigned char* data, size_t length) noexcept nogil
    uint32_t multiraft_crc_by_table(uint32_t state, const unsigned char* data, size_t length) noexcept nogil
    bint MULTIRAFT_CRC_AVAILABLE
    size_t SIZE_MAX


# The one thing done at import: the table must be whole before any thread can ask for a checksum.
multiraft_crc_fill()

cdef enum:
    BUFFER_BYTES_MIN = 256
    COMMITTED_ITEMS_MIN = 16
    RUN_HEAD_CRC_AT = 60
    BATCH_HEAD_CRC_AT = 36
    FRAME_CRC_AT = 56
    MESSAGE_FLAGS_ALL = FLAG_REJECT | FLAG_TRANSFER | FLAG_RUN


# -- memory ---------------------------------------------------------------------------------------------------------------

cdef size_t chunk_bytes_live = 0


cdef char* buffer_room(Buffer* buffer, size_t more) except NULL:
    cdef size_t needed = buffer.size + more
    cdef size_t capacity
    cdef char* data
    if needed < more:
        raise MemoryError("a buffer of more bytes than there are addresses")
    if buffer.data == NULL or needed > buffer.capacity:
        capacity = max(needed, <size_t>BUFFER_BYTES_MIN)
        if buffer.capacity <= SIZE_MAX // 2:
            capacity = max(capacity, buffer.capacity * 2)
        data = <char*>realloc(buffer.data, capacity)
        if data == NULL:
            raise MemoryError(f"no memory for a buffer of {capacity} bytes")
        buffer.data = data
        buffer.capacity = capacity
    return buffer.data + buffer.size


cdef void buffer_free(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    buffer.data = NULL
    buffer.size = 0
    buffer.capacity = 0


cdef Chunk* chunk_new(size_t capacity) except NULL:
    global chunk_bytes_live
    cdef Chunk* chunk = NULL
    if capacity <= SIZE_MAX - sizeof(Chunk):
        chunk = <Chunk*>malloc(sizeof(Chunk) + capacity)
    if chunk == NULL:
        raise MemoryError(f"no memory for a chunk of {capacity} bytes")
    chunk.references = 1
    chunk.runs = 0
    chunk.size = 0
    chunk.capacity = capacity
    chunk.data = <char*>(chunk + 1)
    chunk_bytes_live += capacity
    return chunk


cdef void chunk_take(Chunk* chunk) noexcept nogil:
    chunk.references += 1


cdef void chunk_drop(Chunk* chunk) noexcept nogil:
    global chunk_bytes_live
    chunk.references -= 1
    if chunk.references == 0:
        chunk_bytes_live -= chunk.capacity
        free(chunk)


cdef size_t chunk_bytes_total() noexcept nogil:
    return chunk_bytes_live


# -- checksums ------------------------------------------------------------------------------------------------------------

cdef uint32_t crc32c_update(uint32_t crc, const void* data, size_t length) noexcept nogil:
    return ~multiraft_crc(~crc, <const unsigned char*>data, length)


cdef uint32_t run_body_crc(const RunHeader* run, const char* body) noexcept nogil:
    cdef uint32_t numbers[2]
    cdef uint32_t crc = crc32c_update(0, run, 24)       # group, first, term
    numbers[0] = run.count
    numbers[1] = run.kind
    crc = crc32c_update(crc, numbers, 8)
    return crc32c_update(crc, body, run.bytes)


cdef void run_seal_header(RunHeader* run) noexcept nogil:
    run.head_crc = crc32c_update(0, run, RUN_HEAD_CRC_AT)


# -- checks of foreign bytes ----------------------------------------------------------------------------------------------

cdef int _run_shape(const RunHeader* run) noexcept nogil:
    """Does the count fit the kind and the length, and do the indexes fit 64 bits? -> Fault"""
    if run.kind == RUN_ENTRIES or run.kind == RUN_MEMBERSHIP:
        if run.count == 0 or run.first == 0 or run.first + (run.count - 1) < run.first:
            return FAULT_SHAPE
    elif run.count != (0 if run.kind == RUN_TRUNCATE else 1):
        return FAULT_SHAPE
    if <uint64_t>run.count * 4 > run.bytes or (run.count == 0 and run.bytes != 0):
        return FAULT_SHAPE
    return FAULT_NONE


cdef int _run_walk(const RunHeader* run, const char* body) noexcept nogil:
    """Do `count` entries fill the body exactly? -> Fault"""
    cdef uint32_t left = run.bytes
    cdef uint32_t length
    # A REWRITE wraps a whole run, which may hold one entry of the largest size: the body's own limit bounds it.
    cdef uint32_t length_max = RUN_BYTES_MAX if run.kind == RUN_REWRITE else ENTRY_BYTES_MAX
    for _ in range(run.count):
        if left < 4:
            return FAULT_SHAPE
        memcpy(&length, body, 4)
        if length > length_max:
            return FAULT_LIMIT
        if length > left - 4:
            return FAULT_SHAPE
        body += 4 + length
        left -= 4 + length
    return FAULT_NONE if left == 0 else FAULT_SHAPE


cdef int run_check(const char* data, size_t available, bint check_body) noexcept nogil:
    cdef RunHeader run
    cdef int fault
    if available < RUN_HEADER_BYTES:
        return FAULT_SHORT
    memcpy(&run, data, RUN_HEADER_BYTES)
    if run.bytes > RUN_BYTES_MAX or run.count > RUN_ENTRIES_MAX:
        return FAULT_LIMIT
    if run.bytes > available - RUN_HEADER_BYTES:
        return FAULT_SHORT
    if run.head_crc != crc32c_update(0, data, RUN_HEAD_CRC_AT):
        return FAULT_CHECKSUM
    if run.kind < RUN_ENTRIES or run.kind > RUN_REWRITE or run.flags != 0:
        return FAULT_KIND
    fault = _run_shape(&run)
    if fault != FAULT_NONE or not check_body:
        return fault
    fault = _run_walk(&run, data + RUN_HEADER_BYTES)
    if fault != FAULT_NONE:
        return fault
    if run.body_crc != run_body_crc(&run, data + RUN_HEADER_BYTES):
        return FAULT_CHECKSUM
    return FAULT_NONE


cdef int _directory_walk(const BatchHeader* batch, const char* directory) noexcept nogil:
    """Do the items lie back to back from the directory's end to the batch's end, in order? -> Fault"""
    cdef DirectoryItem item
    cdef uint32_t offset = BATCH_HEADER_BYTES + batch.count * DIRECTORY_ITEM_BYTES
    for i in range(batch.count):
        memcpy(&item, directory + <size_t>i * DIRECTORY_ITEM_BYTES, DIRECTORY_ITEM_BYTES)
        if item.kind < RUN_ENTRIES or item.kind > RUN_REWRITE:
            return FAULT_KIND
        if item.zero != 0 or item.zero2 != 0 or item.offset != offset:
            return FAULT_SHAPE
        if item.length < RUN_HEADER_BYTES or item.length > batch.length - offset:
            return FAULT_SHAPE
        if item.length - RUN_HEADER_BYTES > RUN_BYTES_MAX:
            return FAULT_LIMIT
        offset += item.length
    return FAULT_NONE if offset == batch.length else FAULT_SHAPE


cdef int batch_check(const char* data, size_t available) noexcept nogil:
    cdef BatchHeader batch
    if available < BATCH_HEADER_BYTES:
        return FAULT_SHORT
    memcpy(&batch, data, BATCH_HEADER_BYTES)
    if batch.magic != BATCH_MAGIC:
        return FAULT_MAGIC
    if batch.version != FORMAT_VERSION:
        return FAULT_VERSION
    if batch.length > BATCH_BYTES_MAX or batch.count > BATCH_RUNS_MAX:
        return FAULT_LIMIT
    if batch.length > available:
        return FAULT_SHORT
    if batch.head_crc != crc32c_update(0, data, BATCH_HEAD_CRC_AT):
        return FAULT_CHECKSUM
    if batch.flags != 0:
        return FAULT_KIND
    if batch.sequence == 0 or batch.length < BATCH_HEADER_BYTES + batch.count * DIRECTORY_ITEM_BYTES:
        return FAULT_SHAPE
    if batch.directory_crc != crc32c_update(0, data + BATCH_HEADER_BYTES, batch.count * DIRECTORY_ITEM_BYTES):
        return FAULT_CHECKSUM
    return _directory_walk(&batch, data + BATCH_HEADER_BYTES)


cdef int _message_check(const char* data, uint32_t left, uint32_t* length) noexcept nogil:
    """One message at the start of `left` bytes: its header, and of the run it carries all but the body. -> Fault"""
    cdef MessageHeader message
    cdef RunHeader run
    cdef int fault
    if left < MESSAGE_HEADER_BYTES:
        return FAULT_SHAPE
    memcpy(&message, data, MESSAGE_HEADER_BYTES)
    if message.length < MESSAGE_HEADER_BYTES or message.length > left:
        return FAULT_SHAPE
    if message.kind < MSG_APPEND or message.kind > MSG_NODE_STATUS or message.flags & ~MESSAGE_FLAGS_ALL:
        return FAULT_KIND
    length[0] = message.length
    if not message.flags & FLAG_RUN:
        return FAULT_NONE
    fault = run_check(data + MESSAGE_HEADER_BYTES, message.length - MESSAGE_HEADER_BYTES, False)
    if fault != FAULT_NONE:
        return fault
    memcpy(&run, data + MESSAGE_HEADER_BYTES, RUN_HEADER_BYTES)
    if run.kind != RUN_ENTRIES and run.kind != RUN_MEMBERSHIP:
        return FAULT_KIND       # records about one replica stay on its own disk: from a peer they are never taken
    if run.group != message.group or message.length != MESSAGE_HEADER_BYTES + RUN_HEADER_BYTES + run.bytes:
        return FAULT_SHAPE
    return FAULT_NONE


cdef int frame_check(const char* data, size_t available, size_t length_max) noexcept nogil:
    cdef FrameHeader frame
    cdef uint32_t crc, left, length = 0
    cdef int fault
    if available < FRAME_HEADER_BYTES:
        return FAULT_SHORT
    memcpy(&frame, data, FRAME_HEADER_BYTES)
    if frame.magic != FRAME_MAGIC:
        return FAULT_MAGIC
    if frame.version != FORMAT_VERSION:
        return FAULT_VERSION
    if frame.length > length_max or frame.length > FRAME_BYTES_MAX:
        return FAULT_LIMIT
    if frame.length > available:
        return FAULT_SHORT
    if frame.length < FRAME_HEADER_BYTES or frame.zero != 0:
        return FAULT_SHAPE
    left = frame.length - FRAME_HEADER_BYTES
    data += FRAME_HEADER_BYTES
    crc = crc32c_update(0, &frame, FRAME_CRC_AT)
    if frame.crc != crc32c_update(crc, data, left):
        return FAULT_CHECKSUM
    if frame.kind < FRAME_MESSAGES or frame.kind > FRAME_GOODBYE:
        return FAULT_KIND
    if frame.kind != FRAME_MESSAGES:
        return FAULT_NONE
    for _ in range(frame.count):
        fault = _message_check(data, left, &length)
        if fault != FAULT_NONE:
            return fault
        data += length
        left -= length
    return FAULT_NONE if left == 0 else FAULT_SHAPE


# -- quorums --------------------------------------------------------------------------------------------------------------

cdef uint64_t majority_index(const uint64_t* acks, int count) noexcept nogil:
    cdef uint64_t ranked[REPLICAS_MAX]      # descending
    cdef uint64_t ack
    cdef int at
    if count <= 0:
        return <uint64_t>-1
    if count > REPLICAS_MAX:
        return 0        # no membership is that large: nothing is committed by one
    for i in range(count):
        ack = acks[i]
        at = i
        while at > 0 and ranked[at - 1] < ack:
            ranked[at] = ranked[at - 1]
            at -= 1
        ranked[at] = ack
    return ranked[count // 2]


cdef int majority_vote(const signed char* votes, int count) noexcept nogil:
    cdef int granted = 0, refused = 0
    for i in range(count):
        granted += votes[i] > 0
        refused += votes[i] < 0
    if count <= 0 or granted > count // 2:
        return VOTE_WON
    return VOTE_LOST if count - refused <= count // 2 else VOTE_PENDING


# -- committed runs -------------------------------------------------------------------------------------------------------

cdef void _drop_chunks(const CommittedRun* items, Py_ssize_t count) noexcept nogil:
    for i in range(count):
        if items[i].chunk != NULL:
            chunk_drop(items[i].chunk)


@cython.final
cdef class CommittedRuns:
    """An append-only list of committed runs on their way to the state machines; see `_core.pxd`."""

    def __cinit__(self):
        self.results = {}

    def __dealloc__(self):
        _drop_chunks(self.items, self.count)
        free(self.items)

    cdef CommittedRun* add(self) except NULL:
        cdef Py_ssize_t capacity
        cdef CommittedRun* items
        if self.count == self.capacity:
            capacity = max(<Py_ssize_t>COMMITTED_ITEMS_MIN, self.capacity * 2)
            items = <CommittedRun*>realloc(self.items, capacity * sizeof(CommittedRun))
            if items == NULL:
                raise MemoryError(f"no memory for {capacity} committed runs")
            self.items = items
            self.capacity = capacity
        cdef CommittedRun* item = &self.items[self.count]
        memset(item, 0, sizeof(CommittedRun))
        self.count += 1
        return item

    def clear(self):
        """Forget all items and results and let go of their memory."""
        _drop_chunks(self.items, self.count)
        self.count = 0
        self.done = 0
        self.results = {}

    def __len__(self):
        return self.count
