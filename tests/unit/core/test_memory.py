"""Buffers and chunks: growth, exact accounting, and what happens when there is no memory."""

from __future__ import annotations

import ctypes

import pytest

from multiraft import _core
from tests.unit.core import capi

TOO_MUCH = [2**62, 2**64 - 1, 2**64 - 8]


def test_a_buffer_grows_and_keeps_what_it_holds() -> None:
    buffer = capi.Buffer()
    written = b""
    for size in (1, 255, 1, 4096, 0, 100_000):
        piece = bytes([size % 251]) * size
        room = capi.buffer_room(ctypes.byref(buffer), size)
        assert buffer.capacity - buffer.size >= size
        capi.write(room, piece)
        buffer.size += size
        written += piece
    assert capi.read(buffer.data, buffer.size) == written
    capi.buffer_free(ctypes.byref(buffer))
    assert (buffer.data, buffer.size, buffer.capacity) == (None, 0, 0)


def test_a_buffer_grows_by_doubling_so_that_appending_stays_cheap() -> None:
    buffer, capacities = capi.Buffer(), set()
    for _ in range(100_000):
        capi.buffer_room(ctypes.byref(buffer), 1)
        buffer.size += 1
        capacities.add(buffer.capacity)
    capi.buffer_free(ctypes.byref(buffer))
    assert len(capacities) < 12


def test_room_for_nothing_is_no_null() -> None:
    buffer = capi.Buffer()
    assert capi.buffer_room(ctypes.byref(buffer), 0)
    capi.buffer_free(ctypes.byref(buffer))


@pytest.mark.parametrize("more", TOO_MUCH)
def test_a_buffer_without_memory_raises_and_keeps_what_it_holds(more: int) -> None:
    buffer = capi.Buffer()
    capi.write(capi.buffer_room(ctypes.byref(buffer), 4), b"kept")
    buffer.size = 4
    with pytest.raises(MemoryError):
        capi.buffer_room(ctypes.byref(buffer), more)
    assert capi.read(buffer.data, buffer.size) == b"kept"
    capi.buffer_free(ctypes.byref(buffer))


def test_chunks_are_counted_while_anybody_holds_them() -> None:
    before = _core.chunk_bytes()
    first, second = capi.chunk_new(1000), capi.chunk_new(0)
    assert (first.contents.references, first.contents.runs, first.contents.size) == (1, 0, 0)
    assert first.contents.capacity == 1000
    assert capi.chunk_bytes_total() == _core.chunk_bytes() == before + 1000
    capi.chunk_take(first)
    capi.chunk_drop(first)
    assert _core.chunk_bytes() == before + 1000
    capi.chunk_drop(first)
    capi.chunk_drop(second)
    assert _core.chunk_bytes() == before


@pytest.mark.parametrize("capacity", TOO_MUCH)
def test_a_chunk_without_memory_raises_and_is_not_counted(capacity: int) -> None:
    before = _core.chunk_bytes()
    with pytest.raises(MemoryError):
        capi.chunk_new(capacity)
    assert _core.chunk_bytes() == before
