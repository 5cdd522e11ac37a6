"""What a group knows after a crash or a restart, however much was compacted: pitfalls 52 to 57 and 86 to 89."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from multiraft.errors import InvariantViolation, LogCorrupt
from multiraft.ids import GroupId, NodeId, ReplicaId
from multiraft.interfaces import HardState, Member, Membership, SnapshotRecord
from multiraft.log.inspect import runs as runs_on_disk
from multiraft.log.lookup import figures
from multiraft.log.memory import MemoryLogStore
from tests.unit.disks import Home
from tests.unit.log import harness as h
from tests.unit.log.harness import (
    RELAXED,
    Feeder,
    open_inline,
    opened,
    read_entries,
)

EAGER = replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)


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


def test_p52_p88_a_compacted_group_still_knows_itself(home: Home) -> None:
    with opened(home / "log", EAGER) as store:
        compacted(Feeder(store))
        assert figures(store._index).first_sequence > 104, (
            "the batches with the base are still there"
        )
    with opened(home / "log", EAGER) as store:
        found = next(iter(store.groups()))
        assert (found.group, found.last_index, found.terms) == (1, 100, ())
        assert (found.base.index, found.base.term, found.base.membership) == (100, 3, MEMBERSHIP)
        assert (found.hard_state.term, found.hard_state.vote, found.hard_state.commit) == (
            7,
            2,
            100,
        )
        feeder = Feeder(store)
        feeder.append(h.entries_run(1, 101, 7, [b"on"], prev_term=3))
        with pytest.raises(InvariantViolation):
            feeder.append(h.entries_run(1, 101, 6, [b"on"], prev_term=4))


def test_p55_a_hole_between_base_and_first_entry_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        h.one_group(feeder)
        with pytest.raises(InvariantViolation, match="before its base"):
            feeder.append(h.based(1, 8, 1))
    h.replace_batch(
        path, 6, h.seal(6, store.store_id, [h.entries_run(1, 7, 1, [b"x"], prev_term=1)])
    )
    with pytest.raises(LogCorrupt, match="entries 5 to 6 are missing"):
        open_inline(path)


def test_p57_a_pending_snapshot_is_found_until_it_is_finished(tmp_path: Path) -> None:
    base = h.base_of(50, 4, membership=MEMBERSHIP)
    snapshot = SnapshotRecord(base, "1-50.snap", 123, 456)
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    h.one_group(
        feeder
    )  # six batches, with entries that conflict with the snapshot and are longer than nothing
    store.sync()
    feeder.append(h.pending(1, snapshot))
    feeder.append(h.marked(1, 50, 4, membership=MEMBERSHIP))
    before, during, after = (next(iter(store.crash(keep=keep).groups())) for keep in (0, 1, 2))
    assert (before.pending, before.last_index) == (None, 5)
    assert (during.pending, during.last_index) == (snapshot, 5)
    assert (after.pending, after.last_index, after.terms) == (None, 50, ())
    assert after.base.membership == MEMBERSHIP
    assert after.hard_state.commit == 50


def test_p57_a_pending_snapshot_can_be_withdrawn_and_survives_compaction(home: Home) -> None:
    snapshot = SnapshotRecord(h.base_of(50, 4), "1-50.snap", 123, 456)
    with opened(home / "log", EAGER) as store:
        feeder = Feeder(store)
        h.one_group(feeder)
        feeder.append(h.pending(1, snapshot), h.created(2))
        idle(feeder)
    with opened(home / "log", EAGER) as store:
        assert next(iter(store.groups())).pending == snapshot
        feeder = Feeder(store)
        feeder.append(h.withdrawn(1))
        idle(feeder, first=301)
    with opened(home / "log", EAGER) as store:
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
        assert found[GroupId(1)].hard_state.commit == whole
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
            assert {index: entry[2] for index, entry in entries.items()} == {
                14: b"old 14",
                15: b"new 15",
                16: b"new 16",
            }
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
            feeder.append(
                h.hard(1, HardState(term=5, commit=9)),
                h.based(1, 9, 5, hard_state=HardState(term=5)),
            )
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
