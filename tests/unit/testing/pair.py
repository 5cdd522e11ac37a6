"""A real environment and a simulated one to which the same is done, step by step, with everything that shows compared."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from multiraft.disk import RealDisk
from multiraft.testing.disk import SimulatedDisk

NAMES = (b"one", b"two")
MAP_BYTES = 1 << 22


class Side:
    """One of the two: an environment, a transaction that may be open, readers, and a cursor in each."""

    def __init__(self, disk: Any, path: Path):
        self.disk = disk
        self.path = path
        disk.make_directory(path)
        self.open()

    def open(self) -> None:
        self.env = self.disk.environment(
            self.path, map_size=MAP_BYTES, max_dbs=3, max_readers=16, sync=False
        )
        self.databases = [self.env.open_db(name) for name in NAMES]
        self.txn: Any = None
        self.cursor: Any = None
        self.off = False
        self.readers: dict[int, Any] = {}

    # -- each of these is one step; what it returns is compared ---------------------------------------------------------

    def begin(self) -> None:
        if self.txn is None:
            self.txn = self.env.begin(write=True)

    def end(self, keep: bool) -> None:
        txn, self.txn, self.cursor = self.txn, None, None
        if txn is not None:
            txn.commit() if keep else txn.abort()

    def at(self, database: int) -> Any:
        """Put a cursor into a database of the open transaction."""
        self.database, self.off = database, False
        self.cursor = None if self.txn is None else self.txn.cursor(self.databases[database])

    def put(self, database: int, key: bytes, value: bytes, overwrite: bool, append: bool) -> Any:
        return self.txn and self.txn.put(
            key, value, overwrite=overwrite, append=append, db=self.databases[database]
        )

    def delete(self, database: int, key: bytes) -> Any:
        return self.txn and self.txn.delete(key, db=self.databases[database])

    def get(self, database: int, key: bytes) -> Any:
        return self.txn and self.txn.get(key, b"none", self.databases[database])

    def count(self, database: int) -> Any:
        stat = self.txn and self.txn.stat(self.databases[database])
        return stat and (stat["entries"], stat["psize"])

    def move(self, how: str, *arguments: bytes) -> Any:
        if self.cursor is None:
            return None
        if how in ("next", "prev", "delete", "key"):
            self._fresh()
        shown = getattr(self.cursor, how)(*arguments), self.cursor.key(), self.cursor.item()
        self.off = not self.cursor.key()
        return shown

    def _fresh(self) -> None:
        """A cursor that fell off the keys is still somewhere for LMDB, and nobody should rely on where."""
        if self.off:
            self.at(self.database)

    def put_many(self, items: list[tuple[bytes, bytes]]) -> Any:
        return self.cursor and (self.cursor.putmulti(items), self.cursor.key())

    def walk(self, how: str, count: int) -> Any:
        if self.cursor is None:
            return None
        self._fresh()
        walked = list(islice(getattr(self.cursor, how)(), count))
        self.off = len(walked) < count or not self.cursor.key()
        return walked

    def read(self, slot: int) -> None:
        if slot not in self.readers:
            self.readers[slot] = self.env.begin(buffers=slot % 2 == 1)

    def look(self, slot: int, database: int, key: bytes) -> Any:
        reader = self.readers.get(slot)
        if reader is None:
            return None
        cursor = reader.cursor(self.databases[database])
        placed = cursor.set_range(key) if key else cursor.first()
        seen = [(bytes(k), bytes(v)) for k, v in islice(cursor.iternext(), 8)] if placed else []
        value = reader.get(key, None, self.databases[database]) if key else None
        return placed, seen, type(value), None if value is None else bytes(value)

    def forget(self, slot: int) -> None:
        if slot in self.readers:
            self.readers.pop(slot).abort()

    def grow(self) -> Any:
        self.env.set_mapsize(self.env.info()["map_size"] + (1 << 20))
        return self.env.info()["map_size"]

    def all(self) -> list[Any]:
        with self.env.begin() as transaction:
            return [list(transaction.cursor(database)) for database in self.databases]

    def reopen(self) -> Any:
        self.end(False)
        self.close()
        self.open()
        return self.all()

    def close(self) -> None:
        self.cursor = self.txn = None
        self.readers.clear()
        self.env.close()


class Pair:
    """Does every step to both and compares."""

    def __init__(self, folder: Path):
        disk = SimulatedDisk(random.Random(0))
        self.real = Side(RealDisk(), folder / "env")
        self.simulated = Side(disk, Path("/node/env"))

    def step(self, name: str, *arguments: Any) -> None:
        real = outcome(lambda: getattr(self.real, name)(*arguments))
        simulated = outcome(lambda: getattr(self.simulated, name)(*arguments))
        assert simulated == real, (name, arguments)

    def close(self) -> None:
        self.real.close()
        self.simulated.close()


def outcome(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except lmdb.Error as error:
        return type(error)
