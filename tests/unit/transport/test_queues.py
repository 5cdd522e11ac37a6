"""Bounded queues, peers that stop reading, and links that are lost with frames on them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from multiraft.errors import (
    InvariantViolation,
    PeerProtocolError,
)
from multiraft.ids import NodeId
from tests.unit.transport.harness import FAST, Arun, Recorder, cluster, fill, make_frame, pair, poll
from tests.unit.transport.peers import Relay

# -- queues --------------------------------------------------------------------------------------------------------------


def test_p98_a_full_queue_says_false_and_writes_nothing_partial(arun: Arun) -> None:
    """The other side stops reading, as under SIGSTOP. Memory stays bounded, and what was taken arrives whole."""

    async def main() -> None:
        options = replace(FAST, queue_bytes_max=1_000_000, queue_reserve_bytes=50_000)
        async with cluster(options) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            await two.until_up(1)
            relay.running.clear()
            chance = random.Random(1)
            taken = []
            for _ in range(10_000):
                payload = chance.randbytes(100_000)
                if not sender.send(NodeId(2), make_frame(payload)):
                    break
                taken.append(payload)
                await asyncio.sleep(0)
            else:
                pytest.fail("the queue never filled")
            while sender.send(NodeId(2), make_frame(bytes(5000))):
                taken.append(bytes(5000))
            assert 994_000 < sender.queued_bytes(NodeId(2)) <= 1_000_000
            small = 0
            while sender.send(NodeId(2), make_frame(b"vote")):
                taken.append(b"vote")
                small += 1
                assert small < 2000
            assert small >= 100  # the reserve is for them
            assert 1_049_000 < sender.queued_bytes(NodeId(2)) <= 1_050_000
            assert not sender.send(NodeId(2), make_frame(bytes(100_000)))
            relay.running.set()
            await two.until(lambda: two.received_count == len(taken), "all that was taken")
            assert two.payloads() == taken
            assert sender.send(NodeId(2), make_frame(b"again"))
            await two.until(lambda: two.payloads()[-1] == b"again", "frame")
            await relay.close()

    arun(main())


def test_calls_have_room_of_their_own_and_the_half_of_a_queue_is_known(arun: Arun) -> None:
    """Past the queue there is room for frames that somebody waits for; small ones have their reserve behind even those."""

    async def main() -> None:
        options = replace(
            FAST,
            queue_bytes_max=1_000_000,
            queue_reserve_bytes=50_000,
            queue_calls_bytes=300_000,
        )
        async with cluster(options) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender, node = nodes.transports[1], NodeId(2)
            assert sender.room(node) == 500_000
            sender.set_address(node, await relay.open())
            await one.until_up(2)
            relay.running.clear()
            assert sender.room(node) == 500_000
            while sender.room(node) > 0:
                assert sender.send(node, make_frame(bytes(100_000)))
                await asyncio.sleep(0)
            while sender.send(node, make_frame(bytes(10_000))):
                assert sender.room(node) == 500_000 - sender.queued_bytes(node)
            while sender.send(node, make_frame(bytes(10_000)), calls=True):
                pass
            assert 1_289_000 < sender.queued_bytes(node) <= 1_300_000
            assert not sender.send(node, make_frame(bytes(10_000)))
            while sender.send(node, make_frame(b"vote")):
                pass
            assert 1_349_000 < sender.queued_bytes(node) <= 1_350_000
            relay.running.set()
            await poll(lambda: sender.room(node) == 500_000, "an empty queue")
            await relay.close()

    arun(main())


def test_a_frame_larger_than_the_queue_is_taken_when_nothing_waits(
    arun: Arun,
) -> None:
    async def main() -> None:
        async with pair(replace(FAST, queue_bytes_max=1000)) as (nodes, _, two):
            assert nodes.transports[1].send(NodeId(2), make_frame(bytes(8_000_000)))
            await two.until(lambda: two.received_count == 1, "frame")

    arun(main())


def test_a_stopped_peer_is_dropped_and_comes_back(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            await two.until_up(1)
            relay.running.clear()
            await fill(sender, 2)
            sender.drop(NodeId(2))
            assert one.story == [("up", 2), ("down", 2)]
            assert sender.queued_bytes(NodeId(2)) == 0
            sender.drop(NodeId(2))
            relay.running.set()
            await one.until_up(2)
            await poll(lambda: two.up(1) and sender.connected(NodeId(2)), "link")
            await relay.close()

    arun(main())


@pytest.mark.slow
def test_p83_frames_of_a_lost_link_are_lost_whole(arun: Arun) -> None:
    """Whatever the moment of the cut: an exact prefix of each link's frames arrives, once, in order."""

    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            chance = random.Random(8)
            sent: dict[int, list[bytes]] = {}
            number = 0
            for life in range(12):
                await one.until(lambda: len(one.epochs) > life, "link")
                mine = sent.setdefault(one.epochs[-1], [])
                for _ in range(chance.randrange(60)):
                    payload = b"%d:" % number + bytes(chance.randrange(30_000))
                    number += 1
                    if sender.send(NodeId(2), make_frame(payload)):
                        mine.append(payload)
                    if chance.random() < 0.3:
                        await asyncio.sleep(0)
                relay.cut()
                await one.until(lambda: len(one.downs) > life, "cut")
            await poll(lambda: not two.up(1) or sender.connected(NodeId(2)), "rest")
            arrived: dict[int, list[bytes]] = {}
            for _, frame in two.frames:
                epoch = int.from_bytes(frame[40:48], "little")
                arrived.setdefault(epoch, []).append(frame[136:])
            assert arrived
            for epoch, payloads in arrived.items():
                assert payloads == sent[epoch][: len(payloads)]
            await relay.close()

    arun(main())


@pytest.mark.slow
def test_p93_what_send_refused_never_arrives(arun: Arun) -> None:
    """False means that nothing left: through full queues, cuts and new links, no refused frame reaches the other side."""

    async def main() -> None:
        async with cluster(replace(FAST, queue_bytes_max=200_000)) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            chance = random.Random(93)
            refused: set[bytes] = set()
            for number in range(6000):
                payload = b"%d:" % number + bytes(chance.randrange(60_000))
                if not sender.send(NodeId(2), make_frame(payload)):
                    refused.add(payload)
                if number % 50 == 0:
                    await asyncio.sleep(0.001)
                if number % 1500 == 700:
                    relay.cut()
            await one.until_up(2)
            await poll(lambda: sender.queued_bytes(NodeId(2)) == 0, "an empty queue")
            arrived = two.payloads()
            assert len(refused) > 500
            assert len(arrived) > 50
            assert not refused & set(arrived)
            assert len(arrived) == len(set(arrived))
            await relay.close()

    arun(main())


def test_damage_on_the_wire_costs_the_link_and_it_comes_back(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            await two.until_up(1)
            relay.mangle = lambda data: (
                data[:200] + bytes([data[200] ^ 4]) + data[201:] if len(data) > 200 else data
            )
            assert sender.send(NodeId(2), make_frame(bytes(1000)))
            await two.until_down(1)
            assert isinstance(two.downs[0][1], PeerProtocolError)
            await one.until_down(2)
            assert isinstance(
                one.downs[0][1], PeerProtocolError
            )  # told by the other side's goodbye
            assert "checksum" in str(one.downs[0][1])
            relay.mangle = lambda data: data
            await one.until_up(2)
            await two.until_up(1)
            assert two.frames == []
            await relay.close()

    arun(main())


def test_a_frame_over_the_limit_is_our_own_mistake(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, _, _two):
            with pytest.raises(InvariantViolation):
                nodes.transports[1].send(NodeId(2), make_frame(bytes(32 * 1024 * 1024)))

    arun(main())
