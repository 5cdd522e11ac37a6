"""Links to the other nodes over TCP: the real ``Transport``.

This module joins the parts and owns everything that they start: the listener, one task for each node whose address is
known, one for each accepted connection until it is settled, the worker for files. After ``close`` none of it is left.

Works on any asyncio loop. All calls belong to the loop that it was made on. Never done here: knowing what is in a frame.
"""

from __future__ import annotations

import asyncio
import random

from multiraft.config import TlsConfig
from multiraft.disk import RealDisk
from multiraft.errors import Closed, MultiRaftError, Retryable
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, Jobs, TransportEvents
from multiraft.transport.address import parse_address
from multiraft.transport.bulk import Inbox
from multiraft.transport.connection import Connection, Host
from multiraft.transport.hello import Farewell, Purpose
from multiraft.transport.link import Dialler, Links
from multiraft.transport.options import TransportOptions
from multiraft.transport.outbox import Outbox
from multiraft.transport.server import Listener
from multiraft.transport.tasks import Tasks
from multiraft.transport.tls import client_context, server_context
from multiraft.worker import Worker


class LoopTransport:
    """See ``interfaces.Transport``. Made on a running loop; ``listen`` opens the door, ``set_address`` dials."""

    def __init__(
        self,
        node: NodeId,
        events: TransportEvents,
        *,
        generator: random.Random,
        options: TransportOptions | None = None,
        tls: TlsConfig | None = None,
        insecure: bool = False,
        jobs: Jobs | None = None,
        directory: str | None = None,
        disk: Disk | None = None,
    ):
        """``directory`` is where files from other nodes go (none: they are refused); ``jobs`` does the work on ``disk``."""
        self._options = options or TransportOptions()
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._closing: asyncio.Event | None = None
        self._jobs = jobs
        self._worker: Worker | None = None
        self._host = Host(
            node,
            events,
            self._options,
            secure=tls is not None,
            greeted=self._greeted,
            refused=self._refused,
            stood=self._stood,
            ended=self._ended,
        )
        self._links = Links(node, events, self._options, generator)
        self._dialler = Dialler(
            self._links, self._host, client_context(tls) if tls is not None else None
        )
        self._listener = Listener(
            lambda: Connection(self._host, dialled=None),
            self._tasks,
            self._options,
            server_context(tls) if tls is not None else None,
            insecure=insecure,
        )
        files: Disk = disk if disk is not None else RealDisk()
        self._inbox = Inbox(events, self._options, self._file_jobs, directory, files)
        self._outbox = Outbox(self._host, self._dialler, self._file_jobs, files)

    async def listen(self, address: str) -> str:
        """Accept connections at ``host:port`` and return the address with the port that was bound.

        Raises ConfigError for an address beyond loopback without TLS, OSError where it cannot be bound.
        """
        self._check_open()
        return await self._listener.listen(address)

    # -- frames --------------------------------------------------------------------------------------------------------

    def send(self, node: NodeId, frame: bytes, calls: bool = False) -> bool:
        """See ``interfaces.Transport.send``. On the path of a put."""
        connection = self._links.standing(node)
        return connection is not None and connection.send(frame, calls)

    def connected(self, node: NodeId) -> bool:
        return self._links.standing(node) is not None

    def room(self, node: NodeId) -> int:
        """See ``interfaces.Transport.room``."""
        return (self._options.queue_bytes_max + 1) // 2 - self.queued_bytes(node)

    def queued_bytes(self, node: NodeId) -> int:
        """What waits to be written to a node: for status pages and for tests."""
        connection = self._links.standing(node)
        return 0 if connection is None else connection.queued_bytes

    # -- links ---------------------------------------------------------------------------------------------------------

    def set_address(self, node: NodeId, address: str) -> None:
        """See ``interfaces.Transport.set_address``. A standing link stays; the next dial goes to the new address."""
        self._check_open()
        link = self._links.link(node)
        parsed = parse_address(address)
        if parsed != link.address:
            link.address = parsed
            link.due = 0.0
            link.failures = 0
            link.changed.set()
        if link.keeper is None:
            link.keeper = self._tasks.start(self._dialler.keep(link), f"link to node {node}")

    def remove(self, node: NodeId) -> None:
        link = self._links.forget(node)
        if link is not None and link.keeper is not None:
            link.keeper.cancel()

    def drop(self, node: NodeId) -> None:
        connection = self._links.standing(node)
        if connection is not None:
            connection.end(None)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def send_file(self, node: NodeId, transfer: int, path: str, note: bytes = b"") -> None:
        """See ``interfaces.Transport.send_file``.

        Raises Retryable (no address is known), Overloaded (the receiver is busy), NoSpace or TooLarge (over there),
        PeerProtocolError (damaged twice), LinkLost (no connection lasted), WrongCluster or WrongStore, Closed, and
        OSError or Rejected where the file cannot be opened or read.
        """
        self._check_open()
        await self._outbox.send(node, lambda: self._address(node), transfer, path, note)

    def _address(self, node: NodeId) -> tuple[str, int]:
        link = self._links.find(node)
        if link is None or link.address is None:
            raise Retryable(f"no address of node {node} is known")
        return link.address

    def _file_jobs(self) -> Jobs:
        if self._jobs is None:
            self._jobs = self._worker = Worker("files", self._loop)
        return self._jobs

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See ``interfaces.Transport.close``. A second call waits for the first."""
        if self._closing is not None:
            await self._closing.wait()
            return
        self._closing = asyncio.Event()
        self._listener.close()
        await self._outbox.close()
        for node in self._links.nodes():
            self.remove(node)
        for connection in tuple(self._host.connections):
            connection.leave(Farewell.CLOSING, "the node closes", Closed("the transport is closed"))
        await self._tasks.close()
        while (
            self._host.connections
        ):  # each ends by itself: its goodbye is written, or lingers no longer
            await next(iter(self._host.connections)).closed.wait()
        self._inbox.close()
        await self._close_worker()
        self._closing.set()

    async def _close_worker(self) -> None:
        """Let the worker finish before its thread is joined, so that joining it does not hold the loop."""
        if self._worker is None:
            return
        finished = asyncio.Event()
        self._worker.submit(lambda: None, lambda result, error: finished.set())
        await finished.wait()
        self._worker.close()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise Closed("the transport is closed")

    # -- what connections ask and tell ---------------------------------------------------------------------------------

    def _greeted(self, connection: Connection) -> None:
        if self._closing is not None:
            raise Closed("the node closes")
        if connection.purpose is Purpose.LINK:
            self._links.greeted(connection)
        elif connection.dialled is None:
            self._inbox.greeted(connection)

    def _refused(self, connection: Connection, error: MultiRaftError) -> None:
        if connection.purpose is Purpose.LINK:
            self._links.refused(connection, error)

    def _stood(self, connection: Connection) -> None:
        if connection.purpose is Purpose.LINK:
            self._links.stood(connection)
        elif connection.dialled is None:
            self._inbox.stood(connection)

    def _ended(self, connection: Connection, error: Exception | None) -> None:
        if connection.purpose is Purpose.LINK:
            self._links.ended(connection, error)
        elif connection.dialled is None:
            self._inbox.ended(connection)
        else:
            self._outbox.ended(connection)
