"""What the synchronous face costs: one thread's calls against the same calls on the loop, and many keys in one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import multiraft
from multiraft import sync

CALLS = 200


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sync.Store]:
    with sync.open(tmp_path, durability="relaxed") as store:
        store.put_many((b"%04d" % n, b"x" * 16) for n in range(1000))
        yield store


@pytest.mark.benchmark(group="sync")
@pytest.mark.parametrize("call", ["get", "put", "get_many", "scan"])
def test_a_thread_and_the_loop(benchmark: BenchmarkFixture, db: sync.Store, call: str) -> None:
    """So many keys by calls of one thread: one by one, in one call, and by a scan. Nothing waits for the disk here."""
    keys = [b"%04d" % n for n in range(CALLS)]
    benchmark.extra_info.update(keys_per_round=CALLS)

    def work() -> int:
        if call == "get":
            return sum(db.get(key) is not None for key in keys)
        if call == "put":
            return sum(db.put(key, b"y" * 16) > 0 for key in keys)
        if call == "get_many":
            return len(db.get_many(keys))
        return sum(1 for _ in db.scan(limit=CALLS))

    assert benchmark(work) == CALLS


@pytest.mark.benchmark(group="sync")
def test_the_same_on_the_loop(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Single gets on the loop, to compare with those of a thread."""
    benchmark.extra_info.update(keys_per_round=CALLS)
    keys = [b"%04d" % n for n in range(CALLS)]
    with asyncio.Runner() as runner:
        node = multiraft.Node(multiraft.Config(data_dir=str(tmp_path), durability="relaxed"))
        runner.run(node.start())
        runner.run(node.store.put_many([(key, b"x") for key in keys]))

        async def gets() -> int:
            return sum([await node.store.get(key) is not None for key in keys])

        assert benchmark(lambda: runner.run(gets())) == CALLS
        runner.run(node.aclose())
