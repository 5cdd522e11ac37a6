"""What this node knows of the others' stores, and whom it lets in.

A node's directory is pinned at first contact: from then on only that store may speak for that node, and never from before
what it had already told us (pitfalls 10, 90). So a node that lost its directory, or came back with an older copy of it,
cannot break promises that it does not remember. Watermarks are kept in memory with every frame, and durably now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from multiraft._core import FORMAT_VERSION
from multiraft.config import Config
from multiraft.errors import MultiRaftError, PeerProtocolError, WrongCluster, WrongStore
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.interfaces import Hello, Pinned
from multiraft.records import encode_pinned
from multiraft.transport.hello import StaleConnection


@dataclass(slots=True)
class Peer:
    """Another node: its pinned store, and the newest that it told us."""

    store_id: StoreId
    boot_count: int
    sequence: int
    linked: bool = False
    greeted: bool = False
    bootstrapped: bool = False
    scarce: bool = False
    written: tuple[int, int] = (0, 0)


class Peers:
    """All other nodes. ``record`` puts a PINNED record into the next batch."""

    def __init__(
        self, config: Config, pinned: Mapping[NodeId, Pinned], record: Callable[[bytes], None]
    ) -> None:
        self._config = config
        self._record = record
        self._peers = {
            node: Peer(
                one.store_id, one.boot_count, one.sequence, written=(one.boot_count, one.sequence)
            )
            for node, one in pinned.items()
        }
        self.cluster_id = ClusterId(0)
        self._refusals: dict[NodeId, MultiRaftError] = {}
        """What nodes that we dialled say of our directory, until a link to them stands."""

    def __getitem__(self, node: NodeId) -> Peer:
        return self._peers[node]

    def linked(self, node: int) -> bool:
        peer = self._peers.get(NodeId(node))
        return peer is not None and peer.linked

    def scarce(self, node: int) -> bool:
        """Did the node say that its disk is below its reserve?"""
        peer = self._peers.get(NodeId(node))
        return peer is not None and peer.scarce

    def all_greeted(self) -> bool:
        """Has every other node of the configuration answered its hello since this process started?"""
        others = (node for node in self._config.voters if node != self._config.node_id)
        return all(node in self._peers and self._peers[node].greeted for node in others)

    def admit(self, hello: Hello) -> None:
        """Let the other side in, or raise why not."""
        if not hello.format_min <= FORMAT_VERSION <= hello.format_max:
            raise PeerProtocolError(
                f"node {hello.node} reads formats {hello.format_min} to {hello.format_max}, this one {FORMAT_VERSION}"
            )
        if hello.node not in self._config.voters:
            raise PeerProtocolError(f"node {hello.node} is not of this cluster's configuration")
        if hello.cluster_id and self.cluster_id and hello.cluster_id != self.cluster_id:
            raise WrongCluster(f"node {hello.node} belongs to another cluster than this node")
        if hello.config_digest != self._config.digest():
            raise PeerProtocolError(
                f"node {hello.node} was started with another configuration (nodes, shards or borders)"
            )
        peer = self._peers.get(hello.node)
        if peer is None:
            peer = self._peers[hello.node] = Peer(hello.store_id, 0, 0)
        elif peer.store_id != hello.store_id:
            raise WrongStore(
                f"node {hello.node} has another data directory than before: it was wiped or swapped"
            )
        elif hello.boot_count < peer.boot_count or hello.sequence < peer.sequence:
            if peer.linked and hello.boot_count == peer.boot_count:
                # Its frames on the standing link may have overtaken this hello, which then was true when it was sent.
                raise StaleConnection(f"a link with node {hello.node} stands, and is newer")
            raise WrongStore(
                f"node {hello.node} came back at batch {hello.sequence} of boot {hello.boot_count}, but it had batch "
                f"{peer.sequence} of boot {peer.boot_count}: an older copy of its data directory"
            )
        peer.greeted = True
        peer.bootstrapped = hello.bootstrapped
        self.told(hello.node, hello.boot_count, hello.sequence)
        self.write(hello.node)

    def told(self, node: NodeId, boot_count: int, sequence: int, room: bytes = b"") -> None:
        """A node says how far its log is synced, and maybe whether it has room: 1 where it has none, 0 where it has again."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.boot_count = max(peer.boot_count, boot_count)
            peer.sequence = max(peer.sequence, sequence)
            if room:
                peer.scarce = room[:1] == b"\x01"

    def write(self, node: NodeId) -> None:
        """Put what is known of one node into the log, if it is news."""
        peer = self._peers[node]
        if peer.written != (peer.boot_count, peer.sequence):
            peer.written = (peer.boot_count, peer.sequence)
            self._record(encode_pinned(Pinned(node, peer.store_id, peer.boot_count, peer.sequence)))

    def write_all(self) -> None:
        for node in sorted(self._peers):
            self.write(node)

    def refused(
        self, node: NodeId, error: MultiRaftError, *, bootstrapped: bool
    ) -> MultiRaftError | None:
        """A node was not linked. The error that must end this one, or None where it may go on.

        That another node's directory is wrong is that node's trouble. Ours is, when a node that we dialled says so and surely
        speaks of our cluster: it remembers what we do not. One that may be of another cluster itself counts only together
        with others: when those that are left could not make a majority with us, we serve nobody here.
        """
        if not isinstance(error, WrongCluster | WrongStore) or error.said_by is None:
            return None
        if isinstance(error, WrongStore) and error.said_by:
            if not bootstrapped or error.said_by == self.cluster_id:
                return error
        self._refusals[node] = error
        voters = len(self._config.voters)
        return error if voters - len(self._refusals) <= voters // 2 else None

    def link_up(self, node: NodeId) -> None:
        self._refusals.pop(node, None)
        self._peers[node].linked = True
        self._peers[node].scarce = False  # it says so anew where it is

    def link_down(self, node: NodeId) -> None:
        if node in self._peers:
            self._peers[node].linked = False
