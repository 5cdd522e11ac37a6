"""Snapshots of shards, out and in: written by a snapshot worker, installed in one transaction of the state worker.

Out: what one read transaction and the frozen memtable show, at the newest index that both agree on. In: checked whole, then
range, applied index and membership are replaced together, and memory forgets what it knew; until that moment the old state
is whole and readable, and a file that is not sound changes nothing. The log's records about it are the turn's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from multiraft.errors import Overloaded, ShardMoved
from multiraft.interfaces import Jobs, SnapshotRecord
from multiraft.machine.chunks import pack_chunk
from multiraft.machine.descriptors import ShardRecord
from multiraft.machine.flush import read_record, replace_shard
from multiraft.machine.memtable import Memtable
from multiraft.machine.scans import frozen_chunks
from multiraft.machine.shards import ShardTable
from multiraft.machine.snapshot import (
    Kind,
    SnapshotInfo,
    check_snapshot,
    read_entries,
    require_match,
    write_snapshot,
)
from multiraft.machine.tree import Reader, Transaction, Tree

CHUNK_RECORDS = 1024
CHUNK_BYTES = 256 * 1024

Done = Callable[[Any, BaseException | None], None]


class Transfers:
    """Writes and installs snapshots of the built-in store. Runs on the loop; files and transactions are left to workers."""

    def __init__(self, table: ShardTable, tree: Tree, reader: Reader, *, writes: Jobs, files: Jobs):
        self._table = table
        self._tree = tree
        self._reader = reader
        self._writes = writes
        self._files = files

    # -- out ------------------------------------------------------------------------------------------------------------

    def write(self, group: int, path: str | Path, done: Done) -> None:
        """Write a snapshot of a shard to ``path``; then ``done(SnapshotInfo, error)``.

        It shows the shard as of a freeze made now, or of the one before that is not flushed yet: ask the info for its index.
        """
        self._table.freeze(group)
        shard = self._table.shard(group)
        frozen, frozen_record = shard.frozen, shard.frozen_record
        self._files.submit(
            lambda: self._tree.read(
                lambda transaction: self._write(
                    transaction, group, Path(path), frozen, frozen_record
                )
            ),
            done,
        )

    def _write(
        self,
        transaction: Transaction,
        group: int,
        path: Path,
        frozen: Memtable | None,
        frozen_record: ShardRecord | None,
    ) -> SnapshotInfo:
        """On a worker: what the transaction shows, under the frozen memtable unless that is in it already."""
        state = read_record(self._tree, transaction, group)
        if state is None:
            raise ShardMoved(f"shard {group} is not on this node")
        if frozen_record is None or state.flushes >= frozen_record.flushes:
            frozen = None
        else:
            state = frozen_record
        start, end = state.descriptor.start, state.descriptor.end

        def chunks() -> Iterator[tuple[bytes, int]]:
            for entries in frozen_chunks(
                self._tree, transaction, start, end, frozen, CHUNK_RECORDS, CHUNK_BYTES
            ):
                yield pack_chunk(entries), len(entries)

        return write_snapshot(self._tree.disk, path, Kind.KEYS, state, chunks())

    # -- in -------------------------------------------------------------------------------------------------------------

    def install(self, group: int, path: str | Path, record: SnapshotRecord, done: Done) -> None:
        """Replace a shard by a snapshot; then ``done(installed, error)``.

        False: it is not newer than what is applied here, and was ignored. An error: nothing has changed.
        """
        shard = self._table.shard(group)
        if record.base.index <= shard.applied_index:
            done(False, None)
            return
        if shard.installing:
            done(None, Overloaded(f"shard {group} is installing a snapshot already"))
            return
        shard.installing = True

        def checked(info: SnapshotInfo | None, error: BaseException | None) -> None:
            if info is None:
                self._ended(group, done, None, error)
            else:
                self._install(group, Path(path), info, done)

        self._files.submit(lambda: self._check(group, Path(path), record), checked)

    def _check(self, group: int, path: Path, record: SnapshotRecord) -> SnapshotInfo:
        info = check_snapshot(self._tree.disk, path)
        require_match(info, group, record)
        return info

    def _install(self, group: int, path: Path, info: SnapshotInfo, done: Done) -> None:
        shard = self._table.shards.get(group)
        if shard is None:
            done(None, ShardMoved(f"shard {group} is not on this node"))
            return
        for other in self._table.shards.values():
            if other.group != group and other.descriptor.overlaps(info.descriptor):
                message = f"the snapshot of shard {group} overlaps shard {other.group}"
                self._ended(group, done, None, ShardMoved(message))
                return
        # Two more than now: over any flush that is queued, and over any state that a page may be laid over.
        state = info.record(flushes=shard.flushes + 2)
        shard.replacing = True

        def written(_: object, error: BaseException | None) -> None:
            if error is None and group in self._table.shards:
                self._table.replace(state)
                self._reader.reset()
            self._ended(group, done, None if error else True, error)

        self._writes.submit(
            lambda: replace_shard(
                self._tree, state, lambda: read_entries(self._tree.disk, path), info.size
            ),
            written,
        )

    def _ended(
        self, group: int, done: Done, installed: bool | None, error: BaseException | None
    ) -> None:
        shard = self._table.shards.get(group)
        if shard is not None:
            shard.installing = shard.replacing = False
        done(installed, error)
