"""The endpoints of a cluster, as a client has them: one connection at a time, to the next one when it goes.

Nodes are tried in the order in which they were given, each once a round, with a longer pause after each round that failed. One
dial serves all calls that wait for it. A node of another cluster than the first one met is never used. Never done here:
knowing what a call means, or making it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from multiraft.config import TlsConfig
from multiraft.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    MultiRaftError,
    WrongCluster,
)
from multiraft.transport.address import parse_address
from multiraft.transport.caller import CallerConnection, Dialler, Unsent

BACKOFF_MIN_S = 0.02
BACKOFF_MAX_S = 0.5


class Endpoints:
    """Where a client's calls go. ``decode`` makes an exception of a refusal's bytes."""

    def __init__(
        self,
        addresses: str | Iterable[str],
        decode: Callable[[bytes], MultiRaftError],
        *,
        tls: TlsConfig | None = None,
        cluster_id: int = 0,
    ) -> None:
        self.addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not self.addresses:
            raise ConfigError("a client needs at least one endpoint")
        for address in self.addresses:
            parse_address(address)
        self.cluster_id = cluster_id
        self.closed = False
        self._dialler = Dialler(decode, tls=tls)
        self._current: CallerConnection | None = None
        self._parting: set[CallerConnection] = set()
        """Connections that take no more calls, but may still owe answers."""
        self._next = 0
        """Of the addresses, the one to use or to try next."""
        self._failures = 0
        """Rounds of dialling in a row in which nobody could be reached."""
        self._dialling: asyncio.Task[CallerConnection] | None = None

    @property
    def current(self) -> CallerConnection | None:
        """The connection that calls go to just now."""
        connection = self._current
        return connection if connection is not None and connection.usable else None

    async def close(self) -> None:
        """End every connection; calls that wait get LinkLost. Idempotent."""
        self.closed = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})
            if not self._dialling.cancelled() and self._dialling.exception() is None:
                self._parting.add(self._dialling.result())  # it came about in the same moment
        self._part_from_current()
        for connection in self._parting:
            connection.end(Closed("this client was closed"))
        for connection in self._parting:
            await connection.closed.wait()
        self._parting.clear()

    async def connected(self, deadline: float) -> CallerConnection:
        """The connection to use. Raises DeadlineExceeded where no endpoint can be reached in time."""
        loop = asyncio.get_running_loop()
        failure: BaseException | None = None
        while self._current is None or not self._current.usable:
            if self.closed:
                raise Closed("this client is closed")
            if self._dialling is None:
                self._part_from_current()
                self._dialling = loop.create_task(self._dial())
            dialling = self._dialling
            await asyncio.wait({dialling}, timeout=max(0.0, deadline - loop.time()))
            if not dialling.done():
                raise DeadlineExceeded(
                    f"no endpoint could be reached in time: {failure or 'they do not answer'}"
                ) from failure
            if self._dialling is dialling:
                self._dialling = None
                self._take(dialling)
            failure = None if dialling.cancelled() else dialling.exception()
        return self._current

    def _take(self, dialling: asyncio.Task[CallerConnection]) -> None:
        """See what came of dialling, once, for all who waited for it."""
        if dialling.cancelled() or dialling.exception() is not None:
            self._failures += 1
        else:
            self._failures = 0
            self._current = dialling.result()

    def _part_from_current(self) -> None:
        """Go on to the next endpoint; what the connection to this one still owes may come yet."""
        connection, self._current = self._current, None
        self._parting = {one for one in self._parting if not one.closed.is_set()}
        if connection is not None:
            self._parting.add(connection)
            self._next += 1

    async def _dial(self) -> CallerConnection:
        """Try each endpoint once, later after each round that failed. Raises Unsent with what each of them said."""
        if self._failures:
            await asyncio.sleep(min(BACKOFF_MIN_S * 2 ** min(self._failures, 10), BACKOFF_MAX_S))
        reasons: list[str] = []
        for _ in self.addresses:
            endpoint = self.addresses[self._next % len(self.addresses)]
            try:
                connection = await self._dialler.dial(endpoint, self.cluster_id)
                self.cluster_id = self._check(connection)
                return connection
            except (OSError, MultiRaftError) as error:
                reasons.append(f"{endpoint}: {str(error) or type(error).__name__}")
                self._next += 1
        raise Unsent("; ".join(reasons))

    def _check(self, connection: CallerConnection) -> int:
        """The cluster that this client is at from now on. Raises WrongCluster for a node of another."""
        found = connection.welcome.cluster_id
        if self.cluster_id and found and found != self.cluster_id:
            error = WrongCluster(f"the node belongs to cluster {found:x}, not {self.cluster_id:x}")
            connection.end(error)
            raise error
        return self.cluster_id or found
