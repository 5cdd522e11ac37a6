"""State machines of users: made by name, results and errors that are the same from everywhere, kinds, deadlines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from multiraft import (
    BatchError,
    Closed,
    CommandError,
    Config,
    ConfigError,
    DeadlineExceeded,
    Group,
    GroupExists,
    GroupUnknown,
    InvalidCommand,
    InvalidResult,
    Node,
    OutcomeUnknown,
    Overloaded,
    Quarantined,
    TooLarge,
)
from multiraft.machine import hosted

from .machines import ANSWERS, NOT_PLAIN, PLAIN, Counter, DiskCounter, LoopCounter
from .test_cluster import Trio, trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.loops("uvloop"), pytest.mark.slow]

KINDS: dict[str, Any] = {"memory": Counter, "disk": DiskCounter, "loop": LoopCounter}


@asynccontextmanager
async def three(folder: Path, **settings: Any) -> AsyncIterator[tuple[Trio, list[Group]]]:
    """Three nodes with one group, by each node's handle."""
    kind = settings.pop("kind", Counter)
    async with trio(folder, machines=lambda _: {"counter": kind}, shards=1, **settings) as cluster:
        await cluster.start(1, 2, 3)
        await cluster.ready()
        groups = await asyncio.gather(
            *(node.create_group("hits", kind) for node in cluster.nodes.values())
        )
        yield cluster, groups


def alone(folder: Path, kind: Any = Counter, **settings: Any) -> Node:
    return Node(Config(data_dir=str(folder), **settings), machines={"counter": kind})


def machine_of(node: Node, name: str = "hits") -> Any:
    """The machine itself, for tests that want to look inside."""
    return node.users.machines[node.group(name).id].machine


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_does_what_it_says(arun: Run, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with alone(tmp_path, KINDS[kind]) as node:
            group = await node.create_group("hits", KINDS[kind])
            assert await group.read() == 0
            assert await group.propose(b"5") == 5
            assert (group.name, group.kind, group.leads, group.leader) == (
                "hits",
                "counter",
                True,
                1,
            )
            assert await group.propose(b"-2") == 3
            assert await group.read() == await group.read(stale=True) == 3
            assert await group.propose(b"") == 3, "an empty command is a command"
            assert await group.propose_many([b"1", b"2", b"3"]) == [4, 6, 9]
            assert await group.propose_many([]) == []
            assert [c for _, c in await group.read("applied")] == b"5 -2  1 2 3".split(b" ")

    arun(main())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_there_after_a_restart(arun: Run, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        for round in range(3):
            async with alone(tmp_path, KINDS[kind]) as node:
                group = await node.create_group("hits", KINDS[kind])
                assert await group.read() == 50 * round
                assert group.id == 2
                for n in range(50):
                    assert await group.propose(b"1") == 50 * round + n + 1

    arun(main())


def test_results_are_the_same_from_every_node(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with three(tmp_path) as (cluster, groups):
            assert len({group.id for group in groups}) == 1
            for name in ANSWERS:
                for group in groups:
                    command = b"answer " + name.encode()
                    if name in NOT_PLAIN:
                        with pytest.raises(InvalidResult, match="was applied, but its result"):
                            await group.propose(command)
                    else:
                        answer = await group.propose(command)
                        assert answer == PLAIN.get(name, ANSWERS[name])
                        assert type(answer) is type(PLAIN.get(name, ANSWERS[name]))
            assert sum(node.forwarding.forwarded for node in cluster.nodes.values()) > 2 * len(
                ANSWERS
            )
            assert not any(
                one.quarantined for n in cluster.nodes.values() for one in n.status().machines
            )

    arun(main())


def test_a_command_error_is_an_answer(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with three(tmp_path) as (_, groups):
            for at, group in enumerate(groups, 1):
                with pytest.raises(CommandError, match=r"^as asked$") as caught:
                    await group.propose(b"refuse")
                assert type(caught.value) is CommandError
                with pytest.raises(BatchError) as many:
                    await group.propose_many([b"1", b"refuse", b"answer object", b"0"])
                outcomes: list[Any] = many.value.outcomes
                assert (outcomes[0], outcomes[3]) == (at, at)
                assert [type(one) for one in outcomes[1:3]] == [CommandError, InvalidResult]
            assert await groups[0].read() == 3

    arun(main())


def test_what_a_read_raises_is_its_callers(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as node:
            group = await node.create_group("hits", Counter)
            with pytest.raises(KeyError, match="no such thing"):
                await group.read("fail")
            assert await group.propose(b"1") == 1

    arun(main())


def test_arguments_that_make_no_command_or_group(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as node:
            group = await node.create_group("hits", "counter")
            for command in ("text", None, bytearray(b"1"), 1):
                with pytest.raises(InvalidCommand):
                    group.propose(command)  # type: ignore[arg-type]
            with pytest.raises(TooLarge):
                group.propose(b"x" * (8 * 1024 * 1024))
            for name in ("", "x" * 129, 7):
                with pytest.raises(InvalidCommand):
                    await node.create_group(name, Counter)  # type: ignore[arg-type]
            for unknown in (Trio, "nothing"):
                with pytest.raises(InvalidCommand, match="registered"):
                    await node.create_group("other", unknown)  # type: ignore[arg-type]
            with pytest.raises(GroupUnknown):
                node.group("other")
            assert node.group("hits").id == group.id
        with pytest.raises(Closed):
            group.propose(b"1")
        with pytest.raises(Closed):
            group.read()
        with pytest.raises(ConfigError, match="another machine"):
            alone(tmp_path).register("counter", DiskCounter)

    arun(main())


def test_a_name_is_one_group_of_one_kind_for_ever(arun: Run, tmp_path: Path) -> None:
    kinds = {"a": Counter, "b": LoopCounter}

    async def main() -> None:
        async with trio(tmp_path, machines=lambda _: kinds, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            nodes = list(cluster.nodes.values())
            made = await asyncio.gather(  # before anybody is ready, and all at once
                *(node.create_group(f"g{n % 4}", Counter) for n in range(12) for node in nodes)
            )
            ids = {group.name: group.id for group in made}
            assert sorted(ids.values()) == [2, 3, 4, 5]
            assert all(ids[group.name] == group.id for group in made)
            with pytest.raises(GroupExists, match="'a', not 'b'"):
                await nodes[1].create_group("g1", LoopCounter)
            assert (await nodes[2].create_group("g9", "b")).id == 6
            await cluster.stop(1, 2, 3)
            await cluster.start(3, 2, 1)
            assert (await cluster.nodes[1].create_group("g1", Counter)).id == ids["g1"]
            assert (await cluster.nodes[1].create_group("g10", Counter)).id == 7

    arun(main())


def test_a_node_without_the_kind_holds_the_log_and_applies_when_it_is_registered(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(
            tmp_path, machines=lambda node: {} if node == 3 else {"counter": Counter}, shards=1
        ) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            group = await cluster.nodes[1].create_group("hits", Counter)
            for _ in range(20):
                await group.propose(b"1")
            lacking = cluster.nodes[3]
            await cluster.until(lambda: lacking.multi.indexes(group.id)[1] >= 20)
            (status,) = lacking.status().machines
            assert status.applied_index == 0 and status.lag_entries > 0
            assert "'counter'" in status.quarantined and "not registered" in status.quarantined
            there = lacking.group("hits")
            with pytest.raises(Quarantined, match="not registered"):
                await there.read()
            assert await there.propose(b"1") == 21, "others apply, and the result comes back"
            await cluster.stop(1)  # the two that are left commit, and only one of them may lead
            assert await there.propose(b"1", timeout=10) == 22
            assert there.leader == 2
            lacking.register("counter", Counter)
            await cluster.until(lambda: not lacking.status().machines[0].quarantined)
            assert await there.read() == 22
            (status,) = lacking.status().machines
            assert status.quarantined == ""
            await cluster.stop(3)
            cluster.machines = None  # what was saved is kept, though nothing can read it
            await cluster.start(1, 3)
            back = cluster.nodes[3]
            await cluster.until(
                lambda: bool(back.status().machines) and back.group("hits").leader == 2
            )
            with pytest.raises(Quarantined):
                await cluster.nodes[3].group("hits").read()
            assert await cluster.nodes[3].group("hits").propose(b"1") == 23

    arun(main())


def test_p100_a_proposal_that_is_cancelled_is_applied_all_the_same(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with three(tmp_path) as (_, groups):
            await groups[0].propose(b"0")
            for group in groups:
                tasks = [asyncio.ensure_future(group.propose(b"1")) for _ in range(10)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(one, int) for one in done[1::2])
            total = await groups[1].read()
            assert total == 30

    arun(main())


def test_p79_a_machine_that_does_not_answer_in_time(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as node:
            group = await node.create_group("hits", Counter)
            assert await group.propose(b"0") == 0
            machine = machine_of(node)
            machine.gate = threading.Event()
            with pytest.raises(DeadlineExceeded):
                await group.propose(b"wait", timeout=0.1)
            with pytest.raises(DeadlineExceeded):
                await group.read(timeout=0.1)
            with pytest.raises(DeadlineExceeded):
                await group.read(timeout=0.1, stale=True)
            machine.gate.set()
            assert await group.propose(b"7") == 7, "it was applied, and so is what comes after"

    arun(main())


def test_p77_p99_a_slow_machine_delays_nobody_else(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with three(tmp_path) as (cluster, _):
            nodes = list(cluster.nodes.values())
            slow = [await nodes[0].create_group(f"slow{n}", Counter) for n in range(3)]
            quick = await nodes[0].create_group("quick", Counter)
            for group in slow:
                for node in nodes:
                    assert await node.group(group.name).read() == 0
            machines = [machine_of(node, group.name) for node in nodes for group in slow]
            gate = threading.Event()
            for machine in machines:
                machine.gate = gate
            stuck = [group.propose(b"wait") for group in slow]
            try:
                await cluster.until(lambda: all(machine.waiting.is_set() for machine in machines))
                # Nothing of the three goes on on any node, and everything else does.
                for n in range(50):
                    assert await quick.propose(b"1") == n + 1
                    await nodes[1].store.put(b"k%d" % n, b"v")
                assert await quick.read() == 50
                assert not any(ticket.done() for ticket in stuck)
            finally:
                gate.set()
            assert [await ticket for ticket in stuck] == [0, 0, 0]

    arun(main())


def test_a_machine_that_is_behind_holds_its_group_back(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "QUEUE_ENTRIES_MAX", 16)

    async def main() -> None:
        async with three(tmp_path) as (cluster, groups):
            await groups[0].propose(b"0")
            leader = next(g for g in groups if g.leads)
            node = next(n for n in cluster.nodes.values() if n.multi.leads(leader.id))
            machine = machine_of(node)
            machine.gate = threading.Event()
            calls = [leader.propose(b"wait")]
            try:
                await cluster.until(machine.waiting.is_set)
                for _ in range(5):  # more than the queue takes, a turn apart
                    calls += [leader.propose(b"1") for _ in range(16)]
                    await node.store.put(b"k", b"v")
                await cluster.until(lambda: node.status().machines[0].held)
                with pytest.raises(Overloaded, match="behind"):
                    await leader.propose(b"1", nowait=True)
                other = next(g for g in groups if g is not leader)
                calls += [leader.propose(b"1"), other.propose(b"1")]  # these wait for room
                queued = node.status().machines[0].queued_entries
                assert queued <= 16 + 80 and not any(call.done() for call in calls)
            finally:
                machine.gate.set()
            answers = [await call for call in calls]
            assert sorted(answers) == list(range(83))
            assert await leader.read() == 82
            assert not node.status().machines[0].held

    arun(main())


class Closing(Counter):
    """It says when it gives up what it holds."""

    closed = 0

    def close(self) -> None:
        type(self).closed += 1


def test_a_machine_gives_up_what_it_holds_when_its_node_closes(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(Closing, "closed", 0)
        async with alone(tmp_path, Closing) as node:
            group = await node.create_group("hits", Closing)
            assert await group.propose(b"1") == 1
            assert Closing.closed == 0
        assert Closing.closed == 1

    arun(main())


def test_a_machine_that_never_comes_back_does_not_keep_a_node_from_closing(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = threading.Event()
        monkeypatch.setattr(Closing, "closed", 0)
        node = alone(tmp_path, Closing, timeout_s=0.3)
        try:
            await node.start()
            group = await node.create_group("hits", Closing, timeout=20)
            assert await group.propose(b"1", timeout=20) == 1
            machine = machine_of(node)
            machine.gate = gate
            stuck = group.propose(b"wait", timeout=20)
            await asyncio.to_thread(machine.waiting.wait)
            await node.aclose()
            assert Closing.closed == 0, "it is in use, and left behind"
            with pytest.raises(OutcomeUnknown):
                await stuck
        finally:
            gate.set()
            for thread in threading.enumerate():
                if thread.name.startswith("multiraft-machines"):
                    await asyncio.to_thread(thread.join)
        async with alone(tmp_path, Closing) as node:
            group = await node.create_group("hits", Closing)
            assert await group.read() == 1
            assert [command for _, command in await group.read("applied")] == [b"1", b"wait"]

    arun(main())
