# What one shard applied since its last flush, in memory: keys, deletes as tombstones, deleted ranges.
#
# A node is one key. It never moves and its key never changes; its value may. Nodes, keys and values stand in an arena that
# is freed as a whole. A hash table finds a node; a list in order of insertion reaches all of them; an order by key is built
# when somebody scans (a few nodes at a time) or when the memtable is frozen (at once, off the loop, without the GIL).
#
# Everything but `sort` runs under the GIL, so that a worker may read an active memtable between two of the loop's calls.
# A frozen one never changes again, save for the ways to walk it.

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef enum:
    BLOCK_NODES = 256
    FRAGMENTS_MAX = 1024            # deleted ranges of one memtable; at this many it counts as full
    AHEAD_MAX = 64                  # keys that `warm` takes at once

# What a memtable knows of a key.
cdef enum Known:
    KNOWN_NOTHING = 0               # look further down
    KNOWN_VALUE = 1
    KNOWN_GONE = 2                  # deleted here: whatever lies further down does not count

cdef struct Node:
    Node* next                      # in order of insertion
    char* value
    uint64_t revision
    uint64_t expiry_ms
    uint64_t stamp                  # counts changes of this memtable: tells whether a range was deleted before or after
    uint32_t hash
    uint32_t value_bytes
    uint32_t value_capacity
    uint16_t key_bytes
    uint16_t deleted                # 1: a tombstone; value_bytes is 0
    # the key follows

# Hash and node side by side, so that a search costs one line of the cache before it comes to the node.
cdef struct Slot:
    uint32_t hash                   # 0: empty
    Node* node

# A deleted range: [start, end), or without an end where `endless`. Fragments of one memtable ascend and never overlap: a
# new one cuts what it covers out of the older ones.
cdef struct Fragment:
    const char* start
    const char* end
    uint32_t start_bytes
    uint32_t end_bytes
    uint64_t stamp
    bint endless

cdef struct ArenaChunk:
    ArenaChunk* next
    size_t size
    size_t capacity

cdef struct Block:
    Py_ssize_t count
    Node* nodes[BLOCK_NODES]

# Keys that are about to be looked for. The pointers are the caller's.
cdef struct Ahead:
    int count
    uint32_t key_bytes[AHEAD_MAX]
    const char* keys[AHEAD_MAX]

# A place in the order by key, valid until the next change.
cdef struct Place:
    Py_ssize_t block
    Py_ssize_t position


cdef class Memtable:
    cdef readonly bint frozen
    cdef readonly size_t bytes          # what it accounts for: nodes, keys, values (also outgrown ones), tables
    cdef readonly Py_ssize_t count      # keys, tombstones included
    cdef Py_ssize_t fragment_count
    cdef Fragment* fragments
    cdef Py_ssize_t fragment_capacity
    cdef uint64_t stamp
    cdef uint64_t seed
    # the hash table: open addressing, linear probing
    cdef Slot* slots
    cdef size_t mask                    # capacity - 1; 0 while there is no table
    cdef ArenaChunk* arena              # newest first
    cdef Node* first
    cdef Node* last
    # the order by key: either blocks, of all nodes before `unordered`, or `flat`, of all
    cdef bint ordering                  # a scan asked for the order: new nodes keep it
    cdef Node* unordered                # first node in order of insertion that is in no block yet
    cdef Block** blocks
    cdef Py_ssize_t block_count
    cdef Py_ssize_t block_capacity
    cdef Node** flat

    # -- changes: under the GIL, never once frozen
    cdef int put(
        self, const char* key, uint32_t key_bytes, const char* value, uint32_t value_bytes,
        uint64_t revision, uint64_t expiry_ms,
    ) except -1
    cdef int delete(self, const char* key, uint32_t key_bytes, uint64_t revision) except -1
    cdef int delete_range(
        self, const char* start, uint32_t start_bytes, const char* end, uint32_t end_bytes
    ) except -1

    # Ask memory for what finding these keys will touch, all of them at once: found one after another, each would wait
    # twice for memory that no cache holds. Changes nothing, and nothing has to follow.
    cdef void warm(self, const Ahead* ahead) noexcept nogil

    # -- one key
    cdef int look(self, const char* key, uint32_t key_bytes, Node** node) noexcept
    cdef bint covers(self, const char* key, uint32_t key_bytes, uint64_t stamp) noexcept nogil
    cdef bint gone(self, const Node* node) noexcept nogil                # a tombstone, or in a range deleted later

    # -- keys in order: only when `in_order`
    cdef bint in_order(self) noexcept
    cdef Py_ssize_t order_some(self, Py_ssize_t nodes_max) except -1     # how many are left
    cdef Place seek(self, const char* key, uint32_t key_bytes) noexcept nogil   # of the first node at or after the key
    cdef Place seek_end(self) noexcept nogil                             # behind the last node
    cdef Node* at(self, Place place) noexcept nogil                      # NULL behind the end
    cdef Place after(self, Place place) noexcept nogil
    cdef bint before(self, Place* place) noexcept nogil                  # moves back; False at the beginning

    cdef Fragment* fragment_after(self, const char* key, uint32_t key_bytes) noexcept nogil

    # -- its own
    cdef char* room(self, size_t size) except NULL
    cdef int grow_table(self) except -1
    cdef Node* find(self, const char* key, uint32_t key_bytes, uint32_t hash) noexcept nogil
    cdef Node* node_for(self, const char* key, uint32_t key_bytes, uint32_t value_bytes) except NULL
    cdef Node* new_node(self, const char* key, uint32_t key_bytes, uint32_t value_bytes, uint32_t hash) except NULL
    cdef char* keep(self, const char* key, uint32_t key_bytes) except NULL
    cdef int splice(self, Py_ssize_t first, Py_ssize_t behind, Py_ssize_t pieces) except -1
    cdef int order_node(self, Node* node) except -1
    cdef Block* split(self, Py_ssize_t number) except NULL
    cdef Block* new_block(self, Py_ssize_t number) except NULL
    cdef Py_ssize_t block_of(self, const char* key, uint32_t key_bytes) noexcept nogil


cdef const char* node_key(const Node* node) noexcept nogil
cdef int compare_keys(const char* left, uint32_t left_bytes, const char* right, uint32_t right_bytes) noexcept nogil
