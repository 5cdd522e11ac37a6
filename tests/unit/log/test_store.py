"""The LMDB log store as its owner meets it: opening, writing, reading back, room, closing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from multiraft._core import decode_run
from multiraft.disk import RealDisk
from multiraft.errors import (
    Closed,
    ConfigError,
    DirectoryInUse,
    FormatUnsupported,
    InvariantViolation,
    LogCorrupt,
    SyncFailed,
    WrongStore,
)
from multiraft.ids import GroupId, ReplicaId
from multiraft.interfaces import HardState
from multiraft.log.environment import LogEnvironment
from multiraft.log.inspect import verify
from multiraft.log.schema import LogSettings, Superblock
from tests.unit.disks import Home
from tests.unit.log import harness as h
from tests.unit.log.harness import (
    RELAXED,
    Arun,
    Feeder,
    Threaded,
    fetch,
    open_inline,
    opened,
    read_entries,
)


def ten_groups(feeder: Feeder, batches: int = 3) -> None:
    """Groups 1..10 with one run of five entries a batch."""
    feeder.append(*(h.created(group) for group in range(1, 11)))
    for batch in range(batches):
        first = batch * 5 + 1
        feeder.append(
            *(
                h.entries_run(
                    group,
                    first,
                    1,
                    [f"{group}-{first + at}".encode() for at in range(5)],
                    prev_term=int(first > 1),
                )
                for group in range(1, 11)
            )
        )


def test_what_was_appended_is_there_after_reopening(home: Home) -> None:
    with opened(home / "log") as store:
        ten_groups(Feeder(store))
        before = list(store.groups())
    with opened(home / "log") as store:
        assert list(store.groups()) == before
        assert store.synced_sequence == 4
        assert read_entries(store, 7, 1) == {
            index: (1, 1, f"7-{index}".encode()) for index in range(1, 16)
        }
        Feeder(store).append(h.entries_run(7, 16, 1, [b"next"], prev_term=1))
        assert store.synced_sequence == 5


def test_open_raises_the_boot_count_and_keeps_the_store_id(home: Home) -> None:
    ids, counts = set(), []
    for _ in range(3):
        with opened(home / "log") as store:
            ids.add(store.store_id)
            counts.append(store.boot_count)
    assert len(ids) == 1
    assert counts == [1, 2, 3]
    with opened(home / "other") as store:
        assert store.store_id not in ids


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    with opened(tmp_path / "log"):
        with pytest.raises(DirectoryInUse):
            open_inline(tmp_path / "log")
        code = (
            "import sys\nfrom multiraft.errors import DirectoryInUse\n"
            "from multiraft.disk import RealDisk\n"
            "from multiraft.log.directory import LogDirectory\nfrom pathlib import Path\n"
            "try: LogDirectory(RealDisk(), Path(sys.argv[1]))\nexcept DirectoryInUse: print('held')"
        )
        asked = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "log")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert asked.stdout.strip() == "held"
    with opened(tmp_path / "log") as store:
        assert store.boot_count == 2


def test_a_refused_open_releases_the_directory(tmp_path: Path) -> None:
    with opened(tmp_path / "log"):
        pass
    block = tmp_path / "log" / "superblock"
    good = block.read_bytes()
    block.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(LogCorrupt, match="superblock"):
        open_inline(tmp_path / "log")
    block.write_bytes(good)
    with opened(tmp_path / "log") as store:
        assert store.boot_count == 2


@pytest.mark.parametrize("left", [0, 100, 4096, 8192, -4096, -1])
def test_a_data_file_cut_short_is_refused_before_it_is_read(tmp_path: Path, left: int) -> None:
    settings = replace(RELAXED, ahead_bytes=0)
    with opened(tmp_path / "log", settings) as store:
        ten_groups(Feeder(store))
    data = tmp_path / "log" / "data.mdb"
    used = last_page_end(data)
    os.truncate(data, left if left >= 0 else used + left)
    with pytest.raises(LogCorrupt, match=r"cut short|gone or empty"):
        open_inline(tmp_path / "log", settings)


def last_page_end(data: Path) -> int:
    """Where the pages end that LMDB ever used: from its meta pages."""
    raw = data.read_bytes()[: 2 * 4096]
    last = max(
        (
            int.from_bytes(raw[at + 144 : at + 152], "little"),
            int.from_bytes(raw[at + 136 : at + 144], "little"),
        )
        for at in (0, 4096)
    )[1]
    return (last + 1) * 4096


def test_data_without_its_superblock_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as store:
        ten_groups(Feeder(store))
    (tmp_path / "log" / "superblock").unlink()
    with pytest.raises(LogCorrupt, match="superblock is gone"):
        open_inline(tmp_path / "log")


def test_a_swapped_data_file_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name) as store:
            ten_groups(Feeder(store))
    os.replace(tmp_path / "one" / "data.mdb", tmp_path / "two" / "data.mdb")
    with pytest.raises(WrongStore):
        open_inline(tmp_path / "two")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as store:
        newer = Superblock(store.store_id, 1, format_min=2, format_max=3)
    (tmp_path / "log" / "superblock").write_bytes(newer.pack())
    with pytest.raises(FormatUnsupported, match="2 to 3"):
        open_inline(tmp_path / "log")


def test_an_interrupted_creation_is_continued(tmp_path: Path) -> None:
    """The superblock comes after the database; a cut between them leaves a directory that can be begun again."""
    with opened(tmp_path / "log"):
        pass
    # What is there after the environment was made, and nothing else.
    from multiraft.log.directory import LogDirectory

    directory = LogDirectory(RealDisk(), tmp_path / "half")
    LogEnvironment(directory, RELAXED).close()
    directory.close()
    with opened(tmp_path / "half") as store:
        assert store.boot_count == 1


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([h.entries_run(1, 17, 1, [b"x"], prev_term=1)], "ends at 15"),
        ([h.entries_run(1, 16, 2, [b"x"], prev_term=2)], "has term 1, not 2"),
        ([h.entries_run(1, 10, 1, [b"x"], prev_term=1)], "are there already"),
        ([h.entries_run(99, 1, 1, [b"x"], prev_term=0)], "no living replica"),
        ([h.hard(1, HardState(term=5)), h.hard(1, HardState(term=4))], "term 4 after term 5"),
        (
            [
                h.hard(1, HardState(term=5, vote=ReplicaId(2))),
                h.hard(1, HardState(term=5, vote=ReplicaId(3))),
            ],
            "a vote for 3",
        ),
        (
            [
                h.hard(1, HardState(term=5, vote=ReplicaId(2))),
                h.hard(1, HardState(term=5, vote=ReplicaId(0))),
            ],
            "a vote for 0",
        ),
        ([h.hard(1, HardState(term=5), replica=2)], "replica 1 is here"),
        ([h.based(1, 16, 1)], "before its base"),
        ([h.based(1, 9, 2)], "has term 1, not 2"),
        ([h.based(1, 9, 1), h.based(1, 8, 1)], "begins at base 9"),
        ([h.hard(1, HardState(commit=12)), h.truncated(1, 12)], "12 is committed"),
        (
            [h.hard(1, HardState(commit=12)), h.entries_run(1, 12, 3, [b"x"], prev_term=1)],
            "which is committed",
        ),
        ([h.hard(1, HardState(commit=12)), h.marked(1, 11, 4)], "12 is committed"),
        ([h.created(1)], "has entries"),
        ([h.created(1, replica=2)], "replica 1 is or was here"),
        ([h.tombstone(1), h.entries_run(1, 1, 1, [b"x"], prev_term=0)], "no living replica"),
        ([h.tombstone(1), h.created(1)], "replica 1 is or was here"),
        ([h.entries_run(1, 16, 0, [b"x"], prev_term=0)], "no sense"),
    ],
)
def test_a_batch_that_contradicts_the_log_is_refused_before_it_is_written(
    home: Home, runs: list[bytes], why: str
) -> None:
    with opened(home / "log") as store:
        feeder = Feeder(store)
        ten_groups(feeder)
        before = list(store.groups())
        with pytest.raises(InvariantViolation, match=why):
            feeder.append(*runs)
        with pytest.raises(SyncFailed):
            feeder.append(h.entries_run(2, 16, 1, [b"x"], prev_term=1))
    with opened(home / "log") as store:
        assert list(store.groups()) == before


def test_batches_of_another_store_or_out_of_order_are_refused(home: Home) -> None:
    for sequence, store_id in ((2, None), (1, 12345)):
        with opened(home / f"log{sequence}") as store:
            batch = h.seal(
                sequence, store.store_id if store_id is None else store_id, [h.created(1)]
            )
            with pytest.raises(InvariantViolation):
                store.append(batch)


def test_fetch_gives_whole_runs_up_to_about_so_many_bytes(home: Home) -> None:
    with opened(home / "log") as store:
        ten_groups(Feeder(store))
        assert [decode_run(each).first for each in fetch(store, 3, 1)] == [1, 6, 11]
        assert [decode_run(each).first for each in fetch(store, 3, 8)] == [6, 11]
        assert [decode_run(each).first for each in fetch(store, 3, 1, bytes_max=1)] == [1]
        two = sum(len(each) for each in fetch(store, 3, 1)[:2])
        assert [decode_run(each).first for each in fetch(store, 3, 1, bytes_max=two)] == [1, 6]
        assert [decode_run(each).first for each in fetch(store, 3, 1, bytes_max=two - 1)] == [1]
        assert fetch(store, 3, 16) == []
        assert fetch(store, 3, 0) == []
        assert fetch(store, 77, 1) == []


def test_a_run_that_was_cut_is_fetched_without_its_tail(home: Home) -> None:
    with opened(home / "log") as store:
        feeder = Feeder(store)
        ten_groups(feeder)
        feeder.append(h.truncated(3, 13))
        feeder.append(h.entries_run(3, 13, 2, [b"other"], prev_term=1))
        runs = [decode_run(each) for each in fetch(store, 3, 11)]
        assert [(each.first, len(each.entries), each.term) for each in runs] == [
            (11, 2, 1),
            (13, 1, 2),
        ]


def test_unsynced_batches_can_be_fetched(tmp_path: Path, arun: Arun) -> None:
    async def main() -> None:
        async with Threaded(tmp_path / "log") as it:
            it.feeder.append(h.created(1))
            it.feeder.append(h.entries_run(1, 1, 1, [b"a", b"b"], prev_term=0))
            (data,) = await it.fetch(1, 1)
            assert decode_run(data).entries == (b"a", b"b")

    arun(main())


def test_all_that_is_queued_goes_in_one_transaction(
    tmp_path: Path, arun: Arun, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    commit = LogEnvironment.commit
    monkeypatch.setattr(
        LogEnvironment, "commit", lambda self, txn: (commits.append(1), commit(self, txn))
    )

    async def main() -> None:
        async with Threaded(tmp_path / "log", LogSettings(ahead_bytes=0, reserve_bytes=0)) as it:
            commits.clear()
            it.feeder.append(h.created(1))
            await it.until(1)
            assert len(commits) == 1
            for index in range(1, 101):
                it.feeder.append(h.entries_run(1, index, 1, [b"x"], prev_term=int(index > 1)))
            await it.until(101)
            assert len(commits) < 50, (
                "a hundred batches that were queued at once took as many transactions"
            )
            assert it.synced == sorted(set(it.synced)), "told twice, or out of order"
            assert it.synced[-1] == 101

    arun(main())


def test_close_writes_what_is_queued(tmp_path: Path, arun: Arun) -> None:
    async def main() -> None:
        it = Threaded(tmp_path / "log")
        it.feeder.append(h.created(1))
        for index in range(1, 51):
            it.feeder.append(h.entries_run(1, index, 1, [b"x"], prev_term=int(index > 1)))
        it.store.close()
        it.store.close()
        with pytest.raises(Closed):
            it.store.append(b"")
        answers: list[object] = []
        it.store.fetch(GroupId(1), 1, 10, lambda runs, error: answers.append(error))
        assert isinstance(answers[0], Closed)
        await asyncio.sleep(0)
        assert it.store.synced_sequence == 51

    arun(main())
    with opened(tmp_path / "log") as store:
        assert store.synced_sequence == 51


def test_pinning_names_who_keeps_the_log_from_shrinking(tmp_path: Path) -> None:
    settings = replace(RELAXED, budget_bytes=60_000)
    with opened(tmp_path / "log", settings) as store:
        feeder = Feeder(store)
        feeder.append(*(h.created(group) for group in (1, 2, 3)))
        feeder.append(h.entries_run(1, 1, 1, [bytes(20_000)], prev_term=0))
        feeder.append(h.entries_run(2, 1, 1, [bytes(20_000)], prev_term=0))
        assert list(store.pinning(1)) == []
        feeder.append(h.entries_run(3, 1, 1, [bytes(30_000)], prev_term=0))
        assert list(store.pinning(1000)) == [1]
        assert list(store.pinning(30_000)) == [1, 2]
        assert list(store.pinning(0)) == [1]
        feeder.append(h.based(1, 1, 1))
        for index in range(2, 5):
            feeder.append(h.entries_run(3, index, 1, [bytes(10_000)], prev_term=1))
        assert list(store.pinning(10_000)) == [], (
            "what group 1 held is dead: nobody has to help for that"
        )
        assert list(store.pinning(40_000)) == [2]


def test_a_compacted_copy_can_take_the_logs_place(tmp_path: Path, arun: Arun) -> None:
    settings = replace(RELAXED, dead_batches_min=1)

    async def main() -> None:
        async with Threaded(tmp_path / "log", settings) as it:
            it.feeder.append(h.created(1))
            for index in range(1, 40):
                it.feeder.append(
                    h.entries_run(1, index, 1, [bytes(50_000)], prev_term=int(index > 1))
                )
                it.feeder.append(h.hard(1, HardState(commit=index)), h.based(1, index, 1))
                await it.until(it.feeder.sequence)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            it.store.compact_copy(
                tmp_path / "copy",
                lambda error: done.set_exception(error) if error else done.set_result(None),
            )
            await done

    arun(main())
    assert verify(tmp_path / "copy") == []
    small, big = ((tmp_path / name / "data.mdb").stat().st_size for name in ("copy", "log"))
    assert small < big, "nothing was freed, so nothing could be left out"
    with opened(tmp_path / "log") as store:
        groups, store_id, synced = list(store.groups()), store.store_id, store.synced_sequence
    with opened(tmp_path / "copy") as store:
        assert list(store.groups()) == groups
        assert (store.store_id, store.synced_sequence) == (store_id, synced)


def test_relaxed_durability_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path / "log"):
        assert "NOT synced" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"durability": "some"},
        {"verify": "none"},
        {"rewrite_share": 0.9},
        {"dead_batches_min": 0},
        {"dead_batches_min": 300},
        {"reserve_bytes": -1},
        {"map_bytes": 1},
        {"readers_max": 0},
        {"rewrite_bytes_max": 64 << 20},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LogSettings(**wrong)  # type: ignore[arg-type]
