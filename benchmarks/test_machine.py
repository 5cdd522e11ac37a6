"""The key-value store: apply, get, flush, scan, snapshots; and ``get`` as a program calls it on an embedded node.

Sizes are swept: keys, and bytes of a value. A round holds many operations and says so as ``operations``; every answer is
compared with what was written, outside of what is timed where that would be seen. With ``--benchmark-disable`` it runs small.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from multiraft import Config, Node
from multiraft._core import CommittedRuns, MemberFlag, RunKind
from multiraft.ids import ReplicaId
from multiraft.interfaces import Base, HardState, Member, Membership, SnapshotRecord
from multiraft.machine import commands
from multiraft.machine.descriptors import ShardDescriptor
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.options import StoreOptions
from multiraft.machine.scans import ScanPage
from multiraft.records import encode_membership
from multiraft.worker import InlineWorker

GROUP, SPACE, EPOCH = 1, 1, 1
PREFIX = SPACE.to_bytes(2, "big")
WHOLE = ShardDescriptor(
    start=PREFIX, end=(SPACE + 1).to_bytes(2, "big"), range_epoch=EPOCH, replica_next=2, space=SPACE
)
VOTER = Membership((Member(ReplicaId(1), 1, int(MemberFlag.MEMBER_VOTER)),))  # type: ignore[arg-type]
OPTIONS = StoreOptions(
    memtable_bytes_max=1 << 30,
    memtables_bytes_max=1 << 31,
    reserve_bytes=0,
    cold_reads="loop",
    seed=1,
)


def keys_of(count: int) -> list[bytes]:
    """Physical keys in an order that is not theirs."""
    keys = [PREFIX + b"key:%08d" % number for number in range(count)]
    random.Random(1).shuffle(keys)
    return keys


class Machine:
    """One store with one shard, whose jobs run at once and in the caller."""

    def __init__(self, path: Path):
        jobs = InlineWorker()
        self.store = KeyValueStore.open(path, OPTIONS, jobs, jobs)
        self.store.create(GROUP, WHOLE, encode_membership(VOTER))
        self.index = 0

    def runs(self, keys: list[bytes], value: bytes) -> CommittedRuns:
        """One committed entry a key, as a follower gets them: a hundred to a run."""
        payloads = [commands.encode_put(SPACE, EPOCH, key, value) for key in keys]
        runs = CommittedRuns()
        for at in range(0, len(payloads), 100):
            some = payloads[at : at + 100]
            runs.append(GROUP, self.index + 1, 1, int(RunKind.RUN_ENTRIES), some)
            self.index += len(some)
        return runs

    def apply(self, runs: CommittedRuns) -> int:
        applied = 0
        while runs.done < len(runs):
            applied += self.store.apply(runs, 256)
        return applied

    def flush(self) -> None:
        self.store.freeze(GROUP)
        self.store.flush(GROUP, raised)

    def scan(self, *, reverse: bool) -> int:
        """All of it, page by page; how many keys. They come in order, each once."""
        found, start, end = 0, WHOLE.start, WHOLE.end
        while True:
            page = self.store.scan_page(GROUP, start, end, 512, reverse=reverse)
            if not isinstance(page, ScanPage):
                self.store.table.order_step(GROUP, 1 << 30)
                continue
            found += len(page.entries)
            if page.resume is None:
                return found
            start, end = (start, page.resume) if reverse else (page.resume, end)

    def close(self) -> None:
        self.store.close()


def raised(_: object, error: BaseException | None) -> None:
    if error is not None:
        raise error


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "state")
    yield made
    made.close()


def sized(benchmark: Any, count: int, small: int = 500) -> int:
    return small if benchmark.disabled else count


VALUE_SIZES = pytest.mark.parametrize("value_bytes", [16, 1024])


@VALUE_SIZES
@pytest.mark.parametrize("keys", [10_000, 100_000])
def test_apply(benchmark: Any, machine: Machine, keys: int, value_bytes: int) -> None:
    """Committed puts into a memtable: all keys new in the first round, overwritten in the others."""
    names = keys_of(sized(benchmark, keys))
    benchmark.group = f"machine/apply/{value_bytes} B"
    benchmark.extra_info.update(operations=len(names), keys=keys, value_bytes=value_bytes)
    value = bytes(value_bytes)

    def setup() -> tuple[tuple[CommittedRuns], dict[str, Any]]:
        return (machine.runs(names, value),), {}

    applied = benchmark.pedantic(machine.apply, setup=setup, rounds=5, iterations=1)
    assert applied == len(names)
    assert machine.store.get(GROUP, names[0]) == (machine.index - len(names) + 1, value)


@pytest.mark.parametrize("where", ["memtable", "tree"])
@pytest.mark.parametrize("keys", [10_000, 100_000])
def test_get(benchmark: Any, machine: Machine, keys: int, where: str) -> None:
    """Single gets of the store, a thousand under one read transaction, as in a busy turn."""
    names = keys_of(sized(benchmark, keys))
    machine.apply(machine.runs(names, b"v" * 16))
    if where == "tree":
        machine.flush()
    asked = random.Random(2).choices(names, k=sized(benchmark, 20_000))
    benchmark.group = f"machine/get/{where}"
    benchmark.extra_info.update(operations=len(asked), keys=keys, value_bytes=16)

    def run() -> int:
        get, found = machine.store.get, 0
        for at, key in enumerate(asked):
            found += get(GROUP, key)[1] == b"v" * 16  # type: ignore[index]
            if at % 1000 == 0:
                machine.store.end_turn()
        return found

    assert benchmark(run) == len(asked)


@pytest.mark.parametrize("resident", [0, 1_000_000], ids=["empty tree", "million keys"])
def test_flush(benchmark: Any, tmp_path: Path, resident: int) -> None:
    """A memtable of 100,000 random keys, sorted and written in one durable transaction."""
    names = keys_of(sized(benchmark, 100_000))
    benchmark.group = "machine/flush"
    benchmark.extra_info.update(operations=len(names), resident=resident, value_bytes=16)
    made: list[Machine] = []

    def setup() -> None:
        path = tmp_path / f"state{len(made)}"
        machine = Machine(path)
        made.append(machine)
        old = [
            PREFIX + b"old:%08d" % n for n in range(sized(benchmark, resident) if resident else 0)
        ]
        for at in range(0, len(old), 100_000):
            machine.apply(machine.runs(old[at : at + 100_000], b"o" * 16))
            machine.flush()
        machine.apply(machine.runs(names, b"v" * 16))

    benchmark.pedantic(lambda: made[-1].flush(), setup=setup, rounds=1 if benchmark.disabled else 3)
    for machine in made:
        assert machine.store.shard(GROUP).flushed_index == machine.index
        assert machine.store.get(GROUP, names[1])[1] == b"v" * 16  # type: ignore[index]
        machine.close()


@pytest.mark.parametrize("where", ["memtable", "tree", "both"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan(benchmark: Any, machine: Machine, where: str, reverse: bool) -> None:
    names = keys_of(sized(benchmark, 100_000))
    machine.apply(machine.runs(names, b"v" * 16))
    if where != "memtable":
        machine.flush()
    if where == "both":
        machine.apply(machine.runs(names[::3], b"w" * 16))
    benchmark.group = f"machine/scan/{where}"
    benchmark.extra_info.update(operations=len(names), value_bytes=16, page_keys=512)
    assert machine.scan(reverse=reverse) == len(names)  # and brings it into order
    assert benchmark(lambda: machine.scan(reverse=reverse)) == len(names)


def test_snapshot(benchmark: Any, machine: Machine, tmp_path: Path) -> None:
    """A shard of 64 MiB, written to a file, checked, and installed in the place of another's state: both, one after the other."""
    names = keys_of(sized(benchmark, 64 * 1024))
    for at in range(0, len(names), 10_000):
        machine.apply(machine.runs(names[at : at + 10_000], bytes(1000)))
        machine.flush()
    benchmark.group = "machine/snapshot"
    benchmark.extra_info.update(operations=len(names), value_bytes=1000)
    made: list[tuple[Machine, Path]] = []

    def setup() -> None:
        number = len(made)
        made.append((Machine(tmp_path / f"other{number}"), tmp_path / f"snapshot{number}"))

    def run() -> None:
        other, path = made[-1]
        infos: list[Any] = []
        machine.store.snapshot(GROUP, path, lambda info, error: infos.append(error or info))
        (info,) = infos
        base = Base(info.index, info.term, ReplicaId(2), VOTER, HardState(term=info.term))
        record = SnapshotRecord(base, path.name, info.size, info.crc)
        other.store.install(GROUP, path, record, raised)

    benchmark.pedantic(run, setup=setup, rounds=1 if benchmark.disabled else 3)
    for other, _ in made:
        assert other.store.get(GROUP, names[-1]) == machine.store.get(GROUP, names[-1])
        assert other.scan(reverse=False) == len(names)
        other.close()


# -- as a program calls it ------------------------------------------------------------------------------------------------


@contextmanager
def embedded(tmp_path: Path, **settings: Any) -> Iterator[tuple[asyncio.Runner, Node]]:
    """One embedded node on uvloop."""
    folder = tmp_path / "node"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def start() -> Node:
            node = Node(Config(data_dir=str(folder), **settings))
            await node.start()
            return node

        node = runner.run(start())
        try:
            yield runner, node
        finally:
            runner.run(node.aclose())
            shutil.rmtree(folder)


async def fill(node: Node, count: int, value: bytes = b"v" * 16) -> None:
    for at in range(0, count, 500):
        await node.store.put_many(
            [(b"key:%08d" % (n * 7919 % count), value) for n in range(at, min(count, at + 500))]
        )


async def flush_all(node: Node) -> None:
    for group in node.multi.groups():
        node.keeper.freeze(group)
    while not node.keeper.idle():  # noqa: ASYNC110 - nobody is told when the last flush is done
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("tasks", [1, 64])
@pytest.mark.parametrize("where", ["memtable", "tree"])
def test_embedded_get(benchmark: Any, tmp_path: Path, where: str, tasks: int) -> None:
    """``await db.get(key)``, linearizable. Targets: 400,000/s from the memtable, 150,000/s from LMDB's page cache."""
    count = sized(benchmark, 99_991)  # a prime, so that `fill` meets every key
    asked = random.Random(2).choices(
        [b"key:%08d" % n for n in range(count)], k=sized(benchmark, 100_000)
    )
    benchmark.group = f"embedded/get/{where}"
    benchmark.extra_info.update(operations=len(asked), keys=count, value_bytes=16, tasks=tasks)
    with embedded(tmp_path) as (runner, node):
        runner.run(fill(node, count))
        if where == "tree":
            runner.run(flush_all(node))
            assert node.machine.shard(1).active.count == 0
        get = node.store.get

        async def some(keys: list[bytes]) -> int:
            found = 0
            for key in keys:
                if await get(key):
                    found += 1
            return found

        async def run() -> int:
            if tasks == 1:
                return await some(asked)
            return sum(await asyncio.gather(*(some(asked[at::tasks]) for at in range(tasks))))

        assert benchmark(lambda: runner.run(run())) == len(asked)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("shards", [None, 64], ids=["range", "hash"])
def test_embedded_scan(benchmark: Any, tmp_path: Path, shards: int | None, reverse: bool) -> None:
    """``async for key, value in db.scan()`` over a million keys, in order, memory and tree together."""
    count = 503 if benchmark.disabled else 999_983
    benchmark.group = f"embedded/scan/{'hash' if shards else 'range'}"
    benchmark.extra_info.update(operations=count, value_bytes=16, shards=shards or 1)

    async def run(node: Node) -> int:
        found, last = 0, None
        async for key, _ in node.store.scan(reverse=reverse):
            assert last is None or (key < last if reverse else key > last)
            last = key
            found += 1
        return found

    with embedded(tmp_path, shards=shards) as (runner, node):
        runner.run(fill(node, count))
        scan: Callable[[], Coroutine[Any, Any, int]] = lambda: run(node)  # noqa: E731
        rounds = 1 if benchmark.disabled else 2
        assert benchmark.pedantic(lambda: runner.run(scan()), rounds=rounds) == count
