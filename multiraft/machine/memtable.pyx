# On the path of a put.
"""One shard's memtable: what was applied since the last flush, found by hash, walked by key, freed as a whole.

It knows keys, values, revisions and deleted ranges; it knows no shard, no command, no disk and no time. Its invariants: a
node never moves; fragments ascend and do not overlap; blocks ascend and hold every node before `unordered`; once frozen
nothing but the ways to walk it changes. No single call of the loop sorts more than it was told to.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memmove

from multiraft.errors import InvariantViolation

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* A keyed multiply-and-fold hash: the key is random, so that nobody can choose keys that collide. */
    static inline uint64_t multiraft_fold(uint64_t a, uint64_t b) {
        __uint128_t product = (__uint128_t)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    static uint32_t multiraft_key_hash(const char* key, size_t length, uint64_t seed) {
        uint64_t state = seed ^ multiraft_fold(length ^ 0x9e3779b97f4a7c15ull, seed ^ 0xd1342543de82ef95ull);
        uint64_t left, right;
        while (length > 16) {
            memcpy(&left, key, 8);
            memcpy(&right, key + 8, 8);
            state = multiraft_fold(left ^ 0xa0761d6478bd642full, right ^ state);
            key += 16;
            length -= 16;
        }
        left = right = 0;
        if (length > 8) {
            memcpy(&left, key, 8);
            memcpy(&right, key + 8, length - 8);
        } else {
            memcpy(&left, key, length);
        }
        state = multiraft_fold(left ^ 0xe7037ed1a0b428dbull ^ seed, right ^ state);
        uint32_t hash = (uint32_t)(state >> 32) ^ (uint32_t)state;
        return hash ? hash : 1;
    }

    #if defined(__GNUC__) || defined(__clang__)
    #define multiraft_prefetch(at) __builtin_prefetch(at)
    #else
    #define multiraft_prefetch(at) ((void)(at))
    #endif
    """
    void multiraft_prefetch(const void* at) noexcept nogil
    uint32_t multiraft_key_hash(const char* key, size_t length, uint64_t seed) noexcept nogil

cdef enum:
    SLOTS_MIN = 64
    ARENA_BYTES_MIN = 2048
    ARENA_BYTES_MAX = 1024 * 1024
    CACHE_LINE_BYTES = 64


# -- keys ---------------------------------------------------------------------------------------------------------------


cdef const char* node_key(const Node* node) noexcept nogil:
    return <const char*>node + sizeof(Node)


cdef int compare_keys(const char* left, uint32_t left_bytes, const char* right, uint32_t right_bytes) noexcept nogil:
    cdef int order = memcmp(left, right, left_bytes if left_bytes < right_bytes else right_bytes)
    if order:
        return order
    return (left_bytes > right_bytes) - (left_bytes < right_bytes)


cdef int compare_nodes(const void* left, const void* right) noexcept nogil:
    cdef const Node* a = (<const Node* const*>left)[0]
    cdef const Node* b = (<const Node* const*>right)[0]
    return compare_keys(node_key(a), a.key_bytes, node_key(b), b.key_bytes)


cdef inline bint ends_after(const Fragment* fragment, const char* key, uint32_t key_bytes) noexcept nogil:
    return fragment.endless or compare_keys(fragment.end, fragment.end_bytes, key, key_bytes) > 0


@cython.final
cdef class Memtable:
    """What one shard applied since its last flush. `seed` keys the hash table."""

    def __cinit__(self, uint64_t seed=0):
        self.seed = seed

    def __dealloc__(self):
        cdef ArenaChunk* chunk = self.arena
        cdef ArenaChunk* following
        cdef Py_ssize_t i
        while chunk != NULL:
            following = chunk.next
            free(chunk)
            chunk = following
        for i in range(self.block_count):
            free(self.blocks[i])
        free(self.blocks)
        free(self.flat)
        free(self.slots)
        free(self.fragments)

    # -- memory ---------------------------------------------------------------------------------------------------------

    cdef char* room(self, size_t size) except NULL:
        """`size` bytes of the arena, aligned to eight. What outgrows a chunk gets one of its own."""
        cdef ArenaChunk* chunk = self.arena
        cdef size_t capacity
        size = (size + 7) & ~<size_t>7
        if chunk == NULL or chunk.capacity - chunk.size < size:
            capacity = ARENA_BYTES_MIN if chunk == NULL else chunk.capacity * 2
            if capacity > ARENA_BYTES_MAX:
                capacity = ARENA_BYTES_MAX
            if capacity < size:
                capacity = size
            chunk = <ArenaChunk*>malloc(sizeof(ArenaChunk) + capacity)
            if chunk == NULL:
                raise MemoryError
            chunk.size = 0
            chunk.capacity = capacity
            chunk.next = self.arena
            self.arena = chunk
        cdef char* at = <char*>chunk + sizeof(ArenaChunk) + chunk.size
        chunk.size += size
        self.bytes += size
        return at

    cdef int grow_table(self) except -1:
        """Twice the slots. Hashes stand beside the nodes, so that no node is touched."""
        cdef size_t capacity = SLOTS_MIN if self.mask == 0 else (self.mask + 1) * 2
        cdef size_t i, slot
        cdef Slot* slots = <Slot*>calloc(capacity, sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        if self.mask:
            for i in range(self.mask + 1):
                if self.slots[i].hash:
                    slot = self.slots[i].hash & (capacity - 1)
                    while slots[slot].hash:
                        slot = (slot + 1) & (capacity - 1)
                    slots[slot] = self.slots[i]
            self.bytes -= (self.mask + 1) * sizeof(Slot)
        free(self.slots)
        self.slots = slots
        self.mask = capacity - 1
        self.bytes += capacity * sizeof(Slot)
        return 0

    # -- changes --------------------------------------------------------------------------------------------------------

    cdef Node* find(self, const char* key, uint32_t key_bytes, uint32_t hash) noexcept nogil:
        cdef size_t slot
        cdef Node* node
        if self.mask == 0:
            return NULL
        slot = hash & self.mask
        while self.slots[slot].hash:
            if self.slots[slot].hash == hash:
                node = self.slots[slot].node
                if node.key_bytes == key_bytes and memcmp(node_key(node), key, key_bytes) == 0:
                    return node
            slot = (slot + 1) & self.mask
        return NULL

    cdef void warm(self, const Ahead* ahead) noexcept nogil:
        cdef uint32_t hashes[AHEAD_MAX]
        cdef size_t slot
        cdef int at
        if self.mask == 0:
            return
        for at in range(ahead.count):
            hashes[at] = multiraft_key_hash(ahead.keys[at], ahead.key_bytes[at], self.seed)
            multiraft_prefetch(&self.slots[hashes[at] & self.mask])
        for at in range(ahead.count):
            slot = hashes[at] & self.mask
            while self.slots[slot].hash and self.slots[slot].hash != hashes[at]:
                slot = (slot + 1) & self.mask
            if self.slots[slot].hash:
                multiraft_prefetch(self.slots[slot].node)
                multiraft_prefetch(<const char*>self.slots[slot].node + CACHE_LINE_BYTES)

    cdef Node* node_for(self, const char* key, uint32_t key_bytes, uint32_t value_bytes) except NULL:
        """The key's node with room for a value of that size; made where the key is new."""
        cdef uint32_t hash = multiraft_key_hash(key, key_bytes, self.seed)
        cdef Node* node = self.find(key, key_bytes, hash)
        if self.frozen:
            raise InvariantViolation("a frozen memtable was changed")
        if node == NULL:
            return self.new_node(key, key_bytes, value_bytes, hash)
        if value_bytes > node.value_capacity:
            node.value = self.room(value_bytes)
            node.value_capacity = (value_bytes + 7) & ~<uint32_t>7
        return node

    cdef Node* new_node(self, const char* key, uint32_t key_bytes, uint32_t value_bytes, uint32_t hash) except NULL:
        cdef size_t slot
        cdef size_t value_at = (sizeof(Node) + key_bytes + 7) & ~<size_t>7
        if <size_t>(self.count + 1) * 4 > (self.mask + 1) * 3 or self.mask == 0:
            self.grow_table()
        cdef Node* node = <Node*>self.room(value_at + value_bytes)
        node.next = NULL
        node.value = <char*>node + value_at
        node.hash = hash
        node.value_capacity = (value_bytes + 7) & ~<uint32_t>7
        node.key_bytes = key_bytes
        memcpy(<char*>node + sizeof(Node), key, key_bytes)
        slot = hash & self.mask
        while self.slots[slot].hash:
            slot = (slot + 1) & self.mask
        self.slots[slot].hash = hash
        self.slots[slot].node = node
        self.count += 1
        if self.last == NULL:
            self.first = node
        else:
            self.last.next = node
        self.last = node
        if self.unordered == NULL:
            self.unordered = node
        if self.ordering:
            # Two for one, so that what was there before the first scan gets into order however fast writes come.
            self.order_some(2)
        return node

    cdef int put(
        self, const char* key, uint32_t key_bytes, const char* value, uint32_t value_bytes,
        uint64_t revision, uint64_t expiry_ms,
    ) except -1:
        cdef Node* node = self.node_for(key, key_bytes, value_bytes)
        memcpy(node.value, value, value_bytes)
        node.value_bytes = value_bytes
        node.revision = revision
        node.expiry_ms = expiry_ms
        node.deleted = 0
        self.stamp += 1
        node.stamp = self.stamp
        return 0

    cdef int delete(self, const char* key, uint32_t key_bytes, uint64_t revision) except -1:
        cdef Node* node = self.node_for(key, key_bytes, 0)
        node.value_bytes = 0
        node.revision = revision
        node.expiry_ms = 0
        node.deleted = 1
        self.stamp += 1
        node.stamp = self.stamp
        return 0

    cdef int delete_range(
        self, const char* start, uint32_t start_bytes, const char* end, uint32_t end_bytes
    ) except -1:
        """Everything in [start, end) as of now; no end where `end_bytes` is 0. Costs the fragments that it meets."""
        cdef Fragment made, left, right
        cdef Py_ssize_t first, behind, pieces = 1
        cdef bint keep_left = False, keep_right = False
        if self.frozen:
            raise InvariantViolation("a frozen memtable was changed")
        made.endless = end_bytes == 0
        made.start = self.keep(start, start_bytes)
        made.start_bytes = start_bytes
        made.end = self.keep(end, end_bytes)
        made.end_bytes = end_bytes
        self.stamp += 1
        made.stamp = self.stamp
        first = self.fragment_after(made.start, start_bytes) - self.fragments
        behind = first
        while behind < self.fragment_count and ends_after(&made, self.fragments[behind].start, self.fragments[behind].start_bytes):
            behind += 1
        if first < behind:
            left = self.fragments[first]
            right = self.fragments[behind - 1]
            keep_left = compare_keys(left.start, left.start_bytes, made.start, start_bytes) < 0
            keep_right = not made.endless and ends_after(&right, made.end, end_bytes)
            if keep_left:
                left.end, left.end_bytes, left.endless = made.start, start_bytes, False
            if keep_right:
                right.start, right.start_bytes = made.end, end_bytes
        pieces += keep_left + keep_right
        self.splice(first, behind, pieces)
        if keep_left:
            self.fragments[first] = left
        self.fragments[first + keep_left] = made
        if keep_right:
            self.fragments[first + keep_left + 1] = right
        return 0

    cdef char* keep(self, const char* key, uint32_t key_bytes) except NULL:
        cdef char* kept = self.room(key_bytes + 1)
        memcpy(kept, key, key_bytes)
        return kept

    cdef int splice(self, Py_ssize_t first, Py_ssize_t behind, Py_ssize_t pieces) except -1:
        """Make room for `pieces` fragments in the place of those from `first` up to `behind`."""
        cdef Py_ssize_t count = self.fragment_count - (behind - first) + pieces
        cdef Py_ssize_t capacity
        cdef void* grown
        if count > self.fragment_capacity:
            capacity = count * 2
            grown = realloc(self.fragments, capacity * sizeof(Fragment))
            if grown == NULL:
                raise MemoryError
            self.bytes += (capacity - self.fragment_capacity) * sizeof(Fragment)
            self.fragments = <Fragment*>grown
            self.fragment_capacity = capacity
        memmove(
            self.fragments + first + pieces,
            self.fragments + behind,
            (self.fragment_count - behind) * sizeof(Fragment),
        )
        self.fragment_count = count
        return 0

    # -- one key --------------------------------------------------------------------------------------------------------

    cdef Fragment* fragment_after(self, const char* key, uint32_t key_bytes) noexcept nogil:
        """The first fragment that ends after the key; one behind the last where there is none."""
        cdef Py_ssize_t low = 0, high = self.fragment_count, middle
        while low < high:
            middle = (low + high) >> 1
            if ends_after(&self.fragments[middle], key, key_bytes):
                high = middle
            else:
                low = middle + 1
        return self.fragments + low

    cdef bint covers(self, const char* key, uint32_t key_bytes, uint64_t stamp) noexcept nogil:
        """Whether a range with the key in it was deleted after `stamp`."""
        cdef Fragment* fragment
        if self.fragment_count == 0:
            return False
        fragment = self.fragment_after(key, key_bytes)
        if fragment == self.fragments + self.fragment_count or fragment.stamp < stamp:
            return False
        return compare_keys(fragment.start, fragment.start_bytes, key, key_bytes) <= 0

    cdef bint gone(self, const Node* node) noexcept nogil:
        return node.deleted or self.covers(node_key(node), node.key_bytes, node.stamp)

    cdef int look(self, const char* key, uint32_t key_bytes, Node** node) noexcept:
        """What is known of a key here (`Known`); the node only with KNOWN_VALUE."""
        if self.count:
            node[0] = self.find(key, key_bytes, multiraft_key_hash(key, key_bytes, self.seed))
            if node[0] != NULL:
                return KNOWN_GONE if self.gone(node[0]) else KNOWN_VALUE
        return KNOWN_GONE if self.covers(key, key_bytes, 0) else KNOWN_NOTHING

    # -- keys in order --------------------------------------------------------------------------------------------------

    cdef bint in_order(self) noexcept:
        return self.flat != NULL or self.unordered == NULL

    cdef Py_ssize_t order_some(self, Py_ssize_t nodes_max) except -1:
        """Put up to so many nodes into the order. Returns 0 when all are in it, else 1."""
        self.ordering = True
        if self.flat != NULL:
            return 0
        while self.unordered != NULL and nodes_max > 0:
            self.order_node(self.unordered)
            self.unordered = self.unordered.next
            nodes_max -= 1
        return self.unordered != NULL

    cdef int order_node(self, Node* node) except -1:
        cdef Py_ssize_t number = self.block_of(node_key(node), node.key_bytes)
        cdef Py_ssize_t position
        cdef Block* block
        if number < 0:
            block = self.new_block(0)
            block.nodes[0] = node
            block.count = 1
            return 0
        block = self.blocks[number]
        position = position_in(block, node_key(node), node.key_bytes)
        if block.count == BLOCK_NODES:
            if position == BLOCK_NODES and number == self.block_count - 1:
                # Ascending keys, the most common order to write in, fill their blocks.
                block = self.new_block(number + 1)
                block.nodes[0] = node
                block.count = 1
                return 0
            block = self.split(number)
            if position > block.count:
                position -= block.count
                block = self.blocks[number + 1]
        memmove(&block.nodes[position + 1], &block.nodes[position], (block.count - position) * sizeof(Node*))
        block.nodes[position] = node
        block.count += 1
        return 0

    cdef Block* split(self, Py_ssize_t number) except NULL:
        """Move the upper half of a full block to one behind it. Returns the lower half."""
        cdef Block* upper = self.new_block(number + 1)
        cdef Block* lower = self.blocks[number]
        upper.count = BLOCK_NODES // 2
        lower.count = BLOCK_NODES - upper.count
        memcpy(upper.nodes, &lower.nodes[lower.count], upper.count * sizeof(Node*))
        return lower

    cdef Block* new_block(self, Py_ssize_t number) except NULL:
        cdef Py_ssize_t capacity
        cdef void* grown
        if self.block_count == self.block_capacity:
            capacity = self.block_capacity * 2 + 8
            grown = realloc(self.blocks, capacity * sizeof(Block*))
            if grown == NULL:
                raise MemoryError
            self.blocks = <Block**>grown
            self.block_capacity = capacity
        cdef Block* block = <Block*>malloc(sizeof(Block))
        if block == NULL:
            raise MemoryError
        block.count = 0
        memmove(&self.blocks[number + 1], &self.blocks[number], (self.block_count - number) * sizeof(Block*))
        self.blocks[number] = block
        self.block_count += 1
        self.bytes += sizeof(Block) + sizeof(Block*)
        return block

    cdef Py_ssize_t block_of(self, const char* key, uint32_t key_bytes) noexcept nogil:
        """The last block that begins at or before the key, else the first; -1 where there is none."""
        cdef Py_ssize_t low = 0, high = self.block_count, middle
        cdef Node* node
        while low < high:
            middle = (low + high) >> 1
            node = self.blocks[middle].nodes[0]
            if compare_keys(node_key(node), node.key_bytes, key, key_bytes) <= 0:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return 0 if self.block_count else -1
        return low - 1

    cdef Place seek(self, const char* key, uint32_t key_bytes) noexcept nogil:
        cdef Place place
        place.block = 0
        place.position = 0
        if self.flat != NULL:
            place.position = lower_bound(self.flat, self.count, key, key_bytes)
            return place
        if self.block_count == 0:
            return place
        place.block = self.block_of(key, key_bytes)
        place.position = position_in(self.blocks[place.block], key, key_bytes)
        if place.position == self.blocks[place.block].count:
            place.block += 1
            place.position = 0
        return place

    cdef Place seek_end(self) noexcept nogil:
        cdef Place place
        place.block = 0 if self.flat != NULL else self.block_count
        place.position = self.count if self.flat != NULL else 0
        return place

    cdef Node* at(self, Place place) noexcept nogil:
        if self.flat != NULL:
            return self.flat[place.position] if place.position < self.count else NULL
        return self.blocks[place.block].nodes[place.position] if place.block < self.block_count else NULL

    cdef Place after(self, Place place) noexcept nogil:
        place.position += 1
        if self.flat == NULL and place.position == self.blocks[place.block].count:
            place.block += 1
            place.position = 0
        return place

    cdef bint before(self, Place* place) noexcept nogil:
        if place.position == 0:
            if place.block == 0:
                return False
            place.block -= 1
            place.position = self.blocks[place.block].count
        place.position -= 1
        return True

    # -- the end of its life --------------------------------------------------------------------------------------------

    def freeze(self):
        """From here on nothing changes it. Idempotent."""
        self.frozen = True

    def sort(self):
        """Bring a frozen memtable into order at once, without the GIL. For a worker: it takes its time."""
        cdef Node** flat
        if not self.frozen:
            raise InvariantViolation("only a frozen memtable is sorted at once")
        if self.flat != NULL or self.unordered == NULL:
            return
        flat = <Node**>malloc(self.count * sizeof(Node*) + 1)
        if flat == NULL:
            raise MemoryError
        with nogil:
            gather(self.first, flat, self.count)
        if self.flat == NULL:
            self.flat = flat
        else:
            free(flat)

    # -- the door for tests ---------------------------------------------------------------------------------------------

    def put_key(self, bytes key not None, bytes value not None, uint64_t revision, uint64_t expiry_ms=0):
        self.put(
            PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key),
            PyBytes_AS_STRING(value), <uint32_t>PyBytes_GET_SIZE(value), revision, expiry_ms,
        )

    def delete_key(self, bytes key not None, uint64_t revision):
        self.delete(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key), revision)

    def delete_keys(self, bytes start not None, bytes end not None):
        self.delete_range(
            PyBytes_AS_STRING(start), <uint32_t>PyBytes_GET_SIZE(start),
            PyBytes_AS_STRING(end), <uint32_t>PyBytes_GET_SIZE(end),
        )

    def get_key(self, bytes key not None):
        """(revision, expiry, value) where it is here, False where it is deleted here, None where nothing is known."""
        cdef Node* node = NULL
        cdef int known = self.look(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key), &node)
        if known == KNOWN_VALUE:
            return node.revision, node.expiry_ms, PyBytes_FromStringAndSize(node.value, node.value_bytes)
        return False if known == KNOWN_GONE else None

    def order_step(self, Py_ssize_t nodes_max):
        """Put up to so many nodes into order; whether any is left."""
        return self.order_some(nodes_max) != 0

    def keys(self):
        """All keys in order, tombstones and hidden ones included. It must be in order."""
        if not self.in_order():
            raise InvariantViolation("the memtable is not in order")
        cdef Place place = self.seek(b"", 0)
        cdef list found = []
        cdef Node* node = self.at(place)
        while node != NULL:
            found.append(PyBytes_FromStringAndSize(node_key(node), node.key_bytes))
            place = self.after(place)
            node = self.at(place)
        return found

    def ranges(self):
        """The deleted ranges as (start, end, endless), ascending."""
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(self.fragment_count):
            found.append((
                PyBytes_FromStringAndSize(self.fragments[i].start, self.fragments[i].start_bytes),
                PyBytes_FromStringAndSize(self.fragments[i].end, self.fragments[i].end_bytes),
                bool(self.fragments[i].endless),
            ))
        return found


# -- sorted arrays ------------------------------------------------------------------------------------------------------


cdef Py_ssize_t lower_bound(Node** nodes, Py_ssize_t count, const char* key, uint32_t key_bytes) noexcept nogil:
    cdef Py_ssize_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if compare_keys(node_key(nodes[middle]), nodes[middle].key_bytes, key, key_bytes) < 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef Py_ssize_t position_in(Block* block, const char* key, uint32_t key_bytes) noexcept nogil:
    return lower_bound(block.nodes, block.count, key, key_bytes)


cdef void gather(Node* node, Node** flat, Py_ssize_t count) noexcept nogil:
    """Copy the list of nodes and sort the copy by key; a list that ascends already is left as it is."""
    cdef Py_ssize_t i
    cdef bint ascending = True
    for i in range(count):
        flat[i] = node
        if i and compare_nodes(&flat[i - 1], &flat[i]) > 0:
            ascending = False
        node = node.next
    if not ascending:
        qsort(flat, count, sizeof(Node*), compare_nodes)
