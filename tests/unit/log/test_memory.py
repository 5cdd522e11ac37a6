"""The store without a disk, under a test's control."""

from __future__ import annotations

import pytest

from multiraft.errors import Closed, InvariantViolation, LogCorrupt, SyncFailed
from multiraft.ids import GroupId
from multiraft.interfaces import HardState, LogStore
from multiraft.log.memory import MemoryLogStore
from multiraft.worker import InlineWorker
from tests.unit.log import harness as h
from tests.unit.log.harness import Feeder, read_entries


def test_it_is_a_log_store() -> None:
    store: LogStore = MemoryLogStore()
    assert store.boot_count == 1


@pytest.mark.parametrize("jobs", [None, InlineWorker()])
def test_it_syncs_by_itself(jobs: InlineWorker | None) -> None:
    store = MemoryLogStore(jobs=jobs)
    told: list[int] = []
    store.on_synced = told.append
    h.one_group(Feeder(store), entries=3)
    assert told == [1, 2, 3, 4]
    assert [entry[2] for entry in read_entries(store, 1, 1).values()] == [
        b"entry 1",
        b"entry 2",
        b"entry 3",
    ]


def test_what_is_not_synced_is_visible_and_lost_in_a_crash() -> None:
    store = MemoryLogStore(auto=False)
    told: list[int] = []
    store.on_synced = told.append
    feeder = Feeder(store)
    h.one_group(feeder, entries=3)
    assert told == []
    assert sorted(read_entries(store, 1, 1)) == [1, 2, 3]
    store.sync(2)
    store.sync(2)
    assert told == [2]
    after = store.crash()
    assert (after.store_id, after.boot_count, after.synced_sequence) == (store.store_id, 2, 2)
    assert sorted(read_entries(after, 1, 1)) == [1]
    assert sorted(read_entries(store.crash(keep=1), 1, 1)) == [1, 2]


def test_a_failure_is_final() -> None:
    store = MemoryLogStore(auto=False)
    failed: list[object] = []
    store.on_failed = failed.append
    feeder = Feeder(store)
    feeder.append(h.created(1))
    store.fail()
    store.fail()
    store.sync()
    assert len(failed) == 1
    assert store.synced_sequence == 0
    with pytest.raises(SyncFailed):
        feeder.append(h.hard(1, HardState(term=1)))


def test_it_refuses_what_contradicts_the_log() -> None:
    store = MemoryLogStore()
    feeder = Feeder(store)
    h.one_group(feeder)
    with pytest.raises(InvariantViolation):
        feeder.append(h.entries_run(1, 9, 1, [b"x"], prev_term=1))


def test_damage_is_found() -> None:
    store = MemoryLogStore()
    h.one_group(Feeder(store))
    store.damage(3, len(store.batches[3]) - 1)
    with pytest.raises(LogCorrupt):
        read_entries(store, 1, 2)
    with pytest.raises(LogCorrupt):
        store.crash()


def test_dead_batches_go_and_space_is_reported() -> None:
    store = MemoryLogStore(budget_bytes=5_000, capacity_bytes=100_000, reserve_bytes=80_000)
    feeder = Feeder(store)
    feeder.append(h.created(1))
    feeder.append(h.entries_run(1, 1, 1, [bytes(30_000)], prev_term=0))
    assert store.space().scarce
    assert list(store.pinning(0)) == [GroupId(1)]
    feeder.append(h.hard(1, HardState(commit=1)), h.based(1, 1, 1))
    assert sorted(store.batches) == [3]
    assert not store.space().scarce
    assert list(store.pinning(0)) == []


def test_close_syncs_and_ends_it() -> None:
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    feeder.append(h.created(1))
    store.close()
    assert store.synced_sequence == 1
    with pytest.raises(Closed):
        feeder.append(h.hard(1, HardState(term=1)))
