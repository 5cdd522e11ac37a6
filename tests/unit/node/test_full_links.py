"""A full link: calls for the node behind it wait, and where one is lost nobody waits in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from multiraft import DeadlineExceeded, Node
from multiraft._core import MessageKind
from multiraft._frames import encode_frame, encode_message
from multiraft.errors import LinkLost, Overloaded
from multiraft.ids import NodeId
from multiraft.node.forwarding import calls_of
from tests.unit.node.test_answers import leader_and_follower
from tests.unit.node.test_cluster import trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


@asynccontextmanager
async def pair(folder: Path, **settings: Any) -> Any:
    """(cluster, leader of the one shard, another node that forwards to it)."""
    async with trio(folder, shards=1, **settings) as cluster:
        await cluster.start(1, 2, 3)
        await cluster.ready()
        leader, follower = await leader_and_follower(cluster)
        await follower.store.put(b"before", b"")
        yield cluster, leader, follower


def losing(sender: Node, target: Node, *, calls: bool) -> Callable[[], None]:
    """Frames for a node find no room where they carry calls - or where they do not. What is given ends it."""
    send, node = sender.transport.send, target.config.node_id

    def refuse(to: NodeId, frame: bytes, **given: bool) -> bool:
        if to == node and (calls_of(frame) is not None) is calls:
            return False
        return send(to, frame, **given)

    def end() -> None:
        sender.transport.send = send  # type: ignore[method-assign]

    sender.transport.send = refuse  # type: ignore[method-assign, assignment]
    return end


@pytest.mark.slow
def test_calls_wait_while_the_queue_to_their_leader_is_over_half_full(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (cluster, leader, follower):
            room, sent = follower.transport.room, follower.forwarding.forwarded
            follower.forwarding.room = lambda node: 0
            await asyncio.sleep(0.05)  # a turn has forgotten what room there was
            tickets = [follower.store.put(b"k", b"%d" % n) for n in range(3000)]
            late = follower.store.put(b"late", b"v", timeout=0.1)
            with pytest.raises(Overloaded):
                await follower.store.put(b"now", b"v", nowait=True)
            with pytest.raises(DeadlineExceeded):
                await late
            given_up = follower.store.put(b"given up", b"v")
            given_up.cancel()
            assert follower.forwarding.forwarded == sent and not follower.forwarding.away
            assert len(follower.forwarding) == 3000 + 1
            follower.forwarding.room = room
            follower.store.put(b"k", b"last")
            revisions = [await ticket for ticket in tickets]
            assert revisions == sorted(revisions), "they did not leave in the order of their coming"
            await cluster.until(lambda: len(follower.forwarding) == 0)
            assert await leader.store.get(b"k") == b"last"
            for key in (b"late", b"now", b"given up"):
                assert await leader.store.get(key) is None

    arun(main())


@pytest.mark.slow
def test_calls_that_wait_for_room_go_to_a_new_leader_or_wait_for_the_link(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (cluster, leader, follower):
            crowded = {leader.config.node_id}
            room = follower.transport.room
            follower.forwarding.room = lambda node: 0 if node in crowded else room(node)
            await asyncio.sleep(0.05)
            ticket = follower.store.put(b"k", b"v")
            assert not follower.forwarding.away
            replica = next(
                number
                for number, node in leader.placing.map.shards[0].replicas
                if node not in (leader.config.node_id, follower.config.node_id)
            )
            leader.multi.transfer_leader(1, replica)
            assert await ticket > 0, "it waited for a queue that its leader is not behind any more"
            await cluster.until(lambda: sum(n.multi.leads(1) for n in cluster.nodes.values()) == 1)
            now = next(node for node in cluster.nodes.values() if node.multi.leads(1))
            crowded.add(now.config.node_id)
            await asyncio.sleep(0.05)
            ticket = follower.store.put(b"k", b"w")
            follower.transport.drop(NodeId(now.config.node_id))
            assert not ticket.done(), "it had not left, so its outcome is known"
            crowded.clear()
            assert await ticket > 0

    arun(main())


@pytest.mark.slow
def test_a_leader_that_reads_nothing_makes_calls_wait_and_loses_none(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with pair(tmp_path, link_queue_bytes_max=1_000_000) as (_, leader, follower):
            number = NodeId(leader.config.node_id)
            link = leader.transport._links.standing(NodeId(follower.config.node_id))
            assert link is not None
            link.pause_reading()
            value = bytes(50_000)
            tickets = [follower.store.put(b"%d" % n, value, timeout=60) for n in range(400)]
            async with asyncio.timeout(20):
                while follower.transport.room(number) > 0:
                    await asyncio.sleep(0.01)
            away = len(follower.forwarding.away)
            assert 0 < away < 400 and len(follower.forwarding) == 400
            link.resume_reading()
            assert all([await ticket > 0 for ticket in tickets])
            assert follower.peers.linked(number)
            assert follower.turn.counters.frames_dropped == 0

    arun(main())


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["call", "answer"])
def test_p93_a_call_or_an_answer_that_finds_no_room_ends_the_link_and_not_in_silence(
    arun: Run, tmp_path: Path, whose: str
) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (cluster, leader, follower):
            sender, target = (follower, leader) if whose == "call" else (leader, follower)
            epochs = [link_epoch(node, other) for node, other in both(leader, follower)]
            end = losing(sender, target, calls=True)
            before = follower.forwarding.forwarded
            ticket = follower.store.compare_and_set(b"k", b"v", revision=0, timeout=60)
            with pytest.raises(LinkLost):
                await ticket
            end()
            await cluster.until(lambda: all(linked(*ends) for ends in both(leader, follower)))
            for epoch, ends in zip(epochs, both(leader, follower), strict=True):
                assert link_epoch(*ends) > epoch, "one of the two sides kept the link"
            assert follower.forwarding.forwarded == before + 1, "what may have happened was retried"
            happened = await leader.store.get(b"k")
            assert happened == (None if whose == "call" else b"v")
            assert await follower.store.put(b"k", b"w") > 0

    arun(main())


def both(one: Node, other: Node) -> list[tuple[Node, Node]]:
    return [(one, other), (other, one)]


def linked(node: Node, other: Node) -> bool:
    return node.transport.connected(NodeId(other.config.node_id))


def link_epoch(node: Node, other: Node) -> int:
    link = node.transport._links.standing(NodeId(other.config.node_id))
    assert link is not None
    return link.link_epoch


@pytest.mark.slow
def test_p98_a_raft_message_that_finds_no_room_costs_no_link(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (cluster, leader, follower):
            epoch = link_epoch(leader, follower)
            dropped = leader.turn.counters.frames_dropped
            end = losing(leader, follower, calls=False)
            assert await leader.store.put(b"k", b"v") > 0
            await cluster.until(lambda: leader.turn.counters.frames_dropped > dropped)
            end()
            assert await follower.store.get(b"k") == b"v"
            assert link_epoch(leader, follower) == epoch

    arun(main())


def test_the_calls_of_a_frame_make_a_frame_and_leave_out_what_is_said_again() -> None:
    def message(kind: MessageKind, body: bytes = b"") -> bytes:
        return encode_message(kind=kind, group=1, from_replica=1, to_replica=2, term=1, body=body)

    status = encode_message(kind=MessageKind.MSG_NODE_STATUS, index=1, context=1)
    heartbeat = message(MessageKind.MSG_HEARTBEAT)
    assert calls_of(encode_frame([status, heartbeat], sealed=False)) is None
    call = encode_message(kind=MessageKind.MSG_FORWARD, group=1, context=7, body=b"a command")
    answer = encode_message(kind=MessageKind.MSG_FORWARD_ACK, context=8, index=5)
    mixed = encode_frame([heartbeat, call, status, answer, heartbeat], sealed=False)
    assert calls_of(mixed) == encode_frame([call, answer], sealed=False)
    assert calls_of(encode_frame([call], sealed=False)) == encode_frame([call], sealed=False)


@pytest.mark.slow
def test_answers_get_through_a_link_that_has_no_room_but_theirs(arun: Run, tmp_path: Path) -> None:
    """What replicas say is dropped, and the answer that was in one frame with it is not."""

    async def main() -> None:
        async with pair(tmp_path) as (_, leader, follower):
            epoch, send = link_epoch(leader, follower), leader.transport.send
            number = follower.config.node_id

            def crowded(to: NodeId, frame: bytes, calls: bool = False) -> bool:
                return (to != number or calls) and send(to, frame, calls)

            leader.transport.send = crowded  # type: ignore[method-assign]
            assert await follower.store.put(b"k", b"v") > 0
            leader.transport.send = send  # type: ignore[method-assign]
            assert link_epoch(leader, follower) == epoch
            assert await follower.store.get(b"k") == b"v"

    arun(main())
