"""Ring 0: bytes and numbers. Memory, CRC-32C, runs, batches, frames, quorums; docs/formats.md is the law for every layout.

It never touches a clock, a socket or a file, knows no rule of Raft beyond what a quorum is, and makes no Python object
on the compiled paths. The `*_check` functions are the gateways for foreign bytes: they read nothing past `available`,
allocate nothing, and judge what stands at the start of the bytes given; whoever knows that nothing may follow compares
lengths after them. What passed them may be read through the structs of `_core.pxd` without another look.

Invariants: `chunk_bytes_total()` is the sum of the capacities of all live chunks; a chunk's `data` never moves; the
Python doors run the same code as the compiled callers.
"""

from collections import namedtuple

from multiraft.errors import InvariantViolation, LogCorrupt, TooLarge

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cimport cython

from multiraft._crc32c cimport MULTIRAFT_CRC_AVAILABLE, multiraft_crc, multiraft_crc_by_table, multiraft_crc_prepare


cdef extern from "Python.h":
    size_t SIZE_MAX
    Py_ssize_t Py_REFCNT(object value)



# The one thing done at import: the tables must be whole before any thread can ask for a checksum.
multiraft_crc_prepare()

cdef enum:
    BUFFER_BYTES_MIN = 256
    COMMITTED_ITEMS_MIN = 16
    RUN_HEAD_CRC_AT = 60
    BATCH_HEAD_CRC_AT = 36
    FRAME_CRC_AT = 56
    FRAME_LINK_AT = 16              # from here to the end of the header a link fills in what is its own
    SEAL_REFERENCES_MAX = 16
    CRC_NOGIL_BYTES_MIN = 16 * 1024
    MESSAGE_FLAGS_ALL = FLAG_REJECT | FLAG_TRANSFER | FLAG_RUN


# -- memory ---------------------------------------------------------------------------------------------------------------

# Of the process on purpose: memory is one for all nodes in it, and whoever bounds it asks for all of it.
cdef struct Accounts:
    size_t chunk_bytes

cdef Accounts accounts
accounts.chunk_bytes = 0


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
    accounts.chunk_bytes += capacity
    return chunk


cdef void chunk_take(Chunk* chunk) noexcept nogil:
    chunk.references += 1


cdef void chunk_drop(Chunk* chunk) noexcept nogil:
    chunk.references -= 1
    if chunk.references == 0:
        accounts.chunk_bytes -= chunk.capacity
        free(chunk)


cdef size_t chunk_bytes_total() noexcept nogil:
    return accounts.chunk_bytes


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


cdef int frame_head_check(const char* data, size_t length_max) noexcept nogil:
    cdef FrameHeader frame
    memcpy(&frame, data, FRAME_HEADER_BYTES)
    if frame.magic != FRAME_MAGIC:
        return FAULT_MAGIC
    if frame.version != FORMAT_VERSION:
        return FAULT_VERSION
    if frame.length > length_max or frame.length > FRAME_BYTES_MAX:
        return FAULT_LIMIT
    if frame.length < FRAME_HEADER_BYTES:
        return FAULT_SHAPE
    return FAULT_NONE if frame.head_crc == crc32c_update(0, &frame, FRAME_CRC_AT) else FAULT_CHECKSUM


cdef int frame_check(const char* data, size_t available, size_t length_max) noexcept nogil:
    cdef FrameHeader frame
    cdef uint32_t left, length = 0
    cdef int fault = FAULT_SHORT if available < FRAME_HEADER_BYTES else frame_head_check(data, length_max)
    if fault != FAULT_NONE:
        return fault
    memcpy(&frame, data, FRAME_HEADER_BYTES)
    if frame.length > available:
        return FAULT_SHORT
    left = frame.length - FRAME_HEADER_BYTES
    data += FRAME_HEADER_BYTES
    if frame.crc != crc32c_update(frame.head_crc, data, left):
        return FAULT_CHECKSUM
    if frame.kind < FRAME_MESSAGES or frame.kind > FRAME_GOODBYE:
        return FAULT_KIND
    if frame.kind != FRAME_MESSAGES:
        return FAULT_NONE if frame.count == 0 else FAULT_SHAPE
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


cdef CommittedRun* _item_at(CommittedRuns runs, Py_ssize_t at) except NULL:
    if not 0 <= at < runs.count:
        raise IndexError(f"item {at} of {runs.count}")
    return &runs.items[at]


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

    def append(self, uint64_t group, uint64_t first, uint64_t term, uint32_t kind, payloads):
        """Add one run by its payloads: the door by which tests feed a state machine."""
        cdef list entries = _entry_list(payloads)
        cdef size_t size = _body_bytes(entries, RUN_BYTES_MAX)
        cdef Chunk* chunk = chunk_new(size)
        cdef CommittedRun* item
        try:
            item = self.add()
        except MemoryError:
            chunk_drop(chunk)
            raise
        _write_body(entries, chunk.data)
        chunk.size = size
        item.group = group
        item.first = first
        item.term = term
        item.count = <uint32_t>len(entries)
        item.bytes = <uint32_t>size
        item.kind = kind
        item.entries = chunk.data
        item.chunk = chunk

    def item(self, Py_ssize_t at) -> tuple:
        """(group, first, term, kind, payloads) of one item, whole: also of what was applied already."""
        cdef const CommittedRun* item = _item_at(self, at)
        return item.group, item.first, item.term, item.kind, list(_entries(item.entries, item.count))

    def skip(self, Py_ssize_t at) -> int:
        """How many entries of an item were applied by a turn whose budget ended inside it."""
        return _item_at(self, at).skip

    def result_base(self, Py_ssize_t at) -> int:
        """What the state machine filled in: entry ``i`` of the item has the plain result ``result_base + i``."""
        return _item_at(self, at).result_base

    def __iter__(self):
        """Each item; the list may grow or be cleared by whoever iterates."""
        cdef Py_ssize_t at = 0
        while at < self.count:
            yield self.item(at)
            at += 1


# -- Python doors: numbers and checks ----------------------------------------------------------------------------------------

Run = namedtuple("Run", "group first term prev_term commit from_replica kind entries")
Batch = namedtuple("Batch", "sequence store_id runs")


cdef bytes _plain(object data):
    """The bytes of any buffer; the object itself where it is plain bytes."""
    cdef Py_buffer view
    if type(data) is bytes:
        return data
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return PyBytes_FromStringAndSize(<const char*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


def crc32c(data, uint32_t crc=0) -> int:
    """CRC-32C of ``data``, or of what came before (``crc``) and ``data``. Large data is summed without the GIL."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < CRC_NOGIL_BYTES_MIN:
            return crc32c_update(crc, view.buf, view.len)
        with nogil:
            crc = crc32c_update(crc, view.buf, view.len)
        return crc
    finally:
        PyBuffer_Release(&view)


def crc32c_table(data, uint32_t crc=0) -> int:
    """The same by the table, which machines without the instruction use: for the tests of it."""
    cdef bytes plain = _plain(data)
    cdef const unsigned char* start = <const unsigned char*>PyBytes_AS_STRING(plain)
    return <uint32_t>~multiraft_crc_by_table(~crc, start, PyBytes_GET_SIZE(plain))


def crc32c_by_instruction() -> bool:
    """Whether this machine has an instruction for it."""
    return bool(MULTIRAFT_CRC_AVAILABLE)


def chunk_bytes() -> int:
    """The bytes of all live chunks of the process, as accounted by ``chunk_bytes_total``."""
    return accounts.chunk_bytes


def check_run(data, bint check_body=True) -> Fault:
    """What `run_check` says of the run at the start of ``data``."""
    cdef bytes plain = _plain(data)
    return Fault(run_check(PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain), check_body))


def check_batch(data) -> Fault:
    """What `batch_check` says of the batch at the start of ``data``: of its header and directory."""
    cdef bytes plain = _plain(data)
    return Fault(batch_check(PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain)))


def check_frame(data, size_t length_max=FRAME_BYTES_MAX) -> Fault:
    """What `frame_check` says of the frame at the start of ``data``."""
    cdef bytes plain = _plain(data)
    return Fault(frame_check(PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain), length_max))


cdef int _members(object ids, list found) except -1:
    """The members, each once, however often it is named."""
    found.extend(set(ids))
    if len(found) > REPLICAS_MAX:
        raise TooLarge(f"{len(found)} members; a group has at most {REPLICAS_MAX}")
    return 0


def committed_index(voters, outgoing, acks) -> int:
    """The highest index that a majority of ``voters``, and one of ``outgoing``, has reached; a missing ack is 0."""
    cdef uint64_t reached[REPLICAS_MAX]
    cdef uint64_t lowest = <uint64_t>-1
    cdef list members
    for half in (voters, outgoing):
        members = []
        _members(half, members)
        for at, member in enumerate(members):
            reached[<int>at] = acks.get(member, 0)
        lowest = min(lowest, majority_index(reached, <int>len(members)))
    return lowest


def vote_result(voters, outgoing, votes) -> VoteResult:
    """Won where both halves are won, lost where one is lost; a missing vote has not been heard."""
    cdef signed char heard[REPLICAS_MAX]
    cdef list members, results = []
    for half in (voters, outgoing):
        members = []
        _members(half, members)
        for at, member in enumerate(members):
            heard[<int>at] = 0 if member not in votes else 1 if votes[member] else -1
        results.append(majority_vote(heard, <int>len(members)))
    if VOTE_LOST in results:
        return VoteResult.VOTE_LOST
    return VoteResult.VOTE_PENDING if VOTE_PENDING in results else VoteResult.VOTE_WON


# -- Python doors: runs and batches -----------------------------------------------------------------------------------------

cdef list _entry_list(object payloads):
    return [_plain(payload) for payload in payloads]


cdef size_t _body_bytes(list entries, size_t entry_bytes_max) except? 0:
    """How long the body of these entries is. Raises TooLarge before anybody allocates it."""
    cdef size_t size = 0
    cdef bytes entry
    if len(entries) > RUN_ENTRIES_MAX:
        raise TooLarge(f"{len(entries)} entries; a run has at most {RUN_ENTRIES_MAX}")
    for entry in entries:
        if <size_t>PyBytes_GET_SIZE(entry) > entry_bytes_max:
            raise TooLarge(f"an entry of {len(entry)} bytes; the limit is {entry_bytes_max}")
        size += 4 + PyBytes_GET_SIZE(entry)
    if size > RUN_BYTES_MAX:
        raise TooLarge(f"a run of {size} bytes; the limit is {RUN_BYTES_MAX}")
    return size


cdef int _write_body(list entries, char* to) except -1:
    cdef bytes entry
    cdef uint32_t length
    for entry in entries:
        length = <uint32_t>PyBytes_GET_SIZE(entry)
        memcpy(to, &length, 4)
        memcpy(to + 4, PyBytes_AS_STRING(entry), length)
        to += 4 + length
    return 0


cdef tuple _entries(const char* body, uint32_t count):
    """The payloads of a body that was checked."""
    cdef uint32_t length
    cdef list found = []
    for _ in range(count):
        memcpy(&length, body, 4)
        found.append(PyBytes_FromStringAndSize(body + 4, length))
        body += 4 + length
    return tuple(found)


cdef int _sound(int fault, str what) except -1:
    if fault != FAULT_NONE:
        raise LogCorrupt(f"{what}: {Fault(fault).name}")
    return 0


cdef int _well_made(int fault, str what) except -1:
    """An encoder's own output goes through the gateway that its readers use."""
    if fault != FAULT_NONE:
        raise InvariantViolation(f"these values make no {what}: {Fault(fault).name}")
    return 0


def encode_run(
    *,
    uint64_t group,
    uint64_t first,
    uint64_t term,
    uint64_t prev_term=0,
    uint64_t commit=0,
    uint32_t from_replica=0,
    uint16_t kind=RUN_ENTRIES,
    entries=(),
) -> bytes:
    """A sealed run. Raises TooLarge, or InvariantViolation where no reader would take what these values make."""
    cdef list payloads = _entry_list(entries)
    cdef size_t size = _body_bytes(payloads, RUN_BYTES_MAX if kind == RUN_REWRITE else ENTRY_BYTES_MAX)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, RUN_HEADER_BYTES + size)
    cdef char* to = PyBytes_AS_STRING(out)
    cdef RunHeader* run = <RunHeader*>to
    _write_body(payloads, to + RUN_HEADER_BYTES)
    run.group = group
    run.first = first
    run.term = term
    run.prev_term = prev_term
    run.commit = commit
    run.count = <uint32_t>len(payloads)
    run.bytes = <uint32_t>size
    run.from_replica = from_replica
    run.kind = kind
    run.flags = 0
    run.body_crc = run_body_crc(run, to + RUN_HEADER_BYTES)
    run_seal_header(run)
    _well_made(run_check(to, PyBytes_GET_SIZE(out), True), "run")
    return out


def decode_run(data) -> Run:
    """A whole run, checked, and nothing after it. Raises LogCorrupt with the fault's name."""
    cdef bytes plain = _plain(data)
    cdef const char* start = PyBytes_AS_STRING(plain)
    cdef const RunHeader* run = <const RunHeader*>start
    _sound(run_check(start, PyBytes_GET_SIZE(plain), True), "run")
    _sound(FAULT_NONE if PyBytes_GET_SIZE(plain) == RUN_HEADER_BYTES + run.bytes else FAULT_SHAPE, "run")
    return Run(
        run.group,
        run.first,
        run.term,
        run.prev_term,
        run.commit,
        run.from_replica,
        RunKind(run.kind),
        _entries(start + RUN_HEADER_BYTES, run.count),
    )


cdef int _as_listed(const char* start, const DirectoryItem* item) noexcept nogil:
    """Is a run whose header is sound the one that the directory says? One that is damaged is left to its reader. -> Fault"""
    cdef const RunHeader* run = <const RunHeader*>(start + item.offset)
    if run_check(start + item.offset, item.length, False) != FAULT_NONE:
        return FAULT_NONE
    if run.group != item.group or run.kind != item.kind or RUN_HEADER_BYTES + run.bytes != item.length:
        return FAULT_SHAPE
    return FAULT_NONE


def decode_batch(data) -> Batch:
    """A whole batch with its runs as bytes. Raises LogCorrupt with the fault's name.

    Header and directory are checked, and that no sound run stands under another's name; each run is checked by `decode_run`.
    """
    cdef bytes plain = _plain(data)
    cdef const char* start = PyBytes_AS_STRING(plain)
    cdef const BatchHeader* batch = <const BatchHeader*>start
    cdef const DirectoryItem* item = <const DirectoryItem*>(start + BATCH_HEADER_BYTES)
    cdef list runs = []
    _sound(batch_check(start, PyBytes_GET_SIZE(plain)), "batch")
    _sound(FAULT_NONE if PyBytes_GET_SIZE(plain) == batch.length else FAULT_SHAPE, "batch")
    for _ in range(batch.count):
        _sound(_as_listed(start, item), "batch")
        runs.append(PyBytes_FromStringAndSize(start + item.offset, item.length))
        item += 1
    return Batch(batch.sequence, batch.store_id, tuple(runs))


# -- Python doors: frames -----------------------------------------------------------------------------------------------------

def seal_frame(
    bytes frame not None,
    *,
    uint64_t cluster_id,
    uint64_t store_id,
    uint32_t from_node,
    uint32_t to_node,
    uint64_t link_epoch,
    uint64_t sequence,
) -> None:
    """Fill in what only the link knows, then the checksums, IN PLACE: a frame may be megabytes, and is written once.

    Python promises that bytes never change, so this is right only for a frame that its maker has just made and nobody has
    looked at. Two things stand guard, and raise InvariantViolation: a frame of which any of these fields is set already was
    sealed before (one object queued on two links would go out with the second one's names), and more references than a
    chain of calls holds mean that somebody keeps it. The count cannot tell a caller's variable from a keeper, so it is
    generous; the fields are exact.
    """
    cdef char* start = PyBytes_AS_STRING(frame)
    cdef FrameHeader* head = <FrameHeader*>start
    cdef Py_ssize_t at
    cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
    if size < FRAME_HEADER_BYTES or head.length != size or head.magic != FRAME_MAGIC or head.version != FORMAT_VERSION:
        raise InvariantViolation(f"{size} bytes that are no frame were to be sealed")
    for at in range(FRAME_LINK_AT, FRAME_HEADER_BYTES):
        if start[at] != 0:
            raise InvariantViolation("a frame was to be sealed twice: each link needs its own")
    if Py_REFCNT(frame) > SEAL_REFERENCES_MAX:
        raise InvariantViolation(f"a frame with {Py_REFCNT(frame)} references was to be changed in place")
    head.cluster_id = cluster_id
    head.store_id = store_id
    head.from_node = from_node
    head.to_node = to_node
    head.link_epoch = link_epoch
    head.sequence = sequence
    head.head_crc = crc32c_update(0, head, FRAME_CRC_AT)
    head.crc = crc32c_update(head.head_crc, start + FRAME_HEADER_BYTES, head.length - FRAME_HEADER_BYTES)
