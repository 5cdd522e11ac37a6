"""What is killed: small lives of a store or of nodes, always the same, that note what they begin and what they were told.

Each life makes everything happen that writes: batches, flushes, compaction, rewriting, growth of the map, snapshots written,
sent and installed, states of a user's machine, and a restart in the middle. ``["try", ...]`` is noted before a thing is asked
for, ``["did", ...]`` only after it was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

from multiraft import Config, Node
from multiraft.disk import RealDisk
from multiraft.errors import MultiRaftError
from multiraft.ids import NodeId
from multiraft.log.schema import LogSettings
from multiraft.machine.options import StoreOptions
from multiraft.machine.snapshot import check_snapshot
from multiraft.node import wiring
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
from tests.unit.node.test_cluster import Trio

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
        try:
            store = open_inline(Path(folder) / "log", settings)
        except (MultiRaftError, OSError) as error:
            note("refused", type(error).__name__, str(error))
            return
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
    """Two state stores: the one applies and flushes, and sends the other snapshots. Two lives, unless the disk fails."""
    options = dataclasses.replace(STATE, relaxed=durability == "relaxed")
    try:
        for life in (1, 2):
            _apply_and_send(note, Path(folder), options, count * life // 2)
    except (MultiRaftError, OSError) as error:
        note("ended", type(error).__name__)


def _apply_and_send(note: Notebook, folder: Path, options: StoreOptions, count: int) -> None:
    entries = steps(STATE_SEED, count)
    with contextlib.ExitStack() as stack:
        one, two = (open_with_shard(folder / name, options) for name in ("one", "two"))
        stack.callback(one.close)
        stack.callback(two.close)
        index = one.shard(GROUP).applied_index
        while index < len(entries):
            some = [step.encode() for step in entries[index : index + 1 + index % 7]]
            note("try", "one", index + len(some))
            apply_all(one, some, index + 1)
            index += len(some)
            one.freeze(GROUP)
            outcome = Outcome()
            one.flush(GROUP, outcome)
            note("did", "one", outcome.result)
            if index % 11 == 0:
                _install(note, folder / "file", one, two)


def _install(note: Notebook, path: Path, one: Any, two: Any) -> None:
    written, installed = Outcome(), Outcome()
    one.snapshot(GROUP, path, written)
    info = written.result
    note("did", "file", info.index)
    check_snapshot(RealDisk(), path)
    note("try", "two", info.index)
    two.install(GROUP, path, snapshot_record(info), installed)
    assert installed.result is not None
    note("did", "two", info.index)


# -- nodes ----------------------------------------------------------------------------------------------------------------


def node_config(folder: str | Path, durability: str = "full", **other: Any) -> Config:
    settings: dict[str, Any] = {
        "data_dir": str(folder),
        "borders": [b"1"],
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
        "log_kept_entries": 10,
    } | other
    return Config(**settings)


def small_logs() -> None:
    """Logs that are compacted and rewritten after a few entries, in files that are not allocated far ahead."""

    def small(**given: Any) -> LogSettings:
        return LogSettings(
            **given,
            ahead_bytes=1 << 16,
            dead_batches_min=2,
            rewrite_share=0.5,
            map_bytes=1 << 20,
        )

    wiring.LogSettings = small  # type: ignore[misc,assignment]


class Refused(Exception):
    """A node did not start, or ended by itself; it has said why."""


@asynccontextmanager
async def running(note: Notebook, config: Config) -> AsyncIterator[Node]:
    """A node for as long as the block runs or the node does; what ended it is noted."""
    one = Node(config, machines={"counter": Counter})
    try:
        await one.start()
    except (MultiRaftError, OSError) as error:
        note("refused", type(error).__name__, str(error))
        raise Refused from error
    try:
        await one.ready(10)
        yield one
    finally:
        try:
            await one.aclose()
            await one.closed()
        except MultiRaftError as error:
            note("ended", type(error).__name__, str(error))
            raise Refused from error


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

    with suppress(Refused):
        run(main())


# -- three nodes ------------------------------------------------------------------------------------------------------------


THREE: dict[str, Any] = {
    "shards": None,
    "borders": [b"1"],
    "tick_ms": 5,
    "heartbeat_ms": 10,
    "election_ms": 60,
    "memtable_age_s": 0.05,
    "memtable_bytes_max": 6_000,
    "memtables_bytes_max": 60_000,
    "machine_log_bytes_max": 600,
    "reserve_bytes": 0,
}


class Three(Trio):
    """Three nodes in one process. Their configuration names addresses that never change and where nobody listens; they listen
    at free ports and are told of each other's."""

    def __init__(self, folder: Path, **other: Any) -> None:
        super().__init__(folder, machines=lambda _: {"counter": Counter}, **(THREE | other))
        self.addresses = {node: f"127.0.0.1:{node}" for node in (1, 2, 3)}

    def config(self, node: int, **other: Any) -> Config:
        return super().config(node, **({"listen": "127.0.0.1:0"} | other))

    async def start(self, *nodes: int) -> None:
        for node in nodes:
            await super().start(node)
            for number, other in self.nodes.items():
                if number != node:
                    self.nodes[node].transport.set_address(NodeId(number), other.address)
                    other.transport.set_address(NodeId(node), self.nodes[node].address)


@asynccontextmanager
async def three(folder: str | Path, *numbers: int, **other: Any) -> AsyncIterator[Three]:
    small_logs()
    cluster = Three(Path(folder), **other)
    try:
        await cluster.start(*numbers)
        await cluster.ready()
        yield cluster
    finally:
        await asyncio.gather(*(node.aclose() for node in cluster.nodes.values()))


def behind(note: Notebook, folder: str) -> None:
    """Not to be killed: makes three nodes of which the third is too far behind for the others' logs."""

    async def main() -> None:
        async with three(folder, 1, 2, 3) as cluster:
            one = cluster.nodes[1]
            await asyncio.gather(*(write(note, one, n, range(KEYS)) for n in range(WRITERS)))
            await count(note, one, 3)
            await cluster.stop(3)
            await cluster.ready()
            groups = [1, 2, one.group("hits").id]
            numbers = iter(range(KEYS, 1000))
            while min(one.multi.indexes(group)[0] for group in groups) < 20:
                at = next(numbers)
                await asyncio.gather(
                    *(write(note, one, n, range(at, at + 1)) for n in range(WRITERS)),
                    count(note, one, 1),
                )

    run(main())


def trio_life(note: Notebook, folder: str) -> None:
    """The third node comes back and is given snapshots, while writes go on; then everything is flushed once more."""

    async def main() -> None:
        async with three(folder, 1, 2, 3) as cluster:
            one, third = cluster.nodes[1], cluster.nodes[3]
            await asyncio.gather(
                *(write(note, one, n, range(2000, 2020)) for n in range(WRITERS)),
                count(note, one, 20),
            )
            groups = range(one.group("hits").id + 1)
            await cluster.until(
                lambda: all(third.multi.indexes(g)[3] >= one.multi.indexes(g)[2] for g in groups)
            )
            note("life", third.transfers.installed, one.keeper.flushes)

    run(main())
