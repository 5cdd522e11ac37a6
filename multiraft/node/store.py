# On the path of a put.
"""The key-value store as a program sees it: one object for all shards, wherever their leaders are.

Every call routes its key, makes one command or one read, and answers with a ticket: ``await`` it. Writes answer with the
revision of what they wrote. A call has ``timeout`` seconds (the node's default where none is given); within them the node
retries whatever did not happen - and waits, while this node does not know the shards yet. What may have happened is never
retried: see ``multiraft.errors``.

Keys are 1 to 480 bytes, values up to ``Config.value_bytes_max``. Nothing is atomic across shards: ``put_many`` makes one
command a shard, a ``batch`` over two shards is refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from multiraft._ticket import Ticket, Waker
from multiraft.config import Config
from multiraft.errors import (
    BatchError,
    Closed,
    DeadlineExceeded,
    InvalidCommand,
    MultiRaftError,
    NoLeader,
    Overloaded,
)
from multiraft.machine import commands
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.shards import Cold
from multiraft.node.batches import kept, places_of, step_of, wish_of
from multiraft.node.early import Early, Make
from multiraft.node.operations import Condition, Entry, Operation, Put, RevisionIs, ValueIs
from multiraft.node.reads import Reads
from multiraft.node.routing import Routing
from multiraft.node.scanning import Pages, scan_keys
from multiraft.node.waiters import Waiters
from multiraft.node.writes import Writes
from multiraft.raft import MultiRaft

Pair = tuple[bytes, bytes]

GET_MANY_AT_ONCE = 1024
COLD_MAX = 100_000
"""Reads that may wait for the reader thread; while the disk hangs, further ones are refused."""


class Store:
    """All keys of a cluster. Made by a node; ``node.store`` and ``multiraft.open`` give it."""

    def __init__(
        self,
        *,
        config: Config,
        multi: MultiRaft,
        machine: KeyValueStore,
        waiters: Waiters,
        reads: Reads,
        waker: Waker,
        routing: Routing,
    ) -> None:
        self._multi = multi
        self._machine = machine
        self._waiters = waiters
        self._reads = reads
        self._waker = waker
        self._routing = routing
        self._value_bytes_max = config.value_bytes_max
        self._writes = Writes(
            waiters,
            space=routing.space,
            value_bytes_max=config.value_bytes_max,
            timeout_s=config.timeout_s,
        )
        self._cold = 0
        """Reads that the reader thread has, those included that nobody waits for any more."""
        self.early = Early(waker, lambda: waiters.now_ns, reads.kick)
        """Calls that wait for the shards. The node's: it says when they are known, and what time it is."""
        routing.on_change = self._writes.route
        waiters.user_key = routing.user_key

    # -- before the shards are known ----------------------------------------------------------------------------------------

    def _hold(
        self, error: NoLeader, make: Make, timeout: float | None, nowait: bool = False
    ) -> Ticket[Any]:
        """Make a call once the shards are known; ``error`` is why it could not be made now."""
        if nowait or self._routing.known:
            raise error
        return self.early.hold(make, self._writes.deadline(timeout))

    def _shards_known(self, timeout: float | None, nowait: bool = False) -> Ticket[float]:
        """Wait until the shards are known; the seconds that are left then."""
        error = NoLeader("this node does not know the shards yet")
        return self._hold(error, self._waker.answered, timeout, nowait)

    # -- writes -----------------------------------------------------------------------------------------------------------

    def put(
        self, key: bytes, value: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]:
        """Write one key; the revision. Raises InvalidCommand or TooLarge at once."""
        try:
            return self._writes.put(key, value, timeout, nowait)
        except NoLeader as error:
            value = self._writes.checked(key, value)
            return self._hold(
                error, lambda left: self._writes.put(key, value, left), timeout, nowait
            )

    def delete(
        self, key: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]:
        """Delete one key, whether it is there or not; the revision."""
        try:
            return self._writes.delete(key, timeout, nowait)
        except NoLeader as error:
            return self._hold(error, lambda left: self._writes.delete(key, left), timeout, nowait)

    async def put_many(
        self, items: Iterable[Pair], *, timeout: float | None = None, nowait: bool = False
    ) -> list[int]:
        """Write many keys, one command a shard, atomic there only; the revisions in input order.

        Raises BatchError, which says for each key what happened, where any shard's command did not succeed.
        """
        if not self._routing.known and not self._writes.closed:
            items = [(key, self._writes.checked(key, value)) for key, value in items]
            timeout = await self._shards_known_for(items, timeout, nowait)
        tickets, places = self._writes.put_many(items, timeout, nowait)
        outcomes: list[int | MultiRaftError] = []
        failed: list[MultiRaftError] = []
        for ticket in tickets:
            try:
                outcomes.append(await ticket)
            except MultiRaftError as error:
                outcomes.append(error)
                failed.append(error)
        answers = [outcomes[place] for place in places]
        if failed:
            raise BatchError(
                f"{len(failed)} of {len(outcomes)} shards did not take their part: {failed[0]}",
                outcomes=answers,
            ) from failed[0]
        return answers  # type: ignore[return-value]

    async def _shards_known_for(
        self, items: Sequence[Pair], timeout: float | None, nowait: bool
    ) -> float | None:
        """Wait with a ``put_many``; the seconds that are left. Raises BatchError where its time is up."""
        if not items:
            return timeout
        try:
            return await self._shards_known(timeout, nowait)
        except DeadlineExceeded as error:
            raise BatchError(str(error), outcomes=[error] * len(items)) from error

    def delete_range(
        self, start: bytes, end: bytes, *, timeout: float | None = None
    ) -> Ticket[int]:
        """Delete every key from ``start`` up to, not including, ``end``, within one shard; the revision.

        Raises InvalidCommand in a hash space, where keys are in no order, and for a range over two shards.
        """
        physical_start, physical_end = self._routing.physical_range(start, end)
        try:
            group, epoch = self._routing.find_range(physical_start, physical_end)
        except NoLeader as error:
            return self._hold(
                error, lambda left: self.delete_range(start, end, timeout=left), timeout
            )
        command = commands.encode_delete_range(
            self._routing.space, epoch, physical_start, physical_end
        )
        return self._waiters.submit(group, command, self._writes.deadline(timeout))

    def compare_and_set(
        self,
        key: bytes,
        value: bytes,
        *,
        expected: bytes | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> Ticket[int]:
        """Write the key if it has the ``expected`` value, or was last written at ``revision`` (0: is absent); the revision.

        Raises PreconditionFailed, with the revision that is there, where it does not. Give one of the two.
        """
        if (expected is None) == (revision is None):
            raise InvalidCommand("compare_and_set takes either expected= or revision=")
        condition: Condition = (
            RevisionIs(key, revision) if revision is not None else ValueIs(key, expected or b"")
        )
        return self.batch([Put(key, value)], conditions=[condition], timeout=timeout)

    def batch(
        self,
        operations: Sequence[Operation],
        *,
        conditions: Sequence[Condition] = (),
        timeout: float | None = None,
    ) -> Ticket[int]:
        """Do all operations if all conditions hold, else none; the revision. All keys must lie in one shard.

        Raises InvalidCommand for keys of two shards, PreconditionFailed where a condition does not hold.
        """
        steps = [step_of(self._routing, one) for one in operations]
        wishes = [wish_of(self._routing, one) for one in conditions]
        try:
            group, epoch = places_of(self._routing, steps, wishes)
        except NoLeader as error:
            doing, wanted = kept(self._writes, operations, conditions)
            return self._hold(
                error, lambda left: self.batch(doing, conditions=wanted, timeout=left), timeout
            )
        command = commands.encode_batch(
            self._routing.space, epoch, steps, wishes, self._value_bytes_max
        )
        return self._waiters.submit(group, command, self._writes.deadline(timeout))

    # -- reads --------------------------------------------------------------------------------------------------------------

    def get(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> Ticket[bytes | None]:
        """The value, or None. Linearizable; with ``stale`` whatever this node has applied, at once."""
        physical = self._routing.physical(key)
        try:
            group, _epoch = self._routing.find(physical)
        except NoLeader as error:
            return self._hold(error, lambda left: self.get(key, timeout=left, stale=stale), timeout)
        if (stale or self._multi.reads_at_once(group)) and not self._writes.closed:
            found = self._machine.get(group, physical)
            if not isinstance(found, Cold):
                return self._waker.answered(None if found is None else found[1])
        return self._read(group, physical, _value_of, timeout, stale)

    def get_entry(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> Ticket[Entry | None]:
        """The value with the revision that wrote it, or None."""
        physical = self._routing.physical(key)
        try:
            group, _epoch = self._routing.find(physical)
        except NoLeader as error:
            return self._hold(
                error, lambda left: self.get_entry(key, timeout=left, stale=stale), timeout
            )
        return self._read(group, physical, _entry_of, timeout, stale)

    def _read(
        self,
        group: int,
        physical: bytes,
        shape: Callable[[Any], Any],
        timeout: float | None,
        stale: bool,
    ) -> Ticket[Any]:
        def run(ticket: Ticket[Any]) -> None:
            found = self._machine.get(group, physical)
            if isinstance(found, Cold):
                self._machine.read_cold(
                    group, [physical], self._late(ticket, lambda answers: shape(answers[0]))
                )
            else:
                self._waker.settle(ticket, shape(found))

        return self._confirmed(group, run, timeout, stale)

    def _confirmed(
        self, group: int, run: Callable[[Ticket[Any]], None], timeout: float | None, stale: bool
    ) -> Ticket[Any]:
        """Run a read of a group when it may: at once, or after a round of the quorum."""
        deadline_ns = self._writes.deadline(timeout)
        if not stale and not self._multi.reads_at_once(group):
            return self._reads.submit(group, run, deadline_ns)
        return self._reads.run(run, deadline_ns)

    def _late(
        self, ticket: Ticket[Any], shape: Callable[[Any], Any]
    ) -> Callable[[Any, BaseException | None], None]:
        """What a read on another thread calls when it is done; nobody may wait any more by then. Raises Overloaded."""
        if self._cold >= COLD_MAX:
            raise Overloaded(f"{COLD_MAX} reads wait for the disk")
        self._cold += 1

        def done(answer: Any, error: BaseException | None) -> None:
            self._cold -= 1
            if ticket.done():
                return
            if error is not None:
                self._waker.fail(ticket, error)
            else:
                self._waker.settle(ticket, shape(answer))
            self._reads.kick()

        return done

    async def get_many(
        self, keys: Iterable[bytes], *, timeout: float | None = None, stale: bool = False
    ) -> list[bytes | None]:
        """The values in input order. Each shard's part is linearizable by itself."""
        found: list[bytes | None] = []
        left = iter(keys)
        while some := list(itertools.islice(left, GET_MANY_AT_ONCE)):
            if found:
                await asyncio.sleep(0)  # however many are asked for, the loop comes round
            tickets: list[Ticket[bytes | None]] = []
            try:
                tickets += (self.get(key, timeout=timeout, stale=stale) for key in some)
                found += [await ticket for ticket in tickets]
            except (
                BaseException
            ):  # whoever gives up, or learns of one that failed, waits for none of them
                for ticket in tickets:
                    ticket.cancel()
                raise
        return found

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

        Read in pages, so that any number of keys takes a bounded amount of memory. Each page is linearizable by itself; the
        whole is no snapshot. ``timeout`` is for each page, and for the wait while this node does not know the shards. In a hash
        space every slot is asked, however few keys are wanted.
        """
        if prefix and (start is not None or end is not None):
            raise InvalidCommand("scan takes a prefix, or a start and an end")
        if not all(type(one) is bytes for one in (prefix, start or b"", end or b"")):
            raise InvalidCommand("a prefix, a start and an end of a scan are bytes")
        low, high = (prefix, after_prefix(prefix)) if prefix else (start or b"", end or b"")
        if high and low >= high:
            return
        left = limit
        if left is not None and left <= 0:
            return
        if not self._routing.known:
            await self._shards_known(timeout)
        pages = Pages(
            self._machine,
            self._waker,
            lambda group, run: self._confirmed(group, run, timeout, stale),
            self._late,
        )
        async for pair in scan_keys(self._routing, pages, low, high, reverse=reverse, limit=limit):
            yield pair
            if left is not None:
                left -= 1
                if left == 0:
                    return

    def close(self) -> None:
        """Refuse every call from here on, and those that wait for the shards; the node does this."""
        self._writes.close()
        self.early.close(Closed("the node was closed before it knew the shards; nothing happened"))


def _value_of(found: tuple[int, bytes] | None) -> bytes | None:
    return None if found is None else found[1]


def _entry_of(found: tuple[int, bytes] | None) -> Entry | None:
    return None if found is None else Entry(value=found[1], revision=found[0])


def after_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``; b"" where there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b""
