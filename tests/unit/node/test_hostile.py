"""What a node of the cluster says that cannot be true: its link is dropped for it, and this node goes on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgpack
import pytest

from multiraft import InvalidResult
from multiraft._core import MessageFlag, MessageKind
from multiraft.errors import LinkLost, PeerProtocolError
from multiraft.ids import NodeId
from multiraft.raft import Message
from multiraft.records import encode_membership

from .machines import Counter
from .test_answers import deaf, leader_and_follower
from .test_cluster import trio
from .test_machines import three

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")

ACK = int(MessageKind.MSG_FORWARD_ACK)
RESULTS = int(MessageFlag.FLAG_TRANSFER)


def test_p24_a_second_leader_of_a_term_costs_its_link_and_ends_nobody(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower = await leader_and_follower(cluster)
            status = leader.multi.replica(1).status()
            liar = NodeId(follower.config.node_id)
            replica = next(one.replica for one in status.peers.values() if one.node == liar)
            for kind in (MessageKind.MSG_HEARTBEAT, MessageKind.MSG_APPEND):
                lie = Message(kind, replica, status.replica, term=status.term)
                with pytest.raises(PeerProtocolError, match="both lead"):
                    leader.frame(liar, memoryview(bytes(64) + lie.encode()))
            assert leader.multi.leads(1)
            assert await follower.store.put(b"k", b"v") > 0

    arun(main())


def test_p82_a_snapshot_of_a_term_to_come_is_not_waited_for(arun: Run, tmp_path: Path) -> None:
    """Installed, it would make every later entry of this log go back to an older term."""

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower = await leader_and_follower(cluster)
            status = follower.multi.replica(1).status()
            body = encode_membership(status.membership)
            for term in (0, status.term + 1):
                follower.snapshots([(1, status.last_index + 9, term, 5, status.leader, body)], [])
            assert not follower.transfers._offers
            assert await leader.store.put(b"k", b"v") > 0
            await cluster.until(lambda: follower.multi.indexes(1)[3] == leader.multi.indexes(1)[3])

    arun(main())


@pytest.mark.parametrize("whose", ["store", "machine"])
def test_an_answer_of_another_kind_than_its_group_gives_answers_nobody(
    arun: Run, tmp_path: Path, whose: str
) -> None:
    """An index is no answer of a user's machine, and what a machine answers is no revision of the store."""

    async def main() -> None:
        async with three(tmp_path) as (cluster, groups):
            group = 1 if whose == "store" else groups[0].id
            for node in cluster.nodes.values():
                node.placing.spread = lambda linked, moves_max: None  # type: ignore[method-assign]
            await cluster.until(lambda: any(n.multi.leads(group) for n in cluster.nodes.values()))
            leader = next(n for n in cluster.nodes.values() if n.multi.leads(group))
            asking = next(n for n in cluster.nodes.values() if n is not leader)
            await cluster.until(lambda: asking.multi.leader_node(group) == leader.config.node_id)
            broken: list[str] = []
            with deaf(asking):
                ticket: Any
                if whose == "store":
                    ticket = asking.store.put(b"k", b"v")
                    flags, body = RESULTS, msgpack.packb(7)
                else:
                    ticket = asking.group("hits").propose(b"1")
                    flags, body = 0, b""
                await cluster.until(lambda: len(asking.forwarding.away) == 1)
                (context,) = asking.forwarding.away
                answer = (int(leader.config.node_id), ACK, 0, context, 9, 0, flags, body)
                assert (
                    asking.forwarding.take([answer], lambda _, error: broken.append(str(error)))
                    == []
                )
                asking.waker.drain()
                assert "another kind" in broken[0] and not ticket.done()
                asking.transport.drop(leader.config.node_id)
                with pytest.raises(LinkLost):
                    await ticket

    arun(main())


class Verbose(Counter):
    """Each answer is as large as one may be."""

    def apply(self, command: bytes, index: int, term: int) -> Any:
        super().apply(command, index, term)
        return bytes(1024 * 1024 - 16)


@pytest.mark.slow
def test_answers_that_are_too_large_together_end_their_call_and_nobody(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with three(tmp_path, kind=Verbose) as (cluster, groups):
            group = groups[0].id
            await cluster.until(lambda: any(n.multi.leads(group) for n in cluster.nodes.values()))
            asking = next(n for n in cluster.nodes.values() if not n.multi.leads(group))
            with pytest.raises(InvalidResult, match="applied"):
                await asking.group("hits").propose_many([b"1"] * 20, timeout=20)
            assert len(await asking.group("hits").propose(b"1", timeout=20)) == 1024 * 1024 - 16
            assert await asking.group("hits").read(timeout=20) == 21

    arun(main())
