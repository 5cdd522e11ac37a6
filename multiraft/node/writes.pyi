"""Writes of keys from the caller's arguments to the ticket in one crossing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from multiraft._routes import RouteTable
from multiraft._ticket import Ticket
from multiraft.node.waiters import Waiters

@final
class Writes:
    @property
    def space(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def __init__(
        self, waiters: Waiters, *, space: int, value_bytes_max: int, timeout_s: float
    ) -> None: ...
    def route(self, table: RouteTable, hashed: bool) -> None: ...
    def close(self) -> None: ...
    def deadline(self, timeout: float | None = None) -> int: ...
    def checked(self, key: bytes, value: bytes) -> bytes: ...
    def put(
        self, key: bytes, value: bytes, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]: ...
    def delete(
        self, key: bytes, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]: ...
    def put_many(
        self,
        items: Iterable[tuple[bytes, bytes]],
        timeout: float | None = None,
        nowait: bool = False,
    ) -> tuple[list[Ticket[int]], list[int]]: ...
