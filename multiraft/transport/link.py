"""Links: at most one standing connection to each other node, kept up for as long as its address is known.

**The rule.** A link is one TCP connection for both directions. Either node may dial, so that whichever of the two came
back last does it at once, and so that it is enough when one of them knows the other's address. What may go wrong:

- *Both dial at once.* The connection dialled by the lower node id is the one to keep. The lower id refuses an offer
  (goodbye "crossed") while an offer of its own is unanswered; the higher id gives its own dial up and answers.
- *The other side restarted, or gave the link up, and we have not noticed* (a half-open connection). It dials again; its
  link epoch is higher than that of the connection that stands here (boot count first, then a counter), so the new
  connection takes the place of the old one. An offer with a lower epoch is an old one that was overtaken on its way:
  it is refused (goodbye "stale"). A node that came back as another store is judged by ``admit`` alone.
- *The dialler gave up before our answer came.* Nothing stands before its confirmation: hence three hellos, not two.
- *Nothing is heard of the other side.* TCP keepalive and the user timeout end such a connection; sooner, the layer above
  calls ``drop`` when heartbeats stay away.

While an accepted connection awaits its confirmation (five seconds at most) this side does not dial.

Invariants: ``link_up`` and ``link_down`` alternate for each node; a link has one standing connection or none, and at most
one more in the making. Never done here: reading or writing frames, opening sockets other than by dialling.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl

from multiraft.errors import MultiRaftError
from multiraft.ids import NodeId
from multiraft.interfaces import TransportEvents
from multiraft.transport.connection import Connection, Host
from multiraft.transport.hello import CrossedDial, Farewell, Purpose, Stage, StaleConnection
from multiraft.transport.options import TransportOptions
from multiraft.transport.sparing import Sparing
from multiraft.transport.tls import node_name

logger = logging.getLogger("multiraft.transport")


class Link:
    """What is known and under way between this node and another one."""

    __slots__ = (
        "address",
        "changed",
        "dialling",
        "due",
        "failures",
        "keeper",
        "node",
        "pending",
        "refusal",
        "standing",
        "stood_at",
    )

    def __init__(self, node: NodeId):
        self.node = node
        self.address: tuple[str, int] | None = None
        self.standing: Connection | None = None
        self.pending: Connection | None = None
        """Accepted and answered; the confirmation is awaited."""
        self.dialling: Connection | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        """Set whenever the keeper may have something else to do."""
        self.due = 0.0
        """When the next dial may begin, by the loop's clock."""
        self.failures = 0
        """Dials and links in a row that did not last."""
        self.stood_at = 0.0
        self.refusal = ""
        """The last refusal that was logged, so that each is logged once."""


class Links:
    """All links of a node: who stands, and the rule for who may."""

    def __init__(
        self,
        node: NodeId,
        events: TransportEvents,
        options: TransportOptions,
        generator: random.Random,
    ):
        self._node = node
        self._events = events
        self._options = options
        self._random = generator
        self._links: dict[NodeId, Link] = {}
        self._complaints = Sparing(logger)  # who dials us may claim any name, and say anything

    def standing(self, node: NodeId) -> Connection | None:
        """The connection that frames for ``node`` go to. On the path of a put."""
        link = self._links.get(node)
        return None if link is None else link.standing

    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(self._links)

    def link(self, node: NodeId) -> Link:
        """The link to a node, made where there is none yet."""
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(node)
        return link

    def find(self, node: NodeId) -> Link | None:
        return self._links.get(node)

    def forget(self, node: NodeId) -> Link | None:
        """Take a link out of the table and end what belongs to it; its keeper is the caller's."""
        link = self._links.get(node)
        if link is None:
            return None
        for connection in (link.dialling, link.pending, link.standing):
            if connection is not None:
                connection.leave(Farewell.CLOSING, "the node was removed here", None)
        del self._links[node]
        return link

    # -- the rule ------------------------------------------------------------------------------------------------------

    def greeted(self, connection: Connection) -> None:
        """Judge a connection whose other side is welcome. Raises CrossedDial or StaleConnection."""
        node = connection.node
        if node is None or connection.purpose is Purpose.BULK:
            return
        link = self.link(node)
        for other in (link.standing, link.pending):
            if other is not None and other is not connection and not connection.is_newer(other):
                raise StaleConnection("a newer connection of the same node stands here")
        if connection.dialled is not None:
            return
        own = link.dialling
        if own is not None and own.stage is Stage.OFFERED and self._node < node:
            raise CrossedDial(f"node {self._node} has dialled node {node}, too; its dial is kept")
        old, link.pending = link.pending, connection
        if own is not None:
            own.end(None)
        if old is not None:
            old.end(None)

    def stood(self, connection: Connection) -> None:
        """Both sides agreed: frames go over this connection from now on."""
        node = connection.node
        if node is None:
            return
        link = self.link(node)
        old = link.standing
        if old is not None:
            old.leave(Farewell.STALE, "a newer connection took its place", None)
        if link.pending is connection:
            link.pending = None
        link.standing = connection
        link.stood_at = asyncio.get_running_loop().time()
        link.refusal = ""
        logger.info("link to node %s is up", node, extra={"node": node})
        self._events.link_up(node, connection.link_epoch)

    def ended(self, connection: Connection, error: Exception | None) -> None:
        """A connection is no more, for whatever reason."""
        node = connection.wanted
        link = None if node is None else self._links.get(node)
        if link is None:
            return
        link.changed.set()
        if link.pending is connection:
            link.pending = None
        if link.standing is not connection:
            return
        link.standing = None
        lasted = asyncio.get_running_loop().time() - link.stood_at
        if lasted > self._options.backoff_max_s:
            link.failures = 0
        self.postpone(link)
        logger.info("link to node %s is down: %s", node, error, extra={"node": node})
        self._events.link_down(link.node, error)

    def refused(self, connection: Connection, error: MultiRaftError) -> None:
        """One of the two sides said why there can be no connection."""
        node = connection.wanted
        if node is None:
            logger.debug("a connection of nobody known came to nothing: %s", error)
            return
        if isinstance(error, (CrossedDial, StaleConnection)):
            return
        link = self._links.get(node)
        if link is None or link.refusal != str(error):
            self._complaints.log(
                logging.WARNING, "no link with node %s: %s", node, error, extra={"node": node}
            )
        if link is not None:
            link.refusal = str(error)
        self._events.link_refused(node, error)

    def postpone(self, link: Link) -> None:
        """Set when to dial next: later after each failure in a row, and never for all nodes at the same time."""
        options = self._options
        longest = min(options.backoff_max_s, options.backoff_min_s * 2 ** min(link.failures, 30))
        link.failures += 1
        wait = longest * (0.5 + 0.5 * self._random.random())
        link.due = asyncio.get_running_loop().time() + wait


class Dialler:
    """Keeps links up: one task for each node whose address is known."""

    def __init__(self, links: Links, host: Host, secure: ssl.SSLContext | None):
        self._links = links
        self._host = host
        self._secure = secure

    async def keep(self, link: Link) -> None:
        """Dial whenever nothing stands, nothing is in the making and the wait is over. Ends by being cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            link.changed.clear()
            if link.address is None or link.standing is not None or link.pending is not None:
                await link.changed.wait()
            elif (wait := link.due - loop.time()) > 0:
                await _wait(link.changed, wait)
            else:
                await self._dial(link, link.address)

    async def _dial(self, link: Link, address: tuple[str, int]) -> None:
        connection = link.dialling = Connection(self._host, dialled=link.node)
        try:
            await self.connect(connection, address)
        except OSError as error:
            logger.debug(
                "node %s cannot be dialled: %s", link.node, error, extra={"node": link.node}
            )
            connection.end(error)
        finally:
            if link.dialling is connection:
                link.dialling = None
            if not connection.stood:
                connection.end(None)
                self._links.postpone(link)

    async def connect(self, connection: Connection, address: tuple[str, int]) -> None:
        """Dial and see the hellos through, until the connection stands or has ended.

        Raises OSError (TimeoutError among them) for what the network does; a refusal is the connection's ``error``.
        """
        attempt = asyncio.get_running_loop().create_task(
            self._create(connection, address), name=f"dial of node {connection.dialled}"
        )
        attempt.add_done_callback(lambda task: _end_if_failed(connection, task))
        try:
            async with asyncio.timeout(self._host.options.hello_timeout_s):
                await connection.settled.wait()
        finally:
            if (
                not connection.stood
            ):  # cancelling an attempt that came so far would close the connection
                attempt.cancel()
            await asyncio.wait((attempt,))
        if not connection.stood and isinstance(connection.error, OSError):
            raise connection.error

    async def _create(self, connection: Connection, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        node = connection.dialled
        host, port = address
        if self._secure is None or node is None:
            await loop.create_connection(lambda: connection, host, port)
        else:
            await loop.create_connection(
                lambda: connection,
                host,
                port,
                ssl=self._secure,
                server_hostname=node_name(node),
            )


def _end_if_failed(connection: Connection, attempt: asyncio.Task[None]) -> None:
    if attempt.cancelled():
        connection.abandoned()
    elif isinstance(error := attempt.exception(), Exception):
        connection.end(error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event, or for so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
