# All replicas of a node, as far as compiled code above (the waiters) calls in.

from libc.stdint cimport uint32_t, uint64_t
from multiraft._core cimport Buffer
from multiraft.raft.progress cimport Outbox
from multiraft.raft.state cimport Engine, Handout, Message, Replica
from multiraft.raft.table cimport GroupTable


cdef class MultiRaft:
    cdef Engine engine
    cdef GroupTable table
    cdef Replica** slots
    cdef uint32_t slots_count
    cdef uint32_t slots_capacity
    cdef list free_slots
    cdef dict doors                     # group -> the door that was lent
    cdef uint64_t store_id
    cdef uint32_t boot_count
    cdef readonly uint64_t sequence             # newest batch handed out
    cdef readonly uint64_t persisted_sequence   # newest batch known to be synced
    cdef Handout* waiting               # handouts whose batch is not synced yet, oldest first, from waiting_start on
    cdef size_t waiting_start
    cdef size_t waiting_count
    cdef size_t waiting_capacity
    cdef list held                      # (sequence, node, frame): answers that wait for that batch's sync
    cdef list released                  # (node, frame) whose batch was synced since the last ready
    cdef list posts                     # messages for the layer above: (node, kind, group, context, index, term, flags, body)
    cdef readonly uint64_t messages_stepped
    cdef readonly uint64_t messages_sent
    cdef readonly uint64_t unknown_group_messages

    cdef Replica* find(self, uint64_t group) noexcept
    cdef Replica* get(self, uint64_t group) except NULL
    cdef Replica* _add(self, group, replica, membership, sink, base_index, base_term) except NULL
    cdef int _unmark(self, Replica* replica) except -1
    cdef int _step_messages(self, Outbox* origin, const char* data, Py_ssize_t left) except -1
    cdef int _post(self, uint32_t node, const Message* message) except -1
    cdef int _flush_dirty(self) except -1
    cdef int _set_now(self, now_ns) except -1
    cdef int _queue_handouts(self) except -1
    cdef int _take_frames(self, list frames) except -1
    # The node of another replica that the one here follows; 0 where there is none, or this one leads.
    cdef uint32_t led_elsewhere(self, uint64_t group) noexcept
    # Does a replica here feed the built-in store, and not a machine of a user?
    cdef bint feeds_store(self, uint64_t group) noexcept
    # A message of the layer above (FORWARD and higher) into the next frame for ``node``. Raises TooLarge.
    cdef int post_bytes(
        self, uint32_t node, uint32_t kind, uint64_t group, uint64_t context, uint64_t index, uint64_t term, uint32_t flags,
        const char* data, size_t length,
    ) except -1
    # Put a proposal behind the group's log; `term` and `index` are its ticket. Raises as raft.replica.propose, and
    # NoLeader where this node has no replica of the group.
    cdef int propose_bytes(self, uint64_t group, const char* data, size_t length, uint64_t* term, uint64_t* index) except -1
