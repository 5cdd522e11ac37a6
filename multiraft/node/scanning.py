"""Scans: pages of one shard after another, or of all slots of a hash space merged back into the order of keys.

Each page is one confirmed read of one shard. Between pages nothing is held but the key to go on with, so a scan of a million
keys takes a bounded amount of memory, and a scan that is given up costs nothing. In a hash space each slot is in order by
itself; a scan keeps a small page of each slot and gives out the smallest key.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable
from typing import Any

from multiraft._ticket import Ticket
from multiraft.machine.kv import KeyValueStore
from multiraft.node.meta import ShardRecord
from multiraft.node.routing import Routing

PAGE_KEYS = 512
PAGE_BYTES = 1024 * 1024
SLOT_PAGE_KEYS = 16
SLOT_PAGE_BYTES = 16 * 1024

Pair = tuple[bytes, bytes]
Confirm = Callable[[int, Callable[[], Any]], Ticket[Any]]


async def scan_shards(
    routing: Routing,
    machine: KeyValueStore,
    confirm: Confirm,
    low: bytes,
    high: bytes,
    *,
    reverse: bool,
    limit: int | None,
) -> AsyncIterator[Pair]:
    """Keys and values from ``low`` up to ``high`` (b"": the end), in order."""
    if not routing.hashed:
        ranges = routing.ranges(low, high)
        for shard, start, end in reversed(ranges) if reverse else ranges:
            async for key, value in _scan_range(machine, confirm, shard.group, start, end, reverse, limit):
                yield key[2:], value
        return
    streams = [
        _SlotStreams(routing, machine, confirm, shard, low, high, reverse) for shard, _, _ in routing.ranges(low, high)
    ]
    async for pair in _merge(streams, reverse):
        yield pair


async def _scan_range(
    machine: KeyValueStore,
    confirm: Confirm,
    group: int,
    start: bytes,
    end: bytes,
    reverse: bool,
    limit: int | None,
) -> AsyncIterator[Pair]:
    keys_max = PAGE_KEYS if limit is None else max(1, min(PAGE_KEYS, limit))
    resume: bytes | None = end if reverse else start
    while resume is not None:
        low, high = (start, resume) if reverse else (resume, end)
        page, resume = await confirm(
            group, lambda low=low, high=high: machine.scan_page(group, low, high, keys_max, PAGE_BYTES, reverse)
        )
        for key, _revision, value in page:
            yield key, value


class _SlotStreams:
    """The slots of one shard, each with a small page of what comes next in it."""

    def __init__(
        self,
        routing: Routing,
        machine: KeyValueStore,
        confirm: Confirm,
        shard: ShardRecord,
        low: bytes,
        high: bytes,
        reverse: bool,
    ) -> None:
        self._machine = machine
        self._confirm = confirm
        self._group = shard.group
        self._reverse = reverse
        self._ranges: dict[int, tuple[bytes, bytes]] = {}
        self.pages: dict[int, list[Pair]] = {}
        space = routing.space.to_bytes(2, "big")
        for slot in routing.slots_of(shard):
            prefix = space + slot.to_bytes(2, "big")
            after = (int.from_bytes(prefix, "big") + 1).to_bytes(4, "big")
            self._ranges[slot] = (prefix + low, prefix + high if high else after)

    async def first(self) -> list[int]:
        """Fill the first page of every slot in one confirmed read; the slots that hold anything."""
        return await self._confirm(self._group, lambda: [slot for slot in list(self._ranges) if self._fill(slot)])

    async def refill(self, slot: int) -> bool:
        """The next page of a slot; False at its end."""
        if slot not in self._ranges:
            return False
        return await self._confirm(self._group, lambda: self._fill(slot))

    def _fill(self, slot: int) -> bool:
        start, end = self._ranges[slot]
        page, resume = self._machine.scan_page(self._group, start, end, SLOT_PAGE_KEYS, SLOT_PAGE_BYTES, self._reverse)
        if resume is None:
            del self._ranges[slot]
        else:
            self._ranges[slot] = (start, resume) if self._reverse else (resume, end)
            if not page:
                return self._fill(slot)
        self.pages[slot] = [(key[4:], value) for key, _revision, value in reversed(page)]
        return bool(page)


class _Descending:
    """A key that sorts the other way round, for the merge of a reverse scan."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __lt__(self, other: _Descending) -> bool:
        return self.key > other.key


async def _merge(streams: list[_SlotStreams], reverse: bool) -> AsyncIterator[Pair]:
    def rank(key: bytes) -> Any:
        return _Descending(key) if reverse else key

    heap: list[tuple[Any, int, int]] = []
    for number, stream in enumerate(streams):
        heap += [(rank(stream.pages[slot][-1][0]), number, slot) for slot in await stream.first()]
    heapq.heapify(heap)
    while heap:
        _, number, slot = heap[0]
        page = streams[number].pages[slot]
        yield page.pop()
        if page or await streams[number].refill(slot):
            heapq.heapreplace(heap, (rank(streams[number].pages[slot][-1][0]), number, slot))
        else:
            heapq.heappop(heap)
            del streams[number].pages[slot]
