"""Room on the disk and in the map, and readers that hold it: pitfalls 13 to 15."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from multiraft.disk import RealDisk
from multiraft.errors import StorageError
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import LogEnvironment
from multiraft.log.schema import LogSettings
from tests.unit.disks import fill_up, small_disk
from tests.unit.log import harness as h
from tests.unit.log.harness import (
    RELAXED,
    Arun,
    Feeder,
    Threaded,
    opened,
    read_entries,
)

EAGER = replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)


def test_p13_a_full_disk_is_seen_before_a_commit_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room runs out while entries are written; the reserve carries votes on; freed room heals without a restart."""
    settings = replace(RELAXED, reserve_bytes=1 << 20, ahead_bytes=1 << 20)
    full = [False]
    allocate, disk = os.posix_fallocate, os.statvfs

    def fallocate(handle: int, offset: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        allocate(handle, offset, length)

    def statvfs(path: Path) -> os.statvfs_result:
        found = list(disk(path))
        if full[0]:
            found[4] = 0
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    monkeypatch.setattr(os, "statvfs", statvfs)
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
        while (
            store.synced_sequence == feeder.sequence
        ):  # nobody listens, and the reserve is used up
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
    with small_disk(mount, "16m"):
        settings = LogSettings(reserve_bytes=1 << 20, ahead_bytes=1 << 20, map_bytes=64 << 20)
        with opened(mount / "log", settings) as store:
            feeder = Feeder(store)
            feeder.append(h.created(1), h.created(2))
            ballast = fill_up(mount)
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


def test_p14_a_full_map_grows_and_nobody_notices(tmp_path: Path, arun: Arun) -> None:
    settings = replace(RELAXED, map_bytes=1 << 20)

    async def main() -> None:
        async with Threaded(tmp_path / "log", settings) as it:
            it.feeder.append(h.created(1))
            small = it.store.space().map_bytes
            reads = []
            for index in range(1, 200):
                it.feeder.append(
                    h.entries_run(
                        1, index, 1, [index.to_bytes(4, "big") * 12_500], prev_term=int(index > 1)
                    )
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

    arun(main())
    with opened(tmp_path / "log", replace(settings, verify="all")) as store:
        found = read_entries(store, 1, 1, bytes_max=1 << 24)
        assert {index: entry[2][:4] for index, entry in found.items()} == {
            index: index.to_bytes(4, "big") for index in range(1, 200)
        }


def test_p14_a_full_map_grows_while_closing(tmp_path: Path, arun: Arun) -> None:
    async def main() -> None:
        it = Threaded(tmp_path / "log", replace(RELAXED, map_bytes=1 << 20))
        it.feeder.append(h.created(1))
        for index in range(1, 60):
            it.feeder.append(h.entries_run(1, index, 1, [bytes(100_000)], prev_term=int(index > 1)))
        it.store.close()

    arun(main())
    with opened(tmp_path / "log") as store:
        assert store.synced_sequence == 60


def test_p15_a_reader_slot_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    opens = "import lmdb, os, sys\nenv = lmdb.open(sys.argv[1], max_dbs=3, lib_version=0, create=False)\n"
    reads = opens + "transaction = env.begin()\ntransaction.get(b'x')\nos.kill(os.getpid(), 9)\n"
    waits = opens + "print('open', flush=True)\nsys.stdin.read()\n"
    # Somebody else must have it open all the while, or LMDB begins a new table of readers by itself.
    holder = subprocess.Popen(
        [sys.executable, "-c", waits, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    killed = subprocess.run([sys.executable, "-c", reads, str(path)], check=False)
    assert killed.returncode == -9
    directory = LogDirectory(RealDisk(), path)
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
