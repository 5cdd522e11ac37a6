"""A node: the asynchronous shell around the turn. It starts and ends what the turn works with, and feeds it.

Everything that waits for the world is here and beside it - the parts at start and end (``wiring``), the way out (``leaving``) - and
nothing else is: what to do with a frame, a sync or a tick is the turn's. All state belongs to the loop that the node was
started on; the log, the flushes, cold reads and snapshots have a thread each (``worker``), which never touch it.

A node that meets a storage error, or finds that it is wrong, ends: it stops answering at once, every caller gets an error,
and ``closed`` raises what happened. It never goes on with half of itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from multiraft._core import CommittedRuns, MessageKind
from multiraft.config import Config
from multiraft.errors import (
    Closed,
    ConfigError,
    InvariantViolation,
    MultiRaftError,
    PeerProtocolError,
)
from multiraft.histogram import Histogram
from multiraft.ids import NodeId
from multiraft.interfaces import FileMeta, Hello, StateMachine, World
from multiraft.node.changes import Changes
from multiraft.node.dispatch import open_gateway
from multiraft.node.groups import Group
from multiraft.node.leaving import Leaving
from multiraft.node.meta import ShardMap
from multiraft.node.status import NodeStatus, node_status
from multiraft.node.wiring import Parts
from multiraft.node.world import RealWorld
from multiraft.raft.state import Role

logger = logging.getLogger("multiraft.node")

SPREAD_EVERY_TICKS = 20
SPREAD_MOVES_MAX = 64
PIN_EVERY_TICKS = 20


class Node(Parts):
    """One node of a cluster, or a cluster of its own.

    ``async with Node(config) as node:`` starts it and closes it; ``node.store`` is the key-value store. Starting raises
    StorageError (and its kin) for a directory that cannot be used, OSError for an address that cannot be bound. With others in
    the configuration it is started when it listens; ``await node.ready()`` waits until every shard has a leader.

    ``machines`` names the kinds of users' own state machines, each with what makes one (docs/machines.md): a class, mostly.
    ``world`` is where it lives, the machine that it runs on unless a simulator gives it another.
    """

    def __init__(
        self,
        config: Config,
        *,
        machines: Mapping[str, Callable[..., StateMachine]] | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__(config, machines or {})
        self._given_world = world
        self._started = False
        self._ending: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None]
        self._failure: BaseException | None = None
        self._leaving: Leaving | None = None
        self._ticks = 0
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self.loop_gap_ns = Histogram()

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
        self.changes = Changes(self._loop)
        self.world = self._given_world or RealWorld()
        self._ended = self._loop.create_future()
        try:
            await self._open()
        except BaseException as error:
            await self._end(self._release(error))
            raise

    async def _open(self) -> None:
        config = self.config
        await self._open_parts()
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

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until this node knows every shard and a leader for each. Raises TimeoutError, or what ended the node."""
        async with asyncio.timeout(timeout):
            while not self._is_ready():
                if self._ended.done():
                    raise self._failure or Closed("the node was closed")
                await self.changes.next()

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
        leaving = self._leaving = Leaving(self, ended=lambda: self._failure is not None)
        try:
            await leaving.hand_over()
            await self.users.leadership.close(self.config.timeout_s)
            await leaving.finish_calls()
            if self.gateway is not None:
                await self.gateway.drain(self.config.election_ms / 1000)
        except Exception as error:
            self._ended_badly(error)
        await self._release(self._failure)

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
        self.changes.wake()

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
        self.store.early.tick(now_ns)
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

    # -- what the turn tells ------------------------------------------------------------------------------------------------------

    def roles_changed(self, roles: list[tuple[int, int, int, int]]) -> None:
        for group, role, leader, _term in roles:
            if role == Role.LEADER:
                self.turn.counters.elections += 1
            if leader:
                self.forwarding.retry(group)
            self.users.leadership.look(group)
        self.changes.wake()

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
        self.forwarding.turned()
        if self._leaving is not None and self._leaving.draining:
            self.changes.wake()
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
            self.changes.wake()
        finally:
            self._end(self._release(error))

    def _learned(self, shard_map: ShardMap) -> None:
        self.peers.cluster_id = shard_map.cluster.cluster_id
        self.keeper.freeze(0)
        self.store.early.learned()
        self.changes.wake()

    # -- what the transport tells -------------------------------------------------------------------------------------------------

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
        # Links have warned of it.
        logger.debug("no link to node %d: %s", node, error, extra={"node": node})
        ours = self.peers.refused(node, error, bootstrapped=self.placing.bootstrapped)
        if ours is not None:
            self.failed(ours)

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        self.transfers.arrived(node, transfer, path, meta)

    # -- looking -------------------------------------------------------------------------------------------------------------------

    def status(self) -> NodeStatus:
        """Counters, groups and queues at this moment."""
        return node_status(self)
