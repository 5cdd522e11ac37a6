"""Snapshots that do not come, cannot be read, or find no place: whoever waits for one goes on, and the node does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft import Node
from multiraft._core import CommittedRuns
from multiraft.errors import FormatUnsupported
from multiraft.ids import NodeId
from multiraft.interfaces import FileMeta, Membership
from multiraft.node import snapshots
from multiraft.node.keeper import Keeper
from multiraft.node.snapshots import OUTGOING_MAX
from multiraft.raft import Snapshot
from tests.unit.node.machines import Counter
from tests.unit.node.test_admission import UNREADABLE
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


def cut_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are forgotten as soon as their state is on the disk, whoever may still want them."""

    def compact(self: Keeper, group: int, index: int, membership: Membership | None = None) -> None:
        self._multi.compact(group, index, membership)
        self._kick()

    monkeypatch.setattr(Keeper, "compact", compact)


def deafen(node: Node) -> Callable[[], None]:
    """Frames no longer reach the node; what lets them through again."""
    node.turn.on_frame = lambda _, __: None  # type: ignore[method-assign,assignment]

    def hear() -> None:
        del node.turn.on_frame  # type: ignore[method-assign]

    return hear


async def cut_beyond(cluster: Trio, leader: Node, follower: Node) -> None:
    """Write to shard 1 until its leader's log begins after all that the follower has."""
    last_index = follower.multi.indexes(1)[4]
    while leader.multi.indexes(1)[0] <= last_index:
        await leader.store.put(b"k", b"behind", timeout=20)


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
    cut_at_once(monkeypatch)

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


def test_a_shard_that_met_an_unknown_command_is_healed_by_its_leaders_snapshot(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica applies, serves reads and may lead again, without a restart."""
    cut_at_once(monkeypatch)

    async def main() -> None:
        async with trio(tmp_path, shards=1, memtable_age_s=0.1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put(b"k", b"before")
            leader, follower, _ = await roles(cluster, 1)
            at = leader.multi.indexes(1)[3]
            await cluster.until(lambda: follower.multi.indexes(1)[3] == at)
            hear = deafen(follower)
            newer = CommittedRuns()
            newer.append(1, at + 1, 1, 1, [UNREADABLE])
            assert follower.machine.apply(newer, 1, CommittedRuns()) == 0
            follower.turn.kick()
            await cluster.until(lambda: 1 in follower.admission.stopped)
            await cut_beyond(cluster, leader, follower)
            hear()
            await cluster.until(lambda: follower.transfers.installed > 0)
            await cluster.until(lambda: not follower.admission.stopped)
            assert await follower.store.get(b"k", timeout=20) == b"behind"
            assert await follower.store.put(b"k", b"after", timeout=20) > 0
            await cluster.until(lambda: not waits(follower, 1))
            await cluster.until(lambda: follower.multi.indexes(1)[3] == leader.multi.indexes(1)[3])
            assert not follower.status().quarantined

    arun(main())


def test_p58_a_member_that_refuses_every_snapshot_is_sent_ever_fewer_and_healed_at_once(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_at_once(monkeypatch)

    async def main() -> None:
        async with trio(tmp_path, shards=1, memtable_age_s=0.1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower, _ = await roles(cluster, 1)
            hear = deafen(follower)
            await cut_beyond(cluster, leader, follower)
            install, refused = follower.machine.install, 0

            def refuse(group: int, path: Any, record: Any, done: Any) -> None:
                nonlocal refused
                refused += 1
                done(None, FormatUnsupported("a snapshot file of version 9"))

            follower.machine.install = refuse  # type: ignore[method-assign,assignment]
            hear()
            await cluster.until(lambda: refused > 0)
            begun = leader._ticks
            await cluster.until(lambda: leader._ticks >= begun + 100)
            assert refused <= 5  # after 0, 5, 15, 35 and 75 ticks
            assert leader.status().snapshots_failed >= refused - 1 > 0
            assert leader.status().snapshots_sent >= refused
            assert "is not taken; the next one not before" in caplog.text
            follower.machine.install = install  # type: ignore[method-assign]
            leader.transport.drop(NodeId(follower.config.node_id))
            await cluster.until(lambda: follower.transfers.installed > 0)
            assert follower.status().snapshots_taken > 0
            assert await follower.store.get(b"k", timeout=20) == b"behind"

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


def test_files_of_an_earlier_life_are_swept_away_at_the_start(arun: Run, tmp_path: Path) -> None:
    """One that was received and not announced before the node ended would stay for ever."""

    async def main() -> None:
        for folder in ("snapshots", "incoming"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "incoming-2-0000000000000007.file").write_bytes(b"left")
        async with multiraft.open(tmp_path):
            assert [*(tmp_path / "snapshots").iterdir(), *(tmp_path / "incoming").iterdir()] == []

    arun(main())
