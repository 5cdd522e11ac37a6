"""Scans of a hash space in the order of keys: window after window, each a stretch of keys out of all slots.

The keys of a hash space lie slot by slot, so the next keys in order are spread over all of them. A window is a stretch of keys
that is narrow enough to hold: a few slots are read first, and tell how dense keys lie and so where it ends; then every other
slot gives what it has in it, and the sorted pages are merged. Keys spread evenly, so a few slots speak
for all; where they do not, the window is cut as it fills. Nothing but the end of the window is kept to the next one.

Memory is bounded by one window, whatever the number and size of keys. The loop is held by one page at a time.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

from multiraft.config import SLOTS
from multiraft.machine.slots import SlotPage
from multiraft.node.meta import ShardRecord
from multiraft.node.routing import Routing

WINDOW_KEYS = 65_536
"""What a window is meant to hold; twice as many it may."""
WINDOW_BYTES = 16 * 1024 * 1024
SAMPLE_SLOTS = 64
PAGE_SLOTS = 64
PAGE_KEYS = 1024
PAGE_BYTES = 1024 * 1024
PAGES_AT_ONCE = 8
"""Pages on their way at once: enough to have many shards at work, few enough to hold the loop for a few milliseconds."""
EMITTED_AT_ONCE = 512

Pair = tuple[bytes, bytes]
Work = tuple[ShardRecord, int, int]
SlotsOf = Callable[[int, int, int, bytes, bytes, int, int, bool], Awaitable[SlotPage]]
"""(group, slot, slot end, low, high, keys and bytes at most, reverse) -> a page."""


class Window:
    """The keys from ``low`` up to ``high``, complete for every slot that was read; ``high`` (backwards ``low``) may come nearer."""

    def __init__(self, low: bytes, high: bytes, *, reverse: bool) -> None:
        self.low, self.high, self.reverse = low, high, reverse
        self.cut = False
        """Is there something behind it that belongs to the scan?"""
        self.runs: list[list[Pair]] = []
        self.keys = 0
        self.bytes = 0

    def take(self, page: SlotPage) -> None:
        """What some slots hold."""
        # The window may have come nearer since they were asked.
        if run := self._inside(page.entries):
            self.runs.append(run)
            self.keys += len(run)
            self.bytes += _bytes_of(run)
        if page.bound is not None:
            self.narrow(page.bound)
        while (self.keys > 2 * WINDOW_KEYS or self.bytes > 2 * WINDOW_BYTES) and self.keys > 1:
            middles = sorted(run[len(run) // 2][0] for run in self.runs)
            if not self.narrow(middles[len(middles) // 2]):
                return

    def narrow(self, bound: bytes) -> bool:
        """End the window at a key: before it, or backwards with it. False where that changes nothing."""
        if bound <= self.low if self.reverse else self.high and bound >= self.high:
            return False
        before = self.keys
        if self.reverse:
            self.low = bound
        else:
            self.high = bound
        self.cut = True
        runs, self.runs = self.runs, []
        for run in runs:
            kept = self._inside(run)
            if kept:
                self.runs.append(kept)
            if kept is not run:
                self.keys -= len(run) - len(kept)
                self.bytes -= _bytes_of(run) - _bytes_of(kept)
        return self.keys < before

    def _inside(self, run: list[Pair]) -> list[Pair]:
        if self.reverse:
            if not run or run[-1][0] >= self.low:
                return run
            return [pair for pair in run if pair[0] >= self.low]
        if not run or not self.high or run[-1][0] < self.high:
            return run
        return run[: bisect_left(run, (self.high,))]

    def merged(self) -> Iterator[Pair]:
        """All of it, in order. What has been given out is let go at once: a window as a whole takes milliseconds to free."""
        runs, self.runs = self.runs, []
        return heapq.merge(*map(_drained, runs), reverse=self.reverse)


def _drained(run: list[Pair]) -> Iterator[Pair]:
    run.reverse()
    while run:
        yield run.pop()


def _bytes_of(run: list[Pair]) -> int:
    return sum(len(key) + len(value) for key, value in run)


async def scan_slots(
    routing: Routing,
    slots_of: SlotsOf,
    low: bytes,
    high: bytes,
    *,
    reverse: bool,
    limit: int | None,
) -> AsyncIterator[Pair]:
    """Keys and values of a hash space from ``low`` up to ``high`` (b"": the end), in order."""
    keys = WINDOW_KEYS if limit is None else min(WINDOW_KEYS, limit)
    work = _work(routing)
    sample, rest = work[0], work[1:]
    while True:
        window = Window(low, high, reverse=reverse)
        await _read(slots_of, window, [sample], at_once=1)
        _estimate(window, sample, keys)
        await _read(slots_of, window, rest, at_once=PAGES_AT_ONCE)
        for count, pair in enumerate(window.merged(), 1):
            yield pair
            if count % EMITTED_AT_ONCE == 0:
                await asyncio.sleep(0)  # one who only takes keys must not hold the loop
        if not window.cut:
            return
        if reverse:
            high = window.low
        else:
            low = window.high


def _work(routing: Routing) -> list[Work]:
    """All slots as (shard, first, end) of a few adjacent ones; the first is the sample."""
    work: list[Work] = []
    for shard in routing.shards:
        slots = routing.slots_of(shard)
        for first in range(slots.start, slots.stop, PAGE_SLOTS):
            work.append((shard, first, min(first + PAGE_SLOTS, slots.stop)))
    return work


def _estimate(window: Window, sample: Work, keys: int) -> None:
    """End the window where it holds about so many keys, if the slots of the sample speak for all."""
    _, first, end = sample
    rank = max(1, keys * (end - first) // SLOTS)
    if window.bytes > 0:
        mean_bytes = window.bytes / window.keys
        rank = min(rank, max(1, int(WINDOW_BYTES / mean_bytes) * (end - first) // SLOTS))
    if window.keys > rank:
        ordered = sorted((key for run in window.runs for key, _ in run), reverse=window.reverse)
        # Backwards the bound itself is in the window, so that it ends with as many keys.
        window.narrow(ordered[rank - 1 if window.reverse else rank])


async def _read(slots_of: SlotsOf, window: Window, work: Iterable[Work], *, at_once: int) -> None:
    """Bring what some slots have into the window, a few pages at once."""
    left = iter(work)

    async def reader() -> None:
        for shard, slot, end in left:
            while slot < end:
                low, high = window.low, window.high
                page = await slots_of(
                    shard.group, slot, end, low, high, PAGE_KEYS, PAGE_BYTES, window.reverse
                )
                slot = page.slot
                window.take(page)
                await asyncio.sleep(0)  # pages that are there at once must not follow at once

    if at_once == 1:
        await reader()
        return
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(reader())
    except BaseExceptionGroup as errors:
        # One reason is enough, and it is to look like that of any other call.
        raise errors.exceptions[0] from None
