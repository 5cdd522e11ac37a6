# On the path of a put.
"""The receive buffer of one connection: whole frames are checked and parsed where the kernel wrote them.

``get_buffer`` lends the free part of the buffer to the loop, ``buffer_updated`` walks the whole frames that are there and
hands each to a callable as a read-only memoryview that is valid during the call only. A connection puts both on itself as
bound compiled methods, so that a read costs no Python frame.

Never done here: writing to a socket, reading a clock, knowing what a message means. Hostile bytes never raise out of
``buffer_updated``: they end in one call of ``on_fault``, and nothing is taken from that connection any more.

Invariants:
- a length is checked against the limit and the header's checksum before the buffer grows or waits for it, and the whole
  frame's checksum before anybody sees it;
- memory is one block of ``base`` bytes, or of one frame while a larger one arrives; it shrinks back afterwards;
- a split frame is moved at most once after its length is known; a block that anybody still looks at is never moved,
  written over or freed, but left to them and replaced;
- once ``expect`` named the other side, a frame in any other name is a fault, and a frame of an older link epoch or with a
  sequence that is not above the last one is dropped.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from multiraft._core cimport (
    FAULT_CHECKSUM,
    FAULT_KIND,
    FAULT_LIMIT,
    FAULT_MAGIC,
    FAULT_NONE,
    FAULT_SHORT,
    FAULT_SHAPE,
    FAULT_VERSION,
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    FRAME_MESSAGES,
    FrameHeader,
    HELLO_BYTES_MAX,
    frame_check,
    frame_head_check,
)

from multiraft.errors import InvariantViolation, PeerProtocolError

cdef enum:
    BASE_BYTES_FIRST = 4096                 # before the hello is done: sixty-four strangers cost 256 KiB
    BASE_BYTES = 512 * 1024                 # afterwards: a sealed batch fits twice, and untouched pages cost nothing
    LENGTH_SEEN_BYTES = 8                   # magic and length: enough to refuse, not yet to believe


cdef dict _reasons():
    return {
        FAULT_SHORT: "fewer bytes than its length says",
        FAULT_LIMIT: "a length or count over its limit",
        FAULT_MAGIC: "these are not frames",
        FAULT_VERSION: "a version that is not known here",
        FAULT_KIND: "a kind that has no place here",
        FAULT_CHECKSUM: "its checksum does not match",
        FAULT_SHAPE: "lengths that contradict each other",
    }


@cython.final
cdef class Block:
    """Bytes that do not move. It lives as long as a buffer or a view on it does."""

    cdef char* data
    cdef Py_ssize_t capacity

    def __cinit__(self, Py_ssize_t capacity):
        self.data = <char*>malloc(capacity)
        if self.data is NULL:
            raise MemoryError(f"a receive buffer of {capacity} bytes")
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)


@cython.final
cdef class Span:
    """A part of a block that views are made of; it counts them. Two to a block: one is written by the loop, one is read."""

    cdef Block block
    cdef Py_ssize_t offset
    cdef Py_ssize_t size
    cdef bint readonly
    cdef int views

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.block.data + self.offset, self.size, self.readonly, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.views -= 1


cdef Span span_of(Block block, bint readonly):
    cdef Span span = Span.__new__(Span)
    span.block = block
    span.readonly = readonly
    return span


@cython.final
cdef class Receiver:
    """One connection's receiving half.

    ``on_frame(node, view)`` gets frames of messages, ``on_control(kind, view)`` all others, ``on_fault(error, fault)`` the
    one PeerProtocolError that ends it, with the ``_core.Fault`` behind it or 0. A PeerProtocolError raised by the first
    two is a fault as well; whatever else they raise is our own mistake and passes through to the loop.
    """

    cdef Block block
    cdef Span window                # what the loop writes to: from `end` on
    cdef Span frame                 # what is being read: one whole frame
    cdef Py_ssize_t start           # of the oldest byte that is not consumed
    cdef Py_ssize_t end             # of what was received; start <= end <= block.capacity
    cdef Py_ssize_t base            # capacity to have, and to come back to
    cdef Py_ssize_t frame_bytes_max # no frame may be longer
    cdef uint32_t kinds             # bit `kind` is set for each kind that may come now
    cdef bint stopped               # nothing is taken any more
    cdef bint walking               # inside buffer_updated: a sink must not feed the connection it is called from
    cdef bint expecting             # the fields below hold
    cdef uint64_t cluster_id
    cdef uint64_t store_id
    cdef uint32_t from_node
    cdef uint32_t to_node
    cdef uint64_t link_epoch
    cdef uint64_t sequence          # of the newest frame taken; only rises
    cdef object node                # from_node, as the object that on_frame gets
    cdef object on_frame
    cdef object on_control
    cdef object on_fault
    cdef readonly uint64_t frames_count     # whole frames taken
    cdef readonly uint64_t dropped_count    # old or duplicate ones
    cdef readonly uint64_t moved_bytes      # what was copied because frames were split

    def __init__(self, on_frame, on_control, on_fault, *, kinds):
        self.on_frame = on_frame
        self.on_control = on_control
        self.on_fault = on_fault
        self.frame_bytes_max = HELLO_BYTES_MAX
        self.base = BASE_BYTES_FIRST
        self.kinds = kinds_bits(kinds)
        self._replace(self.base)

    @property
    def unfinished(self):
        """The number of the frame of which a part is here, counted over this connection; 0 where there is none."""
        return 0 if self.start == self.end else self.frames_count + self.dropped_count + 1

    @property
    def capacity(self):
        """Bytes that this buffer holds at the moment."""
        return self.block.capacity

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def get_buffer(self, Py_ssize_t sizehint):  # hot
        """The free part, at least one byte of it. ``sizehint`` is not needed: the frame that is arriving says how much."""
        cdef Py_ssize_t have = self.end - self.start
        cdef Py_ssize_t want = self._wanted(have)
        cdef Py_ssize_t capacity = want if want > self.base else self.base
        if self.window.views or self.frame.views:
            self._replace(capacity)         # somebody looks at this block still: theirs it is
        elif have == 0:
            self.start = self.end = 0
            if self.block.capacity != self.base:
                self._replace(self.base)
        elif self.block.capacity > 2 * capacity or self.block.capacity < want:
            self._replace(capacity)
        elif self.start + want > self.block.capacity:
            memmove(self.block.data, self.block.data + self.start, have)
            self.moved_bytes += have
            self.start = 0
            self.end = have
        self.window.offset = self.end
        self.window.size = self.block.capacity - self.end
        return memoryview(self.window)

    def buffer_updated(self, Py_ssize_t nbytes):  # hot
        """Take the ``nbytes`` that were written into the last buffer, and every frame that is whole by now."""
        if nbytes < 0 or nbytes > self.block.capacity - self.end:
            raise InvariantViolation(f"{nbytes} bytes were received into {self.block.capacity - self.end}")
        if self.walking:
            raise InvariantViolation("a frame's receiver fed the connection that it came from")
        self.walking = True
        try:
            self.end += nbytes
            self._walk()
        finally:
            self.walking = False
            if self.stopped:
                self.start = self.end = 0

    def feed(self, data):
        """Take bytes that came some other way: the same checks for links in memory and for tests."""
        cdef Py_buffer source
        cdef Py_buffer target
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t part
        PyObject_GetBuffer(data, &source, PyBUF_SIMPLE)
        try:
            while done < source.len:
                view = self.get_buffer(-1)
                PyObject_GetBuffer(view, &target, PyBUF_SIMPLE)
                part = min(target.len, source.len - done)
                memcpy(target.buf, <char*>source.buf + done, part)
                PyBuffer_Release(&target)
                view.release()
                done += part
                self.buffer_updated(part)
        finally:
            PyBuffer_Release(&source)

    # -- what the connection calls -------------------------------------------------------------------------------------

    def expect(self, *, cluster_id, store_id, from_node, to_node, link_epoch, sequence):
        """From now on frames come in this name only, of this link epoch and after this sequence."""
        self.cluster_id = cluster_id
        self.store_id = store_id
        self.from_node = from_node
        self.to_node = to_node
        self.link_epoch = link_epoch
        self.sequence = sequence
        self.node = from_node
        self.expecting = True

    def open(self, kinds):
        """The hello is done: frames of these kinds, up to FRAME_BYTES_MAX."""
        if not self.expecting:
            raise InvariantViolation("a connection was opened before it was known who is at its other end")
        self.kinds = kinds_bits(kinds)
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.base = BASE_BYTES

    def stop(self):
        """Take nothing more: what still arrives is read and forgotten."""
        self.stopped = True
        self.base = BASE_BYTES_FIRST
        self.on_frame = self.on_control = self.on_fault = None
        if not self.walking:
            self.start = self.end = 0

    # -- the room ------------------------------------------------------------------------------------------------------

    cdef Py_ssize_t _wanted(self, Py_ssize_t have) noexcept:
        """Bytes of the frame that begins at `start`, as far as they are known; its whole header was checked by _walk."""
        cdef uint32_t length
        if have < FRAME_HEADER_BYTES:
            return FRAME_HEADER_BYTES
        memcpy(&length, self.block.data + self.start + 4, 4)
        return length

    cdef int _replace(self, Py_ssize_t capacity) except -1:
        """A new block of `capacity` bytes that begins with what is not consumed yet."""
        cdef Block block = Block(capacity)
        cdef Py_ssize_t have = self.end - self.start
        if have:
            memcpy(block.data, self.block.data + self.start, have)
            self.moved_bytes += have
        self.block = block
        self.window = span_of(block, False)
        self.frame = span_of(block, True)
        self.start = 0
        self.end = have
        return 0

    cdef int _walk(self) except -1:  # hot
        """Every whole frame between `start` and `end`. Nothing is moved here: the loop may still hold its view."""
        cdef const FrameHeader* head
        cdef Py_ssize_t have
        cdef int fault
        while not self.stopped:
            have = self.end - self.start
            if have < LENGTH_SEEN_BYTES:
                return 0
            head = <const FrameHeader*>(self.block.data + self.start)
            if head.magic != FRAME_MAGIC:
                return self._refuse(FAULT_MAGIC)
            if head.length < FRAME_HEADER_BYTES or head.length > self.frame_bytes_max:
                return self._refuse(FAULT_LIMIT)
            if have < FRAME_HEADER_BYTES:
                return 0
            if have < head.length:
                fault = frame_head_check(<const char*>head, self.frame_bytes_max)
                return 0 if fault == FAULT_NONE else self._refuse(fault)
            fault = frame_check(<const char*>head, head.length, self.frame_bytes_max)
            if fault == FAULT_NONE and (head.kind > 31 or not (self.kinds >> head.kind) & 1):
                fault = FAULT_KIND
            if fault != FAULT_NONE:
                return self._refuse(fault)
            self.start += head.length       # first, so that no frame is ever handed over twice
            if self._known(head):
                self._hand_over(<const char*>head, head.kind, head.length)
        return 0

    cdef bint _known(self, const FrameHeader* head) except -1:  # hot
        """Whether the frame is to be taken; a frame in another's name ends the connection."""
        if self.expecting:
            if (
                head.from_node != self.from_node
                or head.to_node != self.to_node
                or head.store_id != self.store_id
                or head.cluster_id != self.cluster_id
                or head.link_epoch > self.link_epoch
            ):
                self._end(PeerProtocolError(f"a frame came in another name than the hello of node {self.node}"), 0)
                return False
            if head.link_epoch < self.link_epoch or head.sequence <= self.sequence:
                self.dropped_count += 1
                return False
            self.sequence = head.sequence
        self.frames_count += 1
        return True

    cdef int _hand_over(self, const char* data, int kind, Py_ssize_t length) except -1:  # hot
        """Lend one frame out for the time of a call, and see that it comes back."""
        cdef Span frame = self.frame
        cdef bint kept = False
        frame.offset = data - frame.block.data
        frame.size = length
        view = memoryview(frame)
        try:
            if kind == FRAME_MESSAGES:
                self.on_frame(self.node, view)
            else:
                self.on_control(kind, view)
        except PeerProtocolError as error:
            self._end(error, 0)
            return 0
        finally:
            kept = not released(view)
        if kept or frame.views:
            raise InvariantViolation("a view of a received frame was kept beyond the call that it was valid for")
        return 0

    cdef int _refuse(self, int fault) except -1:
        return self._end(PeerProtocolError(f"a frame was refused: {_reasons()[fault]}"), fault)

    cdef int _end(self, error, int fault) except -1:
        on_fault = self.on_fault
        if not self.stopped:
            self.stop()
            on_fault(error, fault)
        return 0


cdef bint released(view) except -1:
    """Whether a view could be taken back; one that somebody made another view of cannot."""
    try:
        view.release()
    except BufferError:
        return False
    return True


cdef uint32_t kinds_bits(kinds) except? 0:
    cdef uint32_t bits = 0
    for kind in kinds:
        bits |= <uint32_t>1 << <int>kind
    return bits
