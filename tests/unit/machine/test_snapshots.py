"""Snapshots of shards: whole files, what is refused, what is ignored, and what a crash in between leaves behind."""

from __future__ import annotations

import dataclasses
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from multiraft import disk
from multiraft._core import CommittedRuns, crc32c
from multiraft.disk import RealDisk
from multiraft.errors import (
    FormatUnsupported,
    NoSpace,
    Overloaded,
    PeerProtocolError,
    ShardMoved,
    SyncFailed,
)
from multiraft.interfaces import Member, Membership, SnapshotRecord
from multiraft.machine import flush
from multiraft.machine.chunks import Items, check_chunk, pack_chunk
from multiraft.machine.descriptors import ShardDescriptor, ShardRecord
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.pages import make_record
from multiraft.machine.shards import ApplyStop
from multiraft.machine.snapshot import (
    Kind,
    SnapshotInfo,
    check_snapshot,
    outcome_at_open,
    read_chunks,
    read_entries,
    write_snapshot,
)
from multiraft.machine.snapshot import (
    Outcome as AtOpen,
)
from multiraft.records import encode_membership
from tests.unit.disks import Home
from tests.unit.machine.harness import (
    BASE,
    DESCRIPTOR,
    EPOCH,
    GROUP,
    MEMBERSHIP,
    MEMBERSHIP_BYTES,
    PREFIX,
    SMALL,
    ManualJobs,
    Outcome,
    apply_all,
    open_store,
    open_with_shard,
    put,
    runs_of,
    scan_all,
    snapshot_record,
)

STATE = ShardRecord(GROUP, 40, 3, MEMBERSHIP_BYTES, DESCRIPTOR, b"sessions")  # type: ignore[arg-type]


def key(number: int) -> bytes:
    return PREFIX + b"%06d" % number


def entries(count: int, size: int = 30) -> list[tuple[bytes, bytes]]:
    return [
        (key(number), make_record(key(number), number, 0, b"v" * size)) for number in range(count)
    ]


def write_file(path: Path, count: int = 50, per_chunk: int = 20) -> SnapshotInfo:
    pairs = entries(count)
    chunks = [pairs[at : at + per_chunk] for at in range(0, count, per_chunk)]
    return write_snapshot(
        RealDisk(), path, Kind.KEYS, STATE, [(pack_chunk(chunk), len(chunk)) for chunk in chunks]
    )


def snapshot_now(store: KeyValueStore, path: Path) -> SnapshotInfo:
    outcome = Outcome()
    store.snapshot(GROUP, path, outcome)
    info: SnapshotInfo = outcome.result
    return info


def install_now(store: KeyValueStore, path: Path, record: SnapshotRecord) -> bool:
    outcome = Outcome()
    store.install(GROUP, path, record, outcome)
    installed: bool = outcome.result
    return installed


@pytest.fixture
def leader(home: Home) -> Any:
    """A store with 30 keys at index 30, some on disk and some in memory, and one deleted."""
    store = open_with_shard(home / "leader")
    apply_all(store, [put(key(n), b"%d" % n).encode() for n in range(20)], 1, term=2)
    store.freeze(GROUP)
    store.flush(GROUP)
    apply_all(store, [put(key(n), b"%d" % n).encode() for n in range(20, 30)], 21, term=3)
    yield store
    store.close()


@pytest.fixture
def follower(home: Home) -> Any:
    store = open_with_shard(home / "follower")
    apply_all(store, [put(PREFIX + b"old", b"gone afterwards").encode()], 1)
    yield store
    store.close()


# -- files --------------------------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    info = write_file(tmp_path / "file")
    assert check_snapshot(RealDisk(), tmp_path / "file") == info
    assert (info.index, info.term, info.records) == (40, 3, 50)
    assert info.size == (tmp_path / "file").stat().st_size
    assert (info.membership, info.descriptor, info.sessions) == (
        MEMBERSHIP_BYTES,
        DESCRIPTOR,
        b"sessions",
    )
    assert [
        pair for some in read_entries(RealDisk(), tmp_path / "file") for pair in some
    ] == entries(50)
    assert info.record().applied_index == 40


def test_an_empty_file_of_no_records_is_whole(tmp_path: Path) -> None:
    info = write_snapshot(RealDisk(), tmp_path / "file", Kind.KEYS, STATE, [])
    assert check_snapshot(RealDisk(), tmp_path / "file") == info
    assert list(read_entries(RealDisk(), tmp_path / "file")) == []


def test_a_users_file_holds_any_bytes(tmp_path: Path) -> None:
    write_snapshot(
        RealDisk(), tmp_path / "file", Kind.BYTES, STATE, [(b"any", 0), (b"\0" * 100_000, 0)]
    )
    assert check_snapshot(RealDisk(), tmp_path / "file").kind == Kind.BYTES
    assert list(read_chunks(RealDisk(), tmp_path / "file")) == [b"any", b"\0" * 100_000]


def test_p21_a_file_is_synced_before_it_has_its_name_and_its_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real_sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        steps.append(f"rename {old.name} {new.name}")
        real_rename(old, new)

    monkeypatch.setattr(disk.os, "fsync", fsync)
    monkeypatch.setattr(disk.os, "replace", rename)
    write_file(tmp_path / "file")
    assert steps == ["sync file.part", "rename file.part file", f"sync {tmp_path.name}"]


def test_a_file_that_failed_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"some", 0
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_snapshot(RealDisk(), tmp_path / "file", Kind.BYTES, STATE, chunks())
    assert list(tmp_path.iterdir()) == []


def test_p17_a_file_cut_short_anywhere_is_not_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "file", count=6, per_chunk=3)
    whole = (tmp_path / "file").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(PeerProtocolError):
            check_snapshot(RealDisk(), tmp_path / "cut")
    (tmp_path / "cut").write_bytes(whole + b"\0")
    with pytest.raises(PeerProtocolError):
        check_snapshot(RealDisk(), tmp_path / "cut")


@pytest.mark.slow
def test_p59_a_file_with_a_bit_flipped_in_any_byte_is_not_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "file", count=6, per_chunk=3)
    whole = (tmp_path / "file").read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises((PeerProtocolError, FormatUnsupported)):
            check_snapshot(RealDisk(), tmp_path / "damaged")


def test_p59_a_chunk_is_checked_again_when_it_is_used(tmp_path: Path) -> None:
    """The disk may have changed it since the whole file was checked."""
    write_file(tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    body = next(read_chunks(RealDisk(), tmp_path / "file"))
    at = whole.index(body) + len(body) // 2
    (tmp_path / "file").write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
    with pytest.raises(PeerProtocolError, match="chunk is damaged"):
        list(read_entries(RealDisk(), tmp_path / "file"))


def test_lengths_that_promise_more_than_there_is_cost_nothing(tmp_path: Path) -> None:
    write_file(tmp_path / "file", count=6, per_chunk=3)
    whole = (tmp_path / "file").read_bytes()
    for at in (32, 36, 40):
        for length in (2**32 - 1, 2**26):
            damaged = bytearray(whole)
            struct.pack_into("<I", damaged, at, length)
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(PeerProtocolError):
                check_snapshot(RealDisk(), tmp_path / "damaged")


def test_chunks_hold_sound_records_in_order_inside_the_shard() -> None:
    pairs = entries(5)
    body = pack_chunk(pairs)
    assert check_chunk(body, 5, b"", PREFIX, b"\0\2") == key(4)
    assert Items(body).take(100) == pairs
    items = Items(body)
    assert [len(items.take(2)) for _ in range(4)] == [2, 2, 1, 0]
    wrong = make_record(key(9), 1, 0, b"")
    for bad in (
        (pack_chunk(pairs), 4, b"", PREFIX, b"\0\2"),
        (pack_chunk(pairs), 6, b"", PREFIX, b"\0\2"),
        (pack_chunk(pairs[::-1]), 5, b"", PREFIX, b"\0\2"),
        (pack_chunk(pairs), 5, key(0), PREFIX, b"\0\2"),
        (pack_chunk(pairs), 5, b"", key(1), b"\0\2"),
        (pack_chunk(pairs), 5, b"", PREFIX, key(4)),
        (pack_chunk([*pairs, (key(7), wrong)]), 6, b"", PREFIX, b"\0\2"),
        (body[:-1], 5, b"", PREFIX, b"\0\2"),
        (body + b"\0", 5, b"", PREFIX, b"\0\2"),
    ):
        with pytest.raises(PeerProtocolError):
            check_chunk(*bad)


def test_p82_no_chunk_of_anybody_makes_the_reader_stumble() -> None:
    draw = random.Random(1)
    body = pack_chunk(entries(4, size=5))
    for _ in range(20_000):
        damaged = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        cut = bytes(damaged[: draw.randint(0, len(damaged))])
        for call in (
            lambda cut=cut: check_chunk(cut, 4, b"", PREFIX, b"\0\2"),
            lambda cut=cut: Items(cut).take(100),
        ):
            try:
                call()
            except PeerProtocolError:
                continue


# -- out and in ---------------------------------------------------------------------------------------------------------


def test_p56_a_snapshot_is_of_the_last_entry_applied_and_its_term(
    leader: KeyValueStore, home: Home
) -> None:
    info = snapshot_now(leader, home.path / "file")
    assert (info.index, info.term, info.records) == (30, 3, 30)
    assert leader.shard(GROUP).flushed_index == 20, "it reads memory, and flushes nothing"


def test_a_snapshot_brings_a_follower_to_the_same_state(
    leader: KeyValueStore, follower: KeyValueStore, home: Home
) -> None:
    info = snapshot_now(leader, home.path / "file")
    assert install_now(follower, home.path / "file", snapshot_record(info))
    assert scan_all(follower) == scan_all(leader)
    shard = follower.shard(GROUP)
    assert (shard.applied_index, shard.applied_term, shard.flushed_index) == (30, 3, 30)
    apply_all(follower, [put(key(99), b"on").encode()], 31)
    assert follower.get(GROUP, key(99)) == (BASE + 31, b"on")


def test_p52_the_membership_and_all_else_of_a_shard_come_with_its_snapshot(
    leader: KeyValueStore, follower: KeyValueStore, home: Home
) -> None:
    """... and outlive a restart: nothing behind it needs the log."""
    changed = encode_membership(Membership((*MEMBERSHIP.members, Member(3, 3, 1))))  # type: ignore[arg-type]
    leader.membership_applied(GROUP, 31, 4, changed)
    descriptor = dataclasses.replace(DESCRIPTOR, range_epoch=EPOCH + 2, replica_next=9)
    leader.describe(GROUP, descriptor)
    install_now(
        follower, home.path / "file", snapshot_record(snapshot_now(leader, home.path / "file"))
    )
    assert follower.shard(GROUP).membership == changed
    follower.close()
    again = open_store(home / "follower")
    (record,) = again.shards()
    assert (record.applied_index, record.applied_term) == (31, 4)
    assert (record.membership, record.descriptor) == (changed, descriptor)
    again.close()


def test_p53_a_snapshot_at_or_below_the_applied_index_is_ignored(
    leader: KeyValueStore, home: Home
) -> None:
    info = snapshot_now(leader, home.path / "file")
    before = scan_all(leader)
    assert not install_now(leader, home.path / "file", snapshot_record(info))
    apply_all(leader, [b""], 31)
    assert not install_now(leader, home.path / "file", snapshot_record(info))
    assert scan_all(leader) == before
    assert not leader.shard(GROUP).installing


def test_p60_of_two_snapshots_in_quick_succession_the_second_waits_or_is_ignored(
    leader: KeyValueStore, home: Home
) -> None:
    jobs = ManualJobs()
    follower = open_with_shard(home / "other", SMALL, jobs)
    older = snapshot_record(snapshot_now(leader, home.path / "older"))
    leader.flush(GROUP)
    apply_all(leader, [put(key(1), b"newer").encode()], 31)
    newer = snapshot_record(snapshot_now(leader, home.path / "newer"))
    first, second, third, fourth = Outcome(), Outcome(), Outcome(), Outcome()
    follower.install(GROUP, home.path / "older", older, first)
    follower.install(GROUP, home.path / "newer", newer, second)
    assert isinstance(second.error, Overloaded), "nothing happened; it is offered again"
    jobs.run()
    assert first.result is True
    follower.install(GROUP, home.path / "newer", newer, third)
    jobs.run()
    assert third.result is True
    follower.install(GROUP, home.path / "older", older, fourth)
    assert fourth.result is False
    assert follower.shard(GROUP).applied_index == 31
    assert follower.get(GROUP, key(1)) == (BASE + 31, b"newer")
    follower.close()


def test_p59_a_damaged_or_wrong_file_changes_nothing(
    leader: KeyValueStore, follower: KeyValueStore, home: Home
) -> None:
    info = snapshot_now(leader, home.path / "file")
    record = snapshot_record(info)
    before = scan_all(follower)
    whole = home.disk.read(home.path / "file")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 4
    home.disk.write(home.path / "damaged", bytes(damaged))
    wrong = [
        ("damaged", record),
        ("file", dataclasses.replace(record, crc=record.crc ^ 1)),
        ("file", dataclasses.replace(record, size=record.size + 1)),
        ("file", dataclasses.replace(record, base=dataclasses.replace(record.base, term=9))),
        ("file", dataclasses.replace(record, base=dataclasses.replace(record.base, index=31))),
    ]
    for name, claim in wrong:
        outcome = Outcome()
        follower.install(GROUP, home.path / name, claim, outcome)
        assert isinstance(outcome.error, PeerProtocolError)
        assert scan_all(follower) == before
        assert not follower.shard(GROUP).installing
    missing = Outcome()
    follower.install(GROUP, home.path / "missing", record, missing)
    assert isinstance(missing.error, OSError)
    apply_all(follower, [put(key(1), b"goes on").encode()], 2)
    assert install_now(follower, home.path / "file", record), "and a whole one is taken afterwards"


def test_a_shard_that_met_an_unknown_command_goes_on_behind_a_snapshot_that_it_can_read(
    leader: KeyValueStore, follower: KeyValueStore, home: Home
) -> None:
    newer = b"\2" + put(key(2), b"").encode()[1:]
    stopped = runs_of([newer, put(key(3), b"behind").encode()], 2)
    held = CommittedRuns()
    assert follower.apply(stopped, 100, held) == 0
    assert GROUP in follower.alarms()
    before = scan_all(follower)
    info = snapshot_now(leader, home.path / "file")
    record = snapshot_record(info)

    of_another_format = bytearray(home.disk.read(home.path / "file"))
    of_another_format[4] += 1
    home.disk.write(home.path / "newer", bytes(of_another_format))
    refused = Outcome()
    follower.install(GROUP, home.path / "newer", record, refused)
    assert isinstance(refused.error, FormatUnsupported)
    follower.release()
    assert follower.apply(held, 100) == 0
    assert follower.stopped == ApplyStop.STOP_FORMAT
    assert GROUP in follower.alarms()
    assert follower.shard(GROUP).alarm is not None
    assert scan_all(follower) == before

    assert install_now(follower, home.path / "file", record)
    assert not follower.alarms()
    assert follower.shard(GROUP).alarm is None
    follower.release()
    assert follower.apply(held, 100) == 2, "what was held lies below the snapshot: passed over"
    assert scan_all(follower) == scan_all(leader)
    apply_all(follower, [put(key(1), b"goes on").encode()], 31)
    assert follower.get(GROUP, key(1)) == (BASE + 31, b"goes on")


def test_p66_a_snapshot_that_overlaps_another_shard_is_refused(
    leader: KeyValueStore, home: Home
) -> None:
    info = snapshot_now(leader, home.path / "file")
    store = open_store(home / "other")
    left = dataclasses.replace(DESCRIPTOR, end=key(10))
    right = dataclasses.replace(DESCRIPTOR, start=key(10))
    store.create(GROUP, left, MEMBERSHIP_BYTES)
    store.create(9, right, MEMBERSHIP_BYTES)
    apply_all(store, [put(key(20), b"of another").encode()], 1, group=9)
    outcome = Outcome()
    store.install(GROUP, home.path / "file", snapshot_record(info), outcome)
    assert isinstance(outcome.error, ShardMoved)
    assert store.get(9, key(20)) == (BASE + 1, b"of another")
    assert store.shard(GROUP).applied_index == 0
    store.drop(9)
    assert install_now(store, home.path / "file", snapshot_record(info)), "once it is gone, it fits"
    store.close()


def test_an_installing_shard_applies_nothing_and_shows_the_old_state_until_the_new(
    leader: KeyValueStore, home: Home
) -> None:
    record = snapshot_record(snapshot_now(leader, home.path / "file"))
    jobs = ManualJobs()
    store = open_with_shard(home / "other", SMALL, jobs)
    apply_all(store, [put(key(1), b"old").encode()], 1)
    outcome = Outcome()
    store.install(GROUP, home.path / "file", record, outcome)
    assert store.get(GROUP, key(1)) == (BASE + 1, b"old")
    assert store.apply(runs_of([b""], 2), 10) == 0
    assert store.stopped == ApplyStop.STOP_INSTALLING
    assert store.freeze(GROUP) == 0
    assert store.due(10**18) == []
    jobs.run()
    assert outcome.result
    assert store.get(GROUP, key(1)) == (BASE + 2, b"1")
    store.close()


def test_p92_a_flush_queued_before_an_install_changes_nothing_after_it(
    leader: KeyValueStore, home: Home
) -> None:
    """Whatever worker is the faster one: the flush's own state is gone, so it is void."""
    record = snapshot_record(snapshot_now(leader, home.path / "file"))
    writes = ManualJobs()
    store = open_with_shard(home / "other", SMALL, writes, ManualJobs(), ManualJobs())
    apply_all(store, [put(key(1), b"late").encode(), put(PREFIX + b"x", b"late").encode()], 1)
    flushed, installed = Outcome(), Outcome()
    store.freeze(GROUP)
    store.flush(GROUP, flushed)
    late = writes.queued.popleft()
    store.install(GROUP, home.path / "file", record, installed)
    store._transfers._files.run()  # type: ignore[attr-defined]
    writes.work()
    writes.queued.append(late)
    writes.work()
    writes.run()
    assert installed.result is True
    assert flushed.calls == [(None, None)]
    assert scan_all(store) == scan_all(leader)
    store.close()
    store = open_store(home / "other")
    assert store.shard(GROUP).applied_index == 30
    assert scan_all(store) == scan_all(leader)
    store.close()


def test_pages_and_snapshots_under_way_during_an_install_are_of_one_state(
    leader: KeyValueStore, home: Home
) -> None:
    """The frozen memtable of before must not be laid over the tree of after."""
    record = snapshot_record(snapshot_now(leader, home.path / "file"))
    writes, readers, files = ManualJobs(), ManualJobs(), ManualJobs()
    options = dataclasses.replace(SMALL, cold_reads="thread")
    store = open_with_shard(home / "other", options, writes, readers, files)
    apply_all(store, [put(PREFIX + b"x", b"old").encode()], 1)
    page, read, written, installed = Outcome(), Outcome(), Outcome(), Outcome()
    store.freeze(GROUP)
    store.install(GROUP, home.path / "file", record, installed)
    files.run()
    store.scan_cold(GROUP, PREFIX, DESCRIPTOR.end, 1000, done=page)
    store.read_cold(GROUP, [key(5)], read)
    store.snapshot(GROUP, home.path / "second", written)
    writes.work()  # the tree holds the new state, and nobody has been told
    for _ in range(3):
        assert readers.work()
        assert readers.tell()
    assert not page.calls
    assert not read.calls
    files.run()
    writes.run()
    readers.run()
    assert installed.result
    assert page.result.entries == scan_all(leader)
    assert read.result == [(BASE + 6, b"5")]
    assert written.result.index == 30
    assert written.result.records == 30
    store.close()


@pytest.mark.parametrize("error", [SyncFailed, NoSpace])
def test_an_install_that_fails_to_write_leaves_the_old_state(
    leader: KeyValueStore,
    follower: KeyValueStore,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    import lmdb

    record = snapshot_record(snapshot_now(leader, home.path / "file"))
    before = scan_all(follower)
    outcome = Outcome()
    with monkeypatch.context() as broken:
        if error is NoSpace:
            broken.setattr(follower._tree, "make_room", lambda more: False)
        else:

            def fails(*_: Any) -> None:
                raise lmdb.DiskError("mdb_txn_commit")

            broken.setattr(flush, "put_record", fails)
        follower.install(GROUP, home.path / "file", record, outcome)
    assert isinstance(outcome.error, error)
    assert scan_all(follower) == before
    assert (follower.failed is not None) == (error is SyncFailed)


def test_p57_what_a_crash_left_of_an_install_is_finished_marked_or_dropped(
    leader: KeyValueStore, follower: KeyValueStore, home: Home
) -> None:
    path = home.path / "file"
    record = snapshot_record(snapshot_now(leader, path))
    applied = follower.shard(GROUP).applied_index
    assert outcome_at_open(home.disk, applied, GROUP, record, path) == AtOpen.FINISH
    assert outcome_at_open(home.disk, applied, GROUP + 1, record, path) == AtOpen.DROP
    assert outcome_at_open(home.disk, applied, GROUP, record, home.path / "none") == AtOpen.DROP
    cut = home.path / "cut"
    home.disk.write(cut, home.disk.read(path)[:-1])
    assert outcome_at_open(home.disk, applied, GROUP, record, cut) == AtOpen.DROP
    newer = home.path / "newer"
    home.disk.write(newer, home.disk.read(path).replace(b"\x01\x00", b"\x09\x00", 1))
    with pytest.raises(FormatUnsupported):
        check_snapshot(home.disk, newer)
    assert outcome_at_open(home.disk, applied, GROUP, record, newer) == AtOpen.DROP
    install_now(follower, path, record)
    applied = follower.shard(GROUP).applied_index
    for name in ("file", "none", "cut"):
        assert outcome_at_open(home.disk, applied, GROUP, record, home.path / name) == AtOpen.MARK


def test_a_snapshot_of_a_shard_that_is_not_here(leader: KeyValueStore, home: Home) -> None:
    with pytest.raises(ShardMoved):
        leader.snapshot(99, home.path / "file", Outcome())
    files = ManualJobs()
    store = open_with_shard(home / "other", SMALL, ManualJobs(), ManualJobs(), files)
    store._flush_jobs.run()  # type: ignore[attr-defined]
    outcome = Outcome()
    store.snapshot(GROUP, home.path / "file", outcome)
    store.drop(GROUP)
    store._flush_jobs.run()  # type: ignore[attr-defined]
    files.run()
    assert isinstance(outcome.error, ShardMoved)
    assert home.disk.size(home.path / "file") is None
    store.close()


def test_a_descriptor_that_is_not_sound_in_a_sound_head_is_refused(tmp_path: Path) -> None:
    """A peer may send anything under a right checksum."""
    info = write_file(tmp_path / "file", count=2)
    whole = bytearray((tmp_path / "file").read_bytes())
    at = whole.index(b"sessions") - 4
    whole[at : at + 4] = b"\0\2\0\1"
    head_end = at + 4 + len(b"sessions")
    struct.pack_into("<I", whole, head_end, crc32c(bytes(whole[:head_end])))
    struct.pack_into("<I", whole, info.size - 4, crc32c(bytes(whole[:-4])))
    (tmp_path / "file").write_bytes(whole)
    with pytest.raises(PeerProtocolError, match="descriptor"):
        check_snapshot(RealDisk(), tmp_path / "file")


def test_descriptors_say_what_overlaps() -> None:
    whole, low, high = ShardDescriptor(), ShardDescriptor(b"", b"m"), ShardDescriptor(b"m", b"")
    assert whole.overlaps(low)
    assert low.overlaps(whole)
    assert not low.overlaps(high)
    assert not high.overlaps(low)
    assert high.overlaps(ShardDescriptor(b"x", b"y"))
    with pytest.raises(ValueError):
        ShardDescriptor(b"b", b"a")
