"""The index of the log: which run of which batch holds each entry, and what the newest record of each group says.

It is fed batches in the order in which they were written and never reads a disk itself. Two modes: *loading* (at open: damage
is collected as findings, and the oldest batch need not be the first that was ever written) and, after ``finish``, *strict*
(``append``: whatever contradicts the log is our own mistake and raises InvariantViolation before it is written).

Scan order is truth:

- an ENTRIES or MEMBERSHIP run is the end of its group's log: it cuts everything from its first index on. It must bring
  something new: a run whose entries are all there already is refused, for on disk it could not be told from a cut;
- TRUNCATE cuts; BASE moves the beginning; SNAPSHOT_MARK replaces what is before and at its index, and cuts the rest too unless
  the entry at its index is there under its term; REPLICA_CREATED begins anew; TOMBSTONE ends;
- HARD_STATE: the newest counts. A base record's hard state counts too, but never lowers a term nor takes back a vote;
- what compaction rewrote counts as written at the sequence it carries. All of it is older than the oldest first-hand batch,
  is put in place in that order before them, and cuts nothing.

Invariants: entries of a group are contiguous from its base on once loading is finished; nothing at or below a recorded commit
index is ever cut; a term never falls, a vote once given in a term never changes; the books say which batches are needed.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from multiraft._core cimport (
    BATCH_HEADER_BYTES,
    DIRECTORY_ITEM_BYTES,
    FAULT_KIND,
    FAULT_VERSION,
    RUN_BASE,
    RUN_ENTRIES,
    RUN_HARD_STATE,
    RUN_HEADER_BYTES,
    RUN_MEMBERSHIP,
    RUN_PINNED,
    RUN_REPLICA_CREATED,
    RUN_REWRITE,
    RUN_SNAPSHOT_MARK,
    RUN_SNAPSHOT_PENDING,
    RUN_TOMBSTONE,
    RUN_TRUNCATE,
    BatchHeader,
    DirectoryItem,
    RunHeader,
    batch_check,
    run_check,
)
from multiraft.log.accounting cimport (
    REWRITTEN,
    books_add,
    books_drop,
    books_free,
    books_stale,
    books_take,
)
from multiraft.log.entries cimport (
    BASED,
    DEAD,
    HOLES,
    MAYBE_CUT,
    SLOT_BASE,
    SLOT_HARD_STATE,
    SLOT_PENDING,
    SLOT_TOMBSTONE,
    Group,
    Item,
    group_advance,
    group_commit,
    group_conflict,
    group_cut,
    group_first,
    group_free,
    group_last,
    group_note_commit,
    group_push,
    group_reset,
    group_term,
    slot_clear,
    slot_set,
)

from multiraft._core import Fault, RunKind
from multiraft.errors import InvariantViolation
from multiraft.log.schema import FINDINGS_MAX, Finding, FindingKind

cdef enum:
    CARRIED_OFFSET = RUN_HEADER_BYTES + 12       # of the run within a REWRITE run: its header, a length, a sequence
    NUMBERS_MISSING_MAX = 1 << 22
    POSITION_LAST = 0xFFFFFFFF      # of a rewritten hard state that is there for its commit index alone
    HARD_STATE_BYTES = 28
    BASE_BYTES_MIN = 40
    PINNED_BYTES = 28

cdef packed struct HardStatePayload:
    uint32_t length
    uint32_t vote
    uint32_t leader
    uint64_t epoch
    uint64_t commit

cdef packed struct PinnedPayload:
    uint32_t length
    uint32_t node
    uint32_t boot_count
    uint64_t store_id
    uint64_t sequence


cdef inline bint has_entries(uint32_t kind) noexcept nogil:
    return kind == RUN_ENTRIES or kind == RUN_MEMBERSHIP


cdef inline bint has_base(uint32_t kind) noexcept nogil:
    return kind == RUN_BASE or kind == RUN_SNAPSHOT_MARK or kind == RUN_REPLICA_CREATED


cdef bint well_formed(const RunHeader* run) noexcept nogil:
    """Does the header make sense for its kind? Lengths and checksums were checked before."""
    if has_entries(run.kind):
        return run.count > 0 and run.first > 0 and run.first + run.count > run.first and 0 < run.term >= run.prev_term
    if run.kind == RUN_TRUNCATE:
        return run.count == 0 and run.bytes == 0 and run.first > 0
    if run.count != 1:
        return False
    if run.kind == RUN_HARD_STATE:
        return run.bytes == HARD_STATE_BYTES
    if run.kind == RUN_PINNED:
        return run.bytes == PINNED_BYTES
    if has_base(run.kind) or run.kind == RUN_SNAPSHOT_PENDING:
        return run.bytes >= BASE_BYTES_MIN
    return run.kind == RUN_TOMBSTONE


@cython.final
cdef class LogIndex:
    """Of one store's log. Fed by ``load_rewritten``, ``settle``, ``load``, ``finish`` in this order, then by ``append``."""

    def __cinit__(self):
        self.carried = []
        self.commits = []
        self.pins = {}
        self.findings = []

    def __init__(self, store_id):
        self.store_id = store_id

    def __dealloc__(self):
        cdef uint32_t at
        for at in range(self.groups_count):
            group_free(self.groups[at])
            free(self.groups[at])
        free(self.groups)
        free(self.table)
        books_free(&self.books)

    # -- the table of groups --------------------------------------------------------------------------------------------------

    cdef Group* find_group(self, uint64_t group) noexcept:
        cdef uint32_t at
        if self.table_capacity == 0:
            return NULL
        at = <uint32_t>((group * 0x9E3779B97F4A7C15ULL) >> 32) & (self.table_capacity - 1)
        while self.table[at]:
            if self.groups[self.table[at] - 1].id == group:
                return self.groups[self.table[at] - 1]
            at = (at + 1) & (self.table_capacity - 1)
        return NULL

    cdef Group* get_group(self, uint64_t group) except NULL:
        cdef Group* found = self.find_group(group)
        cdef void* grown
        if found != NULL:
            return found
        if (self.groups_count + 1) * 2 > self.table_capacity:
            self.grow_table()
        if self.groups_count == self.groups_capacity:
            grown = realloc(self.groups, (self.groups_capacity * 2 + 64) * sizeof(Group*))
            if grown == NULL:
                raise MemoryError
            self.groups = <Group**>grown
            self.groups_capacity = self.groups_capacity * 2 + 64
        found = <Group*>calloc(1, sizeof(Group))
        if found == NULL:
            raise MemoryError
        found.id = group
        self.groups[self.groups_count] = found
        self.groups_count += 1
        self.enter(group, self.groups_count)
        return found

    cdef void enter(self, uint64_t group, uint32_t value) noexcept:
        cdef uint32_t at = <uint32_t>((group * 0x9E3779B97F4A7C15ULL) >> 32) & (self.table_capacity - 1)
        while self.table[at]:
            at = (at + 1) & (self.table_capacity - 1)
        self.table[at] = value

    cdef int grow_table(self) except -1:
        cdef uint32_t at, capacity = self.table_capacity * 2 if self.table_capacity else 64
        cdef uint32_t* table = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        if table == NULL:
            raise MemoryError
        free(self.table)
        self.table = table
        self.table_capacity = capacity
        for at in range(self.groups_count):
            self.enter(self.groups[at].id, at + 1)
        return 0

    # -- feeding ----------------------------------------------------------------------------------------------------------------

    def load_rewritten(self, uint64_t number, const unsigned char[::1] batch not None, bint bodies=False):
        """One rewritten batch, in the order of their numbers. Numbers may be missing: such batches are deleted in any order."""
        if number <= self.last_rewritten or number - self.last_rewritten > NUMBERS_MISSING_MAX:
            self.report(FindingKind.DAMAGE, f"after rewritten batch {self.last_rewritten} comes {number}")
            return
        self.last_rewritten = number
        self.load_batch(batch, REWRITTEN | number, bodies)

    cdef int load_batch(self, const unsigned char[::1] batch, uint64_t place, bint bodies) except -1:
        books_add(&self.books, place, max(<uint32_t>batch.shape[0], 1))
        if batch.shape[0]:
            self.scan(<const char*>&batch[0], batch.shape[0], place, bodies)
        else:
            self.report(FindingKind.DAMAGE, f"batch {place & ~REWRITTEN} is empty")
        return 0

    def settle(self):
        """All rewritten batches were loaded: put their runs in place, in the order in which they were first written."""
        cdef const RunHeader* run
        cdef bytes data
        self.settling = True
        for sequence, position, place, offset, data in sorted(self.carried):
            run = <const RunHeader*>PyBytes_AS_STRING(data)
            if position == POSITION_LAST:
                self.commits.append((place, data))
            else:
                self.apply(run, place, offset, sequence)
        self.settling = False
        self.carried = []

    def load(self, uint64_t sequence, const unsigned char[::1] batch not None, bint bodies=False):
        """One first-hand batch, in the order of their sequences."""
        if self.last_sequence and sequence != self.last_sequence + 1:
            self.report(
                FindingKind.GAP, f"after batch {self.last_sequence} comes batch {sequence}: what belongs between is missing"
            )
            if sequence <= self.last_sequence or sequence - self.last_sequence > NUMBERS_MISSING_MAX:
                return                           # no key that we wrote: what it holds has no place
        self.last_sequence = sequence
        self.load_batch(batch, sequence, bodies)

    def finish(self):
        """Everything was loaded. What is still missing now is missing for good; from here on the index is strict."""
        cdef const RunHeader* run
        cdef Group* group
        cdef uint32_t at
        cdef bytes data
        for place, data in self.commits:
            run = <const RunHeader*>PyBytes_AS_STRING(data)
            group = self.find_group(run.group)
            if group != NULL and group.replica == run.from_replica and group.flags & BASED:
                group_note_commit(group, &self.books, run.commit, place)
        self.commits = []
        for at in range(self.groups_count):
            self.finish_group(self.groups[at])
        self.strict = True
        return self.findings

    cdef int finish_group(self, Group* group) except -1:
        cdef uint64_t next = group.base_index + 1
        cdef uint32_t at
        if group.count and group.flags & BASED and next < group_first(group) and group.flags & MAYBE_CUT:
            group_cut(group, &self.books, 0, self.books.direct.first)    # nothing bridged the hole: the mark did cut them
        if group.flags & (BASED | DEAD) == 0:
            self.report(FindingKind.GAP, "no base record is left of the group", group.id, 0, group_last(group))
            return 0
        for at in range(group.head, group.head + group.count):
            if group.items[at].first > next:
                self.report(
                    FindingKind.GAP,
                    f"group {group.id}: entries {next} to {group.items[at].first - 1} are missing",
                    group.id,
                    next,
                    group.items[at].first - 1,
                )
            next = group.items[at].first + group.items[at].count
            if not group.flags & HOLES:
                break                            # only the first can be missing something before it
        group.flags &= ~<uint32_t>(HOLES | MAYBE_CUT)
        return 0

    def append(self, uint64_t sequence, bytes batch not None):
        """The next batch, before it is written. Raises InvariantViolation where it contradicts what is there."""
        if not self.strict:
            raise InvariantViolation("a batch was appended to a log index that is still loading")
        if sequence != self.last_sequence + 1:
            raise InvariantViolation(f"batch {sequence} was appended after batch {self.last_sequence}")
        books_add(&self.books, sequence, max(<uint32_t>PyBytes_GET_SIZE(batch), 1))
        self.last_sequence = sequence
        self.scan(PyBytes_AS_STRING(batch), PyBytes_GET_SIZE(batch), sequence, False)

    cdef int report(
        self, kind, str message, uint64_t group=<uint64_t>-1, uint64_t first=0, uint64_t last=0
    ) except -1:
        if self.strict:
            raise InvariantViolation(f"the log store refuses a batch: {message}")
        self.findings_count += 1
        if self.findings_count <= FINDINGS_MAX:
            self.findings.append(Finding(kind, message, -1 if group == <uint64_t>-1 else group, first, last))
        return 0

    cdef int report_run(self, const RunHeader* run, str message) except -1:
        cdef uint64_t last = run.first + run.count - 1 if run.count else run.first
        self.report(
            FindingKind.DAMAGE, f"group {run.group}, {RunKind(run.kind).name} at {run.first}: {message}", run.group, run.first, last
        )
        return 0

    # -- one batch ----------------------------------------------------------------------------------------------------------------

    cdef int scan(self, const char* data, size_t length, uint64_t place, bint bodies) except -1:
        cdef const BatchHeader* head = <const BatchHeader*>data
        cdef const DirectoryItem* item
        cdef uint64_t number = place & ~REWRITTEN
        cdef uint32_t at
        cdef int fault = batch_check(data, length)
        if fault == 0 and head.length != length:
            self.report(FindingKind.DAMAGE, f"batch {number} takes {length} bytes but says {head.length}")
            return 0
        if fault:
            kind = FindingKind.FORMAT if fault == FAULT_VERSION or fault == FAULT_KIND else FindingKind.DAMAGE
            self.report(kind, f"batch {number}: {Fault(fault).name}")
            return 0
        if head.sequence != number:
            self.report(FindingKind.DAMAGE, f"batch {head.sequence} stands in the place of batch {number}")
            return 0
        if head.store_id != self.store_id:
            self.report(FindingKind.STORE, f"batch {number} was written by store {head.store_id}, this is {self.store_id}")
            return 0
        for at in range(head.count):
            item = <const DirectoryItem*>(data + BATCH_HEADER_BYTES + at * DIRECTORY_ITEM_BYTES)
            self.scan_run(data, item, place, bodies)
        return 0

    cdef int scan_run(self, const char* data, const DirectoryItem* item, uint64_t place, bint bodies) except -1:
        cdef const RunHeader* run = <const RunHeader*>(data + item.offset)
        cdef int fault = run_check(<const char*>run, item.length, bodies or not has_entries(item.kind))
        if fault:
            kind = FindingKind.FORMAT if fault == FAULT_KIND else FindingKind.DAMAGE
            text = f"group {item.group}: a run at {item.offset} of batch {place & ~REWRITTEN}: {Fault(fault).name}"
            self.report(kind, text, item.group)
            return 0
        if run.group != item.group or run.kind != item.kind or RUN_HEADER_BYTES + run.bytes != item.length:
            self.report(
                FindingKind.DAMAGE,
                f"group {item.group}: batch {place & ~REWRITTEN} and its directory disagree about the run at {item.offset}",
                item.group,
            )
            return 0
        if (place & REWRITTEN != 0) != (run.kind == RUN_REWRITE):
            self.report_run(run, "rewritten runs and first-hand ones never share a batch")
        elif run.kind == RUN_REWRITE:
            self.carry(run, place, item.offset, bodies)
        elif not well_formed(run):
            self.report_run(run, "the header makes no sense for its kind")
        else:
            self.apply(run, place, item.offset, place)
        return 0

    cdef int carry(self, const RunHeader* outer, uint64_t place, uint32_t offset, bint bodies) except -1:
        """Keep a rewritten run until all are known."""
        cdef const RunHeader* run
        cdef uint64_t sequence
        cdef uint32_t room
        if outer.count != 1 or outer.bytes < CARRIED_OFFSET:
            self.report_run(outer, "too short for the run it carries")
            return 0
        memcpy(&sequence, <const char*>outer + RUN_HEADER_BYTES + 4, 8)
        run = <const RunHeader*>(<const char*>outer + CARRIED_OFFSET)
        room = outer.bytes - (CARRIED_OFFSET - RUN_HEADER_BYTES)
        if (
            run_check(<const char*>run, room, bodies or not has_entries(run.kind))
            or RUN_HEADER_BYTES + run.bytes != room
            or run.group != outer.group
            or run.kind in (RUN_REWRITE, RUN_TRUNCATE)
            or not well_formed(run)
        ):
            self.report_run(outer, "the run it carries is damaged")
            return 0
        room = RUN_HEADER_BYTES if has_entries(run.kind) else room
        data = PyBytes_FromStringAndSize(<const char*>run, room)
        self.carried.append((sequence, outer.prev_term, place, offset + CARRIED_OFFSET, data))
        return 0

    cdef int apply(self, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence) except -1:
        """``sequence`` is when the run was written, ``place`` and ``offset`` say where it lies now."""
        cdef Group* group
        if run.kind == RUN_PINNED:
            self.apply_pinned(run, place, offset)
            return 0
        group = self.get_group(run.group)
        if has_entries(run.kind):
            self.apply_entries(group, run, place, offset, sequence)
        elif run.kind == RUN_HARD_STATE:
            self.apply_hard_state(group, run, place, offset)
        elif run.kind == RUN_TRUNCATE:
            self.apply_truncate(group, run, sequence)
        elif run.kind == RUN_SNAPSHOT_PENDING:
            self.apply_pending(group, run, place, offset, sequence)
        elif run.kind == RUN_TOMBSTONE:
            group_reset(group, &self.books, sequence)
            group.flags = DEAD
            group.replica = run.from_replica
            slot_set(group, &self.books, SLOT_TOMBSTONE, place, offset, RUN_HEADER_BYTES + run.bytes)
        else:
            self.apply_base(group, run, place, offset, sequence)
        return 0

    # -- entries ------------------------------------------------------------------------------------------------------------------

    cdef int apply_entries(
        self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence
    ) except -1:
        cdef uint64_t last = group_last(group), before = group_term(group, run.first - 1)
        cdef uint64_t end = run.first + run.count - 1
        cdef Item item
        if group.flags & DEAD or (self.strict and not group.flags & BASED):
            self.report_run(run, "there is no living replica of this group to have entries")
            return 0
        if group.flags & BASED and run.first <= group.base_index:
            self.report_run(run, f"it begins before the log does, at base {group.base_index}")
            return 0
        if before and before != run.prev_term:
            self.report_run(run, f"the entry before it has term {before}, not {run.prev_term} as it says")
            return 0
        if run.first > last + 1:
            if self.strict:                      # else they died or were cut later, or `finish` finds the hole
                self.report_run(run, f"the log ends at {last}, so entries would be missing")
        elif run.first == last + 1:
            group.flags &= ~<uint32_t>MAYBE_CUT
        elif not self.make_way(group, run, sequence):
            return 0
        item.first = run.first
        item.place = place
        item.offset = offset
        item.bytes = RUN_HEADER_BYTES + run.bytes
        item.count = run.count
        item.kind = run.kind
        group_push(group, &self.books, &item, run.term, run.prev_term)
        group_note_commit(group, &self.books, min(run.commit, end), place)
        return 0

    cdef bint make_way(self, Group* group, const RunHeader* run, uint64_t sequence) except -1:
        """Cut what the run replaces; 0 where it must not."""
        cdef uint64_t last = group_last(group), end = run.first + run.count - 1, conflict
        cdef bint certain
        if self.settling:
            self.report_run(run, f"a rewritten run overlaps another, which ends at {last}")
            return 0
        conflict = group_conflict(group, run.first, run.count, run.term, &certain)
        if conflict > end and end <= last and certain:
            self.report_run(run, f"all its entries are there already, up to {last}")
            return 0
        if conflict <= end and conflict <= group_commit(group):
            self.report_run(run, f"it would replace entry {conflict}, which is committed")
            return 0
        group_cut(group, &self.books, run.first, sequence)
        return 1

    cdef int apply_truncate(self, Group* group, const RunHeader* run, uint64_t sequence) except -1:
        if group.flags & DEAD or (self.strict and not group.flags & BASED):
            self.report_run(run, "there is no living replica of this group to be cut")
        elif group.flags & BASED and run.first <= group_commit(group):
            self.report_run(run, f"{group_commit(group)} is committed")
        else:
            group_cut(group, &self.books, run.first, sequence)
        return 0

    # -- records ------------------------------------------------------------------------------------------------------------------

    cdef int apply_hard_state(self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset) except -1:
        cdef HardStatePayload hard
        memcpy(&hard, <const char*>run + RUN_HEADER_BYTES, sizeof(HardStatePayload))
        if group.flags & DEAD and group.replica == run.from_replica:
            return 0
        if group.flags & DEAD or (group.replica and group.replica != run.from_replica):
            self.report_run(run, f"it is of replica {run.from_replica}, but replica {group.replica} is here")
            return 0
        if self.strict:
            if not group.flags & BASED:
                self.report_run(run, "there is no replica of this group")
            if run.term < group.term:
                self.report_run(run, f"term {run.term} after term {group.term}")
            if run.term == group.term and group.vote and group.vote != hard.vote:
                self.report_run(run, f"a vote for {hard.vote} in term {run.term}, in which {group.vote} was voted for")
        group.replica = run.from_replica
        group.term = run.term
        group.vote = hard.vote
        group.leader = hard.leader
        group.epoch = hard.epoch
        slot_set(group, &self.books, SLOT_HARD_STATE, place, offset, RUN_HEADER_BYTES + run.bytes)
        group_note_commit(group, &self.books, max(hard.commit, run.commit), place)
        return 0

    cdef int apply_base(
        self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence
    ) except -1:
        cdef BasePayload base
        cdef uint64_t known = group_term(group, run.first)
        memcpy(&base, <const char*>run + RUN_HEADER_BYTES, sizeof(BasePayload))
        if run.kind == RUN_REPLICA_CREATED and group.flags & DEAD and group.replica != run.from_replica:
            group_reset(group, &self.books, sequence)
        if not self.may_base(group, run, known):
            return 0
        if run.kind == RUN_SNAPSHOT_MARK:
            if not self.take_mark(group, run, known, sequence):
                return 0
        if not self.take_hard_state(group, run, &base):
            return 0
        group_advance(group, &self.books, run.first, run.term)
        group.replica = run.from_replica
        slot_set(group, &self.books, SLOT_BASE, place, offset, RUN_HEADER_BYTES + run.bytes)
        group_note_commit(group, &self.books, max(run.first, max(base.commit, run.commit)), place)
        if group.slots[SLOT_PENDING].place and group.pending_index <= run.first:
            slot_clear(group, &self.books, SLOT_PENDING)
        return 0

    cdef bint may_base(self, Group* group, const RunHeader* run, uint64_t known) except -1:
        if group.flags & DEAD or (group.replica and group.replica != run.from_replica):
            self.report_run(run, f"it is of replica {run.from_replica}, but replica {group.replica} is or was here")
            return 0
        if group.flags & BASED and run.first < group.base_index:
            self.report_run(run, f"the log begins at base {group.base_index} already")
            return 0
        if run.kind == RUN_REPLICA_CREATED:
            if group.count:
                self.report_run(run, f"the replica has entries up to {group_last(group)} already")
                return 0
            return 1
        if self.strict and not group.flags & BASED:
            self.report_run(run, "there is no replica of this group")
        if run.kind == RUN_BASE:
            if self.strict and run.first > group_last(group):
                self.report_run(run, f"the log ends at {group_last(group)}, before its base")
            if known and known != run.term:
                self.report_run(run, f"the entry there has term {known}, not {run.term}")
                return 0
        elif run.first == group.base_index and known and known != run.term:
            self.report_run(run, f"the base there has term {known}, not {run.term}")
            return 0
        return 1

    cdef bint take_mark(self, Group* group, const RunHeader* run, uint64_t known, uint64_t sequence) except -1:
        """A snapshot was installed: what does not fit after it goes."""
        if known == run.term and known:
            return 1
        if known == 0 and run.first < group_last(group):
            group.flags |= MAYBE_CUT             # the entry there is not known: whether it fitted is decided by what comes
            return 1
        if run.first <= group_last(group) and group_commit(group) >= run.first:
            self.report_run(run, f"{group_commit(group)} is committed, and the entry there is another")
            return 0
        group_cut(group, &self.books, 0, sequence)       # also what is before it: it may never have been committed
        return 1

    cdef bint take_hard_state(self, Group* group, const RunHeader* run, const BasePayload* base) except -1:
        if base.term > group.term or (base.term == group.term and (group.vote == 0 or group.vote == base.vote)):
            group.term = base.term
            group.vote = base.vote
            group.leader = base.leader
            group.epoch = base.epoch
            slot_clear(group, &self.books, SLOT_HARD_STATE)
        elif group.slots[SLOT_HARD_STATE].place == 0:
            self.report_run(run, f"its hard state of term {base.term} is lower than that of term {group.term} before")
            return 0
        return 1

    cdef int apply_pending(
        self, Group* group, const RunHeader* run, uint64_t place, uint32_t offset, uint64_t sequence
    ) except -1:
        cdef BasePayload base
        cdef uint64_t at
        cdef uint32_t name
        memcpy(&base, <const char*>run + RUN_HEADER_BYTES, sizeof(BasePayload))
        at = sizeof(BasePayload) + <uint64_t>base.members * 12
        if group.flags & DEAD or (self.strict and not group.flags & BASED) or at + 4 > run.bytes:
            self.report_run(run, "it fits no living replica of this group")
            return 0
        memcpy(&name, <const char*>run + RUN_HEADER_BYTES + at, 4)
        if group.slots[SLOT_PENDING].place:
            books_stale(&self.books, group.slots[SLOT_PENDING].place, sequence)
            slot_clear(group, &self.books, SLOT_PENDING)
        if name and not (group.flags & BASED and run.first <= group.base_index):
            group.pending_index = run.first
            slot_set(group, &self.books, SLOT_PENDING, place, offset, RUN_HEADER_BYTES + run.bytes)
        return 0

    cdef int apply_pinned(self, const RunHeader* run, uint64_t place, uint32_t offset) except -1:
        cdef PinnedPayload pin
        memcpy(&pin, <const char*>run + RUN_HEADER_BYTES, sizeof(PinnedPayload))
        old = self.pins.get(pin.node)
        if old is not None:
            books_drop(&self.books, old[0], old[2])
        bytes_ = RUN_HEADER_BYTES + run.bytes
        books_take(&self.books, place, bytes_)
        self.pins[pin.node] = (place, offset, bytes_, pin.boot_count, pin.store_id, pin.sequence)
        return 0
