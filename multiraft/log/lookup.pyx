"""Questions to the log index: where entries lie, what is known of a group, who keeps the log from shrinking.

Free functions that change nothing. Entries are answered as pieces: where a stored run lies and how much of it counts.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from multiraft._core cimport RUN_MEMBERSHIP
from multiraft.log.accounting cimport REWRITTEN, Shelf
from multiraft.log.entries cimport (
    BASED,
    DEAD,
    SLOT_BASE,
    SLOT_PENDING,
    SLOT_TOMBSTONE,
    Group,
    Item,
    Slot,
    group_commit,
    group_find,
    group_last,
    group_term,
)
from multiraft.log.index cimport LogIndex

from multiraft.log.schema import GroupFacts, LogFigures, Piece


def group_ids(LogIndex index not None):
    """All groups that have a base or a tombstone, ascending."""
    cdef uint32_t at
    found = [
        index.groups[at].id for at in range(index.groups_count) if index.groups[at].flags & (BASED | DEAD)
    ]
    found.sort()
    return found


def find_runs(LogIndex index not None, uint64_t group, uint64_t first, uint64_t bytes_max):
    """The pieces that hold entries from ``first`` on, up to about ``bytes_max`` but at least one; none where none is there."""
    cdef const Group* found = index.find_group(group)
    cdef const Item* item
    cdef int64_t at
    cdef uint64_t taken = 0
    pieces = []
    if found == NULL or first <= found.base_index:
        return pieces
    at = group_find(found, first)
    while 0 <= at < <int64_t>found.head + found.count:
        item = &found.items[at]
        if pieces and taken + item.bytes > bytes_max:
            break
        taken += item.bytes
        pieces.append(
            Piece(
                item.place, item.offset, item.bytes, group, item.kind, item.first, item.count, group_term(found, item.first)
            )
        )
        at += 1
    return pieces


def group_facts(LogIndex index not None, uint64_t group):
    """What is known of one group, or None. ``base`` and ``pending`` are where the records lie, None where there is none."""
    cdef const Group* found = index.find_group(group)
    cdef uint32_t at
    if found == NULL or not found.flags & (BASED | DEAD):
        return None
    terms = [
        (max(found.spans[at].first, found.base_index + 1), found.spans[at].term) for at in range(found.spans_count)
    ]
    return GroupFacts(
        group=group,
        replica=found.replica,
        base_index=found.base_index,
        base_term=found.base_term,
        last_index=group_last(found),
        commit_index=group_commit(found),
        term=found.term,
        vote=found.vote,
        leader=found.leader,
        epoch=found.epoch,
        terms=tuple(terms),
        changes=membership_changes(found),
        tombstone=bool(found.flags & DEAD),
        base=slot_piece(found, &found.slots[SLOT_BASE]),
        pending=slot_piece(found, &found.slots[SLOT_PENDING]),
        runs=found.count,
    )


cdef tuple membership_changes(const Group* group):
    cdef const Item* item
    cdef uint32_t at, entry
    changes = []
    for at in range(group.head, group.head + group.count):
        item = &group.items[at]
        if item.kind == RUN_MEMBERSHIP:
            for entry in range(item.count):
                if item.first + entry > group.base_index:
                    changes.append(item.first + entry)
    return tuple(changes)


cdef object slot_piece(const Group* group, const Slot* slot):
    if slot.place == 0:
        return None
    return Piece(slot.place, slot.offset, slot.bytes, group.id, 0, 0, 1, 0)


def pinned_stores(LogIndex index not None):
    """node -> (boot count, store id, sequence)."""
    return {node: pin[3:] for node, pin in index.pins.items()}


def figures(LogIndex index not None):
    """How much there is, in batches and bytes, and how much of it is needed."""
    cdef const Shelf* direct = &index.books.direct
    cdef const Shelf* rewritten = &index.books.rewritten
    return LogFigures(
        first_sequence=direct.first if direct.first < direct.next else index.last_sequence + 1,
        last_sequence=index.last_sequence,
        direct_bytes=direct.bytes,
        direct_live_bytes=direct.live_bytes,
        rewritten_bytes=rewritten.bytes,
        rewritten_live_bytes=rewritten.live_bytes,
    )


def log_bytes(LogIndex index not None):
    """Bytes of all batches."""
    return index.books.direct.bytes + index.books.rewritten.bytes


def pinning_groups(LogIndex index not None, uint64_t bytes_over):
    """The groups with entries in the oldest batches, as many of those as make up ``bytes_over``. Looks at every group."""
    cdef const Shelf* direct = &index.books.direct
    cdef const Group* group
    cdef uint64_t through = direct.first, freed = index.books.rewritten.bytes
    cdef uint32_t at
    found = []
    if bytes_over == 0:
        return found
    while through < direct.next and freed < bytes_over:
        freed += direct.batches[direct.start + (through - direct.first)].bytes
        through += 1
    for at in range(index.groups_count):
        group = index.groups[at]
        if group.count and (
            group.items[group.head].place & REWRITTEN or group.items[group.head].place < through
        ):
            found.append(group.id)
    found.sort()
    return found


def place_name(uint64_t place):
    """For messages: which batch a place names."""
    return f"rewritten batch {place & ~REWRITTEN}" if place & REWRITTEN else f"batch {place}"


def place_key(uint64_t place):
    """(True where it is in the database of rewritten batches, the key there)."""
    return bool(place & REWRITTEN), int(place & ~REWRITTEN).to_bytes(8, "big")
