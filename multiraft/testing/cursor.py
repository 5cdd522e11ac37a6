"""A cursor and a transaction of a simulated environment: what py-lmdb's do, as far as the stores call them.

A new cursor goes to the first key with ``next`` and to the last with ``prev``; until then its key is empty. In a transaction that
writes, it stays on its key, or on the one after it where that was deleted. A cursor that fell off the keys has to be put somewhere
before it can be moved: LMDB still knows where it was, in ways that nobody should rely on, so here that is an error of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import lmdb

from multiraft.testing.ordered import (
    Draft,
    Place,
    Root,
    find,
    first_place,
    last_place,
    place_before,
    place_from,
)

if TYPE_CHECKING:
    from multiraft.testing.environment import Environment

KEY_BYTES_MAX = 511
MAIN = b""
"""The database of databases."""

_CLOSED = "Attempt to operate on closed/deleted/dropped object."
_BAD = "MDB_BAD_TXN: Transaction must abort, has a child, or is invalid"
_SIZE = "MDB_BAD_VALSIZE: Unsupported size of key/DB name/data, or wrong DUPFIXED size"


class Database:
    """A handle of a database."""

    __slots__ = ("name",)

    def __init__(self, name: bytes):
        self.name = name


class Transaction:
    """See ``lmdb.Transaction``. Made by ``Environment.begin``."""

    __slots__ = ("_buffers", "_db", "changes", "drafts", "env", "number", "roots", "valid", "write")

    def __init__(
        self,
        env: Environment,
        db: Database | None,
        roots: dict[bytes, Root],
        number: int,
        write: bool,
        buffers: bool,
    ):
        self.env = env
        self.roots = roots
        self.number = number
        """Of the transaction that it shows; where it writes, its own."""
        self.write = write
        self.drafts: dict[bytes, Draft] = {}
        self.changes = 0
        """Counted up with each, so that cursors look again where they are."""
        self.valid = True
        self._db = MAIN if db is None else db.name
        self._buffers = buffers

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.valid:
            if kind is None:
                self.commit()
            else:
                self.abort()

    # -- what cursors ask too -----------------------------------------------------------------------------------------

    def node(self, name: bytes) -> Any:
        """The root node of a database, as this transaction sees it."""
        if not self.valid:
            raise lmdb.Error(_CLOSED)
        if self.env.spoilt is self:
            raise lmdb.BadTxnError(f"mdb_get: {_BAD}")
        draft = self.drafts.get(name)
        return self.roots[name].node if draft is None else draft.node

    def shown(self, data: bytes) -> Any:
        return memoryview(data) if self._buffers else data

    def draft(self, name: bytes, doing: str) -> Draft:
        if not self.valid:
            raise lmdb.Error(_CLOSED)
        if not self.write:
            raise lmdb.ReadonlyError(f"{doing}: Permission denied")
        if self.env.spoilt is self:
            raise lmdb.BadTxnError(f"{doing}: {_BAD}")
        draft = self.drafts.get(name)
        if draft is None:
            draft = self.drafts[name] = self.env.drafted(self.roots[name], self.number)
        return draft

    # -- the interface ------------------------------------------------------------------------------------------------

    def get(self, key: bytes, default: Any = None, db: Database | None = None) -> Any:
        node = self.node(self._db if db is None else db.name)
        if not key:
            raise lmdb.BadValsizeError(f"mdb_get: {_SIZE}")
        value = find(node, key)
        if value is None:
            return default
        if self.env.watched:
            value = self.env.read_value(value)
        return memoryview(value) if self._buffers else value

    def put(
        self,
        key: bytes,
        value: bytes,
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
        db: Database | None = None,
    ) -> bool:
        draft = self.draft(self._db if db is None else db.name, "mdb_put")
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise lmdb.BadValsizeError(f"mdb_put: {_SIZE}")
        if append:
            last = last_place(draft.node)
            if last is not None and key <= last[0].keys[last[1]]:
                return False
        elif not overwrite and find(draft.node, key) is not None:
            return False
        self.changes += 1
        self.env.spoilt = self  # until it is through: a map that is full spoils it
        draft.put(key, value if type(value) is bytes else bytes(value))
        self.env.spoilt = None
        return True

    def delete(self, key: bytes, value: bytes = b"", db: Database | None = None) -> bool:
        draft = self.draft(self._db if db is None else db.name, "mdb_del")
        if not key:
            raise lmdb.BadValsizeError(f"mdb_del: {_SIZE}")
        if find(draft.node, key) is None:
            return False
        self.changes += 1
        self.env.spoilt = self
        draft.delete(key)
        self.env.spoilt = None
        return True

    def cursor(self, db: Database | None = None) -> Cursor:
        return Cursor(self, self._db if db is None else db.name)

    def stat(self, db: Database | None = None) -> dict[str, int]:
        name = MAIN if db is None else db.name
        self.node(name)
        draft = self.drafts.get(name)
        return self.env.stat_of(self.roots[name] if draft is None else draft.root())

    def id(self) -> int:
        return self.number

    def commit(self) -> None:
        if not self.valid:
            raise lmdb.Error(_CLOSED)
        self.valid = False
        self.env.commit(self)

    def abort(self) -> None:
        if self.valid:
            self.valid = False
            self.env.ended(self)


class Cursor:
    """See ``lmdb.Cursor``."""

    __slots__ = ("_changes", "_key", "_name", "_off", "_place", "txn")

    def __init__(self, txn: Transaction, name: bytes):
        self.txn = txn
        self._name = name
        self._place: Place | None = None
        self._key: bytes | None = None
        self._off = False
        self._changes = txn.changes
        txn.node(name)

    def _at(self, place: Place | None) -> bool:
        self._off = place is None
        self._place = place
        self._key = None if place is None else place[0].keys[place[1]]
        self._changes = self.txn.changes
        return place is not None

    def _here(self) -> Place | None:
        """Where it is, looked up again where the transaction has changed something since."""
        if self._changes != self.txn.changes and self._key is not None:
            self._at(place_from(self.txn.node(self._name), self._key))
        elif not self.txn.valid:
            self.txn.node(self._name)
        return self._place

    def _begin(self, there: Callable[[], bool]) -> bool:
        if self._off:
            raise AssertionError("the cursor fell off the keys: put it somewhere first")
        return there()

    def key(self) -> Any:
        place = self._here()
        return self.txn.shown(b"" if place is None else place[0].keys[place[1]])

    def value(self) -> Any:
        place = self._here()
        return self.txn.shown(b"" if place is None else self._value(place))

    def item(self) -> tuple[Any, Any]:
        place = self._here()
        if place is None:
            return self.txn.shown(b""), self.txn.shown(b"")
        return self.txn.shown(place[0].keys[place[1]]), self.txn.shown(self._value(place))

    def _value(self, place: Place) -> bytes:
        value: bytes = place[0].items[place[1]]  # type: ignore[assignment]
        return self.txn.env.read_value(value) if self.txn.env.watched else value

    def first(self) -> bool:
        return self._at(first_place(self.txn.node(self._name)))

    def last(self) -> bool:
        return self._at(last_place(self.txn.node(self._name)))

    def next(self) -> bool:
        place = self._here()
        if place is None:
            return self._begin(self.first)
        node, at = place
        if at + 1 < len(node.keys):
            return self._at((node, at + 1))
        return self._at(place_from(self.txn.node(self._name), node.keys[at], after=True))

    def prev(self) -> bool:
        place = self._here()
        if place is None:
            return self._begin(self.last)
        node, at = place
        if at > 0:
            return self._at((node, at - 1))
        return self._at(place_before(self.txn.node(self._name), node.keys[at]))

    def set_range(self, key: bytes) -> bool:
        return self._at(place_from(self.txn.node(self._name), bytes(key)))

    def delete(self) -> bool:
        """Delete where it is, and be on the next key."""
        place = self._here()
        if place is None:
            return False
        return self.txn.delete(place[0].keys[place[1]], db=Database(self._name))

    def put(
        self,
        key: bytes,
        value: bytes,
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
    ) -> bool:
        done = self.txn.put(key, value, dupdata, overwrite, append, Database(self._name))
        self.set_range(key)
        return done

    def putmulti(
        self,
        items: Iterable[tuple[bytes, bytes]],
        dupdata: bool = True,
        overwrite: bool = True,
        append: bool = False,
    ) -> tuple[int, int]:
        """(how many were taken, how many were put)"""
        taken = added = 0
        database, key = Database(self._name), b""
        for key, value in items:
            taken += 1
            added += self.txn.put(key, value, dupdata, overwrite, append, database)
        if key:
            self.set_range(key)
        return taken, added

    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[Any]:
        placed = self._here() is not None or self._begin(self.first)
        return self._walk(placed, self.next, keys, values)

    def iterprev(self, keys: bool = True, values: bool = True) -> Iterator[Any]:
        placed = self._here() is not None or self._begin(self.last)
        return self._walk(placed, self.prev, keys, values)

    def _walk(
        self, placed: bool, on: Callable[[], bool], keys: bool, values: bool
    ) -> Iterator[Any]:
        while placed:
            yield self.item() if keys and values else self.key() if keys else self.value()
            placed = on() if self._here() is not None else False

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.iternext()

    def close(self) -> None:
        self._at(None)

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
