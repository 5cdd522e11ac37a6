"""Links over real sockets: standing up, restarting, crossing dials, half-open peers, full queues, closing."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.transport.harness import (
    Arun,
    FAST,
    Impostor,
    Raw,
    Recorder,
    Relay,
    cluster,
    hello_of,
    make_frame,
    pair,
    poll,
    seal,
)

from multiraft.errors import (
    Closed,
    ConfigError,
    InvariantViolation,
    MultiRaftError,
    PeerProtocolError,
    Rejected,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.interfaces import Hello
from multiraft.transport.hello import (
    Farewell,
    Purpose,
    Step,
    decode_goodbye,
    decode_hello,
    encode_hello,
)
from multiraft.transport.options import TransportOptions
from multiraft.transport.transport import LoopTransport



def test_frames_go_both_ways_in_order(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            chance = random.Random(3)
            sent = {1: [], 2: []}
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
def test_it_is_enough_when_one_side_knows_the_address(
    arun: Arun, dialler: int
) -> None:
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
        async with cluster() as nodes:
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
        async with cluster() as nodes:
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
                await one.until(lambda: len(one.downs) > downs, "down")  # noqa: B023
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
                await two.until(lambda: len(two.frames) == 1, "frame")  # noqa: B023
            assert one.admitted[-1].boot_count == 4

    arun(main())


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


def offer(
    epoch: int,
    *,
    step: Step = Step.OFFER,
    sequence: int = 1,
    node: int = 2,
    target: int = 1,
    **changes: Any,
) -> bytes:
    hello = hello_of(node, **changes)
    names = {"cluster": hello.cluster_id, "store": hello.store_id}
    return seal(
        encode_hello(hello, step, Purpose.LINK),
        source=node,
        target=target,
        epoch=epoch,
        sequence=sequence,
        **names,
    )


async def greet(raw: Raw, epoch: int) -> None:
    await raw.say(offer(epoch))
    assert decode_hello(memoryview(await raw.frame())).step is Step.ANSWER
    await raw.say(offer(epoch, step=Step.CONFIRM, sequence=2))


# -- refusals ------------------------------------------------------------------------------------------------------------


def refused_by(kind: type[MultiRaftError]) -> Callable[[Hello], MultiRaftError | None]:
    return lambda hello: kind(f"node {hello.node} is not the one I know")


@pytest.mark.parametrize(
    ("change", "refuser", "expected"),
    [
        ({"cluster_id": 0xBAD}, None, WrongCluster),
        ({"store_id": 0xBAD}, WrongStore, WrongStore),
        ({"format_min": 5, "format_max": 9}, None, MultiRaftError),
        ({}, Rejected, MultiRaftError),
    ],
    ids=["cluster", "store", "format", "other"],
)
@pytest.mark.parametrize("dialler", [1, 2])
def test_p84_a_refusal_is_told_clearly_on_both_sides(
    arun: Arun,
    change: dict[str, Any],
    refuser: type[MultiRaftError] | None,
    expected: type[MultiRaftError],
    dialler: int,
) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2, **change)
            if refuser is not None:
                one.refuse = refused_by(refuser)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(dialler, 3 - dialler)
            await one.until(lambda: len(one.refusals) >= 2, "two refusals at 1")
            await two.until(lambda: len(two.refusals) >= 2, "two refusals at 2")
            assert one.story == two.story == []
            for recorder, other in ((one, 2), (two, 1)):
                node, error = recorder.refusals[0]
                assert node == other
                assert isinstance(error, expected)
            told = str(one.refusals[0][1]), str(two.refusals[0][1])
            assert (
                told[0].removeprefix("the other side refused: ") in told[1]
                or told[1].removeprefix("the other side refused: ") in told[0]
            )

    arun(main())


def test_an_unknown_cluster_is_welcome_to_the_transport(arun: Arun) -> None:
    """While bootstrapping a node does not know its cluster yet; whether that is right, admit judges."""

    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2, cluster_id=0, bootstrapped=False)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await two.until_up(1)
            assert nodes.transports[2].send(NodeId(1), make_frame(b"hello"))
            await one.until(lambda: one.payloads() == [b"hello"], "frame")

    arun(main())


def test_an_address_that_leads_to_another_node_or_to_ourselves(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.transports[1].set_address(NodeId(3), nodes.addresses[2])
            await one.until(lambda: bool(one.refusals), "refusal")
            assert one.refusals[0][0] == 3
            assert isinstance(one.refusals[0][1], PeerProtocolError)
            nodes.transports[2].set_address(NodeId(3), nodes.addresses[2])
            await two.until(
                lambda: any("as we are" in str(error) for _, error in two.refusals), "itself"
            )
            assert one.story == two.story == []

    arun(main())


def test_refusals_do_not_become_a_storm(arun: Arun) -> None:
    async def main() -> None:
        options = replace(FAST, backoff_min_s=0.05, backoff_max_s=0.4)
        async with cluster(options) as nodes:
            one, two = Recorder(1), Recorder(2)
            one.refuse = refused_by(WrongStore)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(2, 1)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await two.until(lambda: len(two.refusals) >= 4, "refusals")
            # Each wait is at least half of 50, 100 and 200 ms.
            assert loop.time() - begin >= 0.17

    arun(main())


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
            assert sender.queued_bytes(NodeId(2)) <= 1_000_000 + 200
            small = 0
            while sender.send(NodeId(2), make_frame(b"vote")):
                taken.append(b"vote")
                small += 1
                assert small < 2000
            assert small >= 100  # the reserve is for them
            assert sender.queued_bytes(NodeId(2)) <= 1_050_000 + 200
            assert not sender.send(NodeId(2), make_frame(bytes(100_000)))
            relay.running.set()
            await two.until(lambda: two.received_count == len(taken), "all that was taken")
            assert two.payloads() == taken
            assert sender.send(NodeId(2), make_frame(b"again"))
            await two.until(lambda: two.payloads()[-1] == b"again", "frame")
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
            while sender.send(NodeId(2), make_frame(bytes(500_000))):
                await asyncio.sleep(0)
            sender.drop(NodeId(2))
            assert one.story == [("up", 2), ("down", 2)]
            assert sender.queued_bytes(NodeId(2)) == 0
            sender.drop(NodeId(2))
            relay.running.set()
            await one.until_up(2)
            await poll(lambda: two.up(1) and sender.connected(NodeId(2)), "link")
            await relay.close()

    arun(main())


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
                await one.until(lambda: len(one.epochs) > life, "link")  # noqa: B023
                mine = sent.setdefault(one.epochs[-1], [])
                for _ in range(chance.randrange(60)):
                    payload = b"%d:" % number + bytes(chance.randrange(30_000))
                    number += 1
                    if sender.send(NodeId(2), make_frame(payload)):
                        mine.append(payload)
                    if chance.random() < 0.3:
                        await asyncio.sleep(0)
                relay.cut()
                await one.until(lambda: len(one.downs) > life, "cut")  # noqa: B023
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


# -- listening, addresses, closing -----------------------------------------------------------------------------------------


def test_an_address_in_use_is_a_plain_os_error(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            await nodes.add(Recorder(1))
            second = LoopTransport(NodeId(2), Recorder(2), generator=random.Random(2))
            with pytest.raises(OSError) as caught:
                await second.listen(nodes.addresses[1])
            assert caught.value.errno == errno.EADDRINUSE
            await second.close()

    arun(main())


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_listening_beyond_loopback_needs_tls_or_insecure(
    arun: Arun, address: str
) -> None:
    async def main() -> None:
        transport = LoopTransport(NodeId(1), Recorder(1), generator=random.Random(1))
        with pytest.raises(ConfigError, match="insecure=True"):
            await transport.listen(address)
        await transport.close()
        if address.startswith("0.0.0.0"):
            trusting = LoopTransport(
                NodeId(1), Recorder(1), generator=random.Random(1), insecure=True
            )
            bound = await trusting.listen(address)
            assert bound.startswith("0.0.0.0:") and not bound.endswith(":0")
            await trusting.close()

    arun(main())


@pytest.mark.parametrize(
    "address", ["", "7000", "host", "host:", ":7000", "host:70000", "::1:7000", "h:-1", "a..b:1"]
)
def test_an_address_that_cannot_work_is_a_config_error(
    arun: Arun, address: str
) -> None:
    async def main() -> None:
        transport = LoopTransport(NodeId(1), Recorder(1), generator=random.Random(1))
        with pytest.raises(ConfigError):
            await transport.listen(address)
        with pytest.raises(ConfigError):
            transport.set_address(NodeId(2), address)
        await transport.close()

    arun(main())


def test_localhost_and_ipv6_addresses_work(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            nodes.addresses[1] = "localhost:0"
            nodes.addresses[2] = "[::1]:0" if socket.has_ipv6 and ipv6_works() else "127.0.0.1:0"
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await one.until_up(2)

    arun(main())


def ipv6_works() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_changed_address_is_dialled_without_waiting(arun: Arun) -> None:
    async def main() -> None:
        slow = TransportOptions(backoff_min_s=30, backoff_max_s=60)
        async with cluster(slow) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nobody = LoopTransport(NodeId(9), Recorder(9), generator=random.Random(9))
            empty = await nobody.listen("127.0.0.1:0")
            await nobody.close()
            nodes.transports[1].set_address(NodeId(2), empty)
            link = nodes.transports[1]._links.link(NodeId(2))
            await poll(lambda: link.failures == 1, "a failed dial")
            nodes.join(1, 2)
            await one.until_up(2)

    arun(main())


def test_remove_ends_the_link_and_the_dialling(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await two.until_up(1)
            nodes.transports[1].remove(NodeId(2))
            nodes.transports[1].remove(NodeId(2))
            assert one.story == [("up", 2), ("down", 2)]
            await two.until_down(1)
            assert two.downs == [(1, None)]
            await poll(lambda: not nodes.transports[1]._host.connections, "no connection")
            await poll(lambda: not len(nodes.transports[1]._tasks), "no task")
            assert not nodes.transports[1].send(NodeId(2), make_frame(b"x"))

    arun(main())


def test_close_is_idempotent_says_goodbye_and_leaves_nothing(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            transport = nodes.transports[1]
            await asyncio.gather(transport.close(), transport.close())
            await transport.close()
            await two.until_down(1)
            assert two.downs[0] == (1, None)
            assert one.story == [("up", 2), ("down", 2)]
            assert not len(transport._tasks) and not transport._host.connections
            assert not transport.send(NodeId(2), make_frame(b"x"))
            with pytest.raises(Closed):
                transport.set_address(NodeId(2), nodes.addresses[2])
            with pytest.raises(Closed):
                await transport.listen("127.0.0.1:0")
            with pytest.raises(Closed):
                await transport.send_file(NodeId(2), 1, "/nonexistent")

    arun(main())


def test_close_does_not_wait_for_a_peer_that_reads_nothing(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            relay.running.clear()
            while sender.send(NodeId(2), make_frame(bytes(500_000))):
                await asyncio.sleep(0)
            async with asyncio.timeout(3):
                await sender.close()
            relay.running.set()
            await relay.close()

    arun(main())


def test_close_in_the_middle_of_dials_and_hellos(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            mute = socket.socket()
            mute.bind(("127.0.0.1", 0))
            mute.listen(1)
            for node in range(3, 8):  # connected by the kernel, never answered
                nodes.transports[1].set_address(NodeId(node), f"127.0.0.1:{mute.getsockname()[1]}")
            raw = [await Raw.dial(nodes.addresses[1]) for _ in range(5)]
            nodes.join(2, 1)
            nodes.join(1, 2)
            await asyncio.sleep(0)
            async with asyncio.timeout(3):
                await nodes.transports[1].close()
            for stranger in raw:
                assert await stranger.rest() == b""
                stranger.close()
            mute.close()

    arun(main())


def test_an_idle_link_costs_no_turns_of_the_loop(arun: Arun) -> None:
    async def main() -> None:
        async with pair():
            await asyncio.sleep(0.05)
            begin = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - begin < 0.1

    arun(main())
