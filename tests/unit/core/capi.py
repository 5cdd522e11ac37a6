"""The compiled functions of ring 0 as their compiled callers see them: pointers, lengths, and memory that ends for real.

The Python doors copy what they are given, so they cannot show a read past its end. Here a check gets bytes that lie flush
against a page which nobody may read: one byte too far ends the test run.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from multiraft import _batch, _core

PAGE = mmap.PAGESIZE

_api = ctypes.pythonapi
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _address(capsule: object) -> int:
    return int(_api.PyCapsule_GetPointer(capsule, _api.PyCapsule_GetName(capsule)))


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A `cdef` function of `_core.pxd`; what it raises is raised here."""
    return ctypes.PYFUNCTYPE(result, *arguments)(_address(_core.__pyx_capi__[name]))  # type: ignore[attr-defined]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
    ]


class Chunk(ctypes.Structure):
    _fields_ = [
        ("references", ctypes.c_uint32),
        ("runs", ctypes.c_uint32),
        ("size", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
    ]


ChunkPointer = ctypes.POINTER(Chunk)

buffer_room = function("buffer_room", ctypes.c_void_p, ctypes.POINTER(Buffer), ctypes.c_size_t)
buffer_free = function("buffer_free", None, ctypes.POINTER(Buffer))
chunk_new = function("chunk_new", ChunkPointer, ctypes.c_size_t)
chunk_take = function("chunk_take", None, ChunkPointer)
chunk_drop = function("chunk_drop", None, ChunkPointer)
chunk_bytes_total = function("chunk_bytes_total", ctypes.c_size_t)
crc32c_update = function(
    "crc32c_update", ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t
)
_run_check = function("run_check", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_batch_check = function("batch_check", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_frame_check = function(
    "frame_check", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)
_majority_index = function(
    "majority_index", ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int
)
_majority_vote = function(
    "majority_vote", ctypes.c_int, ctypes.POINTER(ctypes.c_byte), ctypes.c_int
)


def majority_index(acks: list[int]) -> int:
    return int(_majority_index((ctypes.c_uint64 * len(acks))(*acks), len(acks)))


def majority_vote(votes: list[int]) -> int:
    return int(_majority_vote((ctypes.c_byte * len(votes))(*votes), len(votes)))


class Guarded:
    """Readable memory that ends where an unreadable page begins."""

    def __init__(self, size_max: int = 16 * PAGE):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._room = -(-size_max // PAGE) * PAGE
        self._map = mmap.mmap(-1, self._room + PAGE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._protect(0)

    def _protect(self, rights: int) -> None:
        page = ctypes.c_void_p(self._start + self._room)
        if self._libc.mprotect(page, ctypes.c_size_t(PAGE), rights):
            raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, data: bytes) -> int:
        """Where the bytes lie now: their end is the end of what may be read."""
        at = self._room - len(data)
        self._map[at : self._room] = data
        return self._start + at

    def run_check(self, data: bytes, *, check_body: bool = True) -> int:
        return int(_run_check(self.put(data), len(data), check_body))

    def batch_check(self, data: bytes) -> int:
        return int(_batch_check(self.put(data), len(data)))

    def frame_check(self, data: bytes, length_max: int = _core.FRAME_BYTES_MAX) -> int:
        return int(_frame_check(self.put(data), len(data), length_max))

    def close(self) -> None:
        self._protect(mmap.PROT_READ | mmap.PROT_WRITE)


@contextmanager
def guarded() -> Iterator[Guarded]:
    memory = Guarded()
    try:
        yield memory
    finally:
        memory.close()


class BuilderDoor:
    """`begin_run` and `end_run` of a batch builder, which only compiled code can call by name."""

    def __init__(self, builder: _batch.BatchBuilder):
        self._builder = builder
        table = ctypes.cast(
            _address(_batch.BatchBuilder.__pyx_vtable__),  # type: ignore[attr-defined]
            ctypes.POINTER(ctypes.c_void_p * 2),
        ).contents
        pointer = ctypes.POINTER(ChunkPointer)
        self._begin = ctypes.PYFUNCTYPE(
            ctypes.c_void_p, ctypes.py_object, ctypes.c_uint32, pointer
        )(table[0])
        self._end = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(table[1])

    def begin_run(self, body_bytes: int) -> tuple[int, Any]:
        """(address of the header, the chunk that it is in)."""
        chunk = ChunkPointer()
        return int(self._begin(self._builder, body_bytes, ctypes.byref(chunk))), chunk

    def end_run(self, address: int) -> None:
        self._end(self._builder, address)


def write(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def read(address: int, count: int) -> bytes:
    return ctypes.string_at(address, count)
