"""The pitfalls that concern the durable log, by number."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import lmdb
import pytest

from multiraft._core import RunKind, decode_run
from multiraft.errors import InvariantViolation, LogCorrupt, StorageError, SyncFailed
from multiraft.ids import NodeId, ReplicaId
from multiraft.interfaces import HardState, Member, Membership, SnapshotRecord
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import Change, LogEnvironment
from multiraft.log.inspect import runs as runs_on_disk
from multiraft.log.lookup import figures
from multiraft.log.memory import MemoryLogStore
from multiraft.log.schema import LogSettings
from tests.unit.log import harness as h
from tests.unit.log.harness import RELAXED, Feeder, Threaded, open_inline, opened, read_entries, run

EAGER = replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)


def one_group(feeder: Feeder, entries: int = 5) -> None:
    feeder.append(h.created(1))
    for index in range(1, entries + 1):
        feeder.append(h.entries_run(1, index, 1, [f"entry {index}".encode()], prev_term=int(index > 1)))


# -- durable before it is said to be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["vote", "entry"])
def test_p01_p03_nothing_is_said_to_be_synced_before_the_commit_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def main() -> None:
        async with Threaded(tmp_path / "log") as it:
            it.feeder.append(h.created(1))
            await it.until(1)
            commit = LogEnvironment.commit
            entered, allowed = threading.Event(), threading.Event()

            def slow_commit(self: LogEnvironment, transaction: lmdb.Transaction[bytes]) -> None:
                entered.set()
                assert allowed.wait(20)
                commit(self, transaction)

            monkeypatch.setattr(LogEnvironment, "commit", slow_commit)
            vote = h.hard(1, HardState(term=3, vote=ReplicaId(2)))
            it.feeder.append(vote if what == "vote" else h.entries_run(1, 1, 1, [b"x"], prev_term=0))
            await asyncio.to_thread(entered.wait, 20)
            for _ in range(50):
                await asyncio.sleep(0)
            assert it.synced == [1]
            assert it.store.synced_sequence == 1
            allowed.set()
            await it.until(2)
            assert it.synced == [1, 2]

    run(main)


def test_p02_term_and_vote_are_one_record(tmp_path: Path) -> None:
    """Whatever prefix of batches a cut leaves, a term stands with the vote that was given in it."""
    states = [HardState(term=term, vote=ReplicaId(term % 3 + 1)) for term in range(1, 8)]
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    feeder.append(h.created(1))
    for state in states:
        feeder.append(h.hard(1, state))
    for keep in range(2, len(states) + 2):
        (found,) = store.crash(keep=keep).groups()
        assert (found.hard_state.term, found.hard_state.vote) == (states[keep - 2].term, states[keep - 2].vote)


def test_p11_the_first_failed_commit_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Threaded(tmp_path / "log") as it:
            one_group(it.feeder)
            await it.until(6)
            commit = LogEnvironment.commit
            tries: list[int] = []

            def failing(self: LogEnvironment, transaction: lmdb.Transaction[bytes]) -> None:
                tries.append(1)
                if len(tries) == 1:
                    raise lmdb.Error("mdb_txn_commit: Input/output error", errno.EIO)
                commit(self, transaction)

            monkeypatch.setattr(LogEnvironment, "commit", failing)
            told = list(it.synced)
            for index in range(6, 30):
                it.feeder.append(h.entries_run(1, index, 1, [b"x"], prev_term=1))
            await it.until(30)
            assert len(it.failed) == 1
            assert isinstance(it.failed[0], SyncFailed)
            with pytest.raises(SyncFailed):
                it.store.append(h.seal(31, it.store.store_id, [h.hard(1, HardState(term=9))]))
            for _ in range(50):
                await asyncio.sleep(0)
            assert it.synced == told, "something was acknowledged after a failed commit"
        assert len(tries) == 1, "a commit was tried again after one had failed"

    run(main)
    with opened(tmp_path / "log") as store:
        assert store.synced_sequence == 6


def test_p11_a_failed_write_of_the_boot_record_fails_the_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: LogEnvironment, transaction: lmdb.Transaction[bytes]) -> None:
        raise lmdb.Error("mdb_txn_commit: Input/output error", errno.EIO)

    with monkeypatch.context() as patch, pytest.raises(SyncFailed):
        patch.setattr(LogEnvironment, "commit", failing)
        open_inline(tmp_path / "log")
    with opened(tmp_path / "log") as store:
        assert store.boot_count == 1


# -- room -------------------------------------------------------------------------------------------------------------------------


def test_p13_a_full_disk_is_seen_before_a_commit_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room runs out while entries are written; the reserve carries votes on; freed room heals without a restart."""
    settings = replace(RELAXED, reserve_bytes=1 << 20, ahead_bytes=1 << 20)
    full = [False]
    allocate, disk = os.posix_fallocate, os.fstatvfs

    def fallocate(handle: int, offset: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        allocate(handle, offset, length)

    def fstatvfs(handle: int) -> os.statvfs_result:
        found = list(disk(handle))
        if full[0]:
            found[4] = 0
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    monkeypatch.setattr(os, "fstatvfs", fstatvfs)
    with opened(tmp_path / "log", settings) as store:
        failures: list[StorageError] = []
        store.on_failed = failures.append
        feeder = Feeder(store)
        feeder.append(h.created(1), h.created(2))
        assert not store.space().scarce
        full[0] = True
        index = 0
        while not store.space().scarce:
            index += 1
            feeder.append(h.entries_run(1, index, 1, [bytes(100_000)], prev_term=int(index > 1)))
            assert index < 100
        for term in range(1, 60):  # votes go on, although proposals would be refused
            feeder.append(h.hard(2, HardState(term=term, vote=ReplicaId(1))))
        assert store.synced_sequence == feeder.sequence
        while store.synced_sequence == feeder.sequence:  # nobody listens, and the reserve is used up
            index += 1
            feeder.append(h.entries_run(1, index, 1, [bytes(100_000)], prev_term=1))
            assert index < 200
        assert failures == [], "the disk was full, and a commit was made to fail for it"
        behind = store.synced_sequence
        store.space()
        assert store.synced_sequence == behind
        full[0] = False
        store.space()
        assert store.synced_sequence == feeder.sequence
        assert not store.space().scarce
    with opened(tmp_path / "log", settings) as store:
        assert len(read_entries(store, 1, 1)) == index


def test_p13_a_really_full_disk(tmp_path: Path) -> None:
    """The same on a small file system of its own, filled up by somebody else."""
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        settings = LogSettings(reserve_bytes=1 << 20, ahead_bytes=1 << 20, map_bytes=64 << 20)
        with opened(mount / "log", settings) as store:
            feeder = Feeder(store)
            feeder.append(h.created(1), h.created(2))
            ballast = mount / "ballast"
            with ballast.open("wb") as file:
                while True:
                    try:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, 1 << 16)
                    except OSError:
                        break
            index = 0
            while not store.space().scarce:
                index += 1
                feeder.append(h.entries_run(1, index, 1, [bytes(50_000)], prev_term=int(index > 1)))
            for term in range(1, 40):
                feeder.append(h.hard(2, HardState(term=term, vote=ReplicaId(1))))
            assert store.synced_sequence == feeder.sequence
            assert store.space().scarce
            ballast.unlink()
            store.space()
            assert not store.space().scarce
            feeder.append(h.entries_run(1, index + 1, 1, [bytes(500_000)], prev_term=1))
            assert store.synced_sequence == feeder.sequence
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_p14_a_full_map_grows_and_nobody_notices(tmp_path: Path) -> None:
    settings = replace(RELAXED, map_bytes=1 << 20)

    async def main() -> None:
        async with Threaded(tmp_path / "log", settings) as it:
            it.feeder.append(h.created(1))
            small = it.store.space().map_bytes
            reads = []
            for index in range(1, 200):
                it.feeder.append(
                    h.entries_run(1, index, 1, [index.to_bytes(4, "big") * 12_500], prev_term=int(index > 1))
                )
                if index % 10 == 0:
                    await it.until(index)
                    reads.append(asyncio.ensure_future(it.fetch(1, index // 2, 200_000)))
            await it.until(200)
            assert it.failed == []
            assert it.store.space().map_bytes > small * 4
            for read in reads:
                assert len(await read) >= 1
            assert it.synced == sorted(set(it.synced))

    run(main)
    with opened(tmp_path / "log", replace(settings, verify="all")) as store:
        found = read_entries(store, 1, 1, bytes_max=1 << 24)
        assert {index: entry[2][:4] for index, entry in found.items()} == {
            index: index.to_bytes(4, "big") for index in range(1, 200)
        }


def test_p14_a_full_map_grows_while_closing(tmp_path: Path) -> None:
    async def main() -> None:
        it = Threaded(tmp_path / "log", replace(RELAXED, map_bytes=1 << 20))
        it.feeder.append(h.created(1))
        for index in range(1, 60):
            it.feeder.append(h.entries_run(1, index, 1, [bytes(100_000)], prev_term=int(index > 1)))
        it.store.close()

    run(main)
    with opened(tmp_path / "log") as store:
        assert store.synced_sequence == 60


def test_p15_a_reader_slot_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        one_group(Feeder(store))
    opens = "import lmdb, os, sys\nenv = lmdb.open(sys.argv[1], max_dbs=3, lib_version=0, create=False)\n"
    reads = opens + "transaction = env.begin()\ntransaction.get(b'x')\nos.kill(os.getpid(), 9)\n"
    waits = opens + "print('open', flush=True)\nsys.stdin.read()\n"
    # Somebody else must have it open all the while, or LMDB begins a new table of readers by itself.
    holder = subprocess.Popen(
        [sys.executable, "-c", waits, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    killed = subprocess.run([sys.executable, "-c", reads, str(path)], check=False)
    assert killed.returncode == -9
    directory = LogDirectory(path)
    try:
        environment = LogEnvironment(directory, RELAXED)
        assert environment.stale_readers == 1
        environment.close()
    finally:
        directory.close()
        holder.communicate()


def test_p15_no_read_outlives_its_job(tmp_path: Path) -> None:
    """Reads all the while, and the file does not grow: no read transaction holds freed pages back."""
    with opened(tmp_path / "log", EAGER) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1))
        sizes = []
        for index in range(1, 400):
            feeder.append(h.entries_run(1, index, 1, [bytes(20_000)], prev_term=int(index > 1)))
            read_entries(store, 1, index)
            feeder.append(h.hard(1, HardState(commit=index)), h.based(1, index, 1))
            sizes.append(store.space().used_bytes + store._room.reusable_bytes)
        assert sizes[-1] <= sizes[100] * 1.5


def test_p16_no_default_gives_durability_away(tmp_path: Path) -> None:
    store = open_inline(tmp_path / "log", LogSettings(reserve_bytes=0, ahead_bytes=0))
    flags = store._environment._env.flags()
    assert (flags["sync"], flags["metasync"], flags["writemap"], flags["map_async"]) == (True, True, False, False)
    assert store._environment._env.lib_version()[:2] == (0, 9)
    store.close()
    assert LogSettings().durability == "full"
    names = {field.name for field in fields(LogSettings)}
    assert not names & {"sync", "nosync", "metasync", "nometasync", "writemap", "map_async"}


# -- damage -----------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("at", [9, 36, 45, 64 + 8, 64 + 62])
def test_p17_a_damaged_last_batch_is_never_cut_off(tmp_path: Path, at: int) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        one_group(Feeder(store))
    good = replace_batch(path, 6, b"")
    replace_batch(path, 6, flip(good, at))
    with pytest.raises(StorageError):
        open_inline(path)
    replace_batch(path, 6, good)
    with opened(path) as store:
        assert store.synced_sequence == 6


def test_p18_damage_in_the_middle_names_groups_and_indexes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        one_group(feeder)
        feeder.append(h.created(2), h.entries_run(2, 1, 1, [b"x"], prev_term=0))
    good = replace_batch(path, 4, b"")
    replace_batch(path, 4, flip(good, 64 + 9))
    with pytest.raises(LogCorrupt) as caught:
        open_inline(path)
    assert caught.value.damage == {1: (0, 3)} or caught.value.damage == {1: (3, 3)}
    replace_batch(path, 4, None)
    with pytest.raises(LogCorrupt, match="after batch 3 comes batch 5") as caught:
        open_inline(path)
    assert caught.value.damage == {1: (3, 3)}


def test_p18_a_damaged_entry_is_found_by_reading_and_by_verifying(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        one_group(Feeder(store))
    good = replace_batch(path, 4, b"")
    replace_batch(path, 4, flip(good, len(good) - 1))
    with opened(path) as store:
        with pytest.raises(LogCorrupt) as caught:
            read_entries(store, 1, 1)
        assert caught.value.damage == {1: (3, 3)}
        assert sorted(read_entries(store, 1, 4)) == [4, 5]
    with pytest.raises(LogCorrupt):
        open_inline(path, replace(RELAXED, verify="all"))


def test_p18_compaction_copies_no_damage(tmp_path: Path) -> None:
    """A straggler whose bytes are bad is left where it is: a new checksum would make damage look sound."""
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1), h.created(2))
        feeder.append(h.entries_run(1, 1, 1, [b"straggler"], prev_term=0))
    good = replace_batch(path, 2, b"")
    replace_batch(path, 2, flip(good, len(good) - 1))
    with opened(path, EAGER) as store:
        feeder = Feeder(store)
        for index in range(1, 20):
            feeder.append(h.entries_run(2, index, 1, [bytes(5000)], prev_term=int(index > 1)))
            feeder.append(h.hard(2, HardState(commit=index)), h.based(2, index, 1))
        assert store.damage is not None
        assert store.damage.damage == {1: (1, 1)}
        assert store.synced_sequence == feeder.sequence, "damage of one group stopped the others"
        with pytest.raises(LogCorrupt):
            read_entries(store, 1, 1)
    assert not any(run.rewritten for run in runs_on_disk(path, 1))


def test_p21_names_are_synced_before_the_store_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    deep = tmp_path / "a" / "b" / "log"
    with opened(deep, LogSettings(reserve_bytes=0, ahead_bytes=0)):
        for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", deep):
            assert str(path) in synced
        assert synced.index(str(deep / "superblock.new")) < len(synced) - 1 - synced[::-1].index(str(deep))


# -- what a group still knows -----------------------------------------------------------------------------------------------------

MEMBERSHIP = Membership((Member(ReplicaId(4), NodeId(1), 1), Member(ReplicaId(5), NodeId(2), 4)))


def compacted(feeder: Feeder, *, term: int = 7) -> None:
    """Group 1 with a hundred entries, all of them compacted away, and so many batches after that all that is gone."""
    feeder.append(h.created(1), h.created(2))
    for index in range(1, 101):
        feeder.append(h.entries_run(1, index, 3, [bytes(100)], prev_term=3 * int(index > 1)))
    state = HardState(term=term, vote=ReplicaId(2), commit=100)
    feeder.append(h.hard(1, state))
    feeder.append(h.based(1, 100, 3, membership=MEMBERSHIP, hard_state=state))
    idle(feeder)


def idle(feeder: Feeder, group: int = 2, batches: int = 300, first: int = 1) -> None:
    """Another group works on, so that the log moves."""
    for index in range(first, first + batches):
        feeder.append(
            h.entries_run(group, index, 1, [bytes(400)], prev_term=int(index > 1)),
            h.hard(group, HardState(commit=index)),
            h.based(group, index, 1),
        )


def test_p52_p88_a_compacted_group_still_knows_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "log", EAGER) as store:
        compacted(Feeder(store))
        assert figures(store._index).first_sequence > 104, "the batches with the base are still there"
    with opened(tmp_path / "log", EAGER) as store:
        found = next(iter(store.groups()))
        assert (found.group, found.last_index, found.terms) == (1, 100, ())
        assert (found.base.index, found.base.term, found.base.membership) == (100, 3, MEMBERSHIP)
        assert (found.hard_state.term, found.hard_state.vote, found.hard_state.commit) == (7, 2, 100)
        feeder = Feeder(store)
        feeder.append(h.entries_run(1, 101, 7, [b"on"], prev_term=3))
        with pytest.raises(InvariantViolation):
            feeder.append(h.entries_run(1, 101, 6, [b"on"], prev_term=4))


def test_p55_a_hole_between_base_and_first_entry_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        one_group(feeder)
        with pytest.raises(InvariantViolation, match="before its base"):
            feeder.append(h.based(1, 8, 1))
    replace_batch(path, 6, h.seal(6, store.store_id, [h.entries_run(1, 7, 1, [b"x"], prev_term=1)]))
    with pytest.raises(LogCorrupt, match="entries 5 to 6 are missing"):
        open_inline(path)


def test_p57_a_pending_snapshot_is_found_until_it_is_finished(tmp_path: Path) -> None:
    base = h.base_of(50, 4, membership=MEMBERSHIP)
    snapshot = SnapshotRecord(base, "1-50.snap", 123, 456)
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    one_group(feeder)  # six batches, with entries that conflict with the snapshot and are longer than nothing
    store.sync()
    feeder.append(h.pending(1, snapshot))
    feeder.append(h.marked(1, 50, 4, membership=MEMBERSHIP))
    before, during, after = (next(iter(store.crash(keep=keep).groups())) for keep in (0, 1, 2))
    assert (before.pending, before.last_index) == (None, 5)
    assert (during.pending, during.last_index) == (snapshot, 5)
    assert (after.pending, after.last_index, after.terms) == (None, 50, ())
    assert after.base.membership == MEMBERSHIP
    assert after.hard_state.commit == 50


def test_p57_a_pending_snapshot_can_be_withdrawn_and_survives_compaction(tmp_path: Path) -> None:
    snapshot = SnapshotRecord(h.base_of(50, 4), "1-50.snap", 123, 456)
    with opened(tmp_path / "log", EAGER) as store:
        feeder = Feeder(store)
        one_group(feeder)
        feeder.append(h.pending(1, snapshot), h.created(2))
        idle(feeder)
    with opened(tmp_path / "log", EAGER) as store:
        assert next(iter(store.groups())).pending == snapshot
        feeder = Feeder(store)
        feeder.append(h.pending(1, SnapshotRecord(h.base_of(50, 4), "", 0, 0)))
        idle(feeder, first=301)
    with opened(tmp_path / "log", EAGER) as store:
        assert next(iter(store.groups())).pending is None


def test_p86_what_was_synced_before_is_there_whatever_came_after(tmp_path: Path) -> None:
    """The log's half: at every crash, each creation mark and commit index up to the synced batch is found."""
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    feeder.append(h.created(1))
    for index in range(1, 12):
        feeder.append(h.entries_run(1, index, 1, [b"split"], prev_term=int(index > 1)))
        feeder.append(h.hard(1, HardState(commit=index)), h.created(100 + index, 10, 5))
    for keep in range(1, feeder.sequence + 1):
        found = {log.group: log for log in store.crash(keep=keep).groups()}
        whole = (keep - 1) // 2
        assert sorted(found) == [1, *(100 + index for index in range(1, whole + 1))]
        assert found[1].hard_state.commit == whole
        assert all(found[group].base.index == 10 for group in found if group > 1)


def straggler(feeder: Feeder) -> None:
    """Group 1 with entries 1..20 in one run, old enough to be rewritten."""
    feeder.append(h.created(1), h.created(2))
    feeder.append(
        h.entries_run(1, 1, 1, [f"old {index}".encode() for index in range(1, 21)], prev_term=0),
        h.hard(1, HardState(term=2, vote=ReplicaId(1), commit=8)),
    )
    idle(feeder)


def is_rewritten(path: Path, group: int) -> bool:
    return any(run.rewritten and run.kind == "ENTRIES" for run in runs_on_disk(path, group))


def test_p87_a_rewritten_run_counts_as_written_when_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path, EAGER) as store:
        straggler(Feeder(store))
    assert is_rewritten(path, 1)
    with opened(path, EAGER) as store:
        found = next(iter(store.groups()))
        assert (found.last_index, found.hard_state.term, found.hard_state.commit) == (20, 2, 8)
        assert [entry[2] for entry in read_entries(store, 1, 1).values()] == [
            f"old {index}".encode() for index in range(1, 21)
        ]
        # Newer entries cut the rewritten run, not the other way round, at every reopening.
        feeder = Feeder(store)
        feeder.append(h.entries_run(1, 15, 3, [b"new 15", b"new 16"], prev_term=1))
    for first in (301, 601):
        with opened(path, EAGER) as store:
            (group, *_) = store.groups()
            assert (group.last_index, group.terms) == (16, ((1, 1), (15, 3)))
            entries = read_entries(store, 1, 14)
            assert {index: entry[2] for index, entry in entries.items()} == {14: b"old 14", 15: b"new 15", 16: b"new 16"}
            idle(Feeder(store), first=first)  # both are rewritten by now, in batches of their own


@pytest.mark.parametrize("how", ["truncate", "conflict", "mark", "withdrawn replica"])
def test_p87_what_was_cut_never_comes_back(tmp_path: Path, how: str) -> None:
    """The run is rewritten, then cut, then what cut it is compacted away: only the rewritten bytes could still hold it."""
    path = tmp_path / "log"
    with opened(path, EAGER) as store:
        straggler(Feeder(store))
    assert is_rewritten(path, 1)
    with opened(path, EAGER) as store:
        feeder = Feeder(store)
        if how == "truncate":
            feeder.append(h.truncated(1, 9))
        elif how == "conflict":
            feeder.append(h.entries_run(1, 9, 5, [b"nine"], prev_term=1))
            feeder.append(h.hard(1, HardState(term=5, commit=9)), h.based(1, 9, 5, hard_state=HardState(term=5)))
        elif how == "mark":
            feeder.append(h.marked(1, 18, 6, hard_state=HardState(term=6)))
        else:
            feeder.append(h.tombstone(1))
            feeder.append(h.created(1, replica=2))
        (before, *_) = store.groups()
        entries = read_entries(store, 1, before.base.index + 1)
        idle(feeder, first=301)
        assert figures(store._index).first_sequence > feeder.sequence - 100
    for first in (601, 901):
        with opened(path, EAGER) as store:
            (after, *_) = store.groups()
            assert after == before
            assert read_entries(store, 1, before.base.index + 1) == entries
            idle(Feeder(store), first=first)


def test_p89_a_commit_index_outlives_the_record_that_held_it(tmp_path: Path) -> None:
    """The only record of commit 5 is the header of a run that was cut; compaction must not take it along."""
    path = tmp_path / "log"
    with opened(path, EAGER) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1), h.created(2))
        feeder.append(h.entries_run(1, 1, 1, [bytes(9)] * 5, prev_term=0))
        feeder.append(h.entries_run(1, 6, 1, [bytes(9)] * 5, prev_term=1, commit=5))
        feeder.append(h.truncated(1, 6))
        assert next(iter(store.groups())).hard_state.commit == 5
        idle(feeder)
    assert not any(run.commit == 5 and run.kind == "ENTRIES" for run in runs_on_disk(path, 1))
    for first in (301, 601):
        with opened(path, EAGER) as store:
            found = next(iter(store.groups()))
            assert (found.hard_state.commit, found.last_index) == (5, 5)
            idle(Feeder(store), first=first)


def test_p10_p90_an_emptied_or_older_directory_shows(tmp_path: Path) -> None:
    """What peers compare: a wiped directory has another store id, an older copy an older batch or boot."""
    path = tmp_path / "log"
    with opened(path) as store:
        one_group(Feeder(store))
        one, boots = store.store_id, store.boot_count
        shown = store.synced_sequence
    shutil.copytree(path, tmp_path / "copy")
    with opened(path) as store:
        Feeder(store).append(h.entries_run(1, 6, 1, [b"one more"], prev_term=1))
        newest = store.synced_sequence
    with opened(tmp_path / "copy") as store:
        assert store.store_id == one
        assert store.synced_sequence == shown == newest - 1
    shutil.rmtree(path)
    with opened(path) as store:
        assert store.store_id != one
        assert store.boot_count == boots == 1


def test_transactions_are_all_or_nothing(tmp_path: Path) -> None:
    """A change that is out of order is refused whole."""
    directory = LogDirectory(tmp_path / "log")
    environment = LogEnvironment(directory, RELAXED)
    try:
        environment.write(Change(batches=[(5, b"five")]))
        with pytest.raises(LogCorrupt, match="not the last"):
            environment.write(Change(batches=[(6, b"six"), (5, b"again")]))
        with pytest.raises(LogCorrupt, match="gone"):
            environment.write(Change(batches=[(6, b"six")], delete_batches=range(3, 4)))
        assert [(number, bytes(batch)) for number, batch in environment.scan(b"batches")] == [(5, b"five")]
    finally:
        environment.close()
        directory.close()


def test_kinds_are_as_documented() -> None:
    """The numbers on disk, once more by hand."""
    run_ = decode_run(h.truncated(1, 5))
    assert (int(run_.kind), int(RunKind.RUN_REWRITE)) == (4, 11)
