"""The store's contract, one sentence a test: apply, reads, flush, shards, failures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import lmdb
import pytest

from multiraft._core import CommittedRuns
from multiraft.doubt import NOTE_FILE
from multiraft.errors import (
    FormatUnsupported,
    InvalidCommand,
    InvariantViolation,
    NoSpace,
    PreconditionFailed,
    ShardMoved,
    StorageError,
    SyncFailed,
    WrongStore,
)
from multiraft.machine import commands, flush
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.descriptors import ShardDescriptor
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.scans import ScanPage
from multiraft.machine.shards import COLD, ApplyStop
from tests.unit.disks import Home
from tests.unit.machine.harness import (
    BASE,
    DESCRIPTOR,
    EPOCH,
    GROUP,
    MEMBERSHIP_BYTES,
    MEMBERSHIP_RUN,
    PREFIX,
    SMALL,
    SPACE,
    ManualJobs,
    Outcome,
    apply_all,
    delete,
    delete_range,
    open_store,
    open_with_shard,
    put,
    results_of,
    runs_of,
    scan_all,
)

THREADED = dataclasses.replace(SMALL, cold_reads="thread")
TINY = dataclasses.replace(SMALL, memtable_bytes_max=4096)


def key(number: int) -> bytes:
    return PREFIX + b"%06d" % number


def puts(count: int, size: int = 20) -> list[bytes]:
    return [put(key(number), b"v" * size).encode() for number in range(count)]


def flush_now(store: KeyValueStore) -> int:
    outcome = Outcome()
    store.freeze(GROUP)
    store.flush(GROUP, outcome)
    index: int = outcome.result
    return index


@pytest.fixture
def store(home: Home) -> Any:
    store = open_with_shard(home / "state")
    yield store
    store.close()


# -- apply --------------------------------------------------------------------------------------------------------------


def test_the_result_of_a_write_is_its_revision(store: KeyValueStore) -> None:
    assert apply_all(store, [put(key(1), b"a").encode(), b"", delete(key(1)).encode()], 1) == [
        BASE + 1,
        BASE + 2,
        BASE + 3,
    ]
    assert store.shard(GROUP).applied_index == 3


def test_results_that_are_no_revision_are_named_apart(store: KeyValueStore) -> None:
    condition = (ConditionKind.CONDITION_ABSENT, key(1))
    batch = commands.encode_batch(
        SPACE, EPOCH, [(OperationKind.OPERATION_PUT, key(2), b"")], [condition]
    )
    stale = commands.encode_put(SPACE, EPOCH + 1, key(1), b"")
    outside = commands.encode_put(SPACE, EPOCH, b"\0\3k", b"")
    runs = runs_of([put(key(1), b"a").encode(), batch, stale, outside, b"\1\1\0\0\0\0\7\0\0\0"], 1)
    assert store.apply(runs, 100) == 5
    assert set(runs.results) == {(GROUP, index) for index in (2, 3, 4, 5)}
    failed, moved, elsewhere, damaged = (runs.results[GROUP, index] for index in (2, 3, 4, 5))
    assert isinstance(failed, PreconditionFailed)
    assert (failed.key, failed.revision) == (key(1), BASE + 1)
    assert isinstance(moved, ShardMoved)
    assert moved.epoch == EPOCH
    assert isinstance(elsewhere, InvalidCommand)
    assert isinstance(damaged, InvalidCommand)
    assert store.get(GROUP, key(2)) is None


def test_entries_known_already_are_passed_over(store: KeyValueStore) -> None:
    """A replay may begin below the applied index."""
    apply_all(store, [put(key(1), b"first").encode(), put(key(2), b"second").encode()], 1)
    again = [put(key(1), b"another").encode(), b"", put(key(3), b"third").encode()]
    assert apply_all(store, again, 1) == [BASE + 1, BASE + 2, BASE + 3]
    assert store.get(GROUP, key(1)) == (BASE + 1, b"first")
    assert store.get(GROUP, key(3)) == (BASE + 3, b"third")


def test_a_gap_is_an_invariant_violation(store: KeyValueStore) -> None:
    with pytest.raises(InvariantViolation):
        store.apply(runs_of([b""], 2), 10)


def test_apply_stops_at_its_budget_and_goes_on(store: KeyValueStore) -> None:
    runs = runs_of(puts(10), 1)
    assert store.apply(runs, 4) == 4
    assert store.stopped == ApplyStop.STOP_BUDGET
    assert (runs.done, runs.skip(0)) == (0, 4)
    assert store.apply(runs, 100) == 6
    assert store.stopped == ApplyStop.STOP_DONE
    assert runs.done == 1
    assert [result for _, _, result in results_of(runs)] == [BASE + i for i in range(1, 11)]


def test_apply_stops_after_some_bytes_too(store: KeyValueStore) -> None:
    runs = runs_of(puts(12, size=1 << 20), 1)
    assert store.apply(runs, 100) < 8
    assert store.stopped == ApplyStop.STOP_BUDGET


def test_apply_stops_before_a_membership_entry(store: KeyValueStore) -> None:
    runs = CommittedRuns()
    runs.append(GROUP, 1, 1, 1, [b""])
    runs.append(GROUP, 2, 3, MEMBERSHIP_RUN, [b"change"])
    runs.append(GROUP, 3, 3, 1, [b""])
    assert store.apply(runs, 100) == 1
    assert (store.stopped, store.stopped_group) == (ApplyStop.STOP_MEMBERSHIP, GROUP)
    assert runs.done == 1
    store.membership_applied(GROUP, 2, 3, b"members")
    runs.done += 1
    assert store.apply(runs, 100) == 1
    shard = store.shard(GROUP)
    assert (shard.applied_index, shard.applied_term, shard.membership) == (3, 3, b"members")
    with pytest.raises(InvariantViolation):
        store.membership_applied(GROUP, 5, 3, b"members")


def test_apply_stops_at_a_group_that_is_not_here(store: KeyValueStore) -> None:
    assert store.apply(runs_of([b""], 1, group=99), 10) == 0
    assert (store.stopped, store.stopped_group) == (ApplyStop.STOP_ABSENT, 99)


def test_an_unknown_command_version_stops_the_group_with_an_alarm(store: KeyValueStore) -> None:
    newer = b"\2" + put(key(2), b"").encode()[1:]
    runs = runs_of([put(key(1), b"a").encode(), newer, put(key(3), b"c").encode()], 1)
    assert store.apply(runs, 100) == 1
    assert store.stopped == ApplyStop.STOP_FORMAT
    assert isinstance(store.alarms()[GROUP], FormatUnsupported)
    assert store.apply(runs, 100) == 0
    assert store.shard(GROUP).applied_index == 1
    assert store.get(GROUP, key(3)) is None
    assert store.get(GROUP, key(1)) == (BASE + 1, b"a")


def test_p77_a_group_that_cannot_go_on_holds_up_no_other(store: KeyValueStore) -> None:
    store.create(9, ShardDescriptor(b"\0\5", b"\0\6", range_epoch=EPOCH), MEMBERSHIP_BYTES)
    newer = b"\2" + put(key(2), b"").encode()[1:]
    runs = CommittedRuns()
    runs.append(GROUP, 1, 1, 1, [b"", newer, b""])
    runs.append(9, 1, 1, 1, [commands.encode_put(5, EPOCH, b"\0\5k", b"v")])
    runs.append(GROUP, 4, 1, 1, [b""])
    runs.append(GROUP, 5, 1, MEMBERSHIP_RUN, [b"change"])
    runs.append(9, 2, 1, 1, [b""])
    held = CommittedRuns()
    assert store.apply(runs, 100, held) == 3
    assert runs.done == len(runs)
    assert store.stopped == ApplyStop.STOP_DONE
    assert store.get(9, b"\0\5k") == (1, b"v")
    assert [(group, first, kind, len(payloads)) for group, first, _, kind, payloads in held] == [
        (GROUP, 2, 1, 2),
        (GROUP, 4, 1, 1),
        (GROUP, 5, MEMBERSHIP_RUN, 1),
    ]
    assert [(group, first, len(payloads)) for group, first, _, _, payloads in runs] == [
        (GROUP, 1, 1),
        (9, 1, 1),
        (GROUP, 4, 0),
        (GROUP, 5, 0),
        (9, 2, 1),
    ]


def test_what_was_held_goes_on_once_the_reason_is_gone(home: Home) -> None:
    store = open_with_shard(home, TINY, ManualJobs())
    jobs: Any = store._flush_jobs
    runs, held, again = runs_of(puts(600), 1), CommittedRuns(), CommittedRuns()
    done = store.apply(runs, 1000, held)
    store.freeze(GROUP)
    more = runs_of(puts(600), 601)
    store.apply(more, 1000, held)
    assert more.skip(0) == 0, "nothing overtakes what is held"
    store.flush(GROUP)
    jobs.run()
    store.release()
    while held.done < len(held):
        applied = store.apply(held, 1000, again)
        done += applied
        store.freeze(GROUP)
        if not store.shard(GROUP).flushing:
            store.flush(GROUP)
        jobs.run()
        if len(again):
            store.release()
            held, again = again, CommittedRuns()
    assert done == 1200
    assert store.shard(GROUP).applied_index == 1200
    store.close()


def test_a_full_shard_stops_until_it_is_flushed(home: Home) -> None:
    store = open_with_shard(home, TINY)
    runs = runs_of(puts(300), 1)
    first = store.apply(runs, 1000)
    assert store.stopped == ApplyStop.STOP_FULL
    assert store.full(GROUP)
    store.freeze(GROUP)
    assert not store.full(GROUP)
    second = store.apply(runs, 1000)
    assert store.stopped == ApplyStop.STOP_FULL
    assert 0 < second < first, "while one is frozen the other may only be full once"
    store.flush(GROUP)
    while runs.done < len(runs):
        store.freeze(GROUP)
        store.flush(GROUP)
        store.apply(runs, 1000)
    assert len(scan_all(store)) == 300
    store.close()


def test_all_memtables_together_stop_it_too(home: Home) -> None:
    options = dataclasses.replace(SMALL, memtable_bytes_max=1 << 16, memtables_bytes_max=1 << 16)
    store = open_with_shard(home, options)
    store.create(9, ShardDescriptor(b"\0\5", b"\0\6", range_epoch=EPOCH), MEMBERSHIP_BYTES)
    other = [commands.encode_put(5, EPOCH, b"\0\5%d" % n, bytes(1000)) for n in range(100)]
    runs = runs_of(other, 1, group=9)
    assert store.apply(runs, 1000) < 100
    assert store.stopped == ApplyStop.STOP_FULL
    assert store.due(0) == [9]
    store.close()


# -- reads --------------------------------------------------------------------------------------------------------------


def test_deleted_keys_are_gone_from_memory_and_disk(store: KeyValueStore) -> None:
    apply_all(store, puts(10), 1)
    flush_now(store)
    apply_all(store, [delete(key(3)).encode(), delete_range(key(5), key(8)).encode()], 11)
    expected = [key(number) for number in (0, 1, 2, 4, 8, 9)]
    for _ in range(2):
        assert [entry[0] for entry in scan_all(store)] == expected
        assert [entry[0] for entry in scan_all(store, reverse=True)] == expected[::-1]
        for number in range(10):
            assert (store.get(GROUP, key(number)) is not None) == (key(number) in expected)
        assert store.get_many(GROUP, [key(3), key(4)]) == [None, (BASE + 5, b"v" * 20)]
        flush_now(store)
    assert store.table.shards[GROUP].active.count == 0


def test_a_key_put_after_its_range_was_deleted_is_there(store: KeyValueStore) -> None:
    """Also within one command, where both have the same revision."""
    apply_all(store, puts(3), 1)
    operations = [
        (OperationKind.OPERATION_PUT, key(0), b"before"),
        (OperationKind.OPERATION_DELETE_RANGE, PREFIX, DESCRIPTOR.end),
        (OperationKind.OPERATION_PUT, key(1), b"after"),
    ]
    apply_all(store, [commands.encode_batch(SPACE, EPOCH, operations)], 4)
    for _ in range(2):
        assert scan_all(store) == [(key(1), BASE + 4, b"after")]
        flush_now(store)


def test_reads_of_another_shards_keys_are_refused(store: KeyValueStore) -> None:
    for outside in (b"\0\0k", b"\0\2", b"\0\2k", b"\xff"):
        with pytest.raises(ShardMoved):
            store.get(GROUP, outside)
    for start, end in ((b"\0\0", b"\0\2"), (b"\0\1", b"\0\3"), (b"\0\1", b"")):
        with pytest.raises(ShardMoved):
            store.scan_page(GROUP, start, end, 10)
    with pytest.raises(ShardMoved):
        store.get(99, key(1))
    with pytest.raises(InvalidCommand):
        store.get(GROUP, "text")  # type: ignore[arg-type]
    with pytest.raises(InvalidCommand):
        store.get(GROUP, PREFIX + b"k" * 600)
    with pytest.raises(InvalidCommand):
        store.scan_page(GROUP, PREFIX + b"k" * 600, DESCRIPTOR.end, 10)
    with pytest.raises(InvalidCommand):
        store.scan_page(GROUP, PREFIX, DESCRIPTOR.end, 0)


def test_a_cold_read_goes_by_way_of_the_reader_thread(home: Home) -> None:
    readers = ManualJobs()
    writes = ManualJobs()
    store = open_with_shard(home, THREADED, writes, readers)
    apply_all(store, puts(3), 1)
    assert store.get(GROUP, key(1)) == (BASE + 2, b"v" * 20), "memory needs no thread"
    store.freeze(GROUP)
    store.flush(GROUP)
    writes.run()
    apply_all(store, [put(key(2), b"new").encode()], 4)
    assert store.get(GROUP, key(1)) is COLD
    assert store.get_many(GROUP, [key(1), key(2)]) == [COLD, (BASE + 4, b"new")]
    outcome = Outcome()
    store.read_cold(GROUP, [key(2), key(1), key(7)], outcome)
    assert not outcome.calls
    readers.run()
    assert outcome.result == [(BASE + 4, b"new"), (BASE + 2, b"v" * 20), None]
    assert store.scan_page(GROUP, PREFIX, DESCRIPTOR.end, 10) is COLD
    page = Outcome()
    store.scan_cold(GROUP, PREFIX, DESCRIPTOR.end, 2, done=page)
    readers.run()
    assert [entry[:2] for entry in page.result.entries] == [(key(0), BASE + 1), (key(1), BASE + 2)]
    assert page.result.resume == key(2)
    store.close()


def test_cold_reads_of_what_is_in_memory_or_not_here_are_answered_at_once(home: Home) -> None:
    store = open_with_shard(home, THREADED)
    apply_all(store, puts(1), 1)
    outcome, absent = Outcome(), Outcome()
    store.read_cold(GROUP, [key(0)], outcome)
    assert outcome.result == [(BASE + 1, b"v" * 20)]
    store.read_cold(99, [key(0)], absent)
    assert isinstance(absent.error, ShardMoved)
    store.close()


def test_p73_a_cold_read_of_a_shard_that_went_away_is_no_answer(home: Home) -> None:
    """Not None, which would say that the key is not there."""
    readers = ManualJobs()
    writes = ManualJobs()
    store = open_with_shard(home, THREADED, writes, readers)
    apply_all(store, puts(1), 1)
    store.freeze(GROUP)
    store.flush(GROUP)
    writes.run()
    read, page = Outcome(), Outcome()
    store.read_cold(GROUP, [key(0)], read)
    store.scan_cold(GROUP, PREFIX, DESCRIPTOR.end, 10, done=page)
    store.drop(GROUP)
    writes.run()
    readers.run()
    assert isinstance(read.error, ShardMoved)
    assert isinstance(page.error, ShardMoved)
    store.close()


def test_auto_reads_on_the_loop_while_the_data_is_small(tmp_path: Path) -> None:
    for warm, cold in ((1 << 30, False), (1, True)):
        options = dataclasses.replace(SMALL, cold_reads="auto", warm_bytes_max=warm)
        store = open_with_shard(tmp_path / str(warm), options)
        assert store.table.cold == cold
        store.close()


def test_a_turn_sees_one_state_and_the_next_one_the_newest(home: Home) -> None:
    """What another turn's flush brought is seen after `end_turn`; what a flush took from memory is seen at once."""
    store = open_with_shard(home)
    apply_all(store, puts(2), 1)
    assert store.get(GROUP, key(5)) is None  # begins the turn's read transaction
    flush_now(store)
    assert store.get(GROUP, key(1)) == (BASE + 2, b"v" * 20)
    store.end_turn()
    assert store._reader._transaction is None
    store.close()


# -- flush --------------------------------------------------------------------------------------------------------------


def test_due_names_the_full_the_old_the_wanted_and_the_largest(home: Home) -> None:
    options = dataclasses.replace(
        SMALL, memtable_bytes_max=1 << 20, memtables_bytes_max=1 << 20, memtable_age_ns=1000
    )
    store = open_with_shard(home, options)
    store.create(9, ShardDescriptor(b"\0\5", b"\0\6", range_epoch=EPOCH), MEMBERSHIP_BYTES)
    assert store.due(0) == []
    apply_all(store, puts(10), 1)
    assert store.due(5000) == [], "its age counts from when it was first seen"
    assert store.due(5999) == []
    assert store.due(6000) == [GROUP]
    flush_now(store)
    assert store.due(9000) == []
    apply_all(store, puts(10), 11)
    store.request_flush([GROUP, 99])
    assert store.due(9000) == [GROUP]
    flush_now(store)
    apply_all(store, puts(10), 21)
    large = [commands.encode_put(5, EPOCH, b"\0\5%d" % n, bytes(1000)) for n in range(800)]
    apply_all(store, large, 1, group=9)
    assert store.due(9000) == [9], "the largest makes room"
    store.freeze(GROUP)
    assert store.due(9000) == [9, GROUP], "what is frozen and not being flushed is due"
    store.close()


def test_an_index_that_moved_without_data_becomes_durable_too(home: Home) -> None:
    store = open_with_shard(home)
    apply_all(store, [b"", b""], 1, term=4)
    assert flush_now(store) == 2
    store.close()
    store = open_store(home)
    (record,) = store.shards()
    assert (record.applied_index, record.applied_term) == (2, 4)
    store.close()


def test_flushing_what_is_clean_or_in_flight(home: Home) -> None:
    jobs = ManualJobs()
    store = open_with_shard(home, SMALL, jobs)
    outcome = Outcome()
    assert store.freeze(GROUP) == 0
    store.flush(GROUP, outcome)
    assert outcome.result == 0
    apply_all(store, puts(1), 1)
    store.freeze(GROUP)
    store.flush(GROUP)
    with pytest.raises(InvariantViolation):
        store.flush(GROUP)
    jobs.run()
    assert store.shard(GROUP).flushed_index == 1
    store.close()


def test_a_flush_that_waits_for_a_shards_first_record_is_made_again(tmp_path: Path) -> None:
    jobs = ManualJobs()
    store = open_store(tmp_path, SMALL, jobs)
    store.create(9, ShardDescriptor(b"\0\5", b"\0\6", range_epoch=EPOCH), MEMBERSHIP_BYTES)
    store.create(GROUP, DESCRIPTOR, MEMBERSHIP_BYTES)  # its record waits behind that of 9
    apply_all(store, puts(1), 1)
    first, second = Outcome(), Outcome()
    store.freeze(GROUP)
    store.flush(GROUP, first)
    jobs.run()
    assert first.result is None
    assert store.due(0) == [GROUP]
    store.flush(GROUP, second)
    jobs.run()
    assert second.result == 1
    store.close()


# -- shards -------------------------------------------------------------------------------------------------------------


def test_shards_come_back_as_they_were(home: Home) -> None:
    store = open_store(home)
    done = Outcome()
    descriptor = ShardDescriptor(b"\0\5", b"\0\6", 3, 4, 5, 6, 7, b"extra")
    store.create(9, descriptor, b"nine", index=100, term=7, done=done)
    store.create(2, DESCRIPTOR, b"two")
    assert done.calls == [(None, None)]
    store.close()
    store = open_store(home)
    two, nine = store.shards()
    assert (two.group, two.descriptor, two.membership) == (2, DESCRIPTOR, b"two")
    assert (nine.group, nine.descriptor, nine.membership) == (9, descriptor, b"nine")
    assert (nine.applied_index, nine.applied_term) == (100, 7)
    store.close()


def test_shards_must_not_overlap(store: KeyValueStore) -> None:
    for start, end in ((b"", b""), (b"\0\1a", b"\0\1b"), (b"", b"\0\1\0"), (b"\0\1\xff", b"")):
        with pytest.raises(InvariantViolation):
            store.create(9, ShardDescriptor(start, end), b"")
    store.create(9, ShardDescriptor(b"", DESCRIPTOR.start), b"")
    store.create(10, ShardDescriptor(DESCRIPTOR.end, b""), b"")
    with pytest.raises(InvariantViolation):
        store.create(GROUP, ShardDescriptor(b"\0\5", b"\0\6"), b"")


@pytest.mark.parametrize("keep", [False, True])
def test_a_dropped_shard_leaves_nothing_or_its_keys_to_another(home: Home, keep: bool) -> None:
    store = open_with_shard(home)
    apply_all(store, puts(5), 1)
    flush_now(store)
    apply_all(store, puts(2), 6)
    done = Outcome()
    store.drop(GROUP, done, keep_data=keep)
    assert done.result is None
    store.create(9, DESCRIPTOR, MEMBERSHIP_BYTES)
    assert len(scan_all(store, group=9)) == (5 if keep else 0)
    store.close()
    store = open_store(home)
    assert [record.group for record in store.shards()] == [9]
    store.close()


def test_p72_a_command_of_another_epoch_does_nothing_when_it_is_applied(
    store: KeyValueStore,
) -> None:
    """Though it was right when it was proposed: the range changed in between."""
    proposed = put(key(1), b"late").encode()
    store.describe(GROUP, dataclasses.replace(DESCRIPTOR, range_epoch=EPOCH + 1))
    (result,) = apply_all(store, [proposed], 1)
    assert isinstance(result, ShardMoved)
    assert result.epoch == EPOCH + 1
    assert store.get(GROUP, key(1)) is None
    assert store.shard(GROUP).applied_index == 1


def test_p96_a_new_base_lifts_revisions_and_is_durable(home: Home) -> None:
    store = open_with_shard(home)
    (before,) = apply_all(store, [put(key(1), b"a").encode()], 1)
    store.describe(GROUP, dataclasses.replace(DESCRIPTOR, revision_base=BASE + 500))
    (after,) = apply_all(store, [put(key(1), b"b").encode()], 2)
    assert after == BASE + 502 > before
    flush_now(store)
    store.close()
    store = open_store(home)
    (again,) = apply_all(store, [put(key(1), b"c").encode()], 3)
    assert again == BASE + 503
    condition = (ConditionKind.CONDITION_REVISION, key(1), before)
    batch = commands.encode_batch(SPACE, EPOCH, [], [condition])
    (refused,) = apply_all(store, [batch], 4)
    assert isinstance(refused, PreconditionFailed)
    store.close()


# -- the disk -----------------------------------------------------------------------------------------------------------


def test_p16_no_default_leaves_out_a_sync(tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, relaxed=False)
    store = open_with_shard(tmp_path, options)
    flags = store._tree.env.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]
    store.close()


def test_p14_a_full_map_is_grown_and_nobody_sees_it(home: Home) -> None:
    store = open_with_shard(home, dataclasses.replace(SMALL, map_bytes=1 << 20))
    before = store.space().map_bytes
    count = 0
    while store.space().map_bytes < 8 * before:
        more = [put(key(number), b"v" * 3000).encode() for number in range(count, count + 200)]
        apply_all(store, more, 1 + count)
        assert (
            store.get(GROUP, key(0)) is not None
        )  # the turn's read transaction is open when the map grows
        count += 200
        assert flush_now(store) == count
        assert store.get(GROUP, key(count - 1)) == (BASE + count, b"v" * 3000)
    assert len(scan_all(store)) == count
    store.close()


def test_p14_reads_go_on_when_the_map_grows_under_them(home: Home) -> None:
    store = open_with_shard(home, dataclasses.replace(SMALL, map_bytes=1 << 20))
    apply_all(store, puts(10), 1)
    flush_now(store)
    assert store.get(GROUP, key(1)) is not None
    store._tree.grow()
    assert store.get(GROUP, key(1)) == (BASE + 2, b"v" * 20)
    store._tree.grow()
    assert isinstance(store.scan_page(GROUP, PREFIX, DESCRIPTOR.end, 3), ScanPage)
    store._tree.grow()
    assert store.get(GROUP, key(77)) is None
    assert store.failed is None
    store.close()


def test_an_error_of_a_read_that_no_growth_explains_is_final(home: Home) -> None:
    store = open_with_shard(home)
    apply_all(store, puts(1), 1)
    flush_now(store)
    assert store.get(GROUP, key(0)) is not None
    store._reader._transaction.abort()
    with pytest.raises(StorageError):
        store.get(GROUP, key(0))
    assert store.failed is not None
    store.close()


def test_p11_the_first_failed_write_is_the_last(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_with_shard(home)
    told: list[StorageError] = []
    store.on_failed = told.append
    apply_all(store, puts(1), 1)
    broken = True

    def fails(*arguments: Any) -> None:
        if broken:
            raise lmdb.DiskError("mdb_txn_commit")
        real(*arguments)

    real = flush.put_record
    monkeypatch.setattr(flush, "put_record", fails)
    first, second = Outcome(), Outcome()
    store.freeze(GROUP)
    store.flush(GROUP, first)
    assert isinstance(first.error, SyncFailed)
    broken = False
    store.flush(GROUP, second)
    assert second.error is first.error, "no retry that succeeds"
    with pytest.raises(SyncFailed):
        store.apply(runs_of([b""], 2), 10)
    assert told == [first.error]
    store.close()
    home.disk.remove(home.path / NOTE_FILE)  # as where the machine was restarted
    store = open_store(home)
    assert store.shard(GROUP).applied_index == 0
    store.close()


def test_p13_without_room_a_flush_does_nothing_and_heals(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_with_shard(home)
    apply_all(store, puts(10), 1)
    with monkeypatch.context() as full:
        full.setattr(store._tree, "make_room", lambda more: False)
        outcome = Outcome()
        store.freeze(GROUP)
        store.flush(GROUP, outcome)
        assert isinstance(outcome.error, NoSpace)
    assert store.failed is None
    assert store.get(GROUP, key(3)) == (BASE + 4, b"v" * 20)
    assert store.due(0) == [GROUP]
    assert flush_now(store) == 10
    store.close()


def test_room_is_there_before_a_flush_needs_it(home: Home) -> None:
    store = open_with_shard(home, dataclasses.replace(SMALL, map_bytes=1 << 28))
    tree = store._tree
    assert tree.make_room(5 << 20)
    size = tree.file_bytes()
    assert size >= 5 << 20
    data = tree.disk.open(tree.file)
    assert data.allocated_bytes() >= 5 << 20, "blocks, not a hole"
    data.close()
    assert not tree.make_room(1 << 60)
    assert tree.file_bytes() == size
    apply_all(store, puts(100), 1)
    flush_now(store)
    space = store.space()
    assert space.used_bytes < space.file_bytes
    assert not space.scarce
    assert dataclasses.replace(space, reserve_bytes=1 << 60).scarce
    store.close()


def test_a_file_cut_short_is_refused_before_it_is_read(tmp_path: Path) -> None:
    store = open_with_shard(tmp_path)
    apply_all(store, puts(1000), 1)
    flush_now(store)
    last = store._tree.env.info()["last_pgno"]
    store.close()
    with open(tmp_path / "data.mdb", "r+b") as file:
        file.truncate(last * 4096)
    with pytest.raises(StorageError, match="cut short"):
        open_store(tmp_path)


def test_the_store_of_another_log_is_refused(home: Home) -> None:
    open_with_shard(home, dataclasses.replace(SMALL, store_id=77)).close()
    store = open_store(home)
    assert store.store_id == 77
    store.close()
    with pytest.raises(WrongStore):
        open_store(home, dataclasses.replace(SMALL, store_id=78))


@pytest.mark.parametrize("database", ["shards", "meta"])
def test_a_damaged_record_of_a_shard_or_the_store_is_refused_at_open(
    tmp_path: Path, database: str
) -> None:
    store = open_with_shard(tmp_path)
    tree = store._tree
    with tree.env.begin(write=True) as transaction:
        handle = getattr(tree, database)
        cursor = transaction.cursor(handle)
        cursor.first()
        name, value = cursor.item()
        transaction.put(name, value[:-1] + bytes([value[-1] ^ 1]), db=handle)
    store.close()
    with pytest.raises(StorageError):
        open_store(tmp_path)


def test_a_newer_format_of_the_store_is_refused(tmp_path: Path) -> None:
    import struct

    from multiraft._core import crc32c
    from multiraft.machine.tree import META_KEY

    store = open_with_shard(tmp_path)
    body = struct.pack("<IQ", 2, 0)
    with store._tree.env.begin(write=True) as transaction:
        value = struct.pack("<I", crc32c(body)) + body
        transaction.put(META_KEY, value, db=store._tree.meta)
    store.close()
    with pytest.raises(FormatUnsupported):
        open_store(tmp_path)


def test_a_shard_that_has_only_begun_is_read_on_a_thread_as_well(home: Home) -> None:
    """Its record is still on its way to the tree: that is no reason to say that it is not here."""
    jobs, readers = ManualJobs(), ManualJobs()
    store = open_store(home, THREADED, jobs, readers)
    store.create(GROUP, DESCRIPTOR, MEMBERSHIP_BYTES)
    apply_all(store, [put(PREFIX + b"a", b"v").encode()], first=1)
    read, scanned = Outcome(), Outcome()
    store.read_cold(GROUP, [PREFIX + b"a", PREFIX + b"b"], read)
    store.scan_cold(GROUP, DESCRIPTOR.start, DESCRIPTOR.end, 10, done=scanned)
    readers.run()
    assert read.result == [(BASE + 1, b"v"), None]
    assert [(key, value) for key, _, value in scanned.result.entries] == [(PREFIX + b"a", b"v")]
    jobs.run()
    store.drop(GROUP)
    gone = Outcome()
    store.read_cold(GROUP, [PREFIX + b"b"], gone)
    assert isinstance(gone.error, ShardMoved)
    jobs.close()
    store.close()


def test_p91_a_store_whose_tree_cannot_be_read_is_refused_by_a_storage_error(
    tmp_path: Path,
) -> None:
    """The root of the tree lies where the file has no page: one flipped bit in a meta page can say so."""
    open_with_shard(tmp_path).close()
    with (tmp_path / "data.mdb").open("r+b") as file:
        for page in (0, 4096):
            file.seek(page + 130)
            file.write(b"\x40")
    with pytest.raises(StorageError, match="cannot be read"):
        open_with_shard(tmp_path)
