"""The parts of a simulation over whole nodes: faults, worlds, clusters, clients, invariants; and that a seed is a run."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from multiraft.errors import ConfigError
from multiraft.testing.cluster import Life, SimulatedCluster
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.invariants import Invariants
from multiraft.testing.nemesis import KINDS, PROFILES, Fault, Nemesis, calm, draw_faults
from multiraft.testing.network import Route
from multiraft.testing.recorder import Recorder
from multiraft.testing.schedule import NS, Schedule
from multiraft.testing.simulation import Settings, Simulation, run
from multiraft.testing.workload import Load, Workload
from multiraft.testing.world import JOB_NS, SimulatedWorker
from tests.unit.testing.fakes import Groups, life, loop

SMALL = Settings(nodes=3, groups=2, seconds=3.0, profile="all")


# -- a seed is a run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    one, again, other = run(5, SMALL), run(5, SMALL), run(6, SMALL)
    assert (one.trace, one.events, one.story) == (again.trace, again.events, again.story)
    assert list(one.history) == list(again.history)
    assert one.trace != other.trace


@pytest.mark.slow
def test_other_faults_leave_everything_else_of_a_seed() -> None:
    calmed = run(5, SMALL, faults=())
    assert not calmed.violation and calmed.faults == ()
    assert calmed.trace == run(5, replace(SMALL, profile="none")).trace


# -- faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_faults_are_drawn_from_their_profile_by_time(profile: str) -> None:
    for seed in range(20):
        drawn = draw_faults(random.Random(seed), profile, 60.0, range(1, 6))
        assert drawn == draw_faults(random.Random(seed), profile, 60.0, range(1, 6))
        assert [fault.at_ms for fault in drawn] == sorted(fault.at_ms for fault in drawn)
        for fault in drawn:
            kind = KINDS[fault.kind]
            assert fault.kind in PROFILES[profile] and 0 <= fault.at_ms <= 60_000
            assert kind.for_ms[0] <= fault.for_ms <= kind.for_ms[1] or not kind.for_ms[0]
            assert kind.strength[0] <= fault.strength <= kind.strength[1]
            sizes = {"one": {1}, "pair": {2}, "all": {5}, "side": {1, 2, 3, 4}}[kind.whom]
            assert len(set(fault.nodes)) == len(fault.nodes) in sizes
            assert set(fault.nodes) <= set(range(1, 6))
            assert Fault.from_json(fault.to_json()) == fault


def test_every_kind_is_drawn_and_swarms_differ_in_their_kinds() -> None:
    swarms = [
        frozenset(
            fault.kind for fault in draw_faults(random.Random(s), "swarm", 600.0, range(1, 4))
        )
        for s in range(100)
    ]
    assert frozenset().union(*swarms) == set(KINDS)
    assert len(set(swarms)) > 80 and min(map(len, swarms)) < 5 < 15 < max(map(len, swarms))


def test_disks_are_wiped_of_fewer_than_half_of_the_nodes() -> None:
    for nodes, most in ((3, 1), (4, 1), (5, 2)):
        counts = [
            sum(fault.kind == "wiped-disk" for fault in drawn)
            for seed in range(50)
            for drawn in [draw_faults(random.Random(seed), "all", 2000.0, range(1, nodes + 1))]
        ]
        assert max(counts) == most


def test_a_profile_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of swarm, all"):
        draw_faults(random.Random(1), "rain", 60.0, (1, 2, 3))


def test_a_calm_route_is_as_a_new_one_but_for_what_is_under_way() -> None:
    route = Route(9, 9, 0.5, 0.5, 0.5, 0.5, 10**12, True, arrives_ns=7, queued_bytes=8)
    calm(route)
    assert route == Route(arrives_ns=7, queued_bytes=8)


# -- the world of a process -----------------------------------------------------------------------------------------------


def worker() -> tuple[Schedule, SimulatedDisk, SimulatedWorker]:
    schedule, disk = Schedule(), SimulatedDisk(random.Random(1))
    return schedule, disk, SimulatedWorker(loop(schedule), disk, lambda: None)


def test_jobs_run_one_at_a_time_and_are_told_when_they_would_be_done() -> None:
    schedule, disk, jobs = worker()
    seen: list[tuple[str, int]] = []

    def slow() -> str:
        seen.append(("runs", schedule.now_ns))
        disk.troubles.cost_ns += NS
        return "slow"

    jobs.submit(slow, lambda result, error: seen.append((f"{result} told", schedule.now_ns)))
    jobs.submit(lambda: 1 // 0, lambda _, error: seen.append((repr(error), schedule.now_ns)))
    schedule.run(NS // 2)
    assert seen == [("runs", 0)]
    schedule.run(3 * NS)
    assert seen[1] == ("slow told", NS + JOB_NS)
    assert seen[2][0].startswith("ZeroDivisionError") and seen[2][1] >= seen[1][1] + JOB_NS


def test_a_killed_process_never_hears_of_its_job() -> None:
    schedule, _, jobs = worker()
    ran: list[int] = []
    jobs.submit(lambda: ran.append(1), lambda result, error: pytest.fail("it is dead"))
    schedule.run(0)
    jobs._loop.kill_process()
    schedule.run(NS)
    assert ran == [1]


def test_a_worker_that_is_closed_does_what_it_has_at_once_and_takes_no_more() -> None:
    schedule, _, jobs = worker()
    told: list[Any] = []
    for number in range(3):
        jobs.submit(lambda number=number: number, lambda result, error: told.append(result))  # type: ignore[misc]
    schedule.run(0)
    jobs.close()
    schedule.run(schedule.now_ns)
    assert told == [0, 1, 2]
    schedule.run(NS)
    assert told == [0, 1, 2]  # each of them once
    with pytest.raises(Exception, match="closed"):
        jobs.submit(lambda: 1, lambda result, error: None)


# -- a cluster ------------------------------------------------------------------------------------------------------------


class Watching:
    """Notes what a cluster tells."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def started(self, life: Life) -> None:
        self.said.append(("started", life.name))

    def turned(self, life: Life) -> None: ...

    def leads(self, life: Life, group: int, term: int) -> None:
        self.said.append(("leads", life.name))

    def ended(self, life: Life, error: BaseException | None) -> None:
        self.said.append(("ended", f"{life.name} {error!r}"))


@pytest.fixture
def cluster() -> Any:
    made = SimulatedCluster(random.Random(4), Watching(), nodes=3)
    for number in made.numbers:
        made.start(number)
    made.schedule.run(5 * NS)
    yield made
    for each in made.all_lives:
        each.loop.discard()


@pytest.mark.slow
def test_nodes_start_lead_are_killed_and_live_again(cluster: SimulatedCluster) -> None:
    watcher = cluster._watcher
    assert isinstance(watcher, Watching)
    assert len(cluster.serving()) == 3 and cluster.bootstrapped()
    assert ("leads" in {what for what, _ in watcher.said}) and cluster.lives[1].knows_leaders()
    cluster.kill(1)
    assert cluster.alive(1) is None and len(cluster.serving()) == 2
    assert not [one for one in watcher.said if one[0] == "ended"]  # it did not end by itself
    cluster.start(1)
    with pytest.raises(AssertionError, match="alive"):
        cluster.start(1)
    cluster.schedule.run(10 * NS)
    assert ("started", "1.2") in watcher.said and cluster.lives[1].knows_leaders()


@pytest.mark.slow
def test_a_node_that_is_closed_ends_and_says_so_without_an_error(
    cluster: SimulatedCluster,
) -> None:
    cluster.close(2)
    cluster.schedule.run(20 * NS)
    watcher = cluster._watcher
    assert isinstance(watcher, Watching)
    assert ("ended", "2.1 None") in watcher.said and cluster.alive(2) is None


@pytest.mark.slow
def test_a_stopped_node_serves_nothing_and_comes_back(cluster: SimulatedCluster) -> None:
    cluster.stop(3)
    assert len(cluster.serving()) == 2
    cluster.schedule.run(10 * NS)
    cluster.resume(3)
    cluster.schedule.run(15 * NS)
    assert len(cluster.serving()) == 3 and cluster.lives[3].count == 1


@pytest.mark.slow
def test_power_that_goes_in_a_write_ends_the_node_and_the_nemesis_starts_it_again(
    cluster: SimulatedCluster,
) -> None:
    nemesis = Nemesis(cluster, [Fault("power-cut-in-a-write", 100, 0, (1,), 3.0)])
    nemesis.begin()
    watcher = cluster._watcher
    assert isinstance(watcher, Watching)
    watcher.ended = lambda life, error: nemesis.ended(life.number)  # type: ignore[method-assign]
    cluster.schedule.run(30 * NS)
    assert cluster.lives[1].count == 2 and cluster.lives[1].serving


@pytest.mark.slow
def test_after_heal_no_fault_begins_and_none_lasts(cluster: SimulatedCluster) -> None:
    cut = Fault("cut", 0, 10**6, (1,))
    stop = Fault("stop", 0, 10**6, (2,))
    later = Fault("kill", 500, 10, (3,))
    lossy = Fault("loss", 0, 10**6, (1, 3), 0.5)
    nemesis = Nemesis(cluster, [cut, stop, lossy, later])
    nemesis.begin()
    cluster.schedule.run(cluster.schedule.now_ns + NS // 4)
    assert nemesis.under_way == {cut, stop, lossy} and not cluster.lives[2].loop.runs
    nemesis.heal()
    assert cluster.lives[2].loop.runs and not any(r.cut or r.loss for r in cluster.network.routes())
    cluster.schedule.run(cluster.schedule.now_ns + NS)
    assert cluster.lives[3].count == 1 and cluster.alive(3) is not None


# -- clients --------------------------------------------------------------------------------------------------------------


def client(store: object) -> tuple[Workload, list[str]]:
    """One client of a store, for ten simulated seconds."""
    schedule, surprises = Schedule(), []
    process = loop(schedule)
    recorder = Recorder(clock=lambda: schedule.now_ns)
    load = Load(operations_per_s=20.0, clients_a_node=1, keys=2)
    workload = Workload(random.Random(3), load, 1, recorder, surprises.append)
    node = SimpleNamespace(store=store)
    shown: Any = SimpleNamespace(name="1.1", number=1, loop=process, node=node, serving=True)
    workload.started(shown)
    schedule.run(10 * NS)
    process.discard()
    assert not process.troubles
    return workload, surprises


class Remembering:
    """A store that is right."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def put(self, key: bytes, value: bytes, timeout: float) -> None:
        self.values[key] = value

    async def get(self, key: bytes, timeout: float) -> bytes | None:
        return self.values.get(key)

    async def delete(self, key: bytes, timeout: float) -> None:
        self.values.pop(key, None)

    async def compare_and_set(
        self, key: bytes, value: bytes, timeout: float, expected: bytes = b"", revision: int = 0
    ) -> None:
        from multiraft.errors import PreconditionFailed

        if self.values.get(key, b"") != expected:
            raise PreconditionFailed("another value")
        self.values[key] = value


def test_clients_write_down_what_they_are_told() -> None:
    workload, surprises = client(Remembering())
    history = workload.recorder.history()
    assert not surprises and 100 < workload.acknowledged == len(history) < 400
    assert {operation.f for operation in history} == {"read", "write", "cas", "delete"}
    written = [operation.argument for operation in history if operation.f == "write"]
    assert len(set(written)) == len(written)


def test_an_answer_that_no_call_may_give_is_a_surprise() -> None:
    class Wrong(Remembering):
        async def get(self, key: bytes, timeout: float) -> bytes | None:
            raise ConfigError("this is no answer")

    _, surprises = client(Wrong())
    assert surprises and "this is no answer" in surprises[0]


# -- invariants -----------------------------------------------------------------------------------------------------------


def judged(**settings: Any) -> tuple[Invariants, list[str]]:
    said: list[str] = []
    return Invariants(random.Random(1), said.append, **settings), said


def groups(*log: tuple[int, bytes], commit: int = 0, applied: int = 0) -> Groups:
    made = Groups()
    made.log, made.commit, made.applied = list(log), commit, applied
    made.term = max((term for term, _ in log), default=1)
    return made


A, B, C = (1, b"a"), (1, b"b"), (2, b"c")


def test_a_run_that_is_right_is_left_alone() -> None:
    invariants, said = judged(hash_share=0.0)
    one, two = groups(A, B, commit=1), groups(A, commit=1, applied=1)
    invariants.leads(life(1, one), 1, 1)
    for _ in range(2):
        for number, multi in ((1, one), (2, two)):
            invariants.turned(life(number, multi))
        one.commit = one.applied = 2
        two.log.append(B)
    one.log.append(C)
    one.term = 2
    invariants.leads(life(1, one), 1, 2)
    assert not said and invariants.checks > 2


def test_two_leaders_of_one_term_are_a_violation() -> None:
    invariants, said = judged()
    invariants.leads(life(1, groups(A)), 1, 1)
    invariants.leads(life(1, groups(A)), 1, 1)
    assert not said
    invariants.leads(life(2, groups(A)), 1, 1)
    assert said == ["group 1 has two leaders in term 1: node 1 and node 2"]


@pytest.mark.parametrize(
    ("log", "words"), [((C,), "2 is committed"), ((A, (2, b"b")), "is of term 2, not 1")]
)
def test_a_leader_without_a_committed_entry_is_a_violation(log: Any, words: str) -> None:
    invariants, said = judged(hash_share=0.0)
    invariants.turned(life(1, groups(A, B, commit=2)))
    invariants.leads(life(2, groups(*log)), 1, 2)
    assert len(said) == 1 and words in said[0]


def test_another_entry_at_a_committed_index_is_a_violation() -> None:
    invariants, said = judged(hash_share=0.0)
    invariants.turned(life(1, groups(A, B, commit=2)))
    invariants.turned(life(2, groups(A, C, commit=2)))
    assert len(said) == 1 and "entry 2 of group 1 is committed as" in said[0]


@pytest.mark.parametrize(("commit", "applied"), [(1, 1), (2, 0)])
def test_an_index_that_goes_back_within_a_life_is_a_violation(commit: int, applied: int) -> None:
    invariants, said = judged(hash_share=0.0)
    multi = groups(A, B, commit=2, applied=1)
    invariants.turned(life(1, multi))
    multi.commit, multi.applied = commit, applied
    invariants.turned(life(1, multi, count=2))  # another life may know less
    assert not said
    invariants.turned(life(1, multi))
    assert said and "went back" in said[0]


@pytest.mark.parametrize(
    "wrong", [{"applied": 2}, {"commit": 3}, {"stable": 3}, {"base": 2, "applied": 1}]
)
def test_indexes_that_cannot_be_are_a_violation(wrong: dict[str, int]) -> None:
    invariants, said = judged(hash_share=0.0)
    multi = groups(A, B, commit=1)
    for name, value in wrong.items():
        setattr(multi, name, value)
    if wrong.get("commit"):
        multi.entries = lambda first, last: []  # type: ignore[method-assign]
    invariants.turned(life(1, multi))
    assert said and "applied" in said[0]


class Machine:
    """The state of one shard, in two steps."""

    def __init__(self, crc: int, applied: int) -> None:
        self.table = SimpleNamespace(shards={1})
        self._crc = crc
        self._applied = applied

    def shard(self, group: int) -> object:
        return SimpleNamespace(applied_index=self._applied)

    def state_hash(self, group: int, before: Any = None) -> object:
        if before is None:
            return SimpleNamespace(crc=0, keys=0, resume=b"k")
        return SimpleNamespace(crc=self._crc, keys=2, resume=None)


def test_two_states_after_one_entry_are_a_violation() -> None:
    invariants, said = judged()
    for number, crc, applied in ((1, 5, 7), (2, 5, 7), (3, 6, 8)):
        invariants.compare_state(life(number, groups(), machine=Machine(crc, applied)), 1)
    assert not said
    invariants.compare_state(life(3, groups(), machine=Machine(6, 7)), 1)
    assert "after entry 7 differs between node 1.1 and node 3.1" in said[0]


# -- the judgement --------------------------------------------------------------------------------------------------------


def test_what_nobody_took_in_a_node_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: Simulation) -> None:
        self.cluster.start(1).loop.call_soon(lambda: 1 // 0)
        self._pass(1.0)

    monkeypatch.setattr(Simulation, "_run", begin)
    outcome = run(1, SMALL)
    assert outcome.violation.startswith("unhandled in node 1.1: node 1: ")
    assert "ZeroDivisionError" in outcome.violation


def test_a_node_that_ends_by_itself_is_a_violation_unless_its_disk_was_made_to_fail() -> None:
    from multiraft.errors import StorageError

    for ill, error, wrong in (
        (False, StorageError("x"), True),
        (True, StorageError("x"), False),
        (True, ValueError("x"), True),
        (False, None, False),
    ):
        simulation = Simulation(1, SMALL)
        if ill:
            simulation.nemesis.ill.add(2)
        simulation.ended(life(2, groups()), error)
        assert bool(simulation.outcome.violation) is wrong
