"""Runs copied byte by byte: checked when they are read, cut to what counts, and packed into rewritten batches.

Nothing here knows the index or a disk. A run is never copied without its checksum being verified first, so that a new
checksum cannot bless damaged bytes.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from multiraft._core cimport (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    DIRECTORY_ITEM_BYTES,
    FAULT_NONE,
    FAULT_SHAPE,
    FAULT_SHORT,
    FORMAT_VERSION,
    RUN_ENTRIES,
    RUN_HARD_STATE,
    RUN_HEADER_BYTES,
    RUN_MEMBERSHIP,
    RUN_REWRITE,
    BatchHeader,
    DirectoryItem,
    RunHeader,
    crc32c_update,
    run_body_crc,
    run_check,
    run_seal_header,
)

from multiraft._core import Fault
from multiraft.errors import LogCorrupt

cdef enum:
    CARRIED_OFFSET = RUN_HEADER_BYTES + 12       # of the run within a REWRITE run: its header, a length, a sequence
    HARD_STATE_BYTES = 28

CARRIED_RUN_OFFSET = CARRIED_OFFSET


def copy_run(
    const unsigned char[::1] batch not None, uint64_t offset, uint32_t size, uint64_t group, uint64_t first, uint32_t count
):
    """The run at ``offset`` of a batch as bytes of its own: its first ``count`` entries, or the whole record.

    ``first`` is checked for runs of entries. Raises LogCorrupt where the bytes are not those the index knows.
    """
    cdef const RunHeader* run
    cdef int fault = FAULT_SHORT
    cdef bint entries = False
    if offset + size <= <uint64_t>batch.shape[0] and size >= RUN_HEADER_BYTES:
        run = <const RunHeader*>&batch[offset]
        with nogil:
            fault = run_check(<const char*>run, size, True)
        if fault == FAULT_NONE:
            entries = run.kind == RUN_ENTRIES or run.kind == RUN_MEMBERSHIP
            if entries and (run.group != group or run.first != first):
                fault = FAULT_SHAPE
            elif RUN_HEADER_BYTES + run.bytes != size or run.count < count:
                fault = FAULT_SHAPE
    if fault:
        last = first + count - 1 if count else first
        raise LogCorrupt(
            f"group {group}: the run of entries {first} to {last} is damaged ({Fault(fault).name})",
            damage={group: (first, last)},
        )
    if not entries or count == run.count:
        return PyBytes_FromStringAndSize(<const char*>run, size)
    return shorter(run, count)


cdef bytes shorter(const RunHeader* run, uint32_t count):
    """The first ``count`` entries of a checked run, as a run."""
    cdef const char* at = <const char*>run + RUN_HEADER_BYTES
    cdef const char* start = at
    cdef uint32_t length, entry
    cdef RunHeader* made
    cdef bytes out
    for entry in range(count):
        memcpy(&length, at, 4)
        at += 4 + length
    length = <uint32_t>(at - start)
    out = PyBytes_FromStringAndSize(NULL, RUN_HEADER_BYTES + length)
    made = <RunHeader*>PyBytes_AS_STRING(out)
    memcpy(made, run, RUN_HEADER_BYTES + length)
    made.count = count
    made.bytes = length
    made.commit = min(run.commit, run.first + count - 1)
    made.body_crc = run_body_crc(made, <const char*>made + RUN_HEADER_BYTES)
    run_seal_header(made)
    return out


def carried_from(const unsigned char[::1] batch not None, uint64_t offset):
    """(sequence, position) that the REWRITE run around the run at ``offset`` carries: when and where it was first written."""
    cdef const RunHeader* outer
    cdef uint64_t sequence
    if offset < CARRIED_OFFSET or offset > <uint64_t>batch.shape[0]:
        raise LogCorrupt(f"there is no rewritten run at {offset}")
    outer = <const RunHeader*>&batch[offset - CARRIED_OFFSET]
    if outer.kind != RUN_REWRITE or run_check(<const char*>outer, batch.shape[0] - (offset - CARRIED_OFFSET), False):
        raise LogCorrupt(f"the rewritten run at {offset} is damaged")
    memcpy(&sequence, <const char*>outer + RUN_HEADER_BYTES + 4, 8)
    return sequence, outer.prev_term


def hard_state_run(
    uint64_t group, uint32_t replica, uint64_t term, uint32_t vote, uint32_t leader, uint64_t epoch, uint64_t commit
):
    """A HARD_STATE run, for a commit index whose own record goes."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, RUN_HEADER_BYTES + HARD_STATE_BYTES)
    cdef RunHeader* run = <RunHeader*>PyBytes_AS_STRING(out)
    cdef char* body = <char*>run + RUN_HEADER_BYTES
    cdef uint32_t length = HARD_STATE_BYTES - 4
    memset(run, 0, RUN_HEADER_BYTES)
    memcpy(body, &length, 4)
    memcpy(body + 4, &vote, 4)
    memcpy(body + 8, &leader, 4)
    memcpy(body + 12, &epoch, 8)
    memcpy(body + 20, &commit, 8)
    run.group = group
    run.term = term
    run.commit = commit
    run.count = 1
    run.bytes = HARD_STATE_BYTES
    run.from_replica = replica
    run.kind = RUN_HARD_STATE
    run.body_crc = run_body_crc(run, body)
    run_seal_header(run)
    return out


def carried_bytes(bytes run not None):
    """What the run takes in a rewritten batch, its directory item included."""
    return PyBytes_GET_SIZE(run) + CARRIED_OFFSET + DIRECTORY_ITEM_BYTES


def seal_rewritten(uint64_t number, uint64_t store_id, list carried not None):
    """(batch, offsets): ``carried`` are (run, sequence, position); the offsets are those of the runs themselves."""
    cdef uint32_t length = BATCH_HEADER_BYTES, offset, item = BATCH_HEADER_BYTES
    cdef uint64_t sequence, position
    cdef bytes run, out
    cdef char* data
    for run, _, _ in carried:
        length += <uint32_t>carried_bytes(run)
    out = PyBytes_FromStringAndSize(NULL, length)
    data = PyBytes_AS_STRING(out)
    offset = BATCH_HEADER_BYTES + DIRECTORY_ITEM_BYTES * <uint32_t>len(carried)
    offsets = []
    for run, sequence, position in carried:
        offsets.append(offset + CARRIED_OFFSET)
        length = carry(data, offset, item, run, sequence, position)
        offset += length
        item += DIRECTORY_ITEM_BYTES
    seal_batch(data, offset, <uint32_t>len(carried), number, store_id)
    return out, offsets


cdef uint32_t carry(char* data, uint32_t offset, uint32_t item_offset, bytes run, uint64_t sequence, uint64_t position) noexcept:
    cdef const RunHeader* inner = <const RunHeader*>PyBytes_AS_STRING(run)
    cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(run), length = size + 8
    cdef RunHeader* outer = <RunHeader*>(data + offset)
    cdef char* body = data + offset + RUN_HEADER_BYTES
    cdef DirectoryItem* item = <DirectoryItem*>(data + item_offset)
    memset(outer, 0, RUN_HEADER_BYTES)
    outer.group = inner.group
    outer.first = inner.first
    outer.term = inner.term
    outer.prev_term = position
    outer.count = 1
    outer.bytes = 4 + length
    outer.from_replica = inner.from_replica
    outer.kind = RUN_REWRITE
    memcpy(body, &length, 4)
    memcpy(body + 4, &sequence, 8)
    memcpy(body + 12, inner, size)
    outer.body_crc = run_body_crc(outer, body)
    run_seal_header(outer)
    memset(item, 0, DIRECTORY_ITEM_BYTES)
    item.group = outer.group
    item.kind = RUN_REWRITE
    item.length = RUN_HEADER_BYTES + outer.bytes
    item.offset = offset
    return item.length


cdef void seal_batch(char* data, uint32_t length, uint32_t count, uint64_t number, uint64_t store_id) noexcept:
    cdef BatchHeader* head = <BatchHeader*>data
    memset(head, 0, BATCH_HEADER_BYTES)
    head.magic = BATCH_MAGIC
    head.version = FORMAT_VERSION
    head.length = length
    head.count = count
    head.sequence = number
    head.store_id = store_id
    head.directory_crc = crc32c_update(0, data + BATCH_HEADER_BYTES, count * DIRECTORY_ITEM_BYTES)
    head.head_crc = crc32c_update(0, data, BATCH_HEADER_BYTES - 4)


def checksum(const unsigned char[::1] data not None):
    """CRC-32C of some bytes."""
    return crc32c_update(0, &data[0] if data.shape[0] else NULL, data.shape[0])
