"""Machines of users when something goes wrong: they fail, fall behind, are saved and restored, and the process ends anywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiraft import DeadlineExceeded, Group, Node, OutcomeUnknown, Quarantined
from multiraft.machine import hosted
from multiraft.node.snapshots import Snapshots

from .machines import Counter, DiskCounter, LoopCounter
from .test_cluster import Trio, trio
from .test_machines import KINDS, alone, machine_of, three

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.loops("uvloop"), pytest.mark.slow]


async def crash(node: Node) -> None:
    """End a node as if its process had: nothing is handed over, saved or flushed."""
    node.failed(RuntimeError("the process ends here"))
    with pytest.raises(RuntimeError, match="ends here"):
        await node.closed()


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "machines").iterdir())


# -- a machine that fails -------------------------------------------------------------------------------------------------


def test_p97_a_machine_that_raises_is_quarantined_alone(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with three(tmp_path) as (cluster, groups):
            assert await groups[0].propose(b"5") == 5
            leader = next(node for node in cluster.nodes.values() if node.group("hits").leads)
            machine_of(leader).broken = True
            with pytest.raises(OutcomeUnknown):
                await leader.group("hits").propose(b"break")
            await cluster.until(lambda: leader.status().machines[0].quarantined != "")
            assert "broken, as asked" in leader.status().machines[0].quarantined
            # Another leads, and from everywhere it goes on - the failed node only forwards.
            for group in groups:
                assert await group.propose(b"1", timeout=10) > 5
            assert leader.group("hits").leader != leader.config.node_id
            with pytest.raises(Quarantined, match="broken, as asked"):
                await leader.group("hits").read()
            for node in cluster.nodes.values():
                assert (node.status().machines[0].quarantined != "") == (node is leader)
                await node.store.put(b"k", b"v")
                if node is not leader:
                    assert await node.group("hits").read() == 8
            other = await leader.create_group("other", Counter)
            assert await other.propose(b"1") == 1
            # Started anew it is given the same entry again, and this time it takes it.
            number = int(leader.config.node_id)
            await cluster.stop(number)
            await cluster.start(number)
            back = cluster.nodes[number]
            group = await back.create_group("hits", Counter)
            assert await group.read() == 8
            assert back.status().machines[0].quarantined == ""

    arun(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_that_fails_everywhere_ends_nobody(arun: Run, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with three(tmp_path, kind=KINDS[kind]) as (cluster, groups):
            await groups[0].propose(b"1")
            calls = [group.propose(b"fail", timeout=2) for group in groups]
            for call in calls:
                with pytest.raises(OutcomeUnknown):
                    await call
            await cluster.until(
                lambda: all(n.status().machines[0].quarantined for n in cluster.nodes.values())
            )
            with pytest.raises(DeadlineExceeded):
                await groups[0].propose(b"1", timeout=0.2)
            for node in cluster.nodes.values():
                await node.store.put(b"k", b"v")

    arun(main())


def test_an_only_member_says_at_once_that_it_failed(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(2):  # and says the same after a restart, when it met the same entry again
            async with alone(tmp_path) as node:
                group = await node.create_group("hits", Counter)
                with pytest.raises((OutcomeUnknown, Quarantined)):
                    await group.propose(b"fail")
                for call in (group.propose, group.read):
                    with pytest.raises(Quarantined, match="broken, as asked"):
                        await call(b"1")
                assert await node.store.put(b"k", b"v") > 0

    arun(main())


@pytest.mark.parametrize("base", [Counter, LoopCounter])
def test_p97_a_machine_that_raises_what_is_no_exception_is_quarantined_too(
    arun: Run, tmp_path: Path, base: type[Counter]
) -> None:
    class Cancelled(base):  # type: ignore[misc,valid-type]
        def apply(self, command: bytes, index: int, term: int) -> Any:
            if command == b"cancel":
                raise asyncio.CancelledError
            return super().apply(command, index, term)

    async def main() -> None:
        async with alone(tmp_path, Cancelled) as node:
            group = await node.create_group("hits", Cancelled)
            with pytest.raises(OutcomeUnknown, match="quarantined"):
                await group.propose(b"cancel", timeout=20)
            assert await node.store.put(b"k", b"v") > 0

    arun(main())


class Unmade(Counter):
    """It cannot even be made."""

    def __init__(self) -> None:
        raise OSError("no licence")


class Unrestored(Counter):
    def restore(self, chunks: Iterable[bytes]) -> None:
        raise ValueError("not of my making")


def test_a_machine_that_cannot_be_brought_up_stops_alone(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path) as node:
            group = await node.create_group("hits", Counter)
            await group.propose(b"1")
            node.users.hosting.save(group.id)
            await until(lambda: node.users.hosting.saves == 1)
        for kind, why in ((Unmade, "no licence"), (Unrestored, "not of my making")):
            async with alone(tmp_path, kind) as node:
                group = await node.create_group("hits", kind)
                with pytest.raises(Quarantined, match=why):
                    await group.read()
                assert await node.store.put(b"k", b"v") > 0
        async with alone(tmp_path) as node:
            group = await node.create_group("hits", Counter)
            assert await group.propose(b"1") == 2

    arun(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


# -- what is saved, and what a crash leaves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_p55_a_machine_is_saved_before_its_log_is_forgotten(
    arun: Run, tmp_path: Path, kind: str
) -> None:
    async def main() -> None:
        total = 0
        for _ in range(3):
            async with alone(
                tmp_path, KINDS[kind], machine_log_bytes_max=1000, log_kept_entries=10
            ) as node:
                group = await node.create_group("hits", KINDS[kind])
                assert await group.read() == total
                before, *_ = node.multi.indexes(group.id)
                while node.multi.indexes(group.id)[0] <= before + 50:
                    for _ in range(50):
                        total += 1
                        assert await group.propose(b"1") == total
                base_index, *_ = node.multi.indexes(group.id)
                assert node.status().machines[0].saved_index >= base_index
                assert node.status().machines[0].alarm == ""
                own = [name for name in states(tmp_path) if name.endswith(".state")]
                assert len(own) <= 2, "older ones are removed"
            await crash_free(tmp_path)

    async def crash_free(folder: Path) -> None:
        assert not [name for name in states(folder) if name.endswith(".part")]

    arun(main())


class Unsaved(Counter):
    """It cannot be saved as long as it is told so."""

    how: Any = None

    def snapshot(self) -> Iterator[bytes]:
        yield from super().snapshot()
        if type(self).how is not None:
            yield type(self).how


def test_a_state_that_cannot_be_saved_raises_an_alarm_and_loses_nothing(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with alone(tmp_path, Unsaved, machine_log_bytes_max=1000) as node:
            group = await node.create_group("hits", Unsaved)
            await group.propose(b"1")
            for wrong, why in (("text", "not str"), (b"x" * (1024 * 1024 + 1), "1048577 bytes")):
                monkeypatch.setattr(Unsaved, "how", wrong)
                node.users.hosting.save(group.id)
                await until(lambda why=why: why in node.status().machines[0].alarm)  # type: ignore[misc]
                assert [name for name in states(tmp_path) if "state" in name] == []
                assert node.multi.indexes(group.id)[0] == 0
            assert await group.propose(b"1") == 2
            monkeypatch.setattr(Unsaved, "how", None)
            node.users.hosting.save(group.id)
            await until(lambda: node.users.hosting.saves == 1)
            assert node.status().machines[0].alarm == ""
        async with alone(tmp_path, Unsaved) as node:
            assert await (await node.create_group("hits", Unsaved)).read() == 2

    arun(main())


def test_a_damaged_state_stops_its_own_machine_and_nothing_else(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with alone(tmp_path, log_kept_entries=1) as node:
            group = await node.create_group("hits", Counter)
            await group.propose_many([b"1"] * 20)
            node.users.hosting.save(group.id)
            await until(lambda: node.multi.indexes(group.id)[0] >= 20)
            await (await node.create_group("other", Counter)).propose(b"3")
        (path,) = (tmp_path / "machines").glob("*.state")
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:100] + b"?" + whole[101:], whole[:30], None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            async with alone(tmp_path, log_kept_entries=1) as node:
                group = await node.create_group("hits", Counter)
                with pytest.raises(Quarantined):
                    await group.read()
                assert await (await node.create_group("other", Counter)).read() == 3
        path.write_bytes(whole)
        async with alone(tmp_path, log_kept_entries=1) as node:
            assert await (await node.create_group("hits", Counter)).read() == 20

    arun(main())


def test_p86_a_machine_ahead_of_the_log_is_refused(arun: Run, tmp_path: Path) -> None:
    class Ahead(DiskCounter):
        def applied_index(self) -> int:
            return 1000

    async def main() -> None:
        async with alone(tmp_path, Ahead) as node:
            group = await node.create_group("hits", Ahead)
            with pytest.raises(Quarantined, match="the log ends at"):
                await group.read()

    arun(main())


class EagerDisk(DiskCounter):
    """It syncs when it likes, too: its disk is ahead of what this node has recorded of it."""

    def apply(self, command: bytes, index: int, term: int) -> Any:
        result = super().apply(command, index, term)
        if index % 7 == 0:
            self.sync()
        return result


@pytest.mark.parametrize("kind", [*KINDS, "eager"])
def test_p07_a_crash_anywhere_skips_nothing_and_applies_nothing_twice(
    arun: Run, tmp_path: Path, kind: str
) -> None:
    """The machine itself refuses an index that does not rise, and its total shows what is missing."""

    async def main() -> None:
        total = 0
        for round in range(6):
            node = alone(tmp_path, (KINDS | {"eager": EagerDisk})[kind], log_kept_entries=1)
            await node.start()
            group = await node.create_group("hits", (KINDS | {"eager": EagerDisk})[kind])
            assert await group.read() == total
            assert len(await group.read("applied")) == total
            for n in range(30):
                total += 1
                assert await group.propose(b"1") == total
                if n == 10 + round:
                    node.users.hosting.save(group.id)
                    if round % 2:
                        await until(lambda node=node: node.users.hosting.saves == 1)  # type: ignore[misc]
            await crash(node)

    arun(main())


# -- followers that are too far behind ----------------------------------------------------------------------------------------


async def leave_behind(cluster: Trio, number: int, group: str) -> None:
    """Stop a node, and let the others forget the log that it lacks."""
    leaving = cluster.nodes[number]
    await cluster.stop(number)
    last_index = leaving.multi.indexes(leaving.group(group).id)[4]
    await cluster.ready()
    other = cluster.nodes[1 if number != 1 else 2]
    handle: Group = other.group(group)
    while min(n.multi.indexes(handle.id)[0] for n in cluster.nodes.values()) <= last_index:
        await handle.propose_many([b"1"] * 20)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_p58_a_follower_too_far_behind_gets_a_snapshot(
    arun: Run, tmp_path: Path, kind: str
) -> None:
    async def main() -> None:
        async with three(
            tmp_path, kind=KINDS[kind], machine_log_bytes_max=500, log_kept_entries=10
        ) as (
            cluster,
            groups,
        ):
            await groups[0].propose(b"1")
            for _ in range(2):
                await leave_behind(cluster, 3, "hits")
                await cluster.start(3)
                back = cluster.nodes[3]
                group = await back.create_group("hits", KINDS[kind])
                assert await group.read() == await cluster.nodes[1].group("hits").read()
                assert back.transfers.installed >= 1
                here = await group.read("applied", stale=True)
                assert here == await cluster.nodes[1].group("hits").read("applied")
                assert await group.propose(b"1") == await group.read()
            await cluster.stop(3)
            await cluster.start(3)
            group = await cluster.nodes[3].create_group("hits", KINDS[kind])
            assert await group.read() == await cluster.nodes[1].group("hits").read()

    arun(main())


def test_p97_a_snapshot_of_the_others_heals_a_machine_that_failed(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        def kinds(number: int) -> dict[str, Any]:
            def make() -> Counter:
                machine = Counter()
                machine.broken = number == 3
                return machine

            return {"counter": make}

        async with trio(
            tmp_path, machines=kinds, shards=1, machine_log_bytes_max=500, log_kept_entries=10
        ) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            group = await cluster.nodes[1].create_group("hits", "counter")
            await group.propose(b"break", timeout=20)
            failed = cluster.nodes[3]
            await cluster.until(lambda: failed.status().machines[0].quarantined != "")
            assert failed.status().machines[0].quarantined == "RuntimeError: broken, as asked"
            await leave_behind(cluster, 3, "hits")
            await cluster.start(3)
            back = cluster.nodes[3]
            await cluster.until(lambda: back.transfers.installed >= 1)
            await cluster.until(lambda: not back.admission.stopped)  # it is brought up from there
            there = await back.create_group("hits", "counter")
            assert await there.read() == await group.read()

    arun(main())


def test_a_follower_that_was_held_back_goes_on_behind_a_snapshot(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is full, then cut off; what comes next is a snapshot, which empties its queue without applying it."""
    monkeypatch.setattr(hosted, "QUEUE_ENTRIES_MAX", 16)

    async def main() -> None:
        async with three(tmp_path, machine_log_bytes_max=500, log_kept_entries=10) as (
            cluster,
            groups,
        ):
            await groups[0].propose(b"1")
            lagging = next(n for n in cluster.nodes.values() if not n.group("hits").leads)
            group = lagging.group("hits")
            await group.read()
            others = [n for n in cluster.nodes.values() if n is not lagging]
            machine = machine_of(lagging)
            machine.gate = threading.Event()
            other = others[0].group("hits")
            await other.propose(b"wait", timeout=20)
            await cluster.until(machine.waiting.is_set)
            for _ in range(5):
                await other.propose_many([b"1"] * 16, timeout=20)
            await cluster.until(lambda: lagging.status().machines[0].held)
            on_frame = lagging.turn.on_frame
            lagging.turn.on_frame = lambda node, view: None  # type: ignore[method-assign]
            last_index = lagging.multi.indexes(group.id)[4]
            while min(n.multi.indexes(group.id)[0] for n in others) <= last_index:
                await other.propose_many([b"1"] * 20, timeout=20)
                await asyncio.sleep(0.02)
            lagging.turn.on_frame = on_frame  # type: ignore[method-assign]
            await cluster.until(lambda: lagging.transfers.installed >= 1)
            machine.gate.set()
            await cluster.until(lambda: not lagging.status().machines[0].held)
            assert await group.read(timeout=20) == await other.read(timeout=20)
            assert await group.propose(b"1", timeout=20) == await group.read()

    arun(main())


STEPS = ("moved", "pending", "taken", "installed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_p57_a_crash_between_the_steps_of_an_install_is_finished_or_undone(
    arun: Run, tmp_path: Path, step: str, kind: str
) -> None:
    async def main() -> None:
        async with three(
            tmp_path, kind=KINDS[kind], machine_log_bytes_max=500, log_kept_entries=10
        ) as (
            cluster,
            groups,
        ):
            await groups[0].propose(b"1")
            await leave_behind(cluster, 3, "hits")
            with pytest.MonkeyPatch.context() as patch:
                reached = stop_at(step, patch)
                await cluster.start(3)
                async with asyncio.timeout(20):
                    await reached.wait()
                await crash(cluster.nodes.pop(3))
            await cluster.start(3)
            back = cluster.nodes[3]
            group = await back.create_group("hits", KINDS[kind])
            assert await group.read() == await cluster.nodes[1].group("hits").read()
            assert await group.read("applied") == await cluster.nodes[1].group("hits").read(
                "applied"
            )
            assert await group.propose(b"1") == await group.read()
            await cluster.until(lambda: not list((tmp_path / "n3" / "snapshots").glob("in-2-*")))

    arun(main())


def stop_at(step: str, patch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let every install of group 2 stand still after a step; the event says that one does."""
    reached = asyncio.Event()
    install, meet = Snapshots._install, Snapshots._meet

    def still_install(self: Snapshots, group: int, path: Path, record: Any) -> None:
        if group != 2:
            return install(self, group, path, record)
        if step == "pending":
            reached.set()
            return None
        host_of = self._host_of

        class Host:
            def install(self, group: int, path: Path, record: Any, done: Any) -> None:
                def stand(installed: Any, error: Any) -> None:
                    if step == "taken":
                        reached.set()
                        return
                    done(installed, error)
                    reached.set()

                host_of(group).install(group, path, record, stand)

        self._host_of = lambda _: Host()  # type: ignore[assignment,return-value]
        try:
            return install(self, group, path, record)
        finally:
            self._host_of = host_of

    def still_meet(self: Snapshots, key: Any) -> None:
        if step == "moved" and key in self._offers and key in self._arrivals:
            reached.set()  # the file is here, and nothing was written about it
            return
        meet(self, key)

    patch.setattr(Snapshots, "_install", still_install)
    patch.setattr(Snapshots, "_meet", still_meet)
    return reached


@pytest.mark.parametrize("step", ["pending", "taken", "installed"])
def test_p57_a_crash_between_the_steps_of_a_shards_install(
    arun: Run, tmp_path: Path, step: str
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=2, memtable_age_s=0.1, log_kept_entries=10) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            leaving = cluster.nodes[3]
            await cluster.stop(3)
            last_index = leaving.multi.indexes(2)[4]  # handing over may have brought it entries
            await cluster.ready()
            round = 0
            # On both, for either may lead: one that still has the log would send that.
            while min(node.multi.indexes(2)[0] for node in cluster.nodes.values()) <= last_index:
                round += 1
                for n in range(50):
                    await cluster.nodes[1].store.put(b"%d" % n, b"%d" % round)
            with pytest.MonkeyPatch.context() as patch:
                reached = stop_at(step, patch)
                await cluster.start(3)
                async with asyncio.timeout(20):
                    await reached.wait()
                await crash(cluster.nodes.pop(3))
            await cluster.start(3)
            await cluster.ready()
            back, other = cluster.nodes[3], cluster.nodes[1]
            await cluster.until(
                lambda: all(back.multi.indexes(g)[3] >= other.multi.indexes(g)[2] for g in range(3))
            )
            assert [pair async for pair in back.store.scan(stale=True)] == [
                pair async for pair in other.store.scan()
            ]

    arun(main())
