"""Links in memory: several transports joined by a network that a test or a simulation holds in its hand.

A frame that is sent waits in a queue of its ordered pair of nodes until it is delivered; meanwhile it can be dropped,
doubled, moved or damaged. Hellos and frames go through the same code as on TCP: sealed on one side, fed through a
``Receiver`` on the other, so that the checks of frame, name, epoch and sequence are the real ones. With a loop, delivery
is scheduled by itself; without one nothing moves unless asked to.

Deterministic: nothing here draws at random, reads a clock, or depends on the order of a set. Bounded: a full queue refuses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from multiraft.disk import RealDisk
from multiraft.errors import (
    Closed,
    ConfigError,
    LinkLost,
    PeerProtocolError,
    Rejected,
    Retryable,
)
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, FileMeta, TransportEvents
from multiraft.transport.files import IncomingFile, OutgoingFile
from multiraft.transport.memory_end import MemoryEnd

_QUEUE_BYTES_MAX = 16 * 1024 * 1024


class MemoryNetwork:
    """All transports of a test, and the frames between them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        queue_bytes_max: int = _QUEUE_BYTES_MAX,
        queue_calls_bytes: int = _QUEUE_BYTES_MAX,
    ):
        self._loop = loop
        self._queue_bytes_max = queue_bytes_max
        self._queue_calls_bytes = queue_calls_bytes
        self._transports: dict[NodeId, MemoryTransport] = {}
        self._queues: dict[tuple[NodeId, NodeId], deque[bytes]] = {}
        self._cut: set[tuple[NodeId, NodeId]] = set()  # ordered pairs; asked for membership only
        self._scheduled = False

    def transport(
        self,
        node: NodeId,
        events: TransportEvents,
        *,
        directory: str | None = None,
        disk: Disk | None = None,
    ) -> MemoryTransport:
        """A new transport. Where the node had one, that one dies as in a crash, and its unsent frames with it."""
        old = self._transports.get(node)
        if old is not None:
            old.crash()
        made = self._transports[node] = MemoryTransport(
            self, node, events, directory, disk if disk is not None else RealDisk()
        )
        self.settle()
        return made

    # -- frames in flight ----------------------------------------------------------------------------------------------

    def waiting(self, source: NodeId, target: NodeId) -> Sequence[bytes]:
        """The frames on their way, oldest first."""
        return tuple(self._queue(source, target))

    def deliver(self, source: NodeId, target: NodeId, count: int | None = None) -> int:
        """Deliver what waits (at most ``count`` frames), oldest first; returns how many frames were taken off the queue."""
        queue = self._queue(source, target)
        wanted = len(queue) if count is None else min(count, len(queue))
        for done in range(wanted):
            if not queue:  # a damaged frame broke the link, and what followed is lost
                return done
            self._hand_over(source, target, queue.popleft())
        return wanted

    def deliver_all(self, rounds_max: int = 1000) -> int:
        """Deliver until nothing is on its way. Raises RuntimeError when the nodes do not come to rest."""
        total = 0
        for _ in range(rounds_max):
            moved = sum(self.deliver(source, target) for source, target in sorted(self._queues))
            if not moved:
                return total
            total += moved
        raise RuntimeError(f"frames were still sent after {rounds_max} rounds of delivery")

    def drop(self, source: NodeId, target: NodeId, index: int = 0) -> None:
        """Lose one frame."""
        del self._queue(source, target)[index]

    def duplicate(self, source: NodeId, target: NodeId, index: int = 0) -> None:
        """Put a second copy of one frame at the end."""
        queue = self._queue(source, target)
        queue.append(queue[index])

    def reorder(self, source: NodeId, target: NodeId, order: Sequence[int]) -> None:
        """Put the waiting frames in another order, given as their present positions."""
        queue = self._queue(source, target)
        if sorted(order) != list(range(len(queue))):
            raise ConfigError(f"order {order!r} is not one of {len(queue)} frames")
        frames = [queue[index] for index in order]
        queue.clear()
        queue.extend(frames)

    def damage(self, source: NodeId, target: NodeId, bit: int, index: int = 0) -> None:
        """Flip one bit of a waiting frame."""
        queue = self._queue(source, target)
        frame = bytearray(queue[index])
        frame[bit // 8] ^= 1 << bit % 8
        queue[index] = bytes(frame)

    # -- links ---------------------------------------------------------------------------------------------------------

    def cut(self, one: NodeId, other: NodeId, *, keep: bool = False) -> None:
        """Break the link between two nodes for as long as ``heal`` is not called.

        ``keep`` leaves the frames in the network, to arrive late: after a heal they are old, and must change nothing.
        """
        self._cut |= {(one, other), (other, one)}
        self._break(one, other, ConnectionResetError("the network was cut"), keep=keep)

    def heal(self, one: NodeId, other: NodeId) -> None:
        self._cut -= {(one, other), (other, one)}
        self.settle()

    def mute(self, source: NodeId, target: NodeId) -> None:
        """Lose everything from one node to the other without telling anybody, until ``heal``."""
        self._cut.add((source, target))
        self._queue(source, target).clear()

    def settle(self) -> None:
        """Make every link that one of its two nodes wants and the network allows."""
        nodes = sorted(self._transports)
        for one in nodes:
            for other in nodes:
                if one < other and self._wanted(one, other):
                    self._join(self._transports[one], self._transports[other])

    # -- what transports call ------------------------------------------------------------------------------------------

    def post(self, source: NodeId, target: NodeId, frame: bytes) -> None:
        """Put a sealed frame on its way; a muted pair of nodes loses it."""
        if (source, target) not in self._cut:
            self._queue(source, target).append(frame)
            self._schedule()

    def has_room(self, source: NodeId, target: NodeId, size: int, calls: bool) -> bool:
        queue = self._queue(source, target)
        most = self._queue_bytes_max + (self._queue_calls_bytes if calls else 0)
        return not queue or sum(map(len, queue)) + size <= most

    def room(self, source: NodeId, target: NodeId) -> int:
        return (self._queue_bytes_max + 1) // 2 - sum(map(len, self._queue(source, target)))

    def part(self, one: NodeId, other: NodeId) -> None:
        """One of the two wants the link no more; it may be made again at once."""
        self._break(one, other, None, keep=False)
        self._schedule()

    def leave(self, node: NodeId) -> None:
        self._transports.pop(node, None)

    def reach(self, source: NodeId, target: NodeId) -> MemoryTransport:
        """Where a file goes. Raises LinkLost."""
        found = self._transports.get(target)
        if found is None or (source, target) in self._cut or (target, source) in self._cut:
            raise LinkLost(f"node {target} cannot be reached from node {source}")
        return found

    def _queue(self, source: NodeId, target: NodeId) -> deque[bytes]:
        return self._queues.setdefault((source, target), deque())

    def _wanted(self, one: NodeId, other: NodeId) -> bool:
        first, second = self._transports[one], self._transports[other]
        if first.connected(other) or (one, other) in self._cut or (other, one) in self._cut:
            return False
        return first.wants(other) or second.wants(one)

    def _join(self, one: MemoryTransport, other: MemoryTransport) -> None:
        """Exchange hellos, and let the link stand if both sides agree."""
        ends = one.begin(other.node), other.begin(one.node)
        for target, source in (ends, ends[::-1]):
            error = target.greet(source.introduce())
            if error is not None:
                one.abandon(other.node)
                other.abandon(one.node)
                one.events.link_refused(other.node, error)
                other.events.link_refused(one.node, error)
                return
        one.rise(other.node)
        other.rise(one.node)

    def _break(self, one: NodeId, other: NodeId, error: Exception | None, *, keep: bool) -> None:
        if not keep:
            self._queue(one, other).clear()
            self._queue(other, one).clear()
        for node, peer in ((one, other), (other, one)):
            transport = self._transports.get(node)
            if transport is not None:
                transport.fall(peer, error)

    def _hand_over(self, source: NodeId, target: NodeId, frame: bytes) -> None:
        transport = self._transports.get(target)
        if transport is None:
            return
        error = transport.receive(source, frame)
        if error is not None:
            self._break(source, target, error, keep=False)
            self._schedule()

    def _schedule(self) -> None:
        if self._loop is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        self.settle()
        for source, target in sorted(self._queues):
            self.deliver(source, target)


class MemoryTransport:
    """See ``interfaces.Transport``. Made by ``MemoryNetwork.transport``."""

    def __init__(
        self,
        network: MemoryNetwork,
        node: NodeId,
        events: TransportEvents,
        directory: str | None,
        disk: Disk,
    ):
        self.node = node
        self.events = events
        self._network = network
        self._directory = directory
        self._disk = disk
        self._addresses: dict[NodeId, str] = {}
        self._ends: dict[NodeId, MemoryEnd] = {}
        self._epochs = 0
        self._closed = False

    # -- the Protocol --------------------------------------------------------------------------------------------------

    async def listen(self, address: str) -> str:
        """Whoever knows a node's name reaches it: there is nothing to bind."""
        return address

    def send(self, node: NodeId, frame: bytes, calls: bool = False) -> bool:
        end = self._ends.get(node)
        if end is None or not end.standing:
            return False
        if not self._network.has_room(self.node, node, len(frame), calls):
            return False
        self._network.post(self.node, node, end.seal(frame))
        return True

    def connected(self, node: NodeId) -> bool:
        end = self._ends.get(node)
        return end is not None and end.standing

    def queued_bytes(self, node: NodeId) -> int:
        return sum(map(len, self._network.waiting(self.node, node)))

    def room(self, node: NodeId) -> int:
        return self._network.room(self.node, node)

    def set_address(self, node: NodeId, address: str) -> None:
        if self._closed:
            raise Closed("the transport is closed")
        self._addresses[node] = address
        self._network.settle()

    def remove(self, node: NodeId) -> None:
        self._addresses.pop(node, None)
        self._network.part(self.node, node)

    def drop(self, node: NodeId) -> None:
        self._network.part(self.node, node)

    async def send_file(self, node: NodeId, transfer: int, path: str, note: bytes = b"") -> None:
        if self._closed:
            raise Closed("the transport is closed")
        if node not in self._addresses:
            raise Retryable(f"no address of node {node} is known")
        self._network.reach(self.node, node).take_file(
            self.node, transfer, OutgoingFile(self._disk, path), note
        )

    async def close(self) -> None:
        self.crash()

    # -- what the network calls ----------------------------------------------------------------------------------------

    def wants(self, node: NodeId) -> bool:
        return node in self._addresses

    def crash(self) -> None:
        """Be gone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for node in sorted(self._ends):
            self._network.part(self.node, node)
        self._network.leave(self.node)

    def begin(self, node: NodeId) -> MemoryEnd:
        """Our end of a link that is about to be tried."""
        end = self._ends.get(node)
        if end is None:
            self._epochs += 1
            end = self._ends[node] = MemoryEnd(self.node, node, self.events, self._epochs)
        return end

    def rise(self, node: NodeId) -> None:
        end = self._ends[node]
        end.standing = True
        self.events.link_up(node, end.epoch)

    def abandon(self, node: NodeId) -> None:
        self._ends.pop(node, None)

    def fall(self, node: NodeId, error: Exception | None) -> None:
        end = self._ends.pop(node, None)
        if end is not None:
            end.stop()
            if end.standing:
                self.events.link_down(node, error)

    def receive(self, node: NodeId, frame: bytes) -> PeerProtocolError | None:
        """Take one frame; returns what is wrong with it."""
        end = self._ends.get(node)
        return None if end is None or not end.standing else end.receive(frame)

    def take_file(self, source: NodeId, transfer: int, outgoing: OutgoingFile, note: bytes) -> None:
        """Copy and check a file at once, in the caller's thread: as blocking as a test may be."""
        if self._directory is None:
            raise Rejected(f"node {self.node} takes no files")
        try:
            outgoing.open()
            offset = outgoing.measure(0)
            while offset < outgoing.size:
                offset = outgoing.measure(offset)
            incoming = IncomingFile(
                self._disk, self._directory, source, transfer, outgoing.size, outgoing.crc
            )
            offset = incoming.resume()
            while offset < outgoing.size:
                data, crc = outgoing.read(offset, min(1024 * 1024, outgoing.size - offset))
                offset = incoming.write(offset, data, crc)
            whole = incoming.finish()
        finally:
            outgoing.close()
        self.events.file_received(
            source, transfer, whole, FileMeta(outgoing.size, outgoing.crc, note)
        )
