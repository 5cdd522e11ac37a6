"""Runs and batches made by hand, stores without threads, and reading back what is in them: for the tests of the log.

Batches are packed with ``struct`` here, from docs/formats.md, so that the tests do not believe the code about its own layout.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import lmdb

from multiraft._core import RunKind, decode_run, encode_run
from multiraft.errors import StorageError
from multiraft.ids import GroupId, NodeId, ReplicaId, StoreId
from multiraft.interfaces import (
    Base,
    HardState,
    LogStore,
    Member,
    Membership,
    Pinned,
    SnapshotRecord,
)
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.records import encode_base, encode_pinned, encode_snapshot_record
from multiraft.worker import InlineWorker, Worker
from tests.unit.disks import Home, placed

MEMBERS = Membership((Member(ReplicaId(1), NodeId(1), 1), Member(ReplicaId(2), NodeId(2), 1)))

Arun = Callable[[Coroutine[Any, Any, None]], None]
"""The fixture that runs a coroutine on each kind of loop."""

RELAXED = LogSettings(durability="relaxed", reserve_bytes=0, ahead_bytes=0, map_bytes=256 << 20)
"""For tests of logic, not of durability: no sync, no space kept."""


def seal(sequence: int, store_id: int, runs: Sequence[bytes]) -> bytes:
    """A batch, by the book."""
    offset = 40 + 24 * len(runs)
    directory = b""
    for run in runs:
        group, kind = struct.unpack_from("<Q", run, 0)[0], struct.unpack_from("<H", run, 52)[0]
        directory += struct.pack("<QHHIII", group, kind, 0, len(run), offset, 0)
        offset += len(run)
    head = struct.pack(
        "<IHHIIQQI",
        0x3142524D,
        1,
        0,
        offset,
        len(runs),
        sequence,
        store_id,
        google_crc32c.value(directory),
    )
    return head + struct.pack("<I", google_crc32c.value(head)) + directory + b"".join(runs)


def entries_run(
    group: int,
    first: int,
    term: int,
    payloads: Sequence[bytes],
    *,
    prev_term: int,
    commit: int = 0,
    kind: int = 1,
) -> bytes:
    return encode_run(
        group=group,
        first=first,
        term=term,
        prev_term=prev_term,
        commit=commit,
        from_replica=9,
        kind=RunKind(kind),
        entries=list(payloads),
    )


def record(
    kind: RunKind,
    group: int,
    payload: bytes | None,
    *,
    first: int = 0,
    term: int = 0,
    replica: int = 1,
) -> bytes:
    return encode_run(
        group=group,
        first=first,
        term=term,
        prev_term=0,
        commit=0,
        from_replica=replica,
        kind=kind,
        entries=[] if payload is None else [payload],
    )


def base_of(
    index: int,
    term: int,
    *,
    replica: int = 1,
    hard_state: HardState | None = None,
    membership: Membership = MEMBERS,
) -> Base:
    return Base(
        index,
        term,
        ReplicaId(replica),
        membership,
        hard_state if hard_state is not None else HardState(),
    )


def base_run(kind: RunKind, group: int, base: Base) -> bytes:
    return record(
        kind, group, encode_base(base), first=base.index, term=base.term, replica=base.replica
    )


def created(group: int, index: int = 0, term: int = 0, **options: Any) -> bytes:
    return base_run(RunKind.RUN_REPLICA_CREATED, group, base_of(index, term, **options))


def based(group: int, index: int, term: int, **options: Any) -> bytes:
    return base_run(RunKind.RUN_BASE, group, base_of(index, term, **options))


def marked(group: int, index: int, term: int, **options: Any) -> bytes:
    return base_run(RunKind.RUN_SNAPSHOT_MARK, group, base_of(index, term, **options))


def hard(group: int, state: HardState, *, replica: int = 1) -> bytes:
    payload = struct.pack("<IIQQ", state.vote, state.leader, state.epoch, state.commit)
    return record(RunKind.RUN_HARD_STATE, group, payload, term=state.term, replica=replica)


def truncated(group: int, first: int) -> bytes:
    return record(RunKind.RUN_TRUNCATE, group, None, first=first)


def tombstone(group: int, *, replica: int = 1) -> bytes:
    return record(RunKind.RUN_TOMBSTONE, group, b"moved away", replica=replica)


def pending(group: int, snapshot: SnapshotRecord) -> bytes:
    base = snapshot.base
    payload = encode_snapshot_record(snapshot)
    return record(
        RunKind.RUN_SNAPSHOT_PENDING,
        group,
        payload,
        first=base.index,
        term=base.term,
        replica=base.replica,
    )


def withdrawn(group: int, *, replica: int = 1) -> bytes:
    """A SNAPSHOT_PENDING without a name: the one before is not pending any more."""
    payload = encode_base(base_of(1, 1, replica=replica)) + struct.pack("<IQI", 0, 0, 0)
    return record(RunKind.RUN_SNAPSHOT_PENDING, group, payload, first=1, term=1, replica=replica)


def pin(node: int, store_id: int, boot_count: int, sequence: int) -> bytes:
    pinned = Pinned(NodeId(node), StoreId(store_id), boot_count, sequence)
    return record(RunKind.RUN_PINNED, 0, encode_pinned(pinned))


class Feeder:
    """Seals batches of runs for a store and appends them."""

    def __init__(self, store: LogStore):
        self.store = store
        self.sequence = store.synced_sequence

    def append(self, *runs: bytes) -> bytes:
        batch = seal(self.sequence + 1, self.store.store_id, runs)
        self.store.append(batch)
        self.sequence += 1
        return batch


def open_inline(where: Path | Home, settings: LogSettings = RELAXED) -> LmdbLogStore:
    """A store whose workers run in the caller: everything is done when a call returns."""
    home = placed(where)
    return LmdbLogStore(
        home.path, writer=InlineWorker(), reader=InlineWorker(), settings=settings, disk=home.disk
    )


@contextmanager
def opened(where: Path | Home, settings: LogSettings = RELAXED) -> Iterator[LmdbLogStore]:
    store = open_inline(where, settings)
    try:
        yield store
    finally:
        store.close()


def fetch(store: LogStore, group: int, first: int, bytes_max: int = 1 << 20) -> list[bytes]:
    """Fetch from a store whose workers run inline, raising what it answers with."""
    answers: list[tuple[list[bytes] | None, BaseException | None]] = []
    store.fetch(GroupId(group), first, bytes_max, lambda runs, error: answers.append((runs, error)))
    ((runs, error),) = answers
    if error is not None:
        raise error
    assert runs is not None
    return runs


def read_entries(
    store: LogStore, group: int, first: int, bytes_max: int = 1 << 20
) -> dict[int, tuple[int, int, bytes]]:
    """index -> (term, kind, payload) of everything from ``first`` on."""
    found: dict[int, tuple[int, int, bytes]] = {}
    while runs := fetch(store, group, first, bytes_max):
        for data in runs:
            run = decode_run(data)
            assert run.group == group
            for at, payload in enumerate(run.entries):
                if run.first + at >= first:
                    found[run.first + at] = (run.term, int(run.kind), bytes(payload))
        first = max(found) + 1
    return found


def one_group(feeder: Feeder, entries: int = 5) -> None:
    feeder.append(created(1))
    for index in range(1, entries + 1):
        feeder.append(
            entries_run(1, index, 1, [f"entry {index}".encode()], prev_term=int(index > 1))
        )


# -- behind the store's back ------------------------------------------------------------


def replace_batch(path: Path, sequence: int, change: bytes | None) -> bytes:
    """Put other bytes (None: nothing) in the place of a batch, behind the store's back. Returns what was there."""
    with lmdb.open(str(path), max_dbs=3, map_size=1 << 28, lib_version=0) as environment:
        database = environment.open_db(b"batches")
        with environment.begin(write=True, db=database) as transaction:
            key = sequence.to_bytes(8, "big")
            old = transaction.get(key)
            assert old is not None
            if change is None:
                transaction.delete(key)
            else:
                transaction.put(key, change)
    return old


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


# -- with real threads ------------------------------------------------------------------------------------------------


class Threaded:
    """A store with two worker threads, and what it told its owner."""

    def __init__(self, path: Path, settings: LogSettings = RELAXED):
        self.store = LmdbLogStore(
            path, writer=Worker("log"), reader=Worker("log-reader"), settings=settings
        )
        self.store.on_synced = self._on_synced
        self.store.on_failed = self._on_failed
        self.synced: list[int] = []
        self.failed: list[StorageError] = []
        self._changed = asyncio.Event()
        self.feeder = Feeder(self.store)

    def _on_synced(self, sequence: int) -> None:
        self.synced.append(sequence)
        self._changed.set()

    def _on_failed(self, error: StorageError) -> None:
        self.failed.append(error)
        self._changed.set()

    async def until(self, sequence: int) -> None:
        """Wait until everything up to ``sequence`` is synced, or the store failed."""
        while not self.failed and self.store.synced_sequence < sequence:
            self._changed.clear()
            await self._changed.wait()

    async def fetch(self, group: int, first: int, bytes_max: int = 1 << 20) -> list[bytes]:
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

        def done(runs: list[bytes] | None, error: BaseException | None) -> None:
            if error is not None:
                answer.set_exception(error)
            else:
                assert runs is not None
                answer.set_result(runs)

        self.store.fetch(GroupId(group), first, bytes_max, done)
        return await answer

    async def __aenter__(self) -> Threaded:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.store.close()
