"""What is killed: small lives of a store or of nodes, always the same, that note what they begin and what they were told.

Each life makes everything happen that writes: batches, flushes, compaction, rewriting, growth of the map, snapshots written,
sent and installed, states of a user's machine, and a restart in the middle. ``["try", ...]`` is noted before a thing is asked
for, ``["did", ...]`` only after it was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

from multiraft import Config, Node
from multiraft.disk import RealDisk
from multiraft.errors import LogCorrupt, MultiRaftError, NoSpace
from multiraft.ids import NodeId
from multiraft.log.inspect import inspect_log
from multiraft.log.schema import LogSettings
from multiraft.machine.options import StoreOptions
from multiraft.machine.snapshot import check_snapshot
from multiraft.node import wiring
from multiraft.node.snapshots import Snapshots
from tests.crash.nursery import Notebook
from tests.unit.log.harness import Feeder, created, entries_run, open_inline, seal
from tests.unit.log.model import Model
from tests.unit.machine.harness import (
    GROUP,
    PREFIX,
    SMALL,
    Outcome,
    apply_all,
    open_with_shard,
    put,
    snapshot_record,
)
from tests.unit.machine.test_crash import steps
from tests.unit.node.machines import Counter
from tests.unit.node.test_cluster import Trio, refusals

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


def grown(note: Notebook, folder: str, count: int = 120) -> None:
    """A log and a state store that write so much that their maps of 1 MiB are full, again and again."""
    log_store = open_inline(Path(folder) / "log", dataclasses.replace(LOG, dead_batches_min=64))
    log_store.on_synced = lambda sequence: note("did", "synced", sequence)
    feeder = Feeder(log_store)
    feeder.append(created(1))
    state_store = open_with_shard(Path(folder) / "one", STATE)
    for index in range(1, count + 1):
        note("try", "one", index)
        feeder.append(entries_run(1, index, 1, [large(index)], prev_term=int(index > 1)))
        apply_all(state_store, [put(PREFIX + b"%d" % index, large(index)).encode()], index)
        if index % 10 == 0:
            state_store.freeze(GROUP)
            outcome = Outcome()
            state_store.flush(GROUP, outcome)
            note("did", "one", outcome.result)
    note("maps", log_store.space().map_bytes, state_store.space().map_bytes)
    state_store.close()
    log_store.close()


def large(index: int) -> bytes:
    return b"%08d" % index * 2500


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


def unclosed(note: Notebook, folder: str) -> None:
    """A node that ends by kill -9 right after an acknowledgement."""
    small_logs()

    async def main() -> None:
        async with running(note, node_config(folder)) as one:
            tasks = [write(note, one, writer, range(40)) for writer in range(WRITERS)]
            await asyncio.gather(*tasks, count(note, one, 20))
            await write(note, one, 0, range(40, 41))
            os.kill(os.getpid(), signal.SIGKILL)

    run(main())


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


def full(note: Notebook, folder: str, ballast: str) -> None:
    """A node on a small disk writes until it is full, deletes, reads, and goes on once there is room again."""
    small_logs()
    config = node_config(
        folder, reserve_bytes=4 << 20, memtable_bytes_max=200_000, memtables_bytes_max=1 << 20
    )

    async def main() -> None:
        async with running(note, config) as one:
            await one.create_group("hits", Counter)
            for number in range(10_000):
                value = f"0:{number}:".ljust(20_000, "x")
                note("try", f"0-{number}", value)
                try:
                    revision = await one.store.put(b"0-%d" % number, value.encode())
                except NoSpace:
                    break
                note("did", f"0-{number}", value, revision)
            else:
                raise AssertionError("the disk was never full")
            note("full", number)
            note("try", "0-0", None)
            note("did", "0-0", None, await one.store.delete(b"0-0"))
            found = {key async for key, _ in one.store.scan()}
            wanted = {b"0-%d" % at for at in range(1, number)}
            assert found == wanted, (number, sorted(found ^ wanted))
            Path(ballast).unlink()
            async with asyncio.timeout(20):
                while True:
                    try:
                        note("try", "0-1", "room")
                        note("did", "0-1", "room", await one.store.put(b"0-1", b"room"))
                        break
                    except NoSpace:
                        await asyncio.sleep(0.01)
            note("healed")

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
    "log_kept_entries": 10,
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


def trio_life(note: Notebook, folder: str, damage: str = "") -> None:
    """The third node comes back and is given snapshots, while writes go on; then everything is flushed once more.

    ``damage``: flip a bit in the first snapshots that are "sent" or "received"; "end": end by kill -9.
    """
    flipped = flip_snapshots(note, damage)

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
            note("life", third.transfers.installed, one.keeper.flushes, len(flipped))
            if damage == "end":
                os.kill(os.getpid(), signal.SIGKILL)

    run(main())


def flip_snapshots(note: Notebook, damage: str, amount: int = 3) -> list[Path]:
    """Let a bit of the first few snapshots change where they lie: when they are to be sent, or when they were received."""
    flipped: list[Path] = []
    send, arrived = Snapshots._send, Snapshots.arrived

    def flip(path: Path) -> None:
        if len(flipped) < amount:
            flipped.append(path)
            flip_bit(path, path.stat().st_size // (len(flipped) + 1), len(flipped))
            note("flipped", str(path))

    async def send_flipped(self: Snapshots, key: Any, node: Any, *rest: Any) -> None:
        flip(rest[1])
        await send(self, key, node, *rest)

    def arrived_flipped(self: Snapshots, node: int, transfer: int, path: str, meta: Any) -> None:
        flip(Path(path))
        arrived(self, node, transfer, path, meta)

    if damage == "sent":
        Snapshots._send = send_flipped  # type: ignore[method-assign]
    elif damage == "received":
        Snapshots.arrived = arrived_flipped  # type: ignore[method-assign]
    return flipped


def flip_bit(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def rolled_back(note: Notebook, folder: str) -> None:
    """A bit of the third node's log flips while it is down and the others run, so that its newest transaction is gone."""

    async def main() -> None:
        async with three(folder, 1, 2, 3) as cluster:
            await write(note, cluster.nodes[1], 0, range(2000, 2010))
            path = Path(folder) / "n3" / "log" / "data.mdb"
            others = [cluster.nodes[1], cluster.nodes[2]]
            while True:
                third = cluster.nodes.pop(3)
                third.failed(RuntimeError("it ends here"))
                with suppress(RuntimeError):
                    await third.closed()
                whole = path.read_bytes()
                forget_newest(path)
                newest = inspect_log(path.parent).figures.last_sequence
                if newest < min(map(known, others)):
                    break
                # It wrote something last that nobody had heard of: nothing was promised with it.
                path.write_bytes(whole)
                await cluster.start(3)
                await cluster.until(lambda: cluster.nodes[3].multi.persisted_sequence > newest + 5)
            said = [refusals(node) for node in others]
            try:
                await cluster.start(3)
                await cluster.until(lambda: any(said))
            except LogCorrupt as error:  # its own state is ahead of its log
                said.append([str(error)])
            third = cluster.nodes.pop(3)
            await write(note, cluster.nodes[1], 0, range(2010, 2020))
            with suppress(MultiRaftError):
                await third.aclose()
            note("third", *itertools.chain(*said))

    run(main())


def known(node: Node) -> int:
    """The newest batch that a node has heard of from the third."""
    return node.peers._peers[NodeId(3)].sequence


def forget_newest(path: Path) -> None:
    """Flip the one bit of the newest meta page that makes LMDB take the other one."""
    data = path.read_bytes()
    newest, at = max(
        (int.from_bytes(data[page + 144 : page + 152], "little"), page) for page in (0, 4096)
    )
    bit = newest.bit_length() - 1
    flip_bit(path, at + 144 + bit // 8, bit % 8)
