"""A simulated cluster: whole nodes - turn, replicas, stores, links - each in a simulated process with a disk of its own.

A process can be killed, by itself or with its disk's power, stopped and resumed, started again; its disk outlives it. What a
process does is the production code; what it does it to is simulated (``world``, ``network``, ``disk``).

Whoever runs a cluster is told of each node that starts and of each that ends (``Watcher``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from multiraft.config import Config
from multiraft.ids import NodeId
from multiraft.interfaces import StateMachine
from multiraft.node.node import Node
from multiraft.raft.state import Role
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import PowerCut
from multiraft.testing.loop import ProcessLoop
from multiraft.testing.network import SimulatedNetwork
from multiraft.testing.schedule import Schedule
from multiraft.testing.world import SimulatedWorld


class Watcher(Protocol):
    """What is told of every node of a cluster."""

    def started(self, life: Life) -> None:
        """A node listens; its store can be called."""

    def turned(self, life: Life) -> None:
        """A turn of a node is over: what it did is to be seen."""

    def leads(self, life: Life, group: int, term: int) -> None:
        """A replica here became leader."""

    def ended(self, life: Life, error: BaseException | None) -> None:
        """A node ended by itself: because of an error, or because it was closed."""


class WatchedNode(Node):
    """A node that says when its turns are over."""

    def __init__(
        self, config: Config, life: Life, watcher: Watcher, world: SimulatedWorld, machines: Any
    ) -> None:
        super().__init__(config, machines=machines, world=world)
        self._life = life
        self._watcher = watcher

    def roles_changed(self, roles: list[tuple[int, int, int, int]]) -> None:
        for group, role, _leader, term in roles:
            if role == Role.LEADER:
                self._watcher.leads(self._life, group, term)
        super().roles_changed(roles)

    def turned(self) -> None:
        super().turned()
        self._watcher.turned(self._life)


@dataclass(eq=False)
class Life:
    """One life of one node's process."""

    number: int
    count: int
    """Which of the node's lives it is, from 1."""
    loop: ProcessLoop
    node: WatchedNode = field(init=False)
    serving: bool = False
    """It has started, and not ended."""
    over: bool = False
    error: BaseException | None = None

    @property
    def name(self) -> str:
        return f"{self.number}.{self.count}"

    def knows_leaders(self) -> bool:
        """Does it know every shard and a leader for each?"""
        shard_map, multi = self.node.placing.map, self.node.multi
        return shard_map is not None and all(
            multi.leader_node(shard.group) is not None for shard in shard_map.shards
        )


class SimulatedCluster:
    """``nodes`` nodes, numbered from 1, with one configuration. ``settings`` are fields of ``Config``."""

    def __init__(
        self,
        generator: random.Random,
        watcher: Watcher,
        *,
        nodes: int = 3,
        settings: Mapping[str, Any] | None = None,
        machines: Mapping[str, Callable[..., StateMachine]] | None = None,
        trace: Callable[[int], None] = lambda number: None,
        schedule: Schedule | None = None,
    ) -> None:
        def fork() -> random.Random:
            return random.Random(generator.getrandbits(64))

        self.schedule = Schedule() if schedule is None else schedule
        self.network = SimulatedNetwork(self.schedule, fork(), trace)
        self.numbers = tuple(range(1, nodes + 1))
        self.disks = {number: SimulatedDisk(fork()) for number in self.numbers}
        self.lives: dict[int, Life] = {}
        self.all_lives: list[Life] = []
        """Those that are over, too, in the order of their beginning."""
        self._watcher = watcher
        self._machines = machines
        self._settings = dict(settings or {})
        self._fork = fork
        self._counts = dict.fromkeys(self.numbers, 0)
        self._clocks: dict[int, tuple[float, int]] = {}

    # -- processes ------------------------------------------------------------------------------------------------------

    def alive(self, number: int) -> Life | None:
        """The life of a node whose process is there, stopped or not."""
        life = self.lives.get(number)
        return None if life is None or life.over else life

    def serving(self) -> list[Life]:
        """The nodes that have started and run."""
        return [life for life in self.lives.values() if life.serving and life.loop.runs]

    def bootstrapped(self) -> bool:
        """Does every node know the shards?"""
        lives = [self.lives.get(number) for number in self.numbers]
        return all(
            life is not None and life.serving and life.node.placing.map is not None
            for life in lives
        )

    def start(self, number: int) -> Life:
        """Begin a new life of a node. The one before must be over."""
        if self.alive(number) is not None:
            raise AssertionError(f"node {number} is alive")
        self._counts[number] += 1
        loop = ProcessLoop(self.schedule, f"node {number}")  # type: ignore[abstract]
        life = self.lives[number] = Life(number, self._counts[number], loop)
        self.all_lives.append(life)
        loop.takes = partial(self._takes, life)
        world = SimulatedWorld(
            loop,
            self.network,
            self._fork(),
            self.disks[number],
            power_cut=partial(self._power_cut, life),
        )
        life.node = WatchedNode(self._config(number), life, self._watcher, world, self._machines)
        loop.call_soon(lambda: loop.create_task(self._live(life)))
        return life

    def _config(self, number: int) -> Config:
        addresses: dict[int, str] = {each: f"127.0.0.1:{7400 + each}" for each in self.numbers}
        return Config(
            node_id=NodeId(number),
            data_dir=f"/node-{number}",
            listen=addresses[number],
            nodes=addresses,
            **self._settings,
        )

    async def _live(self, life: Life) -> None:
        error: BaseException | None = None
        try:
            await life.node.start()
            life.serving = True
            self._watcher.started(life)
            await life.node.closed()
        except PowerCut:
            self._power_cut(life)
            return
        except Exception as caught:
            error = caught
        if life.over:
            return
        self._over(life, power=False)
        life.error = error
        self._watcher.ended(life, error)

    def _over(self, life: Life, *, power: bool) -> None:
        """Its process is gone: what it held open is closed."""
        life.serving, life.over = False, True
        life.loop.kill_process()
        self.network.gone(NodeId(life.number))
        self.disks[life.number].crash(power=power)

    def _takes(self, life: Life, error: BaseException) -> bool:
        """A disk without power ends the process, wherever that shows; a dead process has no troubles."""
        if isinstance(error, PowerCut):
            self._power_cut(life)
        return life.over

    def _power_cut(self, life: Life) -> None:
        """The disk's power went in the middle of something."""
        if not life.over:
            self._over(life, power=True)
            self._watcher.ended(life, None)

    def kill(self, number: int, *, power: bool = False) -> None:
        """End a process as by SIGKILL; with ``power``, as by pulling the plug: what was not synced may be lost."""
        life = self.alive(number)
        if life is not None:
            self._over(life, power=power)
        elif power:
            self.disks[number].crash()

    def stop(self, number: int) -> None:
        """SIGSTOP."""
        life = self.alive(number)
        if life is not None:
            life.loop.stop_process()

    def resume(self, number: int) -> None:
        """SIGCONT."""
        life = self.alive(number)
        if life is not None:
            life.loop.resume_process()

    def close(self, number: int) -> None:
        """Ask a node to end as a user does."""
        life = self.alive(number)
        if life is not None and life.serving:
            loop, node = life.loop, life.node
            life.serving = False
            loop.call_soon(lambda: loop.create_task(node.aclose()))
