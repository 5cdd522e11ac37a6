"""A client: a program's way to a cluster that it is not a node of. The calls of ``Store``, over one connection.

::

    async with multiraft.Client(["127.0.0.1:7501", "127.0.0.1:7502"]) as client:
        await client.put(b"user:1", b"ada")

Calls have the names, arguments and errors of ``Store``; they are coroutines, so nothing is sent before they are awaited. Any
number may be on their way at once. The endpoints are the client ports of nodes. One is used at a time; when it cannot be
reached, goes away or closes, the next one is. Within its time a call is tried again only if it certainly did not happen, or
if it is a read; a connection that is lost after a write was sent makes its outcome unknown (``LinkLost``).

What it does not do yet: it keeps no map of the shards, so a node that does not lead a key forwards the call (one hop more);
it has no session, so a write that is made again after an unknown outcome may happen twice; it learns of no endpoints but those
that it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import msgpack

from multiraft.config import TlsConfig
from multiraft.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    InvalidCommand,
    LinkLost,
    MultiRaftError,
    Overloaded,
    PeerProtocolError,
    Retryable,
)
from multiraft.node.calls import Call, pack_conditions, pack_operations, unpack_revisions
from multiraft.node.forwarding import WAITING_HELPS_NOT
from multiraft.node.operations import Condition, Entry, Operation, Put, RevisionIs, ValueIs
from multiraft.node.refusals import decode_refusal
from multiraft.node.store import after_prefix
from multiraft.transport.caller import CallerConnection, Unsent
from multiraft.transport.calls import LEFT_MS_MAX, pack_many, unpack_many, unpack_whole
from multiraft.transport.endpoints import BACKOFF_MAX_S, BACKOFF_MIN_S, Endpoints

Pair = tuple[bytes, bytes]

STATUS_ITEMS_MAX = 65_536


class Client:
    """One program's way to a cluster. ``async with`` connects and closes it.

    ``endpoints`` are client ports (``host:port``), tried in their order; ``timeout_s`` is what a call is given where it names
    none; ``tls`` is this program's certificate, and whose it accepts. ``cluster_id`` refuses any other cluster; 0 takes the one
    that is met first, and no other after it.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        timeout_s: float = 10.0,
        tls: TlsConfig | None = None,
        cluster_id: int = 0,
    ) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s = {timeout_s!r}: above 0")
        self._timeout_s = timeout_s
        self._endpoints = Endpoints(endpoints, decode_refusal, tls=tls, cluster_id=cluster_id)

    # -- life -------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def connect(self, timeout: float | None = None) -> None:
        """Reach one of the endpoints now; every call does so by itself. Raises Retryable where none can be reached."""
        try:
            await self._endpoints.connected(self._deadline(timeout))
        except DeadlineExceeded as error:
            raise Retryable(str(error)) from error.__cause__

    async def aclose(self) -> None:
        """End the connection; calls that wait get LinkLost. Idempotent."""
        await self._endpoints.close()

    @property
    def node(self) -> int | None:
        """The node that calls go to just now."""
        connection = self._endpoints.current
        return None if connection is None else connection.welcome.node

    @property
    def cluster_id(self) -> int:
        """The cluster that this client is at; 0 where it does not know yet."""
        return self._endpoints.cluster_id

    # -- writes -----------------------------------------------------------------------------------------------------------

    async def put(
        self, key: bytes, value: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> int:
        """Write one key; the revision."""
        arguments = [_bytes(key), _bytes(value), nowait]
        return _whole(await self._write(Call.PUT, arguments, timeout, nowait))

    async def delete(
        self, key: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> int:
        """Delete one key, whether it is there or not; the revision."""
        return _whole(await self._write(Call.DELETE, [_bytes(key), nowait], timeout, nowait))

    async def put_many(
        self, items: Iterable[Pair], *, timeout: float | None = None, nowait: bool = False
    ) -> list[int]:
        """Write many keys, one command a shard, atomic there only; the revisions in input order. See ``Store.put_many``.

        All of them go in one frame of 32 MiB at most: beyond, TooLarge.
        """
        packed = pack_many(_bytes(part) for key, value in items for part in (key, value))
        return unpack_revisions(await self._write(Call.PUT_MANY, [packed, nowait], timeout, nowait))

    async def delete_range(self, start: bytes, end: bytes, *, timeout: float | None = None) -> int:
        """Delete every key from ``start`` up to, not including, ``end``, within one shard; the revision."""
        arguments = [_bytes(start), _bytes(end)]
        return _whole(await self._write(Call.DELETE_RANGE, arguments, timeout))

    async def compare_and_set(
        self,
        key: bytes,
        value: bytes,
        *,
        expected: bytes | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Write the key if it has the ``expected`` value, or was last written at ``revision`` (0: is absent); the revision."""
        if (expected is None) == (revision is None):
            raise InvalidCommand("compare_and_set takes either expected= or revision=")
        condition: Condition = (
            RevisionIs(key, revision) if revision is not None else ValueIs(key, expected or b"")
        )
        return await self.batch([Put(key, value)], conditions=[condition], timeout=timeout)

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        conditions: Sequence[Condition] = (),
        timeout: float | None = None,
    ) -> int:
        """Do all operations if all conditions hold, else none; the revision. All keys must lie in one shard."""
        arguments = [pack_operations(operations), pack_conditions(conditions)]
        return _whole(await self._write(Call.BATCH, arguments, timeout))

    # -- reads ------------------------------------------------------------------------------------------------------------

    async def get(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> bytes | None:
        """The value, or None. Linearizable; with ``stale`` whatever the node that is asked has applied."""
        value = await self._read(Call.GET, [_bytes(key), stale], timeout)
        if value is not None and type(value) is not bytes:
            raise PeerProtocolError("a value that is not bytes")
        return value

    async def get_entry(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> Entry | None:
        """The value with the revision that wrote it, or None."""
        found = await self._read(Call.GET_ENTRY, [_bytes(key), stale], timeout)
        if found is None:
            return None
        if not isinstance(found, list) or [type(one) for one in found] != [bytes, int]:
            raise PeerProtocolError("an entry of a wrong shape")
        return Entry(value=found[0], revision=found[1])

    async def get_many(
        self, keys: Iterable[bytes], *, timeout: float | None = None, stale: bool = False
    ) -> list[bytes | None]:
        """The values in input order. Each shard's part is linearizable by itself. Beyond a frame of 32 MiB, TooLarge."""
        packed = pack_many(_bytes(key) for key in keys)
        return unpack_many(await self._read(Call.GET_MANY, [packed, stale], timeout))

    async def scan(
        self,
        *,
        prefix: bytes = b"",
        start: bytes | None = None,
        end: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        stale: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Pair]:
        """Keys and values in order, by ``prefix`` or from ``start`` up to, not including, ``end``; ``reverse`` from the end.

        Read in pages; ``timeout`` is for each. When a node goes away between two pages, the next one goes on where it stopped.
        With ``stale`` each page is what the node that is asked has applied.
        """
        if prefix and (start is not None or end is not None):
            raise InvalidCommand("scan takes a prefix, or a start and an end")
        low, high = (prefix, after_prefix(prefix)) if prefix else (start or b"", end or b"")
        if (high and low >= high) or (limit is not None and limit <= 0):
            return
        left, barren = limit or 0, 0
        while True:
            last: bytes | None = None
            try:
                async for key, value in self._pages(low, high, reverse, left, stale, timeout):
                    last = key
                    left -= 1 if limit else 0
                    yield key, value
                return
            except LinkLost:
                barren = 0 if last is not None else barren + 1
                if self._endpoints.closed or barren > len(self._endpoints.addresses):
                    raise
            if limit and not left:
                return
            if last is not None and reverse:
                high = last
            elif last is not None:
                low = last + b"\0"
            if high and low >= high:
                return

    async def _pages(
        self, low: bytes, high: bytes, reverse: bool, limit: int, stale: bool, timeout: float | None
    ) -> AsyncIterator[Pair]:
        """One scan at one node. Raises LinkLost when its connection goes before the end."""
        deadline = self._deadline(timeout)
        connection, answer = await self._ask(
            Call.SCAN, [low, high, reverse, limit, stale], deadline, repeatable=True
        )
        cursor, pairs = _page_of(answer)
        try:
            while True:
                for at in range(0, len(pairs), 2):
                    yield pairs[at], pairs[at + 1]
                if not cursor:
                    return
                deadline = self._deadline(timeout)
                try:
                    answer = await connection.call(Call.SCAN_NEXT, [cursor], deadline)
                except Unsent as error:
                    raise LinkLost("the node of this scan takes no more calls") from error
                cursor, pairs = _page_of(answer)
        finally:
            if cursor and connection.usable:
                connection.tell(Call.SCAN_CLOSE, [cursor])

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What ``node.status()`` says at the node that calls go to just now, as plain values."""
        packed = await self._read(Call.STATUS, [], timeout)
        try:
            found = msgpack.unpackb(
                packed,
                strict_map_key=False,
                max_map_len=STATUS_ITEMS_MAX,
                max_array_len=STATUS_ITEMS_MAX,
            )
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise PeerProtocolError(f"a status that cannot be read: {error!r:.200}") from error
        if not isinstance(found, dict):
            raise PeerProtocolError("a status that is no map")
        return found

    # -- calls --------------------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> float:
        if self._endpoints.closed:
            raise Closed("this client is closed")
        seconds = self._timeout_s if timeout is None else timeout
        # Nothing on the wire, and no timer, knows "for ever".
        return asyncio.get_running_loop().time() + min(seconds, LEFT_MS_MAX / 1000)

    async def _write(
        self, operation: Call, arguments: list[Any], timeout: float | None, nowait: bool = False
    ) -> Any:
        deadline = self._deadline(timeout)
        _, answer = await self._ask(operation, arguments, deadline, repeatable=False, nowait=nowait)
        return answer

    async def _read(self, operation: Call, arguments: list[Any], timeout: float | None) -> Any:
        _, answer = await self._ask(operation, arguments, self._deadline(timeout), repeatable=True)
        return answer

    async def _ask(
        self,
        operation: Call,
        arguments: list[Any],
        deadline: float,
        *,
        repeatable: bool,
        nowait: bool = False,
    ) -> tuple[CallerConnection, Any]:
        """Make a call until it has an answer: again where it did not happen, or where it changes nothing."""
        wait_s = 0.0
        while True:
            connection = await self._endpoints.connected(deadline)
            try:
                return connection, await connection.call(operation, arguments, deadline)
            except Unsent as error:
                failure: MultiRaftError = error
                if self._endpoints.closed:
                    raise Closed("this client was closed before the call was sent") from error
            except LinkLost as error:
                failure = error
                if not repeatable or self._endpoints.closed:
                    raise
            except Retryable as error:
                failure = error
                if isinstance(error, WAITING_HELPS_NOT) or (
                    nowait and isinstance(error, Overloaded)
                ):
                    raise
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= wait_s:
                raise DeadlineExceeded(
                    f"the time was up before a node could take the call: {failure}"
                ) from failure
            await asyncio.sleep(wait_s)
            wait_s = min(max(2 * wait_s, BACKOFF_MIN_S), BACKOFF_MAX_S)


def _bytes(given: object) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    raise InvalidCommand(f"keys and values are bytes, and not {given!r:.50}")


def _whole(answer: object) -> int:
    if type(answer) is not int:
        raise PeerProtocolError("a revision that is no number")
    return answer


def _page_of(answer: object) -> tuple[int, list[bytes]]:
    if not isinstance(answer, list) or len(answer) != 2 or type(answer[0]) is not int:
        raise PeerProtocolError("a page of a wrong shape")
    pairs = unpack_whole(answer[1])
    if len(pairs) % 2:
        raise PeerProtocolError("a page with a key without a value")
    return answer[0], pairs
