"""Bytes that are not what was written, and directories that are not what they were: pitfalls 10, 17, 18, 90, 91."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from multiraft.errors import LogCorrupt, StorageError
from multiraft.interfaces import HardState
from multiraft.log.inspect import runs as runs_on_disk
from tests.unit.log import harness as h
from tests.unit.log.harness import (
    RELAXED,
    Feeder,
    open_inline,
    opened,
    read_entries,
)

EAGER = replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)


@pytest.mark.parametrize("at", [9, 36, 45, 64 + 8, 64 + 62])
def test_p17_a_damaged_last_batch_is_never_cut_off(tmp_path: Path, at: int) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    good = h.replace_batch(path, 6, b"")
    h.replace_batch(path, 6, h.flip(good, at))
    with pytest.raises(StorageError):
        open_inline(path)
    h.replace_batch(path, 6, good)
    with opened(path) as store:
        assert store.synced_sequence == 6


def test_p18_damage_in_the_middle_names_groups_and_indexes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        h.one_group(feeder)
        feeder.append(h.created(2), h.entries_run(2, 1, 1, [b"x"], prev_term=0))
    good = h.replace_batch(path, 4, b"")
    h.replace_batch(path, 4, h.flip(good, 64 + 9))
    with pytest.raises(LogCorrupt) as caught:
        open_inline(path)
    assert caught.value.damage == {1: (0, 3)} or caught.value.damage == {1: (3, 3)}
    h.replace_batch(path, 4, None)
    with pytest.raises(LogCorrupt, match="after batch 3 comes batch 5") as caught:
        open_inline(path)
    assert caught.value.damage == {1: (3, 3)}


def test_p18_a_damaged_entry_is_found_by_reading_and_by_verifying(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    good = h.replace_batch(path, 4, b"")
    h.replace_batch(path, 4, h.flip(good, len(good) - 1))
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
    good = h.replace_batch(path, 2, b"")
    h.replace_batch(path, 2, h.flip(good, len(good) - 1))
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


def test_p10_p90_an_emptied_or_older_directory_shows(tmp_path: Path) -> None:
    """What peers compare: a wiped directory has another store id, an older copy an older batch or boot."""
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
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
