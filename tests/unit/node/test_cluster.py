"""Three nodes in one process, over real sockets and disks: bootstrap, forwarding, restarts, identity."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from multiraft import Config, ConfigError, DeadlineExceeded, Entry, Node, OutcomeUnknown
from multiraft.errors import MultiRaftError, SyncFailed

Run = Callable[[Coroutine[Any, Any, None]], None]
Machines = Callable[[int], dict[str, Any]]
"""The kinds of users' machines that a node is given, by its number."""

pytestmark = pytest.mark.loops("uvloop")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Trio:
    """Three nodes, each in a directory of its own."""

    def __init__(self, folder: Path, machines: Machines | None = None, **settings: Any) -> None:
        self.folder = folder
        self.machines = machines
        self.addresses = {node: f"127.0.0.1:{port}" for node, port in enumerate(free_ports(3), 1)}
        self.settings = {
            "shards": 6,
            "election_ms": 300,
            "heartbeat_ms": 50,
            "tick_ms": 20,
        } | settings
        self.nodes: dict[int, Node] = {}

    def config(self, node: int, **other: Any) -> Config:
        settings = self.settings | {"listen": self.addresses[node], "nodes": self.addresses} | other
        return Config(node_id=node, data_dir=str(self.folder / f"n{node}"), **settings)  # type: ignore[arg-type]

    async def start(self, *nodes: int) -> None:
        for node in nodes:
            self.nodes[node] = Node(
                self.config(node), machines=self.machines(node) if self.machines else None
            )
            await self.nodes[node].start()

    async def ready(self) -> None:
        for node in self.nodes.values():
            await node.ready(20)

    async def stop(self, *nodes: int) -> None:
        for node in nodes:
            await self.nodes.pop(node).aclose()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that ticks bring about."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def trio(folder: Path, **settings: Any) -> AsyncIterator[Trio]:
    cluster = Trio(folder, **settings)
    try:
        yield cluster
    finally:
        await asyncio.gather(*(node.aclose() for node in cluster.nodes.values()))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_bootstrap_in_any_order_and_everybody_serves(
    arun: Run, tmp_path: Path, order: tuple[int, ...]
) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(order[0])
            await cluster.start(order[1])
            await asyncio.sleep(0.1)
            assert not any(node.placing.bootstrapped for node in cluster.nodes.values()), (
                "not without all of them"
            )
            await cluster.start(order[2])
            await cluster.ready()
            assert len({node.peers.cluster_id for node in cluster.nodes.values()}) == 1
            for number, node in cluster.nodes.items():
                for n in range(12):
                    await node.store.put(b"%d-%d" % (number, n), b"from %d" % number)
            for node in cluster.nodes.values():
                assert await node.store.get(b"2-7") == b"from 2"
                assert len([1 async for _ in node.store.scan()]) == 36
            await cluster.until(
                lambda: (
                    sorted(node.status().led for node in cluster.nodes.values())
                    in ([2, 2, 3], [2, 2, 2])
                )
            )
            assert sum(node.forwarding.forwarded for node in cluster.nodes.values()) > 0

    arun(main())


def test_p22_an_interrupted_bootstrap_is_run_again(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.until(
                lambda: any(node.placing.bootstrapped for node in cluster.nodes.values())
            )
            await cluster.stop(1, 2, 3)  # wherever they were
            await cluster.start(2, 3, 1)
            await cluster.ready()
            assert len({node.peers.cluster_id for node in cluster.nodes.values()}) == 1
            assert await cluster.nodes[1].store.put(b"k", b"v") > 0
            assert await cluster.nodes[3].store.get(b"k") == b"v"

    arun(main())


def test_a_node_that_was_away_catches_up(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put_many([(b"a%d" % n, b"1") for n in range(100)])
            await cluster.stop(3)
            await cluster.ready()
            await cluster.nodes[1].store.put_many([(b"b%d" % n, b"2") for n in range(300)])
            await cluster.start(3)
            await cluster.ready()
            back, other = cluster.nodes[3], cluster.nodes[1]
            await cluster.until(
                lambda: all(back.multi.indexes(g)[3] >= other.multi.indexes(g)[2] for g in range(7))
            )
            here = [pair async for pair in back.store.scan(stale=True)]
            assert here == [pair async for pair in other.store.scan()]
            assert len(here) == 400

    arun(main())


def test_p58_a_node_too_far_behind_gets_snapshots(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=2, memtable_age_s=0.1, log_kept_entries=20) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.stop(3)
            await cluster.ready()
            for round in range(4):
                for n in range(100):
                    await cluster.nodes[1].store.put(b"%d" % n, b"%d" % round)
            await cluster.until(
                lambda: all(cluster.nodes[1].multi.indexes(g)[0] > 50 for g in (1, 2))
            )
            await cluster.start(3)
            await cluster.ready()
            back, other = cluster.nodes[3], cluster.nodes[1]
            await cluster.until(
                lambda: all(back.multi.indexes(g)[3] >= other.multi.indexes(g)[2] for g in range(3))
            )
            assert back.transfers.installed >= 1
            assert [pair async for pair in back.store.scan(stale=True)] == [
                pair async for pair in other.store.scan()
            ]
            await cluster.stop(3)
            await cluster.start(3)
            await cluster.ready()
            assert await cluster.nodes[3].store.get(b"7") == b"3"

    arun(main())


def test_closing_hands_leaderships_over_and_loses_no_request(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            stop = asyncio.Event()
            done: list[int] = []
            unknown: list[bytes] = []

            async def client(number: int) -> None:
                while not stop.is_set():
                    key = b"%d-%d" % (number, len(done))
                    try:
                        await cluster.nodes[2].store.put(key, b"x")
                    except OutcomeUnknown:  # it was on its way to the node that closed
                        unknown.append(key)
                    else:
                        done.append(number)

            clients = [asyncio.ensure_future(client(number)) for number in range(8)]
            await cluster.until(lambda: len(done) > 50)
            await cluster.stop(1)
            before = len(done)
            await cluster.until(lambda: len(done) > before + 200)
            stop.set()
            await asyncio.gather(*clients)
            found = len([1 async for _ in cluster.nodes[3].store.scan()])
            assert len(done) <= found <= len(done) + len(unknown)

    arun(main())


def test_p28_without_a_majority_nothing_is_served_and_then_it_is_again(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put(b"k", b"old")
            await cluster.stop(2, 3)
            alone = cluster.nodes[1]
            with pytest.raises(DeadlineExceeded):
                await alone.store.put(b"k", b"new", timeout=0.5)
            with pytest.raises(DeadlineExceeded):
                await alone.store.get(b"k", timeout=0.5)
            assert await alone.store.get(b"k", stale=True) == b"old"
            await cluster.until(lambda: alone.status().led == 0)
            await cluster.start(2, 3)
            await cluster.ready()
            assert await alone.store.put(b"k", b"newer") > 0
            assert await cluster.nodes[3].store.get(b"k") == b"newer"

    arun(main())


def test_p37_a_leader_that_was_cut_off_serves_no_old_value(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put(b"k", b"old")
            leader = next(node for node in cluster.nodes.values() if node.multi.leads(1))
            others = [node for node in cluster.nodes.values() if node is not leader]
            send = leader.transport.send
            leader.transport.send = lambda node, frame: True  # type: ignore[method-assign]
            on_frame = leader.turn.on_frame
            leader.turn.on_frame = lambda node, view: None  # type: ignore[method-assign]
            await cluster.until(lambda: any(node.multi.leads(1) for node in others))
            await others[0].store.put(b"k", b"new")
            with pytest.raises(DeadlineExceeded):
                assert await leader.store.get(b"k", timeout=0.3) is None, "stale"
            leader.transport.send = send  # type: ignore[method-assign]
            leader.turn.on_frame = on_frame  # type: ignore[method-assign]
            assert await leader.store.get(b"k") == b"new"

    arun(main())


def refusals(node: Node) -> list[str]:
    """The reasons for which links of this node were refused from now on."""
    seen: list[str] = []
    told = node.link_refused

    def link_refused(other: int, error: MultiRaftError) -> None:
        seen.append(f"{type(error).__name__}: {error}")
        told(other, error)  # type: ignore[arg-type]

    node.link_refused = link_refused  # type: ignore[method-assign,assignment]
    return seen


def test_p10_a_wiped_node_is_refused_by_its_peers(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.stop(3)
            shutil.rmtree(tmp_path / "n3")
            seen = refusals(cluster.nodes[1])
            await cluster.start(3)
            await cluster.until(lambda: bool(seen))
            assert "WrongStore" in seen[0] and "wiped" in seen[0]
            assert not cluster.nodes[3].placing.bootstrapped
            assert await cluster.nodes[1].store.put(b"k", b"v") > 0

    arun(main())


def test_p90_an_older_copy_of_a_directory_is_refused(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.nodes[1].store.put(b"k", b"v")
            await cluster.stop(3)
            shutil.copytree(tmp_path / "n3", tmp_path / "copy")
            await cluster.start(3)
            await cluster.ready()
            await cluster.nodes[1].store.put_many([(b"%d" % n, b"v") for n in range(30)])
            await cluster.stop(3)
            shutil.rmtree(tmp_path / "n3")
            shutil.copytree(tmp_path / "copy", tmp_path / "n3")
            seen = refusals(cluster.nodes[1])
            await cluster.start(3)
            await cluster.until(lambda: bool(seen))
            assert "WrongStore" in seen[0] and "older copy" in seen[0]

    arun(main())


def test_p84_two_clusters_do_not_mix(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path / "a") as one:
            await one.start(1, 2, 3)
            await one.ready()
            await one.stop(1, 2, 3)
        async with trio(tmp_path / "b") as two:
            two.addresses = one.addresses
            await two.start(1, 2, 3)
            await two.ready()
            await two.stop(3)
            shutil.rmtree(tmp_path / "b" / "n3")
            shutil.copytree(tmp_path / "a" / "n3", tmp_path / "b" / "n3")
            seen = refusals(two.nodes[1])
            await two.start(3)
            await two.until(lambda: bool(seen))
            assert "Wrong" in seen[0]

    arun(main())


def test_p102_a_node_configured_otherwise_is_refused(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.stop(3)
            with pytest.raises(ConfigError, match="made with"):
                await Node(cluster.config(3, shards=7)).start()
            await cluster.start(3)
            await cluster.ready()

    arun(main())


def test_p93_an_answer_to_an_earlier_run_of_this_node_acknowledges_nothing(
    arun: Run, tmp_path: Path
) -> None:
    """A forwarded write waits for its quorum; its asker dies and returns, asks for another, and must not get the old answer."""

    async def main() -> None:
        async with trio(tmp_path, shards=1) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            await cluster.until(lambda: cluster.nodes[1].multi.leads(1))
            await cluster.nodes[2].store.put(b"k", b"before")
            await cluster.stop(3)
            asker = cluster.nodes.pop(2)
            asker.log.append = lambda batch: None  # type: ignore[method-assign]
            old = asyncio.ensure_future(asker.store.put(b"k", b"old"))  # type: ignore[arg-type]
            await cluster.until(lambda: cluster.nodes[1].waiters.waiting == 1)
            asker.failed(SyncFailed("the process ends here"))
            with pytest.raises(OutcomeUnknown):
                await old
            await asyncio.gather(asker.closed(), return_exceptions=True)
            await cluster.start(2)
            await cluster.until(lambda: cluster.nodes[2].placing.map is not None)
            store, keys = cluster.nodes[2].store, [b"%d" % n for n in range(8)]
            revisions = await asyncio.gather(*(store.put(key, b"new") for key in keys))
            for key, revision in zip(keys, revisions, strict=True):
                assert await store.get_entry(key) == Entry(b"new", revision)

    arun(main())
