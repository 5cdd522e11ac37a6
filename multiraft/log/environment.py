"""The log's LMDB environment behind a small face: one write transaction, short reads, growth, room.

It knows databases, keys and bytes, and nothing of runs or groups. ``write`` and ``grow`` are for the log worker alone;
``read`` is for the reader worker, and never while ``grow`` runs (growing unmaps what readers look at: the store sees to it).

Invariants: the environment is opened with ``sync`` and ``metasync`` unless the settings say *relaxed*, never with ``writemap``;
every put at the end of a database is checked to be one; a transaction either commits or leaves no trace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lmdb

from multiraft.disk import FULL
from multiraft.doubt import note_failed_sync
from multiraft.errors import (
    FormatUnsupported,
    InvariantViolation,
    LogCorrupt,
    NoSpace,
    StorageError,
    SyncFailed,
)
from multiraft.ids import StoreId
from multiraft.interfaces import DiskFile
from multiraft.log.directory import LogDirectory
from multiraft.log.schema import (
    BATCHES,
    BOOT_KEY,
    META,
    MIB,
    REWRITTEN,
    LogSettings,
    batch_key,
    pack_boot,
    unpack_boot,
)

logger = logging.getLogger(__name__)

_DATABASES = (BATCHES, REWRITTEN, META)


class MapFull(Exception):
    """The map must grow before this can be written. Nothing was."""


class DiskFull(Exception):
    """There is no room on the disk for this, and no attempt was made. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction does."""

    batches: Sequence[tuple[int, bytes]] = ()
    rewritten: Sequence[tuple[int, bytes]] = ()
    delete_batches: range = range(0)
    delete_rewritten: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.batches or self.rewritten or self.delete_batches or self.delete_rewritten)


@dataclass(frozen=True, slots=True)
class Room:
    """Where the bytes are, after some transaction."""

    used_bytes: int = 0
    """Pages in use."""
    reusable_bytes: int = 0
    """Pages in the file that were freed."""
    tail_bytes: int = 0
    """Allocated on the disk after the last page that was ever used."""
    disk_bytes: int = 0
    """Free on the disk besides."""
    map_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        """What can be written for certain. Freed pages count half: a batch needs adjacent ones, and not all are."""
        return self.reusable_bytes // 2 + self.tail_bytes + self.disk_bytes


LOST = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
    lmdb.NotFoundError,
)
"""What LMDB raises where its tree is not what it should be."""


def wrapped(error: lmdb.Error, doing: str) -> StorageError:
    """An error of LMDB in the words of our tree."""
    if isinstance(error, (lmdb.VersionMismatchError, lmdb.IncompatibleError)):
        return FormatUnsupported(f"{doing}: {error}")
    if isinstance(error, LOST):
        return LogCorrupt(f"{doing}: {error}")
    return StorageError(f"{doing}: {error}")


class LogEnvironment:
    """One open environment in a directory that the caller holds."""

    def __init__(
        self,
        directory: LogDirectory,
        settings: LogSettings,
        *,
        create: bool = True,
        readonly: bool = False,
    ):
        """``create=False`` where there must be databases: LMDB would make an empty one in the place of one that is lost."""
        self._settings = settings
        self._disk = directory.disk
        self._path = directory.data_path
        directory.check_data()
        if settings.durability == "relaxed":
            logger.warning(
                "the log in %s is NOT synced: a power cut may lose or damage all of it",
                directory.path,
            )
        self._file: DiskFile | None = None
        try:
            self._env = self._open(directory, readonly)
        except lmdb.Error as error:
            raise wrapped(error, f"the log in {directory.path} cannot be opened") from error
        try:
            self._prepare(create=create, readonly=readonly)
        except BaseException as error:
            self.close()
            if isinstance(error, lmdb.Error):
                raise wrapped(error, f"the log in {directory.path} cannot be opened") from error
            raise

    def _prepare(self, *, create: bool, readonly: bool) -> None:
        self.stale_readers = 0 if readonly else self._env.reader_check()
        self._databases = {name: self._env.open_db(name, create=create) for name in _DATABASES}
        self._file = None if readonly else self._disk.open(self._path, "r+")
        self._page_bytes = self._env.stat()["psize"]
        with self._env.begin() as transaction:
            self._count_pages(transaction)

    def _open(self, directory: LogDirectory, readonly: bool) -> lmdb.Environment:
        settings = self._settings
        size = self._disk.size(self._path) or 0
        environment: lmdb.Environment = self._disk.environment(
            directory.path,
            map_size=max(settings.map_bytes, size + MIB),
            subdir=True,
            readonly=readonly,
            lock=not readonly,
            create=not readonly,
            sync=settings.durability == "full",
            metasync=True,
            writemap=False,
            map_async=False,
            readahead=settings.readahead,
            max_readers=settings.readers_max,
            max_dbs=len(_DATABASES),
        )
        return environment

    # -- at open ------------------------------------------------------------------------------------------------------

    def boot(self) -> tuple[int, StoreId] | None:
        """(boot count, store id) of the last open, or None."""
        try:
            with self._env.begin() as transaction:
                data = transaction.get(BOOT_KEY, db=self._databases[META])
        except lmdb.Error as error:
            raise wrapped(error, f"the boot record of {self._path} cannot be read") from error
        return unpack_boot(data) if data is not None else None

    def set_boot(self, boot_count: int, store_id: StoreId) -> None:
        """Durable when it returns, and so is the name of the file."""
        for _ in range(64):
            try:
                self._put_boot(pack_boot(boot_count, store_id))
                break
            except lmdb.MapFullError:
                self.grow()
            except lmdb.DiskError as error:  # nothing was acknowledged yet, so nothing is lost
                raise NoSpace(f"the disk of {self._path} has no room to begin: {error}") from error
            except lmdb.Error as error:
                raise SyncFailed(f"the boot record could not be written: {error}") from error
        self._disk.sync_directory(self._path.parent)

    def _put_boot(self, data: bytes) -> None:
        transaction = self._env.begin(write=True)
        try:
            transaction.put(BOOT_KEY, data, db=self._databases[META])
            # On a full disk nothing refers to what may not have been written, and nothing ever will.
            self._commit(transaction, (lmdb.MapFullError, lmdb.DiskError))
        except BaseException:
            transaction.abort()
            raise

    def scan(self, database: bytes) -> Iterator[tuple[int, memoryview]]:
        """Every record in order. The view is valid until the next. Raises LogCorrupt where the tree itself is damaged."""
        handle = self._databases[database]
        try:
            with self._env.begin(db=handle, buffers=True) as transaction:
                expected = transaction.stat(handle)["entries"]
                seen = 0
                for key, value in transaction.cursor(handle):
                    if len(key) != 8:
                        raise LogCorrupt(
                            f"database {database.decode()} has a key of {len(key)} bytes"
                        )
                    seen += 1
                    yield int.from_bytes(key, "big"), value
        except lmdb.Error as error:
            raise wrapped(error, f"database {database.decode()} cannot be read") from error
        if seen != expected:
            raise LogCorrupt(
                f"database {database.decode()} should have {expected} batches, but {seen} are there"
            )

    # -- the log worker -----------------------------------------------------------------------------------------------

    def write(self, change: Change) -> None:
        """All of it, durably, or nothing: then MapFull, or an error that is final."""
        transaction = self._env.begin(write=True)
        try:
            for number, batch in change.batches:
                self._put_last(transaction, BATCHES, number, batch)
            for number, batch in change.rewritten:
                self._put_last(transaction, REWRITTEN, number, batch)
            for number in change.delete_batches:
                self._delete(transaction, BATCHES, number)
            for number in change.delete_rewritten:
                self._delete(transaction, REWRITTEN, number)
            self._count_pages(transaction)
            self._commit(transaction)
        except lmdb.MapFullError as error:
            transaction.abort()
            raise MapFull from error
        except BaseException:
            transaction.abort()
            raise

    def _put_last(
        self, transaction: lmdb.Transaction[bytes], database: bytes, number: int, batch: bytes
    ) -> None:
        if not transaction.put(batch_key(number), batch, append=True, db=self._databases[database]):
            raise LogCorrupt(
                f"batch {number} is not the last of database {database.decode()}: the tree is damaged"
            )

    def _delete(self, transaction: lmdb.Transaction[bytes], database: bytes, number: int) -> None:
        if not transaction.delete(batch_key(number), db=self._databases[database]):
            raise LogCorrupt(f"batch {number} of database {database.decode()} is gone")

    def commit(self, transaction: lmdb.Transaction[bytes]) -> None:
        """The one place where anything becomes durable."""
        transaction.commit()

    def _commit(
        self,
        transaction: lmdb.Transaction[bytes],
        harmless: tuple[type[lmdb.Error], ...] = (lmdb.MapFullError,),
    ) -> None:
        """Commit; leave a note of a failure that is not harmless."""
        try:
            self.commit(transaction)
        except harmless:
            raise
        except lmdb.Error:
            self._doubt()
            raise

    def _doubt(self) -> None:
        """What this machine has in memory of the data file may not be on the disk."""
        note_failed_sync(self._disk, self._path.parent)

    def grow(self) -> int:
        """Double the map. Nobody reads or writes meanwhile."""
        size = int(self._env.info()["map_size"]) * 2
        self._env.set_mapsize(size)
        logger.info("the log's map was full and has %d MiB now", size // MIB)
        return size

    def room(self) -> Room:
        """Figures as of the last transaction."""
        info = self._env.info()
        pages = info["last_pgno"] + 1
        return Room(
            used_bytes=self._pages_in_use * self._page_bytes,
            reusable_bytes=max(0, pages - self._pages_in_use) * self._page_bytes,
            tail_bytes=self._tail_bytes(),
            disk_bytes=self._disk.free_bytes(self._path),
            map_bytes=info["map_size"],
        )

    def _count_pages(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._pages_in_use = 2
        for stat in (transaction.stat(), *map(transaction.stat, self._databases.values())):
            self._pages_in_use += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]

    @property
    def _data(self) -> DiskFile:
        """The data file, beside what LMDB has of it."""
        if self._file is None:
            raise InvariantViolation("the log is not open for writing")
        return self._file

    def make_room(self, change: Change, settings: LogSettings) -> None:
        """Allocate what the change may take, and some more. Raises DiskFull where that much cannot be had."""
        sizes = [len(batch) for _, batch in (*change.batches, *change.rewritten)]
        needed = sum(size + 2 * self._page_bytes for size in sizes) + 64 * self._page_bytes
        ahead = self._ahead_bytes(settings)
        if self._tail_bytes() >= needed + ahead // 2:
            return
        self.allocate(needed + ahead)
        if self._tail_bytes() < needed and self.room().free_bytes < needed:
            raise DiskFull

    def _ahead_bytes(self, settings: LogSettings) -> int:
        """How much to allocate ahead: the reserve too, before somebody else fills the disk."""
        low = self._disk.free_bytes(self._path) < 4 * settings.reserve_bytes
        return settings.ahead_bytes + (settings.reserve_bytes if low else 0)

    def _tail_bytes(self) -> int:
        pages = self._env.info()["last_pgno"] + 1
        return max(0, self._data.allocated_bytes() - pages * self._page_bytes)

    def allocate(self, tail_bytes: int) -> None:
        """See to it that ``tail_bytes`` lie allocated after the last page; as many as there is room for."""
        used = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        size = self._data.size()
        while used + tail_bytes > size:
            try:
                self._data.allocate(used + tail_bytes)
                self._data.sync()
                return
            except OSError as error:
                if error.errno not in FULL:
                    self._doubt()
                    raise
            tail_bytes //= 2
            if used + tail_bytes < size + MIB:
                return

    # -- the reader worker --------------------------------------------------------------------------------------------

    def view(self) -> View:
        """A short read transaction, to be closed at once."""
        return View(self._env.begin(buffers=True), self._databases)

    def copy(self, path: str) -> None:
        """A compacted copy of what is there now, into an empty directory, synced."""
        self._env.copy(path, compact=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._env.close()


class View:
    """One read transaction. Nothing of it may be used after ``with``."""

    def __init__(
        self, transaction: lmdb.Transaction[memoryview], databases: dict[bytes, lmdb._Database]
    ):
        self._transaction = transaction
        self._databases = databases

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self._transaction.abort()

    def get(self, database: bytes, key: bytes) -> memoryview | None:
        return self._transaction.get(key, db=self._databases[database])
