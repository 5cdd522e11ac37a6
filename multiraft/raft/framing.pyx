"""Frames out of what was gathered for a node: as few as may be, none larger than its receiver takes.

A frame ends between two messages. One message stands alone in a frame where it is larger than the rest may be; no message is
larger than a frame may be, for an entry, a run and a message each have their limit (docs/formats.md).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from multiraft._core cimport (
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_MESSAGES,
    MESSAGE_HEADER_BYTES,
    MSG_NODE_STATUS,
    Buffer,
    FrameHeader,
    MessageHeader,
    buffer_room,
)
from multiraft.raft.progress cimport Outbox

from multiraft.errors import InvariantViolation

cdef enum:
    FRAME_FULL_BYTES = 4 * 1024 * 1024      # a frame that has reached this is closed: links interleave what is urgent


cdef size_t stretch(const char* data, size_t size, size_t room, uint32_t* count) noexcept nogil:
    """Bytes of the messages at ``data`` that go into one frame, one message at least; ``count`` receives how many."""
    cdef size_t at = 0
    cdef uint32_t length
    count[0] = 0
    while at < size:
        length = (<const MessageHeader*>(data + at)).length
        if count[0] and at + length > room:
            break
        at += length
        count[0] += 1
    return at


cdef bytes new_frame(size_t size, uint32_t count):
    cdef bytes frame
    cdef FrameHeader* head
    if size + FRAME_HEADER_BYTES > FRAME_BYTES_MAX:
        raise InvariantViolation(f"a frame of {size} bytes: a message got past its limit")
    frame = PyBytes_FromStringAndSize(NULL, FRAME_HEADER_BYTES + size)
    head = <FrameHeader*>PyBytes_AS_STRING(frame)
    memset(head, 0, FRAME_HEADER_BYTES)
    head.magic = FRAME_MAGIC
    head.length = <uint32_t>(FRAME_HEADER_BYTES + size)
    head.version = FORMAT_VERSION
    head.kind = FRAME_MESSAGES
    head.count = count
    return frame


cdef int add_frames(const Buffer* buffer, list frames) except -1:
    cdef size_t at = 0, size
    cdef uint32_t count
    cdef bytes frame
    while at < buffer.size:
        size = stretch(buffer.data + at, buffer.size - at, FRAME_FULL_BYTES, &count)
        frame = new_frame(size, count)
        memcpy(PyBytes_AS_STRING(frame) + FRAME_HEADER_BYTES, buffer.data + at, size)
        frames.append(frame)
        at += size
    return 0


cdef list frames_of(const Buffer* first, const Buffer* second):
    cdef size_t more = second.size if second != NULL else 0
    cdef uint32_t count, count_more = 0
    cdef list frames = []
    cdef bytes frame
    cdef char* to
    if first.size + more > FRAME_FULL_BYTES:
        add_frames(first, frames)
        if more:
            add_frames(second, frames)
        return frames
    stretch(first.data, first.size, first.size, &count)
    if more:
        stretch(second.data, more, more, &count_more)
    frame = new_frame(first.size + more, count + count_more)
    to = PyBytes_AS_STRING(frame) + FRAME_HEADER_BYTES
    memcpy(to, first.data, first.size)
    if more:
        memcpy(to + first.size, second.data, more)
    frames.append(frame)
    return frames


cdef int tell_status(Outbox* box, Buffer* buffer, uint32_t boot_count, uint64_t sequence) except -1:
    cdef MessageHeader* head
    if boot_count == 0 or box.told_sequence >= sequence:
        return 0
    box.told_sequence = sequence
    head = <MessageHeader*>buffer_room(buffer, MESSAGE_HEADER_BYTES)
    memset(head, 0, MESSAGE_HEADER_BYTES)
    head.kind = MSG_NODE_STATUS
    head.length = MESSAGE_HEADER_BYTES
    head.index = sequence
    head.context = boot_count
    buffer.size += MESSAGE_HEADER_BYTES
    return 0
