# On the path of a put.
"""The command envelope of the built-in store: encoders that Python calls once a user call, a decoder for C and for people.

Keys are physical keys: whoever encodes has put the space (and the slot) before them. Nothing here knows shards, revisions
or time; a field that speaks of them is carried. A command that `command_open` passes can be walked without another check.
"""

from __future__ import annotations

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset

from multiraft._core cimport (
    FAULT_KIND, FAULT_LIMIT, FAULT_NONE, FAULT_SHAPE, FAULT_SHORT, FAULT_VERSION,
)

from collections import namedtuple

from multiraft.errors import FormatUnsupported, InvalidCommand, TooLarge

VALUE_BYTES_MAX = 1024 * 1024
KEY_BYTES_LIMIT = KEY_BYTES_MAX

Decoded = namedtuple(
    "Decoded",
    "kind flags space epoch session sequence acked_through time_ms expiry_ms conditions operations",
)

cdef enum:
    FLAGS_KNOWN = COMMAND_SESSION | COMMAND_TIME | COMMAND_EXPIRY
    SESSION_BYTES = 24
    STAMP_BYTES = 8


# -- encoding -----------------------------------------------------------------------------------------------------------


cdef Py_ssize_t user_key_size(object key) except -1:
    if not PyBytes_CheckExact(key):
        raise InvalidCommand(f"a key must be bytes, not {type(key).__name__}")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    if size == 0:
        raise InvalidCommand("a key must not be empty")
    if size > USER_KEY_BYTES_MAX:
        raise TooLarge(f"a key has {size} bytes; {USER_KEY_BYTES_MAX} are the limit")
    return size


cdef Py_ssize_t key_size(object key) except -1:
    """Length of a sound physical key. It must be `bytes`: anything that could change under us is not a key."""
    if not PyBytes_CheckExact(key):
        raise InvalidCommand(f"a key must be bytes, not {type(key).__name__}")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    if size <= PREFIX_BYTES:
        raise InvalidCommand("a key must not be empty")
    if size > KEY_BYTES_MAX:
        raise TooLarge(f"a key has {size} bytes with its prefix; {KEY_BYTES_MAX} are the limit")
    return size


cdef Py_ssize_t value_size(object value, Py_ssize_t value_bytes_max) except -1:
    if not PyBytes_CheckExact(value):
        raise InvalidCommand(f"a value must be bytes, not {type(value).__name__}")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    if size > value_bytes_max:
        raise TooLarge(f"a value has {size} bytes; {value_bytes_max} are the limit")
    return size


cdef object plain(object value):
    """The value itself where it is `bytes`, else a copy of a buffer's bytes."""
    cdef Py_buffer view
    if PyBytes_CheckExact(value):
        return value
    if isinstance(value, str) or not PyObject_CheckBuffer(value):
        raise InvalidCommand(f"a value must be bytes or a buffer, not {type(value).__name__}")
    PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    try:
        return PyBytes_FromStringAndSize(<const char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef bytes command_new(Py_ssize_t size, char** at, int kind, uint16_t space, uint32_t epoch, uint64_t expiry_ms):
    """A command of `size` bytes in all, its header written; `at` is where the body goes."""
    cdef CommandHeader header
    if size > ENTRY_BYTES_MAX:
        raise TooLarge(f"a command has {size} bytes; {ENTRY_BYTES_MAX} are the limit")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef char* data = PyBytes_AS_STRING(out)
    header.version = COMMAND_VERSION
    header.kind = kind
    header.flags = COMMAND_EXPIRY if expiry_ms else 0
    header.space = space
    header.epoch = epoch
    memcpy(data, &header, COMMAND_HEADER_BYTES)
    at[0] = data + COMMAND_HEADER_BYTES
    if expiry_ms:
        memcpy(at[0], &expiry_ms, STAMP_BYTES)
        at[0] += STAMP_BYTES
    return out


cdef Py_ssize_t head_size(uint64_t expiry_ms) noexcept nogil:
    return COMMAND_HEADER_BYTES + (STAMP_BYTES if expiry_ms else 0)


cdef char* write_put(char* at, const char* head, size_t head_bytes, object key, object value) noexcept:
    cdef uint16_t key_bytes = <uint16_t>(head_bytes + <size_t>PyBytes_GET_SIZE(key))
    cdef uint32_t value_bytes = <uint32_t>PyBytes_GET_SIZE(value)
    memcpy(at, &key_bytes, 2)
    memcpy(at + 2, &value_bytes, 4)
    memcpy(at + 6, head, head_bytes)
    memcpy(at + 6 + head_bytes, PyBytes_AS_STRING(key), key_bytes - head_bytes)
    memcpy(at + 6 + key_bytes, PyBytes_AS_STRING(value), value_bytes)
    return at + 6 + key_bytes + value_bytes


cdef char* write_key(char* at, const char* head, size_t head_bytes, object key) noexcept:
    cdef uint16_t key_bytes = <uint16_t>(head_bytes + <size_t>PyBytes_GET_SIZE(key))
    memcpy(at, &key_bytes, 2)
    memcpy(at + 2, head, head_bytes)
    memcpy(at + 2 + head_bytes, PyBytes_AS_STRING(key), key_bytes - head_bytes)
    return at + 2 + key_bytes


cdef inline char* write_range(char* at, object start, object end) noexcept:
    cdef uint16_t start_bytes = <uint16_t>PyBytes_GET_SIZE(start)
    cdef uint16_t end_bytes = <uint16_t>PyBytes_GET_SIZE(end)
    memcpy(at, &start_bytes, 2)
    memcpy(at + 2, &end_bytes, 2)
    memcpy(at + 4, PyBytes_AS_STRING(start), start_bytes)
    memcpy(at + 4 + start_bytes, PyBytes_AS_STRING(end), end_bytes)
    return at + 4 + start_bytes + end_bytes


cdef Py_ssize_t range_size(object start, object end) except -1:
    """Bytes of a range's two ends. `start` may be a bare prefix; an empty `end` means that there is none."""
    if not PyBytes_CheckExact(start) or not PyBytes_CheckExact(end):
        raise InvalidCommand("the ends of a range must be bytes")
    cdef Py_ssize_t start_bytes = PyBytes_GET_SIZE(start)
    cdef Py_ssize_t end_bytes = PyBytes_GET_SIZE(end)
    if start_bytes > KEY_BYTES_MAX or end_bytes > KEY_BYTES_MAX:
        raise TooLarge(f"an end of a range is over {KEY_BYTES_MAX} bytes with its prefix")
    if end_bytes and start >= end:
        raise InvalidCommand("a range must start before it ends")
    return start_bytes + end_bytes


def encode_put(
    uint16_t space,
    uint32_t epoch,
    key,
    value,
    Py_ssize_t value_bytes_max=1024 * 1024,
    uint64_t expiry_ms=0,
):
    """Put one key. Raises InvalidCommand or TooLarge."""
    cdef char* at
    if not PyBytes_CheckExact(value):
        value = plain(value)
    cdef Py_ssize_t size = 6 + key_size(key) + value_size(value, value_bytes_max)
    cdef bytes out = command_new(head_size(expiry_ms) + size, &at, COMMAND_PUT, space, epoch, expiry_ms)
    write_put(at, b"", 0, key, value)
    return out


def encode_delete(uint16_t space, uint32_t epoch, key):
    """Delete one key; it need not be there."""
    cdef char* at
    cdef Py_ssize_t size = 2 + key_size(key)
    cdef bytes out = command_new(COMMAND_HEADER_BYTES + size, &at, COMMAND_DELETE, space, epoch, 0)
    write_key(at, b"", 0, key)
    return out


def encode_delete_range(uint16_t space, uint32_t epoch, start, end):
    """Delete every key from `start` up to, not including, `end`."""
    cdef char* at
    cdef Py_ssize_t size = 4 + range_size(start, end)
    cdef bytes out = command_new(COMMAND_HEADER_BYTES + size, &at, COMMAND_DELETE_RANGE, space, epoch, 0)
    write_range(at, start, end)
    return out


def encode_put_many(
    uint16_t space,
    uint32_t epoch,
    items,
    Py_ssize_t value_bytes_max=1024 * 1024,
    uint64_t expiry_ms=0,
):
    """Put several keys of one shard, all or none: `items` are (key, value) pairs, and of a key named twice the last counts."""
    cdef char* at
    cdef Py_ssize_t size = head_size(expiry_ms) + 4
    cdef list pairs = []
    for key, value in items:
        value = plain(value)
        size += 6 + key_size(key) + value_size(value, value_bytes_max)
        if size > ENTRY_BYTES_MAX:
            raise TooLarge(f"a command is over {ENTRY_BYTES_MAX} bytes")
        pairs.append((key, value))
    if not pairs:
        raise InvalidCommand("nothing to put")
    cdef uint32_t count = <uint32_t>len(pairs)
    cdef bytes out = command_new(size, &at, COMMAND_PUT_MANY, space, epoch, expiry_ms)
    memcpy(at, &count, 4)
    at += 4
    for key, value in pairs:
        at = write_put(at, b"", 0, key, value)
    return out


def encode_batch(
    uint16_t space,
    uint32_t epoch,
    operations,
    conditions=(),
    Py_ssize_t value_bytes_max=1024 * 1024,
    uint64_t expiry_ms=0,
):
    """Several operations of one shard, done if every condition holds, else none of them.

    Operations are (OPERATION_PUT, key, value), (OPERATION_DELETE, key) and (OPERATION_DELETE_RANGE, start, end), done in
    order; conditions are (CONDITION_VALUE, key, value), (CONDITION_REVISION, key, revision), (CONDITION_ABSENT, key) and
    (CONDITION_PRESENT, key), judged before the first operation.
    """
    cdef list wanted = [checked_condition(item, value_bytes_max) for item in conditions]
    cdef list steps = [checked_operation(item, value_bytes_max) for item in operations]
    cdef Py_ssize_t size = head_size(expiry_ms) + 6
    cdef uint16_t condition_count = <uint16_t>len(wanted)
    cdef uint32_t operation_count = <uint32_t>len(steps)
    cdef char* at
    if not steps and not wanted:
        raise InvalidCommand("an empty batch")
    if len(wanted) > CONDITIONS_MAX or len(steps) > OPERATIONS_MAX:
        raise TooLarge(f"over {CONDITIONS_MAX} conditions or {OPERATIONS_MAX} operations in one batch")
    for item in wanted:
        size += condition_size(item)
    for item in steps:
        size += operation_size(item)
    cdef bytes out = command_new(size, &at, COMMAND_BATCH, space, epoch, expiry_ms)
    memcpy(at, &condition_count, 2)
    memcpy(at + 2, &operation_count, 4)
    at += 6
    for item in wanted:
        at = write_condition(at, item)
    for item in steps:
        at = write_operation(at, item)
    return out


cdef tuple parts_of(object item, str what):
    """(kind, key, operand) of a condition or an operation given as a tuple; the operand is None where there is none."""
    cdef tuple parts
    if not isinstance(item, tuple) or not 2 <= len(<tuple>item) <= 3 or not isinstance((<tuple>item)[0], int):
        raise InvalidCommand(f"not {what}: {item!r}")
    parts = <tuple>item
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


cdef tuple checked_condition(object item, Py_ssize_t value_bytes_max):
    kind, key, operand = parts_of(item, "a condition")
    key_size(key)
    if kind == CONDITION_VALUE:
        operand = plain(operand)
        value_size(operand, value_bytes_max)
    elif kind == CONDITION_REVISION:
        if type(operand) is not int or not 0 <= operand < 2**64:
            raise InvalidCommand(f"not a revision: {operand!r}")
    elif kind != CONDITION_ABSENT and kind != CONDITION_PRESENT:
        raise InvalidCommand(f"not a condition: {item!r}")
    return kind, key, operand


cdef tuple checked_operation(object item, Py_ssize_t value_bytes_max):
    kind, key, operand = parts_of(item, "an operation")
    if kind == OPERATION_PUT:
        key_size(key)
        operand = plain(operand)
        value_size(operand, value_bytes_max)
    elif kind == OPERATION_DELETE:
        key_size(key)
    elif kind == OPERATION_DELETE_RANGE:
        range_size(key, operand)
    else:
        raise InvalidCommand(f"not an operation: {item!r}")
    return kind, key, operand


cdef Py_ssize_t condition_size(tuple item) except -1:
    cdef Py_ssize_t size = 3 + PyBytes_GET_SIZE(item[1])
    if item[0] == CONDITION_VALUE:
        size += 4 + PyBytes_GET_SIZE(item[2])
    elif item[0] == CONDITION_REVISION:
        size += 8
    return size


cdef Py_ssize_t operation_size(tuple item) except -1:
    if item[0] == OPERATION_PUT:
        return 7 + PyBytes_GET_SIZE(item[1]) + PyBytes_GET_SIZE(item[2])
    if item[0] == OPERATION_DELETE:
        return 3 + PyBytes_GET_SIZE(item[1])
    return 5 + PyBytes_GET_SIZE(item[1]) + PyBytes_GET_SIZE(item[2])


cdef char* write_condition(char* at, tuple item) except NULL:
    cdef uint64_t revision
    cdef uint32_t value_bytes
    at[0] = <char><int>item[0]
    at = write_key(at + 1, b"", 0, item[1])
    if item[0] == CONDITION_VALUE:
        value_bytes = <uint32_t>PyBytes_GET_SIZE(item[2])
        memcpy(at, &value_bytes, 4)
        memcpy(at + 4, PyBytes_AS_STRING(item[2]), value_bytes)
        at += 4 + value_bytes
    elif item[0] == CONDITION_REVISION:
        revision = item[2]
        memcpy(at, &revision, 8)
        at += 8
    return at


cdef char* write_operation(char* at, tuple item) except NULL:
    at[0] = <char><int>item[0]
    if item[0] == OPERATION_PUT:
        return write_put(at + 1, b"", 0, item[1], item[2])
    if item[0] == OPERATION_DELETE:
        return write_key(at + 1, b"", 0, item[1])
    return write_range(at + 1, item[1], item[2])


def with_session(bytes command not None, *, uint64_t session, uint64_t sequence, uint64_t acked_through):
    """The same command under a session, so that the store can tell a retry from a new call."""
    cdef CommandHeader header
    if len(command) < COMMAND_HEADER_BYTES:
        raise InvalidCommand("not a command")
    memcpy(&header, PyBytes_AS_STRING(command), COMMAND_HEADER_BYTES)
    if header.flags & COMMAND_SESSION:
        raise InvalidCommand("the command has a session already")
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(command) + SESSION_BYTES)
    cdef char* at = PyBytes_AS_STRING(out)
    header.flags |= COMMAND_SESSION
    memcpy(at, &header, COMMAND_HEADER_BYTES)
    at += COMMAND_HEADER_BYTES
    memcpy(at, &session, 8)
    memcpy(at + 8, &sequence, 8)
    memcpy(at + 16, &acked_through, 8)
    memcpy(
        at + SESSION_BYTES,
        PyBytes_AS_STRING(command) + COMMAND_HEADER_BYTES,
        len(command) - COMMAND_HEADER_BYTES,
    )
    if len(out) > ENTRY_BYTES_MAX:
        raise TooLarge(f"a command has {len(out)} bytes; {ENTRY_BYTES_MAX} are the limit")
    return out


def with_time(bytes command not None, *, uint64_t time_ms):
    """The same command stamped with the leader's time."""
    cdef Command opened
    refuse(command_open(PyBytes_AS_STRING(command), len(command), &opened))
    if opened.flags & COMMAND_TIME:
        raise InvalidCommand("the command has a time already")
    cdef Py_ssize_t head = COMMAND_HEADER_BYTES + (SESSION_BYTES if opened.flags & COMMAND_SESSION else 0)
    cdef CommandHeader header
    memcpy(&header, PyBytes_AS_STRING(command), COMMAND_HEADER_BYTES)
    header.flags |= COMMAND_TIME
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(command) + STAMP_BYTES)
    cdef char* at = PyBytes_AS_STRING(out)
    memcpy(at, PyBytes_AS_STRING(command), head)
    memcpy(at, &header, COMMAND_HEADER_BYTES)
    memcpy(at + head, &time_ms, STAMP_BYTES)
    memcpy(at + head + STAMP_BYTES, PyBytes_AS_STRING(command) + head, len(command) - head)
    return out


# -- decoding -----------------------------------------------------------------------------------------------------------


cdef int read_envelope(const char* data, size_t size, Command* command) noexcept nogil:
    """Header and optional fields; leaves `at` at the body."""
    cdef CommandHeader header
    memset(command, 0, sizeof(Command))
    if size < COMMAND_HEADER_BYTES:
        return FAULT_VERSION if size and <uint8_t>data[0] != COMMAND_VERSION else FAULT_SHORT
    memcpy(&header, data, COMMAND_HEADER_BYTES)
    if header.version != COMMAND_VERSION:
        return FAULT_VERSION
    if header.kind < COMMAND_PUT or header.kind > COMMAND_BATCH or header.flags & ~FLAGS_KNOWN:
        return FAULT_KIND
    if size > ENTRY_BYTES_MAX:
        return FAULT_LIMIT
    command.kind = header.kind
    command.flags = header.flags
    command.space = header.space
    command.epoch = header.epoch
    command.end = data + size
    cdef const char* at = data + COMMAND_HEADER_BYTES
    if header.flags & COMMAND_SESSION:
        if command.end - at < SESSION_BYTES:
            return FAULT_SHORT
        memcpy(&command.session, at, 8)
        memcpy(&command.sequence, at + 8, 8)
        memcpy(&command.acked_through, at + 16, 8)
        at += SESSION_BYTES
    if header.flags & COMMAND_TIME:
        if command.end - at < STAMP_BYTES:
            return FAULT_SHORT
        memcpy(&command.time_ms, at, 8)
        at += STAMP_BYTES
    if header.flags & COMMAND_EXPIRY:
        if command.end - at < STAMP_BYTES:
            return FAULT_SHORT
        memcpy(&command.expiry_ms, at, 8)
        at += STAMP_BYTES
    command.at = at
    return FAULT_NONE


cdef int command_open(const char* data, size_t size, Command* command) noexcept nogil:
    cdef int fault = read_envelope(data, size, command)
    cdef uint16_t conditions
    cdef size_t left
    if fault:
        return fault
    left = command.end - command.at
    command.operations = 1
    if command.kind == COMMAND_PUT_MANY:
        if left < 4:
            return FAULT_SHORT
        memcpy(&command.operations, command.at, 4)
        command.at += 4
    elif command.kind == COMMAND_BATCH:
        if left < 6:
            return FAULT_SHORT
        memcpy(&conditions, command.at, 2)
        memcpy(&command.operations, command.at + 2, 4)
        command.conditions = conditions
        command.at += 6
    if command.operations > OPERATIONS_MAX:
        return FAULT_LIMIT
    return check_body(command)


cdef int check_body(const Command* command) noexcept nogil:
    """Walks every condition and operation: each inside the bytes that are there, and nothing left over."""
    cdef const char* at = command.at
    cdef uint32_t position
    cdef int fault
    for position in range(command.conditions):
        fault = check_condition(&at, command.end)
        if fault:
            return fault
    for position in range(command.operations):
        fault = check_operation(command, &at)
        if fault:
            return fault
    return FAULT_NONE if at == command.end else FAULT_SHAPE


cdef inline int check_key(const char** at, const char* end) noexcept nogil:
    cdef uint16_t key_bytes
    if end - at[0] < 2:
        return FAULT_SHORT
    memcpy(&key_bytes, at[0], 2)
    if key_bytes > KEY_BYTES_MAX:
        return FAULT_LIMIT
    if key_bytes <= PREFIX_BYTES:
        return FAULT_SHAPE
    if end - at[0] - 2 < key_bytes:
        return FAULT_SHORT
    at[0] += 2 + key_bytes
    return FAULT_NONE


cdef int check_condition(const char** at, const char* end) noexcept nogil:
    cdef int kind, fault
    cdef uint32_t value_bytes
    if end - at[0] < 1:
        return FAULT_SHORT
    kind = <uint8_t>at[0][0]
    at[0] += 1
    if kind < CONDITION_VALUE or kind > CONDITION_PRESENT:
        return FAULT_KIND
    fault = check_key(at, end)
    if fault:
        return fault
    if kind == CONDITION_VALUE:
        if end - at[0] < 4:
            return FAULT_SHORT
        memcpy(&value_bytes, at[0], 4)
        if end - at[0] - 4 < value_bytes:
            return FAULT_SHORT
        at[0] += 4 + value_bytes
    elif kind == CONDITION_REVISION:
        if end - at[0] < 8:
            return FAULT_SHORT
        at[0] += 8
    return FAULT_NONE


cdef int check_operation(const Command* command, const char** at) noexcept nogil:
    cdef int kind = operation_kind(command)
    if kind == 0:
        if command.end - at[0] < 1:
            return FAULT_SHORT
        kind = <uint8_t>at[0][0]
        at[0] += 1
    if kind == OPERATION_PUT:
        return check_put(at, command.end)
    if kind == OPERATION_DELETE:
        return check_key(at, command.end)
    if kind == OPERATION_DELETE_RANGE:
        return check_range(at, command.end)
    return FAULT_KIND


cdef inline int check_put(const char** at, const char* end) noexcept nogil:
    cdef uint16_t key_bytes
    cdef uint32_t value_bytes
    if end - at[0] < 6:
        return FAULT_SHORT
    memcpy(&key_bytes, at[0], 2)
    memcpy(&value_bytes, at[0] + 2, 4)
    if key_bytes > KEY_BYTES_MAX:
        return FAULT_LIMIT
    if key_bytes <= PREFIX_BYTES:
        return FAULT_SHAPE
    if <size_t>(end - at[0] - 6) < <size_t>key_bytes + value_bytes:
        return FAULT_SHORT
    at[0] += 6 + key_bytes + value_bytes
    return FAULT_NONE


cdef int check_range(const char** at, const char* end) noexcept nogil:
    cdef uint16_t start_bytes, end_bytes
    cdef const char* keys
    cdef int order
    if end - at[0] < 4:
        return FAULT_SHORT
    memcpy(&start_bytes, at[0], 2)
    memcpy(&end_bytes, at[0] + 2, 2)
    if start_bytes > KEY_BYTES_MAX or end_bytes > KEY_BYTES_MAX:
        return FAULT_LIMIT
    if end - at[0] - 4 < start_bytes + end_bytes:
        return FAULT_SHORT
    keys = at[0] + 4
    if end_bytes:
        order = memcmp(keys, keys + start_bytes, start_bytes if start_bytes < end_bytes else end_bytes)
        if order > 0 or (order == 0 and start_bytes >= end_bytes):
            return FAULT_SHAPE
    at[0] = keys + start_bytes + end_bytes
    return FAULT_NONE


cdef inline int operation_kind(const Command* command) noexcept nogil:
    """The kind that the command's kind implies; 0 where each operation says its own."""
    if command.kind == COMMAND_PUT or command.kind == COMMAND_PUT_MANY:
        return OPERATION_PUT
    if command.kind == COMMAND_DELETE:
        return OPERATION_DELETE
    if command.kind == COMMAND_DELETE_RANGE:
        return OPERATION_DELETE_RANGE
    return 0


cdef const char* next_condition(const char* at, Condition* condition) noexcept nogil:
    cdef uint16_t key_bytes
    memset(condition, 0, sizeof(Condition))
    condition.kind = <uint8_t>at[0]
    memcpy(&key_bytes, at + 1, 2)
    condition.key_bytes = key_bytes
    condition.key = at + 3
    at += 3 + key_bytes
    if condition.kind == CONDITION_VALUE:
        memcpy(&condition.value_bytes, at, 4)
        condition.value = at + 4
        at += 4 + condition.value_bytes
    elif condition.kind == CONDITION_REVISION:
        memcpy(&condition.revision, at, 8)
        at += 8
    return at


cdef const char* next_operation(const Command* command, const char* at, Operation* operation) noexcept nogil:
    cdef uint16_t key_bytes, end_bytes
    operation.kind = operation_kind(command)
    if operation.kind == 0:
        operation.kind = <uint8_t>at[0]
        at += 1
    memcpy(&key_bytes, at, 2)
    operation.key_bytes = key_bytes
    operation.value_bytes = 0
    if operation.kind == OPERATION_PUT:
        memcpy(&operation.value_bytes, at + 2, 4)
        operation.key = at + 6
    elif operation.kind == OPERATION_DELETE:
        operation.key = at + 2
    else:
        memcpy(&end_bytes, at + 2, 2)
        operation.value_bytes = end_bytes
        operation.key = at + 4
    operation.value = operation.key + key_bytes
    return operation.value + operation.value_bytes


cdef int refuse(int fault) except -1:
    """Raise what a fault of a command means to whoever sent it."""
    if fault == FAULT_VERSION or fault == FAULT_KIND:
        raise FormatUnsupported("a command of a version or kind that is not known here")
    if fault:
        raise InvalidCommand("the bytes of a command are damaged or cut short")
    return 0


def only_deletes(bytes command not None):
    """Whether a command takes away and puts nothing: it is taken even where the disk is nearly full."""
    cdef Command opened
    cdef Operation operation
    cdef uint32_t position
    if command_open(PyBytes_AS_STRING(command), len(command), &opened):
        return False
    cdef const char* at = opened.at
    for position in range(opened.conditions):
        at = skip_condition(at)
    for position in range(opened.operations):
        at = next_operation(&opened, at, &operation)
        if operation.kind == OPERATION_PUT:
            return False
    return True


cdef const char* skip_condition(const char* at) noexcept nogil:
    cdef Condition condition
    return next_condition(at, &condition)


def decode(bytes command not None):
    """The whole command as plain values, for tests, tools and people. Raises FormatUnsupported or InvalidCommand."""
    cdef Command opened
    cdef Condition condition
    cdef Operation operation
    cdef uint32_t position
    refuse(command_open(PyBytes_AS_STRING(command), len(command), &opened))
    cdef const char* at = opened.at
    conditions, operations = [], []
    for position in range(opened.conditions):
        at = next_condition(at, &condition)
        key = condition.key[:condition.key_bytes]
        if condition.kind == CONDITION_VALUE:
            conditions.append((condition.kind, key, condition.value[:condition.value_bytes]))
        elif condition.kind == CONDITION_REVISION:
            conditions.append((condition.kind, key, condition.revision))
        else:
            conditions.append((condition.kind, key))
    for position in range(opened.operations):
        at = next_operation(&opened, at, &operation)
        key = operation.key[:operation.key_bytes]
        if operation.kind == OPERATION_DELETE:
            operations.append((operation.kind, key))
        else:
            operations.append((operation.kind, key, operation.value[:operation.value_bytes]))
    return Decoded(
        opened.kind, opened.flags, opened.space, opened.epoch, opened.session, opened.sequence,
        opened.acked_through, opened.time_ms, opened.expiry_ms, conditions, operations,
    )
