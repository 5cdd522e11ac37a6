"""A simulated disk that fills up, and a map that does: the stores see it before a commit does, and go on when there is room."""

from __future__ import annotations

import dataclasses

import lmdb
import pytest

from multiraft.errors import NoSpace, StorageError
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState
from multiraft.log.schema import LogSettings
from multiraft.testing.disk import SimulatedDisk
from tests.unit.disks import Home, home_on
from tests.unit.log import harness as h
from tests.unit.log.harness import Feeder, open_inline, opened, read_entries
from tests.unit.machine import harness as m

SETTINGS = LogSettings(reserve_bytes=1 << 20, ahead_bytes=1 << 20, map_bytes=64 << 20)


def big(index: int) -> bytes:
    payload = index.to_bytes(4, "big") * 12_500
    return h.entries_run(1, index, 1, [payload], prev_term=int(index > 1))


@pytest.mark.parametrize("room", [0, 300_000, 5_000_000])
def test_p13_a_log_on_a_full_disk_waits_and_loses_nothing(room: int) -> None:
    """Until room is made, and through a cut of the power on the full disk."""
    home = home_on("simulated", h.Path("/"))
    disk = home.disk
    assert isinstance(disk, SimulatedDisk)
    store = open_inline(home / "log", SETTINGS)
    failures: list[StorageError] = []
    store.on_failed = failures.append
    feeder = Feeder(store)
    feeder.append(h.created(1), h.created(2))
    disk.capacity_bytes = disk.used_bytes + room
    index = 0
    while not store.space().scarce:
        index += 1
        feeder.append(big(index))
    for term in range(1, 40):
        feeder.append(h.hard(2, HardState(term=term, vote=ReplicaId(1))))
    assert store.synced_sequence == feeder.sequence, "votes go on below the reserve"
    while store.synced_sequence == feeder.sequence:
        index += 1
        feeder.append(big(index))
        assert index < 500
    assert failures == [], "the disk was full, and a commit was made to fail for it"
    acknowledged = store.synced_sequence
    disk.crash()
    with opened(home / "log", SETTINGS) as store:
        assert store.synced_sequence == acknowledged
        disk.capacity_bytes = 1 << 40
        store.space()
        feeder = Feeder(store)
        feeder.append(big(index))
        assert store.synced_sequence == acknowledged + 1
        assert list(read_entries(store, 1, 1)) == list(range(1, index + 1))


def test_p14_a_full_map_of_a_simulated_log_grows() -> None:
    home = home_on("simulated", h.Path("/"))
    settings = dataclasses.replace(SETTINGS, map_bytes=1 << 20, ahead_bytes=0, reserve_bytes=0)
    with opened(home / "log", settings) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1))
        small = store.space().map_bytes
        for index in range(1, 200):
            feeder.append(big(index))
        assert store.synced_sequence == feeder.sequence
        assert store.space().map_bytes > 4 * small
        assert len(read_entries(store, 1, 1, bytes_max=1 << 24)) == 199


def test_freed_pages_are_used_again_unless_somebody_may_see_them() -> None:
    home = home_on("simulated", h.Path("/"))
    environment = home.disk.environment(home.path, map_size=1 << 26, max_dbs=2, max_readers=4)
    database = environment.open_db(b"data")

    def fill(times: int) -> int:
        for number in range(times):
            with environment.begin(write=True) as transaction:
                transaction.put(b"%d" % (number % 4), bytes(20_000), db=database)
        return int(environment.info()["last_pgno"])

    settled = fill(20)
    assert fill(200) == settled
    reader = environment.begin()
    grown = fill(200)
    assert grown > settled + 500, "nobody may write over what the reader sees"
    reader.abort()
    fill(3)
    assert fill(200) <= grown + 20
    environment.close()


def test_pages_are_counted_about_as_lmdb_counts_them(home: Home) -> None:
    environment = home.disk.environment(home.path, map_size=1 << 26, max_dbs=2, max_readers=4)
    database = environment.open_db(b"data")
    with environment.begin(write=True) as transaction:
        for number in range(20_000):
            transaction.put(number.to_bytes(8, "big"), bytes(100), append=True, db=database)
        stat = transaction.stat(database)
        assert stat["entries"] == 20_000
        assert 500 < stat["leaf_pages"] < 700
        assert stat["depth"] == 3
        for number in range(0, 20_000, 2):
            transaction.delete(number.to_bytes(8, "big"), db=database)
        assert transaction.stat(database)["leaf_pages"] < 700
        for number in range(1, 20_000, 2):
            transaction.delete(number.to_bytes(8, "big"), db=database)
        assert transaction.stat(database)["leaf_pages"] == 0
        transaction.put(b"large", bytes(100_000), db=database)
        assert transaction.stat(database)["overflow_pages"] == 25
    environment.close()


def test_a_full_map_spoils_the_transaction_and_nothing_else(home: Home) -> None:
    environment = home.disk.environment(home.path, map_size=1 << 20, max_dbs=2, max_readers=4)
    database = environment.open_db(b"data")
    with environment.begin(write=True) as transaction:
        transaction.put(b"before", b"there", db=database)
    transaction = environment.begin(write=True)
    with pytest.raises(lmdb.MapFullError):
        for number in range(1000):
            transaction.put(b"%d" % number, bytes(3000), db=database)
    for use in (
        lambda: transaction.put(b"k", b"v", db=database),
        lambda: transaction.get(b"before", db=database),
        transaction.commit,
    ):
        with pytest.raises(lmdb.BadTxnError):
            use()
    transaction.abort()
    with pytest.raises(lmdb.Error, match="write transaction is active"):
        with environment.begin(write=True) as transaction:
            environment.set_mapsize(1 << 22)
    reader = environment.begin()
    environment.set_mapsize(1 << 22)
    with pytest.raises(lmdb.Error, match="closed"):
        reader.get(b"before", db=database)
    with environment.begin(write=True) as transaction:
        for number in range(500):
            transaction.put(b"%d" % number, bytes(3000), db=database)
        assert transaction.get(b"before", db=database) == b"there"
    environment.close()
    with pytest.raises(lmdb.Error, match="closed"):
        environment.begin()


def test_p13_a_flush_without_room_does_nothing_and_heals_on_a_simulated_disk() -> None:
    home = home_on("simulated", h.Path("/"))
    disk = home.disk
    assert isinstance(disk, SimulatedDisk)
    durable = dataclasses.replace(m.SMALL, relaxed=False)
    store = m.open_with_shard(home / "state", durable)
    steps = [m.put(m.PREFIX + b"%04d" % number, bytes(2000)).encode() for number in range(500)]
    m.apply_all(store, steps, 1)
    disk.capacity_bytes = disk.used_bytes + 100_000
    for capacity, error in ((disk.capacity_bytes, NoSpace), (1 << 40, type(None))):
        disk.capacity_bytes = capacity
        store.freeze(m.GROUP)
        outcome = m.Outcome()
        store.flush(m.GROUP, outcome)
        assert isinstance(outcome.error, error)
    disk.crash()
    again = m.open_with_shard(home / "state", durable)
    assert again.shard(m.GROUP).applied_index == 500
    again.close()
