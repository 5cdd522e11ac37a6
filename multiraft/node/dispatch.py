"""Calls of clients, onto the store: a small table of operations, and for each client what it has under way.

A call is checked for its shape, made on the store with the time that it has left, and answered as it ends, in any order. What
the store refuses travels as a refusal; a shape that is wrong ends the connection. Scans are given out in pages, by cursors
that belong to the connection and end with it; between two pages a cursor holds what a scan of the store holds, and no more.

Nothing here knows a socket. Invariants: every call that was taken is answered once, or its connection is gone; when it is gone,
nothing of the client is left here - but what was proposed goes its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import msgpack

from multiraft._ticket import Ticket
from multiraft.config import Config
from multiraft.errors import (
    Closed,
    DeadlineExceeded,
    LinkLost,
    MultiRaftError,
    NoLeader,
    Overloaded,
    PeerProtocolError,
    TooLarge,
)
from multiraft.interfaces import Hello
from multiraft.node.calls import Call, pack_revisions, unpack_conditions, unpack_operations
from multiraft.node.operations import Entry
from multiraft.node.refusals import encode_refusal
from multiraft.node.status import NodeStatus
from multiraft.node.store import GET_MANY_AT_ONCE, Pair, Store
from multiraft.transport.calls import CALL_BYTES_MAX, pack_many, unpack_whole
from multiraft.transport.gateway import Gateway, GatewayConnection
from multiraft.transport.hello import farewell_for
from multiraft.transport.options import TransportOptions

CURSORS_MAX = 16
"""Scans that one client has open at the same time."""
GET_MANY_FIRST = 32
"""Keys that are read before it is known how large their values are."""
PAGE_KEYS = 512
PAGE_BYTES = 512 * 1024


Answer = Awaitable[Any]
Shape = Callable[[Any], Any]


class Dispatch:
    """What one client has under way. ``status`` is asked for the node's; ``store`` is the node's own."""

    def __init__(
        self, connection: GatewayConnection, store: Store, status: Callable[[], NodeStatus]
    ) -> None:
        self._connection = connection
        self._store = store
        self._status = status
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tickets: set[Ticket[Any]] = set()
        self._cursors: dict[int, AsyncGenerator[Pair, None]] = {}
        self._cursors_made = 0
        self._in_use: set[int] = set()
        """Cursors whose page is being read."""
        self._unwanted: set[int] = set()
        """Those of them that the client has given up."""
        connection.on_call = self.call
        connection.on_gone = self.close

    def call(self, number: int, operation: int, left_ms: int, arguments: list[Any]) -> None:
        """Make one call. Raises PeerProtocolError for one that is none; whatever else comes of it is an answer."""
        found = _OPERATIONS.get(operation)
        if found is None:
            raise PeerProtocolError(f"operation {operation} is not known here")
        method, kinds, shape = found
        if len(arguments) != len(kinds) or not all(
            isinstance(one, kind) and (kind is not int or type(one) is int)
            for one, kind in zip(arguments, kinds, strict=True)
        ):
            raise PeerProtocolError(f"arguments that operation {operation} does not take")
        try:
            answer = method(self, left_ms / 1000, *arguments)
        except PeerProtocolError:
            raise
        except MultiRaftError as error:
            self._refuse(number, error)
            return
        if isinstance(answer, Ticket):
            ticket = cast("Ticket[Any]", answer)
            if ticket.done():
                self._settled(number, shape, ticket)
            else:
                self._tickets.add(ticket)
                ticket.add_done_callback(functools.partial(self._settled, number, shape))
            return
        task = self._loop.create_task(self._wait(number, shape, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _settled(self, number: int, shape: Shape, ticket: Ticket[Any]) -> None:
        self._tickets.discard(ticket)
        if ticket.cancelled():
            self._refuse(number, LinkLost("the wait was given up; a write may have happened"))
            return
        error = ticket.exception()
        if error is not None:
            self._refuse(number, error)
        else:
            self._answer(number, shape(ticket.result()))

    async def _wait(self, number: int, shape: Shape, answer: Awaitable[Any]) -> None:
        try:
            value = await answer
        except PeerProtocolError as error:
            self._connection.leave(farewell_for(error), str(error), error)
        except MultiRaftError as error:
            self._refuse(number, error)
        except Exception as error:  # our own mistake: whoever waits must not wait for ever
            self._connection.end(error)
            raise
        else:
            self._answer(number, shape(value))

    def _answer(self, number: int, value: Any) -> None:
        try:
            self._connection.answer(number, value)
        except TooLarge as error:
            self._refuse(number, error)

    def _refuse(self, number: int, error: BaseException) -> None:
        if isinstance(error, Closed):  # the store says so before it takes anything
            error = NoLeader("this node closes; nothing happened")
        self._connection.refuse(number, encode_refusal(error))

    def close(self) -> None:
        """The client is gone: give up every wait. What has no place to go yet is let go with it."""
        for ticket in tuple(self._tickets):
            ticket.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        if self._cursors:
            cursors = tuple(
                pairs for cursor, pairs in self._cursors.items() if cursor not in self._in_use
            )
            self._cursors.clear()
            task = self._loop.create_task(_end_all(cursors))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- operations -------------------------------------------------------------------------------------------------------

    def _put(self, left_s: float, key: bytes, value: bytes, nowait: bool) -> Answer:
        return self._store.put(key, value, timeout=left_s, nowait=nowait)

    def _delete(self, left_s: float, key: bytes, nowait: bool) -> Answer:
        return self._store.delete(key, timeout=left_s, nowait=nowait)

    def _get(self, left_s: float, key: bytes, stale: bool) -> Answer:
        return self._store.get(key, timeout=left_s, stale=stale)

    def _get_entry(self, left_s: float, key: bytes, stale: bool) -> Answer:
        return self._store.get_entry(key, timeout=left_s, stale=stale)

    def _put_many(self, left_s: float, packed: bytes, nowait: bool) -> Answer:
        items = unpack_whole(packed)
        if len(items) % 2:
            raise PeerProtocolError("a key without a value")
        pairs = zip(items[::2], items[1::2], strict=True)
        return self._store.put_many(pairs, timeout=left_s, nowait=nowait)

    async def _get_many(self, left_s: float, packed: bytes, stale: bool) -> list[bytes | None]:
        """Some at a time, as many as may fit going by the largest so far: a small call may name more than memory holds."""
        keys = unpack_whole(packed)
        found: list[bytes | None] = []
        size = largest = 0
        deadline = self._loop.time() + left_s
        while len(found) < len(keys):
            room = (CALL_BYTES_MAX - size) // largest if largest else GET_MANY_FIRST
            some = keys[len(found) : len(found) + max(1, min(room, GET_MANY_AT_ONCE))]
            left_s = deadline - self._loop.time()
            values = await self._store.get_many(some, timeout=left_s, stale=stale)
            found += values
            sizes = [len(value) for value in values if value is not None]
            size += sum(sizes) + 4 * len(values)
            largest = max(largest, 4, *sizes)
            if size > CALL_BYTES_MAX:
                raise TooLarge(
                    f"the values of {len(found)} of {len(keys)} keys are over a frame already"
                )
        return found

    def _delete_range(self, left_s: float, start: bytes, end: bytes) -> Answer:
        return self._store.delete_range(start, end, timeout=left_s)

    def _batch(self, left_s: float, operations: bytes, conditions: bytes) -> Answer:
        return self._store.batch(
            unpack_operations(operations),
            conditions=unpack_conditions(conditions),
            timeout=left_s,
        )

    async def _give_status(self, left_s: float) -> bytes:
        return msgpack.packb(dataclasses.asdict(self._status()))

    # -- scans ------------------------------------------------------------------------------------------------------------

    def _scan(
        self, left_s: float, start: bytes, end: bytes, reverse: bool, limit: int, stale: bool
    ) -> Answer:
        if len(self._cursors) >= CURSORS_MAX:
            raise Overloaded(f"{CURSORS_MAX} scans of this client are open")
        self._cursors_made += 1
        self._cursors[self._cursors_made] = cast(
            "AsyncGenerator[Pair, None]",
            self._store.scan(
                start=start,
                end=end,
                reverse=reverse,
                limit=limit or None,
                stale=stale,
                timeout=left_s,
            ),
        )
        return self._page(left_s, self._cursors_made)

    def _scan_next(self, left_s: float, cursor: int) -> Answer:
        return self._page(left_s, cursor)

    async def _page(self, left_s: float, cursor: int) -> list[Any]:
        """The cursor, or 0 at the end of the scan, and the pairs that come next."""
        pairs = self._cursors.get(cursor)
        if pairs is None or cursor in self._in_use:
            raise PeerProtocolError(f"there is no cursor {cursor}, or it is in use")
        page: list[bytes] = []
        size, whole = 0, False
        self._in_use.add(cursor)
        try:
            async with asyncio.timeout(left_s):
                async for pair in pairs:
                    page += pair
                    size += len(pair[0]) + len(pair[1])
                    if len(page) >= 2 * PAGE_KEYS or size >= PAGE_BYTES:
                        whole = True
                        break
        except TimeoutError as error:
            raise DeadlineExceeded("the time was up before the page could be read") from error
        finally:
            self._in_use.discard(cursor)
            if not whole or cursor in self._unwanted:
                self._unwanted.discard(cursor)
                self._cursors.pop(cursor, None)
                await pairs.aclose()
        return [cursor if whole else 0, pack_many(page)]

    async def _scan_close(self, left_s: float, cursor: int) -> None:
        """Give a scan up; one whose page is being read ends with that page."""
        if cursor in self._in_use:
            self._unwanted.add(cursor)
        elif (pairs := self._cursors.pop(cursor, None)) is not None:
            await pairs.aclose()


async def _end_all(cursors: tuple[AsyncGenerator[Pair, None], ...]) -> None:
    for pairs in cursors:
        with contextlib.suppress(MultiRaftError):  # the node closes: the scan has nobody to tell
            await pairs.aclose()


async def open_gateway(
    config: Config, store: Store, hello: Callable[[], Hello], status: Callable[[], NodeStatus]
) -> Gateway:
    """The client port of a node, open. Raises ConfigError or OSError where it cannot be."""

    def opened(connection: GatewayConnection) -> None:
        Dispatch(connection, store, status)  # the connection holds it from now on

    gateway = Gateway(
        hello,
        opened,
        tls=config.tls,
        insecure=config.insecure,
        options=TransportOptions.of(config),
    )
    await gateway.listen(config.client_listen or "")
    return gateway


def _same(value: Any) -> Any:
    return value


def _entry(entry: Entry | None) -> list[Any] | None:
    return None if entry is None else [entry.value, entry.revision]


_OPERATIONS: dict[int, tuple[Callable[..., Answer], tuple[type, ...], Shape]] = {
    Call.PUT: (Dispatch._put, (bytes, bytes, bool), _same),
    Call.DELETE: (Dispatch._delete, (bytes, bool), _same),
    Call.GET: (Dispatch._get, (bytes, bool), _same),
    Call.GET_ENTRY: (Dispatch._get_entry, (bytes, bool), _entry),
    Call.PUT_MANY: (Dispatch._put_many, (bytes, bool), pack_revisions),
    Call.GET_MANY: (Dispatch._get_many, (bytes, bool), pack_many),
    Call.DELETE_RANGE: (Dispatch._delete_range, (bytes, bytes), _same),
    Call.BATCH: (Dispatch._batch, (bytes, bytes), _same),
    Call.SCAN: (Dispatch._scan, (bytes, bytes, bool, int, bool), _same),
    Call.SCAN_NEXT: (Dispatch._scan_next, (int,), _same),
    Call.SCAN_CLOSE: (Dispatch._scan_close, (int,), _same),
    Call.STATUS: (Dispatch._give_status, (), _same),
}
