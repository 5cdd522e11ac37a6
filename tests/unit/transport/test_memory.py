"""Links in memory: the network in the test's hand, with the checks of the real thing."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from multiraft.errors import (
    Closed,
    ConfigError,
    LinkLost,
    PeerProtocolError,
    Retryable,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.transport.memory import MemoryNetwork, MemoryTransport
from tests.unit.disks import Home
from tests.unit.transport.harness import Recorder, make_frame

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


def join(
    count: int = 2, **settings: object
) -> tuple[MemoryNetwork, list[Recorder], list[MemoryTransport]]:
    network = MemoryNetwork(**settings)  # type: ignore[arg-type]
    recorders = [Recorder(node) for node in range(1, count + 1)]
    transports = [network.transport(recorder.own.node, recorder) for recorder in recorders]
    for one in transports:
        for other in transports:
            if one is not other:
                one.set_address(other.node, f"memory:{other.node}")
    return network, recorders, transports


def say(transport: MemoryTransport, target: int, payload: bytes) -> None:
    assert transport.send(NodeId(target), make_frame(payload))


def test_nothing_moves_unless_asked_to() -> None:
    network, (one, two, three), (t1, t2, t3) = join(3)
    assert one.story == [("up", 2), ("up", 3)]
    say(t1, 2, b"a")
    say(t1, 2, b"b")
    say(t3, 2, b"c")
    assert two.frames == [] and len(network.waiting(N1, N2)) == 2
    assert network.deliver(N1, N2, 1) == 1
    assert two.payloads() == [b"a"]
    assert network.deliver_all() == 2
    assert two.payloads() == [b"a", b"b", b"c"]
    assert [node for node, _ in two.frames] == [1, 1, 3]
    assert three.frames == []
    assert t2.connected(N1) and not t2.connected(NodeId(9))


def test_deliver_all_follows_answers_and_knows_a_storm() -> None:
    network, (one, two), (t1, t2) = join()
    two.on_frame = lambda node, view: say(t2, 1, b"answer")
    say(t1, 2, b"ask")
    assert network.deliver_all() == 2
    assert one.payloads() == [b"answer"]
    one.on_frame = lambda node, view: say(t1, 2, b"and again")
    say(t1, 2, b"ask")
    with pytest.raises(RuntimeError):
        network.deliver_all(rounds_max=50)


def test_p83_loss_duplication_and_reordering() -> None:
    network, (_, two), (t1, _) = join()
    for payload in (b"a", b"b", b"c", b"d"):
        say(t1, 2, payload)
    network.drop(N1, N2, 1)
    network.duplicate(N1, N2, 0)
    network.deliver_all()
    assert two.payloads() == [b"a", b"c", b"d"]
    for payload in (b"e", b"f", b"g"):
        say(t1, 2, payload)
    network.reorder(N1, N2, [1, 0, 2])
    network.deliver_all()
    assert two.payloads() == [b"a", b"c", b"d", b"f", b"g"]  # e was overtaken, and is old
    assert two.story == [("up", 1)]
    with pytest.raises(ConfigError):
        network.reorder(N1, N2, [0])


def test_p83_frames_of_an_earlier_link_arrive_late_and_change_nothing() -> None:
    network, (one, two), (t1, _) = join()
    say(t1, 2, b"early")
    network.cut(N1, N2, keep=True)
    assert one.downs and two.downs
    assert not t1.send(N2, make_frame(b"no link"))
    network.heal(N1, N2)
    say(t1, 2, b"new")
    assert network.deliver_all() == 2
    assert two.payloads() == [b"new"]
    assert one.epochs == sorted(set(one.epochs)) and len(one.epochs) == 2
    network.cut(N1, N2)
    network.heal(N1, N2)
    assert network.deliver_all() == 0


def test_p82_any_flipped_bit_breaks_the_link_and_nothing_else() -> None:
    chance = random.Random(1)
    network, (_, two, three), (t1, _, _) = join(3)
    frame_bits = len(make_frame(b"payload")) * 8
    for _ in range(300):
        say(t1, 2, b"payload")
        say(t1, 2, b"behind it")
        bit = chance.randrange(frame_bits)
        network.damage(N1, N2, bit)
        network.deliver_all()
        if 32 <= bit < 64 and two.up(1):
            # A length that grew: the receiver waits for more bytes, and takes what follows for them.
            network.cut(N1, N2)
            network.heal(N1, N2)
            assert two.frames == []
            continue
        assert not two.up(1)
        assert isinstance(two.downs[-1][1], PeerProtocolError)
        network.settle()
        assert two.up(1)
    assert two.frames == []
    assert three.story == [("up", 1), ("up", 2)]


def test_p84_another_cluster_or_store_is_refused_on_both_sides() -> None:
    network = MemoryNetwork()
    one, two, three = Recorder(1), Recorder(2, cluster_id=5), Recorder(3, store_id=5)
    three_refused = WrongStore("node 3 has another store")
    one.refuse = lambda hello: three_refused if hello.store_id == 5 else None
    t1 = network.transport(N1, one)
    network.transport(N2, two)
    network.transport(N3, three)
    t1.set_address(N2, "x")
    t1.set_address(N3, "x")
    assert one.story == two.story == three.story == []
    assert {node for node, _ in one.refusals} == {2, 3}
    assert isinstance(two.refusals[0][1], WrongCluster)
    assert three.refusals[0][1] is three_refused


def test_a_restarted_node_is_another_connection() -> None:
    network, (one, two), (_, t2) = join()
    say(t2, 1, b"never arrives")
    again = Recorder(2, boot_count=2)
    new = network.transport(N2, again)
    assert one.story == [("up", 2), ("down", 2), ("up", 2)]
    assert two.story == [("up", 1), ("down", 1)]
    assert not t2.send(N1, make_frame(b"from the dead"))
    say(new, 1, b"alive")
    network.deliver_all()
    assert one.payloads() == [b"alive"]
    assert again.epochs[0] > two.epochs[0]
    with pytest.raises(Closed):
        t2.set_address(N1, "x")


def test_cut_mute_drop_and_remove() -> None:
    network, (one, two), (t1, t2) = join()
    network.mute(N1, N2)
    say(t1, 2, b"lost without a word")
    say(t2, 1, b"arrives")
    network.deliver_all()
    assert two.frames == [] and one.payloads() == [b"arrives"]
    network.heal(N1, N2)
    say(t1, 2, b"heard")
    network.deliver_all()
    assert two.payloads() == [b"heard"]
    t1.drop(N2)
    assert one.downs == [(2, None)] and two.downs == [(1, None)]
    network.settle()
    assert one.up(2)
    t1.remove(N2)
    network.settle()
    assert two.up(1)  # node 2 still wants it
    t2.remove(N1)
    network.settle()
    assert not one.up(2) and not two.up(1)


def test_p98_a_full_queue_refuses() -> None:
    network, (_, two), (t1, _) = join(queue_bytes_max=10_000)
    taken = 0
    while t1.send(N2, make_frame(bytes(900))):
        taken += 1
        assert taken < 20
    assert taken == 9
    network.deliver_all()
    assert len(two.frames) == 9
    assert t1.send(N2, make_frame(bytes(50_000)))  # nothing waits
    network.deliver_all()
    assert len(two.frames) == 10


def test_a_full_queue_in_memory_has_room_for_calls_and_knows_its_half() -> None:
    network, (_, two), (t1, _) = join(queue_bytes_max=10_000, queue_calls_bytes=5_000)
    assert t1.room(N2) == 5_000
    while t1.send(N2, make_frame(bytes(900))):
        pass
    assert t1.room(N2) == 5_000 - sum(map(len, network.waiting(N1, N2))) < -4_000
    taken = 0
    while t1.send(N2, make_frame(bytes(900)), calls=True):
        taken += 1
    assert taken == 5
    assert not t1.send(N2, make_frame(bytes(900)))
    t1.drop(N2)
    assert two.downs == [(1, None)] and not network.waiting(N1, N2)


def test_with_a_loop_frames_move_by_themselves() -> None:
    async def main() -> None:
        network = MemoryNetwork(asyncio.get_running_loop())
        one, two = Recorder(1), Recorder(2)
        t1, t2 = network.transport(N1, one), network.transport(N2, two)
        t1.set_address(N2, "x")
        two.on_frame = lambda node, view: say(t2, 1, b"pong")
        say(t1, 2, b"ping")
        assert two.frames == []
        await one.until(lambda: one.payloads() == [b"pong"], "pong")
        t2.drop(N1)
        await one.until_up(2)
        await t1.close()
        await t1.close()
        assert not two.up(1)

    asyncio.run(main())


def test_files(home: Home) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        one, two = Recorder(1), Recorder(2)
        t1 = network.transport(N1, one, disk=home.disk)
        network.transport(N2, two, directory=str(home.path), disk=home.disk)
        path = home.path / "snapshot"
        data = random.Random(1).randbytes(2_500_000)
        home.disk.write(path, data)
        with pytest.raises(Retryable):
            await t1.send_file(N2, 5, str(path))
        t1.set_address(N2, "x")
        await t1.send_file(N2, 5, str(path), b"note")
        node, transfer, received, meta = two.files[0]
        assert (node, transfer, meta.size, meta.note) == (1, 5, 2_500_000, b"note")
        assert home.disk.read(Path(received)) == data
        network.cut(N1, N2)
        with pytest.raises(LinkLost):
            await t1.send_file(N2, 6, str(path))
        await t1.close()
        with pytest.raises(Closed):
            await t1.send_file(N2, 7, str(path))

    asyncio.run(main())
