"""Admission: what a node refuses when its disk is nearly full, its memtables are, or a shard of it has stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft import BatchError, Config, Delete, Node, NoSpace, OutcomeUnknown, Overloaded, Put
from multiraft.errors import FormatUnsupported, InvalidCommand, Quarantined
from multiraft.interfaces import LogSpace
from multiraft.machine import commands
from tests.unit.disks import fill_up, small_disk
from tests.unit.node.test_cluster import Trio, trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")

UNREADABLE = b"\xff" + bytes(15)
"""A command of an envelope version that nobody knows yet."""

READABLE = commands.encode_put(1, 1, b"\0\1key", b"value")


def set_free(node: Node, free_bytes: int | None) -> None:
    """Let the log of a node say that so much room is left; None: what is true."""
    if free_bytes is None:
        del node.log.space  # type: ignore[method-assign]
        return
    true = node.log.space()
    said = replace(true, free_bytes=free_bytes, reserve_bytes=1000)

    def space() -> LogSpace:
        return said

    node.log.space = space  # type: ignore[method-assign]


def counted_turns(node: Node) -> Callable[[], Coroutine[Any, Any, None]]:
    """A function that waits until the node has ticked twice more."""

    async def wait() -> None:
        until = node._ticks + 2
        while node._ticks < until:
            await asyncio.sleep(0.001)

    return wait


def test_p13_with_a_full_disk_writes_fail_and_all_else_goes_on(arun: Run, tmp_path: Path) -> None:
    """Nothing is hung, nothing is unknown, and freed room is enough to go on."""

    async def main() -> None:
        async with Node(
            Config(data_dir=str(tmp_path), shards=4, tick_ms=5, election_ms=300)
        ) as node:
            db, ticked = node.store, counted_turns(node)
            for n in range(20):
                await db.put(b"k%d" % n, b"v")
            set_free(node, 999)
            await ticked()
            with pytest.raises(NoSpace):
                await db.put(b"k1", b"new")
            with pytest.raises(NoSpace):
                await db.batch([Delete(b"k1"), Put(b"k1", b"new")])
            with pytest.raises(BatchError) as failed:
                await db.put_many([(b"k%d" % n, b"new") for n in range(20)])
            assert all(isinstance(one, NoSpace) for one in failed.value.outcomes)
            assert node.status().scarce
            assert await db.get(b"k1") == b"v"
            await db.delete(b"k1")
            await db.batch([Delete(b"k2")])
            assert await db.get_many([b"k1", b"k2", b"k3"]) == [None, None, b"v"]
            set_free(node, 1001)
            await ticked()
            with pytest.raises(NoSpace):  # a little above the reserve is not room yet
                await db.put(b"k1", b"new")
            set_free(node, 1200)
            await ticked()
            assert await db.put(b"k1", b"new") > 0
            status = node.status()
            assert not status.scarce and status.refused_space == 3 + len(failed_shards(node))

    arun(main())


def failed_shards(node: Node) -> set[int]:
    """The shards of the keys that are written above."""
    routing = node.routing
    return {routing.find(routing.physical(b"k%d" % n))[0] for n in range(20)}


def test_p13_a_node_on_a_really_full_disk_heals_without_a_restart(
    arun: Run, tmp_path: Path
) -> None:
    """Somebody else fills the file system; what was acknowledged is there afterwards."""
    disk = tmp_path / "disk"

    async def main() -> None:
        config = Config(
            data_dir=str(disk / "node"), tick_ms=5, election_ms=300, reserve_bytes=4 << 20
        )
        acknowledged = {}
        async with Node(config) as node:
            ticked = counted_turns(node)
            await node.store.put(b"first", b"v")
            ballast = fill_up(disk)
            with pytest.raises(NoSpace):
                for n in range(10_000):
                    await node.store.put(b"k%d" % n, bytes(20_000))
                    acknowledged[b"k%d" % n] = bytes(20_000)
            for n in range(100):
                await node.store.delete(b"d%d" % n)
            assert await node.store.get(b"first") == b"v"
            ballast.unlink()
            while node.admission.scarce:
                await ticked()
            await node.store.put(b"last", b"v")
        async with Node(config) as node:
            found = {key: value async for key, value in node.store.scan()}
            assert found == acknowledged | {b"first": b"v", b"last": b"v"}

    with small_disk(disk, "96m"):
        arun(main())


def led(node: Node) -> set[int]:
    """The shards that a node leads."""
    return {group for group in node.multi.groups() if group and node.multi.leads(group)}


async def spread(cluster: Trio) -> None:
    """Wait until every shard is led by the node that the map wants."""
    await cluster.until(lambda: all(len(led(node)) == 2 for node in cluster.nodes.values()))


def test_p13_a_leader_without_room_hands_over_to_one_that_has(arun: Run, tmp_path: Path) -> None:
    """Callers of any node notice nothing; with room the leaders come back; without room anywhere everybody hears it."""

    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await spread(cluster)
            one, two, three = cluster.nodes.values()
            set_free(one, 0)
            for n in range(60):
                await cluster.nodes[n % 3 + 1].store.put(b"k%d" % n, b"v")
            assert not led(one) and one.admission.refused.space == 0
            set_free(one, 2000)
            await spread(cluster)
            for node in (one, two, three):
                set_free(node, 0)
            await cluster.until(lambda: all(node.admission.scarce for node in (one, two, three)))
            await cluster.until(
                lambda: all(
                    node.peers.scarce(other)
                    for node in (one, two, three)
                    for other in (1, 2, 3)
                    if other != node.config.node_id
                )
            )
            for n in range(12):  # also where the command was forwarded
                with pytest.raises(NoSpace):
                    await cluster.nodes[n % 3 + 1].store.put(b"k%d" % n, b"new")
            assert await two.store.get(b"k1") == b"v"
            await two.store.delete(b"k1")
            for node in (one, two, three):
                set_free(node, None)
            await cluster.until(
                lambda: not any(node.admission.scarce for node in (one, two, three))
            )
            await three.store.put(b"k1", b"again")
            assert await one.store.get(b"k1") == b"again"

    arun(main())


def test_a_full_shard_refuses_until_its_flush_is_done(arun: Run, tmp_path: Path) -> None:
    """With ``nowait`` the caller hears it; without, it waits, and nothing is lost."""

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), memtable_bytes_max=65536)) as node:
            db = node.store
            flush, waiting = node.machine.flush, []
            node.machine.flush = lambda *given: waiting.append(given)  # type: ignore[method-assign,assignment]
            tickets = []
            while node.waiters.gate is None:
                tickets.append(db.put(b"k%d" % len(tickets), bytes(1000)))
                await asyncio.sleep(0.001)
            assert node.machine.full(1) and node.machine.table.crowded == {1}
            with pytest.raises(Overloaded):
                await db.put(b"nowait", b"v", nowait=True)
            late = db.put(b"late", b"v")
            while not waiting:
                await asyncio.sleep(0.001)
            assert not late.done() and node.admission.refused.full >= 2
            node.machine.flush = flush  # type: ignore[method-assign]
            for given in waiting:
                flush(*given)
            assert await late > 0
            await asyncio.gather(*tickets)
            assert node.machine.table.crowded == set()
            assert await db.get(b"k0") == bytes(1000)

    arun(main())


def test_p36_what_is_held_back_is_neither_answered_nor_readable(arun: Run, tmp_path: Path) -> None:
    """Many runs are committed at once and most find no room: none of them passes for applied before it is."""

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), memtable_bytes_max=65536)) as node:
            db = node.store
            flush, waiting = node.machine.flush, []
            append = node.log.append
            batches: list[bytes] = []
            node.machine.flush = lambda *given: waiting.append(given)  # type: ignore[method-assign,assignment]
            node.log.append = batches.append  # type: ignore[method-assign]
            tickets = []
            for n in range(300):  # a run each, for a turn is between any two
                turns = node.turn.counters.turns
                tickets.append(db.put(b"k%d" % n, b"%4d" % n * 250))
                while node.turn.counters.turns == turns:
                    await asyncio.sleep(0)
            node.log.append = append  # type: ignore[method-assign]
            for batch in batches:
                append(batch)
            while not waiting:
                await asyncio.sleep(0.001)
            await counted_turns(node)()
            applied_index = node.machine.shard(1).applied_index
            assert node.multi.indexes(1)[2] > applied_index, "something is held back"
            assert node.multi.indexes(1)[3] == applied_index
            for n, ticket in enumerate(tickets):
                if ticket.done():
                    assert await db.get(b"k%d" % n, stale=True) == b"%4d" % n * 250
            node.machine.flush = flush  # type: ignore[method-assign]
            for given in waiting:
                flush(*given)
            revisions = await asyncio.gather(*tickets)
            assert revisions == sorted(revisions)
            assert await db.get(b"k299") == b" 299" * 250

    arun(main())


def test_a_shard_with_a_command_that_cannot_be_read_stops_alone(
    arun: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One alarm, no entry skipped, a clear error for everybody, the other shards at work - also after a restart."""
    config = Config(data_dir=str(tmp_path), borders=(b"m",), tick_ms=5, election_ms=300)

    async def main() -> None:
        async with Node(config) as node:
            db = node.store
            node.admission.quarantine(999, FormatUnsupported("another group, for another reason"))
            await db.put(b"a", b"before")
            group, epoch = db._routing.find(db._routing.physical(b"a"))
            deadline_ns = node.clock.now_ns() + 10**10
            bad = node.waiters.submit(group, UNREADABLE, deadline_ns)
            behind = db.put(b"a", b"behind")
            reading = db.get(b"a")
            for ticket in (bad, behind):
                with pytest.raises(OutcomeUnknown) as unknown:
                    await ticket
                assert isinstance(unknown.value.__cause__, FormatUnsupported)
            assert await reading == b"before"  # asked before the entries were committed
            applied_index = node.machine.shard(group).applied_index
            await stopped(node, group)
            assert node.machine.shard(group).applied_index == applied_index
            command = commands.encode_put(1, epoch, b"\0\1a", b"x")
            with pytest.raises(Quarantined):
                await node.waiters.submit(group, command, deadline_ns)
        alarms = [one for one in caplog.records if vars(one).get("group") == group]
        assert [one.levelno for one in alarms] == [logging.CRITICAL]
        assert "quarantined" in alarms[0].getMessage()
        async with Node(config) as node:
            async with asyncio.timeout(10):
                while group not in node.admission.stopped:
                    await asyncio.sleep(0.001)
            await stopped(node, group)

    async def stopped(node: Node, group: int) -> None:
        db = node.store
        with pytest.raises(Quarantined):
            await db.put(b"a", b"after")
        with pytest.raises(Quarantined):
            await db.get(b"a")
        assert await db.get(b"a", stale=True) == b"before"
        await db.put(b"z", b"v")
        assert await db.get(b"z") == b"v"
        assert group in node.status().quarantined

    arun(main())


def test_leadership_leaves_a_replica_that_has_stopped(arun: Run, tmp_path: Path) -> None:
    """The others serve its shard, through any node; it does not stand for election again."""

    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await spread(cluster)
            one, two, _ = cluster.nodes.values()
            group = min(led(one))
            one.admission.quarantine(group, FormatUnsupported("a test says so"))
            await cluster.until(lambda: two.multi.leader_node(group) in (2, 3))
            for n in range(40):
                await cluster.nodes[n % 3 + 1].store.put(b"k%d" % n, b"v")
            await cluster.until(lambda: two.multi.leader_node(group) in (2, 3))
            with pytest.raises(Quarantined):  # whoever asks here has to ask another node
                await one.reads.submit(group, lambda ticket: None, one.turn.now() + 10**10)
            # A command that no replica can read: then nobody takes over, and callers hear that too.
            everywhere = min(led(two))
            bad = two.waiters.submit(everywhere, UNREADABLE, two.turn.now() + 10**10)
            with pytest.raises(OutcomeUnknown):
                await bad
            await cluster.until(
                lambda: all(everywhere in node.admission.stopped for node in cluster.nodes.values())
            )
            for node in cluster.nodes.values():
                with pytest.raises(Quarantined):
                    await node.waiters.submit(everywhere, READABLE, node.turn.now() + 10**10)

    arun(main())


def test_a_forwarded_command_that_nobody_could_read_is_refused_and_stops_no_shard(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await spread(cluster)
            one, two, _ = cluster.nodes.values()
            group = min(led(one))
            for bad, kind in ((UNREADABLE, FormatUnsupported), (READABLE[:-1], InvalidCommand)):
                with pytest.raises(kind):
                    await two.waiters.submit(group, bad, two.turn.now() + 10**10)
            assert not one.status().quarantined and two.peers.linked(1)

    arun(main())
