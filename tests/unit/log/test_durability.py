"""What is said to be durable is: the pitfalls of syncing, and the settings that nobody can get wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from dataclasses import fields
from pathlib import Path

import lmdb
import pytest

from multiraft._core import RunKind, decode_run
from multiraft.disk import RealDisk
from multiraft.doubt import NOTE_FILE
from multiraft.errors import LogCorrupt, SyncFailed
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import Change, LogEnvironment
from multiraft.log.memory import MemoryLogStore
from multiraft.log.schema import LogSettings
from tests.unit.log import harness as h
from tests.unit.log.harness import (
    RELAXED,
    Arun,
    Feeder,
    Threaded,
    open_inline,
    opened,
)


@pytest.mark.parametrize("what", ["vote", "entry"])
def test_p01_p03_nothing_is_said_to_be_synced_before_the_commit_returned(
    tmp_path: Path, arun: Arun, monkeypatch: pytest.MonkeyPatch, what: str
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
            it.feeder.append(
                vote if what == "vote" else h.entries_run(1, 1, 1, [b"x"], prev_term=0)
            )
            await asyncio.to_thread(entered.wait, 20)
            for _ in range(50):
                await asyncio.sleep(0)
            assert it.synced == [1]
            assert it.store.synced_sequence == 1
            allowed.set()
            await it.until(2)
            assert it.synced == [1, 2]

    arun(main())


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
        assert (found.hard_state.term, found.hard_state.vote) == (
            states[keep - 2].term,
            states[keep - 2].vote,
        )


def test_p11_the_first_failed_commit_is_final(
    tmp_path: Path, arun: Arun, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Threaded(tmp_path / "log") as it:
            h.one_group(it.feeder)
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

    arun(main())
    (tmp_path / "log" / NOTE_FILE).unlink()  # as where the machine was restarted
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
    (tmp_path / "log" / NOTE_FILE).unlink()  # as where the machine was restarted
    with opened(tmp_path / "log") as store:
        assert store.boot_count == 1


def test_p16_no_default_gives_durability_away(tmp_path: Path) -> None:
    store = open_inline(tmp_path / "log", LogSettings(reserve_bytes=0, ahead_bytes=0))
    flags = store._environment._env.flags()
    assert (flags["sync"], flags["metasync"], flags["writemap"], flags["map_async"]) == (
        True,
        True,
        False,
        False,
    )
    assert store._environment._env.lib_version()[:2] == (0, 9)
    store.close()
    assert LogSettings().durability == "full"
    names = {field.name for field in fields(LogSettings)}
    assert not names & {"sync", "nosync", "metasync", "nometasync", "writemap", "map_async"}


def test_p21_names_are_synced_before_the_store_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        assert synced.index(str(deep / "superblock.new")) < len(synced) - 1 - synced[::-1].index(
            str(deep)
        )


def test_transactions_are_all_or_nothing(tmp_path: Path) -> None:
    """A change that is out of order is refused whole."""
    directory = LogDirectory(RealDisk(), tmp_path / "log")
    environment = LogEnvironment(directory, RELAXED)
    try:
        environment.write(Change(batches=[(5, b"five")]))
        with pytest.raises(LogCorrupt, match="not the last"):
            environment.write(Change(batches=[(6, b"six"), (5, b"again")]))
        with pytest.raises(LogCorrupt, match="gone"):
            environment.write(Change(batches=[(6, b"six")], delete_batches=range(3, 4)))
        assert [(number, bytes(batch)) for number, batch in environment.scan(b"batches")] == [
            (5, b"five")
        ]
    finally:
        environment.close()
        directory.close()


def test_kinds_are_as_documented() -> None:
    """The numbers on disk, once more by hand."""
    run_ = decode_run(h.truncated(1, 5))
    assert (int(run_.kind), int(RunKind.RUN_REWRITE)) == (4, 11)
