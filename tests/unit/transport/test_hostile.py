"""p82: whatever arrives on the port costs that connection and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multiraft._core import FrameKind
from multiraft.ids import NodeId
from multiraft.transport.hello import (
    Farewell,
    Purpose,
    Step,
    build_frame,
    decode_goodbye,
    decode_hello,
    encode_goodbye,
    encode_hello,
)
from tests.unit.transport.harness import (
    FAST,
    Arun,
    Recorder,
    cluster,
    hello_of,
    make_frame,
    pair,
    poll,
    seal,
)
from tests.unit.transport.peers import Raw

STRANGER = 9


def offer(
    *,
    step: Step = Step.OFFER,
    purpose: Purpose = Purpose.LINK,
    epoch: int = 1,
    sequence: int = 1,
    **changes: Any,
) -> bytes:
    hello = hello_of(STRANGER, **changes)
    names = {"cluster": hello.cluster_id, "store": hello.store_id}
    return seal(
        encode_hello(hello, step, purpose),
        source=STRANGER,
        target=1,
        epoch=epoch,
        sequence=sequence,
        **names,
    )


def flipped(data: bytes, chance: random.Random) -> bytes:
    bit = chance.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def resealed(chance: random.Random) -> bytes:
    """Sound checksum, unsound content: whatever a well-equipped enemy writes into a hello."""
    frame = bytearray(offer())
    for _ in range(chance.randrange(1, 4)):
        frame[chance.randrange(8, len(frame))] = chance.randrange(256)
    return seal(
        bytes(frame),
        source=chance.choice([0, 1, 2, STRANGER]),
        target=chance.choice([0, 1, 2]),
        epoch=chance.randrange(3),
    )


def malformed(chance: random.Random) -> bytes:
    """One hostile beginning of a connection."""
    kind = chance.randrange(12)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 2000))
    if kind == 1:
        return offer()[: chance.randrange(1, 96)]
    if kind == 2:
        return flipped(offer(), chance)
    if kind == 3:
        return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    if kind == 4:  # another version of the frame, otherwise sound
        frame = bytearray(offer())
        struct.pack_into("<H", frame, 8, chance.choice([0, 2, 65535]))
        return bytes(frame)
    if kind == 5:
        return struct.pack(
            "<II", 0x3146524D, chance.choice([0, 63, 1025, 2**25, 2**32 - 1])
        ) + bytes(100)
    if kind == 6:
        return offer(cluster_id=chance.randrange(1, 2**63))
    if kind == 7:
        return seal(make_frame(chance.randbytes(100)), source=STRANGER, target=1)
    if kind == 8:
        return resealed(chance)
    if kind == 9:
        return seal(
            build_frame(FrameKind.FRAME_GOODBYE, chance.randbytes(chance.randrange(30))),
            source=STRANGER,
            target=1,
        )
    if kind == 10:
        return seal(
            build_frame(FrameKind.FRAME_HELLO, chance.randbytes(32)), source=STRANGER, target=1
        )
    return offer() + flipped(offer(step=Step.CONFIRM, sequence=2), chance)


@pytest.mark.slow
def test_p82_thousands_of_malformed_connections_cost_themselves_only(
    arun: Arun,
) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            chance = random.Random(82)
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sent = 0
            for batch in range(12):
                raws = await asyncio.gather(*(Raw.dial(nodes.addresses[1]) for _ in range(50)))
                await asyncio.gather(*(attack(raw, malformed(chance)) for raw in raws))
                for number in range(5):
                    assert nodes.transports[2].send(
                        NodeId(1), make_frame(b"%d/%d" % (batch, number))
                    )
                    sent += 1
                for raw in raws:
                    raw.close()
            await one.until(lambda: one.received_count == sent, "frames between friends")
            assert [(what, node) for what, node in one.story if node == 2] == [("up", 2)]
            assert two.story == [("up", 1)]
            assert STRANGER not in {node for node, _ in one.frames}
            assert not one.up(STRANGER)
            transport = nodes.transports[1]
            await poll(lambda: transport._listener.strangers_count == 0, "strangers")
            await poll(lambda: len(transport._host.connections) == 1, "connections")
            after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert after_kib - before_kib < 64 * 1024

    arun(main())


async def attack(raw: Raw, data: bytes) -> None:
    try:
        await raw.say(data)
    except ConnectionError:
        return


def broken_frame(chance: random.Random, epoch: int) -> bytes:
    """What may not follow a sound hello."""

    def frame(source: int = STRANGER, **names: int) -> bytes:
        return seal(make_frame(b"x"), source=source, target=1, epoch=epoch, sequence=3, **names)

    bulk = build_frame(FrameKind.FRAME_BULK, bytes(40))
    kinds = (
        flipped(frame(), chance),
        struct.pack("<II", 0x3146524D, 2**31),
        chance.randbytes(64),
        frame(cluster=5),
        frame(store=5),
        frame(source=2),
        offer(epoch=epoch, sequence=3),
        seal(bulk, source=STRANGER, target=1, epoch=epoch, sequence=3),
    )
    return chance.choice(kinds)


@pytest.mark.slow
def test_p82_malformed_frames_after_the_hello(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            chance = random.Random(83)
            for epoch in range(1, 150):
                raw = await Raw.dial(nodes.addresses[1])
                await raw.say(offer(epoch=epoch))
                assert decode_hello(memoryview(await raw.frame())).step is Step.ANSWER
                await raw.say(offer(step=Step.CONFIRM, epoch=epoch, sequence=2))
                await one.until_up(STRANGER)
                bad = broken_frame(chance, epoch)
                await raw.say(bad + bytes(8))
                if struct.unpack_from("<I", bad, 4)[0] in range(len(bad) + 9, 2**25 + 1):
                    raw.close()  # a flipped length: the receiver waits for the rest, and the end of the connection ends it
                await one.until_down(STRANGER)
                raw.close()
            assert all(node == 2 for node, _ in one.frames)
            assert two.story == [("up", 1)]

    arun(main())


@pytest.mark.parametrize(
    ("begin", "farewell"),
    [
        (
            lambda: seal(encode_hello(hello_of(9), Step.ANSWER, Purpose.LINK), source=9, target=1),
            Farewell.PROTOCOL,
        ),
        (
            lambda: seal(
                encode_hello(hello_of(9), Step.OFFER, Purpose.LINK), source=9, target=3, store=109
            ),
            Farewell.PROTOCOL,
        ),
        (lambda: offer(cluster_id=77), Farewell.WRONG_CLUSTER),
        (lambda: offer(format_min=7, format_max=8), Farewell.FORMAT),
        (lambda: offer(purpose=Purpose.BULK), Farewell.REFUSED),
    ],
    ids=["not an offer", "for another node", "cluster", "format", "takes no files"],
)
def test_a_refused_offer_is_answered_with_the_reason(
    arun: Arun, begin: Callable[[], bytes], farewell: Farewell
) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            await nodes.add(Recorder(1))
            raw = await Raw.dial(nodes.addresses[1])
            await raw.say(begin())
            data = await raw.rest()
            if farewell is Farewell.PROTOCOL and not data:
                pass  # nobody to answer to: the other side's id is not known
            else:
                told, reason = decode_goodbye(memoryview(data))
                assert told is farewell
                assert reason
            raw.close()

    arun(main())


@pytest.mark.slow
def test_a_slow_loris_is_ended_by_the_deadline_however_it_drips(arun: Arun) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=0.4)) as nodes:
            await nodes.add(Recorder(1))
            raw = await Raw.dial(nodes.addresses[1])
            loop = asyncio.get_running_loop()
            begin = loop.time()
            for byte in offer()[:90]:
                try:
                    await raw.say(bytes([byte]))
                except ConnectionError:
                    break
                await asyncio.sleep(0.01)
            await raw.rest()
            assert loop.time() - begin > 0.3
            assert nodes.transports[1]._listener.strangers_count == 0
            raw.close()

    arun(main())


@pytest.mark.slow
def test_strangers_are_bounded_and_cannot_keep_a_node_out(arun: Arun) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=60)) as nodes:
            one, two = Recorder(1), Recorder(2)
            transport = await nodes.add(one)
            silent = [await Raw.dial(nodes.addresses[1]) for _ in range(200)]
            await poll(lambda: transport._listener.strangers_count == 64, "64 strangers")
            await poll(lambda: len(transport._host.connections) <= 64, "64 connections")
            ended = await asyncio.gather(*(raw.rest() for raw in silent[:136]))
            assert ended == [b""] * 136
            await nodes.add(two)
            nodes.join(2, 1)
            await two.until_up(1)
            assert transport._listener.strangers_count <= 64
            for raw in silent:
                raw.close()
            await poll(lambda: transport._listener.strangers_count == 0, "no strangers")

    arun(main())


def test_strangers_that_come_and_go_in_one_moment_leave_nothing(arun: Arun) -> None:
    """Five are accepted in one turn of the loop, and four lose their place before anything was done for them."""

    async def main() -> None:
        async with cluster(replace(FAST, strangers_max=1)) as nodes:
            transport = await nodes.add(Recorder(1))
            host, _, port = nodes.addresses[1].rpartition(":")
            strangers = [socket.create_connection((host, int(port))) for _ in range(5)]
            await poll(lambda: transport._listener.strangers_count == 1, "one stranger")
            await poll(lambda: len(transport._host.connections) == 1, "one connection")
            for sock in strangers[:4]:
                sock.settimeout(5)
                assert sock.recv(1) == b""
            for sock in strangers:
                sock.close()

    arun(main())


@pytest.mark.slow
def test_a_dialled_stranger_is_bounded_too(arun: Arun) -> None:
    """A node that dials an address where something else listens: garbage, silence, a flood."""

    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=0.3)) as nodes:
            one = Recorder(1)
            transport = await nodes.add(one)
            seen = 0

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal seen
                seen += 1
                try:
                    if seen % 3 == 0:
                        writer.write(b"220 mail.example ESMTP\r\n" * 10)
                    elif seen % 3 == 1:
                        writer.write(
                            seal(
                                encode_goodbye(Farewell.BUSY, "\x1b[31mred\n\x00" * 5),
                                source=2,
                                target=1,
                            )
                        )
                    with contextlib.suppress(ConnectionError):
                        await reader.read()
                finally:
                    writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            transport.set_address(NodeId(2), f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await poll(lambda: seen >= 7, "dials")
            assert one.story == []
            assert all(
                "\x1b" not in str(error) and "\n" not in str(error) for _, error in one.refusals
            )
            transport.remove(NodeId(2))
            await poll(lambda: not transport._host.connections, "connections")
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.01)

    arun(main())


@pytest.mark.slow
def test_a_flood_after_a_goodbye_is_forgotten(arun: Arun) -> None:
    """A refused sender that goes on sending is neither stored nor waited for."""

    async def main() -> None:
        async with cluster() as nodes:
            await nodes.add(Recorder(1))
            raw = await Raw.dial(nodes.addresses[1])
            await raw.say(offer(cluster_id=77))
            await raw.frame()
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(5):
                    while True:
                        await raw.say(bytes(65536))
            transport = nodes.transports[1]
            await poll(lambda: transport._listener.strangers_count == 0, "no stranger")
            raw.close()

    arun(main())


def test_a_bug_of_the_node_ends_that_link_and_reaches_the_handler(
    arun: Arun, loop_problems: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):

            def fail(node: int, view: memoryview) -> None:
                raise ZeroDivisionError("a bug")

            one.on_frame = fail
            assert nodes.transports[2].send(NodeId(1), make_frame(b"x"))
            await one.until_down(2)
            one.on_frame = lambda node, view: None
            await one.until_up(2)
            await two.until_up(1)
            assert [type(context["exception"]) for context in loop_problems] == [ZeroDivisionError]
            loop_problems.clear()

    arun(main())


def test_running_out_of_descriptors_pauses_accepting_and_heals(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            raw = await Raw.dial(nodes.addresses[1])
            await poll(lambda: nodes.transports[1]._listener.strangers_count == 1, "one stranger")
            highest = raw.writer.get_extra_info("socket").fileno()
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
                nodes.join(2, 1)  # cannot even make a socket
                await asyncio.sleep(0.1)
                assert one.story == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await one.until_up(2)
            raw.close()

    arun(main())
