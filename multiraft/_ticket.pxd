# Ring 0, compiled: tickets, and the waker that wakes whoever waits for them. docs/tickets.md tells the whole story.
#
# A node makes one Waker for its loop, hands out a ticket for each proposal (`ticket_new`), says what came of it (`settle`,
# `fail`), and once a turn wakes the waiting tasks (`drain`). Everything here belongs to the thread that runs the loop.

from libc.stdint cimport uint64_t


cdef enum TicketState:
    PENDING = 0
    ANSWERED = 1            # `value` is the answer
    FAILED = 2              # `value` is (exception, its traceback when it was handed in)
    CANCELLED = 3           # `value` is the message given to cancel(), or None


cdef class Ticket:
    # Where the proposal stands in its group's log: when another term's entry is committed at `index`, this one did not
    # happen. The node's to set; zero until the proposal has an index, and for answers that never had one.
    cdef readonly uint64_t term
    cdef readonly uint64_t index
    # Leaves PENDING once and never changes again: the first of settle, fail and cancel stands.
    cdef TicketState state
    # asyncio's handshake: set when the ticket is yielded to a task, taken back by that task.
    cdef public bint _asyncio_future_blocking
    cdef bint suspended     # whoever awaits it has suspended, and has not come back for the answer
    cdef Waker waker
    cdef object value
    # Who waits. The first callback and its context stand by themselves, since there is hardly ever a second; `more` holds
    # the others as (callback, context), is None when there are none, and is never in use while `callback` is None.
    cdef object callback
    cdef object context
    cdef list more
    cdef object __weakref__

    cdef object error(self)                             # the exception of a FAILED or CANCELLED ticket, to be raised
    cdef int schedule(self) except -1                   # hand all callbacks to call_soon


cdef class Waker:
    cdef readonly object loop
    # Tickets whose waiters are still asleep: the newer ones, oldest first, and the older ones, oldest last.
    cdef list settled
    cdef list waking
    cdef bint draining
    # A future that is done, with None: what a task is shown when it is woken for a ticket that has its answer.
    cdef object stand_in
    # Awaits that did not suspend since the loop last came round, as far as this waker can know.
    cdef int unsuspended

    # What became of the ticket. False, and nothing done, where the ticket is no longer pending: the wait was given up, or
    # a deadline was first. Neither wakes anybody: that is left to drain().
    cpdef bint settle(self, Ticket ticket, object value) except -1
    cpdef bint fail(self, Ticket ticket, object error) except -1
    # Wakes the waiters of at most `budget` settled tickets, oldest first; True where more are left for the next call.
    cpdef bint drain(self, Py_ssize_t budget=*) except -1
    # A ticket that has its answer already, for a call that had nothing to wait for.
    cpdef Ticket answered(self, object value)

    cdef bint finish(self, Ticket ticket, TicketState state, object value) except -1
    cdef Py_ssize_t left(self) except -1
    cdef Ticket oldest(self)
    cdef int wake(self, Ticket ticket, bint inline) except -1
    cdef int wake_inline(self, object callback, object context, Ticket ticket) except -1
    cdef bint must_come_round(self) noexcept
    cdef bint may_wake_inline(self) except -1
    cdef int check_thread(self) except -1


# A pending ticket.
cdef Ticket ticket_new(Waker waker, uint64_t term, uint64_t index)
