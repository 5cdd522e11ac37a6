"""Records as the tree holds them, and pages of keys merged from memtables and the tree."""

from __future__ import annotations

from typing import Literal, final, overload

import lmdb

from multiraft.machine.memtable import Memtable

@final
class Walk:
    @property
    def memtable(self) -> Memtable: ...
    def __new__(cls, memtable: Memtable) -> Walk: ...
    def chunk(
        self, count_max: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], list[bytes]]: ...
    def seek_key(self, key: bytes) -> None: ...

@final
class Overlay:
    @property
    def items(self) -> list[tuple[bytes, int, bytes | None]]: ...
    @property
    def ranges(self) -> list[tuple[bytes, bytes, bool]]: ...
    @property
    def bound(self) -> bytes | None: ...
    @property
    def reverse(self) -> bool: ...

@final
class Stream:
    def __new__(
        cls, cursor: lmdb.Cursor[bytes], start: bytes, end: bytes, reverse: bool
    ) -> Stream: ...

def make_record(key: bytes, revision: int, expiry_ms: int, value: bytes) -> bytes: ...
def open_record(key: bytes, record: bytes) -> tuple[int, bytes]: ...
def require_sound(key: bytes, record: bytes) -> None: ...
def require_absent(cursor: lmdb.Cursor[bytes], key: bytes) -> None: ...
def overlay(
    upper: Memtable,
    lower: Memtable | None,
    start: bytes,
    end: bytes,
    count_max: int,
    bytes_max: int,
    reverse: bool = False,
    raw: bool = False,
) -> Overlay: ...
def merge_slots(
    upper: Memtable,
    lower: Memtable | None,
    cursor: lmdb.Cursor[bytes],
    space: bytes,
    slot: int,
    slot_end: int,
    low: bytes,
    high: bytes,
    count_max: int,
    bytes_max: int,
    reverse: bool = False,
) -> tuple[list[tuple[bytes, bytes]], int, bytes | None]: ...
@overload
def merge_page(
    over: Overlay,
    cursor: lmdb.Cursor[bytes],
    start: bytes,
    end: bytes,
    count_max: int,
    bytes_max: int,
    raw: Literal[False] = False,
) -> tuple[list[tuple[bytes, int, bytes]], bytes | None]: ...
@overload
def merge_page(
    over: Overlay,
    cursor: lmdb.Cursor[bytes],
    start: bytes,
    end: bytes,
    count_max: int,
    bytes_max: int,
    raw: Literal[True],
) -> tuple[list[tuple[bytes, bytes]], bytes | None]: ...
