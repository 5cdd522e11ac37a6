"""How long the loop is held at most by what a node does besides answering: flush, snapshots, replay, scans, compaction, ticks.

Target: 20 ms, for flush, snapshot write and install, and replay of a million entries. The figures of each are in ``extra_info``
and explained in ``gaps``. The process is frozen for the garbage collector as ``multiraft serve`` does it once its node is
ready; an embedder who does not has the collector's pauses besides. Nothing here asserts a time.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gaps import Probe
from benchmarks.test_machine import (
    GROUP,
    VOTER,
    embedded,
    fill,
    flush_all,
)
from multiraft import Node
from multiraft.ids import ReplicaId
from multiraft.interfaces import Base, HardState, SnapshotRecord
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.options import StoreOptions
from multiraft.machine.snapshot import SnapshotInfo
from multiraft.worker import Worker

Work = Callable[[Node], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """What the test run itself is made of is none of the collector's business here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def measure(
    benchmark: Any,
    tmp_path: Path,
    before: Work,
    work: Work,
    after: Work | None = None,
    **settings: Any,
) -> None:
    """Watch the loop while ``work`` runs on a node that ``before`` prepared."""
    benchmark.group = "loop gaps"

    async def watched(node: Node) -> Probe:
        async with Probe() as probe:
            await work(node)
        return probe

    with embedded(tmp_path, **settings) as (runner, node):
        runner.run(before(node))
        gc.collect()
        gc.freeze()
        probe = benchmark.pedantic(lambda: runner.run(watched(node)), rounds=1)
        probe.note(benchmark.extra_info)
        benchmark.extra_info["turn_ns"] = str(node.status().turn_ns)
        if after is not None:
            runner.run(after(node))


async def nothing(node: Node) -> None:
    """Nothing to prepare."""


@pytest.mark.parametrize("over", ["empty", "full"])
def test_flush(benchmark: Any, tmp_path: Path, over: str) -> None:
    """A memtable of 16 MiB, into an empty tree or over one that has all of its keys."""
    count = 1009 if benchmark.disabled else 149_993

    async def before(node: Node) -> None:
        if over == "full":
            await fill(node, count)
            await flush_all(node)
        await fill(node, count)
        benchmark.extra_info["memtable_bytes"] = node.status().memtable_bytes

    async def after(node: Node) -> None:
        assert node.machine.shard(GROUP).active.count == 0
        assert await node.store.get(b"key:%08d" % (count - 1)) == b"v" * 16

    measure(benchmark, tmp_path, before, flush_all, after, memtable_bytes_max=64 << 20)


def test_writes_with_flushes_and_compaction(benchmark: Any, tmp_path: Path) -> None:
    """A million puts by ``put_many`` of 500 into eight shards, with many flushes, over a log that is kept small."""
    count = 1009 if benchmark.disabled else 999_983

    async def work(node: Node) -> None:
        await fill(node, count, bytes(64))

    async def after(node: Node) -> None:
        assert benchmark.disabled or node.keeper.flushes > 8

    measure(
        benchmark, tmp_path, nothing, work, after, shards=8, memtable_bytes_max=8 << 20,
        log_budget_bytes=32 << 20,
    )  # fmt: skip


def test_snapshot_write(benchmark: Any, tmp_path: Path) -> None:
    """A snapshot of a shard of 64 MiB."""

    async def work(node: Node) -> None:
        info = await snapshot_of(node, tmp_path / "snapshot")
        benchmark.extra_info["size_bytes"] = info.size

    measure(benchmark, tmp_path, megabytes(benchmark), work)


def test_snapshot_install(benchmark: Any, tmp_path: Path) -> None:
    """The same, installed in another store beside the node."""
    path = tmp_path / "snapshot"
    infos: list[SnapshotInfo] = []
    others: list[tuple[KeyValueStore, list[Worker]]] = []

    async def before(node: Node) -> None:
        await megabytes(benchmark)(node)
        infos.append(await snapshot_of(node, path))
        workers = [Worker(name) for name in ("gap-state", "gap-reader", "gap-files")]
        other = KeyValueStore.open(tmp_path / "other", StoreOptions(reserve_bytes=0), *workers)
        others.append((other, workers))
        begun = _future()
        descriptor = node.machine.shard(GROUP).descriptor
        other.create(GROUP, descriptor, infos[0].membership, done=_done(begun))
        await begun

    async def work(node: Node) -> None:
        (info,), ((other, _),) = infos, others
        installed = _future()
        base = Base(info.index, info.term, ReplicaId(1), VOTER, HardState(term=info.term))
        record = SnapshotRecord(base, path.name, info.size, info.crc)
        other.install(GROUP, path, record, _done(installed))
        assert await installed

    async def after(node: Node) -> None:
        ((other, workers),) = others
        key = min(node.machine.shard(GROUP).descriptor.start + b"key:%08d" % n for n in range(3))
        assert other.get(GROUP, key) == node.machine.get(GROUP, key)
        other.end_turn()
        for worker in workers:
            await asyncio.to_thread(worker.close)
        other.close()

    measure(benchmark, tmp_path, before, work, after)


def test_replay(benchmark: Any, tmp_path: Path) -> None:
    """A start with so many entries in the log that the state does not hold yet; and the close before it."""
    count = 1000 if benchmark.disabled else 1_000_000
    settings: dict[str, Any] = {"memtable_age_s": 3600.0, "memtable_bytes_max": 16 << 20}

    async def write(node: Node) -> None:
        # Of few keys, so that no memtable is full: all of it is in the log alone.
        for at in range(0, count, 1000):
            tickets = [node.store.put(b"key:%05d" % n, b"v" * 16) for n in range(1000)]
            for ticket in tickets:
                await ticket
            await node.store.put(b"at", b"%d" % at)
        assert await node.store.get(b"at") == b"%d" % at

    async def again(node: Node) -> tuple[Probe, Probe]:
        async with Probe() as closing:
            await node.aclose()
        gc.collect()
        gc.freeze()
        async with Probe() as starting:
            other = Node(node.config)
            await other.start()
            await other.store.get(b"at")
            assert other.machine.shard(GROUP).flushed_index == 0
        await other.aclose()
        return closing, starting

    benchmark.group = "loop gaps"
    with embedded(tmp_path, **settings) as (runner, node):
        runner.run(write(node))
        closing, starting = benchmark.pedantic(lambda: runner.run(again(node)), rounds=1)
        closing.note(benchmark.extra_info, "close_")
        starting.note(benchmark.extra_info)
        benchmark.extra_info["operations"] = count


@pytest.mark.parametrize("shards", [None, 64], ids=["range", "hash"])
def test_scan(benchmark: Any, tmp_path: Path, shards: int | None) -> None:
    """All of a million keys, forwards and backwards."""
    count = 1009 if benchmark.disabled else 999_983

    async def before(node: Node) -> None:
        await fill(node, count)

    async def work(node: Node) -> None:
        for reverse in (False, True):
            found = 0
            async for _ in node.store.scan(reverse=reverse):
                found += 1
            assert found == count

    measure(benchmark, tmp_path, before, work, shards=shards)


def test_many_groups(benchmark: Any, tmp_path: Path) -> None:
    """Ten thousand shards that do nothing: ticks."""

    async def work(node: Node) -> None:
        until = node._ticks + (3 if benchmark.disabled else 40)
        while node._ticks < until:  # noqa: ASYNC110 - ticks are what is measured
            await asyncio.sleep(0.005)

    measure(benchmark, tmp_path, nothing, work, shards=50 if benchmark.disabled else 10_000)


# -- parts ----------------------------------------------------------------------------------------------------------------


def megabytes(benchmark: Any) -> Work:
    """Writes 64 MiB and has them flushed."""

    async def before(node: Node) -> None:
        await fill(node, 503 if benchmark.disabled else 65_537, bytes(1000))
        await flush_all(node)

    return before


async def snapshot_of(node: Node, path: Path) -> SnapshotInfo:
    written = _future()
    node.machine.snapshot(GROUP, path, _done(written))
    info: SnapshotInfo = await written
    return info


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _done(future: asyncio.Future[Any]) -> Callable[[Any, BaseException | None], None]:
    def done(result: Any, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    return done
