"""The entries and records of one group, as positions in batches. Free functions over the ``Group`` struct.

They move positions and keep the books; whether a change is allowed is decided by ``index.pyx`` before it calls them.
Nothing here reads a batch. The header file has the invariants.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from multiraft.log.accounting cimport (
    REWRITTEN,
    Books,
    Shelf,
    books_drop,
    books_stale,
    books_take,
)


cdef void group_free(Group* group) noexcept:
    free(group.items)
    free(group.spans)
    free(group.rewritten)


# -- questions ------------------------------------------------------------------------------------------------------------


cdef uint64_t group_first(const Group* group) noexcept nogil:
    return group.items[group.head].first if group.count else group.base_index + 1


cdef uint64_t group_last(const Group* group) noexcept nogil:
    cdef const Item* item
    if group.count == 0:
        return group.base_index
    item = &group.items[group.head + group.count - 1]
    return item.first + item.count - 1


cdef uint64_t group_term(const Group* group, uint64_t index) noexcept nogil:
    cdef int64_t low = 0, high = <int64_t>group.spans_count - 1, middle
    if group.flags & BASED and index == group.base_index:
        return group.base_term
    if group.count == 0 or index + 1 < group_first(group) or index > group_last(group):
        return 0
    if index + 1 == group_first(group):
        return group.before_term
    if group.flags & HOLES and group_find(group, index) < 0 and not ends_hole(group, index):
        return 0
    while low < high:
        middle = (low + high + 1) >> 1
        if group.spans[middle].first <= index:
            low = middle
        else:
            high = middle - 1
    return group.spans[low].term


cdef bint ends_hole(const Group* group, uint64_t index) noexcept nogil:
    """Is this the entry before an item? Its term is known even where the entry itself is missing."""
    cdef int64_t at = group_find(group, index + 1)
    return at >= 0 and group.items[at].first == index + 1


cdef uint64_t group_commit(const Group* group) noexcept nogil:
    cdef uint64_t last = group_last(group)
    cdef uint64_t commit = group.commit if group.commit < last else last
    return commit if commit > group.base_index else group.base_index


cdef uint64_t group_conflict(
    const Group* group, uint64_t first, uint32_t count, uint64_t term, bint* certain
) noexcept nogil:
    """The first of these entries that is here under another term; else one past those that are here.

    ``certain`` becomes False where entries were passed of which nothing is known (while a log is loaded).
    """
    cdef uint64_t index = first, end = first + count, last = group_last(group), known
    certain[0] = True
    while index < end and index <= last:
        known = group_term(group, index)
        if known == 0:
            certain[0] = False
        elif known != term:
            break
        index += 1
    return index


cdef int64_t group_find(const Group* group, uint64_t index) noexcept nogil:
    cdef int64_t low = group.head, high = <int64_t>group.head + group.count - 1, middle
    if group.count == 0 or index < group.items[low].first or index > group_last(group):
        return -1
    while low < high:
        middle = (low + high + 1) >> 1
        if group.items[middle].first <= index:
            low = middle
        else:
            high = middle - 1
    return low if index < group.items[low].first + group.items[low].count else -1


# -- changes of the entries -----------------------------------------------------------------------------------------------


cdef int group_push(Group* group, Books* books, const Item* item, uint64_t term, uint64_t prev_term) except -1:
    """One more run after the last. The caller saw to it that it follows, or that a hole is allowed."""
    cdef void* grown
    if group.head + group.count == group.capacity:
        if group.head > group.count:
            memmove(group.items, group.items + group.head, group.count * sizeof(Item))
            group.head = 0
        else:
            grown = realloc(group.items, (group.capacity * 2 + 2) * sizeof(Item))
            if grown == NULL:
                raise MemoryError
            group.items = <Item*>grown
            group.capacity = group.capacity * 2 + 2
    if group.count == 0:
        group.before_term = prev_term
    elif item.first > group_last(group) + 1:
        group.flags |= HOLES
        push_span(group, item.first - 1, prev_term)
    push_span(group, item.first, term)
    books_take(books, item.place, item.bytes)
    if item.place & REWRITTEN:
        group_note_rewritten(group, books, item.place)
    group.items[group.head + group.count] = item[0]
    group.count += 1
    return 0


cdef int push_span(Group* group, uint64_t first, uint64_t term) except -1:
    cdef void* grown
    if group.spans_count and group.spans[group.spans_count - 1].term == term:
        return 0
    if group.spans_count == group.spans_capacity:
        grown = realloc(group.spans, (group.spans_capacity * 2 + 2) * sizeof(Span))
        if grown == NULL:
            raise MemoryError
        group.spans = <Span*>grown
        group.spans_capacity = group.spans_capacity * 2 + 2
    group.spans[group.spans_count].first = first
    group.spans[group.spans_count].term = term
    group.spans_count += 1
    return 0


cdef int group_cut(Group* group, Books* books, uint64_t first, uint64_t cutter) except -1:
    """Everything at and after ``first`` is gone, by the batch ``cutter``."""
    cdef Item* item
    while group.count:
        item = &group.items[group.head + group.count - 1]
        if item.first + item.count <= first:
            break
        books_stale(books, item.place, cutter)
        if item.first < first:
            item.count = <uint32_t>(first - item.first)
            break
        books_drop(books, item.place, item.bytes)
        group.count -= 1
    while group.spans_count and group.spans[group.spans_count - 1].first >= first:
        group.spans_count -= 1
    if group.flags & BASED and first <= group.base_index + 1:
        group_clear(group, books)                # what is left of the run across the base is dead
    elif group.count == 0:
        forget_entries(group)
    return 0


cdef int group_clear(Group* group, Books* books) except -1:
    cdef uint32_t at
    for at in range(group.head, group.head + group.count):
        books_drop(books, group.items[at].place, group.items[at].bytes)
    group.count = 0
    forget_entries(group)
    return 0


cdef void forget_entries(Group* group) noexcept:
    group.head = 0
    group.spans_count = 0
    group.flags &= ~<uint32_t>(MAYBE_CUT | HOLES)
    if group.capacity > 64:                  # a burst is over: an idle group costs little
        free(group.items)
        group.items = NULL
        group.capacity = 0


cdef int group_advance(Group* group, Books* books, uint64_t index, uint64_t term) except -1:
    """The base is now (``index``, ``term``); runs that end there or before are dead."""
    cdef const Item* item
    cdef uint32_t drop = 0, at
    while drop < group.count:
        item = &group.items[group.head + drop]
        if item.first + item.count - 1 > index:
            group.before_term = group_term(group, item.first - 1)
            break
        drop += 1
    for at in range(group.head, group.head + drop):
        books_drop(books, group.items[at].place, group.items[at].bytes)
    group.head += drop
    group.count -= drop
    group.base_index = index
    group.base_term = term
    group.flags |= BASED
    if group.slots[SLOT_COMMIT].place and group.commit <= index:
        slot_clear(group, books, SLOT_COMMIT)
    if group.count == 0:
        forget_entries(group)
        return 0
    drop = 0
    while drop + 1 < group.spans_count and group.spans[drop + 1].first <= group_first(group):
        drop += 1
    if drop:
        group.spans_count -= drop
        memmove(group.spans, group.spans + drop, group.spans_count * sizeof(Span))
    return 0


cdef int group_reset(Group* group, Books* books, uint64_t cutter) except -1:
    """Nothing of the replica that was here counts any more, nor may it come back with a rewritten batch."""
    cdef uint32_t at
    cdef int which
    group_clear(group, books)
    for which in range(SLOTS):
        slot_clear(group, books, which)
    for at in range(group.rewritten_count):
        if is_there(books, group.rewritten[at]):
            books_stale(books, group.rewritten[at], cutter)
    group.base_index = group.base_term = group.commit = group.pending_index = 0
    group.term = group.epoch = 0
    group.vote = group.leader = group.replica = 0
    group.flags = 0
    return 0


cdef int group_note_commit(Group* group, Books* books, uint64_t commit, uint64_t place) except -1:
    if commit <= group.commit:
        return 0
    group.commit = commit
    if commit > group.base_index:
        slot_set(group, books, SLOT_COMMIT, place, 0, 0)
    return 0


cdef int group_note_rewritten(Group* group, Books* books, uint64_t place) except -1:
    cdef void* grown
    if group.rewritten_count and group.rewritten[group.rewritten_count - 1] == place:
        return 0
    if group.rewritten_count == group.rewritten_capacity:
        forget_deleted(group, books)
    if group.rewritten_count == group.rewritten_capacity:
        grown = realloc(group.rewritten, (group.rewritten_capacity * 2 + 2) * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        group.rewritten = <uint64_t*>grown
        group.rewritten_capacity = group.rewritten_capacity * 2 + 2
    group.rewritten[group.rewritten_count] = place
    group.rewritten_count += 1
    return 0


cdef bint is_there(Books* books, uint64_t place) noexcept:
    cdef uint64_t number = place & ~REWRITTEN
    cdef Shelf* shelf = &books.rewritten
    return shelf.first <= number < shelf.next and shelf.batches[shelf.start + (number - shelf.first)].bytes != 0


cdef void forget_deleted(Group* group, Books* books) noexcept:
    cdef uint32_t at, kept = 0
    for at in range(group.rewritten_count):
        if is_there(books, group.rewritten[at]):
            group.rewritten[kept] = group.rewritten[at]
            kept += 1
    group.rewritten_count = kept


# -- records --------------------------------------------------------------------------------------------------------------


cdef int slot_set(Group* group, Books* books, int which, uint64_t place, uint32_t offset, uint32_t bytes) except -1:
    slot_clear(group, books, which)
    books_take(books, place, bytes)
    if place & REWRITTEN:
        group_note_rewritten(group, books, place)
    group.slots[which].place = place
    group.slots[which].offset = offset
    group.slots[which].bytes = bytes
    return 0


cdef int slot_clear(Group* group, Books* books, int which) except -1:
    cdef Slot* slot = &group.slots[which]
    if slot.place:
        books_drop(books, slot.place, slot.bytes)
        memset(slot, 0, sizeof(Slot))
    return 0
