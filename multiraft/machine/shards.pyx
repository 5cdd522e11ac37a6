# On the path of a put.
"""The shards of one node as the loop sees them: applies committed runs, answers reads from memory, freezes memtables.

Everything here runs on the loop and touches no disk but through the reader it was given. It applies each entry once, in
order, without a gap, and each to the end or not at all; what an entry does depends on the entries before it and on nothing
else, so that every replica comes to the same state and the same results. It never flushes: `kv` does.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy

from multiraft._core cimport FAULT_KIND, FAULT_VERSION, RUN_ENTRIES, chunk_take
from multiraft.machine.commands cimport (
    CONDITION_ABSENT, CONDITION_PRESENT, CONDITION_REVISION, KEY_BYTES_MAX, OPERATION_DELETE, OPERATION_DELETE_RANGE,
    OPERATION_PUT, command_open, next_condition, next_operation,
)
from multiraft.machine.memtable cimport (
    AHEAD_MAX, FRAGMENTS_MAX, KNOWN_GONE, KNOWN_NOTHING, KNOWN_VALUE, Ahead, Node, compare_keys,
)
from multiraft.machine.pages cimport opened

from multiraft.errors import (
    FormatUnsupported, InvalidCommand, InvariantViolation, PreconditionFailed, ShardMoved,
)
from multiraft.machine.descriptors import ShardRecord
from multiraft.machine.pages import overlay
from multiraft.machine.tree import Moved

cdef enum:
    APPLY_BYTES_MAX = 512 * 1024             # of entries, in one call of `apply`: about a millisecond of small puts
    ORDER_NODES_MAX = 1024                  # that one scan on the loop puts into order before it gives up


class Cold:
    """The type of `COLD`."""

    def __repr__(self):
        return "COLD"


COLD = Cold()
"""What a read answers when only the disk may know: ask `read_cold` or `scan_cold`."""


@cython.final
cdef class Shard:
    """One shard of this node. Its memtables and indexes are changed by its table only."""

    def __cinit__(self, record, Memtable active not None):
        self.group = record.group
        self.membership = record.membership
        self.sessions = record.sessions
        self.applied_index = self.flushed_index = record.applied_index
        self.applied_term = record.applied_term
        self.flushes = record.flushes
        self.active = active
        self.describe(record.descriptor)

    def describe(self, descriptor):
        """Take over another descriptor: range, epochs, revision base."""
        if type(descriptor.start) is not bytes or type(descriptor.end) is not bytes:
            raise InvariantViolation("the ends of a shard must be bytes")
        self.descriptor = descriptor
        self.start = descriptor.start
        self.end = descriptor.end
        self.range_epoch = descriptor.range_epoch
        self.revision_base = descriptor.revision_base

    def record(self):
        """What a flush of everything applied up to now writes besides keys."""
        return ShardRecord(
            self.group, self.applied_index, self.applied_term, self.membership, self.descriptor, self.sessions,
            self.flushes + 1,
        )

    @property
    def dirty(self):
        """Whether something applied is in memory only."""
        return self.applied_index > self.flushed_index

    @property
    def memory_bytes(self):
        return self.active.bytes + (self.frozen.bytes if self.frozen is not None else 0)

    cdef bint inside(self, const char* key, uint32_t key_bytes) noexcept:
        cdef uint32_t start_bytes = <uint32_t>PyBytes_GET_SIZE(self.start)
        cdef uint32_t end_bytes = <uint32_t>PyBytes_GET_SIZE(self.end)
        if start_bytes and compare_keys(key, key_bytes, PyBytes_AS_STRING(self.start), start_bytes) < 0:
            return False
        return not end_bytes or compare_keys(key, key_bytes, PyBytes_AS_STRING(self.end), end_bytes) < 0

    cdef bint range_inside(self, const Operation* operation) noexcept:
        """Whether [key, value) of a range's operation lies within the shard."""
        cdef uint32_t start_bytes = <uint32_t>PyBytes_GET_SIZE(self.start)
        cdef uint32_t end_bytes = <uint32_t>PyBytes_GET_SIZE(self.end)
        if start_bytes and compare_keys(operation.key, operation.key_bytes, PyBytes_AS_STRING(self.start), start_bytes) < 0:
            return False
        if not end_bytes:
            return True
        if not operation.value_bytes:
            return False
        return compare_keys(operation.value, operation.value_bytes, PyBytes_AS_STRING(self.end), end_bytes) <= 0


cdef uint32_t warm_entries(Memtable active, const char* at, const char* end, uint32_t count) noexcept:
    """Warm the memtable for some of the ``count`` entries from ``at`` on, where they change one key each; how many."""
    cdef Ahead ahead
    cdef Command command
    cdef Operation operation
    cdef uint32_t size, seen = 0
    ahead.count = 0
    while seen < count and seen < AHEAD_MAX and end - at >= 4:
        memcpy(&size, at, 4)
        seen += 1
        if <size_t>(end - at) < 4 + <size_t>size:
            break                       # whoever applies it will say so
        if size and command_open(at + 4, size, &command) == 0:
            if command.operations != 1 or command.conditions:
                break
            next_operation(&command, command.at, &operation)
            ahead.keys[ahead.count] = operation.key
            ahead.key_bytes[ahead.count] = operation.key_bytes
            ahead.count += 1
        at += 4 + <size_t>size
    if ahead.count > 1:
        active.warm(&ahead)
    return max(<uint32_t>1, seen)


cdef void warm_operations(Memtable active, const Command* command, const char* at, uint32_t count) noexcept:
    """Warm the memtable for the next operations of a command."""
    cdef Ahead ahead
    cdef Operation operation
    ahead.count = 0
    while <uint32_t>ahead.count < count and ahead.count < AHEAD_MAX:
        at = next_operation(command, at, &operation)
        ahead.keys[ahead.count] = operation.key
        ahead.key_bytes[ahead.count] = operation.key_bytes
        ahead.count += 1
    active.warm(&ahead)


@cython.final
cdef class ShardTable:
    """All shards of a node, and the apply. `reader` reads the tree for the loop; `seed` keys the hash tables."""

    def __cinit__(self, reader, *, size_t memtable_bytes_max, size_t memtables_bytes_max, uint64_t seed):
        self.shards = {}
        self.alarmed = {}
        self.crowded = set()
        self.reader = reader
        self.memtable_bytes_max = memtable_bytes_max
        self.memtables_bytes_max = memtables_bytes_max
        self.seed = seed
        self.stopped = STOP_DONE

    # -- which shards there are -----------------------------------------------------------------------------------------

    def add(self, record):
        """A shard from its durable record, or as it begins."""
        if record.group in self.shards:
            raise InvariantViolation(f"shard {record.group} is here already")
        cdef Shard shard = Shard.__new__(Shard, record, Memtable.__new__(Memtable, self.seed))
        self.shards[record.group] = shard
        return shard

    def remove(self, group):
        """Forget a shard and what it holds in memory."""
        cdef Shard shard = self.shards.pop(group)
        shard.generation += 1
        self.alarmed.pop(group, None)
        self.crowded.discard(group)
        self.count_bytes()

    def shard(self, group):
        """The shard of a group. Raises ShardMoved where it is not here."""
        cdef Shard shard = self.shards.get(group)
        if shard is None:
            raise ShardMoved(f"shard {group} is not on this node")
        return shard

    def count_bytes(self):
        """What all memtables hold, counted anew."""
        cdef Shard shard
        cdef size_t total = 0
        for shard in self.shards.values():
            total += shard.active.bytes
            if shard.frozen is not None:
                total += shard.frozen.bytes
        self.bytes = total
        return total

    cdef bint is_full(self, Shard shard) noexcept:
        cdef bint over = shard.active.bytes >= self.memtable_bytes_max or shard.active.fragment_count >= FRAGMENTS_MAX
        if over and (shard.frozen is not None or shard.active.bytes >= 2 * self.memtable_bytes_max):
            return True
        return self.bytes >= self.memtables_bytes_max and shard.active.count > 0

    cdef int note_room(self, Shard shard) except -1:
        if self.is_full(shard):
            self.crowded.add(shard.group)
        elif self.crowded:
            self.crowded.discard(shard.group)
        return 0

    @property
    def pressed(self):
        """Whether any shard may be full: cheap enough for every turn. Then ``full`` knows which."""
        return bool(self.crowded) or self.bytes >= self.memtables_bytes_max

    def full(self, group):
        """Whether a leader should refuse new proposals for it (Overloaded): its apply has to wait for a flush."""
        return self.is_full(self.shard(group))

    # -- apply ----------------------------------------------------------------------------------------------------------

    def apply(self, CommittedRuns runs not None, Py_ssize_t entries_max, CommittedRuns held=None):
        """Apply up to so many entries; how many were. `stopped` and `stopped_group` say why it came back.

        Without `held` it stops at the first item that cannot be applied now. With it, such an item, and every later one of
        its group, is moved there: the item in `runs` shrinks to what was applied of it, and the other groups go on. Once
        the reason is gone, call `release` and then `apply` with what was held.
        """
        cdef CommittedRun* run
        cdef Shard shard
        cdef Py_ssize_t applied = 0
        cdef Py_ssize_t bytes_left = APPLY_BYTES_MAX
        cdef int reason
        if held is runs:
            raise InvariantViolation("what is held needs a list of its own")
        self.stopped = STOP_DONE
        self.stopped_group = None
        while runs.done < runs.count:
            if applied >= entries_max or bytes_left <= 0:
                self.stopped = STOP_BUDGET
                break
            run = &runs.items[runs.done]
            shard = self.shards.get(run.group)
            reason = self.hindrance(shard, run)
            if reason == STOP_DONE:
                applied += self.apply_run(shard, run, entries_max - applied, &bytes_left, runs.results)
                if run.skip == run.count:
                    runs.done += 1
                    continue
                reason = STOP_BUSY if self.busy else self.hindrance(shard, run)
                if reason == STOP_DONE:
                    continue
            if held is None or reason == STOP_BUSY or shard is None or (reason == STOP_MEMBERSHIP and not shard.held):
                self.stopped = reason
                self.stopped_group = run.group
                break
            set_aside(run, held)
            shard.held = True
            runs.done += 1
        return applied

    def release(self):
        """What was held may be applied again; call it before `apply` of the held list."""
        cdef Shard shard
        for shard in self.shards.values():
            shard.held = False

    cdef int hindrance(self, Shard shard, const CommittedRun* run) except -1:
        """Why an item cannot be applied now; STOP_DONE where it can."""
        if shard is None:
            return STOP_ABSENT
        if shard.alarm is not None:
            return STOP_FORMAT
        if shard.installing:
            return STOP_INSTALLING
        if run.kind != RUN_ENTRIES:
            return STOP_MEMBERSHIP
        if shard.held or self.is_full(shard):
            return STOP_FULL
        return STOP_DONE

    cdef int apply_run(
        self, Shard shard, CommittedRun* run, Py_ssize_t entries_max, Py_ssize_t* bytes_left, dict results
    ) except -1:
        """Entries of one run, as far as limits and memory allow; `skip` moves past them. Returns how many."""
        cdef const char* at = run.entries
        cdef const char* end = run.entries + run.bytes
        cdef size_t before
        cdef uint32_t size, position
        cdef uint64_t index = run.first + run.skip
        cdef uint32_t warmed = 0
        cdef int applied = 0
        self.busy = False
        run.result_base = shard.revision_base
        for position in range(run.skip):
            memcpy(&size, at, 4)
            at += 4 + <size_t>size
        if index > shard.applied_index + 1:
            raise InvariantViolation(f"shard {shard.group}: entry {index} would be applied after {shard.applied_index}")
        while run.skip < run.count and applied < entries_max and bytes_left[0] > 0 and not self.is_full(shard):
            memcpy(&size, at, 4)
            if <size_t>(end - at) < 4 + <size_t>size:
                raise InvariantViolation(f"shard {shard.group}: the run of entry {index} is shorter than it says")
            if warmed == 0:
                warmed = warm_entries(shard.active, at, end, run.count - run.skip)
            warmed -= 1
            # What the tree knew already at start is passed over: replay may begin below the applied index.
            if index > shard.applied_index:
                before = shard.active.bytes
                if size and not self.apply_entry(shard, at + 4, size, index, results):
                    break
                self.bytes += shard.active.bytes - before
                shard.applied_index = index
                shard.applied_term = run.term
            at += 4 + <size_t>size
            bytes_left[0] -= size
            index += 1
            run.skip += 1
            applied += 1
        self.note_room(shard)
        return applied

    cdef int apply_entry(self, Shard shard, const char* data, uint32_t size, uint64_t index, dict results) except -1:
        """One command. Returns 0 where the shard must stop before it, else 1."""
        cdef Command command
        cdef int fault = command_open(data, size, &command)
        if fault == FAULT_VERSION or fault == FAULT_KIND:
            shard.alarm = self.alarmed[shard.group] = FormatUnsupported(
                f"shard {shard.group}: entry {index} holds a command that this version cannot read "
                f"(version {<uint8_t>data[0]}); nothing after it is applied here"
            )
            return 0
        if fault:
            refused = InvalidCommand("the bytes of the command are damaged or cut short")
        elif command.epoch != shard.range_epoch:
            refused = ShardMoved("the shard's range has changed since the command was made", epoch=shard.range_epoch)
        else:
            try:
                refused = self.refusal(shard, &command)
            except Moved:
                self.busy = True
                return 0
        if refused is not None:
            results[(shard.group, index)] = refused
            return 1
        self.execute(shard, &command, shard.revision_base + index)
        return 1

    cdef object refusal(self, Shard shard, const Command* command):
        """Why a command does nothing, as the error that its caller gets; None where it is to be executed.

        Everything is judged before anything is done, so that a command takes effect as a whole or not at all.
        """
        cdef Condition condition
        cdef Operation operation
        cdef const char* at = command.at
        cdef uint32_t position
        cdef bint inside
        for position in range(command.conditions):
            at = next_condition(at, &condition)
            refused = self.judge(shard, &condition)
            if refused is not None:
                return refused
        for position in range(command.operations):
            at = next_operation(command, at, &operation)
            if operation.kind == OPERATION_DELETE_RANGE:
                inside = shard.range_inside(&operation)
            else:
                inside = shard.inside(operation.key, operation.key_bytes)
            if not inside:
                return InvalidCommand("a key of the command lies outside of the shard")
        return None

    cdef object judge(self, Shard shard, const Condition* condition):
        """PreconditionFailed where a condition does not hold, InvalidCommand where it asks another shard's key, else None."""
        cdef bint holds
        if not shard.inside(condition.key, condition.key_bytes):
            return InvalidCommand("a key of a condition lies outside of the shard")
        now = self.current(shard, condition.key, condition.key_bytes)
        if condition.kind == CONDITION_ABSENT:
            holds = now is None
        elif now is None:
            holds = False
        elif condition.kind == CONDITION_PRESENT:
            holds = True
        elif condition.kind == CONDITION_REVISION:
            holds = <uint64_t>now[0] == condition.revision
        else:
            holds = (
                PyBytes_GET_SIZE(now[1]) == condition.value_bytes
                and memcmp(PyBytes_AS_STRING(now[1]), condition.value, condition.value_bytes) == 0
            )
        if holds:
            return None
        key = PyBytes_FromStringAndSize(condition.key, condition.key_bytes)
        return PreconditionFailed(key=key, revision=0 if now is None else now[0])

    cdef int execute(self, Shard shard, const Command* command, uint64_t revision) except -1:
        cdef Condition condition
        cdef Operation operation
        cdef Memtable active = shard.active
        cdef const char* at = command.at
        cdef uint32_t position
        for position in range(command.conditions):
            at = next_condition(at, &condition)
        for position in range(command.operations):
            if position % AHEAD_MAX == 0 and command.operations > 1:
                warm_operations(active, command, at, command.operations - position)
            at = next_operation(command, at, &operation)
            if operation.kind == OPERATION_PUT:
                active.put(
                    operation.key, operation.key_bytes, operation.value, operation.value_bytes,
                    revision, command.expiry_ms,
                )
            elif operation.kind == OPERATION_DELETE:
                active.delete(operation.key, operation.key_bytes, revision)
            else:
                active.delete_range(operation.key, operation.key_bytes, operation.value, operation.value_bytes)
        return 0

    def membership_applied(self, group, uint64_t index, uint64_t term, bytes membership not None):
        """The turn has handled the membership entry at `index`; this is the membership from there on, encoded."""
        cdef Shard shard = self.shard(group)
        if index <= shard.applied_index:
            return
        if index != shard.applied_index + 1:
            raise InvariantViolation(f"shard {group}: membership entry {index} would be applied after {shard.applied_index}")
        shard.membership = membership
        shard.applied_index = index
        shard.applied_term = term

    # -- reads ----------------------------------------------------------------------------------------------------------

    cdef int look(self, Shard shard, const char* key, uint32_t key_bytes, Node** node) noexcept:
        """What memory knows of a key (`Known`): the active memtable, then the frozen one."""
        cdef int known = shard.active.look(key, key_bytes, node)
        if known == KNOWN_NOTHING and shard.frozen is not None:
            known = shard.frozen.look(key, key_bytes, node)
        return known

    cdef object current(self, Shard shard, const char* key, uint32_t key_bytes):
        """(revision, value) of a key as of the applied index, or None. Raises Moved."""
        cdef Node* node = NULL
        cdef int known = self.look(shard, key, key_bytes, &node)
        if known == KNOWN_VALUE:
            return node.revision, PyBytes_FromStringAndSize(node.value, node.value_bytes)
        if known == KNOWN_GONE:
            return None
        name = PyBytes_FromStringAndSize(key, key_bytes)
        record = self.reader.get(name)
        return None if record is None else opened(name, record)

    cdef object read(self, group, key, bint memory_only):
        cdef Shard shard = self.shards.get(group)
        cdef Node* node = NULL
        cdef const char* data
        cdef uint32_t size
        cdef int known
        if shard is None:
            raise ShardMoved(f"shard {group} is not on this node")
        if not PyBytes_CheckExact(key):
            raise InvalidCommand(f"a key must be bytes, not {type(key).__name__}")
        data = PyBytes_AS_STRING(key)
        size = <uint32_t>PyBytes_GET_SIZE(key)
        if not shard.inside(data, size) or size > KEY_BYTES_MAX or size == 0:
            raise_outside(shard, key)
        known = self.look(shard, data, size, &node)
        if known == KNOWN_VALUE:
            return node.revision, PyBytes_FromStringAndSize(node.value, node.value_bytes)
        if known == KNOWN_GONE:
            return None
        if memory_only or shard.replacing:
            return COLD
        try:
            record = self.reader.get(key)
        except Moved:
            return COLD
        return None if record is None else opened(key, record)

    def get(self, group, key):
        """(revision, value), None where the key is not there, or COLD where only the disk knows and the loop must not ask."""
        return self.read(group, key, self.cold)

    def get_many(self, group, keys):
        """The same of several keys, as a list."""
        return [self.read(group, key, self.cold) for key in keys]

    def peek(self, group, key):
        """The same, but COLD for everything that is not in memory."""
        return self.read(group, key, True)

    def overlay(
        self, group, bytes start not None, bytes end not None, Py_ssize_t count_max, Py_ssize_t bytes_max,
        bint reverse=False, bint raw=False,
    ):
        """What memory knows of [start, end), or COLD where it has to be brought into order first (`order_step`)."""
        cdef Shard shard = self.shard(group)
        shard.scanned = True
        if self.order_step(group, ORDER_NODES_MAX):
            return COLD
        return overlay(shard.active, shard.frozen, start, end, count_max, bytes_max, reverse, raw)

    def order_step(self, group, Py_ssize_t nodes_max):
        """Bring up to so many keys of a shard into order; whether some are left. Any thread may do it, in small steps."""
        cdef Shard shard = self.shard(group)
        if shard.active.order_some(nodes_max):
            return True
        return shard.frozen is not None and shard.frozen.order_some(nodes_max) != 0

    def require_inside(self, group, bytes start not None, bytes end not None):
        """Raise ShardMoved where some key of [start, end) is not the shard's. An empty `end` means that there is none."""
        cdef Shard shard = self.shard(group)
        if start < shard.start or (shard.end and (not end or end > shard.end)):
            raise ShardMoved(f"the range reaches beyond shard {group}", epoch=shard.range_epoch)

    # -- memtables on their way to the disk -----------------------------------------------------------------------------

    def due(self, int64_t now_ns, int64_t age_ns):
        """The shards to freeze and flush now, largest first: full, old, asked for, or to make room in memory."""
        cdef Shard shard
        cdef size_t rest = self.count_bytes()
        cdef list found = []
        cdef list others = []
        for shard in self.shards.values():
            if shard.flushing or shard.installing:
                continue
            if not shard.dirty:
                shard.dirty_since_ns = 0
                shard.wanted = False
                continue
            if shard.dirty_since_ns == 0:
                shard.dirty_since_ns = now_ns
            if (
                shard.frozen is not None or shard.wanted or now_ns - shard.dirty_since_ns >= age_ns
                or shard.active.bytes >= self.memtable_bytes_max or shard.active.fragment_count >= FRAGMENTS_MAX
            ):
                found.append((shard.memory_bytes, shard.group))
            else:
                others.append((shard.memory_bytes, shard.group))
        if rest >= self.memtables_bytes_max - self.memtables_bytes_max // 4:
            # Begin before the limit stops the apply, and go on until half is free or on its way out.
            others.sort()
            for size, _ in found:
                rest -= min(rest, size)
            while others and rest >= self.memtables_bytes_max // 2:
                found.append(others.pop())
                rest -= min(rest, found[len(found) - 1][0])
        found.sort(reverse=True)
        return [group for _, group in found]

    def freeze(self, group):
        """Set the memtable aside for a flush, unless one is already; the applied index that the flush will bring."""
        cdef Shard shard = self.shard(group)
        if shard.frozen is None and shard.dirty and not shard.installing:
            shard.active.freeze()
            shard.frozen = shard.active
            shard.frozen_record = shard.record()
            shard.active = Memtable.__new__(Memtable, self.seed)
            if shard.scanned:
                shard.active.order_some(0)
            shard.scanned = shard.wanted = False
            shard.dirty_since_ns = 0
            self.note_room(shard)
        return shard.flushed_index if shard.frozen is None else shard.frozen_record.applied_index

    def flushed(self, group, uint64_t generation):
        """The frozen memtable is in the tree, durably. False where it was withdrawn meanwhile."""
        cdef Shard shard = self.shards.get(group)
        if shard is None or shard.generation != generation or shard.frozen is None:
            return False
        shard.flushed_index = shard.frozen_record.applied_index
        shard.flushes = shard.frozen_record.flushes
        self.bytes -= min(self.bytes, shard.frozen.bytes)
        shard.frozen = None
        shard.frozen_record = None
        shard.flushing = False
        self.note_room(shard)
        return True

    def withdraw(self, group):
        """Make every queued flush of the shard void. What is in memory stays readable until `replace`."""
        cdef Shard shard = self.shard(group)
        shard.generation += 1
        shard.flushing = False

    def replace(self, record):
        """The tree holds another state of the shard now (a snapshot's): forget what memory knew.

        A shard that had stopped before an entry it cannot read goes on behind the snapshot, which holds what that entry did.
        """
        cdef Shard shard = self.shard(record.group)
        shard.generation += 1
        shard.alarm = None
        self.alarmed.pop(shard.group, None)
        shard.active = Memtable.__new__(Memtable, self.seed)
        shard.frozen = None
        shard.frozen_record = None
        shard.flushing = shard.installing = shard.replacing = shard.wanted = False
        shard.dirty_since_ns = 0
        shard.membership = record.membership
        shard.sessions = record.sessions
        shard.applied_index = shard.flushed_index = record.applied_index
        shard.applied_term = record.applied_term
        shard.flushes = record.flushes
        shard.describe(record.descriptor)
        self.count_bytes()
        self.note_room(shard)


cdef int set_aside(CommittedRun* run, CommittedRuns held) except -1:
    """Move what is left of an item to another list; the item shrinks to what was applied of it."""
    cdef CommittedRun* rest = held.add()
    cdef const char* at = run.entries
    cdef uint32_t size, position
    for position in range(run.skip):
        memcpy(&size, at, 4)
        at += 4 + <size_t>size
    rest[0] = run[0]
    chunk_take(rest.chunk)
    rest.entries = at
    rest.bytes = run.bytes - <uint32_t>(at - run.entries)
    rest.first = run.first + run.skip
    rest.count = run.count - run.skip
    rest.skip = 0
    run.bytes -= rest.bytes
    run.count = run.skip
    return 0


cdef int raise_outside(Shard shard, bytes key) except -1:
    if len(key) > KEY_BYTES_MAX or not key:
        raise InvalidCommand(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")
    raise ShardMoved(f"key {key!r} lies outside of shard {shard.group}", epoch=shard.range_epoch)


def take_entries(CommittedRuns runs not None, Py_ssize_t entries_max):
    """(group, first, term, kind, payloads) of the next item, or of its next so many entries; None at the end.

    For machines that are not applied here. Moves `skip`, and `done` past an item that is taken whole.
    """
    if runs.done == runs.count:
        return None
    cdef CommittedRun* run = &runs.items[runs.done]
    cdef const char* at = run.entries
    cdef uint32_t size, position
    cdef list payloads = []
    for position in range(run.skip):
        memcpy(&size, at, 4)
        at += 4 + <size_t>size
    first = run.first + run.skip
    while run.skip < run.count and len(payloads) < entries_max:
        memcpy(&size, at, 4)
        payloads.append(PyBytes_FromStringAndSize(at + 4, size))
        at += 4 + <size_t>size
        run.skip += 1
    if run.skip == run.count:
        runs.done += 1
    return run.group, first, run.term, run.kind, payloads
