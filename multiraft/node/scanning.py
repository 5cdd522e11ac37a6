"""Scans: pages of one shard after another, each one confirmed read.

Between pages nothing is held but the key to go on with, so a scan of a million keys takes a bounded amount of memory, and a
scan that is given up costs nothing. Spaces by hash slots are scanned by ``hash_scan``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from multiraft._ticket import Ticket, Waker
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.scans import ScanPage
from multiraft.machine.shards import Cold
from multiraft.machine.slots import SlotPage, SlotStretch
from multiraft.node.hash_scan import scan_slots
from multiraft.node.meta import space_prefix
from multiraft.node.routing import Routing

PAGE_KEYS = 512
PAGE_BYTES = 1024 * 1024

Pair = tuple[bytes, bytes]
Run = Callable[[Ticket[Any]], None]
Late = Callable[[Ticket[Any], Callable[[Any], Any]], Callable[[Any, BaseException | None], None]]


class Pages:
    """Reads pages of one scan. ``confirmed(group, run)`` runs a read of a group when it may, ``late(ticket, shape)`` is what a
    read on another thread calls when it is done."""

    def __init__(
        self,
        machine: KeyValueStore,
        waker: Waker,
        confirmed: Callable[[int, Run], Ticket[Any]],
        late: Late,
    ) -> None:
        self._machine = machine
        self._waker = waker
        self._confirmed = confirmed
        self._late = late

    def keys(
        self, group: int, start: bytes, end: bytes, keys_max: int, reverse: bool
    ) -> Ticket[ScanPage]:
        """A page of a shard whose keys are in order."""

        def run(ticket: Ticket[Any]) -> None:
            page = self._machine.scan_page(group, start, end, keys_max, PAGE_BYTES, reverse)
            if isinstance(page, Cold):
                done = self._late(ticket, _as_it_is)
                self._machine.scan_cold(group, start, end, keys_max, PAGE_BYTES, reverse, done=done)
            else:
                self._waker.settle(ticket, page)

        return self._confirmed(group, run)

    def slots(self, stretch: SlotStretch) -> Ticket[SlotPage]:
        """A page of some hash slots."""

        def run(ticket: Ticket[Any]) -> None:
            page = self._machine.slots.page(stretch)
            if isinstance(page, Cold):
                self._machine.slots.page_cold(stretch, self._late(ticket, _as_it_is))
            else:
                self._waker.settle(ticket, page)

        return self._confirmed(stretch.group, run)


def _as_it_is(page: Any) -> Any:
    return page


def scan_keys(
    routing: Routing, pages: Pages, low: bytes, high: bytes, *, reverse: bool, limit: int | None
) -> AsyncIterator[Pair]:
    """Keys and values from ``low`` up to ``high`` (b"": the end), in order, whatever the space."""
    if routing.hashed:
        prefix = space_prefix(routing.space)
        return scan_slots(
            routing,
            lambda group, *asked: pages.slots(SlotStretch(group, prefix, *asked)),
            low,
            high,
            reverse=reverse,
            limit=limit,
        )
    return scan_shards(routing, pages, low, high, reverse=reverse, limit=limit)


async def scan_shards(
    routing: Routing, pages: Pages, low: bytes, high: bytes, *, reverse: bool, limit: int | None
) -> AsyncIterator[Pair]:
    """The same where keys are in order."""
    ranges = routing.ranges(low, high)
    keys_max = PAGE_KEYS if limit is None else max(1, min(PAGE_KEYS, limit))
    for shard, start, end in reversed(ranges) if reverse else ranges:
        resume: bytes | None = end if reverse else start
        while resume is not None:
            first, last = (start, resume) if reverse else (resume, end)
            page = await pages.keys(shard.group, first, last, keys_max, reverse)
            resume = page.resume
            for key, _revision, value in page.entries:
                yield key[2:], value
            await asyncio.sleep(0)  # pages that are there at once must not follow at once
