"""What the core costs a message, a proposal, a turn and a tick, in CPU time, by the number of groups.

**A message step** is the stepping of one message inside ``MultiRaft.step_frame``, with everything that step_frame does for
it: checks of lengths and checksums, finding the replica, the rules, the run's copy into the batch, the answer into the
outbox. There are two kinds that matter, and both are reported: ``follower_step``, an append of one 16-byte entry, and
``leader_step``, its acknowledgement (the one that commits the entry, and the one after it). What a turn does for all
messages of a group at once (``ready``, ``persisted``) stands by itself, and ``cycle`` and ``busy_cycle`` hold all of it, of
all three nodes.

Times are of the process (not of the wall), one cycle of all groups a round; ``operations`` in ``extra_info`` is what to divide by.
``ns`` there is the fastest and the median round, divided.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.nodes import OPTIONS, Trio

GROUPS = (1, 64, 1_024, 10_000)
ENTRY_BYTES = 16
MANY = 100
IDLE_GROUP_BYTES_MAX = 2048

cpu_time = pytest.mark.benchmark(timer=time.process_time)


def measure(
    benchmark: Any,
    run: Callable[[], None],
    *,
    groups: int,
    operations: int,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Time ``run`` alone, in as many rounds as its size allows, with ``before`` and ``after`` around each."""
    benchmark.extra_info.update(
        groups=groups,
        entry_bytes=ENTRY_BYTES,
        operations=operations,
        options=repr(OPTIONS),
    )
    rounds = 30 if groups > 5_000 else 300
    benchmark.pedantic(
        run, setup=before, teardown=after, rounds=rounds, iterations=1, warmup_rounds=5
    )
    if benchmark.disabled:
        after()  # pytest-benchmark forgets it then
    else:
        stats = benchmark.stats.stats
        benchmark.extra_info["ns"] = {
            "min": round(stats.min * 1e9 / operations, 1),
            "median": round(stats.median * 1e9 / operations, 1),
        }


def groups_of(benchmark: Any, groups: int) -> int:
    """Untimed, fewer groups show as well that it works."""
    return min(groups, 64) if benchmark.disabled else groups


def measure_phase(benchmark: Any, groups: int, phase: str) -> None:
    trio = Trio(groups_of(benchmark, groups))
    following = Trio.PHASES[Trio.PHASES.index(phase) + 1]
    measure(
        benchmark,
        trio.phase(phase),
        groups=groups,
        operations=len(trio.groups),
        before=lambda: trio.run(end=phase),
        after=lambda: trio.run(first=following),
    )
    trio.check()


@cpu_time
@pytest.mark.benchmark(group="core: step an append")
@pytest.mark.parametrize("groups", GROUPS)
def test_follower_step(benchmark: Any, groups: int) -> None:
    measure_phase(benchmark, groups, "follower_step")


@cpu_time
@pytest.mark.benchmark(group="core: step an acknowledgement")
@pytest.mark.parametrize("phase", ["leader_step_commits", "leader_step_more"])
@pytest.mark.parametrize("groups", GROUPS)
def test_leader_step(benchmark: Any, groups: int, phase: str) -> None:
    measure_phase(benchmark, groups, phase)


@cpu_time
@pytest.mark.benchmark(group="core: turn")
@pytest.mark.parametrize(
    "phase",
    [
        "leader_ready",
        "leader_persisted",
        "leader_commit",
        "leader_applied",
        "follower_ready",
        "follower_persisted",
        "follower_answers",
    ],
)
@pytest.mark.parametrize("groups", GROUPS)
def test_turn(benchmark: Any, groups: int, phase: str) -> None:
    measure_phase(benchmark, groups, phase)


@cpu_time
@pytest.mark.benchmark(group="core: propose")
@pytest.mark.parametrize("groups", GROUPS)
def test_propose(benchmark: Any, groups: int) -> None:
    measure_phase(benchmark, groups, "propose")


@cpu_time
@pytest.mark.benchmark(group="core: propose")
@pytest.mark.parametrize("groups", GROUPS)
def test_propose_many(benchmark: Any, groups: int) -> None:
    trio = Trio(groups_of(benchmark, groups))
    payloads = [trio.payload] * MANY

    def run() -> None:
        propose_many = trio.leader.propose_many
        for group in trio.groups:
            propose_many(group, payloads)

    def after() -> None:
        trio.proposed += MANY
        trio.settle()

    measure(benchmark, run, groups=groups, operations=MANY * len(trio.groups), after=after)
    trio.check()


@cpu_time
@pytest.mark.benchmark(group="core: whole cycle of three nodes")
@pytest.mark.parametrize("groups", GROUPS)
def test_cycle(benchmark: Any, groups: int) -> None:
    """From a proposal until all three nodes have applied it and nothing is left to say."""
    trio = Trio(groups_of(benchmark, groups))
    measure(benchmark, trio.run, groups=groups, operations=len(trio.groups))
    trio.check()


@cpu_time
@pytest.mark.benchmark(group="core: whole cycle of three nodes")
@pytest.mark.parametrize("groups", GROUPS)
def test_busy_cycle(benchmark: Any, groups: int) -> None:
    """The same where the next entry follows at once: no message is sent for a commit index alone."""
    trio = Trio(groups_of(benchmark, groups))
    measure(benchmark, trio.busy_cycle, groups=groups, operations=len(trio.groups))
    trio.check()


@cpu_time
@pytest.mark.benchmark(group="core: tick")
@pytest.mark.parametrize("groups", GROUPS)
def test_tick_of_followers(benchmark: Any, groups: int) -> None:
    """A tick that makes nobody campaign: heartbeats came just before."""
    trio = Trio(groups_of(benchmark, groups))

    def heartbeats() -> None:
        trio.leader.tick(0)
        trio.settle()

    measure(
        benchmark,
        lambda: trio.follower.tick(0),
        groups=groups,
        operations=len(trio.groups),
        before=heartbeats,
    )
    trio.check()


@cpu_time
@pytest.mark.benchmark(group="core: tick")
@pytest.mark.parametrize("groups", GROUPS)
def test_tick_and_heartbeats_of_leaders(benchmark: Any, groups: int) -> None:
    """A tick and the turn after it: two heartbeats a group are made."""
    trio = Trio(groups_of(benchmark, groups))
    frames: list[tuple[int, bytes]] = []

    def run() -> None:
        trio.leader.tick(0)
        frames.extend(trio.leader.ready().frames)

    def after() -> None:
        assert len(frames) == 2
        for node, frame in frames:
            trio.nodes[node].step_frame(1, frame)
        frames.clear()
        trio.settle()

    measure(benchmark, run, groups=groups, operations=len(trio.groups), after=after)
    trio.check()


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def idle_memory(groups: int) -> None:
    """Print what a process grows by, in bytes a replica: made and elected; then idle again after some entries."""
    small = Trio(16)
    small.run()
    before = resident_bytes()
    trio = Trio(groups)
    elected = resident_bytes()
    for _ in range(4):
        trio.run()
    idle = resident_bytes()
    trio.check()
    replicas = len(trio.nodes) * groups
    json.dump([(elected - before) / replicas, (idle - before) / replicas], sys.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
@pytest.mark.benchmark(group="core: memory")
def test_memory_of_idle_groups(benchmark: Any) -> None:
    """Not a time: ``bytes_per_group`` in ``extra_info``, of a fresh process, against the limit that the project set itself."""
    groups = 500 if benchmark.disabled else 10_000
    command = f"from benchmarks.test_multi_step import idle_memory; idle_memory({groups})"
    done = benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-c", command], capture_output=True, check=True),
        rounds=1,
    )
    elected, idle = json.loads(done.stdout)
    benchmark.extra_info.update(
        groups=groups, bytes_per_group={"elected": round(elected), "idle": round(idle)}
    )
    if groups == 10_000:
        assert idle <= IDLE_GROUP_BYTES_MAX
