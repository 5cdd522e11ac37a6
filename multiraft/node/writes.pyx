# On the path of a put.
"""Writes of keys from the caller's arguments to the ticket in one crossing: check, route, encode, propose.

What a user calls is ``store.Store``; this is its compiled half for the calls that come by the hundred thousand. The layout of
a command is ``machine.commands``'s, where a key lives is ``_routes``'s, what becomes of a command is ``waiters``'s.

Invariants: arguments that are no sound write raise before anything is proposed, and of ``put_many`` then nothing is; a command
carries the epoch of the route that it was sent by, and is checked against the shard's again when it is applied.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cimport cython

from multiraft._core cimport ENTRY_BYTES_MAX
from multiraft._routes cimport PHYSICAL_PREFIX_BYTES_MAX, Route, RouteTable, physical_prefix
from multiraft._ticket cimport Ticket
from multiraft.machine.commands cimport (
    COMMAND_DELETE, COMMAND_PUT, COMMAND_PUT_MANY, KEY_BYTES_MAX, command_new, head_size, plain, user_key_size,
    value_size, write_key, write_put,
)
from multiraft.node.waiters cimport Waiters

from multiraft import config
from multiraft.errors import Closed, NoLeader, TooLarge

cdef double SECONDS_MAX = config.TIMEOUT_S_MAX

# Where one pair of a `put_many` goes.
cdef struct Target:
    uint32_t part
    uint32_t head_bytes
    char head[PHYSICAL_PREFIX_BYTES_MAX]


@cython.final
cdef class Writes:
    """The writes of one space. ``timeout_s`` is what a call gets that names none."""

    def __init__(self, Waiters waiters not None, *, space, value_bytes_max, timeout_s):
        self.waiters = waiters
        self.space = space
        self.value_bytes_max = value_bytes_max
        self.timeout_ns = round(timeout_s * 1e9)

    def route(self, RouteTable table not None, bint hashed):
        """Take a newer map of the shards."""
        self.table = table
        self.hashed = hashed

    def close(self):
        """Refuse every call from here on."""
        self.closed = True

    def deadline(self, timeout=None):
        """When a call's time is up, in nanoseconds of the node's clock. Raises Closed."""
        return self.until(timeout)

    cdef uint64_t until(self, object timeout) except? 0:
        if self.closed:
            raise Closed("this store is closed")
        if timeout is None:
            return self.waiters.now_ns + self.timeout_ns
        cdef double seconds = timeout
        if not seconds > 0:
            return self.waiters.now_ns
        return self.waiters.now_ns + <uint64_t>(min(seconds, SECONDS_MAX) * 1e9)

    def checked(self, key, value):
        """The value as bytes. Raises InvalidCommand or TooLarge for a key and a value that are no sound write."""
        user_key_size(key)
        value = plain(value)
        value_size(value, self.value_bytes_max)
        return value

    cdef const Route* find(self, object key, char* head, size_t* head_bytes) except NULL:
        """The route of a sound user key, and what stands before it in its physical key."""
        cdef char physical[KEY_BYTES_MAX]
        cdef Py_ssize_t size = user_key_size(key)
        if self.table is None:
            raise NoLeader("this node does not know the shards yet")
        head_bytes[0] = physical_prefix(head, self.space, PyBytes_AS_STRING(key), size, self.hashed)
        memcpy(physical, head, head_bytes[0])
        memcpy(physical + head_bytes[0], PyBytes_AS_STRING(key), size)
        return self.table.lookup(physical, head_bytes[0] + size)

    def put(self, key, value, timeout=None, bint nowait=False):
        """Write one key; the ticket for its revision. Raises InvalidCommand, TooLarge or Closed at once."""
        cdef char head[PHYSICAL_PREFIX_BYTES_MAX]
        cdef size_t head_bytes = 0
        cdef char* at
        cdef uint64_t deadline_ns = self.until(timeout)
        cdef const Route* route = self.find(key, head, &head_bytes)
        if not PyBytes_CheckExact(value):
            value = plain(value)
        cdef Py_ssize_t size = head_size(0) + 6 + head_bytes + PyBytes_GET_SIZE(key)
        size += value_size(value, self.value_bytes_max)
        command = command_new(size, &at, COMMAND_PUT, self.space, <uint32_t>route.epoch, 0)
        write_put(at, head, head_bytes, key, value)
        return self.waiters.submit(route.group, command, deadline_ns, nowait)

    def delete(self, key, timeout=None, bint nowait=False):
        """Delete one key, whether it is there or not; the ticket for the revision."""
        cdef char head[PHYSICAL_PREFIX_BYTES_MAX]
        cdef size_t head_bytes = 0
        cdef char* at
        cdef uint64_t deadline_ns = self.until(timeout)
        cdef const Route* route = self.find(key, head, &head_bytes)
        cdef Py_ssize_t size = head_size(0) + 2 + head_bytes + PyBytes_GET_SIZE(key)
        command = command_new(size, &at, COMMAND_DELETE, self.space, <uint32_t>route.epoch, 0)
        write_key(at, head, head_bytes, key)
        return self.waiters.submit(route.group, command, deadline_ns, nowait)

    def put_many(self, items, timeout=None, bint nowait=False):
        """Write many keys, one command a shard: (tickets, which of them answers for each item)."""
        cdef uint64_t deadline_ns = self.until(timeout)
        cdef list pairs = [(key, plain(value)) for key, value in items]
        cdef Py_ssize_t count = len(pairs)
        cdef Target* targets = <Target*>malloc(count * sizeof(Target) + 1)
        cdef Part* parts = <Part*>malloc(count * sizeof(Part) + 1)
        try:
            if targets == NULL or parts == NULL:
                raise MemoryError
            commands = encode_parts(self, pairs, targets, parts)
            tickets = [
                self.waiters.submit(parts[at].route.group, command, deadline_ns, nowait)
                for at, command in enumerate(commands)
            ]
            return tickets, [targets[at].part for at in range(count)] if len(tickets) > 1 else [0] * count
        finally:
            free(targets)
            free(parts)


cdef list encode_parts(Writes writes, list pairs, Target* targets, Part* parts):
    """One command for each shard that the pairs touch; ``targets`` and ``parts`` have room for as many as there are pairs."""
    cdef uint32_t count = assign_parts(writes, pairs, targets, parts)
    cdef Py_ssize_t at
    cdef Part* part
    cdef list commands = []
    for at in range(count):
        part = &parts[at]
        commands.append(
            command_new(part.size, &part.at, COMMAND_PUT_MANY, writes.space, <uint32_t>part.route.epoch, 0)
        )
        memcpy(part.at, &part.count, 4)
        part.at += 4
    for at in range(len(pairs)):
        key, value = <tuple>pairs[at]
        part = &parts[targets[at].part]
        part.at = write_put(part.at, targets[at].head, targets[at].head_bytes, key, value)
    return commands


cdef uint32_t assign_parts(Writes writes, list pairs, Target* targets, Part* parts) except? 0:
    """Find the part that each pair belongs to, and how long each part is; how many parts there are."""
    cdef uint32_t count = 0
    cdef uint32_t* found                    # of a route's place in the table: its part, plus one
    cdef const Route* route
    cdef size_t head_bytes = 0
    cdef Py_ssize_t at, place
    cdef Part* part
    if not pairs:
        return 0
    if writes.table is None:
        raise NoLeader("this node does not know the shards yet")
    found = <uint32_t*>calloc(writes.table.count, sizeof(uint32_t))
    if found == NULL:
        raise MemoryError
    try:
        for at in range(len(pairs)):
            key, value = <tuple>pairs[at]
            route = writes.find(key, targets[at].head, &head_bytes)
            place = route - writes.table.routes
            if found[place] == 0:
                part = &parts[count]
                part.route = route
                part.size = head_size(0) + 4
                part.count = 0
                count += 1
                found[place] = count
            part = &parts[found[place] - 1]
            part.size += 6 + head_bytes + PyBytes_GET_SIZE(key) + value_size(value, writes.value_bytes_max)
            part.count += 1
            if part.size > ENTRY_BYTES_MAX:
                raise TooLarge(f"the part of one shard is over {ENTRY_BYTES_MAX} bytes: put fewer keys at once")
            targets[at].part = found[place] - 1
            targets[at].head_bytes = <uint32_t>head_bytes
    finally:
        free(found)
    return count
