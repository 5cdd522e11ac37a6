"""One run: a cluster, a workload, faults, and the judgement - all from one seed.

Two phases. In the first anything goes; after every turn the invariants must hold. In the second all faults end, what can be
started is started, and within ``HEAL_S`` the cluster must serve again: every shard led, every node answering reads and writes,
all replicas level and equal. In the end the history of all that clients did must be linearizable, the reads of the second
phase included, which is how a lost write shows.

The same seed and options give the same run, event for event: ``Outcome.trace`` is a hash over it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from multiraft.errors import MultiRaftError, StorageError
from multiraft.testing.cluster import Life, SimulatedCluster
from multiraft.testing.history import History
from multiraft.testing.invariants import Invariants
from multiraft.testing.linearizability import check
from multiraft.testing.models import Register
from multiraft.testing.nemesis import Fault, Nemesis, draw_faults
from multiraft.testing.promises import Promises
from multiraft.testing.recorder import Recorder
from multiraft.testing.schedule import NS, Schedule
from multiraft.testing.workload import Load, Workload

HEAL_S = 60.0
"""Within so much simulated time after the last fault the cluster must serve again."""
MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What is simulated. A seed means something only together with these."""

    nodes: int = 3
    groups: int = 1
    seconds: float = 60.0
    """Of simulated time, in the first phase."""
    profile: str = "swarm"
    load: Load = field(default_factory=Load)
    config: tuple[tuple[str, Any], ...] = ()
    """Fields of ``Config`` that every node is given, over what the seed draws."""


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    settings: Settings
    violation: str = ""
    """The first thing that was wrong, in one line; empty: nothing was."""
    at_ns: int = 0
    """When that was, or when the run ended."""
    events: int = 0
    trace: int = 0
    operations: int = 0
    acknowledged: int = 0
    faults: tuple[Fault, ...] = ()
    story: list[str] = field(default_factory=list)
    """What happened, in order: faults, lives, leaders."""
    history: History = field(default_factory=History)


class Violated(Exception):
    """The run is over: something is wrong."""


class Simulation:
    """One run of one seed. ``faults`` are those to use instead of the seed's own, ``schedule`` one that tells what it does."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        faults: Sequence[Fault] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        generator = random.Random(f"multiraft {seed}")

        def fork() -> random.Random:
            return random.Random(generator.getrandbits(64))

        numbers = range(1, settings.nodes + 1)
        drawn = draw_faults(fork(), settings.profile, settings.seconds, numbers)
        self.outcome = Outcome(seed, settings, faults=drawn if faults is None else tuple(faults))
        self._trace = seed & MASK
        self.cluster = SimulatedCluster(
            fork(),
            self,
            nodes=settings.nodes,
            settings={**draw_config(fork(), settings), **dict(settings.config)},
            trace=self._traced,
            schedule=schedule,
        )
        self._schedule = self.cluster.schedule
        self.invariants = Invariants(fork(), self._violated)
        self.promises = Promises(self.cluster, self._violated)
        self.cluster.network.tap = self.promises.sent
        self.recorder = Recorder(clock=lambda: self._schedule.now_ns)
        self.workload = Workload(
            fork(), settings.load, settings.nodes, self.recorder, self._violated
        )
        self.nemesis = Nemesis(self.cluster, self.outcome.faults)

    # -- the run ----------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """From the first start to the verdict."""
        outcome = self.outcome
        try:
            self._run()
        except Violated:
            self._tell("the run is over")
        outcome.at_ns = self._schedule.now_ns
        outcome.events = self._schedule.events
        outcome.trace = self._trace
        outcome.history = self.recorder.history()
        outcome.operations = len(outcome.history)
        outcome.acknowledged = self.workload.acknowledged
        if not outcome.violation:
            self._judge()
        for life in self.cluster.all_lives:
            life.loop.discard()
        return outcome

    def _run(self) -> None:
        for number in self.cluster.numbers:
            self.cluster.start(number)
        self.nemesis.begin()
        self._pass(self.outcome.settings.seconds)
        self._tell("the faults end")
        self.nemesis.heal()
        self._heal()

    def _pass(self, seconds: float) -> None:
        """Let so much time go by."""
        self._schedule.run(self._schedule.now_ns + round(seconds * NS))
        self._look_for_trouble()

    def _heal(self) -> None:
        """Demand that it serves again."""
        until_ns = self._schedule.now_ns + round(HEAL_S * NS)
        while self._schedule.now_ns < until_ns:
            self._pass(1.0)
            if self._all_serve():
                break
        else:
            self._give_up(f"not healed within {HEAL_S:.0f} s: {self._what_is_missing()}")
        self.workload.stopped = True
        self._final_reads()
        while self._schedule.now_ns < until_ns:
            self._pass(0.5)
            if not self._differences():
                return
        self._give_up(f"replicas do not come level within {HEAL_S:.0f} s: {self._differences()}")

    def _give_up(self, what: str) -> NoReturn:
        self._violated(what)
        raise Violated

    def _present(self) -> list[int]:
        return [number for number in self.cluster.numbers if number not in self.nemesis.lost]

    def _all_serve(self) -> bool:
        return not self._what_is_missing()

    def _what_is_missing(self) -> str:
        for number in self._present():
            life = self.cluster.lives.get(number)
            if life is None or not life.serving:
                why = f" ({life.error!r})" if life is not None and life.error is not None else ""
                return f"node {number} does not serve{why}"
            if not life.knows_leaders():
                return f"node {number} does not know all leaders"
        for number in self.nemesis.lost:
            life = self.cluster.lives.get(number)
            if life is not None and life.serving and life.node.transport.links:  # type: ignore[attr-defined]
                return f"node {number}, whose directory is another than before, is let in"
        return ""

    def _final_reads(self) -> None:
        """Every node reads every key, linearizably: what was acknowledged must be there."""
        done: list[str] = []
        wanted = 0
        for number in self._present():
            life = self.cluster.lives[number]
            for key in range(self.outcome.settings.load.keys):
                wanted += 1
                life.loop.create_task(self._final_read(life, b"key-%d" % key, done))
        self._schedule.run(self._schedule.now_ns + round(20 * NS), lambda: len(done) == wanted)
        self._look_for_trouble()
        missing = [said for said in done if said]
        if missing or len(done) < wanted:
            self._give_up(f"after healing, {wanted - len(done)} reads hang, and: {missing[:1]}")

    async def _final_read(self, life: Life, key: bytes, done: list[str]) -> None:
        try:
            with self.recorder.invoke(f"final {life.name} {key!r}", "read", key) as call:
                call.ok(await life.node.store.get(key, timeout=15))
        except MultiRaftError as error:
            done.append(f"node {life.number} answered {error!r} to a read of {key!r}")
        else:
            done.append("")

    def _differences(self) -> str:
        """Where replicas are not level, or not equal; empty where all are."""
        levels: dict[int, dict[int, tuple[int, ...]]] = {}
        for number in self._present():
            life = self.cluster.lives[number]
            if not life.serving:
                return f"node {number} does not serve"
            for group in life.node.multi.groups():
                _, _, commit, applied, last = life.node.multi.indexes(group)
                levels.setdefault(group, {})[number] = (commit, applied, last)
        for group, found in levels.items():
            if len(set(found.values())) > 1 or len({*next(iter(found.values()))}) > 1:
                return f"group {group}: {found}"
        for number in self._present():
            life = self.cluster.lives[number]
            for group in life.node.multi.groups():
                self.invariants.compare_state(life, group)
        return ""

    def _judge(self) -> None:
        verdict = check(self.outcome.history, Register())
        if not verdict.ok:
            self.outcome.violation = f"not linearizable: {verdict}".splitlines()[0]

    # -- what is told -----------------------------------------------------------------------------------------------------

    def _traced(self, number: int) -> None:
        self._trace = (self._trace * 1_000_003 ^ number ^ self._schedule.now_ns) & MASK

    def _tell(self, what: str) -> None:
        self.outcome.story.append(f"{self._schedule.now_ns / NS:10.4f} s  {what}")

    def _violated(self, what: str) -> None:
        """Something is wrong: nothing happens any more. Returns, since a node that asked knows nothing of it."""
        if not self.outcome.violation:
            self._tell(f"VIOLATION: {what}")
            self.outcome.violation = what
            self._schedule.halted = True

    def _look_for_trouble(self) -> None:
        """Has anything raised where nobody took it?"""
        for life in self.cluster.all_lives:
            for trouble in life.loop.troubles:
                if isinstance(trouble.error, Violated):
                    raise trouble.error
                self._violated(
                    f"unhandled in node {life.name}: {trouble.message}: {trouble.error!r}"
                )
        if self.outcome.violation:
            raise Violated(self.outcome.violation)

    def started(self, life: Life) -> None:
        self._tell(f"node {life.name} serves")
        if life.number in self.nemesis.lost:
            self.promises.forget(life.number)
        self.promises.started(life)
        self.workload.started(life)

    def ended(self, life: Life, error: BaseException | None) -> None:
        self._tell(f"node {life.name} ended: {error!r}")
        allowed = life.number in self.nemesis.ill or life.number in self.nemesis.lost
        if error is not None and not (isinstance(error, StorageError) and allowed):
            self._violated(f"node {life.name} ended by itself: {error!r}")
        self.nemesis.ended(life.number)

    def leads(self, life: Life, group: int, term: int) -> None:
        self._tell(f"node {life.name} leads group {group} in term {term}")
        self.invariants.leads(life, group, term)
        self.promises.leads(life, group, term)

    def turned(self, life: Life) -> None:
        self.invariants.turned(life)
        self.promises.turned(life)


def draw_config(generator: random.Random, settings: Settings) -> dict[str, Any]:
    """The settings of the nodes: those that make rare things happen, drawn from the seed."""
    return {
        "shards": settings.groups,
        "memtable_age_s": generator.choice((0.5, 2.0, 10.0, 60.0)),
        "memtable_bytes_max": generator.choice((2_000, 20_000, 16 << 20)),
        "append_bytes_max": generator.choice((64, 1_000, 1 << 20)),
        "log_kept_entries": generator.choice((4, 32, 1024)),
        "log_budget_bytes": generator.choice((64 << 10, 2 << 30)),
        "timeout_s": 10.0,
    }


def run(
    seed: int, settings: Settings | None = None, faults: Sequence[Fault] | None = None
) -> Outcome:
    """Run one seed."""
    return Simulation(seed, settings or Settings(), faults).run()


def shorter(settings: Settings, seconds: float) -> Settings:
    """The same for less time."""
    return replace(settings, seconds=seconds)
