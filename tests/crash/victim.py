"""What is killed: small lives of a store or of nodes, always the same, that note what they begin and what they were told.

Each life makes everything happen that writes: batches, flushes, compaction, rewriting, growth of the map, snapshots written,
sent and installed, states of a user's machine, and a restart in the middle. ``["try", ...]`` is noted before a thing is asked
for, ``["did", ...]`` only after it was acknowledged.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from multiraft import Config, Node
from multiraft.disk import RealDisk
from multiraft.errors import MultiRaftError
from multiraft.log.schema import LogSettings
from multiraft.machine.snapshot import check_snapshot
from multiraft.node import keeper, wiring
from tests.crash.nursery import Notebook
from tests.unit.log.harness import open_inline, seal
from tests.unit.log.model import Model
from tests.unit.machine.harness import (
    GROUP,
    SMALL,
    Outcome,
    apply_all,
    open_with_shard,
    snapshot_record,
)
from tests.unit.machine.test_crash import steps
from tests.unit.node.machines import Counter

LOG_SEED, LOG_BATCHES = 7, 150
STATE_SEED, STATE_STEPS = 11, 400
LOG = LogSettings(
    reserve_bytes=0,
    ahead_bytes=1 << 16,
    dead_batches_min=2,
    rewrite_share=0.5,
    map_bytes=1 << 20,
)
STATE = dataclasses.replace(SMALL, relaxed=False, map_bytes=1 << 20)
WRITERS, WRITES, KEYS = 3, 50, 7


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


# -- the stores by themselves -----------------------------------------------------------------------------------------------


def log(note: Notebook, folder: str, durability: str = "full", batches: int = LOG_BATCHES) -> None:
    """A log store alone, opened three times."""
    model = Model(LOG_SEED)
    settings = dataclasses.replace(LOG, durability=durability)
    for life in range(3):
        store = open_inline(Path(folder) / "log", settings)
        failures: list[BaseException] = []
        store.on_synced = lambda sequence: note("did", "synced", sequence)
        store.on_failed = failures.append
        for sequence in range(store.synced_sequence + 1, batches * (life + 1) // 3 + 1):
            note("try", "batch", sequence)
            store.append(seal(sequence, store.store_id, model.batch()))
            if failures:
                note("ended", type(failures[0]).__name__)
                return
        store.close()


def state(note: Notebook, folder: str, durability: str = "full", count: int = STATE_STEPS) -> None:
    """Two state stores: the one applies and flushes, and sends the other snapshots."""
    options = dataclasses.replace(STATE, relaxed=durability == "relaxed")
    entries = steps(STATE_SEED, count)
    index = 0
    for life in range(2):
        one, two = (open_with_shard(Path(folder) / name, options) for name in ("one", "two"))
        index = one.shard(GROUP).applied_index
        while index < len(entries) * (life + 1) // 2:
            some = [step.encode() for step in entries[index : index + 1 + index % 7]]
            note("try", "one", index + len(some))
            apply_all(one, some, index + 1)
            index += len(some)
            one.freeze(GROUP)
            outcome = Outcome()
            one.flush(GROUP, outcome)
            note("did", "one", outcome.result)
            if index % 11 == 0:
                _install(note, Path(folder) / "file", one, two)
        one.close()
        two.close()


def _install(note: Notebook, path: Path, one: Any, two: Any) -> None:
    written, installed = Outcome(), Outcome()
    one.snapshot(GROUP, path, written)
    info = written.result
    note("did", "file", info.index)
    check_snapshot(RealDisk(), path)
    note("try", "two", info.index)
    two.install(GROUP, path, snapshot_record(info), installed)
    assert installed.error is None, installed.error
    note("did", "two", info.index)


# -- a node -----------------------------------------------------------------------------------------------------------------


def node_config(folder: str | Path, durability: str = "full", **other: Any) -> Config:
    settings: dict[str, Any] = {
        "data_dir": str(folder),
        "shards": 2,
        "tick_ms": 1,
        "heartbeat_ms": 1,
        "election_ms": 3,
        "memtable_bytes_max": 6_000,
        "memtables_bytes_max": 60_000,
        "memtable_age_s": 0.05,
        "machine_log_bytes_max": 600,
        "reserve_bytes": 0,
        "durability": durability,
        "seed": 1,
    } | other
    return Config(**settings)


def small_logs() -> None:
    """Logs that are compacted and rewritten after a few entries, in files that are not allocated far ahead."""
    keeper.KEPT_ENTRIES = 10

    def small(**given: Any) -> LogSettings:
        return LogSettings(
            **given,
            ahead_bytes=1 << 16,
            dead_batches_min=2,
            rewrite_share=0.5,
            map_bytes=1 << 20,
        )

    wiring.LogSettings = small  # type: ignore[misc,assignment]


@asynccontextmanager
async def running(note: Notebook, config: Config) -> AsyncIterator[Node]:
    """A node for as long as the block runs or the node does; what ended it is noted."""
    one = Node(config, machines={"counter": Counter})
    try:
        await one.start()
    except (MultiRaftError, OSError) as error:
        note("refused", type(error).__name__)
        raise
    try:
        await one.ready(10)
        yield one
    finally:
        try:
            await one.aclose()
            await one.closed()
        except MultiRaftError as error:
            note("ended", type(error).__name__)


def value_of(writer: int, number: int) -> str:
    """A value like no other; some are pages long."""
    return f"{writer}:{number}:".ljust(5000 if number % 10 == 9 else 40, "x")


async def write(note: Notebook, node: Node, writer: int, numbers: range) -> None:
    for number in numbers:
        key = f"{writer}-{number % KEYS}"
        value = None if number % 9 == 8 else value_of(writer, number)
        note("try", key, value)
        if value is None:
            revision = await node.store.delete(key.encode())
        else:
            revision = await node.store.put(key.encode(), value.encode())
        note("did", key, value, revision)


async def count(note: Notebook, node: Node, amount: int) -> None:
    hits = await node.create_group("hits", Counter)
    for _ in range(amount):
        note("try", "hits", None)
        note("did", "hits", None, await hits.propose(b"1"))


def node(note: Notebook, folder: str, durability: str = "full", writes: int = WRITES) -> None:
    """A node of its own with shards and a user's machine, started twice."""
    small_logs()

    async def life(number: int) -> None:
        part = writes // 2
        numbers = range(number * part, (number + 1) * part)
        async with running(note, node_config(folder, durability)) as one:
            tasks = [write(note, one, writer, numbers) for writer in range(WRITERS)]
            done = await asyncio.gather(*tasks, count(note, one, part), return_exceptions=True)
            for error in done:
                if isinstance(error, BaseException):
                    note("error", type(error).__name__)
            flushes = one.keeper.flushes
        note("life", number, flushes)

    async def main() -> None:
        for number in range(2):
            await life(number)

    run(main())
