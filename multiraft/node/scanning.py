"""Scans: pages of one shard after another, or of all slots of a hash space merged back into the order of keys.

Each page is one confirmed read of one shard. Between pages nothing is held but the key to go on with, so a scan of a million
keys takes a bounded amount of memory, and a scan that is given up costs nothing. In a hash space each slot is in order by
itself; a scan keeps a small page of each slot and gives out the smallest key.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from multiraft.machine.scans import ScanPage
from multiraft.node.meta import ShardRecord
from multiraft.node.routing import Routing

PAGE_KEYS = 512
PAGE_BYTES = 1024 * 1024
SLOT_PAGE_KEYS = 16

SLOTS_AT_ONCE = 64
"""Slots whose first pages are read under one confirmation: about a millisecond of the loop."""

Pair = tuple[bytes, bytes]
Range = tuple[bytes, bytes]
PagesOf = Callable[[int, Sequence[Range], int, bool], Awaitable[list[ScanPage]]]
"""(group, ranges of physical keys, keys a page at most, reverse) -> a page of each."""


async def scan_shards(
    routing: Routing,
    pages_of: PagesOf,
    low: bytes,
    high: bytes,
    *,
    reverse: bool,
    limit: int | None,
) -> AsyncIterator[Pair]:
    """Keys and values from ``low`` up to ``high`` (b"": the end), in order."""
    ranges = routing.ranges(low, high)
    if routing.hashed:
        shards = [
            [
                _Slot(pages_of, shard, slot, routing.space, low, high, reverse)
                for slot in routing.slots_of(shard)
            ]
            for shard, _, _ in ranges
        ]
        async with asyncio.TaskGroup() as group:
            for slots in shards:
                group.create_task(_first_pages(pages_of, slots, reverse))
        async for pair in _merge([slot for slots in shards for slot in slots], reverse):
            yield pair
        return
    keys_max = PAGE_KEYS if limit is None else max(1, min(PAGE_KEYS, limit))
    for shard, start, end in reversed(ranges) if reverse else ranges:
        resume: bytes | None = end if reverse else start
        while resume is not None:
            first, last = (start, resume) if reverse else (resume, end)
            (page,) = await pages_of(shard.group, [(first, last)], keys_max, reverse)
            resume = page.resume
            for key, _revision, value in page.entries:
                yield key[2:], value


async def _first_pages(pages_of: PagesOf, slots: list[_Slot], reverse: bool) -> None:
    """Fill the slots of one shard, many under one confirmation."""
    for at in range(0, len(slots), SLOTS_AT_ONCE):
        some = slots[at : at + SLOTS_AT_ONCE]
        pages = await pages_of(
            some[0].group, [slot.range for slot in some], SLOT_PAGE_KEYS, reverse
        )
        for slot, page in zip(some, pages, strict=True):
            slot.take(page)


class _Slot:
    """One slot of a hash space: a small page of what comes next in it, the next last."""

    __slots__ = ("_end", "_pages_of", "_resume", "_reverse", "_start", "group", "page")

    def __init__(
        self,
        pages_of: PagesOf,
        shard: ShardRecord,
        slot: int,
        space: int,
        low: bytes,
        high: bytes,
        reverse: bool,
    ) -> None:
        prefix = space.to_bytes(2, "big") + slot.to_bytes(2, "big")
        after = (int.from_bytes(prefix, "big") + 1).to_bytes(4, "big")
        self._pages_of = pages_of
        self.group = shard.group
        self._reverse = reverse
        self._start = prefix + low
        self._end = prefix + high if high else after
        self._resume: bytes | None = self._end if reverse else self._start
        self.page: list[Pair] = []

    @property
    def range(self) -> Range:
        """What of the slot is still to be read."""
        if self._resume is None:
            return self._start, self._start
        return (self._start, self._resume) if self._reverse else (self._resume, self._end)

    def take(self, page: ScanPage) -> None:
        self._resume = page.resume
        self.page = [(key[4:], value) for key, _revision, value in reversed(page.entries)]

    async def fill(self) -> bool:
        """The next page of the slot where the last is used up; False at its end."""
        while not self.page and self._resume is not None:
            (page,) = await self._pages_of(self.group, [self.range], SLOT_PAGE_KEYS, self._reverse)
            self.take(page)
        return bool(self.page)


class _Descending:
    """A key that sorts the other way round, for the merge of a reverse scan."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __lt__(self, other: _Descending) -> bool:
        return self.key > other.key


async def _merge(slots: list[_Slot], reverse: bool) -> AsyncIterator[Pair]:
    def rank(slot: _Slot) -> Any:
        key = slot.page[-1][0]
        return _Descending(key) if reverse else key

    heap = [(rank(slot), number, slot) for number, slot in enumerate(slots) if await slot.fill()]
    heapq.heapify(heap)
    while heap:
        _, number, slot = heap[0]
        yield slot.page.pop()
        if await slot.fill():
            heapq.heapreplace(heap, (rank(slot), number, slot))
        else:
            heapq.heappop(heap)
