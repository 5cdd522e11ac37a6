"""Messages and frames as values: the Python doors of the wire, for tests, tools, and whoever sends one frame a second.

The node's own path never comes here: ring 1 writes and reads messages in place, by the structs of `_core.pxd`, and a link
seals with `_core.seal_frame`. Both go through the same gateway, `frame_check`, and so does everything made here.

Invariant: what `encode_frame` returns, `decode_frame` takes, and gives back the same values.
"""

from collections import namedtuple

from multiraft.errors import InvariantViolation, LogCorrupt, TooLarge

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from multiraft._core cimport (
    FAULT_NONE,
    FAULT_SHAPE,
    FLAG_RUN,
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_MESSAGES,
    MESSAGE_HEADER_BYTES,
    FrameHeader,
    MessageHeader,
    crc32c_update,
    frame_check,
)

from multiraft._core import Fault, FrameKind, MessageKind


Message = namedtuple(
    "Message", "kind flags group from_replica to_replica term index log_term commit hint context body"
)
Frame = namedtuple(
    "Frame", "kind cluster_id store_id from_node to_node link_epoch sequence messages body"
)


cdef bytes frame_of(list parts, uint16_t kind, uint32_t count):
    """A frame with these parts behind a header that no link has filled in. Raises before anything too large is allocated."""
    cdef size_t size = FRAME_HEADER_BYTES
    cdef bytes part
    for part in parts:
        size += PyBytes_GET_SIZE(part)
    if size > FRAME_BYTES_MAX:
        raise TooLarge(f"a frame of {size} bytes; the limit is {FRAME_BYTES_MAX}")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, size)
    cdef char* to = PyBytes_AS_STRING(frame)
    cdef FrameHeader* head = <FrameHeader*>to
    memset(to, 0, FRAME_HEADER_BYTES)
    head.magic = FRAME_MAGIC
    head.length = <uint32_t>size
    head.version = FORMAT_VERSION
    head.kind = kind
    head.count = count
    to += FRAME_HEADER_BYTES
    for part in parts:
        memcpy(to, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        to += PyBytes_GET_SIZE(part)
    return frame


cdef void set_checksums(bytes frame) noexcept:
    cdef char* start = PyBytes_AS_STRING(frame)
    cdef FrameHeader* head = <FrameHeader*>start
    head.head_crc = crc32c_update(0, start, FRAME_HEADER_BYTES - 8)
    head.crc = crc32c_update(head.head_crc, start + FRAME_HEADER_BYTES, PyBytes_GET_SIZE(frame) - FRAME_HEADER_BYTES)


cdef int check_made(bytes frame) except -1:
    """An encoder's own output goes through the gateway that its readers use."""
    cdef int fault = frame_check(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), FRAME_BYTES_MAX)
    if fault != FAULT_NONE:
        raise InvariantViolation(f"these values make no frame: {Fault(fault).name}")
    return 0


def encode_message(
    *,
    uint16_t kind,
    uint16_t flags=0,
    uint64_t group=0,
    uint32_t from_replica=0,
    uint32_t to_replica=0,
    uint64_t term=0,
    uint64_t index=0,
    uint64_t log_term=0,
    uint64_t commit=0,
    uint64_t hint=0,
    uint64_t context=0,
    body=b"",
) -> bytes:
    """A message for `encode_frame`; with FLAG_RUN, ``body`` is a run. Raises InvariantViolation where no peer would take it."""
    cdef bytes tail = bytes(memoryview(body))
    if PyBytes_GET_SIZE(tail) > FRAME_BYTES_MAX - FRAME_HEADER_BYTES - MESSAGE_HEADER_BYTES:
        raise TooLarge(f"a message with {len(tail)} bytes of body; a frame has at most {FRAME_BYTES_MAX}")
    cdef bytes message = PyBytes_FromStringAndSize(NULL, MESSAGE_HEADER_BYTES + PyBytes_GET_SIZE(tail))
    cdef MessageHeader* head = <MessageHeader*>PyBytes_AS_STRING(message)
    head.kind = kind
    head.flags = flags
    head.length = <uint32_t>PyBytes_GET_SIZE(message)
    head.group = group
    head.from_replica = from_replica
    head.to_replica = to_replica
    head.term = term
    head.index = index
    head.log_term = log_term
    head.commit = commit
    head.hint = hint
    head.context = context
    memcpy(<char*>head + MESSAGE_HEADER_BYTES, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
    cdef bytes frame = frame_of([message], FRAME_MESSAGES, 1)
    set_checksums(frame)
    check_made(frame)
    return message


def encode_frame(
    parts,
    *,
    uint16_t kind=FRAME_MESSAGES,
    uint64_t cluster_id=0,
    uint64_t store_id=0,
    uint32_t from_node=0,
    uint32_t to_node=0,
    uint64_t link_epoch=0,
    uint64_t sequence=0,
    bint sealed=True,
) -> bytes:
    """A frame of encoded messages; of any other ``kind``, one whose body is ``parts`` joined.

    ``sealed=False`` leaves the link's fields and the checksums zero, as ring 1 does: for `seal_frame`.
    """
    cdef list plain = [bytes(memoryview(part)) for part in parts]
    cdef bytes frame = frame_of(plain, kind, <uint32_t>len(plain) if kind == FRAME_MESSAGES else 0)
    cdef FrameHeader* head = <FrameHeader*>PyBytes_AS_STRING(frame)
    head.cluster_id = cluster_id
    head.store_id = store_id
    head.from_node = from_node
    head.to_node = to_node
    head.link_epoch = link_epoch
    head.sequence = sequence
    set_checksums(frame)
    check_made(frame)
    if not sealed:
        memset(&head.cluster_id, 0, FRAME_HEADER_BYTES - 16)
    return frame


cdef object message_at(const char* data):
    """One message of a frame that was checked."""
    cdef const MessageHeader* head = <const MessageHeader*>data
    return Message(
        MessageKind(head.kind),
        head.flags,
        head.group,
        head.from_replica,
        head.to_replica,
        head.term,
        head.index,
        head.log_term,
        head.commit,
        head.hint,
        head.context,
        PyBytes_FromStringAndSize(data + MESSAGE_HEADER_BYTES, head.length - MESSAGE_HEADER_BYTES),
    )


def decode_frame(data, size_t length_max=FRAME_BYTES_MAX) -> Frame:
    """A whole frame, checked, and nothing after it. Raises LogCorrupt with the fault's name.

    The body of a run that a message carries is checked by whoever takes the run: `decode_run`.
    """
    cdef bytes plain = bytes(memoryview(data))
    cdef const char* start = PyBytes_AS_STRING(plain)
    cdef const FrameHeader* head = <const FrameHeader*>start
    cdef int fault = frame_check(start, PyBytes_GET_SIZE(plain), length_max)
    cdef const char* at = start + FRAME_HEADER_BYTES
    cdef list messages = []
    if fault == FAULT_NONE and head.length != <size_t>PyBytes_GET_SIZE(plain):
        fault = FAULT_SHAPE
    if fault != FAULT_NONE:
        raise LogCorrupt(f"frame: {Fault(fault).name}")
    for _ in range(head.count):
        messages.append(message_at(at))
        at += (<const MessageHeader*>at).length
    return Frame(
        FrameKind(head.kind),
        head.cluster_id,
        head.store_id,
        head.from_node,
        head.to_node,
        head.link_epoch,
        head.sequence,
        tuple(messages),
        PyBytes_FromStringAndSize(at, start + head.length - at),
    )
