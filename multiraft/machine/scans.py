"""Scans: one page of a shard's keys, from memory and the tree, on the loop or on a reader thread; and a hash of all of it.

A page is linearizable by itself and holds a bounded number of keys and bytes; nothing is kept from one page to the next but
the key to go on with. On a thread the tree may have moved on since memory was copied: such a page is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from multiraft._core import crc32c
from multiraft.errors import InvalidCommand, ShardMoved
from multiraft.interfaces import Jobs
from multiraft.machine.flush import read_record
from multiraft.machine.memtable import Memtable
from multiraft.machine.pages import Overlay, merge_page, overlay
from multiraft.machine.shards import COLD, Cold, Shard, ShardTable
from multiraft.machine.tree import Moved, Reader, Transaction, Tree

BOUND_BYTES_MAX = 511
PAGE_KEYS_MAX = 10_000
PAGE_BYTES_MAX = 4 * 1024 * 1024
HASH_KEYS = 1000
ORDER_NODES = 512

Entry = tuple[bytes, int, bytes]
Done = Callable[[Any, BaseException | None], None]


@dataclass(frozen=True, slots=True)
class ScanPage:
    """Some keys in order, as (key, revision, value)."""

    entries: list[Entry]
    resume: bytes | None
    """Where the next page begins (backwards: ends); None where there is nothing more."""


@dataclass(frozen=True, slots=True)
class StateHash:
    """A checksum over what is visible in a shard, so far. Equal states at equal indexes have equal ones."""

    group: int
    index: int
    """The applied index that it speaks of."""
    crc: int = 0
    keys: int = 0
    resume: bytes | None = b""
    """The key to go on with; None once it is complete."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is asked for: [start, end) of a group, within limits."""

    group: int
    start: bytes
    end: bytes
    keys_max: int
    bytes_max: int
    reverse: bool

    def __post_init__(self) -> None:
        if len(self.start) > BOUND_BYTES_MAX or len(self.end) > BOUND_BYTES_MAX:
            raise InvalidCommand(f"a bound of a scan is over {BOUND_BYTES_MAX} bytes")
        if self.keys_max < 1 or self.bytes_max < 1:
            raise InvalidCommand("a scan needs room for at least one key")


class Scans:
    """Makes pages. Runs on the loop; what may block is handed to ``jobs``."""

    def __init__(self, table: ShardTable, tree: Tree, reader: Reader, jobs: Jobs):
        self._table = table
        self._tree = tree
        self._reader = reader
        self._jobs = jobs

    def stretch(
        self, group: int, start: bytes, end: bytes, limit: int, bytes_max: int, reverse: bool
    ) -> Stretch:
        """What to scan, bounded and inside the shard. Raises ShardMoved or InvalidCommand."""
        self._table.require_inside(group, start, end)
        keys_max = min(limit, PAGE_KEYS_MAX)
        return Stretch(group, start, end, keys_max, min(bytes_max, PAGE_BYTES_MAX), reverse)

    def page(self, stretch: Stretch, on_loop: bool = False) -> ScanPage | Cold:
        """One page now, or COLD where that has to be left to a reader thread; ``on_loop`` puts up with the disk."""
        if stretch.end and stretch.start >= stretch.end:
            return ScanPage([], None)
        if self._table.cold and not on_loop:
            return COLD
        if self._table.shard(stretch.group).replacing:
            return COLD
        over = self._overlay(stretch)
        if isinstance(over, Cold):
            return COLD
        try:
            return self._reader.page(lambda cursor: merge(over, cursor, stretch))
        except Moved:
            return COLD

    def page_cold(self, stretch: Stretch, done: Done) -> None:
        """One page from a reader thread; then ``done(page, error)``."""
        try:
            over = self._overlay(stretch)
        except ShardMoved as error:
            done(None, error)
            return
        if isinstance(over, Cold):
            self._jobs.submit(
                lambda: self._order(stretch.group),
                lambda _, error: (
                    self.page_cold(stretch, done) if error is None else done(None, error)
                ),
            )
            return
        accepted = accepted_flushes(self._table.shard(stretch.group))

        def finished(page: ScanPage | None, error: BaseException | None) -> None:
            if error is None and page is None:
                self.page_cold(stretch, done)
            else:
                done(page, error)

        self._jobs.submit(lambda: self._merge_below(stretch, over, accepted), finished)

    def hash_some(self, group: int, before: StateHash | None) -> StateHash:
        """Go on with a hash by one page; begin again where something was applied meanwhile."""
        shard = self._table.shard(group)
        if before is None or before.index != shard.applied_index:
            before = StateHash(group, shard.applied_index)
        if before.resume is None or shard.replacing or self._table.order_step(group, ORDER_NODES):
            return before
        end = shard.descriptor.end
        start = max(before.resume, shard.descriptor.start)
        over = self._table.overlay(group, start, end, HASH_KEYS, PAGE_BYTES_MAX, False, True)
        if isinstance(over, Cold):
            return before
        try:
            entries, resume = self._reader.page(
                lambda cursor: merge_page(over, cursor, start, end, HASH_KEYS, PAGE_BYTES_MAX, True)
            )
        except Moved:
            return before
        crc = before.crc
        for key, record in entries:
            crc = crc32c(record[4:], crc32c(key, crc))
        return StateHash(group, before.index, crc, before.keys + len(entries), resume)

    # -- its own --------------------------------------------------------------------------------------------------------

    def _overlay(self, stretch: Stretch) -> Overlay | Cold:
        return self._table.overlay(
            stretch.group,
            stretch.start,
            stretch.end,
            stretch.keys_max,
            stretch.bytes_max,
            stretch.reverse,
        )

    def _order(self, group: int) -> None:
        """On a reader thread: bring a shard's memtables into order, letting the loop in after every few."""
        while self._table.order_step(group, ORDER_NODES):
            self._tree.breathe()

    def _merge_below(
        self, stretch: Stretch, over: Overlay, accepted: tuple[int, ...]
    ) -> ScanPage | None:
        """On a reader thread: the page, or None where the tree does not fit under the overlay any more."""

        def job(transaction: Transaction) -> ScanPage | None:
            if not fits(self._tree, transaction, stretch.group, accepted):
                return None
            return merge(over, transaction.cursor(self._tree.data), stretch)

        page: ScanPage | None = self._tree.read(job)
        return page


def accepted_flushes(shard: Shard) -> tuple[int, ...]:
    """The states of the tree that what memory knows may be laid over: before and after the flush of ``frozen``."""
    if shard.frozen_record is None:
        return (shard.flushes,)
    return (shard.flushes, shard.frozen_record.flushes)


def fits(tree: Tree, transaction: Transaction, group: int, accepted: tuple[int, ...]) -> bool:
    """On a worker: is the tree in one of the states that what memory knows may be laid over? Raises ShardMoved."""
    record = read_record(tree, transaction, group)
    if record is not None:
        return record.flushes in accepted
    if 0 not in accepted:
        raise ShardMoved(f"shard {group} is not on this node")
    return (
        True  # it has begun so lately that its record is still on its way: all of it is in memory
    )


def merge(over: Overlay, cursor: Any, stretch: Stretch) -> ScanPage:
    entries, resume = merge_page(
        over, cursor, stretch.start, stretch.end, stretch.keys_max, stretch.bytes_max
    )
    return ScanPage(entries, resume)


def frozen_chunks(
    tree: Tree,
    transaction: Transaction,
    start: bytes,
    end: bytes,
    frozen: Memtable | None,
    keys_max: int,
    bytes_max: int,
) -> Iterator[list[tuple[bytes, bytes]]]:
    """On a worker: all of [start, end) as lists of (key, record), from a frozen memtable over the tree."""
    if frozen is None:
        frozen = Memtable()
        frozen.freeze()
    frozen.sort()
    resume: bytes | None = start
    while resume is not None:
        over = overlay(frozen, None, resume, end, keys_max, bytes_max, False, True)
        cursor = transaction.cursor(tree.data)
        entries, resume = merge_page(over, cursor, resume, end, keys_max, bytes_max, True)
        if entries:
            yield entries
