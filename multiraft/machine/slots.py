"""Scans of a hashed space: what many hash slots of a shard hold between two keys, some slots at a time.

In the tree the keys of a hashed space lie slot by slot, and in order only within a slot. A page here is the same stretch of
user keys out of several adjacent slots, sorted; whoever wants one order over all slots merges pages. Like any page it is bounded
in keys and bytes, and linearizable by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multiraft.errors import InvalidCommand, ShardMoved
from multiraft.interfaces import Jobs
from multiraft.machine.memtable import Memtable
from multiraft.machine.pages import merge_slots
from multiraft.machine.scans import BOUND_BYTES_MAX, accepted_flushes, fits
from multiraft.machine.shards import COLD, Cold, ShardTable
from multiraft.machine.tree import Moved, Reader, Transaction, Tree

ORDER_NODES = 512

Pair = tuple[bytes, bytes]
Done = Callable[[Any, BaseException | None], None]


@dataclass(frozen=True, slots=True)
class SlotStretch:
    """What is asked for: keys from ``low`` up to ``high`` (b"": the end) of slots ``slot`` to ``slot_end - 1``."""

    group: int
    space: bytes
    slot: int
    slot_end: int
    low: bytes
    high: bytes
    keys_max: int
    bytes_max: int
    reverse: bool

    def __post_init__(self) -> None:
        if len(self.low) > BOUND_BYTES_MAX or len(self.high) > BOUND_BYTES_MAX:
            raise InvalidCommand(f"a bound of a scan is over {BOUND_BYTES_MAX} bytes")
        if self.keys_max < 1 or self.bytes_max < 1:
            raise InvalidCommand("a scan needs room for at least one key")


@dataclass(frozen=True, slots=True)
class SlotPage:
    """Some slots' keys."""

    entries: list[Pair]
    """(key, value) of all these slots, in order."""
    slot: int
    """The slot to go on with."""
    bound: bytes | None
    """The last slot was cut: it is complete only up to this key (backwards: from it on)."""


class SlotScans:
    """Makes pages. Runs on the loop; what may block is handed to ``jobs``. ``reporting`` wraps what they call back."""

    def __init__(
        self,
        table: ShardTable,
        tree: Tree,
        reader: Reader,
        jobs: Jobs,
        reporting: Callable[[Done], Done],
    ):
        self._table = table
        self._tree = tree
        self._reader = reader
        self._jobs = jobs
        self._reporting = reporting

    def page(self, stretch: SlotStretch) -> SlotPage | Cold:
        """One page now, or COLD where that has to be left to a reader thread (``page_cold``). Raises ShardMoved."""
        self._require_inside(stretch)
        shard = self._table.shard(stretch.group)
        if self._table.cold or shard.replacing or self._unordered(stretch.group):
            return COLD
        try:
            return self._reader.page(
                lambda cursor: _merged(shard.active, shard.frozen, cursor, stretch)
            )
        except Moved:
            return COLD

    def page_cold(self, stretch: SlotStretch, done: Done) -> None:
        """One page from a reader thread; then ``done(page, error)``."""
        try:
            self._require_inside(stretch)
            shard = self._table.shard(stretch.group)
        except ShardMoved as error:
            done(None, error)
            return
        # The memtables as of now: what is written later need not be seen, and what is flushed meanwhile is in them still.
        active, frozen, accepted = shard.active, shard.frozen, accepted_flushes(shard)
        ready = not shard.replacing

        def job() -> SlotPage | None:
            while self._unordered(stretch.group):
                self._tree.breathe()
            return self._merge_below(stretch, active, frozen, accepted) if ready else None

        def finished(page: SlotPage | None, error: BaseException | None) -> None:
            if error is None and page is None:
                self.page_cold(stretch, done)
            else:
                done(page, error)

        self._jobs.submit(job, self._reporting(finished))

    # -- its own --------------------------------------------------------------------------------------------------------

    def _require_inside(self, stretch: SlotStretch) -> None:
        first, last = (
            stretch.space + slot.to_bytes(2, "big") for slot in (stretch.slot, stretch.slot_end)
        )
        self._table.require_inside(stretch.group, first, last)

    def _unordered(self, group: int) -> bool:
        self._table.shard(group).scanned = True
        return bool(self._table.order_step(group, ORDER_NODES))

    def _merge_below(
        self,
        stretch: SlotStretch,
        active: Memtable,
        frozen: Memtable | None,
        accepted: tuple[int, ...],
    ) -> SlotPage | None:
        """On a reader thread: the page, or None where the tree or the memtables do not fit any more."""

        def job(transaction: Transaction) -> SlotPage | None:
            if not fits(self._tree, transaction, stretch.group, accepted) or active.order_step(0):
                return None
            if frozen is not None and frozen.order_step(0):
                return None
            return _merged(active, frozen, transaction.cursor(self._tree.data), stretch)

        page: SlotPage | None = self._tree.read(job)
        return page


def _merged(
    active: Memtable, frozen: Memtable | None, cursor: Any, stretch: SlotStretch
) -> SlotPage:
    entries, slot, bound = merge_slots(
        active,
        frozen,
        cursor,
        stretch.space,
        stretch.slot,
        stretch.slot_end,
        stretch.low,
        stretch.high,
        stretch.keys_max,
        stretch.bytes_max,
        stretch.reverse,
    )
    return SlotPage(entries, slot, bound)
