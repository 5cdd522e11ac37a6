"""The simulated network: links rise, break and come again; frames arrive in order, or as the faults of their route say."""

from __future__ import annotations

import random

import pytest

from multiraft.errors import LinkLost
from multiraft.ids import NodeId
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.links import SimulatedTransport
from multiraft.testing.network import SILENCE_NS, SimulatedNetwork
from multiraft.testing.schedule import NS, Schedule
from tests.unit.testing.fakes import Events, loop
from tests.unit.transport.harness import make_frame, payload_of

MS = 1_000_000
ONE, TWO = NodeId(1), NodeId(2)


class Two:
    """Two nodes that know each other, some time later."""

    def __init__(self, seed: int = 1) -> None:
        self.schedule = Schedule()
        self.trace: list[int] = []
        self.network = SimulatedNetwork(self.schedule, random.Random(seed), self.trace.append)
        self.events = {node: Events(node) for node in (ONE, TWO)}
        self.disks = {node: SimulatedDisk(random.Random(node)) for node in (ONE, TWO)}
        self.nodes: dict[NodeId, SimulatedTransport] = {}
        for node in (ONE, TWO):
            self.begin(node)

    def begin(self, node: NodeId) -> None:
        process = loop(self.schedule, f"node {node}")
        made = self.network.transport(
            node, process, self.events[node], disk=self.disks[node], directory="/in"
        )
        self.nodes[node] = made
        made.set_address(ONE if node == TWO else TWO, "somewhere:1")

    def run(self, seconds: float = 1.0) -> Two:
        self.schedule.run(self.schedule.now_ns + round(seconds * NS))
        return self

    def send(self, *payloads: bytes) -> None:
        for payload in payloads:
            assert self.nodes[ONE].send(TWO, make_frame(payload))

    def arrived(self) -> list[bytes]:
        return [payload_of(one) for one in self.events[TWO].frames]


NUMBERS = [b"%08d" % number for number in range(200)]


def test_a_link_rises_between_two_that_know_each_other() -> None:
    two = Two().run()
    assert two.events[ONE].up == [2] and two.events[TWO].up == [1]
    assert two.nodes[ONE].connected(TWO) and two.nodes[TWO].connected(ONE)


def test_frames_arrive_in_order_later_than_they_were_sent() -> None:
    two = Two().run()
    two.send(*NUMBERS)
    assert not two.arrived() and two.nodes[ONE].queued_bytes(TWO) > 0
    two.run()
    assert two.arrived() == NUMBERS and two.nodes[ONE].queued_bytes(TWO) == 0
    assert len(two.trace) == len(NUMBERS)


def test_a_cut_loses_everything_and_the_silence_tells_of_it() -> None:
    two = Two().run()
    two.network.cut(ONE, TWO)
    two.send(*NUMBERS[:5])
    two.run(1)
    assert not two.arrived() and not two.events[TWO].down
    two.run(SILENCE_NS / NS + 5)
    assert two.events[TWO].down and two.events[ONE].down
    assert not two.nodes[ONE].connected(TWO)
    two.network.heal(ONE, TWO)
    two.run()
    two.send(b"anew....")
    two.run()
    assert two.arrived() == [b"anew...."]


def test_a_cut_of_one_way_leaves_the_other() -> None:
    two = Two().run()
    two.network.cut(TWO, ONE)
    two.send(*NUMBERS[:5])
    assert two.nodes[TWO].send(ONE, make_frame(b"lost...."))
    two.run()
    assert two.arrived() == NUMBERS[:5] and not two.events[ONE].frames


def test_a_cut_that_is_healed_before_the_silence_breaks_no_link() -> None:
    two = Two().run()
    two.network.cut(ONE, TWO)
    two.run(1)
    two.network.heal(ONE, TWO)
    two.run(10)
    assert not two.events[ONE].down and not two.events[TWO].down


def test_what_is_sent_into_a_cut_stays_lost_when_it_is_healed_before_it_would_arrive() -> None:
    two = Two().run()
    two.network.cut(ONE, TWO)
    two.send(*NUMBERS[:5])
    two.network.heal(ONE, TWO)
    two.send(b"after...")
    two.run()
    assert two.arrived() == [b"after..."]


def test_an_end_that_hears_nothing_believes_in_a_broken_link_until_the_silence() -> None:
    two = Two().run()
    two.network.cut(TWO, ONE)
    two.network.reset(ONE, TWO)
    two.run(0.5)
    assert two.events[TWO].down and not two.events[ONE].down
    two.run(SILENCE_NS / NS)
    assert two.events[ONE].down


def test_a_clogged_route_keeps_everything_until_its_end() -> None:
    two = Two().run()
    two.network.route(ONE, TWO).clogged_until_ns = two.schedule.now_ns + 500 * MS
    two.send(*NUMBERS[:5])
    two.run(0.49)
    assert not two.arrived()
    two.run(0.1)
    assert two.arrived() == NUMBERS[:5]


@pytest.mark.parametrize("name", ["loss", "duplication", "reordering"])
def test_whatever_a_route_does_a_node_hears_nothing_out_of_order_or_twice(name: str) -> None:
    two = Two().run()
    setattr(two.network.route(ONE, TWO), name, 0.3)
    for number in NUMBERS:
        two.nodes[ONE].send(TWO, make_frame(number))
        two.run(0.0001)
    two.run()
    arrived = two.arrived()
    assert arrived == sorted(set(arrived)) and (arrived == NUMBERS) is (name == "duplication")
    if name == "duplication":
        assert len(two.trace) > len(set(two.trace))
    elif name == "loss":
        assert two.network.frames_lost > 0
    assert not two.events[TWO].down


def test_a_damaged_frame_never_reaches_a_node() -> None:
    two = Two().run()
    two.network.route(ONE, TWO).damage = 1.0
    two.nodes[ONE].send(TWO, make_frame(b"00000000"))
    two.run()
    assert not two.arrived() and two.events[TWO].down and two.events[ONE].down
    assert two.nodes[ONE].connected(TWO)  # it was dialled again


def test_a_reset_link_comes_again() -> None:
    two = Two().run()
    two.network.reset(ONE, TWO)
    two.run()
    assert len(two.events[ONE].down) == len(two.events[TWO].down) == 1
    assert two.events[ONE].up == [2, 2] and two.events[TWO].up == [1, 1]


def test_a_process_that_is_gone_hears_nothing_and_its_next_life_links_anew() -> None:
    two = Two().run()
    two.nodes[TWO].loop.kill_process()
    two.network.gone(TWO)
    two.run()
    assert two.events[ONE].down and not two.events[TWO].down
    two.begin(TWO)
    two.run()
    two.send(b"anew....")
    two.run()
    assert two.arrived() == [b"anew...."]


def test_a_stopped_process_takes_what_arrived_when_it_is_resumed() -> None:
    two = Two().run()
    two.nodes[TWO].loop.stop_process()
    two.send(*NUMBERS[:5])
    two.run(0.5)
    assert not two.arrived()
    two.nodes[TWO].loop.resume_process()
    two.run(0.1)
    assert two.arrived() == NUMBERS[:5]


def test_a_full_queue_takes_nothing_but_calls() -> None:
    two = Two().run()
    two.network.queue_bytes_max = 1000

    def send(calls: bool = False) -> bool:
        return two.nodes[ONE].send(TWO, make_frame(bytes(800)), calls)

    assert send() and not send() and send(calls=True) and not send(calls=True)
    assert two.nodes[ONE].room(TWO) < 0
    two.run()
    assert two.nodes[ONE].room(TWO) == 500


def test_without_a_link_nothing_is_sent() -> None:
    two = Two()
    assert not two.nodes[ONE].send(TWO, make_frame(b"none...."))
    with pytest.raises(LinkLost):
        two.network.reach(ONE, NodeId(3))


def test_the_same_seed_gives_the_same_frames() -> None:
    traces = []
    for seed in (1, 1, 2):
        two = Two(seed).run()
        route = two.network.route(ONE, TWO)
        route.loss = route.duplication = route.reordering = 0.3
        for number in NUMBERS:
            two.nodes[ONE].send(TWO, make_frame(number))
        two.run()
        traces.append((two.trace, two.arrived()))
    assert traces[0] == traces[1] != traces[2]
