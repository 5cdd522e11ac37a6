"""Compaction: the log stays within bounds, stragglers are copied, and everything is still there afterwards."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from multiraft.ids import NodeId
from multiraft.interfaces import HardState
from multiraft.log.inspect import batches, runs, verify
from multiraft.log.lookup import figures
from multiraft.log.schema import LogSettings
from tests.unit.disks import Home
from tests.unit.log import harness as h
from tests.unit.log.harness import RELAXED, Arun, Feeder, Threaded, opened, read_entries

MIB = 1 << 20
EAGER = replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)


def test_the_file_stops_growing(tmp_path: Path) -> None:
    """200 MB through a budget of 16 MB: pages of deleted batches are used again."""
    settings = replace(RELAXED, budget_bytes=16 * MIB, dead_batches_min=16, map_bytes=1 << 30)
    payload = bytes(16_000)
    with opened(tmp_path / "log", settings) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1))
        grown = []
        index = 1
        for flush in range(800):
            feeder.append(h.entries_run(1, index, 1, [payload] * 16, prev_term=int(index > 1)))
            index += 16
            if flush % 20 == 19:
                last = index - 1
                feeder.append(h.hard(1, HardState(commit=last)), h.based(1, last, 1))
            grown.append(store.space().used_bytes + store._room.reusable_bytes)
        assert index * len(payload) > 200 * MIB * 0.9
        assert figures(store._index).direct_bytes < 24 * MIB
        assert max(grown) < 32 * MIB
        assert max(grown[400:]) <= max(grown[:400]) * 1.1, "the file still grows"
    assert os.stat(tmp_path / "log" / "data.mdb").st_blocks * 512 < 40 * MIB


def test_a_straggler_does_not_hold_the_log(home: Home) -> None:
    """A thousand quiet groups in the oldest batches, one that writes all the time: the quiet ones are copied."""
    settings = replace(RELAXED, dead_batches_min=16)
    with opened(home / "log", settings) as store:
        feeder = Feeder(store)
        for start in range(0, 1000, 100):
            feeder.append(*(h.created(100 + start + at) for at in range(100)))
        feeder.append(
            h.created(1), h.entries_run(150, 1, 1, [b"quiet"], prev_term=0), h.pin(2, 77, 3, 4)
        )
        for index in range(1, 700):
            feeder.append(h.entries_run(1, index, 1, [bytes(8000)], prev_term=int(index > 1)))
            feeder.append(h.hard(1, HardState(commit=index)), h.based(1, index, 1))
        found = figures(store._index)
        assert found.first_sequence > feeder.sequence - 300
        assert found.rewritten_live_bytes > 0
    assert verify(home.path / "log", disk=home.disk) == []
    with opened(home / "log", replace(settings, verify="all")) as store:
        assert len(list(store.groups())) == 1001
        assert read_entries(store, 150, 1) == {1: (1, 1, b"quiet")}
        assert store.pinned()[NodeId(2)].sequence == 4


def test_rewritten_batches_are_themselves_compacted(home: Home) -> None:
    """Quiet groups that are copied over and over do not pile up: what died in rewritten batches goes."""
    with opened(home / "log", EAGER) as store:
        feeder = Feeder(store)
        feeder.append(*(h.created(group) for group in range(1, 41)))
        index = dict.fromkeys(range(1, 41), 0)
        for turn in range(3000):
            group = 1 + turn * 7 % 40
            index[group] += 1
            at = index[group]
            feeder.append(
                h.entries_run(group, at, 1, [bytes(300)], prev_term=int(at > 1)),
                h.hard(group, HardState(commit=at)),
                h.based(group, at, 1),
            )
        found = figures(store._index)
        assert found.rewritten_bytes < 100_000
        assert found.direct_bytes < 200_000
    assert sum(1 for each in batches(home.path / "log", disk=home.disk) if each.rewritten) < 100


def test_nothing_is_rewritten_for_what_is_large(home: Home) -> None:
    settings = replace(EAGER, rewrite_bytes_max=10_000)
    with opened(home / "log", settings) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1), h.created(2))
        feeder.append(h.entries_run(2, 1, 1, [bytes(20_000)], prev_term=0))
        for index in range(1, 100):
            feeder.append(h.entries_run(1, index, 1, [bytes(4000)], prev_term=int(index > 1)))
            feeder.append(h.hard(1, HardState(commit=index)), h.based(1, index, 1))
        assert figures(store._index).first_sequence == 2
    assert not any(
        run.rewritten and run.group == 2 and run.kind == "ENTRIES"
        for run in runs(home.path / "log", disk=home.disk)
    )


def test_dead_batches_wait_for_a_flush_and_come_in_bounded_numbers(home: Home) -> None:
    settings = replace(RELAXED, dead_batches_min=10, dead_batches_max=20)
    with opened(home / "log", settings) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1))
        for index in range(1, 100):
            feeder.append(h.entries_run(1, index, 1, [bytes(100)], prev_term=int(index > 1)))
        assert figures(store._index).first_sequence == 1
        feeder.append(h.hard(1, HardState(commit=99)))
        feeder.append(h.based(1, 99, 1))
        firsts = [figures(store._index).first_sequence]
        for term in range(1, 12):
            feeder.append(h.hard(1, HardState(term=term, commit=99)))
            firsts.append(figures(store._index).first_sequence)
        steps = [after - before for before, after in itertools.pairwise(firsts)]
        assert all(step == 0 or 10 <= step <= 20 for step in steps), steps
        assert firsts[-1] > 80


@pytest.mark.parametrize("durable", [True, False])
def test_compaction_goes_on_beside_reads_and_writes(
    tmp_path: Path, arun: Arun, durable: bool
) -> None:
    """Two threads at once: everything fetched is right although batches move and go meanwhile."""
    settings = LogSettings(reserve_bytes=0, ahead_bytes=MIB, dead_batches_min=2, rewrite_share=0.5)

    async def main() -> None:
        async with Threaded(tmp_path / "log", settings if durable else EAGER) as it:
            it.feeder.append(h.created(1), h.created(2))
            it.feeder.append(
                *(
                    h.entries_run(1, index, 1, [f"old {index}".encode()], prev_term=int(index > 1))
                    for index in range(1, 51)
                )
            )
            for index in range(1, 150):
                it.feeder.append(
                    h.entries_run(2, index, 1, [bytes(3000)], prev_term=int(index > 1))
                )
                it.feeder.append(h.hard(2, HardState(commit=index)), h.based(2, index, 1))
                if index % 3 == 0:
                    await it.until(it.feeder.sequence - 5)  # else all of it is one flush
                    first = index % 50 + 1
                    runs = await it.fetch(1, first, 400)
                    decoded = h.decode_run(runs[0])
                    assert (decoded.first, decoded.entries) == (first, (f"old {first}".encode(),))
            await it.until(it.feeder.sequence)
            assert it.failed == []
            assert figures(it.store._index).first_sequence > 150

    arun(main())
    assert verify(tmp_path / "log") == []
