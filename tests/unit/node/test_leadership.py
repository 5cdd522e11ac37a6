"""Leadership events of users' machines: their order over changes of leaders, what they may do, and what their failures cost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Closed, Config, Group, Node, OutcomeUnknown, Quarantined
from multiraft.node import leadership

from .machines import Counter
from .test_cluster import Trio, trio
from .test_machines import alone, machine_of

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.loops("uvloop"), pytest.mark.slow]


class Led(Counter):
    """Writes down what it is told, with what it had applied by then."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__()
        self.told = told

    async def on_leader_start(self, term: int) -> None:
        self.told.append(("start", term, self.total))

    async def on_leader_stop(self) -> None:
        self.told.append(("stop",))


Told = dict[int, list[Any]]


def led(told: Told, make: Callable[[list[Any]], Any] = Led) -> Callable[[int], dict[str, Any]]:
    return lambda number: {"led": lambda: make(told.setdefault(number, []))}


async def all_groups(cluster: Trio) -> list[Group]:
    return list(
        await asyncio.gather(*(node.create_group("led", "led") for node in cluster.nodes.values()))
    )


def leader_of(cluster: Trio, group: Group) -> Node:
    return next(node for node in cluster.nodes.values() if node.multi.leads(group.id))


async def move(cluster: Trio, group: Group, until: Callable[[], bool] = lambda: False) -> None:
    """Let another node lead, and wait until it does, or ``until`` says that it did.

    On a busy machine a transfer may run out of time and be asked for anew; and a leader that fails at once hands back.
    """
    before = leader_of(cluster, group)

    def moved() -> bool:
        if before.multi.leads(group.id) and before.multi.hand_over(group.id, before.peers.linked):
            before.turn.kick()
        return until() or any(
            n.multi.leads(group.id) for n in cluster.nodes.values() if n is not before
        )

    await cluster.until(moved)


def test_starts_and_stops_alternate_and_a_start_has_applied_all_before_its_term(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiraft.node.node.SPREAD_EVERY_TICKS", 10**9)
    told: Told = {}

    async def main() -> None:
        async with trio(tmp_path, machines=led(told), shards=1) as cluster:
            await cluster.start(1, 2, 3)
            group, *_ = await all_groups(cluster)
            for total in range(1, 6):
                await group.propose(b"1")
                terms = [
                    event[1] for events in told.values() for event in events if event[0] == "start"
                ]
                await move(cluster, group)
                leader = leader_of(cluster, group)
                mine = told.setdefault(int(leader.config.node_id), [])
                await cluster.until(lambda mine=mine: bool(mine) and mine[-1][0] == "start")  # type: ignore[misc]
                _, term, applied = mine[-1]
                assert applied == total, "all that was committed before its term"
                assert not terms or term > max(terms)
            await cluster.until(lambda: sum(e[-1] != ("stop",) for e in told.values() if e) == 1)
        for events in told.values():
            assert [event[0] for event in events] == ["start", "stop"] * (len(events) // 2)
        assert sum(len(events) for events in told.values()) >= 10

    arun(main())


class Slow(Led):
    """Its stop takes as long as the test wants."""

    gates: dict[int, asyncio.Event]

    async def on_leader_stop(self) -> None:
        self.told.append(("stopping",))
        await self.gates[0].wait()
        self.told.append(("stop",))


def test_a_stop_is_awaited_before_the_next_start(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiraft.node.node.SPREAD_EVERY_TICKS", 10**9)
    told: Told = {}

    async def main() -> None:
        gate = asyncio.Event()
        monkeypatch.setattr(Slow, "gates", {0: gate}, raising=False)
        async with trio(tmp_path, machines=led(told, Slow), shards=1) as cluster:
            await cluster.start(1, 2, 3)
            group, *_ = await all_groups(cluster)
            await group.propose(b"1")
            first = leader_of(cluster, group)
            mine = told[int(first.config.node_id)]
            await cluster.until(lambda: [event[0] for event in mine] == ["start"])
            while not (len(mine) > 1 and leader_of(cluster, group) is first):
                await move(cluster, group)  # away, and round again until it is back
                await cluster.until(lambda: len(mine) > 1)
            for _ in range(10):
                await group.propose(b"1")
            assert [event[0] for event in mine] == ["start", "stopping"], (
                "it leads, but has not started"
            )
            gate.set()
            await cluster.until(
                lambda: [e[0] for e in mine][:4] == ["start", "stopping", "stop", "start"]
            )

    arun(main())


class Busy(Led):
    """It proposes and reads from inside, and works as long as it leads."""

    group: Any = None

    async def on_leader_start(self, term: int) -> None:
        group = await self.nodes[0].create_group("led", "led")
        self.told.append(("start", await group.propose(b"1"), await group.read()))
        try:
            while True:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.told.append(("cancelled",))
            raise

    async def on_leader_stop(self) -> None:
        group = self.nodes[0].group("led")
        self.told.append(("stop", await group.propose(b"1")))

    nodes: list[Node]


def test_events_may_use_the_handle_and_a_start_that_still_runs_is_cancelled(
    arun: Run, tmp_path: Path
) -> None:
    told: list[Any] = []

    async def main() -> None:
        # At the end two close at once, and what the last leader then proposes finds no majority: it is given up in time.
        async with trio(tmp_path, shards=1, timeout_s=2.0) as cluster:

            def kinds(number: int) -> dict[str, Any]:
                def make() -> Busy:
                    machine = Busy(told)
                    machine.nodes = [cluster.nodes[number]]
                    return machine

                return {"led": make}

            cluster.machines = kinds
            await cluster.start(1, 2, 3)
            group, *_ = await all_groups(cluster)
            await cluster.until(lambda: bool(told))
            assert told[0][0] == "start" and told[0][1] >= 1 and told[0][2] >= told[0][1]
            leader = leader_of(cluster, group)
            await cluster.stop(int(leader.config.node_id))
            # It was told while the node could still forward, and awaited: its proposal is in.
            assert [event[0] for event in told[1:] if event[0] != "start"] == ["cancelled", "stop"]
            other = next(iter(cluster.nodes.values()))
            await cluster.until(lambda: [e[0] for e in told].count("start") == 2)
            assert await other.group("led").read() >= 3

    arun(main())


class Failing(Led):
    fails: list[str]
    """The events that fail next, each once."""

    def fail(self, event: str, why: str) -> None:
        if event in self.fails:
            self.fails.remove(event)
            raise RuntimeError(why)

    async def on_leader_start(self, term: int) -> None:
        self.fail("start", "cannot lead")
        await super().on_leader_start(term)

    async def on_leader_stop(self) -> None:
        self.fail("stop", "cannot stop")
        await super().on_leader_stop()


@pytest.mark.parametrize("fails", ["start", "stop"])
def test_p97_an_event_that_raises_quarantines_its_replica_alone(
    arun: Run, tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiraft.node.node.SPREAD_EVERY_TICKS", 10**9)
    told: Told = {}
    failing: list[str] = []
    monkeypatch.setattr(Failing, "fails", failing, raising=False)

    async def main() -> None:
        async with trio(tmp_path, machines=led(told, Failing), shards=1) as cluster:
            await cluster.start(1, 2, 3)
            group, *_ = await all_groups(cluster)
            await cluster.until(lambda: any(events for events in told.values()))
            await group.propose(b"1")
            leader = leader_of(cluster, group)
            others = [node for node in cluster.nodes.values() if node is not leader]
            if fails == "stop":
                failing.append("stop")
                await move(cluster, group)
                failed = leader
            else:
                failing.append("start")

                def failed_somewhere() -> bool:
                    return any(node.status().machines[0].quarantined for node in others)

                await move(cluster, group, failed_somewhere)
                await cluster.until(failed_somewhere)
                failed = next(n for n in others if n.status().machines[0].quarantined)
            await cluster.until(lambda: failed.status().machines[0].quarantined != "")
            assert f"RuntimeError: cannot {'lead' if fails == 'start' else 'stop'}" in (
                failed.status().machines[0].quarantined
            )
            with pytest.raises(Quarantined):
                await failed.group("led").read()
            assert await failed.group("led").propose(b"1", timeout=20) == 2
            assert failed.group("led").leader != failed.config.node_id
            await failed.store.put(b"k", b"v")

    arun(main())


def test_reads_are_linearizable_after_a_leader_change(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that begins after an acknowledged proposal sees it, whoever leads by then and wherever it is asked."""
    monkeypatch.setattr("multiraft.node.node.SPREAD_EVERY_TICKS", 10**9)
    told: Told = {}

    async def main() -> None:
        async with trio(tmp_path, machines=led(told), shards=1) as cluster:
            await cluster.start(1, 2, 3)
            groups = await all_groups(cluster)
            total = 0
            for round in range(6):
                for group in groups:
                    total = await group.propose(b"1")
                if round % 2:
                    await move(cluster, groups[0])
                assert await asyncio.gather(*(group.read() for group in groups)) == [total] * 3

    arun(main())


def test_a_stop_that_hangs_does_not_keep_a_node_from_closing(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    async def main() -> None:
        monkeypatch.setattr(Slow, "gates", {0: asyncio.Event()}, raising=False)
        node = alone(tmp_path, lambda: Slow(told), timeout_s=0.2)
        await node.start()
        group = await node.create_group("led", "counter")
        assert await group.propose(b"1") == 1
        await node.ready()
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0.01)
        await node.aclose()
        assert [event[0] for event in told] == ["start", "stopping"]
        with pytest.raises((Closed, OutcomeUnknown)):
            await group.propose(b"1")

    arun(main())


def test_a_start_waits_until_all_before_its_term_is_applied(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiraft.node.node.SPREAD_EVERY_TICKS", 10**9)
    told: Told = {}

    async def main() -> None:
        async with trio(tmp_path, machines=led(told), shards=1) as cluster:
            await cluster.start(1, 2, 3)
            group, *_ = await all_groups(cluster)
            await group.propose(b"1")
            before = leader_of(cluster, group)
            others = [node for node in cluster.nodes.values() if node is not before]
            await cluster.until(lambda: all(machine_of(node, "led").total == 1 for node in others))
            gate = threading.Event()
            for node in others:
                machine_of(node, "led").gate = gate
            try:
                await before.group("led").propose(b"wait")
                assert await before.group("led").propose(b"1") == 2
                await cluster.until(
                    lambda: all(machine_of(node, "led").waiting.is_set() for node in others)
                )
                await move(cluster, group)  # to one that has committed both, and applied neither
                after = leader_of(cluster, group)
                mine = told.setdefault(int(after.config.node_id), [])
                for n in range(20):
                    await after.store.put(b"k%d" % n, b"turns go by")
                    after.users.leadership.look(group.id)
                assert after.multi.leads(group.id) and mine == []
            finally:
                gate.set()
            await cluster.until(lambda: bool(mine))
            assert mine[0][0] == "start" and mine[0][2] == 2

    arun(main())


class Stubborn(Led):
    """It does not let go: what it is asked to end goes on, whoever cancels it, until the test says so."""

    release: asyncio.Event

    async def hang(self) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.told.append(("cancelled",))


class StubbornStop(Stubborn):
    async def on_leader_stop(self) -> None:
        await super().on_leader_stop()
        await self.hang()


class StubbornStart(Stubborn):
    async def on_leader_start(self, term: int) -> None:
        await super().on_leader_start(term)
        await self.hang()


@pytest.mark.parametrize("failed", [False, True], ids=["closed", "failed"])
@pytest.mark.parametrize("kind", [StubbornStop, StubbornStart])
def test_a_machine_that_swallows_its_cancellation_does_not_keep_its_node_from_ending(
    arun: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: Any,
    failed: bool,
) -> None:
    monkeypatch.setattr(leadership, "CLEAN_UP_S", 0.1)
    monkeypatch.setattr("multiraft.node.wiring.CLEAN_UP_S", 0.1)
    told: list[Any] = []

    async def main() -> None:
        kind.release = asyncio.Event()
        try:
            await end()
        finally:
            kind.release.set()

    async def end() -> None:
        config = Config(data_dir=str(tmp_path), election_ms=300, tick_ms=20, timeout_s=0.3)
        node = Node(config, machines={"led": lambda: kind(told)})
        await node.start()
        group = await node.create_group("led", "led", timeout=20)
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(20):
            if failed:
                node.failed(RuntimeError("as asked"))
                with pytest.raises(RuntimeError):
                    await node.closed()
            else:
                await node.aclose()
        method = "on_leader_stop" if kind is StubbornStop else "on_leader_start"
        late = [one for one in caplog.records if vars(one).get("group") == group.id]
        assert [f"{method}() of its machine" in one.getMessage() for one in late] == [True, True]
        assert "is cancelled" in late[0].getMessage() and "left behind" in late[1].getMessage()
        assert ("cancelled",) in told
        async with Node(config, machines={"led": lambda: Led([])}):
            pass  # the directory is free

    arun(main())
