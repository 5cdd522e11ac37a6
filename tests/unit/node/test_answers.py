"""Answers that come late, from another life, or to another question: whom they must not reach, and what is never asked twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Entry, Node
from multiraft._core import MessageKind
from multiraft._ticket import Ticket, Waker
from multiraft.errors import LinkLost, SyncFailed
from multiraft.node.reads import Reads
from tests.unit.node.test_cluster import Trio, trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")

ACK = int(MessageKind.MSG_FORWARD_ACK)


async def leader_and_follower(cluster: Trio) -> tuple[Node, Node]:
    """Of group 1; leaderships stay where they are from now on."""
    for node in cluster.nodes.values():
        node.placing.spread = lambda linked, moves_max: None  # type: ignore[method-assign]
    await cluster.until(lambda: sum(node.multi.leads(1) for node in cluster.nodes.values()) == 1)
    leader = next(node for node in cluster.nodes.values() if node.multi.leads(1))
    return leader, next(node for node in cluster.nodes.values() if node is not leader)


class deaf:
    """A node hears nothing inside the block, and with ``mute`` says nothing either."""

    def __init__(self, node: Node, *, mute: bool = False) -> None:
        self._node = node
        self._mute = mute

    def __enter__(self) -> None:
        node = self._node
        self._on_frame, self._send = node.turn.on_frame, node.transport.send
        node.turn.on_frame = lambda node, view: None  # type: ignore[method-assign]
        if self._mute:
            node.transport.send = lambda node, frame: True  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._node.turn.on_frame = self._on_frame  # type: ignore[method-assign]
        self._node.transport.send = self._send  # type: ignore[method-assign]


@pytest.mark.slow
def test_p35_p79_an_answer_to_an_earlier_life_of_a_node_answers_nobody(
    arun: Run, tmp_path: Path
) -> None:
    """A leader may answer what a node asked before it was killed; nothing that it asks now may take that for its own."""

    async def ask(cluster: Trio, node: Node) -> tuple[list[Ticket[Any]], set[int]]:
        asked: list[Ticket[Any]] = [node.store.put(b"k", b"v"), node.store.get(b"k")]
        await cluster.until(lambda: len(node.forwarding) > 0 and bool(node.reads._rounds))
        return asked, {*node.forwarding.away, *node.reads._rounds}

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower = await leader_and_follower(cluster)
            number = follower.config.node_id
            with deaf(follower):
                tickets, earlier = await ask(cluster, follower)
                follower.failed(SyncFailed("killed"))
            with pytest.raises(SyncFailed):
                await follower.closed()
            await asyncio.gather(*tickets, return_exceptions=True)
            await cluster.start(number)
            await cluster.ready()
            back = cluster.nodes[number]
            with deaf(back):
                tickets, _ = await ask(cluster, back)
                for context in earlier:
                    answer = (leader.config.node_id, ACK, 0, context, 7, 0, 0, b"")
                    assert back.forwarding.take([answer], pytest.fail) == []
                    back.reads.answered([(1, context, 0)])
                back.waker.drain()
                assert not any(ticket.done() for ticket in tickets)
                back.transport.drop(leader.config.node_id)
                with pytest.raises(LinkLost):
                    await tickets[0]
            assert await tickets[1] == b"v"

    arun(main())


@pytest.mark.slow
def test_p80_a_conditional_write_is_never_sent_again_from_inside(arun: Run, tmp_path: Path) -> None:
    """Its link breaks before the answer came: it happened once, its outcome is unknown, and nobody tries it again."""

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower = await leader_and_follower(cluster)
            before = follower.forwarding.forwarded
            with deaf(follower):
                ticket = follower.store.compare_and_set(b"k", b"v", revision=0)
                await cluster.until(
                    lambda: leader.machine.get(1, leader.routing.physical(b"k")) is not None
                )
                follower.transport.drop(leader.config.node_id)
                with pytest.raises(LinkLost):
                    await ticket
            await cluster.ready()
            await cluster.until(lambda: follower.peers.linked(leader.config.node_id))
            entry = await follower.store.get_entry(b"k")
            assert entry is not None and entry.value == b"v"
            assert follower.forwarding.forwarded == before + 1
            assert await follower.store.compare_and_set(b"k", b"w", revision=entry.revision) > 0

    arun(main())


@pytest.mark.slow
def test_p94_a_call_whose_index_another_entry_took_is_not_answered_with_success(
    arun: Run, tmp_path: Path
) -> None:
    """It did not happen there, so it is tried again; the answer is the revision that it has in the end."""

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leader, follower = await leader_and_follower(cluster)
            others = [node for node in cluster.nodes.values() if node is not leader]
            with deaf(leader, mute=True):
                tickets = [leader.store.put(b"mine-%d" % n, b"v") for n in range(3)]
                await cluster.until(lambda: any(node.multi.leads(1) for node in others))
                taken = [await follower.store.put(b"theirs-%d" % n, b"v") for n in range(5)]
                assert not any(ticket.done() for ticket in tickets)
            for number, ticket in enumerate(tickets):
                revision = await ticket
                assert revision not in taken
                for node in cluster.nodes.values():
                    assert await node.store.get_entry(b"mine-%d" % number) == Entry(b"v", revision)

    arun(main())


class Asked:
    """A group whose rounds are answered when the test says so."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.applied_index = 0

    def __contains__(self, group: int) -> bool:
        return True

    def read_index(self, group: int, context: int) -> bool:
        self.rounds.append(context)
        return True

    def indexes(self, group: int) -> tuple[int, int, int, int, int]:
        return 0, 0, 0, self.applied_index, 0


@pytest.mark.loops("asyncio", "uvloop")
def test_p35_p36_a_read_waits_for_a_round_that_began_after_it_and_for_what_it_names(
    arun: Run,
) -> None:
    async def main() -> None:
        waker, multi = Waker(asyncio.get_running_loop()), Asked()
        served: list[str] = []

        def read(name: str) -> Callable[[Ticket[Any]], None]:
            return lambda ticket: (served.append(name), waker.settle(ticket, name))[0]

        reads = Reads(multi, waker, lambda: None, retry_ns=1000, contexts=itertools.count(7))  # type: ignore[arg-type]
        tickets = [reads.submit(1, read("early"), 10_000)]
        reads.ask(0)
        tickets.append(reads.submit(1, read("late"), 10_000))
        reads.answered([(1, multi.rounds[0], 0)])
        assert served == ["early"], "the other came while its round was under way"
        reads.ask(1)
        reads.answered([(1, multi.rounds[0], 0)])
        assert served == ["early"], "that round has answered already"
        reads.answered([(1, multi.rounds[1], 5)])
        reads.applied()
        assert served == ["early"], "what it has to see is not applied yet"
        multi.applied_index = 5
        reads.applied()
        assert served == ["early", "late"]
        waker.drain()
        assert [await ticket for ticket in tickets] == ["early", "late"]

    arun(main())
