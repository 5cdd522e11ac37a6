"""Snapshots that do not come, cannot be read, or find no place: whoever waits for one goes on, and the node does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Node
from multiraft.errors import FormatUnsupported
from multiraft.interfaces import FileMeta, Membership
from multiraft.node import snapshots
from multiraft.node.keeper import Keeper
from multiraft.node.snapshots import OUTGOING_MAX
from multiraft.raft import Snapshot
from tests.unit.node.machines import Counter
from tests.unit.node.test_cluster import Trio, trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


async def roles(cluster: Trio, group: int) -> tuple[Node, Node, int]:
    """The leader of a group, one that follows, and the follower's replica."""
    await cluster.until(lambda: any(node.multi.leads(group) for node in cluster.nodes.values()))
    leader = next(node for node in cluster.nodes.values() if node.multi.leads(group))
    follower = next(node for node in cluster.nodes.values() if node is not leader)
    return leader, follower, int(follower.multi.replica(group).status().replica)


def waits(node: Node, group: int) -> bool:
    return not node.multi.replica(group).status().promotable


async def announce(leader: Node, follower: Node, replica: int) -> None:
    """Let the leader of group 1 announce a snapshot of what is still to come; no file follows."""
    status = leader.multi.replica(1).status()
    offer = Snapshot(status.last_index + 100, status.term, status.membership, context=77)
    assert leader.multi.replica(1).send_snapshot(replica, offer)
    leader.turn.kick()
    async with asyncio.timeout(20):
        while not waits(follower, 1):
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["entries come instead", "its leader is gone"])
def test_p58_a_follower_whose_snapshot_never_comes_applies_and_campaigns_again(
    arun: Run, tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put(b"k", b"before")
            leader, follower, replica = await roles(cluster, 1)
            await announce(leader, follower, replica)
            if how == "its leader is gone":
                await cluster.stop(int(leader.config.node_id))
            else:
                leader.multi.replica(1).report_snapshot(replica, False)
            other = next(node for node in cluster.nodes.values() if node is not follower)
            assert await other.store.put(b"k", b"after", timeout=20) > 0
            assert await follower.store.get(b"k", timeout=20) == b"after"
            await cluster.until(lambda: not waits(follower, 1))

    arun(main())


def test_p82_an_announcement_that_cannot_be_read_ends_nobody(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            _, follower, _ = await roles(cluster, 1)
            follower.snapshots([(1, 99, 1, 5, 1, b"\xff no membership")], [])
            assert await follower.store.put(b"k", b"v") > 0

    arun(main())


def test_p97_a_snapshot_of_another_format_is_not_installed_and_ends_nobody(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            _, follower, _ = await roles(cluster, 1)
            follower.transfers._ended(1, tmp_path / "absent", FormatUnsupported("version 9"))
            assert await follower.store.put(b"k", b"v") > 0

    arun(main())


def test_a_file_that_nobody_announced_does_not_stay(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "ARRIVAL_TICKS", 3)

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1)
            path = tmp_path / "incoming.file"
            path.write_bytes(b"?")
            cluster.nodes[1].transfers.arrived(2, 5, str(path), FileMeta(1, 0, b""))
            await cluster.until(lambda: not path.exists())
            assert not cluster.nodes[1].transfers._arrivals

    arun(main())


def test_p22_a_map_that_came_in_a_snapshot_is_read(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of group 0 is left to be applied behind it that would say so."""

    def compact(self: Keeper, group: int, index: int, membership: Membership | None = None) -> None:
        self._multi.compact(group, index, membership)  # whoever may still want it
        self._kick()

    monkeypatch.setattr(Keeper, "compact", compact)

    async def main() -> None:
        async with trio(
            tmp_path, machines=lambda _: {"counter": Counter}, shards=1, memtable_age_s=0.1
        ) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.stop(3)
            await cluster.ready()
            rest = list(cluster.nodes.values())
            await rest[0].create_group("late", "counter", timeout=20)
            await cluster.until(
                lambda: all(node.multi.indexes(0)[0] == node.multi.indexes(0)[4] for node in rest)
            )
            await cluster.start(3)
            await cluster.until(lambda: 2 in cluster.nodes[3].multi)
            group = cluster.nodes[3].group("late")
            assert await group.propose(b"5", timeout=20) == 5

    arun(main())


def test_p77_a_member_that_waits_for_its_snapshot_costs_no_turns(arun: Run, tmp_path: Path) -> None:
    """As many as may be are on their way already: it is asked again with a tick, not with each turn."""

    async def main() -> None:
        async with trio(tmp_path, shards=1, memtable_age_s=0.1, log_kept_entries=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leaving = cluster.nodes[3]
            await cluster.stop(3)
            last_index = leaving.multi.indexes(1)[4]  # handing over may have brought it entries
            await cluster.ready()
            rest = list(cluster.nodes.values())
            while min(node.multi.indexes(1)[0] for node in rest) <= last_index:
                await rest[0].store.put(b"k", b"v")
            asked = 0

            def counted(node: Node) -> Callable[[int, int, int], None]:
                wanted = node.transfers.wanted

                def count(group: int, peer: int, to: int) -> None:
                    nonlocal asked
                    asked += 1
                    wanted(group, peer, to)

                return count

            for node in rest:
                node.transfers._outgoing |= {(99, peer) for peer in range(OUTGOING_MAX)}
                node.transfers.wanted = counted(node)  # type: ignore[method-assign,assignment]
            await cluster.start(3)
            await cluster.until(lambda: asked > 0)
            before, begun = sum(node._ticks for node in rest), asked
            await cluster.until(lambda: sum(node._ticks for node in rest) >= before + 20)
            assert asked - begun <= sum(node._ticks for node in rest) - before
            for node in rest:
                node.transfers._outgoing.clear()
            await cluster.until(lambda: cluster.nodes[3].transfers.installed > 0)

    arun(main())
