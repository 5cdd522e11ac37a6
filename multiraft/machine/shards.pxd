# The shards of one node as the loop sees them: memtables, applied index, and the apply of committed runs.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from multiraft._core cimport CommittedRun, CommittedRuns
from multiraft.machine.commands cimport Command, Condition, Operation
from multiraft.machine.memtable cimport Memtable, Node

# Why `apply` came back.
cpdef enum ApplyStop:
    STOP_DONE = 0           # every item was consumed
    STOP_BUDGET = 1         # as many entries or bytes as one call may apply
    STOP_MEMBERSHIP = 2     # the next item is a membership entry: the turn handles it
    STOP_FULL = 3           # its memtable is full and the one before it not flushed yet, or all of them together are too large
    STOP_FORMAT = 4         # a command that this version cannot read: the shard waits for a snapshot (see `alarms`)
    STOP_ABSENT = 5         # a group that has no shard here
    STOP_INSTALLING = 6     # a snapshot is being installed
    STOP_BUSY = 7           # the tree's map is being grown just now: go on in the next turn


cdef class Shard:
    cdef readonly uint64_t group
    cdef readonly object descriptor         # ShardDescriptor; changed by `describe` alone
    cdef readonly bytes membership          # encoded
    cdef readonly bytes sessions
    cdef readonly uint64_t applied_index    # everything up to here is in the memtables or the tree
    cdef readonly uint64_t applied_term
    cdef readonly uint64_t flushed_index    # ... up to here in the tree
    cdef readonly uint64_t flushes          # writes of this shard's part of the tree
    cdef readonly Memtable active           # never None, never frozen
    cdef readonly Memtable frozen           # None, or what is to be flushed next
    cdef readonly object frozen_record      # ShardRecord as of the freeze; None together with `frozen`
    cdef readonly uint64_t generation       # rises when memtables are withdrawn: flushes of an older one are void
    cdef public bint flushing               # a flush of `frozen` is queued or running
    cdef public bint installing             # a snapshot is being installed
    cdef public bint replacing              # ... and may be in the tree already: what memory knows does not fit over it
    cdef public bint wanted                 # somebody asked for a flush
    cdef public bint scanned                # somebody scanned the active memtable: the next one keeps its order from the start
    cdef public int64_t dirty_since_ns      # when `due` first saw something unflushed; 0 where there is nothing
    cdef readonly object alarm              # why it applies nothing more, or None; a snapshot clears it
    cdef bint held                          # some of its items wait in a list of held ones
    # the descriptor again, for the path of a put
    cdef bytes start
    cdef bytes end
    cdef uint64_t range_epoch
    cdef uint64_t revision_base

    cdef bint inside(self, const char* key, uint32_t key_bytes) noexcept
    cdef bint range_inside(self, const Operation* operation) noexcept


cdef class ShardTable:
    cdef readonly dict shards               # group -> Shard
    cdef readonly size_t bytes              # of all memtables, as of the last count and what was applied since
    cdef readonly size_t memtable_bytes_max
    cdef readonly size_t memtables_bytes_max
    cdef public bint cold                   # reads that may touch the disk leave the loop
    cdef readonly int stopped               # ApplyStop of the last `apply`
    cdef readonly object stopped_group      # its group; None with STOP_DONE and STOP_BUDGET
    cdef readonly dict alarmed              # group -> why it applies nothing more
    cdef readonly set crowded               # groups whose own memtables are full, so that their apply waits
    cdef object reader                      # tree.Reader of the loop
    cdef uint64_t seed
    cdef bint busy                          # the last entry could not be judged, since the tree could not be read just now

    cdef bint is_full(self, Shard shard) noexcept
    cdef int note_room(self, Shard shard) except -1
    cdef int apply_run(self, Shard shard, CommittedRun* run, Py_ssize_t entries_max, Py_ssize_t* bytes_left, dict results) except -1
    cdef int apply_entry(self, Shard shard, const char* data, uint32_t size, uint64_t index, dict results) except -1
    cdef object refusal(self, Shard shard, const Command* command)
    cdef object judge(self, Shard shard, const Condition* condition)
    cdef int execute(self, Shard shard, const Command* command, uint64_t revision) except -1
    cdef object current(self, Shard shard, const char* key, uint32_t key_bytes)
    cdef int look(self, Shard shard, const char* key, uint32_t key_bytes, Node** node) noexcept
    cdef object read(self, group, key, bint memory_only)
    cdef int hindrance(self, Shard shard, const CommittedRun* run) except -1
