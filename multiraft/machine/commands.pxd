# The command envelope of the built-in store, version 1: what is proposed, replicated and applied. docs/formats.md,
# section "Commands", is the law for the layout. Decoding allocates nothing and reads nothing that it has not checked.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from multiraft._core cimport ENTRY_BYTES_MAX

cdef enum:
    COMMAND_VERSION = 1
    COMMAND_HEADER_BYTES = 10
    USER_KEY_BYTES_MAX = 480
    KEY_BYTES_MAX = 484             # physical: those, 2 of the space, 2 of a hash slot
    PREFIX_BYTES = 2                # the space, big-endian, before every key
    OPERATIONS_MAX = 1024 * 1024
    CONDITIONS_MAX = 65535

cpdef enum CommandKind:
    COMMAND_PUT = 1
    COMMAND_DELETE = 2
    COMMAND_PUT_MANY = 3
    COMMAND_DELETE_RANGE = 4
    COMMAND_BATCH = 5

cpdef enum CommandFlag:
    COMMAND_SESSION = 1
    COMMAND_TIME = 2
    COMMAND_EXPIRY = 4

cpdef enum OperationKind:
    OPERATION_PUT = 1
    OPERATION_DELETE = 2
    OPERATION_DELETE_RANGE = 3

cpdef enum ConditionKind:
    CONDITION_VALUE = 1             # the key is there with this value
    CONDITION_REVISION = 2          # the key is there with this revision
    CONDITION_ABSENT = 3
    CONDITION_PRESENT = 4

cdef packed struct CommandHeader:
    uint8_t version
    uint8_t kind
    uint16_t flags
    uint16_t space
    uint32_t epoch

# One decoded command. Pointers reach into the bytes it was opened from and live no longer than those.
cdef struct Command:
    int kind
    uint16_t flags
    uint16_t space
    uint32_t epoch
    uint64_t session                # session, sequence, acked_through: 0 without COMMAND_SESSION
    uint64_t sequence
    uint64_t acked_through
    uint64_t time_ms                # of the leader that proposed it; 0 without COMMAND_TIME
    uint64_t expiry_ms              # for every key that it puts; 0 is never
    uint32_t conditions             # how many stand at `at`, before the operations
    uint32_t operations
    const char* at
    const char* end

cdef struct Operation:
    int kind
    uint32_t key_bytes
    uint32_t value_bytes
    const char* key
    const char* value               # of OPERATION_DELETE_RANGE: its end, where 0 bytes mean no end

cdef struct Condition:
    int kind
    uint32_t key_bytes
    uint32_t value_bytes
    const char* key
    const char* value
    uint64_t revision

# Reads and checks a whole command. Fault: 0 is sound; FAULT_VERSION and FAULT_KIND speak of formats newer than ours, all
# others of bytes that nobody of ours wrote.
cdef int command_open(const char* data, size_t size, Command* command) noexcept nogil
# The next one of an opened command, which has been checked: returns where the one after it stands.
cdef const char* next_condition(const char* at, Condition* condition) noexcept nogil
cdef const char* next_operation(const Command* command, const char* at, Operation* operation) noexcept nogil

# -- encoding, for whoever has no time to go through Python: sizes first, then `command_new`, then the body written at `at` ---

# The length of a user's key, or InvalidCommand or TooLarge.
cdef Py_ssize_t user_key_size(object key) except -1
# The length of a value that is `bytes` (`plain` makes it so), or InvalidCommand or TooLarge.
cdef Py_ssize_t value_size(object value, Py_ssize_t value_bytes_max) except -1
# The value itself where it is `bytes`, else a copy of a buffer's bytes.
cdef object plain(object value)
# What a command has before its body.
cdef Py_ssize_t head_size(uint64_t expiry_ms) noexcept nogil
# A command of `size` bytes in all, its header written; `at` is where the body goes.
cdef bytes command_new(Py_ssize_t size, char** at, int kind, uint16_t space, uint32_t epoch, uint64_t expiry_ms)
# One put (6 bytes, key, value), or one key (2 bytes, key); `head` stands before the key. They return where they ended.
cdef char* write_put(char* at, const char* head, size_t head_bytes, object key, object value) noexcept
cdef char* write_key(char* at, const char* head, size_t head_bytes, object key) noexcept
