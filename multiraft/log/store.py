"""The durable Raft log of all groups of a node, in one LMDB environment with one writer.

``append`` puts a sealed batch into a queue; the log worker writes all that is queued in one transaction with one sync, deletes and
copies what compaction planned in the same transaction, and tells the loop. Nothing here decides about Raft.

Who owns what: the index, the plans and the figures belong to the loop; a transaction belongs to the log worker; what waits to be
written passes from one to the other through a queue, and a batch stays readable from memory until it is on the disk.

Invariants: batches reach the disk in the order of their sequences, none is dropped; ``on_synced`` is called only for what
a successful commit made durable; after the first error of a commit nothing is ever acknowledged again by this process
(pitfall 11); a full map is no such error: it is grown between two transactions and the same batches are written again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multiraft.disk import RealDisk
from multiraft.errors import Closed, InvariantViolation, LogCorrupt, StorageError, SyncFailed
from multiraft.histogram import Histogram
from multiraft.ids import GroupId, NodeId, StoreId, random_id
from multiraft.interfaces import Disk, GroupLog, Jobs, LogSpace, Pinned
from multiraft.log.compaction import Copied, Plan, account, copy_live, make_plan
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import Change, DiskFull, LogEnvironment, MapFull, Room
from multiraft.log.index import LogIndex
from multiraft.log.loading import Opened, found_groups, open_store, pinned_of, wall_ms
from multiraft.log.lookup import log_bytes, pinning_groups
from multiraft.log.reads import Fetched, Reads, Request
from multiraft.log.schema import SUPERBLOCK_FILE, LogSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """What one job of the log worker did."""

    sequence: int
    """The newest batch that is durable now; 0 where none was added."""
    room: Room
    copied: Copied | None = None
    """What was done of the plan; None: nothing."""
    map_full: bool = False
    """Nothing was written: the map must grow."""
    disk_full: bool = False
    """Nothing was written: there is no room on the disk."""
    damage: LogCorrupt | None = None
    """Compaction met damage and left everything as it was."""
    commit_ns: int = 0
    """How long the transaction took, its sync included; 0: there was none."""


class LmdbLogStore:
    """See ``interfaces.LogStore``. Owns both workers from here on: ``close`` closes them.

    ``writer`` and ``reader`` must be two, each with a thread of its own (or none at all, in tests). ``identity`` draws the
    id of a store that is new.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        writer: Jobs,
        reader: Jobs,
        settings: LogSettings | None = None,
        disk: Disk | None = None,
        identity: Callable[[], int] = random_id,
        wall_ms: Callable[[], int] = wall_ms,
    ):
        self.settings = settings if settings is not None else LogSettings()
        self.on_synced: Callable[[int], None] = _ignore
        self.on_failed: Callable[[StorageError], None] = _complain
        self.sync_ns = Histogram()
        self._writer = writer
        self._reader = reader
        self._disk: Disk = disk if disk is not None else RealDisk()
        self._directory = LogDirectory(self._disk, Path(directory))
        opened = self._open(identity, wall_ms)
        self.store_id: StoreId = opened.store_id
        self.boot_count: int = opened.boot_count
        self.synced_sequence: int = opened.index.last_sequence
        self._environment: LogEnvironment = opened.environment
        self._index: LogIndex = opened.index
        self._found: list[GroupLog] | None = opened.groups
        self._room: Room = opened.room
        self._queue: deque[tuple[int, bytes]] = deque()
        self._taken: list[tuple[int, bytes]] = []  # the log worker's: written next, or again
        self._unsynced: dict[int, bytes] = {}
        self._asked = False  # a job was submitted that has not looked into the queue yet
        self._writes = 0  # jobs whose news has not arrived
        self._planned = False  # one of those jobs has a plan: what it moves is not in the index yet
        self._broken = False  # the log worker's own knowledge of a failure
        self._stuck = False  # the disk is full, and batches wait for room
        self._closed = False
        self._alone = False  # no read can run any more: the worker may grow the map by itself
        self._failed: StorageError | None = None
        self.damage: LogCorrupt | None = None
        """What compaction met; it copies nothing more since. Reading the same entries raises too."""
        self._reads = Reads(
            self._environment,
            self._index,
            reader,
            self._unsynced,
            writing=lambda: self._writes > 0,
            quiet=self._reads_are_quiet,
        )

    def _open(self, identity: Callable[[], int], wall_ms: Callable[[], int]) -> Opened:
        try:
            return open_store(self._directory, self.settings, identity, wall_ms)
        except BaseException:
            self._directory.close()
            raise

    # -- what was found -----------------------------------------------------------------------------------------------

    def groups(self) -> Iterator[GroupLog]:
        """See ``interfaces.LogStore``. Before the first append this is what open found; later the present state."""
        found, self._found = self._found, None
        return iter(
            found
            if found is not None
            else found_groups(self._environment, self._index, self._unsynced)
        )

    def pinned(self) -> Mapping[NodeId, Pinned]:
        return pinned_of(self._index)

    # -- writing: on the loop -----------------------------------------------------------------------------------------

    def append(self, batch: bytes) -> None:
        """See ``interfaces.LogStore``. Raises InvariantViolation for a batch that contradicts the log, before it is written."""
        if self._failed is not None:
            raise SyncFailed("the log failed before; nothing more is written") from self._failed
        if self._closed:
            raise Closed("the log store is closed")
        sequence = self._index.last_sequence + 1
        try:
            self._index.append(sequence, batch)
        except InvariantViolation as error:
            self._failed = SyncFailed(
                f"batch {sequence} was refused, so no later one can follow: {error}"
            )
            raise
        self._found = None
        self._unsynced[sequence] = batch
        self._queue.append((sequence, batch))
        if not self._stuck:
            self._ask()

    def _ask(self) -> None:
        """See to it that a job will look into the queue."""
        if self._asked or self._failed is not None or self._reads.paused:
            return
        self._asked = True
        self._writes += 1
        plan = None
        if not self._planned and self.damage is None:
            plan = make_plan(self._index, self.synced_sequence, self.settings)
            self._planned = plan is not None
        self._writer.submit(
            lambda: self._write(plan), lambda written, error: self._written(plan, written, error)
        )

    def _written(
        self, plan: Plan | None, written: Written | None, error: BaseException | None
    ) -> None:
        """The news of one job."""
        self._writes -= 1
        if plan is not None:
            self._planned = False
        if written is None:
            self._fail(error)
            return
        self._room = written.room
        if written.commit_ns:
            self.sync_ns.record(written.commit_ns)
        self._stuck = written.disk_full
        if written.map_full:
            self._reads.paused = True
            if self._reads.in_flight == 0:
                self._reads_are_quiet()
            return
        if written.damage is not None:
            logger.error("the log is damaged, found by compaction: %s", written.damage)
            self.damage = written.damage
        if plan is not None and written.copied is not None:
            account(self._index, plan, written.copied)
        advanced = written.sequence > self.synced_sequence
        for sequence in range(self.synced_sequence + 1, written.sequence + 1):
            del self._unsynced[sequence]
        self.synced_sequence = max(self.synced_sequence, written.sequence)
        if not self._closed:
            if self._queue and not self._stuck:
                self._ask()
            self._reads.resume()  # what compaction moved can be found again
        if advanced and self._failed is None:
            self.on_synced(self.synced_sequence)

    def _reads_are_quiet(self) -> None:
        """No read is under way: the map may grow, if it must."""
        if not self._reads.paused or self._closed or self._failed is not None:
            return
        self._writes += 1
        self._writer.submit(self._grow, self._grown)

    def _grown(self, written: Written | None, error: BaseException | None) -> None:
        self._reads.paused = False
        self._written(None, written, error)

    def _fail(self, error: BaseException | None) -> None:
        if self._failed is not None:
            return
        if isinstance(error, StorageError):
            self._failed = error
        else:
            self._failed = SyncFailed(
                f"the log could not be written: {error!r}; nothing after it is durable"
            )
            self._failed.__cause__ = error
        self._reads.paused = False
        self._reads.resume()
        self.on_failed(self._failed)

    # -- writing: on the log worker -----------------------------------------------------------------------------------

    def _write(self, plan: Plan | None) -> Written:
        self._asked = False  # before the queue is emptied: what comes after asks anew
        if self._broken:
            raise SyncFailed("the log failed before; nothing more is written")
        while self._queue:
            self._taken.append(self._queue.popleft())
        try:
            return self._write_taken(plan)
        except BaseException:
            self._broken = (
                True  # a job that waits behind this one must not try what has failed again
            )
            raise

    def _write_taken(self, plan: Plan | None) -> Written:
        copied, damage = Copied(), None
        if plan is not None:
            try:
                copied = copy_live(self._environment, plan, self.store_id)
            except LogCorrupt as error:
                plan, damage = None, error
        change = Change(batches=self._taken)
        if plan is not None:
            change = Change(self._taken, copied.batches, plan.delete, plan.delete_rewritten)
        commit_ns = 0
        try:
            if change:
                commit_ns = self._commit(change)
        except MapFull:
            return Written(0, self._room, map_full=True)
        except DiskFull:
            return Written(0, self._environment.room(), disk_full=True)
        sequence = self._taken[-1][0] if self._taken else 0
        self._taken = []
        return Written(
            sequence,
            self._environment.room(),
            copied if plan is not None else None,
            damage=damage,
            commit_ns=commit_ns,
        )

    def _commit(self, change: Change) -> int:
        """Make it durable; how long that took."""
        self._environment.make_room(change, self.settings)
        while True:
            started_ns = time.monotonic_ns()
            try:
                self._environment.write(change)
                return time.monotonic_ns() - started_ns
            except MapFull:
                if not self._alone:
                    raise
                self._environment.grow()

    def _grow(self) -> Written:
        self._environment.grow()
        return self._write(None)

    # -- reading ------------------------------------------------------------------------------------------------------

    def fetch(self, group: GroupId, first: int, bytes_max: int, done: Fetched) -> None:
        """See ``interfaces.LogStore``. An empty list where there is nothing from ``first`` on: compacted, or not written yet.

        A run that damage has reached gives LogCorrupt, which names the group and the entries.
        """
        self._reads.fetch(Request(group, first, bytes_max, done))

    # -- room ---------------------------------------------------------------------------------------------------------

    def pinning(self, bytes_over: int) -> Sequence[GroupId]:
        """See ``interfaces.LogStore``; 0 asks for as much as the log is over its budget. Looks at every group when over."""
        over = log_bytes(self._index) - self.settings.budget_bytes
        if over <= 0:
            return ()
        return [GroupId(group) for group in pinning_groups(self._index, bytes_over or over)]

    @property
    def queue_bytes(self) -> int:
        """See ``interfaces.LogStore``."""
        return sum(map(len, self._unsynced.values()))

    def space(self) -> LogSpace:
        """See ``interfaces.LogStore``. Where room was scarce, this also has somebody look whether it still is."""
        room = self._room
        space = LogSpace(
            room.used_bytes, room.free_bytes, self.settings.reserve_bytes, room.map_bytes
        )
        if (space.scarce or self._stuck) and self._writes == 0 and not self._closed:
            self._ask()
        return space

    def compact_copy(
        self, target: str | Path, done: Callable[[BaseException | None], None]
    ) -> None:
        """Write a compacted copy of the log into ``target``, a directory that is new or empty, while service goes on.

        It has the same store id: it is to take this log's place, never to be opened beside it. It holds what is durable when
        it starts; pages that are freed meanwhile are not used again until it is done.
        """
        self._reads.run(lambda: self._copy(Path(target)), lambda _, error: done(error))

    def _copy(self, target: Path) -> list[bytes]:
        disk = self._directory.disk
        disk.make_directory(target)
        self._environment.copy(str(target))
        disk.sync_directory(target)
        disk.write(target / SUPERBLOCK_FILE, disk.read(self._directory.path / SUPERBLOCK_FILE))
        disk.sync_directory(target.parent)
        return []

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See ``interfaces.LogStore``. Blocks until what is queued is on the disk."""
        if self._closed:
            return
        self._closed = True
        self._reads.close()
        self._reader.close()
        self._alone = True
        if self._failed is None and (self._unsynced or self._queue):
            self._writes += 1
            self._writer.submit(
                lambda: self._write(None),
                lambda written, error: self._written(None, written, error),
            )
        self._writer.close()
        self._environment.close()
        self._directory.close()


def _ignore(sequence: int) -> None:
    """Nobody wants to know yet."""


def _complain(error: StorageError) -> None:
    logger.critical("the log failed and nobody listens: %s", error)
