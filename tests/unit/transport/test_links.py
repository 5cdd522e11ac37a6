"""Links over real sockets: standing up, restarting, crossing dials, half-open peers, full queues, closing."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import replace

import pytest

from multiraft.errors import LinkLost, PeerProtocolError
from multiraft.ids import NodeId
from multiraft.transport.hello import (
    Farewell,
    Step,
    decode_goodbye,
    decode_hello,
)
from tests.unit.transport.harness import FAST, Arun, Recorder, cluster, make_frame, pair, poll, seal
from tests.unit.transport.peers import Impostor, Raw, Relay, greet, offer


@pytest.mark.slow
def test_frames_go_both_ways_in_order(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            chance = random.Random(3)
            sent: dict[int, list[bytes]] = {1: [], 2: []}
            for size in [0, 1, 60, 4096, 100_000, 262_144, 1_000_000, 5_000_000] * 2:
                for source, target in ((1, 2), (2, 1)):
                    payload = chance.randbytes(size)
                    sent[source].append(payload)
                    assert nodes.transports[source].send(NodeId(target), make_frame(payload))
                await two.until(lambda: len(two.frames) == len(sent[1]), "frames at 2")
                await one.until(lambda: len(one.frames) == len(sent[2]), "frames at 1")
            assert two.payloads() == sent[1]
            assert one.payloads() == sent[2]
            assert {node for node, _ in two.frames} == {1}

    arun(main())


def test_many_small_frames_in_one_turn(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, _, two):
            for number in range(5000):
                assert nodes.transports[1].send(NodeId(2), make_frame(b"%d" % number))
            await two.until(lambda: len(two.frames) == 5000, "all frames")
            assert two.payloads() == [b"%d" % number for number in range(5000)]

    arun(main())


@pytest.mark.parametrize("dialler", [1, 2])
def test_it_is_enough_when_one_side_knows_the_address(arun: Arun, dialler: int) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(dialler, 3 - dialler)
            await one.until_up(2)
            await two.until_up(1)
            assert nodes.transports[1].connected(NodeId(2)) and nodes.transports[2].connected(
                NodeId(1)
            )
            assert [hello.node for hello in one.admitted] == [2]
            assert [hello.node for hello in two.admitted] == [1]

    arun(main())


@pytest.mark.slow
def test_simultaneous_dials_leave_one_link(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            recorders = [Recorder(node) for node in (1, 2, 3, 4, 5)]
            for recorder in recorders:
                await nodes.add(recorder)
            for one in range(1, 6):
                for other in range(1, 6):
                    if one != other:
                        nodes.join(one, other)
            for recorder in recorders:
                for other in range(1, 6):
                    if other != recorder.own.node:
                        await recorder.until_up(other)
            for _ in range(20):  # nothing that was under way may still replace what stands
                await asyncio.sleep(0.01)
            for recorder in recorders:
                assert sorted(recorder.story) == [
                    ("up", n) for n in range(1, 6) if n != recorder.own.node
                ]
                assert recorder.refusals == []
            connections = [len(t._host.connections) for t in nodes.transports.values()]
            assert connections == [4] * 5

    arun(main())


def test_crossed_dials_the_lower_id_keeps_its_own(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Impostor()
            await nodes.add(one)
            await two.open()
            nodes.transports[1].set_address(NodeId(2), two.address)
            theirs = await two.dialled.get()
            assert decode_hello(memoryview(await theirs.frame())).step is Step.OFFER
            ours = await Raw.dial(nodes.addresses[1])
            await ours.say(offer(epoch=2))
            assert decode_goodbye(memoryview(await ours.frame()))[0] is Farewell.CROSSED
            await theirs.say(offer(epoch=1, step=Step.ANSWER))
            assert decode_hello(memoryview(await theirs.frame())).step is Step.CONFIRM
            await one.until_up(2)
            assert one.refusals == []
            theirs.close()
            ours.close()
            await two.close()

    arun(main())


def test_crossed_dials_the_higher_id_gives_its_own_up(arun: Arun) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=60)) as nodes:
            three, two = Recorder(3), Impostor()
            await nodes.add(three)
            await two.open()
            nodes.transports[3].set_address(NodeId(2), two.address)
            theirs = await two.dialled.get()
            assert decode_hello(memoryview(await theirs.frame())).step is Step.OFFER
            ours = await Raw.dial(nodes.addresses[3])
            await ours.say(offer(epoch=1, target=3))
            assert decode_hello(memoryview(await ours.frame())).step is Step.ANSWER
            assert await theirs.rest() == b""
            await ours.say(offer(epoch=1, step=Step.CONFIRM, sequence=2, target=3))
            await three.until_up(2)
            assert two.dialled.empty()
            assert three.story == [("up", 2)]
            assert three.refusals == []
            theirs.close()
            ours.close()
            await two.close()

    arun(main())


def test_an_accepted_offer_ends_a_dial_that_gets_no_connection(arun: Arun) -> None:
    """Node 1 is still connecting to a dead address when node 2 dials it: whatever the ids, the offer is taken."""

    async def main() -> None:
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):  # the kernel answers no further dial of this socket
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        async with cluster(replace(FAST, hello_timeout_s=60)) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.transports[1].set_address(NodeId(2), f"127.0.0.1:{full.getsockname()[1]}")
            link = nodes.transports[1]._links.link(NodeId(2))
            await poll(lambda: link.dialling is not None, "a dial")
            nodes.join(2, 1)
            await one.until_up(2)
            await poll(lambda: link.dialling is None, "the end of the dial")
            assert one.story == [("up", 2)] and two.story == [("up", 1)]
        for sock in (full, *fillers):
            sock.close()

    arun(main())


def test_link_epochs_rise_with_every_connection_and_over_restarts(
    arun: Arun,
) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, _two):
            for _ in range(3):
                downs = len(one.downs)
                nodes.transports[1].drop(NodeId(2))
                await one.until(lambda: len(one.downs) > downs, "down")
                await one.until_up(2)
            assert one.epochs == sorted(set(one.epochs)) and len(one.epochs) >= 4
            await nodes.transports[1].close()
            again = Recorder(1, boot_count=2)
            await nodes.add(again)
            nodes.join(1, 2)
            await again.until_up(2)
            assert again.epochs[0] > max(one.epochs)

    arun(main())


def test_a_restarted_peer_is_dialled_again(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)  # node 2 never dials
            await one.until_up(2)
            for boot in (2, 3, 4):
                await nodes.transports[2].close()
                await one.until_down(2)
                assert one.downs[-1] == (2, None)
                assert not nodes.transports[1].send(NodeId(2), make_frame(b"nobody there"))
                two = Recorder(2, boot_count=boot)
                await nodes.add(two)
                await one.until_up(2)
                await two.until_up(1)
                assert nodes.transports[1].send(NodeId(2), make_frame(b"%d" % boot))
                await two.until(lambda: len(two.frames) == 1, "frame")
            assert one.admitted[-1].boot_count == 4

    arun(main())


@pytest.mark.slow
def test_a_restarted_peer_replaces_a_link_that_looks_alive(arun: Arun) -> None:
    """Half-open: node 2 died without a word, its relay keeps the connection; the next life takes its place."""

    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            relay = Relay(nodes.addresses[1])
            address = await relay.open()
            old = await nodes.add(two)
            old.set_address(NodeId(1), address)
            await one.until_up(2)
            relay.running.clear()  # node 1 hears nothing any more, not even the end
            old.remove(NodeId(1))
            await old.close()
            assert nodes.transports[1].connected(NodeId(2))
            again = Recorder(2, boot_count=2)
            await nodes.add(again)
            nodes.join(2, 1)
            await again.until_up(1)
            await one.until(lambda: one.story == [("up", 2), ("down", 2), ("up", 2)], "a new link")
            assert nodes.transports[1].send(NodeId(2), make_frame(b"to the new life"))
            await again.until(lambda: again.payloads() == [b"to the new life"], "frame")
            await relay.close()
            assert one.up(2)

    arun(main())


def test_a_frame_that_is_begun_and_never_finished_costs_the_link(arun: Arun) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, frame_timeout_s=0.1)) as nodes:
            one = Recorder(1)
            await nodes.add(one)
            raw = await Raw.dial(nodes.addresses[1])
            await greet(raw, epoch=3)
            await one.until_up(2)
            whole = seal(make_frame(bytes(1000)), source=2, target=1, epoch=3, sequence=3)
            await raw.say(whole)
            half = seal(make_frame(bytes(1000)), source=2, target=1, epoch=3, sequence=4)[:-1]
            await raw.say(half)
            await one.until_down(2)
            assert one.payloads() == [bytes(1000)]
            assert [type(error) for _, error in one.downs] == [LinkLost]
            raw.close()

    arun(main())


def test_a_flipped_bit_in_a_length_costs_the_link_at_once_and_not_what_is_sent_later(
    arun: Arun,
) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            await two.until_up(1)

            def lengthen(data: bytes) -> bytes:
                relay.mangle = lambda data: data
                return data[:6] + bytes([data[6] ^ 0x40]) + data[7:]

            relay.mangle = lengthen
            assert nodes.transports[1].send(NodeId(2), make_frame(b"lost"))
            await two.until_down(1)
            assert [type(error) for _, error in two.downs] == [PeerProtocolError]
            await two.until_up(1)
            await one.until(lambda: one.story[-3:] == [("up", 2), ("down", 2), ("up", 2)], "up")
            assert nodes.transports[1].send(NodeId(2), make_frame(b"arrives"))
            await two.until(lambda: two.payloads() == [b"arrives"], "frame")
            await relay.close()

    arun(main())


def test_an_offer_that_was_overtaken_is_refused_as_stale(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one = Recorder(1)
            await nodes.add(one)
            newer, older = await Raw.dial(nodes.addresses[1]), await Raw.dial(nodes.addresses[1])
            await greet(newer, epoch=9)
            await one.until_up(2)
            await older.say(offer(epoch=8))
            assert decode_goodbye(memoryview(await older.frame()))[0] is Farewell.STALE
            assert one.story == [("up", 2)]
            assert one.refusals == []
            newest = await Raw.dial(nodes.addresses[1])
            await greet(newest, epoch=10)
            await one.until(lambda: one.story == [("up", 2), ("down", 2), ("up", 2)], "replacement")
            assert decode_goodbye(memoryview(await newer.frame()))[0] is Farewell.STALE
            for raw in (newer, older, newest):
                raw.close()

    arun(main())


def test_nothing_stands_before_the_confirmation(arun: Arun) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=0.3)) as nodes:
            one = Recorder(1)
            await nodes.add(one)
            silent = await Raw.dial(nodes.addresses[1])
            await silent.say(offer(epoch=5))
            assert decode_hello(memoryview(await silent.frame())).step is Step.ANSWER
            assert not nodes.transports[1].connected(NodeId(2))
            await silent.say(seal(make_frame(b"early"), source=2, target=1, epoch=5, sequence=2))
            rest = await silent.rest()
            assert decode_goodbye(memoryview(rest))[0] is Farewell.PROTOCOL
            quiet = await Raw.dial(nodes.addresses[1])
            await quiet.say(offer(epoch=6))
            await quiet.frame()
            await quiet.rest()  # the deadline ends it
            assert one.story == [] and one.frames == []
            silent.close()
            quiet.close()

    arun(main())
