"""The synchronous face: the same node and store for programs without an event loop.

    with multiraft.sync.open("data") as db:
        db.put(b"user:1", b"ada")
        for key, value in db.scan(prefix=b"user:"): ...

A node runs on a loop in a thread of its own (``worker.LoopThread``); a call hands its work over and waits. Names, arguments,
answers and errors are those of ``multiraft.Store`` and ``multiraft.Node`` - where those are awaited, these return - and a test
compares their signatures. Any number of threads may call at once: what waits together is written, and synced, together.

Crossing to the loop and back costs some tens of microseconds a call, besides what the call itself takes. One thread alone
therefore gets far fewer single writes a second than a program on the loop; ``put_many`` and ``get_many`` cross once for all
their keys, and a scan once for hundreds.

Ctrl-C in a call raises KeyboardInterrupt and gives up the wait, nothing else: a write goes its way, its outcome unknown. After
a fork the child must open what it needs itself, in a directory of its own. A program that ends without closing does not hang,
and what it had acknowledged is on the disk. Nothing here knows more of the store than the asynchronous face does.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from multiraft.config import Config
from multiraft.errors import Closed, InvariantViolation, MultiRaftError
from multiraft.interfaces import StateMachine
from multiraft.node import groups as asynchronous_groups
from multiraft.node import node as asynchronous
from multiraft.node import store as asynchronous_store
from multiraft.node.operations import Condition, Entry, Operation
from multiraft.node.status import NodeStatus
from multiraft.worker import LoopThread, loop_factory

T = TypeVar("T")
Pair = tuple[bytes, bytes]

CHUNK_KEYS = 512
CHUNK_BYTES = 1024 * 1024
"""A scan crosses to the loop once for so many keys or, where they are large, bytes: no more are held at a time."""


class Store:
    """All keys of a cluster, for threads; see ``multiraft.Store``. ``Node.store`` and ``open`` give it."""

    def __init__(self, store: asynchronous_store.Store, thread: LoopThread) -> None:
        self._store = store
        self._wait = thread.wait
        self._tell = thread.tell

    # -- writes -----------------------------------------------------------------------------------------------------------

    def put(
        self, key: bytes, value: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> int:
        """Write one key; the revision. Raises InvalidCommand or TooLarge at once."""
        return self._wait(lambda: self._store.put(key, value, timeout=timeout, nowait=nowait))

    def delete(self, key: bytes, *, timeout: float | None = None, nowait: bool = False) -> int:
        """Delete one key, whether it is there or not; the revision."""
        return self._wait(lambda: self._store.delete(key, timeout=timeout, nowait=nowait))

    def put_many(
        self, items: Iterable[Pair], *, timeout: float | None = None, nowait: bool = False
    ) -> list[int]:
        """Write many keys, one command a shard, atomic there only; the revisions in input order. May raise BatchError."""
        pairs = list(items)  # here, not on the loop: it may be anybody's generator
        return self._wait(lambda: self._store.put_many(pairs, timeout=timeout, nowait=nowait))

    def delete_range(self, start: bytes, end: bytes, *, timeout: float | None = None) -> int:
        """Delete every key from ``start`` up to, not including, ``end``, within one shard; the revision."""
        return self._wait(lambda: self._store.delete_range(start, end, timeout=timeout))

    def compare_and_set(
        self,
        key: bytes,
        value: bytes,
        *,
        expected: bytes | None = None,
        revision: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """Write the key if it has the ``expected`` value, or was last written at ``revision`` (0: is absent); the revision."""
        return self._wait(
            lambda: self._store.compare_and_set(
                key, value, expected=expected, revision=revision, timeout=timeout
            )
        )

    def batch(
        self,
        operations: Sequence[Operation],
        *,
        conditions: Sequence[Condition] = (),
        timeout: float | None = None,
    ) -> int:
        """Do all operations if all conditions hold, else none; the revision. All keys must lie in one shard."""
        steps, wanted = list(operations), list(conditions)
        return self._wait(lambda: self._store.batch(steps, conditions=wanted, timeout=timeout))

    # -- reads --------------------------------------------------------------------------------------------------------------

    def get(self, key: bytes, *, timeout: float | None = None, stale: bool = False) -> bytes | None:
        """The value, or None. Linearizable; with ``stale`` whatever this node has applied, at once."""
        return self._wait(lambda: self._store.get(key, timeout=timeout, stale=stale))

    def get_entry(
        self, key: bytes, *, timeout: float | None = None, stale: bool = False
    ) -> Entry | None:
        """The value with the revision that wrote it, or None."""
        return self._wait(lambda: self._store.get_entry(key, timeout=timeout, stale=stale))

    def get_many(
        self, keys: Iterable[bytes], *, timeout: float | None = None, stale: bool = False
    ) -> list[bytes | None]:
        """The values in input order. Each shard's part is linearizable by itself."""
        wanted = list(keys)
        return self._wait(lambda: self._store.get_many(wanted, timeout=timeout, stale=stale))

    def scan(
        self,
        *,
        prefix: bytes = b"",
        start: bytes | None = None,
        end: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        stale: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Pair]:
        """Keys and values in order, read as the iterator is advanced; it may be left at any moment, and is for one thread."""
        pairs = cast(
            "AsyncGenerator[Pair]",
            self._store.scan(
                prefix=prefix,
                start=start,
                end=end,
                reverse=reverse,
                limit=limit,
                stale=stale,
                timeout=timeout,
            ),
        )
        more = True
        try:
            while more:
                chunk, more, error = self._wait(lambda: _chunk(pairs))
                yield from chunk
                if error is not None:
                    raise error
        except (
            GeneratorExit
        ):  # left before its end, perhaps by the garbage collector, so nothing may wait here
            self._tell(pairs.aclose)
            raise


async def _chunk(
    pairs: AsyncGenerator[Pair],
) -> tuple[list[Pair], bool, MultiRaftError | None]:
    """The next keys and values, whether there may be more, and what is to be raised behind them."""
    chunk: list[Pair] = []
    size = 0
    try:
        async for pair in pairs:
            chunk.append(pair)
            size += len(pair[0]) + len(pair[1])
            if len(chunk) == CHUNK_KEYS or size >= CHUNK_BYTES:
                return chunk, True, None
    except MultiRaftError as error:
        return chunk, False, error
    return chunk, False, None


class Group:
    """A replicated machine, for threads; see ``multiraft.Group``. ``Node.create_group`` and ``Node.group`` give it."""

    def __init__(self, group: asynchronous_groups.Group, thread: LoopThread) -> None:
        self._group = group
        self._wait = thread.wait

    def __repr__(self) -> str:
        return f"<sync.{repr(self._group)[1:]}"

    @property
    def name(self) -> str:
        return self._group.name

    @property
    def kind(self) -> str:
        return self._group.kind

    @property
    def id(self) -> int:
        """The id of its Raft group, which is never used for another."""
        return self._group.id

    @property
    def leads(self) -> bool:
        """Does this node lead the group just now?"""
        return self._wait(lambda: _call(lambda: self._group.leads))

    @property
    def leader(self) -> int | None:
        """The node that leads, as far as this node knows."""
        return self._wait(lambda: _call(lambda: self._group.leader))

    def propose(self, command: bytes, *, timeout: float | None = None, nowait: bool = False) -> Any:
        """Have a command applied by every replica; what ``apply`` returned where it leads, as a plain value."""
        return self._wait(lambda: self._group.propose(command, timeout=timeout, nowait=nowait))

    def propose_many(
        self, commands: Sequence[bytes], *, timeout: float | None = None, nowait: bool = False
    ) -> list[Any]:
        """Have commands applied in this order, one entry each; their results in order. May raise BatchError."""
        all_of_them = list(commands)
        return self._wait(
            lambda: self._group.propose_many(all_of_them, timeout=timeout, nowait=nowait)
        )

    def read(self, query: Any = None, *, timeout: float | None = None, stale: bool = False) -> Any:
        """What this node's machine answers to a query: not older than the call, or with ``stale`` whatever it has applied."""
        return self._wait(lambda: self._group.read(query, timeout=timeout, stale=stale))


class Node:
    """One node of a cluster, or a cluster of its own, in a thread; see ``multiraft.Node``.

    ``with Node(config) as node:`` starts and closes it. ``machines`` are the kinds of users' own state machines; they run on
    threads of their own, and must not call this face. ``loop`` is ``uvloop``, ``asyncio``, or ``auto``: uvloop where it is
    installed.
    """

    store: Store

    def __init__(
        self,
        config: Config,
        *,
        machines: Mapping[str, Callable[..., StateMachine]] | None = None,
        loop: str = "auto",
    ) -> None:
        self.config = config
        self._node = asynchronous.Node(config, machines=machines)
        self._make_loop = loop_factory(loop)
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Open the directory, bring every replica back, listen. Raises what keeps it from that, with nothing left open."""
        if self._thread is not None:
            raise InvariantViolation("a node is started once; make another one")
        self._thread = thread = LoopThread(f"loop-{self.config.node_id}", self._make_loop())
        try:
            thread.wait(self._node.start)
        except BaseException:
            thread.close()
            raise
        self.store = Store(self._node.store, thread)

    def ready(self, timeout: float | None = None) -> None:
        """Wait until this node knows every shard and a leader for each. Raises TimeoutError, or what ended the node."""
        self._running().wait(lambda: self._node.ready(timeout))

    def closed(self) -> None:
        """Wait until the node has ended. Raises what ended it, if it was not ``close``."""
        self._running().wait(self._node.closed)

    def register(self, kind: str, machine: Callable[..., StateMachine]) -> None:
        """Name a kind of machine after the node was made. Groups of it that waited here begin to apply."""
        if self._thread is None:
            self._node.register(kind, machine)
        else:
            self._thread.wait(lambda: _call(lambda: self._node.register(kind, machine)))

    def create_group(
        self,
        name: str,
        machine: str | Callable[..., StateMachine],
        *,
        timeout: float | None = None,
    ) -> Group:
        """The group of that name, made with a replica on every node if there is none yet; called by any number of nodes."""
        thread = self._running()
        made = thread.wait(lambda: self._node.create_group(name, machine, timeout=timeout))
        return Group(made, thread)

    def group(self, name: str) -> Group:
        """The handle of a group that this node knows already. Raises GroupUnknown."""
        thread = self._running()
        return Group(thread.wait(lambda: _call(lambda: self._node.group(name))), thread)

    def status(self) -> NodeStatus:
        """Counters, groups and queues at this moment."""
        return self._running().wait(lambda: _call(self._node.status))

    def close(self) -> None:
        """Hand leaderships over, answer everybody, write what is in memory, end. Idempotent; nothing in a forked process."""
        thread = self._thread
        if thread is not None and not thread.forked:
            if not thread.over:
                thread.wait(self._node.aclose)
            thread.close()

    def _running(self) -> LoopThread:
        if self._thread is None:
            raise Closed("this node was not started")
        return self._thread


async def _call(function: Callable[[], T]) -> T:
    return function()


@contextmanager
def open(data_dir: str | Path, *, loop: str = "auto", **settings: Any) -> Generator[Store]:
    """One embedded node, durable, with its keys in order; ``settings`` are fields of ``Config``, ``loop`` as for ``Node``.

    The store is open inside the ``with`` block and closed, with everything on the disk, after it.
    """
    with Node(Config(data_dir=str(data_dir), **settings), loop=loop) as node:
        yield node.store
