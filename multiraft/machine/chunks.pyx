"""Chunks of snapshot files: records packed one after the other, checked whole without the GIL, taken apart in pieces.

A chunk may come from a peer or a damaged disk: nothing is read before its length is checked. Layout in docs/formats.md.
"""

from __future__ import annotations

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy

from multiraft.machine.memtable cimport compare_keys
from multiraft.machine.pages cimport record_sound

from multiraft.errors import PeerProtocolError

cdef enum:
    ITEM_HEAD_BYTES = 6             # key length u16, record length u32
    KEY_BOUND_BYTES_MAX = 512

# What a check of a chunk found.
cdef enum Flaw:
    FLAW_NONE = 0
    FLAW_SHORT = 1
    FLAW_PLACE = 2                  # a key out of order or outside of the shard
    FLAW_RECORD = 3
    FLAW_COUNT = 4


cdef struct Item:
    const char* key
    const char* record
    uint32_t key_bytes
    uint32_t record_bytes


cdef const char* next_item(const char* at, const char* end, Item* item) noexcept nogil:
    """The next item of a chunk, and where the one after it stands; NULL where the bytes do not make one."""
    cdef uint16_t key_bytes
    if end - at < ITEM_HEAD_BYTES:
        return NULL
    memcpy(&key_bytes, at, 2)
    memcpy(&item.record_bytes, at + 2, 4)
    item.key_bytes = key_bytes
    at += ITEM_HEAD_BYTES
    if key_bytes == 0 or key_bytes > KEY_BOUND_BYTES_MAX:
        return NULL
    if <size_t>(end - at) < <size_t>key_bytes + item.record_bytes:
        return NULL
    item.key = at
    item.record = at + key_bytes
    return item.record + item.record_bytes


def pack_chunk(list entries not None):
    """The body of a chunk from (key, record) pairs."""
    cdef Py_ssize_t size = 0
    cdef uint16_t key_bytes
    cdef uint32_t record_bytes
    cdef bytes key, record
    for key, record in entries:
        size += ITEM_HEAD_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(record)
    cdef bytes body = PyBytes_FromStringAndSize(NULL, size)
    cdef char* at = PyBytes_AS_STRING(body)
    for key, record in entries:
        key_bytes = <uint16_t>PyBytes_GET_SIZE(key)
        record_bytes = <uint32_t>PyBytes_GET_SIZE(record)
        memcpy(at, &key_bytes, 2)
        memcpy(at + 2, &record_bytes, 4)
        memcpy(at + ITEM_HEAD_BYTES, PyBytes_AS_STRING(key), key_bytes)
        memcpy(at + ITEM_HEAD_BYTES + key_bytes, PyBytes_AS_STRING(record), record_bytes)
        at += ITEM_HEAD_BYTES + key_bytes + record_bytes
    return body


def check_chunk(bytes body not None, uint32_t count, bytes last not None, bytes start not None, bytes end not None):
    """Check every record of a chunk: sound, ascending after `last`, inside [start, end). Returns its last key."""
    cdef Item item
    cdef int flaw
    item.key = PyBytes_AS_STRING(last)
    item.key_bytes = <uint32_t>PyBytes_GET_SIZE(last)
    cdef const char* data = PyBytes_AS_STRING(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef const char* low = PyBytes_AS_STRING(start)
    cdef uint32_t low_bytes = <uint32_t>PyBytes_GET_SIZE(start)
    cdef const char* high = PyBytes_AS_STRING(end)
    cdef uint32_t high_bytes = <uint32_t>PyBytes_GET_SIZE(end)
    with nogil:
        flaw = check_items(data, data + size, count, &item, low, low_bytes, high, high_bytes)
    if flaw == FLAW_SHORT:
        raise PeerProtocolError("a snapshot's chunk is cut short")
    if flaw == FLAW_COUNT:
        raise PeerProtocolError("a snapshot's chunk does not hold as many records as it says")
    key = PyBytes_FromStringAndSize(item.key, item.key_bytes)
    if flaw == FLAW_PLACE:
        raise PeerProtocolError(f"a snapshot's key {key!r} is out of order or outside of its shard")
    if flaw == FLAW_RECORD:
        raise PeerProtocolError(f"a snapshot's record of key {key!r} is damaged: its checksum is wrong")
    return key


cdef int check_items(
    const char* at, const char* end, uint32_t count, Item* item,
    const char* low, uint32_t low_bytes, const char* high, uint32_t high_bytes,
) noexcept nogil:
    """Walks a chunk; `item` holds the key before it and, afterwards, the last one or the one that is wrong."""
    cdef Item found
    while at != end:
        at = next_item(at, end, &found)
        if at == NULL:
            return FLAW_SHORT
        if compare_keys(found.key, found.key_bytes, item.key, item.key_bytes) <= 0:
            item[0] = found
            return FLAW_PLACE
        item[0] = found
        if compare_keys(found.key, found.key_bytes, low, low_bytes) < 0:
            return FLAW_PLACE
        if high_bytes and compare_keys(found.key, found.key_bytes, high, high_bytes) >= 0:
            return FLAW_PLACE
        if not record_sound(found.key, found.key_bytes, found.record, found.record_bytes):
            return FLAW_RECORD
        if count == 0:
            return FLAW_COUNT
        count -= 1
    return FLAW_NONE if count == 0 else FLAW_COUNT


@cython.final
cdef class Items:
    """Takes a chunk apart, some records at a time, so that no call holds the GIL for long."""

    cdef bytes body
    cdef Py_ssize_t at

    def __cinit__(self, bytes body not None):
        self.body = body

    def take(self, Py_ssize_t count_max):
        """The next (key, record) pairs; empty at the end."""
        cdef const char* data = PyBytes_AS_STRING(self.body)
        cdef const char* end = data + PyBytes_GET_SIZE(self.body)
        cdef const char* following
        cdef Item item
        cdef list found = []
        while self.at < PyBytes_GET_SIZE(self.body) and len(found) < count_max:
            following = next_item(data + self.at, end, &item)
            if following == NULL:
                raise PeerProtocolError("a snapshot's chunk is cut short")
            found.append((
                PyBytes_FromStringAndSize(item.key, item.key_bytes),
                PyBytes_FromStringAndSize(item.record, item.record_bytes),
            ))
            self.at = following - data
        return found
