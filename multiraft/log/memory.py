"""The log store without a disk: the same index, the same rules, batches in a dict. For tests and the simulator.

What is appended is visible at once; it counts as synced when ``sync`` is called, or at once with ``auto=True``. ``crash`` gives the
store that a restart would find: the synced prefix and nothing else. Batches that nobody needs are dropped oldest first, as
compaction on a disk does; nothing is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from multiraft.errors import Closed, LogCorrupt, StorageError, SyncFailed
from multiraft.histogram import Histogram
from multiraft.ids import GroupId, NodeId, StoreId
from multiraft.interfaces import GroupLog, Jobs, LogSpace, Pinned
from multiraft.log.carrying import copy_run
from multiraft.log.index import LogIndex
from multiraft.log.loading import group_log, pinned_of, refuse_damage
from multiraft.log.lookup import (
    figures,
    find_runs,
    group_facts,
    group_ids,
    log_bytes,
    pinning_groups,
)
from multiraft.log.moving import dropped, window
from multiraft.log.reads import Fetched
from multiraft.log.schema import GIB, Piece


class MemoryLogStore:
    """See ``interfaces.LogStore``. ``jobs`` is where fetches answer from and automatic syncs happen; None: at once.

    ``capacity_bytes`` is what ``space`` reports as the size of the disk; nothing is refused when it is exceeded.
    """

    def __init__(
        self,
        *,
        store_id: int = 1,
        auto: bool = True,
        jobs: Jobs | None = None,
        budget_bytes: int = 2 * GIB,
        capacity_bytes: int = 64 * GIB,
        reserve_bytes: int = 0,
        boot_count: int = 1,
        batches: Mapping[int, bytes] | None = None,
    ):
        self.store_id = StoreId(store_id)
        self.boot_count = boot_count
        self.on_synced: Callable[[int], None] = _ignore
        self.on_failed: Callable[[StorageError], None] = _ignore
        self.auto = auto
        self.budget_bytes = budget_bytes
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self._jobs = jobs
        self._batches: dict[int, bytes] = dict(batches or {})
        self._failed: StorageError | None = None
        self._closed = False
        self._syncing = False
        self._index = LogIndex(store_id)
        self._index.settle()
        for sequence in sorted(self._batches):
            self._index.load(sequence, self._batches[sequence], True)
        refuse_damage(self._index.finish(), self._index.findings_count)
        self.synced_sequence = self._index.last_sequence
        self.sync_ns = Histogram()  # of a disk that takes no time

    # -- the contract -------------------------------------------------------------------------------------------------

    def groups(self) -> Iterator[GroupLog]:
        facts = [group_facts(self._index, group) for group in group_ids(self._index)]
        return iter([group_log(each, self._read) for each in facts if each is not None])

    def pinned(self) -> Mapping[NodeId, Pinned]:
        return pinned_of(self._index)

    @property
    def queue_bytes(self) -> int:
        unsynced = (at for at in self._batches if at > self.synced_sequence)
        return sum(len(self._batches[at]) for at in unsynced)

    def append(self, batch: bytes) -> None:
        if self._failed is not None:
            raise SyncFailed("the log failed before; nothing more is written") from self._failed
        if self._closed:
            raise Closed("the log store is closed")
        sequence = self._index.last_sequence + 1
        self._index.append(sequence, batch)
        self._batches[sequence] = batch
        if self.auto and not self._syncing:
            self._syncing = True
            self._later(self._sync_by_itself)

    def fetch(self, group: GroupId, first: int, bytes_max: int, done: Fetched) -> None:
        def answer() -> None:
            try:
                runs = [
                    self._read(piece)
                    for piece in find_runs(self._index, group, first, max(bytes_max, 0))
                ]
            except LogCorrupt as error:
                done(None, error)
            else:
                done(runs, None)

        self._later(answer)

    def pinning(self, bytes_over: int) -> Sequence[GroupId]:
        over = log_bytes(self._index) - self.budget_bytes
        if over <= 0:
            return ()
        return [GroupId(group) for group in pinning_groups(self._index, bytes_over or over)]

    def space(self) -> LogSpace:
        used = log_bytes(self._index)
        return LogSpace(
            used, max(0, self.capacity_bytes - used), self.reserve_bytes, self.capacity_bytes
        )

    def close(self) -> None:
        if not self._closed and self._failed is None:
            self.sync()
        self._closed = True

    # -- the test's control -------------------------------------------------------------------------------------------

    def sync(self, sequence: int | None = None) -> None:
        """Everything up to ``sequence`` (all of it) is durable now, and the owner is told."""
        through = self._index.last_sequence if sequence is None else sequence
        if self._failed is None and through > self.synced_sequence:
            self.synced_sequence = through
            self._drop_dead()
            self.on_synced(through)

    def fail(self, error: StorageError | None = None) -> None:
        """Nothing more is ever durable here, and the owner is told."""
        if self._failed is None:
            self._failed = error if error is not None else SyncFailed("a test said so")
            self.on_failed(self._failed)

    def crash(self, *, keep: int = 0) -> MemoryLogStore:
        """What a restart finds: all that was synced, and the ``keep`` batches after it, which happened to reach the disk."""
        through = self.synced_sequence + keep
        return MemoryLogStore(
            store_id=self.store_id,
            auto=self.auto,
            jobs=self._jobs,
            budget_bytes=self.budget_bytes,
            capacity_bytes=self.capacity_bytes,
            reserve_bytes=self.reserve_bytes,
            boot_count=self.boot_count + 1,
            batches={
                sequence: batch for sequence, batch in self._batches.items() if sequence <= through
            },
        )

    def damage(self, sequence: int, offset: int, flip: int = 1) -> None:
        """Flip bits of one byte of a batch."""
        batch = bytearray(self._batches[sequence])
        batch[offset] ^= flip
        self._batches[sequence] = bytes(batch)

    @property
    def batches(self) -> Mapping[int, bytes]:
        """What is there, by sequence."""
        return self._batches

    # -- inside -------------------------------------------------------------------------------------------------------

    def _later(self, call: Callable[[], None]) -> None:
        if self._jobs is None:
            call()
        else:
            self._jobs.submit(_nothing, lambda _, error: call())

    def _sync_by_itself(self) -> None:
        self._syncing = False
        self.sync()

    def _read(self, piece: Piece) -> bytes:
        return copy_run(
            self._batches[piece.place],
            piece.offset,
            piece.bytes,
            piece.group,
            piece.first,
            piece.entries,
        )

    def _drop_dead(self) -> None:
        first = figures(self._index).first_sequence
        through, count = window(self._index, max(self.synced_sequence - 1, 0), 2**31, 0.0, 0)
        if count:
            dropped(self._index, through, ())
            for sequence in range(first, through + 1):
                del self._batches[sequence]


def _ignore(_: object) -> None:
    """Nobody wants to know yet."""


def _nothing() -> None:
    """A job that does nothing: what follows it runs on the loop."""
