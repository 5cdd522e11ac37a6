# Commands on their way: from the proposal to the answer.

from libc.stdint cimport uint32_t, uint64_t
from multiraft._core cimport CommittedRuns
from multiraft._ticket cimport Ticket, Waker
from multiraft.raft.multi cimport MultiRaft


# One command, or several that one ticket stands for. It was asked for here (`ticket`) or by another node (`origin`).
cdef class Call:
    cdef readonly Ticket ticket         # None for a call of another node
    cdef readonly uint32_t origin       # that node (0 once it has given the call up), and ...
    cdef readonly uint64_t context      # ... its number for the call
    cdef readonly uint64_t group
    cdef readonly uint64_t deadline_ns
    cdef readonly uint64_t term         # of its proposal; 0 while it has none
    cdef readonly uint64_t index        # of its last entry
    cdef readonly uint32_t count        # how many entries it has
    cdef readonly object payload        # the command's bytes, or a list of them
    cdef list results                   # of a user's machine, as far as they came; None before the first
    cdef public object lead             # runs (call, answer) -> answer before the caller gets it; None: as it is
    cdef public uint32_t forwarded_to   # the node that has it; 0: none
    cdef public bint nowait             # give up at once where it would have to wait for room


# The calls of one group, by ascending index; `head` is the oldest.
cdef class CallQueue:
    cdef list calls
    cdef Py_ssize_t head


cdef class Waiters:
    cdef MultiRaft multi
    cdef readonly Waker waker
    cdef dict queues                    # group -> CallQueue; emptied queues stay until the group is forgotten
    cdef readonly Py_ssize_t waiting    # calls in all queues
    cdef object homeless                # called with (call, error) when a call has no place here; None: another node leads
    cdef object answered                # called with (call, value or exception) when another node's call ends
    cdef object kick                    # called when the turn has something to do
    cdef public uint64_t now_ns         # the time as of the last turn or tick: good enough for deadlines, and free
    cdef public object gate             # (group, payload) -> why it is not proposed now, or None; None: every one may be
    cdef public object user_key         # (physical key) -> the caller's, for what an error tells him; None: as it is
    cdef readonly uint64_t proposed
    cdef readonly uint64_t expired

    cpdef Ticket submit(self, uint64_t group, payload, uint64_t deadline_ns, bint nowait=*, lead=*)
    cdef int place(self, Call call) except -1
    cdef int place_or_end(self, Call call) except -1
    cpdef object end(self, Call call, value)
    cdef int finish(self, Call call, object value, bint failed) except -1
    cdef int settle_queue(
        self, CallQueue queue, uint64_t term, uint64_t last, uint64_t result_base, dict results
    ) except -1
    cdef int trim(self, CallQueue queue) except -1
    cdef int overwritten(self, Call call) except -1
