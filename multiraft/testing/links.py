"""One node's links in a simulated network: the ``Transport`` that a node is given there.

It says what it wants - to send, to dial, to drop - to the network (``network.py``), which knows when what arrives; and it tells
its node, on the node's own loop, so that a process that is stopped or dead hears nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from multiraft.errors import Closed, LinkLost, MultiRaftError, Rejected, Retryable
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, FileMeta, TransportEvents
from multiraft.testing.loop import ProcessLoop
from multiraft.transport.files import IncomingFile, OutgoingFile
from multiraft.transport.memory_end import MemoryEnd

if TYPE_CHECKING:
    from multiraft.testing.network import Link, SimulatedNetwork

DIAL_NS = 50_000_000
"""How long after a failure an end dials again."""
CHUNK_BYTES = 256 * 1024


class SimulatedTransport:
    """See ``interfaces.Transport``. Made by ``SimulatedNetwork.transport``, for one life of one node."""

    def __init__(
        self,
        network: SimulatedNetwork,
        node: NodeId,
        loop: ProcessLoop,
        events: TransportEvents,
        disk: Disk,
        directory: str,
    ):
        self.node = node
        self.loop = loop
        self.links: dict[NodeId, Link] = {}
        self.closed = False
        self._network = network
        self._events = events
        self._disk = disk
        self._directory = directory
        self._addresses: dict[NodeId, str] = {}
        self._dialling: set[NodeId] = set()  # asked for membership only
        self._counter = 0

    # -- the Protocol ---------------------------------------------------------------------------------------------------

    async def listen(self, address: str) -> str:
        """Whoever knows a node's name reaches it: there is nothing to bind."""
        return address

    def send(self, node: NodeId, frame: bytes, calls: bool = False) -> bool:
        link = self.links.get(node)
        if link is None:
            return False
        if not self._network.has_room(self.node, node, len(frame), calls):
            return False
        self._network.post(self.node, node, link, link.ends[self.node].seal(frame))
        return True

    def connected(self, node: NodeId) -> bool:
        return node in self.links

    def queued_bytes(self, node: NodeId) -> int:
        return self._network.route(self.node, node).queued_bytes

    def room(self, node: NodeId) -> int:
        queued = self._network.route(self.node, node).queued_bytes
        return self._network.queue_bytes_max // 2 - queued

    def set_address(self, node: NodeId, address: str) -> None:
        if self.closed:
            raise Closed("the transport is closed")
        self._addresses[node] = address
        self._dial(node)

    def remove(self, node: NodeId) -> None:
        self._addresses.pop(node, None)
        self.drop(node)

    def drop(self, node: NodeId) -> None:
        link = self.links.get(node)
        if link is not None:
            self.fall(node, link, None)
            self._network.break_link(link, LinkLost("the other end dropped the link"))

    async def close(self) -> None:
        self.closed = True
        for node in sorted(self.links):
            self.drop(node)

    # -- dialling -------------------------------------------------------------------------------------------------------

    def _dial(self, node: NodeId) -> None:
        if node in self._dialling or self.closed or node not in self._addresses:
            return
        self._dialling.add(node)
        self._network.dial(self, node)

    def dial_later(self, node: NodeId) -> None:
        """It came to nothing: try again after a while."""
        self.loop.call_later_ns(DIAL_NS, self._redial, node)

    def _redial(self, node: NodeId) -> None:
        self._dialling.discard(node)
        if node not in self.links:
            self._dial(node)

    # -- what the network calls -----------------------------------------------------------------------------------------

    def cluster_id(self) -> int:
        """The cluster that our node knows itself to be of."""
        return self._events.hello().cluster_id

    def begin(self, node: NodeId) -> MemoryEnd:
        """Our end of a link that is tried."""
        self._counter += 1
        return MemoryEnd(self.node, node, self._events, self._counter)

    def refused(self, node: NodeId, error: MultiRaftError) -> None:
        self.loop.call_soon(self._events.link_refused, node, error)

    def rise(self, node: NodeId, link: Link) -> None:
        self._dialling.discard(node)
        self.loop.call_soon(self._risen, node, link)

    def _risen(self, node: NodeId, link: Link) -> None:
        if self.links.get(node) is link:
            self._events.link_up(node, link.ends[self.node].epoch)

    def fall(self, node: NodeId, link: Link, error: Exception | None) -> None:
        """Our end of a link learns that it is broken."""
        if self.links.get(node) is not link:
            return
        del self.links[node]
        link.ends[self.node].stop()
        self.loop.call_soon(self._fallen, node, error)

    def _fallen(self, node: NodeId, error: Exception | None) -> None:
        self._events.link_down(node, error)
        if not self.closed:
            self.dial_later(node)

    def take(self, node: NodeId, link: Link, frame: bytes) -> None:
        """A frame arrives: for the link that stands now, whichever it was sent on."""
        standing = self.links.get(node)
        if standing is None or self.closed:
            return
        error = standing.ends[self.node].receive(frame)
        if error is not None and standing is self.links.get(node):
            self.fall(node, standing, error)
            self._network.break_link(standing, error)

    # -- files ----------------------------------------------------------------------------------------------------------

    async def send_file(self, node: NodeId, transfer: int, path: str, note: bytes = b"") -> None:
        """See ``interfaces.Transport.send_file``: chunk by chunk, each with a latency of its own."""
        if self.closed:
            raise Closed("the transport is closed")
        if node not in self._addresses:
            raise Retryable(f"no address of node {node} is known")
        outgoing = OutgoingFile(self._disk, path)
        incoming: IncomingFile | None = None
        try:
            outgoing.open()
            offset = outgoing.measure(0)
            while offset < outgoing.size:
                offset = outgoing.measure(offset)
            target = self._network.reach(self.node, node)
            incoming = IncomingFile(
                target._disk, target._directory, self.node, transfer, outgoing.size, outgoing.crc
            )
            offset = incoming.resume()
            while offset < outgoing.size:
                data, crc = outgoing.read(offset, min(CHUNK_BYTES, outgoing.size - offset))
                await self._pause(node)
                if self._network.reach(self.node, node) is not target:
                    raise LinkLost(f"node {node} was restarted meanwhile")
                offset = incoming.write(offset, data, crc)
            whole = incoming.finish()
        except OSError as error:
            raise Rejected(f"the file could not be sent: {error}") from error
        finally:
            outgoing.close()
        meta = FileMeta(outgoing.size, outgoing.crc, note)
        target.loop.call_soon(target._events.file_received, self.node, transfer, whole, meta)

    async def _pause(self, node: NodeId) -> None:
        arrived = asyncio.Event()
        delay_ns = self._network.latency_ns(self._network.route(self.node, node))
        self.loop.call_later_ns(delay_ns, arrived.set)
        await arrived.wait()
