"""A simulated LMDB environment: what the stores see of one, and what of it survives.

A ``DataFile`` is what lies on the disk: the state that is seen, the state that is certain, and the states between them that may be
there after a power cut - whole transactions, in order. An ``Environment`` is one opening of it, with LMDB's rules: one writer;
a reader sees what was committed when it began; freed pages are used again once nobody can see them; a full map spoils
the transaction; growing the map ends every read.

Not here: the bytes of pages (but for the two meta pages, which are drawn where they are read), sub-databases of
duplicates, nested transactions, a reader in another process. Pages are counted about as LMDB would, not exactly.
"""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import lmdb

from multiraft.testing.cursor import _CLOSED, MAIN, Database, Transaction
from multiraft.testing.faults import READ, SYNC, WRITE, failure, of_lmdb
from multiraft.testing.ordered import PAGE_BYTES, Draft, Root, any_item

if TYPE_CHECKING:
    from multiraft.testing.disk import SimulatedDisk

FULL_MAP = (
    "MDB_MAP_FULL: Environment mapsize limit reached "
    "(Please use a larger Environment(map_size=) parameter)"
)
_META = struct.Struct("<16xIIQQI44x48xQQ")
"""A meta page: magic, version, address, map size, size of a page, last page, transaction."""
_UNSYNCED_MAX = 64
"""Of transactions that nobody asked to sync, so many may be lost; older ones the system has written by itself."""
_FREED_MAX = 8


class Version(NamedTuple):
    """One committed state."""

    number: int = 0
    roots: dict[bytes, Root] = {MAIN: Root()}  # noqa: RUF012 - never changed
    last_page: int = 1
    free: int = 0
    """Pages that may be used again."""
    freed: tuple[tuple[int, int], ...] = ()
    """(transaction, pages) that were freed, and may still be seen by somebody."""
    pages: int = 0
    """How many the transaction wrote."""


class DataFile:
    """``data.mdb`` on a simulated disk."""

    def __init__(self) -> None:
        self.seen = Version()
        self.certain = Version()
        self.unsynced: list[Version] = []
        """What is perhaps on the disk beyond ``certain``, in order."""
        self.doubtful = False
        """A sync has failed: what the system still holds of it, no later one writes."""
        self.size = 2 * PAGE_BYTES
        self.map_bytes = 0
        self.cut = False
        """It was cut short from outside."""
        self.links = 0

    @property
    def blocks(self) -> int:
        return self.size

    def needed(self) -> int:
        return (self.seen.last_page + 1) * PAGE_BYTES

    def meta(self, offset: int, count: int) -> bytes:
        """Some of the two meta pages; of other pages nothing is there to be read."""
        pages = b""
        for at in (0, 1):
            number = self.seen.number - (self.seen.number + at) % 2
            head = _META.pack(
                0xBEEFC0DE, 1, 0, self.map_bytes, PAGE_BYTES, self.seen.last_page, max(0, number)
            )
            pages += head.ljust(PAGE_BYTES, b"\0")
        return pages[: self.size][offset : offset + count]

    def lose(self, generator: random.Random) -> None:
        """The power was cut: some of the unsynced transactions are there."""
        kept = generator.randint(0, len(self.unsynced))
        if kept:
            self.certain = self.unsynced[kept - 1]
        self.seen = self.certain
        self.unsynced = []
        self.doubtful = False
        if not self.cut:
            self.size = max(self.size, self.needed())

    def forget_cached(self, generator: random.Random) -> None:
        """What the system held is written, or is forgotten where a sync has failed: what is there is on the disk."""
        if self.doubtful:
            self.lose(generator)
        self.certain, self.unsynced = self.seen, []

    def damage(self, flipped: Callable[[bytes], bytes], generator: random.Random) -> bool:
        """Let some value be another, for good. No node may have it open. False: there is none."""
        seen = self.seen
        names = [name for name, root in seen.roots.items() if name != MAIN and root.node]
        if not names:
            return False
        name = generator.choice(names)
        key, value = any_item(seen.roots[name], generator)
        draft = Draft(seen.roots[name], -1, lambda pages: None, lambda pages, fresh: None)
        draft.put(key, flipped(value))
        self.seen = self.certain = seen._replace(roots={**seen.roots, name: draft.root()})
        return True

    def copied(self) -> DataFile:
        made = DataFile()
        made.seen = made.certain = self.seen
        made.size, made.map_bytes, made.cut = self.size, self.map_bytes, self.cut
        return made


class Environment:
    """See ``lmdb.Environment``. Made by ``SimulatedDisk.environment``."""

    def __init__(self, disk: SimulatedDisk, path: str, file: DataFile, settings: dict[str, Any]):
        self._disk = disk
        self._life = disk.life
        self._path = path
        self.file = file
        self._settings = settings
        self._sync = settings.get("sync", True)
        self._map_bytes = max(settings["map_size"], file.needed())
        file.map_bytes = self._map_bytes
        self._databases: dict[bytes, Database] = {}
        self._readers: list[Transaction] = []
        self._writer: Transaction | None = None
        self._closed = False
        self.spoilt: Transaction | None = None
        """A transaction that failed in the middle."""
        # Of the transaction that writes: free pages, the last page, what it freed and took, the oldest one that is still seen.
        self._free = self._last_page = self._freed_now = self._taken = self._oldest = 0

    @property
    def watched(self) -> bool:
        """Does anybody want reads to fail?"""
        return self._disk.troubles.watched or self._life != self._disk.life

    def read_value(self, value: bytes) -> bytes:
        self._require_open()
        try:
            flip = self._disk.troubles.step(READ, self._path, len(value))
        except OSError as error:
            raise lmdb.CorruptedError(
                "mdb_get: MDB_CORRUPTED: Located page was wrong type"
            ) from error
        return self._disk.troubles.flipped(value) if flip else value

    def _require_open(self) -> None:
        self._disk.require_life(self._life)
        if self._closed:
            raise lmdb.Error(_CLOSED)

    # -- the interface ------------------------------------------------------------------------------------------------

    def begin(
        self,
        db: Database | None = None,
        parent: None = None,
        write: bool = False,
        buffers: bool = False,
    ) -> Transaction:
        self._require_open()
        seen = self.file.seen
        if self.file.size < self.file.needed():
            raise AssertionError("to read a file that was cut short ends the process (SIGBUS)")
        if not write:
            reader = Transaction(self, db, seen.roots, seen.number, False, buffers)
            self._readers.append(reader)
            return reader
        if self._settings.get("readonly"):
            raise lmdb.ReadonlyError("mdb_txn_begin: Permission denied")
        if self._writer is not None:
            raise AssertionError("a second writer would wait for ever: there is one thread")
        self.spoilt = None
        made = self._writer = Transaction(self, db, seen.roots, seen.number + 1, True, buffers)
        self._free, self._last_page = seen.free, seen.last_page
        self._oldest = min((one.number for one in self._readers), default=seen.number)
        self._free += sum(pages for number, pages in seen.freed if number < self._oldest)
        self._freed_now = self._taken = 0
        return made

    def open_db(self, key: bytes | None = None, txn: None = None, create: bool = True) -> Database:
        self._require_open()
        if key is None:
            return Database(MAIN)
        known = self._databases.get(key)
        if known is not None:
            return known
        if key not in self.file.seen.roots:
            if not create or self._settings.get("readonly"):
                raise lmdb.NotFoundError(
                    "mdb_dbi_open: MDB_NOTFOUND: No matching key/data pair found"
                )
            if len(self._databases) >= self._settings.get("max_dbs", 0):
                raise lmdb.DbsFullError(
                    "mdb_dbi_open: MDB_DBS_FULL: Environment maxdbs limit reached"
                )
            with self.begin(write=True) as transaction:
                transaction.roots = {**transaction.roots, key: Root()}
                transaction.put(key, b"\0" * 48)
        made = self._databases[key] = Database(key)
        return made

    def stat(self) -> dict[str, int]:
        self._require_open()
        return self.stat_of(self.file.seen.roots[MAIN])

    def stat_of(self, root: Root) -> dict[str, int]:
        return {
            "psize": PAGE_BYTES,
            "depth": root.depth,
            "branch_pages": root.branch_pages,
            "leaf_pages": root.leaf_pages,
            "overflow_pages": root.overflow_pages,
            "entries": root.entries,
        }

    def info(self) -> dict[str, int]:
        self._require_open()
        seen = self.file.seen
        return {
            "map_addr": 0,
            "map_size": self._map_bytes,
            "last_pgno": seen.last_page,
            "last_txnid": seen.number,
            "max_readers": self._settings.get("max_readers", 126),
            "num_readers": len(self._readers),
        }

    def flags(self) -> dict[str, bool]:
        defaults = {"sync": True, "metasync": True, "writemap": False, "map_async": False}
        return {name: self._settings.get(name, value) for name, value in defaults.items()}

    def path(self) -> str:
        return self._path

    def reader_check(self) -> int:
        self._require_open()
        return 0

    def set_mapsize(self, map_size: int) -> None:
        self._require_open()
        if self._writer is not None:
            raise lmdb.Error("Cannot set_mapsize while a write transaction is active")
        for reader in self._readers:
            reader.valid = False
        self._readers.clear()
        self._map_bytes = max(map_size, self.file.needed())
        self.file.map_bytes = self._map_bytes

    def sync(self, force: bool = False) -> None:
        self._require_open()
        self._synced("mdb_env_sync")

    def copy(self, path: str, compact: bool = False, txn: None = None) -> None:
        self._require_open()
        made = self.file.copied()
        made.certain, made.unsynced = Version(), [made.seen]
        self._disk.add_data_file(path, made)
        try:
            self._disk.troubles.step(SYNC, path, made.size)
        except OSError as error:
            made.doubtful = True
            raise of_lmdb(error, "mdb_env_copy3") from error
        made.certain, made.unsynced = made.seen, []

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.abort()
        for reader in self._readers:
            reader.valid = False
        self._readers.clear()
        if self._life == self._disk.life:
            self._disk.closed_environment(self._path)

    # -- what transactions ask ----------------------------------------------------------------------------------------

    def drafted(self, root: Root, number: int) -> Draft:
        return Draft(root, number, self._take, self._give)

    def _take(self, pages: int) -> None:
        self._taken += pages
        if self._free >= (pages if pages == 1 else 2 * pages):  # several must lie side by side
            self._free -= pages
            return
        self._last_page += pages
        if (self._last_page + 1) * PAGE_BYTES > self._map_bytes:
            raise lmdb.MapFullError(f"mdb_put: {FULL_MAP}")

    def _give(self, pages: int, fresh: bool) -> None:
        if fresh:
            self._free += pages
        else:
            self._freed_now += pages

    def ended(self, transaction: Transaction) -> None:
        """A transaction is over, and left nothing."""
        if transaction.write:
            self._writer = None
            self.spoilt = None
        elif transaction in self._readers:
            self._readers.remove(transaction)

    def commit(self, transaction: Transaction) -> None:
        spoilt = self.spoilt is transaction
        drafts = transaction.drafts
        self.ended(transaction)
        if spoilt:
            raise lmdb.BadTxnError(
                "mdb_txn_commit: MDB_BAD_TXN: Transaction must abort, has a child, or is invalid"
            )
        if not transaction.write or not drafts:
            return
        self._require_open()
        made = self._made(transaction, drafts)
        try:
            self._grow_file(made)
            self._disk.troubles.step(WRITE, self._path, made.pages * PAGE_BYTES)
        except OSError as error:
            raise of_lmdb(error, "mdb_txn_commit") from error
        file, before = self.file, self.file.seen
        file.unsynced.append(made)
        self._disk.note(lambda: _forget(file, before, made))
        if self._sync:
            self._synced("mdb_txn_commit", made)
        file.seen = made
        if len(file.unsynced) > _UNSYNCED_MAX:
            file.certain = file.unsynced.pop(0)

    def _made(self, transaction: Transaction, drafts: dict[bytes, Draft]) -> Version:
        seen = self.file.seen
        try:
            self._take(2)  # the root of databases, and the list of free pages
        except lmdb.MapFullError as error:
            raise lmdb.MapFullError(f"mdb_txn_commit: {FULL_MAP}") from error
        roots = transaction.roots.copy()
        for name, draft in drafts.items():
            roots[name] = draft.root()
        freed = [one for one in seen.freed if one[0] >= self._oldest]
        freed.append((transaction.number, self._freed_now + 2))
        if len(freed) > _FREED_MAX:  # a reader that stays: two become one, as of the newer
            freed[0:2] = [(freed[1][0], freed[0][1] + freed[1][1])]
        return Version(
            transaction.number, roots, self._last_page, self._free, tuple(freed), self._taken
        )

    def _grow_file(self, made: Version) -> None:
        size = (made.last_page + 1) * PAGE_BYTES
        if size > self.file.size:
            if not self._disk.take_room(size - self.file.size):
                raise failure(errno.ENOSPC, self._path)
            self.file.size = size

    def _synced(self, doing: str, made: Version | None = None) -> None:
        """All that was committed is certain, unless a sync has failed before, or does now."""
        file = self.file
        try:
            self._disk.troubles.step(SYNC, self._path)
        except OSError as error:
            file.doubtful = True
            raise of_lmdb(error, doing) from error
        if file.doubtful:
            return
        before, queue = file.certain, file.unsynced
        self._disk.note(lambda: _unsync(file, before, queue))
        file.certain = made if made is not None else file.seen
        file.unsynced = []


def _forget(file: DataFile, seen: Version, made: Version) -> None:
    file.seen = seen
    file.unsynced = [one for one in file.unsynced if one is not made]


def _unsync(file: DataFile, certain: Version, queue: list[Version]) -> None:
    file.certain, file.unsynced = certain, queue
