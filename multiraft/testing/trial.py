"""A simulated cluster for tests of users: their machines, their clients, faults, all from one seed and in simulated time.

    trial = Trial(seed, machines={"counter": Counter})
    trial.clients(client)            # async def client(node, name): what a program of yours does with its node
    trial.nemesis("crash", seconds=20)
    trial.run(20)
    trial.settle()                   # the faults end; every node must serve again
    totals = trial.everywhere(read)  # async def read(node)

Nothing here waits for real time. A client belongs to the process of its node: it begins whenever that serves, and dies with it.
What goes wrong raises ``TrialFailed``: a broken invariant of Raft, a node that ends by itself, an error that nobody took.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from multiraft.errors import StorageError
from multiraft.interfaces import StateMachine
from multiraft.node.node import Node
from multiraft.testing.cluster import Life, SimulatedCluster
from multiraft.testing.invariants import Invariants
from multiraft.testing.nemesis import Fault, Nemesis, draw_faults
from multiraft.testing.schedule import NS

Client = Callable[[Node, str], Coroutine[Any, Any, None]]
SETTLE_S = 60.0
STORY_LINES = 30


class TrialFailed(AssertionError):
    """What happened must not happen. The message has the end of the story."""


class Trial:
    """One simulated cluster. ``settings`` are fields of ``Config`` for every node."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        machines: Mapping[str, Callable[..., StateMachine]] | None = None,
        **settings: Any,
    ) -> None:
        generator = random.Random(f"multiraft trial {seed}")

        def fork() -> random.Random:
            return random.Random(generator.getrandbits(64))

        self.seed = seed
        self.story: list[str] = []
        self._trace = 0
        self._violation = ""
        self._clients: list[tuple[Client, int]] = []
        self._faults = fork()
        self._invariants = Invariants(fork(), self._violated)
        self.cluster = SimulatedCluster(
            fork(), self, nodes=nodes, settings=settings, machines=machines, trace=self._traced
        )
        self._nemeses = [Nemesis(self.cluster, ())]
        for number in self.cluster.numbers:
            self.cluster.start(number)

    # -- what a test does -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Simulated seconds since the beginning."""
        return self.cluster.schedule.now_ns / NS

    @property
    def trace(self) -> int:
        """A hash over all that travelled: the same for the same seed and test."""
        return self._trace

    def clients(self, client: Client, each: int = 1) -> None:
        """Have so many clients at each node, now and after each of its starts."""
        self._clients.append((client, each))
        for life in self.cluster.serving():
            self._begin(life, client, each)

    def nemesis(
        self, profile: str = "swarm", seconds: float = 30.0, faults: list[Fault] | None = None
    ) -> Nemesis:
        """From now on, and for so long, let the faults of a profile happen, drawn from the seed; or those that are given."""
        drawn = draw_faults(self._faults, profile, seconds, self.cluster.numbers)
        made = Nemesis(self.cluster, drawn if faults is None else faults)
        self._nemeses.append(made)
        made.begin()
        return made

    def run(self, seconds: float) -> None:
        """Let so much time go by. Raises TrialFailed."""
        schedule = self.cluster.schedule
        schedule.run(schedule.now_ns + round(seconds * NS))
        self._look_for_trouble()

    def settle(self, seconds: float = SETTLE_S) -> None:
        """No more faults: within so much time every node must serve and know all leaders. Raises TrialFailed."""
        for nemesis in self._nemeses:
            nemesis.heal()
        until = self.now + seconds
        while not self._well():
            if self.now >= until:
                self._fail(f"the cluster does not serve {seconds:.0f} s after the last fault")
            self.run(0.5)

    def everywhere(
        self, ask: Callable[[Node], Coroutine[Any, Any, Any]], timeout: float = 30.0
    ) -> dict[int, Any]:
        """Ask every node that serves, at once, and wait for all; answers by node. Raises what one raises, and TrialFailed."""
        answers: dict[int, Any] = {}
        lives = {life.number: life for life in self.cluster.serving()}

        async def one(number: int, node: Node) -> None:
            try:
                answers[number] = await ask(node), None
            except Exception as error:
                answers[number] = None, error  # raised below, in the test

        for number, life in lives.items():
            life.loop.create_task(one(number, life.node))
        schedule = self.cluster.schedule
        schedule.run(schedule.now_ns + round(timeout * NS), lambda: len(answers) == len(lives))
        self._look_for_trouble()
        for _, error in answers.values():
            if error is not None:
                raise error
        if len(answers) < len(lives):
            self._fail(f"nodes {sorted(set(lives) - set(answers))} do not answer")
        return {number: answer for number, (answer, _) in sorted(answers.items())}

    def close(self) -> None:
        """Let go of everything."""
        for life in self.cluster.all_lives:
            life.loop.discard()

    # -- what a cluster tells ---------------------------------------------------------------------------------------------

    def started(self, life: Life) -> None:
        self._tell(f"node {life.name} serves")
        for client, each in self._clients:
            self._begin(life, client, each)

    def ended(self, life: Life, error: BaseException | None) -> None:
        self._tell(f"node {life.name} ended: {error!r}")
        ill = any(
            life.number in nemesis.ill or life.number in nemesis.lost for nemesis in self._nemeses
        )
        if error is not None and not (isinstance(error, StorageError) and ill):
            self._violated(f"node {life.name} ended by itself: {error!r}")
        self._nemeses[-1].ended(life.number)

    def leads(self, life: Life, group: int, term: int) -> None:
        self._tell(f"node {life.name} leads group {group} in term {term}")
        self._invariants.leads(life, group, term)

    def turned(self, life: Life) -> None:
        self._invariants.turned(life)

    # -- inside -----------------------------------------------------------------------------------------------------------

    def _begin(self, life: Life, client: Client, each: int) -> None:
        for number in range(each):
            life.loop.create_task(client(life.node, f"{life.name}.{number}"))

    def _well(self) -> bool:
        lost = {number for nemesis in self._nemeses for number in nemesis.lost}
        return all(
            (life := self.cluster.lives.get(number)) is not None
            and life.serving
            and life.knows_leaders()
            for number in self.cluster.numbers
            if number not in lost
        )

    def _traced(self, number: int) -> None:
        self._trace = (self._trace * 1_000_003 ^ number ^ self.cluster.schedule.now_ns) & (
            1 << 64
        ) - 1

    def _tell(self, what: str) -> None:
        self.story.append(f"{self.now:10.4f} s  {what}")

    def _violated(self, what: str) -> None:
        if not self._violation:
            self._tell(f"VIOLATION: {what}")
            self._violation = what
            self.cluster.schedule.halted = True

    def _look_for_trouble(self) -> None:
        for life in self.cluster.all_lives:
            for trouble in life.loop.troubles:
                raise TrialFailed(
                    self._told(f"nobody took an error in node {life.name}: {trouble.error!r}")
                ) from trouble.error
        if self._violation:
            self._fail(self._violation)

    def _fail(self, what: str) -> None:
        raise TrialFailed(self._told(what))

    def _told(self, what: str) -> str:
        story = "\n".join(self.story[-STORY_LINES:])
        return f"{what}\n(seed {self.seed}, after {self.now:.4f} simulated seconds)\n{story}"
