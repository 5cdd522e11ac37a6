# On the path of a put.
"""Commands that another node must take: sent to the leader's node in the same frames, one hop, and answered the same way.

A forwarded command is sent once per link incarnation and never again by itself: a link that breaks before the answer came
makes the outcome unknown, whatever it was (pitfalls 80, 93). An answer that says "nothing happened" puts the call back where
it came from, to be tried again until its deadline. Calls that have no place to go just now wait here, too.

A link that is full is backpressure: while the queue to a node is over half full, calls for it wait here, in their order. Half
of the queue is then left for what must not wait, so that a call that was sent is not dropped; where a frame that carries calls
or answers cannot be sent all the same, its link ends (``turn``), and both sides hear of it as of any link that is lost.

The body of a FORWARD is the command as it goes into the log; of a FORWARD_ACK nothing, a refusal in msgpack, or what a user's
machine answered (``results``).
"""

from libc.stdint cimport uint32_t, uint64_t

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE

from multiraft._core cimport (
    FAULT_KIND,
    FAULT_VERSION,
    FLAG_REJECT,
    FLAG_TRANSFER,
    FRAME_HEADER_BYTES,
    MESSAGE_HEADER_BYTES,
    MSG_FORWARD,
    MSG_FORWARD_ACK,
    FrameHeader,
    MessageHeader,
)
from multiraft.machine.commands cimport Command, command_open
from multiraft.node.waiters cimport Call, Waiters
from multiraft.raft.multi cimport MultiRaft

import msgpack

from multiraft.errors import (
    DeadlineExceeded,
    FormatUnsupported,
    InvalidCommand,
    InvalidResult,
    LinkLost,
    NoLeader,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerProtocolError,
    Quarantined,
    Retryable,
    TooLarge,
)
from multiraft.machine.running import unreadable_by_users
from multiraft.node.refusals import decode_refusal, encode_refusal
from multiraft.node.results import decode_results, encode_results

cdef Py_ssize_t PARKED_MAX = 1_000_000
cdef Py_ssize_t CROWDED_AT_ONCE = 1024      # calls that leave for a node in one turn after they waited for room

# Nothing happened, and nothing will within a call's time: said at once, before it turns into an unknown outcome.
WAITING_HELPS_NOT = (NoSpace, Quarantined)


cdef object unreadable(bytes body):
    """Why a command of the store is refused: its replicas could not read it, and in the log it would stop them all."""
    cdef Command command
    cdef int fault = command_open(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), &command)
    if fault == FAULT_VERSION or fault == FAULT_KIND:
        return FormatUnsupported("the leader's node cannot read this command: its version is older; nothing happened")
    return InvalidCommand("the bytes of the command are damaged or cut short") if fault else None


def calls_of(bytes frame not None):
    """The forwarded calls, and the answers to such, of a frame of ours that is not sealed, as a frame; None where it has none.

    For a frame that finds no room: what replicas say to each other is said again, and shall not take the room that calls have.
    """
    cdef const char* data = PyBytes_AS_STRING(frame)
    cdef const MessageHeader* head
    cdef FrameHeader* made
    cdef Py_ssize_t at = FRAME_HEADER_BYTES, size = PyBytes_GET_SIZE(frame)
    cdef list parts = [frame[:FRAME_HEADER_BYTES]]
    while at < size:
        head = <const MessageHeader*>(data + at)
        if head.kind == MSG_FORWARD or head.kind == MSG_FORWARD_ACK:
            parts.append(frame[at:at + <Py_ssize_t>head.length])
        at += head.length
    if len(parts) == 1:
        return None
    cdef bytes calls = b"".join(parts)
    made = <FrameHeader*>PyBytes_AS_STRING(calls)
    made.length = <uint32_t>PyBytes_GET_SIZE(calls)
    made.count = <uint32_t>(len(parts) - 1)
    return calls


@cython.final
cdef class Forwarding:
    """The calls of a node that are not proposed here: on their way to another node, or waiting for a leader."""

    def __init__(self, MultiRaft multi not None, *, timeout_ns, contexts):
        self.multi = multi
        self.contexts = contexts
        self.timeout_ns = timeout_ns
        self.away = {}
        self.parked = {}
        self.crowded = {}
        self.rooms = {}

    def __len__(self):
        return len(self.away) + self.parked_count

    # -- calls from here ----------------------------------------------------------------------------------------------------

    cpdef object homeless(self, Call call, error):
        """A call could not be proposed here, for ``error`` or with None because another node leads: send it to the leader's
        node, or let it wait for one - or for room."""
        cdef uint32_t leader
        if error is None or isinstance(error, NotLeader):
            leader = self.multi.led_elsewhere(call.group)
            if leader and self.linked(leader):
                if leader not in self.crowded and self.has_room(leader):
                    self.send(call, leader)
                elif call.nowait:
                    self.waiters.end(call, Overloaded(f"the queue to node {leader}, which leads, is over half full"))
                else:
                    self.keep(self.crowded, leader, call)
                return
        elif isinstance(error, WAITING_HELPS_NOT) or (call.nowait and isinstance(error, Overloaded)):
            self.waiters.end(call, error)
            return
        self.park(call)

    cdef int park(self, Call call) except -1:
        return self.keep(self.parked, call.group, call)

    cdef int keep(self, dict where, key, Call call) except -1:
        if self.parked_count >= PARKED_MAX:
            self.waiters.end(call, Overloaded(f"{PARKED_MAX} calls wait for a leader, or for room on the way to one"))
            return 0
        where.setdefault(key, []).append(call)
        self.parked_count += 1
        return 0

    cdef bint has_room(self, uint32_t node) except -1:
        """Is the queue to a node less than half full, with what this turn will bring?"""
        left = self.rooms.get(node)
        if left is None:
            left = self.rooms[node] = self.room(node)
        return left > 0

    cdef int send(self, Call call, uint32_t node) except -1:
        cdef bytes body
        cdef uint32_t flags = 0
        cdef uint64_t context = next(self.contexts)
        if PyBytes_CheckExact(call.payload):
            body = <bytes>call.payload
        else:
            body = msgpack.packb(call.payload)
            flags = FLAG_TRANSFER            # several entries for one call
        self.multi.post_bytes(
            node, MSG_FORWARD, call.group, context, 0, 0, flags, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
        )
        self.rooms[node] = self.rooms.get(node, 0) - PyBytes_GET_SIZE(body) - MESSAGE_HEADER_BYTES
        call.forwarded_to = node
        self.away[context] = call
        self.forwarded += 1
        self.kick()
        return 0

    def retry(self, group=None):
        """A leader may be known now, or there may be room: try what waits, of one group or of all."""
        groups = [group] if group is not None else list(self.parked)
        if self.crowded:
            self.reroute_crowded()
        for one in groups:
            calls = self.parked.pop(one, None)
            if calls:
                self.parked_count -= len(calls)
                for call in calls:
                    self.waiters.again(call)

    cdef int reroute_crowded(self) except -1:
        """Calls whose group another node leads by now need not wait for the queue to this one."""
        cdef Call call
        moved = []
        for node, calls in list(self.crowded.items()):
            kept = []
            for call in calls:
                (kept if self.multi.led_elsewhere(call.group) == <uint32_t>node else moved).append(call)
            if kept:
                self.crowded[node] = kept
            else:
                del self.crowded[node]
        self.parked_count -= len(moved)
        for call in moved:
            self.waiters.again(call)
        return 0

    def turned(self):
        """A turn has sent what there was: send on what waited for room in a queue that has it now."""
        self.rooms.clear()
        if self.crowded:
            for node in list(self.crowded):
                self.send_crowded(node)

    cdef int send_crowded(self, uint32_t node) except -1:
        cdef Py_ssize_t at = 0
        cdef list calls
        if not self.has_room(node):
            return 0
        calls = self.crowded.pop(node)
        while at < len(calls) and at < CROWDED_AT_ONCE and self.has_room(node):
            self.parked_count -= 1
            self.waiters.again(calls[at])
            at += 1
        if at < len(calls):
            self.crowded[node] = calls[at:] + self.crowded.get(node, [])
        return 0

    def expire(self, uint64_t now_ns):
        """End what is past its deadline. What never left here did not happen, but one answer for all is easier to handle."""
        cdef Call call
        self.expire_waiting(self.parked, now_ns)
        self.expire_waiting(self.crowded, now_ns)
        for context, call in [(context, call) for context, call in self.away.items() if (<Call>call).deadline_ns <= now_ns]:
            del self.away[context]
            self.waiters.end(call, DeadlineExceeded("the time was up while another node had the command"))

    cdef int expire_waiting(self, dict where, uint64_t now_ns) except -1:
        cdef Call call
        for key, calls in list(where.items()):
            kept = []
            for call in calls:
                if self.waiters.given_up(call):
                    continue
                if call.deadline_ns <= now_ns:
                    self.waiters.end(call, DeadlineExceeded("the time was up while no leader could take the command"))
                else:
                    kept.append(call)
            self.parked_count -= len(calls) - len(kept)
            if kept:
                where[key] = kept
            else:
                del where[key]
        return 0

    def link_down(self, uint32_t node):
        """The link is gone: what was on its way there may have happened, and who asked us from there has heard the same.

        What waited for room has not left: it waits for a leader again.
        """
        cdef Call call
        self.waiters.disown(node)
        self.rooms.pop(node, None)
        for call in self.crowded.pop(node, []):
            self.parked_count -= 1
            self.park(call)
        for context, call in list(self.away.items()):
            if call.forwarded_to == node:
                del self.away[context]
                self.waiters.end(call, LinkLost(f"the link to node {node} broke before its answer came"))

    def close(self, error):
        """The node ends because of ``error``: what waits here did not happen, what another node has may have (pitfall 93)."""
        for calls in (*self.parked.values(), *self.crowded.values()):
            for call in calls:
                self.waiters.end(call, error)
        unknown = OutcomeUnknown("this node ended while another node had the command")
        unknown.__cause__ = error
        for call in self.away.values():
            self.waiters.end(call, unknown)
        self.away.clear()
        self.parked.clear()
        self.crowded.clear()
        self.parked_count = 0

    # -- messages -------------------------------------------------------------------------------------------------------------

    def take(self, list posts not None, broken):
        """Handle the messages that are forwarded commands and their answers; a list of the others.

        ``broken(node, error)`` is called for one that breaks the protocol.
        """
        cdef uint32_t node, kind, flags
        cdef uint64_t group, context, index
        others = []
        for post in posts:
            node, kind, group, context, index, _term, flags, body = <tuple>post
            try:
                if kind == MSG_FORWARD:
                    self.received(node, group, context, flags, body)
                elif kind == MSG_FORWARD_ACK:
                    self.answered(node, context, index, flags, body)
                else:
                    others.append(post)
            except PeerProtocolError as error:
                broken(node, error)
        return others

    cdef int received(self, uint32_t node, uint64_t group, uint64_t context, uint32_t flags, bytes body) except -1:
        """Another node forwards a command. Raises PeerProtocolError for a body that is none."""
        payload = body
        self.asked += 1
        if flags & FLAG_TRANSFER:
            try:
                payload = msgpack.unpackb(body, use_list=True)
            except (ValueError, msgpack.UnpackException) as error:
                raise PeerProtocolError(f"a forwarded call that cannot be read: {error}") from error
            if not isinstance(payload, list) or not payload or not all([isinstance(one, bytes) for one in payload]):
                raise PeerProtocolError("a forwarded call that is no list of commands")
        if group in self.multi:
            users = not self.multi.feeds_store(group)
            for command in payload if flags & FLAG_TRANSFER else (payload,):
                refused = unreadable_by_users(command) if users else unreadable(command)
                if refused is not None:
                    return self.refuse(node, context, refused)
        self.waiters.submit_for(node, context, group, payload, self.waiters.now_ns + self.timeout_ns)
        return 0

    cdef int refuse(self, uint32_t node, uint64_t context, error) except -1:
        cdef bytes body = encode_refusal(error)
        self.multi.post_bytes(
            node, MSG_FORWARD_ACK, 0, context, 0, 0, FLAG_REJECT, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
        )
        self.kick()
        return 0

    cpdef object answer(self, Call call, value):
        """What became of another node's call goes back to it."""
        cdef uint32_t flags = 0
        cdef uint64_t index = 0
        cdef bytes body = b""
        if isinstance(value, BaseException):
            self.refuse(call.origin, call.context, value)
            return
        if call.results is not None:
            flags = FLAG_TRANSFER            # the body holds what a user's machine answered
            body = encode_results(value, not PyBytes_CheckExact(call.payload))
        else:
            index = value
        try:
            self.multi.post_bytes(
                call.origin, MSG_FORWARD_ACK, 0, call.context, index, call.term, flags,
                PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
            )
        except TooLarge as error:
            self.refuse(call.origin, call.context, InvalidResult(f"the commands were applied, but not their answers sent: {error}"))
        self.kick()

    cdef int answered(self, uint32_t node, uint64_t context, uint64_t index, uint32_t flags, bytes body) except -1:
        """The answer to a call of ours. One that nobody waits for any more is dropped.

        One that cannot be read leaves the call where it is: the link is dropped for it, and ends the call (LinkLost).
        """
        cdef Call call = self.away.get(context)
        cdef object value = index
        if call is None or call.forwarded_to != node:
            return 0
        if flags & FLAG_REJECT:
            refusal = decode_refusal(body)
        elif call.group in self.multi and bool(flags & FLAG_TRANSFER) == self.multi.feeds_store(call.group):
            raise PeerProtocolError(f"an answer of another kind than group {call.group} gives")
        elif flags & FLAG_TRANSFER:
            value = decode_results(body, 0 if PyBytes_CheckExact(call.payload) else len(call.payload))
        del self.away[context]
        if not flags & FLAG_REJECT:
            self.waiters.finish(call, value, False)
            return 0
        if isinstance(refusal, Retryable):
            call.forwarded_to = 0
            # A leader that has moved on is looked for again; what it says of its own state is passed on as it is.
            self.homeless(call, NoLeader(str(refusal)) if isinstance(refusal, NotLeader) else refusal)
        else:
            self.waiters.end(call, refusal)
        return 0
