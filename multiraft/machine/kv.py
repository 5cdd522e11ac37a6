"""The built-in ordered key-value store: all shards of one node, in memory and in one LMDB environment of their own.

Everything here is called on the loop and returns at once; what may block runs on the workers that it was given, and reports
back on the loop. The log is the truth and this lags behind it: what is not flushed is replayed from each shard's applied
index. The caller owes: entries in order, each once; before ``flush``, that the log has synced a commit index at or past
what ``freeze`` returned; at the end of a turn, ``end_turn``. After the first failed write nothing is written any more.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multiraft._core import CommittedRuns
from multiraft.errors import InvariantViolation, MultiRaftError, StorageError
from multiraft.interfaces import Disk, Jobs, SnapshotRecord
from multiraft.machine.descriptors import Ranges, ShardDescriptor, ShardRecord, decode_record
from multiraft.machine.flush import drop_shard, flush_memtable, write_records
from multiraft.machine.options import StoreOptions
from multiraft.machine.pages import open_record, require_absent
from multiraft.machine.scans import (
    PAGE_BYTES_MAX,
    ScanPage,
    Scans,
    StateHash,
    accepted_flushes,
    fits,
)
from multiraft.machine.shards import COLD, ApplyStop, Cold, Shard, ShardTable
from multiraft.machine.slots import SlotScans
from multiraft.machine.transfers import Transfers
from multiraft.machine.tree import Reader, StateSpace, Transaction, Tree

Done = Callable[[Any, BaseException | None], None]
Value = tuple[int, bytes]


class KeyValueStore:
    """All shards of one node. Made by ``open``."""

    def __init__(
        self,
        tree: Tree,
        options: StoreOptions,
        flush_jobs: Jobs,
        reader_jobs: Jobs,
        snapshot_jobs: Jobs,
    ):
        self._tree = tree
        self._options = options
        self._flush_jobs = flush_jobs
        self._reader_jobs = reader_jobs
        self._reader = Reader(tree)
        self._unsaved: list[tuple[ShardRecord, Done]] = []
        self._saving = False
        self._stopped = False
        self._looking = False
        self._ranges: Ranges | None = None  # made when it is wanted
        self._failure_told = False
        self.on_failed: Callable[[StorageError], None] = lambda error: None
        """Called on the loop, once: nothing more will be written here."""
        self.table = ShardTable(
            self._reader,
            memtable_bytes_max=options.memtable_bytes_max,
            memtables_bytes_max=options.memtables_bytes_max,
            seed=secrets.randbits(64) if options.seed is None else options.seed,
        )
        self._scans = Scans(self.table, tree, self._reader, reader_jobs)
        self.slots = SlotScans(self.table, tree, self._reader, reader_jobs, self._reporting)
        """Pages of hashed spaces."""
        self._transfers = Transfers(
            self.table, tree, self._reader, writes=flush_jobs, files=snapshot_jobs
        )
        self._choose_cold()

    @classmethod
    def open(
        cls,
        directory: str | Path,
        options: StoreOptions,
        flush_jobs: Jobs,
        reader_jobs: Jobs,
        snapshot_jobs: Jobs | None = None,
        *,
        disk: Disk | None = None,
    ) -> KeyValueStore:
        """Open or make the store of a directory. Raises StorageError where what is there is not sound."""
        tree = Tree(
            directory,
            store_id=options.store_id,
            map_bytes=options.map_bytes,
            reserve_bytes=options.reserve_bytes,
            relaxed=options.relaxed,
            disk=disk,
        )
        try:
            store = cls(tree, options, flush_jobs, reader_jobs, snapshot_jobs or reader_jobs)
            with tree.reading() as transaction:
                for key, value in transaction.cursor(tree.shards):
                    store.table.add(decode_record(key, value))
        except BaseException:
            tree.close()
            raise
        return store

    def stop(self) -> None:
        """Hand nothing more to the workers: they are about to be closed. What is not saved is in the log."""
        self._stopped = True

    def close(self) -> None:
        """Release the environment. What is in memory only is replayed from the log. The workers are their owner's."""
        self._reader.reset()
        self._tree.close()

    @property
    def failed(self) -> StorageError | None:
        """The first failure of the disk; None while there was none."""
        return self._tree.failed

    @property
    def store_id(self) -> int:
        return self._tree.store_id

    def space(self) -> StateSpace:
        """How full it is, as of the last write or the last ``look_at_space``."""
        return self._tree.space

    def look_at_space(self) -> None:
        """Have the figures of ``space`` taken anew, soon: somebody else may fill or free the disk meanwhile."""
        if not self._looking and not self._stopped and self._tree.failed is None:
            self._looking = True
            self._flush_jobs.submit(self._tree.look, self._reporting(self._looked))

    def _looked(self, _: object, __: BaseException | None) -> None:
        self._looking = False

    # -- shards ---------------------------------------------------------------------------------------------------------

    def shards(self) -> list[ShardRecord]:
        """Every shard that is here as of its applied index, by group; right after open, what the disk held."""
        return [self.table.shards[group].record() for group in sorted(self.table.shards)]

    def shard(self, group: int) -> Shard:
        """One shard: its indexes, descriptor, memtables. Raises ShardMoved where it is not here."""
        return self.table.shard(group)

    def create(
        self,
        group: int,
        descriptor: ShardDescriptor,
        membership: bytes,
        *,
        index: int = 0,
        term: int = 0,
        done: Done | None = None,
    ) -> None:
        """Begin an empty shard, at ``index`` where its log begins later. ``done`` is called once it is durable."""
        shards = self.table.shards
        if self._ranges is None:
            self._ranges = Ranges((one.group, one.descriptor) for one in shards.values())
        if (other := self._ranges.overlapped(descriptor)) is not None:
            raise InvariantViolation(f"shard {group} would overlap shard {other}")
        record = ShardRecord(group, index, term, membership, descriptor)  # type: ignore[arg-type]
        self.table.add(record)
        self._ranges.add(group, descriptor)
        self._unsaved.append((record, done or nothing))
        self._save()

    def describe(self, group: int, descriptor: ShardDescriptor) -> None:
        """Take over another descriptor (a split, a merge); it is durable with the next flush."""
        self.table.shard(group).describe(descriptor)
        self._ranges = None

    def drop(self, group: int, done: Done | None = None, *, keep_data: bool = False) -> None:
        """Forget a shard, and its keys unless another shard has taken them over."""
        self.table.remove(group)
        self._ranges = None
        self._reader.reset()
        self._flush_jobs.submit(
            lambda: drop_shard(self._tree, group, keep_data), self._reporting(done or nothing)
        )

    def _save(self) -> None:
        """Write the records of shards that began, all that wait in one transaction."""
        if self._saving or self._stopped or not self._unsaved:
            return
        batch, self._unsaved = self._unsaved, []
        self._saving = True

        def saved(_: object, error: BaseException | None) -> None:
            self._saving = False
            for _, done in batch:
                done(None, error)
            self._save()

        records = [record for record, _ in batch]
        self._flush_jobs.submit(lambda: write_records(self._tree, records), self._reporting(saved))

    # -- apply ----------------------------------------------------------------------------------------------------------

    def apply(
        self, runs: CommittedRuns, entries_max: int, held: CommittedRuns | None = None
    ) -> int:
        """Apply up to so many committed entries; how many were. See ``ShardTable.apply`` for what stops it."""
        if self._tree.failed is not None:
            raise self._tree.failed
        return self.table.apply(runs, entries_max, held)

    def release(self) -> None:
        """What was held back may be applied again."""
        self.table.release()

    @property
    def stopped(self) -> ApplyStop:
        """Why the last ``apply`` came back."""
        return ApplyStop(self.table.stopped)

    @property
    def stopped_group(self) -> int | None:
        """Whose item it stopped at."""
        return self.table.stopped_group

    def alarms(self) -> Mapping[int, MultiRaftError]:
        """Shards that apply nothing more, and why. Kept up by the store: cheap enough for every turn."""
        return self.table.alarmed

    def full(self, group: int) -> bool:
        """Whether a leader should refuse proposals (Overloaded), since their apply would have to wait for the disk."""
        return self.table.full(group)

    def membership_applied(self, group: int, index: int, term: int, membership: bytes) -> None:
        """The turn has handled the membership entry at ``index``; this is the membership from there on, encoded."""
        self.table.membership_applied(group, index, term, membership)

    # -- flush ----------------------------------------------------------------------------------------------------------

    def due(self, now_ns: int) -> list[int]:
        """The shards to freeze and flush now, the largest first."""
        return self.table.due(now_ns, self._options.memtable_age_ns)

    def request_flush(self, groups: Sequence[int]) -> None:
        """Flush these soon, though they are neither full nor old: the log wants to shrink."""
        for group in groups:
            shard = self.table.shards.get(group)
            if shard is not None:
                shard.wanted = True

    def freeze(self, group: int) -> int:
        """Set a shard's memtable aside for a flush; the applied index that the flush will make durable."""
        return self.table.freeze(group)

    def flush(self, group: int, done: Done | None = None) -> None:
        """Write what ``freeze`` set aside; then ``done(applied index, error)``.

        The index is None where the flush was void, because the shard was replaced or dropped meanwhile. NoSpace: nothing
        happened, and the flush may be asked for again.
        """
        report = self._reporting(done or nothing)
        shard = self.table.shard(group)
        memtable, record = shard.frozen, shard.frozen_record
        if memtable is None or record is None:
            report(shard.flushed_index, None)
            return
        if shard.flushing:
            raise InvariantViolation(f"shard {group} is being flushed already")
        shard.flushing = True
        generation = shard.generation

        def finished(written: bool | None, error: BaseException | None) -> None:
            if written and self.table.flushed(group, generation):
                # The tree knows now what memory is about to forget: reads must see it.
                self._reader.reset()
                self._choose_cold()
                report(record.applied_index, None)
                return
            if shard.generation == generation:
                shard.flushing = False
            report(None, error)

        self._flush_jobs.submit(
            lambda: flush_memtable(
                self._tree, memtable, record, lambda: shard.generation == generation
            ),
            finished,
        )

    def _reporting(self, done: Done) -> Done:
        """``done``, which also tells of the first failure of the disk."""

        def report(result: Any, error: BaseException | None) -> None:
            if self._tree.failed is not None and not self._failure_told:
                self._failure_told = True
                self.on_failed(self._tree.failed)
            done(result, error)

        return report

    def _choose_cold(self) -> None:
        if self._options.cold_reads == "auto":
            warm = self._options.warm_bytes_max
            if warm is None:
                warm = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
            self.table.cold = self._tree.space.used_bytes > warm
        else:
            self.table.cold = self._options.cold_reads == "thread"

    # -- reads ----------------------------------------------------------------------------------------------------------

    def get(self, group: int, key: bytes) -> Value | Cold | None:
        """(revision, value) of a physical key, None where it is not there, COLD where ``read_cold`` has to be asked."""
        return self.table.get(group, key)

    def get_many(self, group: int, keys: Sequence[bytes]) -> list[Value | Cold | None]:
        """The same of several keys."""
        return self.table.get_many(group, keys)

    def read_cold(self, group: int, keys: Sequence[bytes], done: Done) -> None:
        """Read keys on the reader thread; then ``done([(revision, value) or None], error)``."""
        try:
            answers = [self.table.peek(group, key) for key in keys]
        except MultiRaftError as error:
            done(None, error)
            return
        missing = [at for at, answer in enumerate(answers) if answer is COLD]
        if not missing:
            done(answers, None)
            return

        wanted = [keys[at] for at in missing]
        accepted = accepted_flushes(self.table.shard(group))

        def finished(found: list[Value | None] | None, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
            elif found is None:
                self.read_cold(group, keys, done)
            else:
                for at, answer in zip(missing, found, strict=True):
                    answers[at] = answer
                done(answers, None)

        self._reader_jobs.submit(
            lambda: self._tree.read(
                lambda transaction: self._read(transaction, group, wanted, accepted)
            ),
            self._reporting(finished),
        )

    def _read(
        self,
        transaction: Transaction,
        group: int,
        keys: Sequence[bytes],
        accepted: tuple[int, ...],
    ) -> list[Value | None] | None:
        """On the reader thread: keys that memory knew nothing of when they were asked for. None: the tree moved on."""
        if not fits(self._tree, transaction, group, accepted):
            return None
        cursor = transaction.cursor(self._tree.data)
        found: list[Value | None] = []
        for key in keys:
            record = transaction.get(key, None, self._tree.data)
            if record is None:
                require_absent(cursor, key)
            found.append(None if record is None else open_record(key, record))
        return found

    def scan_page(
        self,
        group: int,
        start: bytes,
        end: bytes,
        limit: int,
        bytes_max: int = PAGE_BYTES_MAX,
        reverse: bool = False,
        *,
        on_loop: bool = False,
    ) -> ScanPage | Cold:
        """One page of [start, end), which must lie in the shard; an empty ``end`` means that there is none.

        Go on with ``page.resume`` as the next ``start`` - backwards, as the next ``end`` - until it is None. A page may hold
        fewer keys than asked for, even none, before the end. COLD: ask ``scan_cold``. With ``on_loop``,
        for what is small and always warm, that is not said for the sake of the disk, but may be for a moment.
        """
        stretch = self._scans.stretch(group, start, end, limit, bytes_max, reverse)
        return self._scans.page(stretch, on_loop)

    def scan_cold(
        self,
        group: int,
        start: bytes,
        end: bytes,
        limit: int,
        bytes_max: int = PAGE_BYTES_MAX,
        reverse: bool = False,
        *,
        done: Done,
    ) -> None:
        """The same page by way of the reader thread; then ``done(page, error)``."""
        stretch = self._scans.stretch(group, start, end, limit, bytes_max, reverse)
        self._scans.page_cold(stretch, self._reporting(done))

    def state_hash(self, group: int, before: StateHash | None = None) -> StateHash:
        """Go on by one page with a checksum over a shard; complete once its ``resume`` is None."""
        return self._scans.hash_some(group, before)

    def end_turn(self) -> None:
        """End the read transaction that the turn's reads shared: none outlives a turn."""
        self._reader.reset()

    # -- snapshots ------------------------------------------------------------------------------------------------------

    def snapshot(self, group: int, path: str | Path, done: Done) -> None:
        """Write a snapshot of a shard to a file; then ``done(SnapshotInfo, error)``. See ``Transfers.write``."""
        self._transfers.write(group, path, self._reporting(done))

    def install(self, group: int, path: str | Path, record: SnapshotRecord, done: Done) -> None:
        """Replace a shard by a received snapshot; then ``done(installed, error)``. See ``Transfers.install``."""
        self._ranges = None
        self._transfers.install(group, path, record, self._reporting(done))


def nothing(_: object, __: BaseException | None) -> None:
    """For callers who do not ask how it went; failures of the disk are told by ``on_failed``."""
