"""The state store's LMDB environment: how it is opened and checked, read, written, grown, and how full it is.

Three databases: ``data`` (physical key -> record), ``shards`` (group -> ShardRecord) and ``meta`` (format, store id). One
worker writes; the loop and other workers read, each under a transaction of its own that it ends soon. What is written is
synced before a call returns. Any error of a commit but a full map is final: after it nothing more is written here.

Growing the map makes py-lmdb end every read transaction, with an error that has no class of its own. So growths are
counted: an error of a read that saw one is no failure of the disk, and the read is made again, or raises ``Moved``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import lmdb

from multiraft._core import crc32c
from multiraft.disk import DATA_FILE, RealDisk
from multiraft.doubt import forget_doubtful, note_failed_sync
from multiraft.errors import FormatUnsupported, StorageError, SyncFailed, WrongStore
from multiraft.interfaces import Disk
from multiraft.machine.pages import require_absent

FORMAT = 1
META_KEY = b"store"
MAP_BYTES_MIN = 1024 * 1024
MAP_BYTES = 64 * 1024**3
READERS_MAX = 1024
RETRIES_MAX = 3
MOVES_MAX = 100

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

_META = struct.Struct("<IIQ")


class Moved(Exception):
    """The map was grown under a read, again and again: ask once more a little later. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class StateSpace:
    """How full the state store is. Below ``reserve_bytes`` of free space proposals are refused."""

    used_bytes: int
    """Pages in use. The file never shrinks; pages that became free are used again."""
    free_bytes: int
    """What may still be written: free pages of the file, and free blocks of the disk."""
    reserve_bytes: int
    map_bytes: int
    file_bytes: int

    @property
    def scarce(self) -> bool:
        return self.free_bytes < self.reserve_bytes


class Tree:
    """The environment of one node's state store."""

    def __init__(
        self,
        directory: str | Path,
        *,
        store_id: int = 0,
        map_bytes: int = MAP_BYTES,
        reserve_bytes: int = 0,
        relaxed: bool = False,
        disk: Disk | None = None,
    ):
        self.disk: Disk = disk if disk is not None else RealDisk()
        self.path = Path(directory)
        self.reserve_bytes = reserve_bytes
        self.failed: StorageError | None = None
        self.growths = 0
        """How often a growing of the map began or ended: odd while it is being grown."""
        self._inside: set[object] = set()
        """Read transactions of tasks on workers; a set, since threads add and take away at the same time."""
        self.file = self.path / DATA_FILE
        forget_doubtful(self.disk, self.path, (DATA_FILE,))
        self.disk.make_directory(self.path)
        self.env = self._open(max(map_bytes, MAP_BYTES_MIN), relaxed)
        try:
            self.page_bytes = self.env.stat()["psize"]
            self._require_whole()
            self.env.reader_check()
            self.data = self.env.open_db(b"data")
            self.shards = self.env.open_db(b"shards")
            self.meta = self.env.open_db(b"meta")
            self.store_id = self._identify(store_id)
            if not relaxed:
                # At every start: who made the file may have been killed before its name was synced.
                self.disk.sync_directory(self.path)
            self.space = self.measure()
        except BaseException as error:
            self.env.close()
            if isinstance(error, lmdb.Error):
                message = f"the state store at {self.path} cannot be read: {error}"
                raise StorageError(message) from error
            raise

    def _open(self, map_bytes: int, relaxed: bool) -> lmdb.Environment:
        try:
            environment: lmdb.Environment = self.disk.environment(
                self.path,
                map_size=max(map_bytes, self.file_bytes()),
                max_dbs=3,
                max_readers=READERS_MAX,
                max_spare_txns=4,
                sync=not relaxed,
                metasync=not relaxed,
                writemap=False,
            )
        except lmdb.Error as error:
            raise StorageError(
                f"the state store at {self.path} cannot be opened: {error}"
            ) from error
        return environment

    def _require_whole(self) -> None:
        """A page behind the end of the file would end the process when it is read, so that has to be known before."""
        needed = (self.env.info()["last_pgno"] + 1) * self.page_bytes
        size = self.file_bytes()
        if size < needed:
            raise StorageError(f"{self.file} is cut short: {size} bytes of at least {needed}")

    def _identify(self, expected: int) -> int:
        """The store id: written when the environment is made, compared ever after."""
        with self.env.begin() as transaction:
            found = transaction.get(META_KEY, db=self.meta)
            empty = transaction.stat(self.data)["entries"] == 0
        if found is None:
            if not empty:
                raise StorageError(f"{self.path} holds data of no known store")
            with self.writing() as transaction:
                body = _META.pack(0, FORMAT, expected)[4:]
                crc = struct.pack("<I", crc32c(body))
                transaction.put(META_KEY, crc + body, db=self.meta)
            return expected
        if len(found) != _META.size:
            raise StorageError(f"the meta record of {self.path} is damaged")
        crc_stored, version, store_id = _META.unpack(found)
        if crc32c(found[4:]) != crc_stored:
            raise StorageError(f"the meta record of {self.path} is damaged: its checksum is wrong")
        if version != FORMAT:
            raise FormatUnsupported(
                f"{self.path} has format {version}; this version reads {FORMAT}"
            )
        if expected and store_id != expected:
            raise WrongStore(f"{self.path} belongs to store {store_id:#x}, not {expected:#x}")
        return int(store_id)

    # -- reading --------------------------------------------------------------------------------------------------------

    def lost(self, error: lmdb.Error, growths: int) -> Exception:
        """What a failed read means that began at ``growths``: the map moved under it, or the disk is broken."""
        if growths % 2 or growths != self.growths:
            return Moved(str(error))
        return self.fail(StorageError(f"reading {self.file} failed: {error}"))

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One read transaction for a task on a worker. Raises ``Moved`` where the map was grown meanwhile."""
        growths = self.growths
        mark = object()
        self._inside.add(mark)
        try:
            with self.env.begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self.lost(error, growths) from error
        finally:
            self._inside.discard(mark)

    def read(self, job: Callable[[Transaction], Any]) -> Any:
        """Run ``job`` in a read transaction on a worker; the same again where the map was grown under it."""
        for attempt in range(MOVES_MAX):
            try:
                with self.reading() as transaction:
                    return job(transaction)
            except Moved:
                time.sleep(0.001 * attempt)
        raise Moved("the map keeps growing")

    def breathe(self) -> None:
        """Let another thread have the interpreter, between two pieces of work that hold it."""
        time.sleep(0)

    # -- writing --------------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One write transaction, synced when the block ends, gone when it raises.

        A full map raises ``lmdb.MapFullError`` with nothing done: ``write`` grows it and tries again.
        """
        if self.failed is not None:
            raise self.failed
        try:
            with self.env.begin(write=True) as transaction:
                yield transaction
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            note_failed_sync(self.disk, self.path)
            raise self.fail(SyncFailed(f"writing {self.file} failed: {error}")) from error

    def write(self, job: Callable[[Transaction], Any]) -> Any:
        """Run ``job`` in a write transaction; the same again in a larger map where it was full."""
        while True:
            try:
                with self.writing() as transaction:
                    result = job(transaction)
            except lmdb.MapFullError:
                self.grow()
            else:
                self.space = self.measure()
                return result

    def grow(self) -> None:
        """Double the map. Ends every read transaction of this process; no data moves."""
        wanted = self.env.info()["map_size"] * 2
        self.growths += 1
        try:
            self.env.set_mapsize(wanted)
        except lmdb.Error as error:
            message = f"the map of {self.file} cannot grow to {wanted} bytes: {error}"
            raise self.fail(StorageError(message)) from error
        finally:
            self.growths += 1

    def fail(self, error: StorageError) -> StorageError:
        """The first failure, remembered: nothing is written after it."""
        if self.failed is None:
            self.failed = error
        return self.failed

    # -- space ----------------------------------------------------------------------------------------------------------

    def file_bytes(self) -> int:
        """The size of the data file; 0 where there is none."""
        return self.disk.size(self.file) or 0

    def measure(self) -> StateSpace:
        """How full it is, asked anew: a few system calls."""
        info = self.env.info()
        size = self.file_bytes()
        used = self.used_pages() * self.page_bytes
        free = max(0, size - used) + self.disk.free_bytes(self.path)
        return StateSpace(used, free, self.reserve_bytes, info["map_size"], size)

    def look(self) -> None:
        """Take the figures of ``space`` anew."""
        try:
            self.space = self.measure()
        except Moved:
            return  # the map is being grown; whoever grows it measures when it has written

    def used_pages(self) -> int:
        """Pages of all databases, and the two that LMDB keeps for itself."""
        with self.reading() as transaction:
            return 2 + sum(
                pages_of(transaction, database) for database in (self.data, self.shards, self.meta)
            )

    def make_room(self, more_bytes: int) -> bool:
        """Have blocks of the disk for that much behind the last page in use. False where the disk has no room for it.

        On a full disk LMDB reports a failed commit as an I/O error, which cannot be told from a broken disk.
        """
        wanted = (self.env.info()["last_pgno"] + 1) * self.page_bytes + more_bytes
        size = self.file_bytes()
        if size >= wanted:
            return True
        if self.disk.free_bytes(self.path) < wanted - size:
            return False
        file = self.disk.open(self.file, "r+")
        try:
            file.allocate(wanted)
        except OSError:
            return False
        finally:
            file.close()
        return True

    def close(self) -> None:
        """Release the environment. Raises StorageError, and leaves it open, where a read has not come back from it: to take it
        from under a thread would end the process."""
        if self._inside:
            raise StorageError(
                f"a read of {self.file} hangs: it stays open until this process ends, which alone can open it again"
            )
        self.env.close()


def pages_of(transaction: Transaction, database: Any) -> int:
    stat = transaction.stat(database)
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]


class Reader:
    """One read transaction held by the loop through a turn, so that a read costs a search and nothing else."""

    def __init__(self, tree: Tree):
        self._tree = tree
        self._data = tree.data
        self._transaction: Transaction | None = None
        self._growths = 0

    def get(self, key: bytes) -> bytes | None:
        """The record of a key, unchecked; None where it is certain that there is none. Raises ``Moved``."""
        for _ in range(RETRIES_MAX):
            try:
                transaction = self._transaction
                if transaction is None:
                    transaction = self._begin()
                record = transaction.get(key, None, self._data)
                if record is None:
                    require_absent(transaction.cursor(self._data), key)
            except lmdb.Error as error:
                self._lost(error)
            else:
                return record
        raise Moved("the map keeps growing")

    def page(self, walk: Callable[[lmdb.Cursor[bytes]], T]) -> T:
        """What ``walk`` makes of a cursor over the data; it is called again where the map was grown. Raises ``Moved``."""
        for _ in range(RETRIES_MAX):
            try:
                transaction = self._transaction
                if transaction is None:
                    transaction = self._begin()
                return walk(transaction.cursor(self._data))
            except lmdb.Error as error:
                self._lost(error)
        raise Moved("the map keeps growing")

    def reset(self) -> None:
        """End the transaction: what was committed meanwhile is seen by the next read."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()

    def _begin(self) -> Transaction:
        self._growths = self._tree.growths
        self._transaction = self._tree.env.begin()
        return self._transaction

    def _lost(self, error: lmdb.Error) -> None:
        """Forget a transaction that failed. Returns where asking again makes sense."""
        self._transaction = None
        reason = self._tree.lost(error, self._growths)
        if not isinstance(reason, Moved):
            raise reason from error
