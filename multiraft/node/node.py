"""A node: the asynchronous shell around the turn. It opens and closes what the turn works with, and feeds it.

Everything that waits for the world is here - the disk at start, links, ticks, closing - and nothing else is: what to do with
a frame, a sync or a tick is the turn's. All state belongs to the loop that the node was started on; the log, the flushes, cold
reads and snapshots have a thread each (``worker``), which never touch it.

A node that meets a storage error, or finds that it is wrong, ends: it stops answering at once, every caller gets an error,
and ``closed`` raises what happened. It never goes on with half of itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from multiraft._core import FORMAT_VERSION, CommittedRuns, MessageKind
from multiraft._ticket import Ticket, Waker
from multiraft.config import Config
from multiraft.errors import (
    Closed,
    ConfigError,
    InvariantViolation,
    MultiRaftError,
    PeerProtocolError,
)
from multiraft.histogram import Histogram
from multiraft.ids import ClusterId, GroupId, NodeId, message_ids
from multiraft.interfaces import FileMeta, Hello, StateMachine
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.options import StoreOptions
from multiraft.machine.states import State, States
from multiraft.node.admission import Admission
from multiraft.node.dispatch import open_gateway
from multiraft.node.forwarding import Forwarding
from multiraft.node.groups import Group
from multiraft.node.keeper import Keeper
from multiraft.node.leadership import CLEAN_UP_S, end_tasks
from multiraft.node.meta import ShardMap
from multiraft.node.peers import Peers
from multiraft.node.placing import Placing
from multiraft.node.reads import Reads
from multiraft.node.routing import Routing
from multiraft.node.snapshots import Snapshots, sweep
from multiraft.node.status import NodeStatus, node_status
from multiraft.node.store import Store
from multiraft.node.turn import Turn
from multiraft.node.users import Users
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft, Options
from multiraft.raft.state import Role
from multiraft.transport.gateway import Gateway
from multiraft.transport.transport import LoopTransport
from multiraft.worker import Worker, aside

logger = logging.getLogger("multiraft.node")

SPREAD_EVERY_TICKS = 20
SPREAD_MOVES_MAX = 64
PIN_EVERY_TICKS = 20


class BootClock:
    """The real clock: CLOCK_BOOTTIME where there is one, else the monotonic one."""

    def __init__(self) -> None:
        self._clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ns(self) -> int:
        return time.clock_gettime_ns(self._clock)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Node:
    """One node of a cluster, or a cluster of its own.

    ``async with Node(config) as node:`` starts it and closes it; ``node.store`` is the key-value store. Starting raises
    StorageError (and its kin) for a directory that cannot be used, OSError for an address that cannot be bound. With others in
    the configuration it is started when it listens; ``await node.ready()`` waits until every shard has a leader.

    ``machines`` names the kinds of users' own state machines, each with what makes one (docs/machines.md): a class, mostly.
    """

    def __init__(
        self, config: Config, *, machines: Mapping[str, Callable[..., StateMachine]] | None = None
    ) -> None:
        self.config = config
        self._kinds = dict(machines or {})
        self._loop: asyncio.AbstractEventLoop
        self._started = False
        self._ending: asyncio.Task[None] | None = None
        self._draining = False
        self._ended: asyncio.Future[None]
        self._failure: BaseException | None = None
        self._workers: list[Worker] = []
        self._ticks = 0
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self.loop_gap_ns = Histogram()
        self._waiting_ready: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.gateway: Gateway | None = None

    # -- life -----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Open the directory, bring every replica back, listen. Raises what keeps it from that, with nothing left open."""
        if self._started:
            raise InvariantViolation("a node is started once; make another one")
        self._started = True
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        try:
            await self._open()
        except BaseException as error:
            await self._end(self._release(error))
            raise

    async def _open(self) -> None:
        config = self.config
        directory = Path(config.data_dir)
        self.clock = BootClock()
        for one in (directory, directory / "snapshots", directory / "incoming"):
            one.mkdir(parents=True, exist_ok=True)
        self.log = await self._open_log(directory)
        pending = {one.pending.name for one in self.log.groups() if one.pending is not None}
        await aside(lambda: sweep(directory / "snapshots", pending))
        self.machine = await self._open_machine(directory)
        states = States(directory / "machines")
        found = await aside(states.found)
        seed = config.seed if config.seed is not None else random.SystemRandom().getrandbits(48)
        self.multi = MultiRaft(
            self._raft_options(),
            store_id=self.log.store_id,
            sequence=self.log.synced_sequence,
            boot_count=self.log.boot_count,
            seed=seed,
        )
        self._files = self._worker("files")
        self.peers = Peers(config, self.log.pinned(), self.multi.record_pinned)
        self.transport = LoopTransport(
            config.node_id,
            self,
            generator=random.Random(seed),
            tls=config.tls,
            insecure=config.insecure,
            jobs=self._files,
            directory=str(directory / "incoming"),
        )
        self._wire(states, found)
        if config.listen is not None:
            self.address = await self.transport.listen(config.listen)
        self.placing.restore()
        if not self.placing.bootstrapped and len(config.voters) == 1:
            self.placing.begin()
        for node, address in config.nodes.items():
            if node != config.node_id:
                self.transport.set_address(NodeId(node), address)
        if config.client_listen is not None:
            self.gateway = await open_gateway(config, self.store, self.hello, self.status)
        self._tick_due = self._loop.time()
        self._tick()
        self.turn.kick()
        if len(config.voters) == 1:
            await self.ready()

    async def _open_log(self, directory: Path) -> LmdbLogStore:
        settings = LogSettings(
            durability=self.config.durability,
            budget_bytes=self.config.log_budget_bytes,
            reserve_bytes=self.config.reserve_bytes,
        )
        writer, reader = self._worker("log"), self._worker("log-reader")
        return await aside(
            lambda: LmdbLogStore(
                directory / "log", writer=writer, reader=reader, settings=settings
            ),
            LmdbLogStore.close,
        )

    async def _open_machine(self, directory: Path) -> KeyValueStore:
        options = StoreOptions.of(self.config, store_id=self.log.store_id)
        flusher, reader, files = (
            self._worker("state"),
            self._worker("state-reader"),
            self._worker("snapshots"),
        )
        return await aside(
            lambda: KeyValueStore.open(directory / "state", options, flusher, reader, files),
            KeyValueStore.close,
        )

    def _worker(self, name: str, patience_s: float | None = None) -> Worker:
        worker = Worker(f"{name}-{self.config.node_id}", self._loop, patience_s)
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
        self.forwarding.linked = self.peers.linked
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
        )

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until this node knows every shard and a leader for each. Raises TimeoutError, or what ended the node."""
        async with asyncio.timeout(timeout):
            while not self._is_ready():
                if self._ended.done():
                    raise self._failure or Closed("the node was closed")
                waiting = self._loop.create_future()
                self._waiting_ready.append(waiting)
                await waiting

    def _is_ready(self) -> bool:
        if self.placing.map is None:
            return False
        return all(
            self.multi.leader_node(shard.group) is not None for shard in self.placing.map.shards
        )

    # -- machines of users ------------------------------------------------------------------------------------------------------

    def register(self, kind: str, machine: Callable[..., StateMachine]) -> None:
        """Name a kind of machine after the node was made. Groups of it that waited here begin to apply."""
        if self._kinds.setdefault(kind, machine) is not machine:
            raise ConfigError(f"machines = {kind!r}: it is registered already, as another machine")
        if hasattr(self, "users"):
            self.users.machines.register(kind, machine)

    async def create_group(
        self,
        name: str,
        machine: str | Callable[..., StateMachine],
        *,
        timeout: float | None = None,
    ) -> Group:
        """The group of that name, made with a replica on every node if there is none yet; called by any number of nodes.

        ``machine`` is a registered kind, by its name or by what makes it. Raises GroupExists where the name has another kind,
        DeadlineExceeded where group 0 cannot answer in time.
        """
        return await self.users.groups.create(name, machine, timeout)

    def group(self, name: str) -> Group:
        """The handle of a group that this node knows already. Raises GroupUnknown."""
        return self.users.groups.group(name)

    async def closed(self) -> None:
        """Wait until the node has ended. Raises what ended it, if it was not ``aclose``."""
        await asyncio.shield(self._ended)
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """Refuse new calls, hand leaderships over, finish what is on its way, write what is in memory, end. Idempotent.

        What cannot be finished within two election timeouts is answered with OutcomeUnknown. Whoever gives up waiting for
        it does not stop it.
        """
        if not self._started:
            return
        if self._ending is None:
            if not hasattr(self, "store"):
                raise InvariantViolation(
                    "a node that is still starting is ended by cancelling that"
                )
            if self.gateway is not None:
                self.gateway.dismiss()
            self.store.close()
        await self._end(self._close())

    def _end(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Let ``work`` end the node, unless something does already; a future for the end, that may be cancelled."""
        if self._ending is None:
            self._ending = self._loop.create_task(work)
        else:
            work.close()
        return asyncio.shield(self._ending)

    async def _close(self) -> None:
        try:
            await self._hand_over()
            await self.users.leadership.close(self.config.timeout_s)
            await self._finish_calls()
            if self.gateway is not None:
                await self.gateway.drain(self.config.election_ms / 1000)
        except Exception as error:
            self._ended_badly(error)
        await self._release(self._failure)

    async def _hand_over(self) -> None:
        """Give every leadership here to a member that can take it, within one election timeout."""
        self.admission.leave()
        until = self._loop.time() + self.config.election_ms / 1000
        while self._failure is None and self._loop.time() < until:
            if not self._hand_over_what_is_led():
                return
            await self._something_changes()

    def _hand_over_what_is_led(self) -> bool:
        """Is anything led here that another could take? It is on its way then."""
        if not self._others_linked():
            return False
        led = [group for group in self.multi.groups() if self.multi.leads(group)]
        for group in led:
            self.multi.hand_over(group, self.peers.linked)
        self.turn.kick()
        return bool(led)

    def _others_linked(self) -> bool:
        me = self.config.node_id
        return any(node != me and self.peers.linked(node) for node in self.config.voters)

    async def _finish_calls(self) -> None:
        """Let calls that are on their way get their answers, within one election timeout.

        Others forward here until they have heard who leads now: a link that broke before would make each such call unknown. So
        this node stays, and says that it does not lead, until nobody has asked for as long as it takes to hear of a leader.
        """
        self._draining = True
        now = quiet_since = self._loop.time()
        until, asked = now + self.config.election_ms / 1000, self.forwarding.asked
        quiet_s = 2 * self.config.heartbeat_ms / 1000
        while self._failure is None and now < until:
            calls = self.waiters.waiting or len(self.forwarding) or len(self.reads)
            if calls or self.forwarding.asked != asked or self._hand_over_what_is_led():
                quiet_since, asked = now, self.forwarding.asked
            elif not self._others_linked() or now - quiet_since >= quiet_s:
                return
            await self._something_changes()
            now = self._loop.time()

    async def _something_changes(self) -> None:
        """Wait for the next change of a role - or, once the node is draining, for the next turn - but no longer than a tick."""
        changed = self._loop.create_future()
        self._waiting_ready.append(changed)
        await asyncio.wait({changed}, timeout=self.config.tick_ms / 1000)

    async def _release(self, error: BaseException | None) -> None:
        """Close whatever is open, in the order in which it depends on each other. What fails in it keeps nothing else open."""
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        for close in (
            partial(self._stop_answering, error),
            self._close_links,
            self._close_workers,
            self._close_state,
        ):
            try:
                await close()
            except Exception as trouble:
                self._ended_badly(trouble)
        if not self._ended.done():
            self._ended.set_result(None)
        self._wake_waiting()

    def _ended_badly(self, error: Exception) -> None:
        """Ending goes on, but whoever waits for the end hears of it."""
        node = self.config.node_id
        logger.error("node %d did not end well", node, exc_info=error, extra={"node": node})
        self._failure = self._failure or error

    async def _stop_answering(self, error: BaseException | None) -> None:
        if hasattr(self, "store"):
            self.turn.stop()
            self.store.close()
            reason = error if isinstance(error, MultiRaftError) else Closed("the node was closed")
            self._answer_all(reason)
            await self.users.leadership.close(self.config.election_ms / 1000)

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
                await aside(self.log.close)
        finally:  # a flush or a read that is under way needs the state's environment
            for worker in self._workers:
                await aside(worker.close)

    async def _close_state(self) -> None:
        try:
            if hasattr(self, "machine"):
                self.machine.close()
        finally:
            if hasattr(self, "users"):
                await aside(self.users.machines.close)

    def _answer_all(self, reason: MultiRaftError) -> None:
        self.waiters.close(reason)
        self.forwarding.close(reason)
        self.reads.close(reason)
        self.users.stop(reason)
        self.waker.drain()

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

    # -- ticks ------------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        self.loop_gap_ns.record(round((now - self._tick_due) * 1e9))
        self._tick_due = max(self._tick_due + self.config.tick_ms / 1000, now)
        self._tick_timer = self._loop.call_at(self._tick_due, self._tick)
        self._ticks += 1
        try:
            self._ticked(self.clock.now_ns())
        except BaseException as error:
            self.failed(error)

    def _ticked(self, now_ns: int) -> None:
        self.turn.on_tick()
        self.forwarding.retry()
        self.forwarding.expire(now_ns)
        self.admission.tick()
        self.keeper.tick(now_ns)
        self.users.hosting.tick(now_ns)
        self.transfers.tick()
        self.placing.retry()
        if self._ticks % SPREAD_EVERY_TICKS == 0:
            self.placing.spread(self.admission.roomy, SPREAD_MOVES_MAX)
        if self._ticks % PIN_EVERY_TICKS == 0:
            self.peers.write_all()
        if not self.placing.bootstrapped and self.peers.all_greeted():
            self.placing.begin()
        if self.placing.map is None and self.placing.bootstrapped:
            self.placing.write_map(self._propose_map)
        if self.multi.pending():
            self.turn.kick()

    def _propose_map(self, group: GroupId, command: bytes) -> None:
        ticket = self.waiters.submit(
            group, command, self.turn.now() + round(self.config.timeout_s * 1e9)
        )

        def done(ticket: Ticket[int]) -> None:
            self.placing.refresh()

        ticket.add_done_callback(done)

    # -- what the turn tells ------------------------------------------------------------------------------------------------------

    def roles_changed(self, roles: list[tuple[int, int, int, int]]) -> None:
        for group, role, leader, _term in roles:
            if role == Role.LEADER:
                self.turn.counters.elections += 1
            if leader:
                self.forwarding.retry(group)
            self.users.leadership.look(group)
        self._wake_waiting()

    def posts(self, posts: list[tuple[int, int, int, int, int, int, int, bytes]]) -> None:
        for node, kind, _group, context, index, _term, _flags, body in self.forwarding.take(
            posts, self._broken
        ):
            if kind == MessageKind.MSG_NODE_STATUS:
                self.peers.told(NodeId(node), context, index, body)

    def _broken(self, node: int, error: PeerProtocolError) -> None:
        logger.warning("node %d broke the protocol: %s", node, error, extra={"node": node})
        self.transport.drop(NodeId(node))

    def meta_applied(self) -> None:
        self.placing.refresh()

    def users_committed(self, runs: CommittedRuns) -> None:
        self.users.hosting.take(runs)

    def snapshots(self, offered: list[Any], wanted: list[Any]) -> None:
        for offer in offered:
            self.transfers.offered(*offer)
        for one in wanted:
            self.transfers.wanted(*one)

    def turned(self) -> None:
        self.keeper.turned()
        if self._draining:
            self._wake_waiting()
        self.admission.turned()

    def _unblock(self, group: int) -> None:
        """A flush is done: what was held back is applied, and calls that found the group full are tried again."""
        self.turn.unblock()
        self.forwarding.retry(group)

    def failed(self, error: BaseException) -> None:
        """Something that the node cannot go on with: stop answering now, close everything soon."""
        if self._failure is not None or self._ended.done():
            return
        self._failure = error
        self.turn.stop()
        self.store.close()
        logger.critical(
            "node %d ends: %s", self.config.node_id, error, extra={"node": self.config.node_id}
        )
        try:
            if isinstance(error, MultiRaftError):
                self._answer_all(error)
            self._wake_waiting()
        finally:
            self._end(self._release(error))

    def _learned(self, shard_map: ShardMap) -> None:
        self.peers.cluster_id = shard_map.cluster.cluster_id
        self.keeper.freeze(0)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        waiting, self._waiting_ready = self._waiting_ready, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    # -- what the transport tells -------------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
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

    def admit(self, hello: Hello) -> None:
        self.peers.admit(hello)
        self.turn.kick()

    def frame(self, node: NodeId, view: memoryview) -> None:
        try:
            self.turn.on_frame(node, view)
        except PeerProtocolError:
            raise
        except BaseException as error:
            self.failed(error)

    def link_up(self, node: NodeId, link_epoch: int) -> None:
        self.multi.discard(node)
        self.peers.link_up(node)
        self.multi.unreachable(node)
        self.transfers.link_up(node)
        self.admission.greet(node)
        self.forwarding.retry()
        self.turn.kick()

    def link_down(self, node: NodeId, error: Exception | None) -> None:
        self.peers.link_down(node)
        self.multi.discard(node)
        self.multi.unreachable(node)
        self.forwarding.link_down(node)
        self.turn.kick()

    def link_refused(self, node: NodeId, error: MultiRaftError) -> None:
        logger.warning(
            "node %d: no link to node %d: %s",
            self.config.node_id,
            node,
            error,
            extra={"node": node},
        )
        ours = self.peers.refused(node, error, bootstrapped=self.placing.bootstrapped)
        if ours is not None:
            self.failed(ours)

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        self.transfers.arrived(node, transfer, path, meta)

    # -- looking -------------------------------------------------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        """Counters, groups and queues at this moment."""
        return node_status(self)
