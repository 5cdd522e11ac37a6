"""Both log stores against one plain model, over random histories with compaction, rewriting, reopening and crashes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multiraft.ids import GroupId
from multiraft.interfaces import LogStore
from multiraft.log.lookup import figures
from multiraft.log.memory import MemoryLogStore
from tests.unit.disks import Home
from tests.unit.log.harness import RELAXED, Feeder, open_inline, read_entries
from tests.unit.log.model import Model

EAGER = replace(
    RELAXED, dead_batches_min=1, dead_batches_max=7, rewrite_share=0.5, rewrite_bytes_max=4096
)
LAZY = replace(RELAXED, dead_batches_min=12, dead_batches_max=30, rewrite_share=0.25)
SETTINGS = {"eager": EAGER, "lazy": LAZY}


def check(store: LogStore, model: Model) -> None:
    """The store answers as the model does, group by group and entry by entry."""
    found = {log.group: log for log in store.groups()}
    expected = {group: each.log() for group, each in sorted(model.groups.items())}
    assert list(found) == list(expected)
    for group, log in expected.items():
        assert found[GroupId(group)] == log
        entries = read_entries(store, group, log.base.index + 1, bytes_max=600)
        assert entries == model.groups[group].entries
    assert dict(store.pinned()) == model.pins


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(24))
def test_stores_hold_what_the_model_holds(home: Home, seed: int, settings: str) -> None:
    model = Model(seed)
    disk = open_inline(home / "log", SETTINGS[settings])
    memory = MemoryLogStore(store_id=disk.store_id)
    feeders = [Feeder(disk), Feeder(memory)]
    for step in range(160):
        runs = model.batch()
        for feeder in feeders:
            feeder.append(*runs)
        if step % 9 == 0:
            check(disk, model)
            check(memory, model)
        if model.chance.random() < 0.06:
            disk.close()
            disk = open_inline(home / "log", SETTINGS[settings])
            memory = memory.crash()
            feeders = [Feeder(disk), Feeder(memory)]
            check(disk, model)
            check(memory, model)
    disk.close()
    disk = open_inline(home / "log", replace(SETTINGS[settings], verify="all"))
    check(disk, model)
    assert figures(disk._index).first_sequence > 1, (
        "nothing was ever compacted, so this proves too little"
    )
    disk.close()


@pytest.mark.parametrize("seed", range(8))
def test_memory_crash_keeps_the_synced_prefix(seed: int) -> None:
    model = Model(seed)
    store = MemoryLogStore(auto=False)
    feeder = Feeder(store)
    synced = model.snapshot()
    for _ in range(120):
        feeder.append(*model.batch())
        if model.chance.random() < 0.2:
            store.sync()
            synced = model.snapshot()
        if model.chance.random() < 0.05:
            store = store.crash()
            model = synced.snapshot()
            check(store, model)
            feeder = Feeder(store)
    assert store.synced_sequence > 0
