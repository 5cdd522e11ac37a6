# On the path of a put.
"""Who waits for which index: every command from its proposal to its answer.

A call knows the term and the index of its proposal. The entry applied at that index decides: of the same term, it is ours and
its result is the answer; of another term, ours did not happen and may be proposed again. Losing leadership decides nothing.
Nothing here sends, writes or knows a clock; what has no place to go is handed to the node.

Invariants: a call ends exactly once; calls of a group stand in the order of their indexes; a deadline ends the wait and
leaves the call in its place, so that the entry is still accounted for when it is applied.
"""

from libc.stdint cimport uint32_t, uint64_t

cimport cython

from multiraft._core cimport CommittedRun, CommittedRuns
from multiraft._ticket cimport Ticket, Waker, ticket_new
from multiraft.raft.multi cimport MultiRaft

from multiraft.errors import (
    DeadlineExceeded, LeadershipLost, NoLeader, OutcomeUnknown, PreconditionFailed, Rejected, Retryable,
)


@cython.final
@cython.freelist(4096)
cdef class Call:
    """One command on its way."""

    def __repr__(self):
        return f"<Call group={self.group} term={self.term} index={self.index} to={self.forwarded_to}>"


@cython.final
cdef class CallQueue:
    def __cinit__(self):
        self.calls = []


@cython.final
cdef class Waiters:
    """All calls of a node.

    ``homeless(call, error)`` gets a call that has no place here (None: another node leads), ``answered(call, result)`` what
    became of another node's call (an exception instance where it failed), ``kick()`` is called when the turn has something to do.
    """

    def __init__(self, MultiRaft multi not None, Waker waker not None, *, homeless, answered, kick):
        self.multi = multi
        self.waker = waker
        self.queues = {}
        self.homeless = homeless
        self.answered = answered
        self.kick = kick

    # -- proposing --------------------------------------------------------------------------------------------------------

    cpdef Ticket submit(self, uint64_t group, payload, uint64_t deadline_ns, bint nowait=False, lead=None):
        """Propose a command (bytes) or several (a list of bytes) to a group; the ticket for the answer.

        The answer is the result of the last entry. It fails with what ``multiraft.errors`` says of a write.
        """
        cdef Call call = Call.__new__(Call)
        call.ticket = ticket_new(self.waker, 0, 0)
        call.group = group
        call.deadline_ns = deadline_ns
        call.payload = payload
        call.nowait = nowait
        call.lead = lead
        self.place(call)
        return call.ticket

    def submit_for(self, uint32_t origin, uint64_t context, uint64_t group, payload, uint64_t deadline_ns):
        """The same for another node, which forwarded it: one hop, so it is answered with an error where we do not lead."""
        cdef Call call = Call.__new__(Call)
        call.origin = origin
        call.context = context
        call.group = group
        call.deadline_ns = deadline_ns
        call.payload = payload
        self.place_or_end(call)

    def again(self, Call call not None):
        """Try to propose a call again that had no place to go, or whose proposal did not happen."""
        if not self.given_up(call):
            self.place_or_end(call)

    cdef int place_or_end(self, Call call) except -1:
        """Where nobody is there to raise at: a call that cannot be proposed at all ends with the reason, and alone."""
        try:
            self.place(call)
        except Rejected as error:
            self.finish(call, error, True)
        return 0

    def given_up(self, Call call not None):
        """Does nobody wait for it any more?"""
        return call.ticket is not None and call.ticket.done()

    cdef int place(self, Call call) except -1:
        cdef uint64_t term = 0, index = 0
        cdef CallQueue queue
        cdef bytes data
        call.forwarded_to = 0
        call.results = None
        if call.ticket is not None and self.multi.led_elsewhere(call.group):
            self.homeless(call, None)
            return 0
        try:
            if self.gate is not None:
                refused = self.gate(call.group, call.payload)
                if refused is not None:
                    raise refused
            if type(call.payload) is bytes:
                data = <bytes>call.payload
                self.multi.propose_bytes(call.group, <const char*>data, len(data), &term, &index)
                call.count = 1
            else:
                term, first, index = self.multi.propose_many(call.group, call.payload)
                call.count = <uint32_t>(index - first + 1)
        except Retryable as error:
            if call.ticket is None:
                self.finish(call, error, True)
            else:
                self.homeless(call, error)
            return 0
        call.term = term
        call.index = index
        queue = self.queues.get(call.group)
        if queue is None:
            queue = CallQueue()
            self.queues[call.group] = queue
        queue.calls.append(call)
        self.waiting += 1
        self.proposed += call.count
        self.kick()
        return 0

    # -- answers ----------------------------------------------------------------------------------------------------------

    cdef int finish(self, Call call, object value, bint failed) except -1:
        if call.ticket is None:
            if call.origin:
                self.answered(call, value)
        elif failed:
            if type(value) is PreconditionFailed and self.user_key is not None:
                value = PreconditionFailed(str(value), key=self.user_key(value.key), revision=value.revision)
            self.waker.fail(call.ticket, value)
        else:
            if call.lead is not None:
                value = call.lead(call, value)
                if isinstance(value, BaseException):
                    self.waker.fail(call.ticket, value)
                    return 0
            self.waker.settle(call.ticket, value)
        return 0

    cpdef object end(self, Call call, value):
        """End a call that was forwarded or had no place: with its answer, or with an exception instance."""
        self.finish(call, value, isinstance(value, BaseException))

    def settle(self, CommittedRuns runs not None, Py_ssize_t start, Py_ssize_t end):
        """Items ``start .. end - 1`` of ``runs`` were applied, and the first ``skip`` entries of item ``end`` if any."""
        cdef Py_ssize_t at
        cdef CommittedRun* item
        cdef CallQueue queue
        cdef uint64_t last
        for at in range(start, end + 1):
            if at == runs.count:
                break
            item = &runs.items[at]
            if at == end and item.skip == 0:
                break
            if item.count == 0:
                continue                     # all of it was held back: the calls before it may wait for what is held, too
            queue = self.queues.get(item.group)
            if queue is None or queue.head == len(queue.calls):
                continue
            last = item.first + (item.count if at < end else item.skip) - 1
            self.settle_queue(queue, item.term, last, item.result_base, runs.results)

    cdef int settle_queue(
        self, CallQueue queue, uint64_t term, uint64_t last, uint64_t result_base, dict results
    ) except -1:
        """End the calls whose last entry is at or below ``last``, which was applied under ``term``."""
        cdef Call call
        cdef object value
        cdef list calls = queue.calls
        cdef Py_ssize_t head = queue.head
        while head < len(calls):
            call = <Call>calls[head]
            if call.index > last:
                break
            calls[head] = None
            head += 1
            self.waiting -= 1
            if call.term != term:
                queue.head = head
                self.overwritten(call)
                continue
            value = None
            if results:
                value = results.get((call.group, call.index))
            if value is None:
                value = result_base + call.index
            self.finish(call, value, isinstance(value, BaseException))
        queue.head = head
        return self.trim(queue)

    cdef int trim(self, CallQueue queue) except -1:
        """Let go of the places of calls that ended, now and then."""
        if queue.head == len(queue.calls):
            queue.calls.clear()
            queue.head = 0
        elif queue.head > 256 and queue.head * 2 > len(queue.calls):
            del queue.calls[:queue.head]
            queue.head = 0
        return 0

    def settle_machine(self, uint64_t group, uint64_t term, uint64_t first, list results not None):
        """Entries ``first ..`` of a user's machine were applied under ``term``, each with a result of its own: the answer, or
        an exception instance. A call of several entries is answered with the list of theirs."""
        cdef CallQueue queue = self.queues.get(group)
        cdef Call call
        cdef uint64_t begin, last = first + len(results) - 1
        while queue is not None and queue.head < len(queue.calls):
            call = <Call>queue.calls[queue.head]
            begin = call.index - call.count + 1
            if begin > last:
                break
            if call.term == term:
                if call.results is None:
                    call.results = []
                call.results.extend(results[max(begin, first) - first : min(call.index, last) - first + 1])
            if call.index > last:
                break
            queue.calls[queue.head] = None
            queue.head += 1
            self.waiting -= 1
            if call.term != term or len(call.results) != call.count:
                self.overwritten(call)
            else:
                value = call.results[0] if type(call.payload) is bytes else call.results
                self.finish(call, value, isinstance(value, BaseException))
        if queue is not None:
            self.trim(queue)

    def waits(self, uint64_t group):
        """Does anybody wait for an entry of the group that was proposed here?"""
        cdef CallQueue queue = self.queues.get(group)
        return queue is not None and queue.head < len(queue.calls)

    cdef int overwritten(self, Call call) except -1:
        """Another term's entry stands at its index: it did not happen (pitfall 94), and may be tried again - unless it was
        several entries, of which some may have been committed before the leader changed."""
        error = NoLeader("another leader's entry took the place of this one; it did not happen")
        if call.count > 1:
            self.finish(call, LeadershipLost("leadership changed while these were on their way; some may have happened"), True)
        elif call.ticket is None:
            self.finish(call, error, True)
        else:
            call.term = call.index = 0
            self.homeless(call, error)
        return 0

    def jumped(self, uint64_t group, uint64_t index):
        """A snapshot took the place of the log up to ``index``: what became of the calls below it cannot be known here."""
        cdef CallQueue queue = self.queues.get(group)
        cdef Call call
        if queue is None:
            return
        while queue.head < len(queue.calls):
            call = <Call>queue.calls[queue.head]
            if call.index > index:
                break
            queue.calls[queue.head] = None
            queue.head += 1
            self.waiting -= 1
            self.finish(call, LeadershipLost("a snapshot passed over this command; it may have happened"), True)

    def disown(self, uint32_t node):
        """Nobody on ``node`` waits any more for what it forwarded: the link is gone, and it has given these calls up."""
        cdef CallQueue queue
        cdef Call call
        cdef Py_ssize_t at
        for queue in self.queues.values():
            for at in range(queue.head, len(queue.calls)):
                call = <Call>queue.calls[at]
                if call.origin == node:
                    call.origin = 0

    def abandon(self, uint64_t group, error):
        """The replica here applies nothing more: what becomes of the calls of its group cannot be known here."""
        cdef CallQueue queue = self.queues.get(group)
        cdef list calls
        cdef Call call
        if queue is None:
            return
        calls = queue.calls[queue.head:]
        queue.calls.clear()
        queue.head = 0
        self.waiting -= len(calls)
        for call in calls:
            self.finish(call, error, True)

    def forget(self, uint64_t group):
        """The group's replica is gone from here: its calls end with an outcome that is not known."""
        self.jumped(group, <uint64_t>-1)
        self.queues.pop(group, None)

    def expire(self, uint64_t now_ns):
        """End the wait of every call whose deadline has passed. Their entries may still be applied."""
        cdef CallQueue queue
        cdef Call call
        cdef Py_ssize_t at
        for queue in self.queues.values():
            for at in range(queue.head, len(queue.calls)):
                call = <Call>queue.calls[at]
                if call.deadline_ns <= now_ns and call.ticket is not None and not call.ticket.done():
                    self.expired += 1
                    self.finish(call, DeadlineExceeded("the time was up while the command was on its way"), True)

    def close(self, error):
        """End every wait, since the node ends because of ``error``: what was proposed may yet happen elsewhere (pitfall 93)."""
        cdef CallQueue queue
        cdef Py_ssize_t at
        unknown = OutcomeUnknown("this node ended while the command was on its way; it may have happened, or may yet")
        unknown.__cause__ = error
        for queue in self.queues.values():
            for at in range(queue.head, len(queue.calls)):
                self.finish(<Call>queue.calls[at], unknown, True)
            queue.calls.clear()
            queue.head = 0
        self.waiting = 0
