"""The in-memory part of one replica's log: which index has which term, what is synced, committed, applied.

It holds references to runs in chunks, never copies of entries; it reads no disk and writes none. What is no longer in
memory is asked for by the layer above. All functions are free functions over the ``Log`` struct of the header file, where
the invariants stand.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

from multiraft._core cimport (
    RUN_HEADER_BYTES,
    Buffer,
    Chunk,
    RunHeader,
    buffer_room,
    chunk_drop,
    chunk_take,
    run_body_crc,
    run_seal_header,
)

from multiraft.errors import InvariantViolation


cdef void log_init(Log* log, uint64_t base_index, uint64_t base_term) noexcept:
    memset(log, 0, sizeof(Log))
    log_restore(log, base_index, base_term)


cdef void log_free(Log* log) noexcept:
    log_release(log, log.sealed_index)
    free(log.terms)
    free(log.tail)
    free(log.changes)
    memset(log, 0, sizeof(Log))


# -- terms ----------------------------------------------------------------------------------------------------------------


cdef uint64_t log_older_term(const Log* log, uint64_t index) noexcept nogil:
    cdef int64_t low = 0, high = <int64_t>log.terms_count - 1, middle
    if index == log.base_index:
        return log.base_term
    if index < log.base_index or index > log.last_index or high < 0:
        return 0
    while low < high:
        middle = (low + high + 1) >> 1
        if log.terms[middle].first <= index:
            low = middle
        else:
            high = middle - 1
    return log.terms[low].term


cdef uint64_t log_conflict_by_term(const Log* log, uint64_t index, uint64_t term) noexcept nogil:
    cdef int64_t at = <int64_t>log.terms_count - 1
    cdef TermSpan span = log.newest
    if index > log.last_index:
        return index
    while span.first and (span.first > index or span.term > term):
        if span.first <= index:
            index = span.first - 1
        if at < 0:
            break
        span = log.terms[at]
        at -= 1
    return index if index > log.base_index else log.base_index


cdef int log_note_term(Log* log, uint64_t first, uint64_t term) except -1:
    cdef void* grown
    if log.newest.term == term and log.newest.first:
        return 0
    if log.newest.term > term:
        raise InvariantViolation(f"a log whose newest term is {log.newest.term} got term {term}")
    if log.newest.first:
        if log.terms_count == log.terms_capacity:
            grown = realloc(log.terms, (log.terms_capacity * 2 + 2) * sizeof(TermSpan))
            if grown == NULL:
                raise MemoryError
            log.terms = <TermSpan*>grown
            log.terms_capacity = log.terms_capacity * 2 + 2
        log.terms[log.terms_count] = log.newest
        log.terms_count += 1
    log.newest.first = first
    log.newest.term = term
    return 0


cdef void forget_newest_term(Log* log) noexcept nogil:
    if log.terms_count:
        log.terms_count -= 1
        log.newest = log.terms[log.terms_count]
    else:
        log.newest.first = log.newest.term = 0


# -- membership entries that are not applied yet ----------------------------------------------------------------------------


cdef int log_note_change(Log* log, uint64_t index) except -1:
    cdef void* grown
    if log.changes_count == log.changes_capacity:
        grown = realloc(log.changes, (log.changes_capacity * 2 + 2) * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        log.changes = <uint64_t*>grown
        log.changes_capacity = log.changes_capacity * 2 + 2
    log.changes[log.changes_count] = index
    log.changes_count += 1
    return 0


cdef int log_recover(Log* log, object group_log, uint64_t applied_index) except -1:
    """Take over what the log store found of a group (interfaces.GroupLog), behind a base that is there already."""
    cdef uint64_t first, term, index
    for first, term in group_log.terms:
        log.last_index = first - 1
        log_note_term(log, first, term)
    log.last_index = log.sealed_index = log.stable_index = group_log.last_index
    log.applied_index = log.applying_index = applied_index
    for index in group_log.changes:
        if index > applied_index:
            log_note_change(log, index)
    return 0


cdef bint log_change_between(const Log* log, uint64_t low, uint64_t high) noexcept nogil:
    cdef uint32_t at
    for at in range(log.changes_count):
        if low < log.changes[at] <= high:
            return True
    return False


cdef void forget_changes(Log* log, uint64_t low, uint64_t high) noexcept nogil:
    """Keep those above ``low`` and below ``high`` only."""
    cdef uint32_t at, kept = 0
    for at in range(log.changes_count):
        if low < log.changes[at] < high:
            log.changes[kept] = log.changes[at]
            kept += 1
    log.changes_count = kept


# -- the tail ---------------------------------------------------------------------------------------------------------------


cdef uint64_t log_tail_first(const Log* log) noexcept nogil:
    if log.tail_count == 0:
        return log.sealed_index + 1
    return log.tail[log.tail_start].first


cdef TailRun* log_find_run(const Log* log, uint64_t index) noexcept nogil:
    cdef int64_t low = log.tail_start, high = <int64_t>log.tail_start + log.tail_count - 1, middle
    cdef TailRun* run
    if log.tail_count == 0 or index < log.tail[low].first or index > log.sealed_index:
        return NULL
    if log.tail[high].first <= index:
        return &log.tail[high]
    while low < high:
        middle = (low + high + 1) >> 1
        if log.tail[middle].first <= index:
            low = middle
        else:
            high = middle - 1
    run = &log.tail[low]
    return run


cdef int log_push_run(Log* log, RunHeader* head, Chunk* chunk) except -1:
    cdef TailRun* run
    cdef void* grown
    if log.arena_count or head.first != log.sealed_index + 1:
        raise InvariantViolation(f"a run from {head.first} cannot follow sealed index {log.sealed_index}")
    if log.tail_start + log.tail_count == log.tail_capacity:
        if log.tail_start > log.tail_capacity // 2:
            memmove(log.tail, log.tail + log.tail_start, log.tail_count * sizeof(TailRun))
            log.tail_start = 0
        else:
            grown = realloc(log.tail, (log.tail_capacity * 2 + 4) * sizeof(TailRun))
            if grown == NULL:
                raise MemoryError
            log.tail = <TailRun*>grown
            log.tail_capacity = log.tail_capacity * 2 + 4
    run = &log.tail[log.tail_start + log.tail_count]
    run.first = head.first
    run.count = head.count
    run.bytes = head.bytes
    run.head = head
    run.chunk = chunk
    chunk_take(chunk)
    log.tail_count += 1
    log.sealed_index = head.first + head.count - 1
    if log.last_index < log.sealed_index:
        log.last_index = log.sealed_index
    return 0


cdef inline void pop_oldest(Log* log) noexcept:
    chunk_drop(log.tail[log.tail_start].chunk)
    log.tail_start += 1
    log.tail_count -= 1
    if log.tail_count == 0:
        log.tail_start = 0
        if log.tail_capacity > 64:           # a burst is over: an idle group costs little
            free(log.tail)
            log.tail = NULL
            log.tail_capacity = 0


cdef void log_release(Log* log, uint64_t index) noexcept:
    cdef TailRun* run
    while log.tail_count:
        run = &log.tail[log.tail_start]
        if run.first + run.count - 1 > index:
            break
        pop_oldest(log)


cdef void log_release_chunk(Log* log, const Chunk* chunk) noexcept:
    cdef int64_t at = <int64_t>log.tail_start + log.tail_count - 1
    while at >= <int64_t>log.tail_start and log.tail[at].chunk != chunk:
        at -= 1
    if at >= <int64_t>log.tail_start:
        log_release(log, log.tail[at].first + log.tail[at].count - 1)


cdef int log_cut(Log* log, uint64_t first) except -1:
    cdef TailRun* run
    cdef const char* start
    if first <= log.commit_index:
        raise InvariantViolation(
            f"entries from {first} on would be cut, but {log.commit_index} is committed: two leaders in one term, or a "
            "replica that forgot what it had acknowledged"
        )
    if first > log.last_index:
        return 0
    if log.arena_count:
        raise InvariantViolation("a replica with proposals of its own in the arena cannot cut its log")
    while log.tail_count:
        run = &log.tail[log.tail_start + log.tail_count - 1]
        if run.first < first:
            if run.first + run.count > first:
                run.count = <uint32_t>(first - run.first)
                run.bytes = entries_span(<const char*>run.head + RUN_HEADER_BYTES, 0, run.count, &start)
            break
        chunk_drop(run.chunk)
        log.tail_count -= 1
    if log.tail_count == 0:
        log.tail_start = 0
    while log.newest.first >= first:
        forget_newest_term(log)
    forget_changes(log, 0, first)
    log.last_index = first - 1
    log.sealed_index = first - 1
    if log.stable_index >= first:
        log.stable_index = first - 1
    log.generation += 1
    return 0


# -- compaction, snapshots, applying ----------------------------------------------------------------------------------------


cdef void log_compact(Log* log, uint64_t index, uint64_t term) noexcept:
    cdef uint32_t drop = 0
    cdef TermSpan* oldest
    if index <= log.base_index:
        return
    log_release(log, index)
    while drop < log.terms_count and (log.terms[drop + 1] if drop + 1 < log.terms_count else log.newest).first <= index + 1:
        drop += 1
    if drop:
        log.terms_count -= drop
        memmove(log.terms, log.terms + drop, log.terms_count * sizeof(TermSpan))
    oldest = log.terms if log.terms_count else &log.newest
    if index >= log.last_index:
        log.newest.first = log.newest.term = 0
    elif oldest.first <= index:
        oldest.first = index + 1
    log.base_index = index
    log.base_term = term


cdef void log_restore(Log* log, uint64_t index, uint64_t term) noexcept:
    log_release(log, log.sealed_index)
    log.newest.first = log.newest.term = 0
    log.terms_count = 0
    log.changes_count = 0
    log.arena_count = 0
    log.arena_bytes = 0
    log.base_index = index
    log.base_term = term
    log.last_index = index
    log.sealed_index = index
    log.stable_index = index
    log.commit_index = index
    log.applying_index = index
    log.applied_index = index
    log.generation += 1


cdef void log_applied(Log* log, uint64_t index) noexcept:
    if index > log.applied_index:
        log.applied_index = index
        if log.changes_count:
            forget_changes(log, index, <uint64_t>-1)


# -- copying ----------------------------------------------------------------------------------------------------------------


cdef uint32_t entries_span(const char* body, uint32_t skip, uint32_t count, const char** start) noexcept nogil:
    cdef const char* at = body
    cdef uint32_t length, passed
    for passed in range(skip):
        memcpy(&length, at, 4)
        at += 4 + length
    start[0] = at
    for passed in range(count):
        memcpy(&length, at, 4)
        at += 4 + length
    return <uint32_t>(at - start[0])


cdef uint32_t entries_fitting(const char* at, uint32_t count, uint64_t room, uint32_t* bytes) noexcept nogil:
    cdef uint32_t length, taken = 0
    bytes[0] = 0
    while taken < count:
        memcpy(&length, at + bytes[0], 4)
        if <uint64_t>bytes[0] + 4 + length > room:
            break
        bytes[0] += 4 + length
        taken += 1
    return taken


cdef inline bint stands_alone(const TailRun* run, const TailRun* end, uint32_t bytes_max, uint32_t from_replica) noexcept nogil:
    """May the whole run be sent as it is, with nothing of the next one joined to it?"""
    if run.count != run.head.count or run.head.from_replica != from_replica or run.bytes > bytes_max:
        return False
    return run + 1 == end or run[1].head.term != run.head.term or run[1].head.kind != run.head.kind


cdef int log_copy_run(
    const Log* log, uint64_t first, uint32_t bytes_max, uint32_t from_replica, Buffer* out, uint64_t* last
) except -1:
    cdef TailRun* run = log_find_run(log, first)
    cdef TailRun* end = log.tail + log.tail_start + log.tail_count
    cdef RunHeader head
    cdef size_t begin = out.size
    cdef const char* start
    cdef uint32_t skip, span, taken
    cdef bint whole
    if run == NULL:
        return 0
    if run.first == first and stands_alone(run, end, bytes_max, from_replica):
        # As it was sealed, checksums and all. Its header may know an older commit index; the message knows the newest.
        span = RUN_HEADER_BYTES + run.bytes
        memcpy(buffer_room(out, span), run.head, span)
        out.size += span
        last[0] = first + run.count - 1
        return 1
    memcpy(&head, run.head, sizeof(RunHeader))
    buffer_room(out, RUN_HEADER_BYTES + run.bytes)
    out.size += RUN_HEADER_BYTES
    skip = <uint32_t>(first - run.first)
    whole = skip == 0 and run.count == run.head.count and run.bytes <= bytes_max
    head.first = first
    head.prev_term = log_term(log, first - 1)
    head.commit = log.commit_index
    head.from_replica = from_replica
    head.count = 0
    head.bytes = 0
    while run < end and run.head.term == head.term and run.head.kind == head.kind:
        entries_span(<const char*>run.head + RUN_HEADER_BYTES, skip, 0, &start)
        span = run.bytes - <uint32_t>(start - <const char*>run.head - RUN_HEADER_BYTES)
        taken = run.count - skip
        if head.bytes + span > bytes_max:
            taken = entries_fitting(start, taken, bytes_max - head.bytes if head.bytes < bytes_max else 0, &span)
            if taken == 0 and head.count == 0:       # one entry at least, however large
                taken = 1
                span = entries_span(start, 0, 1, &start)
        if taken == 0:
            break
        if not whole or head.count:
            check_body(run)
        memcpy(buffer_room(out, span), start, span)
        out.size += span
        head.count += taken
        head.bytes += span
        if taken < run.count - skip:
            break
        run += 1
        skip = 0
    if not (whole and head.count == (<TailRun*>log_find_run(log, first)).count):
        if whole:
            check_body(log_find_run(log, first))
        head.body_crc = run_body_crc(&head, out.data + begin + RUN_HEADER_BYTES)
    run_seal_header(&head)
    memcpy(out.data + begin, &head, RUN_HEADER_BYTES)
    last[0] = first + head.count - 1
    return 1


cdef int check_body(const TailRun* run) except -1:
    """Who slices a run, or joins it with another, checks it first: a new checksum must never bless damaged bytes."""
    if run_body_crc(run.head, <const char*>run.head + RUN_HEADER_BYTES) != run.head.body_crc:
        raise InvariantViolation(f"group {run.head.group}: the run from {run.head.first} changed in memory: faulty memory?")
    return 0
