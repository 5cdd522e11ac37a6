"""Records of the tree on disk, and pages of keys: memtables over the tree, merged, checked and bounded.

A page is made in two steps. The overlay copies out of the memtables what they know of the next stretch of keys: the loop
does it, in memory. The merge walks the tree under it with a cursor: the loop does it where pages are warm, else a worker.
Whatever comes from the tree is checked here, record by record: its checksum and that keys ascend. Nothing is skipped.

The cursor is py-lmdb's, but nothing here depends on more than its `set_range`, `first`, `last`, `prev`, `item`, `iternext`
and `iterprev`.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from multiraft._core cimport crc32c_update
from multiraft.machine.memtable cimport KNOWN_GONE, KNOWN_NOTHING, Fragment, Node, compare_keys, node_key

from multiraft.errors import InvariantViolation, StorageError

cdef enum:
    NOGIL_BYTES = 64 * 1024         # larger values are copied and summed without the GIL
    OVERLAY_VISITS_MAX = 1024
    MERGE_VISITS_MIN = 256          # of one page: results, tombstones and jumps over deleted ranges


# -- records ------------------------------------------------------------------------------------------------------------


cdef bint record_sound(const char* key, size_t key_bytes, const char* record, size_t record_bytes) noexcept nogil:
    cdef uint32_t stored
    if record_bytes < RECORD_HEADER_BYTES:
        return False
    memcpy(&stored, record, 4)
    return stored == crc32c_update(crc32c_update(0, key, key_bytes), record + 4, record_bytes - 4)


cdef uint64_t record_revision(const char* record) noexcept nogil:
    cdef uint64_t revision
    memcpy(&revision, record + 4, 8)
    return revision


cdef void fill_record(
    char* at, const char* key, uint32_t key_bytes, uint64_t revision, uint64_t expiry_ms,
    const char* value, uint32_t value_bytes,
) noexcept nogil:
    cdef uint32_t crc
    memcpy(at + 4, &revision, 8)
    memcpy(at + 12, &expiry_ms, 8)
    memcpy(at + RECORD_HEADER_BYTES, value, value_bytes)
    crc = crc32c_update(crc32c_update(0, key, key_bytes), at + 4, RECORD_HEADER_BYTES - 4 + value_bytes)
    memcpy(at, &crc, 4)


cdef bytes record_of(const Node* node, bint frozen):
    """The record of a node. A large one is copied without the GIL where nothing can change it meanwhile."""
    cdef bytes record = PyBytes_FromStringAndSize(NULL, RECORD_HEADER_BYTES + <Py_ssize_t>node.value_bytes)
    cdef char* at = PyBytes_AS_STRING(record)
    if frozen and node.value_bytes > NOGIL_BYTES:
        with nogil:
            fill_record(
                at, node_key(node), node.key_bytes, node.revision, node.expiry_ms, node.value, node.value_bytes
            )
    else:
        fill_record(at, node_key(node), node.key_bytes, node.revision, node.expiry_ms, node.value, node.value_bytes)
    return record


def make_record(bytes key not None, uint64_t revision, uint64_t expiry_ms, bytes value not None):
    """The record of a key as the tree holds it."""
    cdef bytes record = PyBytes_FromStringAndSize(NULL, RECORD_HEADER_BYTES + PyBytes_GET_SIZE(value))
    fill_record(
        PyBytes_AS_STRING(record), PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key), revision, expiry_ms,
        PyBytes_AS_STRING(value), <uint32_t>PyBytes_GET_SIZE(value),
    )
    return record


cdef int check_record(bytes key, bytes record) except -1:
    if not record_sound(
        PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record)
    ):
        raise StorageError(f"the record of key {key!r} is damaged: its checksum is wrong")
    return 0


cdef object record_value(bytes record):
    return PyBytes_FromStringAndSize(
        PyBytes_AS_STRING(record) + RECORD_HEADER_BYTES, PyBytes_GET_SIZE(record) - RECORD_HEADER_BYTES
    )


cdef tuple opened(bytes key, bytes record):
    check_record(key, record)
    return record_revision(PyBytes_AS_STRING(record)), record_value(record)


def open_record(bytes key not None, bytes record not None):
    """(revision, value) of a record. Raises StorageError, naming the key, where either is damaged."""
    return opened(key, record)


def require_sound(bytes key not None, bytes record not None):
    """Raise StorageError, naming the key, where a record is damaged."""
    check_record(key, record)


def require_absent(cursor, bytes key not None):
    """Make sure that a key which the tree does not find is not there.

    A flipped bit in a key, or in a page above it, makes a search go wrong without a sign. The two keys around the place
    where it belongs must be sound and on either side of it.
    """
    cdef bint found = cursor.set_range(key)
    if found:
        neighbour, record = cursor.item()
        check_record(neighbour, record)
        if neighbour <= key:
            raise StorageError(f"the tree around key {key!r} is damaged: it is found only from one side")
    if cursor.prev() if found else cursor.last():
        neighbour, record = cursor.item()
        check_record(neighbour, record)
        if neighbour >= key:
            raise StorageError(f"the tree around key {key!r} is damaged: its keys do not ascend")


# -- flush --------------------------------------------------------------------------------------------------------------


@cython.final
cdef class Walk:
    """Walks a frozen memtable by key. `chunk` holds the GIL for as long as a few hundred records take, no longer."""

    def __cinit__(self, Memtable memtable not None):
        if not memtable.frozen:
            raise InvariantViolation("only a frozen memtable is written out")
        memtable.sort()
        self.memtable = memtable
        self.place = memtable.seek(b"", 0)

    def chunk(self, Py_ssize_t count_max, Py_ssize_t bytes_max):
        """The next records as [(key, record)], and the keys to delete; both empty only at the end."""
        cdef list puts = []
        cdef list deletes = []
        cdef Py_ssize_t size = 0
        cdef Node* node = self.memtable.at(self.place)
        while node != NULL and count_max > 0 and size < bytes_max:
            count_max -= 1
            key = PyBytes_FromStringAndSize(node_key(node), node.key_bytes)
            if self.memtable.gone(node):
                # Where only a deleted range hides it, the range has emptied the tree already: deleting once more is idle.
                deletes.append(key)
            else:
                record = record_of(node, True)
                size += PyBytes_GET_SIZE(record)
                puts.append((key, record))
            self.place = self.memtable.after(self.place)
            node = self.memtable.at(self.place)
        return puts, deletes

    def seek_key(self, bytes key not None):
        """Go to the first node at or after a key."""
        self.place = self.memtable.seek(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key))


# -- what memtables know ------------------------------------------------------------------------------------------------


cdef struct Source:
    Place place
    Node* node                      # the next one to take, inside the stretch; NULL behind its end


cdef void source_start(Source* source, Memtable table, bytes start, bytes end, bint reverse) noexcept:
    source.node = NULL
    if reverse:
        if PyBytes_GET_SIZE(end):
            source.place = table.seek(PyBytes_AS_STRING(end), <uint32_t>PyBytes_GET_SIZE(end))
        else:
            source.place = table.seek_end()
        source_back(source, table, start)
    else:
        source.place = table.seek(PyBytes_AS_STRING(start), <uint32_t>PyBytes_GET_SIZE(start))
        source_take(source, table, end)


cdef void source_take(Source* source, Memtable table, bytes end) noexcept:
    """Look at the node at the place, which has not been passed yet."""
    cdef Node* node = table.at(source.place)
    if node != NULL and PyBytes_GET_SIZE(end) and compare_keys(
        node_key(node), node.key_bytes, PyBytes_AS_STRING(end), <uint32_t>PyBytes_GET_SIZE(end)
    ) >= 0:
        node = NULL
    source.node = node


cdef void source_back(Source* source, Memtable table, bytes start) noexcept:
    """Step back and look at the node there."""
    source.node = NULL
    if table.before(&source.place):
        source.node = table.at(source.place)
        if compare_keys(
            node_key(source.node), source.node.key_bytes, PyBytes_AS_STRING(start), <uint32_t>PyBytes_GET_SIZE(start)
        ) < 0:
            source.node = NULL


cdef void source_next(Source* source, Memtable table, bytes start, bytes end, bint reverse) noexcept:
    if reverse:
        source_back(source, table, start)
    else:
        source.place = table.after(source.place)
        source_take(source, table, end)


cdef int choose(const Node* upper, const Node* lower, bint reverse) noexcept nogil:
    """Which of two nodes comes next: -1 the upper one, 1 the lower one, 0 both, since they are of one key."""
    cdef int order
    if lower == NULL:
        return -1
    if upper == NULL:
        return 1
    order = compare_keys(node_key(upper), upper.key_bytes, node_key(lower), lower.key_bytes)
    if reverse:
        order = -order
    return (order > 0) - (order < 0)


cdef tuple entry_of(Memtable table, Node* node, Memtable above, bint raw):
    """(key, revision, value), or (key, 0, record) where `raw`; the last is None for a key that is gone."""
    key = PyBytes_FromStringAndSize(node_key(node), node.key_bytes)
    if table.gone(node) or (above is not None and above.covers(node_key(node), node.key_bytes, 0)):
        return key, 0, None
    if raw:
        return key, 0, record_of(node, table.frozen)
    return key, node.revision, PyBytes_FromStringAndSize(node.value, node.value_bytes)


@cython.final
cdef class Overlay:
    """What memtables know of a stretch of keys."""


def overlay(
    Memtable upper not None,
    Memtable lower,
    bytes start not None,
    bytes end not None,
    Py_ssize_t count_max,
    Py_ssize_t bytes_max,
    bint reverse=False,
    bint raw=False,
):
    """Copy out what the newer memtable over the older one knows of [start, end), up to so many visible keys.

    Both must be in order. An empty `end` means that there is none.
    """
    cdef Overlay found = Overlay.__new__(Overlay)
    cdef Source top, below
    cdef Memtable table
    cdef Node* node
    cdef int choice, visits = 0
    if not upper.in_order() or (lower is not None and not lower.in_order()):
        raise InvariantViolation("a memtable is scanned before it is in order")
    found.items = []
    found.reverse = reverse
    found.bound = None
    source_start(&top, upper, start, end, reverse)
    below.node = NULL
    if lower is not None:
        source_start(&below, lower, start, end, reverse)
    while top.node != NULL or below.node != NULL:
        if count_max <= 0 or bytes_max <= 0 or visits == OVERLAY_VISITS_MAX:
            found.bound = found.items[len(found.items) - 1][0] if found.items else start
            break
        visits += 1
        choice = choose(top.node, below.node, reverse)
        if choice <= 0:
            table, node, above = upper, top.node, None
        else:
            table, node, above = lower, below.node, upper
        item = entry_of(table, node, above, raw)
        found.items.append(item)
        bytes_max -= node.key_bytes
        if item[2] is not None:
            count_max -= 1
            bytes_max -= node.value_bytes
        if choice <= 0:
            source_next(&top, upper, start, end, reverse)
        if choice >= 0:
            source_next(&below, lower, start, end, reverse)
    found.ranges = ranges_between(upper, lower, start, end, found.bound, reverse)
    return found


cdef list ranges_between(Memtable upper, Memtable lower, bytes start, bytes end, object bound, bint reverse):
    """The deleted ranges of both that meet the stretch, as one ascending list without overlaps; reversed for `reverse`."""
    if bound is not None:
        if reverse:
            start = bound
        else:
            end = <bytes>bound + b"\0"
    cdef list found = ranges_of(upper, start, end)
    cdef list joined = []
    if lower is not None and lower.fragment_count:
        found = sorted(found + ranges_of(lower, start, end))
    for item in found:
        if joined:
            last = joined[len(joined) - 1]
            if last[2]:
                break
            if item[0] <= last[1]:
                if item[2] or item[1] > last[1]:
                    joined[len(joined) - 1] = (last[0], item[1], item[2])
                continue
        joined.append(item)
    if reverse:
        joined.reverse()
    return joined


cdef list ranges_of(Memtable table, bytes start, bytes end):
    cdef list found = []
    cdef Fragment* fragment
    cdef Fragment* behind = table.fragments + table.fragment_count
    if table.fragment_count == 0:
        return found
    fragment = table.fragment_after(PyBytes_AS_STRING(start), <uint32_t>PyBytes_GET_SIZE(start))
    while fragment != behind:
        if PyBytes_GET_SIZE(end) and compare_keys(
            fragment.start, fragment.start_bytes, PyBytes_AS_STRING(end), <uint32_t>PyBytes_GET_SIZE(end)
        ) >= 0:
            break
        found.append((
            PyBytes_FromStringAndSize(fragment.start, fragment.start_bytes),
            PyBytes_FromStringAndSize(fragment.end, fragment.end_bytes),
            bool(fragment.endless),
        ))
        fragment += 1
    return found


# -- merging with the tree ----------------------------------------------------------------------------------------------


@cython.final
cdef class Stream:
    """The tree's records of a stretch in one direction, each checked; `key` is None at the end."""

    cdef object cursor
    cdef object records
    cdef bytes start
    cdef bytes end
    cdef bint reverse
    cdef bytes key
    cdef bytes record

    def __cinit__(self, cursor, bytes start, bytes end, bint reverse):
        self.cursor = cursor
        self.start = start
        self.end = end
        self.reverse = reverse
        self.key = None
        if reverse:
            self.go(end, end == b"")
        else:
            self.go(start, False)

    cdef int go(self, bytes key, bint endless) except -1:
        """To the first record at or after the key; backwards, to the last before it, or the last of all."""
        cdef bint placed
        if not self.reverse:
            placed = self.cursor.set_range(key) if key else self.cursor.first()
        elif not endless and self.cursor.set_range(key):
            placed = self.cursor.prev()
        else:
            placed = self.cursor.last()
        self.records = (self.cursor.iterprev() if self.reverse else self.cursor.iternext()) if placed else iter(())
        return self.step()

    cdef int step(self) except -1:
        cdef bytes before = self.key
        item = next(self.records, None)
        if item is None:
            self.key = None
            return 0
        self.key, self.record = item
        check_record(self.key, self.record)
        if before is not None and (self.key >= before if self.reverse else self.key <= before):
            raise StorageError(f"the tree around key {self.key!r} is damaged: its keys do not ascend")
        if self.key < self.start if self.reverse else self.end != b"" and self.key >= self.end:
            self.key = None
        return 0


def merge_page(
    Overlay over not None,
    cursor,
    bytes start not None,
    bytes end not None,
    Py_ssize_t count_max,
    Py_ssize_t bytes_max,
    bint raw=False,
):
    """One page of [start, end): (entries, resume). `resume` is None at the end, else the key to go on with.

    Forwards `resume` is the next page's `start`, backwards its `end`. Entries are (key, revision, value), or (key, record)
    where `raw`. An empty `end` means that there is none.
    """
    cdef bint reverse = over.reverse
    cdef Py_ssize_t position = 0, visits = 0, visits_max = count_max + MERGE_VISITS_MIN
    cdef Py_ssize_t item_count = len(over.items), range_number = 0
    cdef list page = []
    cdef bint from_memory
    cdef bytes key
    if over.bound is not None:
        if reverse:
            start = over.bound
        else:
            end = <bytes>over.bound + b"\0"
    cdef Stream disk = Stream(cursor, start, end, reverse)
    while True:
        item = over.items[position] if position < item_count else None
        # Not past what memory has next: a page that spent its visits before its first key would never get beyond it.
        if item is None or (disk.key is not None and comes_first(disk.key, <bytes>item[0], reverse)):
            range_number = pass_deleted(disk, over.ranges, range_number, &visits, visits_max)
        if item is None and disk.key is None:
            # Forwards the next page starts behind the bound, backwards it ends before it.
            return page, over.bound if over.bound is None or reverse else <bytes>over.bound + b"\0"
        from_memory = disk.key is None or (item is not None and not comes_first(disk.key, <bytes>item[0], reverse))
        key = <bytes>item[0] if from_memory else disk.key
        if count_max <= 0 or bytes_max <= 0 or visits >= visits_max:
            return page, key + b"\0" if reverse else key
        visits += 1
        if from_memory:
            position += 1
            if disk.key is not None and disk.key == key:
                disk.step()
            if item[2] is None:
                continue
            bytes_max -= len(<bytes>item[2])
            page.append((key, item[2]) if raw else item)
        else:
            bytes_max -= PyBytes_GET_SIZE(disk.record)
            page.append(
                (key, disk.record) if raw
                else (key, record_revision(PyBytes_AS_STRING(disk.record)), record_value(disk.record))
            )
            disk.step()
        bytes_max -= PyBytes_GET_SIZE(key)
        count_max -= 1


cdef inline bint comes_first(bytes left, bytes right, bint reverse) except -1:
    return left > right if reverse else left < right


cdef Py_ssize_t pass_deleted(
    Stream disk, list ranges, Py_ssize_t number, Py_ssize_t* visits, Py_ssize_t visits_max
) except -1:
    """Leave the deleted range that the next record stands in, in one jump. Returns the first range not yet left behind."""
    while disk.key is not None and number < len(ranges) and visits[0] < visits_max:
        start, end, endless = ranges[number]
        if disk.reverse:
            if disk.key < start:
                number += 1
                continue
            if not endless and disk.key >= end:
                break
            disk.key = None
            if start <= disk.start:
                break
            disk.go(start, False)
        else:
            if not endless and disk.key >= end:
                number += 1
                continue
            if disk.key < start:
                break
            disk.key = None
            if endless:
                break
            disk.go(end, False)
        visits[0] += 1
    return number


# -- slots of a hashed space --------------------------------------------------------------------------------------------


def merge_slots(
    Memtable upper not None,
    Memtable lower,
    cursor,
    bytes space not None,
    int slot,
    int slot_end,
    bytes low not None,
    bytes high not None,
    Py_ssize_t count_max,
    Py_ssize_t bytes_max,
    bint reverse=False,
):
    """What slots `slot` to `slot_end - 1` hold from `low` up to `high`: (entries, slot to go on with, bound).

    Entries are (key, value) in the order of keys over all these slots, the key without space and slot. It stops once it has
    so many keys or bytes. A slot that alone holds more is cut: it is complete up to `bound` (backwards: from it on), else None.
    """
    cdef list found = []
    cdef object bound = None
    cdef bytes start, end
    while slot < slot_end and count_max > 0 and bytes_max > 0 and bound is None:
        prefix = space + bytes((slot >> 8, slot & 255))
        start = prefix + low
        end = prefix + high if high else space + bytes(((slot + 1) >> 8, (slot + 1) & 255))
        over = overlay(upper, lower, start, end, count_max, bytes_max, reverse)
        entries, resume = merge_page(over, cursor, start, end, count_max, bytes_max)
        if entries:
            count_max -= len(entries)
            for key, _, value in entries:
                bytes_max -= PyBytes_GET_SIZE(<bytes>value)
                found.append(((<bytes>key)[4:], value))
        if resume is not None:
            bound = resume[4:]
        slot += 1
    found.sort(reverse=reverse)
    return found, slot, bound
