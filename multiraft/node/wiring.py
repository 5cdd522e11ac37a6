"""What a node is made of: opened in order, joined, and closed in the order in which the parts depend on each other.

``Parts`` holds the stores, the replicas, the links and everything between them, as attributes that bear the names of their
modules. It knows who calls whom, and nothing of when: starting, ticking and ending are the node's (``node.py``), which extends it
and answers what the parts tell.

Invariant: whatever ``open_parts`` opened before it failed, ``close_links``, ``close_workers`` and ``close_state`` close.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from multiraft._core import FORMAT_VERSION
from multiraft._ticket import Waker
from multiraft.config import Config
from multiraft.errors import MultiRaftError, StorageError
from multiraft.ids import ClusterId, GroupId, message_ids
from multiraft.interfaces import Hello, Jobs, StateMachine, Transport, TransportEvents, World
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.options import StoreOptions
from multiraft.machine.states import State, States
from multiraft.node.admission import Admission
from multiraft.node.changes import Changes
from multiraft.node.forwarding import Forwarding
from multiraft.node.keeper import Keeper
from multiraft.node.leadership import CLEAN_UP_S, end_tasks
from multiraft.node.meta import ShardMap
from multiraft.node.peers import Peers
from multiraft.node.placing import Placing
from multiraft.node.reads import Reads
from multiraft.node.routing import Routing
from multiraft.node.snapshots import Snapshots, sweep
from multiraft.node.store import Store
from multiraft.node.turn import Turn, TurnEvents
from multiraft.node.users import Users
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft, Options
from multiraft.transport.gateway import Gateway

logger = logging.getLogger("multiraft.node")


class Parts(TurnEvents, TransportEvents):
    """The parts of one node, and what joins them. Made by ``Node`` only, which answers what they tell."""

    log: LmdbLogStore
    machine: KeyValueStore
    multi: MultiRaft
    peers: Peers
    transport: Transport
    waker: Waker
    routing: Routing
    turn: Turn
    forwarding: Forwarding
    waiters: Waiters
    reads: Reads
    keeper: Keeper
    admission: Admission
    users: Users
    transfers: Snapshots
    placing: Placing
    store: Store
    world: World
    changes: Changes
    """Woken by every change of a role, of the shard map, and by the end."""

    def __init__(self, config: Config, kinds: Mapping[str, Callable[..., StateMachine]]) -> None:
        self.config = config
        self.gateway: Gateway | None = None
        self._kinds = dict(kinds)
        self._loop: asyncio.AbstractEventLoop
        self._workers: list[Jobs] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what the node answers, besides events of the turn and of the transport -----------------------------------------------

    @abstractmethod
    def _unblock(self, group: int) -> None:
        """A flush of the group is done."""

    @abstractmethod
    def _learned(self, shard_map: ShardMap) -> None:
        """The shard map is known, or has changed."""

    # -- opening ----------------------------------------------------------------------------------------------------------------

    async def _open_parts(self) -> None:
        """Open the directory and make every part. Raises StorageError and its kin for a directory that cannot be used."""
        try:
            await self._open_all()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise StorageError(f"the disk of {self.config.data_dir} failed: {error}") from error

    async def _open_all(self) -> None:
        config = self.config
        directory = Path(config.data_dir)
        self.clock = self.world.clock
        await self.world.aside(partial(self._make_directories, directory))
        self.log = await self._open_log(directory)
        pending = {one.pending.name for one in self.log.groups() if one.pending is not None}
        await self.world.aside(partial(self._sweep, directory, pending))
        self.machine = await self._open_machine(directory)
        states = States(directory / "machines", self.world.disk)
        found = await self.world.aside(states.found)
        seed = config.seed if config.seed is not None else self.world.seed()
        self.multi = MultiRaft(
            self._raft_options(),
            store_id=self.log.store_id,
            sequence=self.log.synced_sequence,
            boot_count=self.log.boot_count,
            seed=seed,
        )
        self._files = self._worker("files")
        self.peers = Peers(config, self.log.pinned(), self.multi.record_pinned)
        self.transport = self.world.transport(
            config, self, seed=seed, jobs=self._files, directory=str(directory / "incoming")
        )
        self._wire(states, found)

    def _make_directories(self, directory: Path) -> None:
        for one in (directory, directory / "snapshots", directory / "incoming"):
            self.world.disk.make_directory(one)

    def _sweep(self, directory: Path, pending: set[str]) -> None:
        """Remove files that an earlier life left: its snapshots, but for those that are installed next, and what it received."""
        sweep(directory / "snapshots", pending, self.world.disk)
        sweep(directory / "incoming", (), self.world.disk)

    async def _open_log(self, directory: Path) -> LmdbLogStore:
        settings = LogSettings(
            durability=self.config.durability,
            budget_bytes=self.config.log_budget_bytes,
            reserve_bytes=self.config.reserve_bytes,
        )
        writer, reader = self._worker("log"), self._worker("log-reader")
        return await self.world.aside(
            lambda: LmdbLogStore(
                directory / "log",
                writer=writer,
                reader=reader,
                settings=settings,
                disk=self.world.disk,
                identity=self.world.identity,
                wall_ms=self.clock.wall_ms,
            ),
            LmdbLogStore.close,
        )

    async def _open_machine(self, directory: Path) -> KeyValueStore:
        options = StoreOptions.of(self.config, store_id=self.log.store_id, seed=self.world.seed())
        flusher, reader, files = (
            self._worker("state"),
            self._worker("state-reader", self.config.timeout_s),
            self._worker("snapshots"),
        )
        return await self.world.aside(
            lambda: KeyValueStore.open(
                directory / "state", options, flusher, reader, files, disk=self.world.disk
            ),
            KeyValueStore.close,
        )

    def _worker(self, name: str, patience_s: float | None = None) -> Jobs:
        worker = self.world.worker(f"{name}-{self.config.node_id}", patience_s)
        self._workers.append(worker)
        return worker

    def _raft_options(self) -> Options:
        config = self.config
        return Options(
            election_ticks=config.election_ticks,
            heartbeat_ticks=config.heartbeat_ticks,
            inflight_messages_max=config.group_inflight_messages_max,
            message_bytes_max=config.append_bytes_max,
            committed_bytes_max=config.committed_bytes_max,
            uncommitted_bytes_max=config.inflight_bytes_max,
        )

    def _wire(self, states: States, found: dict[int, State]) -> None:
        """Make the parts that know each other, and tell the stores whom to call."""
        config = self.config
        self.waker = Waker(self._loop)
        contexts = message_ids(self.log.boot_count)
        self.routing = Routing()
        self.turn = Turn(
            clock=self.clock,
            multi=self.multi,
            log=self.log,
            store=self.machine,
            transport=self.transport,
            waker=self.waker,
            events=self,
            schedule=self._loop.call_soon,
        )
        self.forwarding = Forwarding(
            self.multi, timeout_ns=round(config.timeout_s * 1e9), contexts=contexts
        )
        self.waiters = Waiters(
            self.multi,
            self.waker,
            homeless=self.forwarding.homeless,
            answered=self.forwarding.answer,
            kick=self.turn.kick,
        )
        retry_ns = config.election_ms * 1_000_000
        self.reads = Reads(
            self.multi, self.waker, self.turn.kick, retry_ns=retry_ns, contexts=contexts
        )
        self.turn.waiters, self.turn.reads = self.waiters, self.reads
        self.forwarding.waiters, self.forwarding.kick = self.waiters, self.turn.kick
        self.forwarding.linked, self.forwarding.room = self.peers.linked, self.transport.room
        self._wire_keeping(states, found)
        self.store = Store(
            config=config,
            multi=self.multi,
            machine=self.machine,
            waiters=self.waiters,
            reads=self.reads,
            waker=self.waker,
            routing=self.routing,
        )
        self.log.on_synced = self.turn.on_synced
        self.log.on_failed = self.failed
        self.machine.on_failed = self.failed

    def _wire_keeping(self, states: States, found: dict[int, State]) -> None:
        """Make what flushes and compacts, moves snapshots, and knows which replicas live here."""
        config = self.config
        self.keeper = Keeper(
            multi=self.multi,
            log=self.log,
            store=self.machine,
            kick=self.turn.kick,
            later=self._loop.call_soon,
            unblock=self._unblock,
            failed=self.failed,
            log_budget_bytes=config.log_budget_bytes,
            log_kept_entries=config.log_kept_entries,
            tail_bytes_max=config.tail_bytes_max,
        )
        self.admission = self._make_admission()
        self.users = self._make_users(states, found)
        self.transfers = Snapshots(
            directory=Path(config.data_dir) / "snapshots",
            multi=self.multi,
            host_of=self.users.host_of(self.machine),
            waiters=self.waiters,
            transport=self.transport,
            jobs=self._files,
            disk=self.world.disk,
            transfers=message_ids(self.log.boot_count),
            after_sync=self.keeper.after_sync,
            spawn=self._spawn,
            kick=self.turn.kick,
            failed=self.failed,
        )
        self.placing = Placing(
            config,
            self.multi,
            self.log,
            self.machine,
            self.routing,
            self._learned,
            self.keeper.after_sync,
            self.transfers.resume,
            self.users.machines,
            self.world.identity,
        )
        self.users.join(self.placing)

    def _make_admission(self) -> Admission:
        return Admission(
            node=self.config.node_id,
            multi=self.multi,
            log=self.log,
            machine=self.machine,
            peers=self.peers,
            waiters=self.waiters,
            reads=self.reads,
            kick=self.turn.kick,
            others=[node for node in self.config.voters if node != self.config.node_id],
            boot_count=self.log.boot_count,
            election_ticks=self.config.election_ticks,
        )

    def _make_users(self, states: States, found: dict[int, State]) -> Users:
        return Users(
            config=self.config,
            kinds=self._kinds,
            states=states,
            found=found,
            multi=self.multi,
            keeper=self.keeper,
            forwarding=self.forwarding,
            waiters=self.waiters,
            reads=self.reads,
            waker=self.waker,
            files=self._files,
            worker=self._worker,
            schedule=self._loop.call_soon,
            spawn=self._spawn,
            kick=self.turn.kick,
            admission=self.admission,
            now_ns=self.turn.now,
            clock=self.clock,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the node; what it raises ends the node."""
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failed(error)

        task.add_done_callback(ended)
        return task

    def _propose_map(self, group: GroupId, command: bytes) -> None:
        deadline_ns = self.turn.now() + round(self.config.timeout_s * 1e9)
        ticket = self.waiters.submit(group, command, deadline_ns)
        ticket.add_done_callback(lambda _: self.placing.refresh())

    def hello(self) -> Hello:
        """What this node says of itself on every link."""
        return Hello(
            cluster_id=ClusterId(self.peers.cluster_id),
            node=self.config.node_id,
            store_id=self.log.store_id,
            boot_count=self.log.boot_count,
            sequence=self.log.synced_sequence,
            format_min=FORMAT_VERSION,
            format_max=FORMAT_VERSION,
            bootstrapped=self.placing.bootstrapped,
            config_digest=self.config.digest(),
        )

    # -- closing ----------------------------------------------------------------------------------------------------------------

    def _answer_all(self, reason: MultiRaftError) -> None:
        self.waiters.close(reason)
        self.forwarding.close(reason)
        self.reads.close(reason)
        self.users.stop(reason)
        self.waker.drain()

    async def _close_links(self) -> None:
        try:
            if self.gateway is not None:
                await self.gateway.close()
            for task in await end_tasks(self._tasks, CLEAN_UP_S):
                logger.error("node %d ends without %r", self.config.node_id, task.get_coro())
        finally:
            if hasattr(self, "transport"):
                await self.transport.close()

    async def _close_workers(self) -> None:
        if hasattr(self, "machine"):
            self.machine.stop()
        try:
            if hasattr(self, "log"):
                await self.world.aside(self.log.close)
        finally:  # a flush or a read that is under way needs the state's environment
            for worker in self._workers:
                await self.world.aside(worker.close)

    async def _close_state(self) -> None:
        try:
            if hasattr(self, "machine"):
                self.machine.close()
        finally:
            if hasattr(self, "users"):
                await self.world.aside(self.users.machines.close)
