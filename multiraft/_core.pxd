# Ring 0, the compiled leaf: bytes and numbers. docs/formats.md is the law for every layout here.
#
# Offered to the rings above: growing buffers, chunks (memory that never moves), runs, batches, frames, CRC-32C, the
# commit index and the vote result. Nothing here knows a clock, a socket, a file or a rule of Raft beyond quorums.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


# -- limits: each is checked before anything is allocated or read ------------------------------------------------------

cpdef enum:
    RUN_HEADER_BYTES = 64
    BATCH_HEADER_BYTES = 40
    DIRECTORY_ITEM_BYTES = 24
    FRAME_HEADER_BYTES = 64
    MESSAGE_HEADER_BYTES = 72
    ENTRY_BYTES_MAX = 8 * 1024 * 1024
    RUN_ENTRIES_MAX = 1024 * 1024
    RUN_BYTES_MAX = 16 * 1024 * 1024
    BATCH_SEAL_BYTES = 256 * 1024
    BATCH_BYTES_MAX = 17 * 1024 * 1024
    BATCH_RUNS_MAX = 65536
    FRAME_BYTES_MAX = 32 * 1024 * 1024
    HELLO_BYTES_MAX = 1024
    REPLICAS_MAX = 31
    BATCH_MAGIC = 0x3142524d
    FRAME_MAGIC = 0x3146524d
    FORMAT_VERSION = 1


# -- numbers that C, Python, the spec, the tests and the docs share -----------------------------------------------------

cpdef enum RunKind:
    RUN_ENTRIES = 1
    RUN_MEMBERSHIP = 2
    RUN_HARD_STATE = 3
    RUN_TRUNCATE = 4
    RUN_BASE = 5
    RUN_SNAPSHOT_PENDING = 6
    RUN_SNAPSHOT_MARK = 7
    RUN_REPLICA_CREATED = 8
    RUN_TOMBSTONE = 9
    RUN_PINNED = 10
    RUN_REWRITE = 11

cpdef enum MessageKind:
    MSG_APPEND = 1
    MSG_APPEND_ACK = 2
    MSG_HEARTBEAT = 3
    MSG_HEARTBEAT_ACK = 4
    MSG_PRE_VOTE = 5
    MSG_PRE_VOTE_ACK = 6
    MSG_VOTE = 7
    MSG_VOTE_ACK = 8
    MSG_SNAPSHOT = 9
    MSG_TIMEOUT_NOW = 10
    MSG_READ_INDEX = 11
    MSG_READ_INDEX_ACK = 12
    MSG_TRANSFER_LEADER = 13
    MSG_FORWARD = 14
    MSG_FORWARD_ACK = 15
    MSG_NODE_STATUS = 16

cpdef enum MessageFlag:
    FLAG_REJECT = 1
    FLAG_TRANSFER = 2
    FLAG_RUN = 4

cpdef enum FrameKind:
    FRAME_MESSAGES = 1
    FRAME_HELLO = 2
    FRAME_BULK = 3
    FRAME_GOODBYE = 4

cpdef enum MemberFlag:
    MEMBER_VOTER = 1
    MEMBER_OUTGOING = 2
    MEMBER_LEARNER = 4
    MEMBER_LEARNER_NEXT = 8

cpdef enum VoteResult:
    VOTE_PENDING = 0
    VOTE_WON = 1
    VOTE_LOST = 2

# What a check of foreign bytes found. 0 is sound; every other value is a reason to refuse them.
cpdef enum Fault:
    FAULT_NONE = 0
    FAULT_SHORT = 1         # fewer bytes than the length says
    FAULT_LIMIT = 2         # a length or count over its limit
    FAULT_MAGIC = 3
    FAULT_VERSION = 4
    FAULT_KIND = 5
    FAULT_CHECKSUM = 6
    FAULT_SHAPE = 7         # lengths, counts or offsets that contradict each other


# -- layouts, exactly as in docs/formats.md ------------------------------------------------------------------------------

cdef packed struct RunHeader:
    uint64_t group
    uint64_t first
    uint64_t term
    uint64_t prev_term
    uint64_t commit
    uint32_t count
    uint32_t bytes
    uint32_t from_replica
    uint16_t kind
    uint16_t flags
    uint32_t body_crc
    uint32_t head_crc

cdef packed struct BatchHeader:
    uint32_t magic
    uint16_t version
    uint16_t flags
    uint32_t length
    uint32_t count
    uint64_t sequence
    uint64_t store_id
    uint32_t directory_crc
    uint32_t head_crc

cdef packed struct DirectoryItem:
    uint64_t group
    uint16_t kind
    uint16_t zero
    uint32_t length
    uint32_t offset
    uint32_t zero2

cdef packed struct FrameHeader:
    uint32_t magic
    uint32_t length
    uint16_t version
    uint16_t kind
    uint32_t count
    uint64_t cluster_id
    uint64_t store_id
    uint32_t from_node
    uint32_t to_node
    uint64_t link_epoch
    uint64_t sequence
    uint32_t crc
    uint32_t head_crc

cdef packed struct MessageHeader:
    uint16_t kind
    uint16_t flags
    uint32_t length
    uint64_t group
    uint32_t from_replica
    uint32_t to_replica
    uint64_t term
    uint64_t index
    uint64_t log_term
    uint64_t commit
    uint64_t hint
    uint64_t context


# -- memory ---------------------------------------------------------------------------------------------------------------

# A growing buffer. `data` moves when it grows, so nobody keeps a pointer into it across a buffer_room().
cdef struct Buffer:
    char* data
    size_t size             # bytes in use
    size_t capacity

# Memory that never moves while anybody holds it. Runs live in chunks: the replicas' tails, the batch under construction
# and committed runs on their way to a state machine all hold references. Counted under the GIL; never from two threads.
cdef struct Chunk:
    uint32_t references
    uint32_t runs           # runs written into it, back to back from the start
    size_t size             # bytes in use
    size_t capacity
    char* data

cdef char* buffer_room(Buffer* buffer, size_t more) except NULL    # room for `more` bytes at the end; size is unchanged
cdef void buffer_free(Buffer* buffer) noexcept nogil

cdef Chunk* chunk_new(size_t capacity) except NULL                 # one reference, the caller's
cdef void chunk_take(Chunk* chunk) noexcept nogil
cdef void chunk_drop(Chunk* chunk) noexcept nogil                  # frees it with the last reference
cdef size_t chunk_bytes_total() noexcept nogil                     # bytes of all live chunks of the process


# -- checksums and checks: noexcept, nogil, never a read past `available` ------------------------------------------------

cdef uint32_t crc32c_update(uint32_t crc, const void* data, size_t length) noexcept nogil    # crc of the bytes so far, 0 at first
cdef uint32_t run_body_crc(const RunHeader* run, const char* body) noexcept nogil
cdef void run_seal_header(RunHeader* run) noexcept nogil           # fills head_crc; the last thing that is written
cdef int run_check(const char* data, size_t available, bint check_body) noexcept nogil          # -> Fault
cdef int batch_check(const char* data, size_t available) noexcept nogil                         # header and directory -> Fault
cdef int frame_head_check(const char* data, size_t length_max) noexcept nogil     # the 64 bytes of its header -> Fault
cdef int frame_check(const char* data, size_t available, size_t length_max) noexcept nogil      # all of it but run bodies -> Fault


# -- quorums: over sorted or unsorted plain arrays of at most REPLICAS_MAX members ----------------------------------------

# The highest index that a majority of `acks` has reached; 2**64 - 1 for no members at all, so that an empty half of a joint
# membership never holds the other back.
cdef uint64_t majority_index(const uint64_t* acks, int count) noexcept nogil
# `votes`: 1 granted, -1 refused, 0 not heard. No members at all: won.
cdef int majority_vote(const signed char* votes, int count) noexcept nogil


# -- committed runs on their way to a state machine -----------------------------------------------------------------------

# One stretch of committed and locally synced entries. `entries` points into `chunk`, which the item holds a reference to.
cdef struct CommittedRun:
    uint64_t group
    uint64_t first
    uint64_t term
    uint32_t count
    uint32_t bytes
    uint32_t kind           # RUN_ENTRIES or RUN_MEMBERSHIP
    uint32_t skip           # entries of it that were applied already, when an apply stops in the middle for its budget
    uint64_t result_base    # filled by the state machine: the plain result of entry i is result_base + i
    const char* entries     # count times (length u32, payload)
    Chunk* chunk


# An append-only list of them, oldest first, for all groups of a node. `MultiRaft.ready` fills one a turn, the state
# machines consume it, `MultiRaft.applied` and the waiters walk what was consumed. `done` counts items wholly applied.
cdef class CommittedRuns:
    cdef CommittedRun* items
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef public Py_ssize_t done
    # (group, index) -> result, for those entries whose result is not result_base + index: an error to raise, or a value.
    cdef public dict results

    cdef CommittedRun* add(self) except NULL        # zeroed but for nothing; the caller fills it and takes its chunk
