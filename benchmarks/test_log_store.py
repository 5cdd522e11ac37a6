"""What the log store costs: entries a second and bytes on the device against one key per entry, and the index at open.

Both layouts are written by turns in one run, all flushes durable, so that the disk's moods hit both alike: the ratio is the
figure, entries a second are good to a factor of two. With turns of one flush each layout follows the other, with turns of five
it mostly follows itself, as a store does; both are reported, since they differ. What is written is made beforehand; only writing
is timed.

A log grows until its oldest entries are flushed into the state; from then on compaction deletes in the flushes, and they use
freed pages again. Both states are reported: a growing file costs a commit of the file system's journal with each sync. The
other layout never deletes, which is the cheaper for it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from benchmarks.device import device_bytes, sync_ms
from multiraft._batch import BatchBuilder
from multiraft._core import RunKind, encode_run
from multiraft.disk import RealDisk
from multiraft.ids import ReplicaId
from multiraft.interfaces import Base, Membership
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import LogEnvironment
from multiraft.log.loading import load_index
from multiraft.log.lookup import find_runs, group_facts
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.records import encode_base
from multiraft.worker import InlineWorker

GROUPS = 1024
MAP_BYTES = 8 << 30
KEPT_FLUSHES = 80
"""What compaction leaves where freed pages are used again."""
DURABLE = LogSettings(map_bytes=MAP_BYTES, reserve_bytes=0)
RELAXED = LogSettings(map_bytes=MAP_BYTES, reserve_bytes=0, ahead_bytes=0, durability="relaxed")


class OnDemand:
    """A worker that works when it is told to: a whole flush is appended first, as a turn does, and then written."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = (
            deque()
        )

    def submit(
        self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        self.jobs.append((job, done))

    def work(self) -> None:
        while self.jobs:
            job, done = self.jobs.popleft()
            done(job(), None)

    def close(self) -> None:
        self.work()


class Batched:
    """The log store: one transaction a flush."""

    def __init__(self, path: Path, settings: LogSettings = DURABLE, groups: int = GROUPS):
        self.writer = OnDemand()
        self.store = LmdbLogStore(
            path, writer=self.writer, reader=InlineWorker(), settings=settings
        )
        self.sequence = 0
        self.last = dict.fromkeys(range(1, groups + 1), 0)
        self.write(self.seal(based(group, 0, RunKind.RUN_REPLICA_CREATED) for group in self.last))

    def seal(self, runs: Iterator[bytes]) -> list[bytes]:
        builder = BatchBuilder()
        for run in runs:
            builder.add_run(run)
        batches = builder.seal(self.sequence + 1, self.store.store_id)
        self.sequence += len(batches)
        return batches

    def flush(self, at: int, entries: int, payload: bytes) -> list[bytes]:
        """``entries`` over adjacent groups, the ``at``-th time."""
        return self.seal(self._runs(at, entries, payload))

    def _runs(self, at: int, entries: int, payload: bytes) -> Iterator[bytes]:
        groups = min(entries, len(self.last))
        each = entries // groups
        for offset in range(groups):
            group = (at * groups + offset) % len(self.last) + 1
            first = self.last[group] + 1
            self.last[group] += each
            yield encode_run(
                group=group, first=first, term=1, prev_term=int(first > 1), entries=[payload] * each
            )

    def compact(self, indexes: dict[int, int]) -> list[bytes]:
        """The records that let everything up to ``indexes`` go: the next flushes delete it."""
        return self.seal(based(group, index, RunKind.RUN_BASE) for group, index in indexes.items())

    def write(self, batches: list[bytes]) -> None:
        for batch in batches:
            self.store.append(batch)
        self.writer.work()
        assert self.store.synced_sequence == self.store._index.last_sequence

    def close(self) -> None:
        self.store.close()


class Kept:
    """Lets go of what is older than so many flushes, as a store does that flushes its state."""

    def __init__(self, batched: Batched, flushes: int):
        self._batched = batched
        self._flushes = flushes
        self._marks: deque[tuple[int, dict[int, int]]] = deque()

    def flushed(self, count: int) -> list[bytes]:
        """So many flushes were made; the records that are due."""
        self._marks.append((count, dict(self._batched.last)))
        due = {}
        while sum(flushes for flushes, _ in self._marks) > self._flushes:
            _, due = self._marks.popleft()
        return self._batched.compact(due) if due else []


class OneKeyEach:
    """What it is compared with: one key, group and index, for each entry; one transaction a flush."""

    def __init__(self, path: Path, sync: bool = True):
        path.mkdir()
        self.environment = lmdb.open(str(path), map_size=MAP_BYTES, sync=sync, lib_version=0)
        self.last = dict.fromkeys(range(1, GROUPS + 1), 0)

    def flush(self, at: int, entries: int, payload: bytes) -> list[tuple[bytes, bytes]]:
        groups = min(entries, GROUPS)
        each = entries // groups
        items = []
        for offset in range(groups):
            group = (at * groups + offset) % GROUPS + 1
            for index in range(self.last[group] + 1, self.last[group] + each + 1):
                key = group.to_bytes(8, "big") + index.to_bytes(8, "big")
                items.append((key, bytes(8) + payload))
            self.last[group] += each
        return items

    def write(self, items: list[tuple[bytes, bytes]]) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(items)

    def close(self) -> None:
        self.environment.close()


def based(group: int, index: int, kind: RunKind) -> bytes:
    """A record of where a group's log begins: a new replica's, or a compacted one's."""
    term = int(index > 0)
    payload = encode_base(Base(index, term, ReplicaId(1), Membership()))
    return encode_run(
        group=group, first=index, term=term, from_replica=1, kind=kind, entries=[payload]
    )


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Batched, OneKeyEach]]:
    batched, single = Batched(tmp_path / "batched"), OneKeyEach(tmp_path / "single")
    yield batched, single
    batched.close()
    single.close()


def prepare(
    both: tuple[Batched, OneKeyEach],
    state: str,
    rounds: int,
    turn: int,
    entries: int,
    payload: bytes,
    *,
    timed: bool,
) -> deque[tuple[list[list[Any]], list[bytes]]]:
    """Bring both layouts into their state; then what each round writes by turns, and the records of compaction after it."""
    batched = both[0]
    for at in range(20 if timed else 1):  # the trees have some depth before anything is timed
        for each in both:
            each.write(each.flush(at, 10_000 if timed else 200, payload))  # type: ignore[arg-type]
    kept = Kept(batched, KEPT_FLUSHES if timed else 1) if state == "reusing" else None
    if kept is not None:
        for at in range(3 * KEPT_FLUSHES if timed else 3):
            batched.write(batched.flush(at, entries, payload) + kept.flushed(1))
    turns: deque[tuple[list[list[Any]], list[bytes]]] = deque()
    for _ in range(rounds):
        flushes = [[each.flush(at, entries, payload) for at in range(turn)] for each in both]
        turns.append((flushes, kept.flushed(turn) if kept is not None else []))
    return turns


@pytest.mark.parametrize("payload_bytes", [16, 128])
@pytest.mark.parametrize("entries", [100, 10_000])
@pytest.mark.parametrize("turn", [1, 5])
@pytest.mark.parametrize("state", ["growing", "reusing"])
@pytest.mark.benchmark(group="log store: a durable flush over 1,024 groups")
def test_flush_against_one_key_per_entry(
    benchmark: Any,
    tmp_path: Path,
    both: tuple[Batched, OneKeyEach],
    state: str,
    turn: int,
    entries: int,
    payload_bytes: int,
) -> None:
    timed = benchmark.enabled
    rounds = (60 if entries < 1000 else 20) if timed else 1
    payload = os.urandom(payload_bytes)
    batched, _ = both
    turns = prepare(both, state, rounds + int(timed), turn, entries, payload, timed=timed)
    pages = file_pages(batched)
    seconds: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])

    def flush_both() -> None:
        flushes, records = turns.popleft()
        for each, mine, spent, used in zip(both, flushes, seconds, cpu, strict=True):
            for items in mine:
                started, cpu_before = time.perf_counter(), time.thread_time()
                each.write(items)
                spent.append(time.perf_counter() - started)
                used.append(time.thread_time() - cpu_before)
        batched.write(records)

    benchmark.pedantic(flush_both, rounds=rounds, warmup_rounds=1 if timed else 0)
    written = entries // min(entries, GROUPS) * min(entries, GROUPS)
    ours, theirs = (statistics.median(each) for each in seconds)
    benchmark.extra_info.update(
        operations=written,
        flushes_a_turn=turn,
        file_grew_pages=file_pages(batched) - pages,
        entries_per_second=round(written / ours),
        one_key_per_entry_per_second=round(written / theirs),
        ratio=round(theirs / ours, 2),
        ratio_of_sums=round(sum(seconds[1]) / sum(seconds[0]), 2),
        ratio_of_best=round(min(seconds[1]) / min(seconds[0]), 2),
        ratio_of_cpu=round(statistics.median(cpu[1]) / statistics.median(cpu[0]), 2),
        target_ratio=10 if entries == 10_000 else 2,
        sync_ms=sync_ms(tmp_path, 200 if timed else 1),
        settings="durable, one transaction a flush, 1,024 groups",
    )
    for group in (1, GROUPS):
        assert group_last(batched.store._index, group) == batched.last[group]


def file_pages(batched: Batched) -> int:
    return int(batched.store._environment._env.info()["last_pgno"]) + 1


def group_last(index: Any, group: int) -> int:
    facts = group_facts(index, group)
    assert facts is not None
    return facts.last_index


@pytest.mark.parametrize(("payload_bytes", "target"), [(16, 2.5), (128, 1.3)])
@pytest.mark.benchmark(
    group="log store: bytes on the device per byte of payload, ten entries a run"
)
def test_device_bytes(benchmark: Any, tmp_path: Path, payload_bytes: int, target: float) -> None:
    """The least of several stretches: other processes write to the same device, never less than nothing."""
    written = device_bytes(tmp_path)
    if written is None:
        pytest.skip(f"{tmp_path} is on no block device whose writes are counted")
    batched = Batched(tmp_path / "batched")
    flushes, stretches = (10, 8) if benchmark.enabled else (1, 1)
    payload = os.urandom(payload_bytes)
    prepared = deque(
        [batched.flush(at, 10 * GROUPS, payload) for at in range(flushes)] for _ in range(stretches)
    )
    shares = []

    def stretch() -> None:
        os.sync()
        before = written()
        for batches in prepared.popleft():
            batched.write(batches)
        shares.append((written() - before) / (flushes * 10 * GROUPS * payload_bytes))

    benchmark.pedantic(stretch, rounds=stretches)
    benchmark.extra_info.update(
        device_bytes_per_payload_byte=round(min(shares), 3),
        target=target,
        all=[round(each, 2) for each in shares],
    )
    assert group_last(batched.store._index, 1) == 10 * flushes * stretches
    batched.close()


@pytest.mark.parametrize(("groups", "each"), [(64, 100), (1024, 10), (10_000, 1)])
@pytest.mark.benchmark(group="log store: the index at open, a million entries")
def test_rebuild_the_index(benchmark: Any, tmp_path: Path, groups: int, each: int) -> None:
    timed = benchmark.enabled
    groups = groups if timed else 16
    entries = 1_000_000 if timed else groups * each * 3
    batched = Batched(tmp_path / "log", RELAXED, groups)
    payload = bytes(16)
    flushes = entries // (groups * each)
    for at in range(flushes):
        batched.write(batched.flush(at, groups * each, payload))
    store_id = batched.store.store_id
    batched.close()
    directory = LogDirectory(RealDisk(), tmp_path / "log")
    environment = LogEnvironment(directory, RELAXED)

    def rebuild() -> Any:
        index = load_index(environment, store_id, bodies=False)
        assert index.finish() == []
        return index

    try:
        index = benchmark.pedantic(
            rebuild, rounds=5 if timed else 1, warmup_rounds=1 if timed else 0
        )
        assert group_last(index, groups) == flushes * each
        assert len(find_runs(index, 1, 1, 1 << 30)) == flushes
        if timed:
            seconds = benchmark.stats.stats.min
            benchmark.extra_info.update(
                operations=flushes * groups * each,
                seconds_per_million_entries=round(seconds / (flushes * groups * each) * 1e6, 4),
                target=0.3,
            )
    finally:
        environment.close()
        directory.close()
