# cython: nonecheck=True
# (An exception to the directives of setup.py: Python may pass None for a ticket, and the garbage collector clears a
# ticket's waker before it is gone. Both shall be an AttributeError and never a crash; it costs one comparison.)
# On the path of a put.
"""Tickets: what a caller awaits while its command is on its way, and the waker that wakes it.

A ticket looks like an ``asyncio.Future`` to asyncio and like a coroutine to ``create_task``; it is cheaper than either
where thousands of tasks wait at once. It never runs anything by itself, never warns or logs (nobody has to look at it),
and knows nothing of Raft: it carries the term and the index of its proposal for the node, and reads neither.

Invariants:

- A ticket leaves PENDING once. The first of settle, fail and cancel stands; what comes later counts for nothing.
- Each callback is called exactly once: taken from the ticket first, then called or handed to ``call_soon``.
- Only the wake-up of a task is ever called from inside ``drain``, only while no task runs and no other drain does, and in
  the task's own context. Everything else goes through ``call_soon``. A wake-up inside a running task would leave both
  tasks hanging for ever.
- Tickets are woken in the order in which they were settled.
"""

from __future__ import annotations

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.exc cimport PyErr_SetObject
from cpython.object cimport PyMethodDef, PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.string cimport strcmp

from asyncio import CancelledError, Future, InvalidStateError, Task, _get_running_loop, current_task
from types import GenericAlias

from multiraft.errors import InvariantViolation

cdef extern from *:
    """
    #ifndef MULTIRAFT_DEBUG
    #define MULTIRAFT_DEBUG 0
    #endif
    """
    const bint MULTIRAFT_DEBUG

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    ctypedef PySendResult (*sendfunc)(PyObject*, PyObject*, PyObject**) except? PYGEN_ERROR
    ctypedef PyObject* (*iternextfunc)(PyObject*) except? NULL

    ctypedef struct PyAsyncMethods:
        sendfunc am_send

    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
        iternextfunc tp_iternext

    void PyType_Modified(PyTypeObject* kind)

    ctypedef struct PyCFunctionObject:
        PyMethodDef* m_ml
        PyObject* m_self

    bint PyCFunction_CheckExact(object candidate)

# Whether this is the debug build, which refuses a call from the wrong thread.
DEBUG = bool(MULTIRAFT_DEBUG)

# After so many awaits in a row that did not suspend, the next one does, for a pass of the loop.
cdef enum:
    UNSUSPENDED_MAX = 256


# -- tickets ------------------------------------------------------------------------------------------------------------


@cython.final
@cython.freelist(4096)
cdef class Ticket:
    """The answer to come of one call: ``await`` it, or hold it like a future. Made by a `Waker` only.

    Cancelling it, or the task that awaits it, gives up the wait and nothing else: the command goes its way.
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("a ticket is made by a Waker")

    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def __repr__(self):
        state = ("pending", "answered", "failed", "cancelled")[<int>self.state]
        return f"<Ticket term={self.term} index={self.index} {state}>"

    # -- what `await` and a task that was made of the ticket call. The interpreter itself never gets here: it takes the
    # slots at the end of this file.

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """One step of awaiting: the ticket itself when it suspends, then StopIteration with the answer."""
        cdef PyObject* answer = NULL
        kind = send_slot(<PyObject*>self, NULL, &answer)
        step = <object>answer
        Py_DECREF(step)
        if kind == PYGEN_NEXT:
            return step
        raise StopIteration(step)

    def throw(self, kind, value=None, traceback=None):
        """Raises what is thrown into the waiting coroutine there; the ticket stays as it is."""
        error = kind if value is None else value
        if not isinstance(error, BaseException):
            error = kind() if value is None else kind(value)
        raise error if traceback is None else error.with_traceback(traceback)

    def close(self):
        """Nothing to close: whoever gives up the wait leaves the ticket as it is."""

    # -- as a future

    def get_loop(self):
        """The loop of the ticket's waker."""
        return self.waker.loop

    def done(self):
        """Whether there is an answer, a failure, or a cancel."""
        return self.state != PENDING

    def cancelled(self):
        """Whether the wait was given up before the answer came."""
        return self.state == CANCELLED

    def result(self):
        """The answer. Raises what the ticket failed with, CancelledError, or InvalidStateError while it is pending."""
        if self.state == ANSWERED:
            return self.value
        if self.state == PENDING:
            raise InvalidStateError("the ticket is pending")
        raise self.error()

    def exception(self):
        """What the ticket failed with, or None. Raises CancelledError, or InvalidStateError while it is pending."""
        if self.state == ANSWERED:
            return None
        if self.state == FAILED:
            return self.value[0]
        if self.state == PENDING:
            raise InvalidStateError("the ticket is pending")
        raise self.error()

    def cancel(self, msg=None):
        """Give up the wait: True where the ticket was pending. What it waits for is neither stopped nor undone."""
        if self.state != PENDING:
            return False
        self.state = CANCELLED
        self.value = msg
        self.schedule()
        return True

    def add_done_callback(self, fn, *, context=None):
        """Call ``fn(ticket)`` from the loop, in ``context``, once the ticket is done."""
        if context is None:
            context = PyContext_CopyCurrent()
        if self.state != PENDING:
            self.waker.loop.call_soon(fn, self, context=context)
        elif self.callback is None:
            self.callback = fn
            self.context = context
        elif self.more is None:
            self.more = [(fn, context)]
        else:
            self.more.append((fn, context))

    def remove_done_callback(self, fn):
        """Forget every callback that equals ``fn``; returns how many there were. One that is scheduled is called still."""
        if self.callback is None:
            return 0
        waiting = [(self.callback, self.context)] + (self.more or [])
        kept = [pair for pair in waiting if pair[0] != fn]
        self.callback, self.context = kept[0] if kept else (None, None)
        self.more = kept[1:] or None
        return len(waiting) - len(kept)

    # -- what asyncio.gather asks of a cancelled child by these names; without them a cancelled gather would never end

    def _make_cancelled_error(self):
        return self.error()

    @property
    def _cancel_message(self):
        return self.value if self.state == CANCELLED else None

    # -- inside

    cdef object error(self):
        if self.state == CANCELLED:
            return CancelledError() if self.value is None else CancelledError(self.value)
        error, traceback = self.value
        # One exception may be raised by many who wait. Each starts from the traceback that it came with, or the
        # tracebacks of all of them would pile up on it.
        return error.with_traceback(traceback)

    cdef int schedule(self) except -1:
        callback, context, more = self.callback, self.context, self.more
        self.callback = self.context = self.more = None
        if callback is not None:
            self.waker.loop.call_soon(callback, self, context=context)
        if more is not None:
            for callback, context in more:
                self.waker.loop.call_soon(callback, self, context=context)
        return 0


cdef Ticket ticket_new(Waker waker, uint64_t term, uint64_t index):
    cdef Ticket ticket = Ticket.__new__(Ticket)
    ticket.waker = waker
    ticket.term = term
    ticket.index = index
    return ticket


# -- the waker ------------------------------------------------------------------------------------------------------------


@cython.final
cdef class Waker:
    """Collects what became of tickets, and wakes their waiters when it is told to. One a loop; the loop's thread only."""

    def __cinit__(self, loop):
        self.loop = loop
        self.settled = []
        self.waking = []
        self.stand_in = Future(loop=loop)
        self.stand_in.set_result(None)

    @property
    def waiting(self):
        """How many settled tickets `drain` still has to look at."""
        return self.left()

    def ticket(self, *, uint64_t term=0, uint64_t index=0):
        """A pending ticket."""
        return ticket_new(self, term, index)

    cpdef bint settle(self, Ticket ticket, object value) except -1:
        """The ticket's answer is ``value``. False where it was not pending any more, and then nothing is done."""
        return self.finish(ticket, ANSWERED, value)

    cpdef bint fail(self, Ticket ticket, object error) except -1:
        """Awaiting the ticket raises ``error``. False where it was not pending any more, and then nothing is done."""
        if not isinstance(error, BaseException):
            raise TypeError(f"a ticket fails with an exception, not with {error!r}")
        if isinstance(error, StopIteration):
            # Raised inside a coroutine it would pass for the coroutine's return.
            cause = error
            error = RuntimeError("a ticket cannot fail with StopIteration")
            error.__cause__ = cause
        return self.finish(ticket, FAILED, (error, error.__traceback__))

    cpdef bint drain(self, Py_ssize_t budget=PY_SSIZE_T_MAX) except -1:
        """Wake the waiters of at most ``budget`` settled tickets, oldest first. True where more are left.

        What is settled meanwhile is left for the next call. A ticket that nobody waits for any more costs no budget. A
        KeyboardInterrupt or SystemExit out of a woken task is raised again once all others have been scheduled.
        """
        if MULTIRAFT_DEBUG:
            self.check_thread()
        cdef Py_ssize_t due = self.left()
        cdef bint outermost = not self.draining
        cdef bint inline = outermost and self.may_wake_inline()
        if inline:
            self.unsuspended = 0            # no task runs, so the loop has come round
        self.draining = True
        try:
            while budget > 0 and due > 0 and self.left():
                due -= 1
                budget -= self.wake(self.oldest(), inline)
        except (KeyboardInterrupt, SystemExit):
            while self.left():
                self.wake(self.oldest(), False)
            raise
        finally:
            if outermost:
                self.draining = False
        return self.left() > 0

    cpdef Ticket answered(self, object value):
        """A ticket that has its answer already, for a call that had nothing to wait for."""
        cdef Ticket ticket = ticket_new(self, 0, 0)
        ticket.state = ANSWERED
        ticket.value = value
        return ticket

    # -- inside

    cdef bint finish(self, Ticket ticket, TicketState state, object value) except -1:
        if MULTIRAFT_DEBUG:
            self.check_thread()
        if ticket.state != PENDING:
            return False
        ticket.state = state
        ticket.value = value
        if ticket.callback is not None:
            self.settled.append(ticket)
        return True

    cdef Py_ssize_t left(self) except -1:
        return len(self.waking) + len(self.settled)

    cdef Ticket oldest(self):
        # Turned round as a whole and then taken from the end, so that neither a backlog nor a small budget ever moves a
        # long list ticket by ticket: a million are turned in less than a millisecond.
        if not self.waking:
            self.waking, self.settled = self.settled, self.waking
            self.waking.reverse()
        return <Ticket>self.waking.pop()

    cdef int wake(self, Ticket ticket, bint inline) except -1:
        """Wake those who wait for a settled ticket: 1, or 0 where nobody does any more."""
        if ticket.callback is None:
            return 0
        if inline and ticket.more is None and is_task_wakeup(ticket.callback):
            callback, context = ticket.callback, ticket.context
            ticket.callback = ticket.context = None
            self.wake_inline(callback, context, ticket)
        else:
            ticket.schedule()
        return 1

    cdef int wake_inline(self, object callback, object context, Ticket ticket) except -1:
        try:
            PyContext_Enter(context)
        except RuntimeError:
            # Somebody below us on the stack is in this very context, so the task cannot run in it now.
            self.loop.call_soon(callback, ticket, context=context)
            return 0
        try:
            # A task asks what it waited for whether that failed, and asks an asyncio.Future about three times as fast as
            # anything else. Where the ticket has an answer, a future that is done says all the task wants to know: the
            # answer itself is fetched by the coroutine, from the ticket.
            callback(self.stand_in if ticket.state == ANSWERED else ticket)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # What a task raises stays in the task; this is an error of the wake-up itself, and goes where the loop's go.
            report = {"message": f"waking the waiter of {ticket!r} failed", "exception": error}
            self.loop.call_exception_handler(report)
        finally:
            PyContext_Exit(context)
        return 0

    cdef bint must_come_round(self) noexcept:
        """Asked by each await that need not suspend, whether it has to: a task that only ever asks for what is here, or
        for what fails at once, would never let the node run."""
        if self.unsuspended < UNSUSPENDED_MAX:
            self.unsuspended += 1
            return False
        self.unsuspended = 0
        return True

    cdef bint may_wake_inline(self) except -1:
        return _get_running_loop() is self.loop and current_task(self.loop) is None

    cdef int check_thread(self) except -1:
        if self.loop.is_running() and _get_running_loop() is not self.loop:
            raise InvariantViolation("tickets were touched from a thread that does not run their loop")
        return 0


cdef bint is_task_wakeup(object callback) except -1:
    """Whether calling it does nothing but let a task go on: the builtin that asyncio's compiled Task registers.

    Any other callable, another method of a task among them (``add_done_callback(task.cancel)``), may do what it likes and
    is none. Should a later Python name it otherwise, then all wake-ups go through call_soon: slower, and just as right.
    """
    if not PyCFunction_CheckExact(callback):
        return False
    cdef PyCFunctionObject* function = <PyCFunctionObject*>callback
    return (
        function.m_self is not NULL
        and strcmp(function.m_ml.ml_name, b"task_wakeup") == 0
        and isinstance(<object>function.m_self, Task)
    )


# -- slots ------------------------------------------------------------------------------------------------------------------
#
# `await` asks an awaitable for its next step through the slot am_send (3.11) or tp_iternext (3.12 and later, and under a
# tracer). Left to itself, Cython fills the second from __next__ alone, and there an answer can only travel as a raised
# StopIteration with a traceback: about as dear as all that a ticket saves. So both are filled by hand, once, when the
# module is imported: it is the one thing that this module does then, and it changes nothing outside our own type.


@cython.linetrace(False)
@cython.profile(False)
cdef PySendResult send_slot(PyObject* me, PyObject* sent, PyObject** answer) except? PYGEN_ERROR:
    cdef Ticket ticket = <Ticket>me
    if ticket.state == PENDING or (not ticket.suspended and ticket.waker.must_come_round()):
        # A task that is given a done ticket to wait for is woken by call_soon, and then takes this step again.
        ticket.suspended = True
        ticket._asyncio_future_blocking = True
        Py_INCREF(ticket)
        answer[0] = me
        return PYGEN_NEXT
    ticket.suspended = False
    if ticket.state == ANSWERED:
        Py_INCREF(ticket.value)
        answer[0] = <PyObject*>ticket.value
        return PYGEN_RETURN
    answer[0] = NULL
    raise ticket.error()


@cython.linetrace(False)
@cython.profile(False)
cdef PyObject* next_slot(PyObject* me) except? NULL:
    cdef PyObject* answer = NULL
    if send_slot(me, NULL, &answer) == PYGEN_NEXT:
        return answer
    value = <object>answer
    Py_DECREF(value)
    if isinstance(value, (tuple, BaseException)):
        # Set as they are, these would be taken for the arguments of StopIteration, or for the exception itself.
        value = StopIteration(value)
    if value is not None:                   # no exception at all means "finished with None"
        PyErr_SetObject(StopIteration, value)
    return NULL


cdef int install_slots(PyTypeObject* kind) except -1:
    kind.tp_as_async.am_send = send_slot
    kind.tp_iternext = next_slot
    PyType_Modified(kind)
    return 0


install_slots(<PyTypeObject*><PyObject*>Ticket)
