# On the path of a put.
"""The key-value store as a program sees it: one object for all shards, wherever their leaders are.

Every call routes its key, makes one command or one read, and answers with a ticket: ``await`` it. Writes answer with the
revision of what they wrote. A call has ``timeout`` seconds (the node's default where none is given); within them the node
retries whatever did not happen. What may have happened is never retried: see ``multiraft.errors``.

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
from multiraft.errors import BatchError, InvalidCommand, MultiRaftError
from multiraft.machine import commands
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.shards import Cold
from multiraft.node.operations import (
    Absent,
    Condition,
    Delete,
    DeleteRange,
    Entry,
    Operation,
    Present,
    Put,
    RevisionIs,
    ValueIs,
)
from multiraft.node.reads import Reads
from multiraft.node.routing import Routing
from multiraft.node.scanning import Pages, scan_keys
from multiraft.node.waiters import Waiters
from multiraft.node.writes import Writes
from multiraft.raft import MultiRaft

Pair = tuple[bytes, bytes]

GET_MANY_AT_ONCE = 1024


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
        routing.on_change = self._writes.route
        waiters.user_key = routing.user_key

    # -- writes -----------------------------------------------------------------------------------------------------------

    def put(
        self, key: bytes, value: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]:
        """Write one key; the revision. Raises InvalidCommand or TooLarge at once."""
        return self._writes.put(key, value, timeout, nowait)

    def delete(
        self, key: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[int]:
        """Delete one key, whether it is there or not; the revision."""
        return self._writes.delete(key, timeout, nowait)

    async def put_many(
        self, items: Iterable[Pair], *, timeout: float | None = None, nowait: bool = False
    ) -> list[int]:
        """Write many keys, one command a shard, atomic there only; the revisions in input order.

        Raises BatchError, which says for each key what happened, where any shard's command did not succeed.
        """
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

    def delete_range(
        self, start: bytes, end: bytes, *, timeout: float | None = None
    ) -> Ticket[int]:
        """Delete every key from ``start`` up to, not including, ``end``, within one shard; the revision.

        Raises InvalidCommand in a hash space, where keys are in no order, and for a range over two shards.
        """
        physical_start, physical_end = self._routing.physical_range(start, end)
        group, epoch = self._routing.find_range(physical_start, physical_end)
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
        steps = [self._operation(one) for one in operations]
        wanted = [self._condition(one) for one in conditions]
        ends = [
            key
            for step in steps
            for key in step[1:]
            if step[0] == OperationKind.OPERATION_DELETE_RANGE
        ]
        keys = [step[1] for step in steps] + [one[1] for one in wanted]
        if not keys:
            raise InvalidCommand("an empty batch")
        places = {self._routing.find(key) for key in keys}
        if ends:
            places.add(self._routing.find_range(min(ends), max(ends)))
        if len(places) > 1:
            raise InvalidCommand(
                "the keys of a batch lie in two shards; a batch is atomic within one only"
            )
        group, epoch = places.pop()
        command = commands.encode_batch(
            self._routing.space, epoch, steps, wanted, self._value_bytes_max
        )
        return self._waiters.submit(group, command, self._writes.deadline(timeout))

    def _operation(self, operation: Operation) -> tuple[Any, ...]:
        physical = self._routing.physical
        if isinstance(operation, Put):
            return OperationKind.OPERATION_PUT, physical(operation.key), operation.value
        if isinstance(operation, Delete):
            return OperationKind.OPERATION_DELETE, physical(operation.key)
        if isinstance(operation, DeleteRange):
            return OperationKind.OPERATION_DELETE_RANGE, *self._routing.physical_range(
                operation.start, operation.end
            )
        raise InvalidCommand(f"not an operation: {operation!r}")

    def _condition(self, condition: Condition) -> tuple[Any, ...]:
        physical = self._routing.physical
        if isinstance(condition, ValueIs):
            return ConditionKind.CONDITION_VALUE, physical(condition.key), condition.value
        if isinstance(condition, RevisionIs):
            if condition.revision == 0:
                return ConditionKind.CONDITION_ABSENT, physical(condition.key)
            return ConditionKind.CONDITION_REVISION, physical(condition.key), condition.revision
        if isinstance(condition, Absent):
            return ConditionKind.CONDITION_ABSENT, physical(condition.key)
        if isinstance(condition, Present):
            return ConditionKind.CONDITION_PRESENT, physical(condition.key)
        raise InvalidCommand(f"not a condition: {condition!r}")

    # -- reads --------------------------------------------------------------------------------------------------------------

    def get(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> Ticket[bytes | None]:
        """The value, or None. Linearizable; with ``stale`` whatever this node has applied, at once."""
        physical = self._routing.physical(key)
        group, _epoch = self._routing.find(physical)
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
        group, _epoch = self._routing.find(physical)
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
        ticket: Ticket[Any] = self._waker.ticket()
        run(ticket)
        return ticket

    def _late(
        self, ticket: Ticket[Any], shape: Callable[[Any], Any]
    ) -> Callable[[Any, BaseException | None], None]:
        """What a read on another thread calls when it is done."""

        def done(answer: Any, error: BaseException | None) -> None:
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
            tickets = [self.get(key, timeout=timeout, stale=stale) for key in some]
            found += [await ticket for ticket in tickets]
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
        whole is no snapshot. ``timeout`` is for each page. In a hash space every slot is asked, however few keys are wanted.
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
        self._routing.require_known()
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
        """Refuse every call from here on; the node does this."""
        self._writes.close()


def _value_of(found: tuple[int, bytes] | None) -> bytes | None:
    return None if found is None else found[1]


def _entry_of(found: tuple[int, bytes] | None) -> Entry | None:
    return None if found is None else Entry(value=found[1], revision=found[0])


def after_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``; b"" where there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b""
