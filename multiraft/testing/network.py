"""A simulated network between nodes: links that are slow, lossy, cut, half open, and that repeat, reorder and damage.

Each ordered pair of nodes is a ``Route`` with faults of its own. A link stands between two nodes that can reach each other and of
which one wants it; hellos and frames go through the code that links over TCP use (``transport.memory_end``), so that seals,
epochs, sequences and checks are the real ones. On a route without faults frames arrive in order, later than they were sent;
with faults a frame can be lost, come twice, come out of order or come damaged: more than TCP would do, and all of it must be
harmless. A frame of a link that broke may still arrive, into a newer link.

A broken link is noticed by each end by itself, later; where a direction is cut, an end may go on sending into nothing until
``SILENCE_NS`` have passed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from zlib import crc32

from multiraft.errors import LinkLost, MultiRaftError, WrongCluster, WrongStore
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, TransportEvents
from multiraft.testing.links import SimulatedTransport
from multiraft.testing.loop import ProcessLoop
from multiraft.testing.schedule import Schedule
from multiraft.transport.memory_end import MemoryEnd

MS = 1_000_000
QUEUE_BYTES_MAX = 4 * 1024 * 1024
SILENCE_NS = 4_000 * MS
"""After so long without a word the other way an end takes its link for broken."""


@dataclass(slots=True)
class Route:
    """What happens to frames from one node to another. Shares are between 0 and 1."""

    latency_ns: int = MS // 2
    jitter_ns: int = MS // 2
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    damage: float = 0.0
    clogged_until_ns: int = 0
    """What is sent before arrives after."""
    cut: bool = False
    arrives_ns: int = 0
    """When the newest frame arrives: the next one in order comes no earlier."""
    queued_bytes: int = 0


class Link:
    """One link between two transports, from when both agreed until it broke."""

    __slots__ = ("broken", "ends")

    def __init__(self, ends: dict[NodeId, MemoryEnd]):
        self.ends = ends
        self.broken = False


def told(error: MultiRaftError, cluster_id: int) -> MultiRaftError:
    """What a node that dialled hears of a refusal: it knows by whom it was said."""
    if isinstance(error, WrongCluster | WrongStore):
        return type(error)(str(error), said_by=cluster_id)
    return error


class SimulatedNetwork:
    """All transports of a simulation and the routes between them. ``trace`` is called with a number for each frame."""

    def __init__(
        self,
        schedule: Schedule,
        generator: random.Random,
        trace: Callable[[int], None] = lambda number: None,
    ):
        self.schedule = schedule
        self._generator = generator
        self._trace = trace
        self._transports: dict[NodeId, SimulatedTransport] = {}
        self._routes: dict[tuple[NodeId, NodeId], Route] = {}
        self.queue_bytes_max = QUEUE_BYTES_MAX
        self.frames = 0
        self.tap: Callable[[NodeId, NodeId, bytes], None] | None = None
        """Is shown every frame as it leaves."""
        self.frames_lost = 0

    def route(self, source: NodeId, target: NodeId) -> Route:
        """The way from one node to another, to be changed at will."""
        found = self._routes.get((source, target))
        if found is None:
            found = self._routes[source, target] = Route()
        return found

    def routes(self) -> list[Route]:
        """Every way that was ever used."""
        return list(self._routes.values())

    def transport(
        self,
        node: NodeId,
        loop: ProcessLoop,
        events: TransportEvents,
        *,
        disk: Disk,
        directory: str,
    ) -> SimulatedTransport:
        """The transport of a new life of a node. One that the node had before is gone with its process."""
        made = self._transports[node] = SimulatedTransport(
            self, node, loop, events, disk, directory
        )
        return made

    # -- faults ---------------------------------------------------------------------------------------------------------

    def cut(self, source: NodeId, target: NodeId) -> None:
        """Lose everything from one node to another until ``heal``. Nobody is told; in the end the silence tells."""
        self.route(source, target).cut = True
        transport = self._transports.get(source)
        link = None if transport is None else transport.links.get(target)
        if link is not None:
            self.schedule.after(SILENCE_NS, partial(self._silent, source, target, link))

    def _silent(self, source: NodeId, target: NodeId, link: Link) -> None:
        if self.route(source, target).cut:
            self.break_link(link, ConnectionResetError("nothing was heard for too long"))

    def heal(self, source: NodeId, target: NodeId) -> None:
        self.route(source, target).cut = False

    def reset(self, one: NodeId, other: NodeId) -> None:
        """Break the link between two nodes, as a middlebox does that forgets it."""
        transport = self._transports.get(one)
        link = None if transport is None else transport.links.get(other)
        if link is not None:
            self.break_link(link, ConnectionResetError("the network reset the link"))

    def gone(self, node: NodeId) -> None:
        """The process of a node was killed: its system resets its links, where that arrives."""
        transport = self._transports.pop(node, None)
        if transport is not None:
            for link in list(transport.links.values()):
                self.break_link(link, ConnectionResetError("the process is gone"))

    # -- links ----------------------------------------------------------------------------------------------------------

    def dial(self, one: SimulatedTransport, node: NodeId) -> None:
        """Try to make a link, a round trip from now. Called again by the transport where it does not stand then."""
        there, back = self.route(one.node, node), self.route(node, one.node)
        delay_ns = self.latency_ns(there) + self.latency_ns(back)
        reachable = not there.cut and not back.cut
        self.schedule.after(delay_ns, partial(self._join, one, node, reachable))

    def _join(self, one: SimulatedTransport, node: NodeId, reachable: bool) -> None:
        other = self._transports.get(node)
        if one.loop.killed or one.closed:
            return
        if (
            not reachable
            or other is None
            or other.closed
            or not (one.loop.runs and other.loop.runs)
        ):
            one.dial_later(node)
            return
        if one.links.get(node) is not None or other.links.get(one.node) is not None:
            one.dial_later(node)  # an end still believes in an older link
            return
        ends = one.begin(node), other.begin(one.node)
        for target, source in (ends, ends[::-1]):
            error = target.greet(source.introduce())
            if error is not None:
                said = error if target is ends[0] else told(error, other.cluster_id())
                one.refused(node, said)
                other.refused(one.node, error)
                one.dial_later(node)
                return
        link = Link({one.node: ends[0], node: ends[1]})
        for end in ends:
            end.standing = True
        one.links[node] = other.links[one.node] = link
        one.rise(node, link)
        other.rise(one.node, link)

    def break_link(self, link: Link, error: Exception | None) -> None:
        """Break it. Each end notices by itself, when the news reaches it, or by the silence."""
        if link.broken:
            return
        link.broken = True
        one, other = link.ends
        for node, peer in ((one, other), (other, one)):
            transport = self._transports.get(node)
            if transport is None or transport.links.get(peer) is not link:
                continue
            route = self.route(peer, node)
            delay_ns = SILENCE_NS if route.cut else self.latency_ns(route)
            self.schedule.after(delay_ns, partial(transport.fall, peer, link, error))

    # -- frames ---------------------------------------------------------------------------------------------------------

    def latency_ns(self, route: Route) -> int:
        """How long the next frame takes."""
        wait_ns = max(0, route.clogged_until_ns - self.schedule.now_ns)
        return wait_ns + route.latency_ns + int(route.jitter_ns * self._generator.random())

    def has_room(self, source: NodeId, target: NodeId, size: int, calls: bool) -> bool:
        """May a frame be queued? One that carries calls has room of its own besides."""
        queued = self.route(source, target).queued_bytes
        return not queued or queued + size <= self.queue_bytes_max * (2 if calls else 1)

    def post(self, source: NodeId, target: NodeId, link: Link, frame: bytes) -> None:
        """Put a sealed frame on its way."""
        route = self.route(source, target)
        size = len(frame)
        self.frames += 1
        if self.tap is not None:
            self.tap(source, target, frame)
        generator = self._generator
        if route.cut or link.broken or (route.loss and generator.random() < route.loss):
            self.frames_lost += 1
            return
        at_ns = self.schedule.now_ns + self.latency_ns(route)
        if route.damage and generator.random() < route.damage:
            bit = generator.randrange(size * 8)
            damaged = bytearray(frame)
            damaged[bit // 8] ^= 1 << bit % 8
            frame = bytes(damaged)
        if not (route.reordering and generator.random() < route.reordering):
            at_ns = route.arrives_ns = max(at_ns, route.arrives_ns)
        route.queued_bytes += size
        self.schedule.at(at_ns, partial(self._arrive, route, source, target, link, frame, size))
        if route.duplication and generator.random() < route.duplication:
            later_ns = at_ns + self.latency_ns(route)
            self.schedule.at(later_ns, partial(self._arrive, route, source, target, link, frame, 0))

    def _arrive(
        self, route: Route, source: NodeId, target: NodeId, link: Link, frame: bytes, size: int
    ) -> None:
        route.queued_bytes -= size
        transport = self._transports.get(target)
        if route.cut or transport is None:
            self.frames_lost += 1
            return
        self._trace(crc32(frame))
        transport.loop.call_soon(transport.take, source, link, frame)

    def reach(self, source: NodeId, target: NodeId) -> SimulatedTransport:
        """Where a file goes. Raises LinkLost."""
        found = self._transports.get(target)
        there, back = self.route(source, target), self.route(target, source)
        if found is None or found.closed or there.cut or back.cut or not found.loop.runs:
            raise LinkLost(f"node {target} cannot be reached from node {source}")
        return found
