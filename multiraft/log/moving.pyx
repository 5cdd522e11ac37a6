"""What compaction may delete, what it must copy first, and the index after it did.

Questions (``window``, ``live_runs`` ...) change nothing; ``moved`` and ``dropped`` are called once the transaction is on disk.
In between the index may have changed: runs may have been cut or died meanwhile, never the other way round.

Invariant: a rewritten batch that holds something which was cut is itself rewritten before the batch that cut it is deleted;
else a later scan would find the one without the other and bring truncated entries back (pitfall 87).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from multiraft.log.accounting cimport (
    REWRITTEN,
    Batch,
    Books,
    Shelf,
    books_add,
    books_delete,
    books_drop,
    books_stale,
    books_take,
)
from multiraft.log.entries cimport (
    SLOT_COMMIT,
    SLOTS,
    Group,
    Item,
    Slot,
    group_find,
    group_note_rewritten,
    slot_set,
)
from multiraft.log.index cimport LogIndex

from multiraft.log.schema import LiveRun

cdef enum:
    PART_ENTRIES = -1       # any other part is a slot of the group
    PART_PINNED = -2        # and `group` is the node
    CARRIED_BYTES = 100     # what a run costs besides its own bytes when it is rewritten
    PAGE_BYTES = 4096
    NUMBERS_SPAN_MAX = 4096
    WINDOW_FACTOR = 16      # how far to look for what copying the oldest would set free, in transactions

ENTRIES = PART_ENTRIES
PINNED = PART_PINNED
COMMIT = SLOT_COMMIT


# -- questions ------------------------------------------------------------------------------------------------------------


def window(LogIndex index not None, uint64_t last, uint32_t batches_max, double share, uint64_t bytes_max):
    """(sequence, batches): through which batch to delete now, and how many could be deleted in the end.

    The oldest batches, none after ``last``, of which at most ``share`` is alive are worth it; of those, as many as ``batches_max``
    allows and as take at most ``bytes_max`` to copy are for now. (0, 0) where there is none.
    """
    cdef const Shelf* shelf = &index.books.direct
    cdef const Batch* batch
    cdef uint64_t number = shelf.first, now = 0, worth = 0, bytes_ = 0, alive = 0
    while number < shelf.next and number <= last and number - shelf.first < <uint64_t>batches_max * WINDOW_FACTOR:
        batch = &shelf.batches[shelf.start + (number - shelf.first)]
        bytes_ += batch.bytes
        alive += batch.live_bytes + batch.live * CARRIED_BYTES
        if share == 0.0 and alive:
            break
        if alive <= bytes_max and number - shelf.first < batches_max:
            now = number
        if alive <= share * bytes_:
            worth = number
        number += 1
    if worth == 0 or now == 0:
        return 0, 0
    return min(now, worth), worth - shelf.first + 1


def stale_rewritten(LogIndex index not None, uint64_t through):
    """Numbers of the rewritten batches that must be rewritten when ``through`` and all before are deleted."""
    return [number for number, cutter, _, _ in rewritten_batches(index) if 0 < cutter <= through]


def oldest_cutter(LogIndex index not None, numbers):
    """The oldest sequence that must stay unless ``numbers`` are rewritten; 0 where there is none."""
    cutters = [cutter for number, cutter, _, _ in rewritten_batches(index) if cutter and number in numbers]
    return min(cutters, default=0)


def dead_rewritten(LogIndex index not None):
    """Numbers of the rewritten batches that nobody needs."""
    return [number for number, _, live, _ in rewritten_batches(index) if live == 0]


def rewritten_batches(LogIndex index not None):
    """(number, cutter, needed runs, bytes to copy) of each."""
    cdef const Shelf* shelf = &index.books.rewritten
    cdef const Batch* batch
    cdef uint64_t at
    found = []
    for at in range(shelf.next - shelf.first):
        batch = &shelf.batches[shelf.start + at]
        if batch.bytes:
            found.append((shelf.first + at, batch.cutter, batch.live, batch.live_bytes + batch.live * CARRIED_BYTES))
    return found


def sparse_rewritten(LogIndex index not None, uint64_t slack, uint64_t bytes_max):
    """Numbers of rewritten batches worth merging: the oldest, once all their pages take twice what is alive, and ``slack``.

    Or once they span many numbers, most of them of batches that are gone: the shelf has a place for each.
    """
    cdef const Shelf* shelf = &index.books.rewritten
    cdef uint64_t at, pages = 0, taken = 0, span = shelf.next - shelf.first
    for at in range(span):
        pages += (shelf.batches[shelf.start + at].bytes + PAGE_BYTES - 1) // PAGE_BYTES
    if pages * PAGE_BYTES <= shelf.live_bytes * 2 + slack and span <= NUMBERS_SPAN_MAX:
        return []
    found = []
    for number, _, _, cost in rewritten_batches(index):
        taken += cost
        if found and taken > bytes_max:
            break
        found.append(number)
    return found if len(found) > 1 or span > NUMBERS_SPAN_MAX else []


def live_runs(LogIndex index not None, uint64_t through, numbers):
    """Everything that must be copied before the batches through ``through`` and the rewritten ``numbers`` are deleted."""
    cdef const Group* group
    cdef const Item* item
    cdef const Slot* slot
    cdef uint32_t at, which, entry
    cdef set moving = set(numbers)
    found = []
    for at in range(index.groups_count):
        group = index.groups[at]
        for which in range(<uint32_t>SLOTS):
            slot = &group.slots[which]
            if slot.place and goes(slot.place, through, moving):
                found.append(LiveRun(which, group.id, slot.place, slot.offset, slot.bytes, 0, 1))
        for entry in range(group.head, group.head + group.count):
            item = &group.items[entry]
            if goes(item.place, through, moving):
                found.append(
                    LiveRun(PART_ENTRIES, group.id, item.place, item.offset, item.bytes, item.first, item.count)
                )
            elif not item.place & REWRITTEN:
                break                            # items were written in this order, so all that follow stay
    for node, pin in index.pins.items():
        if goes(pin[0], through, moving):
            found.append(LiveRun(PART_PINNED, node, pin[0], pin[1], pin[2], 0, 1))
    return found


cdef bint goes(uint64_t place, uint64_t through, set numbers) except -1:
    if place & REWRITTEN:
        return (place & ~REWRITTEN) in numbers if numbers else False
    return place <= through


def hard_state(LogIndex index not None, uint64_t group):
    """(replica, term, vote, leader, epoch, commit), the commit as recorded."""
    cdef const Group* found = index.find_group(group)
    return found.replica, found.term, found.vote, found.leader, found.epoch, found.commit


# -- after the transaction --------------------------------------------------------------------------------------------------


def moved(LogIndex index not None, runs, batches, uint64_t since):
    """``runs`` are (LiveRun, new place, offset, bytes) and lie in the new rewritten ``batches``, (number, bytes) each.

    ``since`` is the sequence after the newest one that the plan knew: what the index lost meanwhile was lost by that
    batch or a later one.
    """
    cdef uint64_t number, place
    cdef uint32_t size, offset
    for number, size in batches:
        index.last_rewritten = max(index.last_rewritten, number)
        books_add(&index.books, REWRITTEN | number, size)
    for run, place, offset, size in runs:
        if run.part == PART_PINNED:
            move_pin(index, run, place, offset, size)
        elif run.part == PART_ENTRIES:
            move_entries(index, run, place, offset, size, since)
        else:
            move_slot(index, run, place, offset, size, since)


cdef int move_entries(LogIndex index, run, uint64_t place, uint32_t offset, uint32_t size, uint64_t since) except -1:
    cdef Group* group = index.find_group(run.group)
    cdef Item* item = NULL
    cdef int64_t at = group_find(group, run.first)
    if at >= 0:
        item = &group.items[at]
    if item == NULL or item.place != run.place or item.offset != run.offset:
        books_stale(&index.books, place, since)
        return 0
    books_take(&index.books, place, size)
    books_drop(&index.books, item.place, item.bytes)
    group_note_rewritten(group, &index.books, place)
    item.place = place
    item.offset = offset
    item.bytes = size
    if item.count != run.entries:
        books_stale(&index.books, place, since)
    return 0


cdef int move_slot(LogIndex index, run, uint64_t place, uint32_t offset, uint32_t size, uint64_t since) except -1:
    cdef Group* group = index.find_group(run.group)
    cdef int which = run.part
    cdef Slot* slot = &group.slots[which]
    if slot.place != run.place or slot.offset != run.offset:
        books_stale(&index.books, place, since)
        return 0
    slot_set(group, &index.books, which, place, 0 if which == SLOT_COMMIT else offset, 0 if which == SLOT_COMMIT else size)
    return 0


cdef int move_pin(LogIndex index, run, uint64_t place, uint32_t offset, uint32_t size) except -1:
    pin = index.pins[run.group]
    if pin[0] != run.place or pin[1] != run.offset:
        return 0
    books_take(&index.books, place, size)
    books_drop(&index.books, pin[0], pin[2])
    index.pins[run.group] = (place, offset, size, *pin[3:])
    return 0


def dropped(LogIndex index not None, uint64_t through, numbers):
    """The batches through ``through`` and the rewritten ``numbers`` are deleted. Raises if any of it is needed."""
    cdef uint64_t number
    while index.books.direct.first < index.books.direct.next and index.books.direct.first <= through:
        books_delete(&index.books, index.books.direct.first)
    for number in numbers:
        books_delete(&index.books, REWRITTEN | number)


def rewritten_place(uint64_t number):
    """The place of a rewritten batch."""
    return REWRITTEN | number
