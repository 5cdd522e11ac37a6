"""``multiraft.Client`` against real nodes in this process: the calls of the store from outside, and nodes that come and go."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from multiraft import (
    Absent,
    BatchError,
    Client,
    Closed,
    Config,
    ConfigError,
    DeadlineExceeded,
    Delete,
    DeleteRange,
    Entry,
    InvalidCommand,
    Node,
    NoSpace,
    Overloaded,
    PreconditionFailed,
    Present,
    Put,
    Retryable,
    RevisionIs,
    Store,
    TooLarge,
    ValueIs,
)
from multiraft.errors import LinkLost, OutcomeUnknown, Quarantined
from multiraft.node.dispatch import CURSORS_MAX
from multiraft.transport.address import free_addresses
from tests.unit.transport.peers import Relay, sweep

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


@asynccontextmanager
async def one_node(folder: Path, **settings: Any) -> AsyncIterator[tuple[Node, Client]]:
    config = Config(data_dir=str(folder), client_listen="127.0.0.1:0", **settings)
    async with Node(config) as node:
        assert node.gateway is not None
        async with Client(node.gateway.address) as client:
            yield node, client


@asynccontextmanager
async def three_nodes(folder: Path, **settings: Any) -> AsyncIterator[tuple[list[Node], list[str]]]:
    free = free_addresses(6)
    between = dict(enumerate(free[:3], 1))
    quick = {"shards": 6, "election_ms": 300, "heartbeat_ms": 50, "tick_ms": 20} | settings
    nodes = [
        Node(
            Config(
                node_id=number,  # type: ignore[arg-type]
                data_dir=str(folder / f"n{number}"),
                listen=between[number],
                client_listen=free[2 + number],
                nodes=between,
                **quick,
            )
        )
        for number in (1, 2, 3)
    ]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        for node in nodes:
            await node.ready(20)
        yield nodes, free[3:]
    finally:
        await asyncio.gather(*(node.aclose() for node in nodes))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what ticks and other tasks bring about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# -- one node, every call --------------------------------------------------------------------------------------------------


def test_a_client_has_the_calls_of_the_store() -> None:
    names = """put get get_entry delete put_many get_many delete_range compare_and_set batch scan""".split()
    for name in names:
        here = inspect.signature(getattr(Client, name)).parameters
        there = inspect.signature(getattr(Store, name)).parameters
        assert list(here) == list(there), name
        assert [one.default for one in here.values()] == [one.default for one in there.values()]


def test_every_call_does_what_the_store_does(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with one_node(tmp_path) as (node, client):
            first = await client.put(b"a", b"1")
            assert await client.get(b"a") == b"1" == await node.store.get(b"a")
            assert await client.get_entry(b"a") == Entry(b"1", first)
            assert await client.get(b"b") is None and await client.get_entry(b"b") is None
            second = await client.compare_and_set(b"a", b"2", revision=first)
            assert second > first
            assert await client.compare_and_set(b"a", b"3", expected=b"2") > second
            assert await client.compare_and_set(b"new", b"", revision=0) > second
            third = await client.batch(
                [
                    Put(b"x", b"1"),
                    Put(b"y", bytearray(b"2")),
                    Delete(b"a"),
                    DeleteRange(b"n", b"o"),
                ],  # type: ignore[arg-type]
                conditions=[
                    Present(b"a"),
                    Absent(b"z"),
                    ValueIs(b"a", b"3"),
                    RevisionIs(b"z", 0),
                ],
            )
            assert await client.get_many([b"x", b"a", b"y", b"new"], stale=True) == [
                b"1",
                None,
                b"2",
                None,
            ]
            assert await client.delete(b"x", nowait=True) > third
            revisions = await client.put_many([(b"m%d" % n, b"v%d" % n) for n in range(3)])
            assert len(revisions) == 3
            assert await client.delete_range(b"m0", b"m2") > third
            assert [pair async for pair in client.scan()] == [(b"m2", b"v2"), (b"y", b"2")]
            status = await client.status()
            assert status["node"] == 1 == client.node
            assert status["cluster_id"] == client.cluster_id == node.peers.cluster_id

    arun(main())


def test_refusals_are_those_of_the_store(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with one_node(tmp_path, shards=4) as (_, client):
            revision = await client.put(b"a", b"1")
            with pytest.raises(PreconditionFailed) as failed:
                await client.compare_and_set(b"a", b"2", revision=revision + 1)
            assert (failed.value.key, failed.value.revision) == (b"a", revision)
            for refused in (
                client.put(b"", b"v"),
                client.put("text", b"v"),  # type: ignore[arg-type]
                client.put(b"k", None),  # type: ignore[arg-type]
                client.get(5),  # type: ignore[arg-type]
                client.delete_range(b"a", b"b"),
                client.compare_and_set(b"a", b"2"),
                client.batch([]),
                client.batch([Put(b"a", b"1"), Put(b"b", b"1"), Put(b"c", b"1"), Put(b"d", b"1")]),
                client.batch(["put"]),  # type: ignore[list-item]
                client.batch([Put(b"a", b"1")], conditions=[RevisionIs(b"a", -1)]),
            ):
                with pytest.raises(InvalidCommand):
                    await refused
            with pytest.raises(TooLarge):
                await client.put(b"k" * 500, b"v")
            with pytest.raises(TooLarge):
                await client.put(b"k", bytes(2 * 1024 * 1024))
            with pytest.raises(InvalidCommand):
                [pair async for pair in client.scan(prefix=b"a", start=b"b")]
            assert await client.get(b"a") == b"1"

    arun(main())


@pytest.mark.parametrize("shards", [4, None])
def test_a_condition_that_failed_names_the_callers_own_key(
    arun: Run, tmp_path: Path, shards: int | None
) -> None:
    """Where it is led, where it was forwarded, and outside: nobody knows the key as it stands on the disk."""

    async def main() -> None:
        settings = {"shards": shards} | ({"borders": (b"m",)} if shards is None else {})
        async with (
            three_nodes(tmp_path, **settings) as (nodes, addresses),
            Client(addresses) as client,
        ):
            revision = await client.put(b"key", b"1")
            for face in (*(node.store for node in nodes), client):
                with pytest.raises(PreconditionFailed) as failed:
                    await face.compare_and_set(b"key", b"2", revision=revision + 1)
                assert (failed.value.key, failed.value.revision) == (b"key", revision)

    arun(main())


def test_items_that_are_no_pairs_are_refused(arun: Run, tmp_path: Path) -> None:
    """Flattened, two threes would make three pairs: a value written under a key that nobody named."""

    async def main() -> None:
        async with one_node(tmp_path) as (_, client):
            threes = [(b"a", b"1", b"b"), (b"2", b"c", b"3")]
            with pytest.raises(ValueError):
                await client.put_many(threes)  # type: ignore[arg-type]
            assert [pair async for pair in client.scan()] == []

    arun(main())


def test_a_client_may_wait_for_ever(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with one_node(tmp_path) as (_, client):
            assert await client.put(b"a", b"1", timeout=math.inf) > 0
            assert [pair async for pair in client.scan(timeout=math.inf)] == [(b"a", b"1")]

    arun(main())


def test_get_many_of_more_than_fits_costs_no_more_than_that(arun: Run, tmp_path: Path) -> None:
    """One small call may name a large value a million times: the answer is refused before it is all in memory."""

    async def main() -> None:
        async with one_node(tmp_path) as (node, client):
            await client.put(b"k", bytes(1 << 20))
            asked = 0
            get = node.store._machine.get

            def counting(group: int, key: bytes) -> Any:
                nonlocal asked
                asked += 1
                return get(group, key)

            node.store._machine.get = counting  # type: ignore[method-assign]
            with pytest.raises(TooLarge):
                await client.get_many([b"k"] * 20_000)
            assert asked < 200
            assert await client.get_many([b"k", b"none"] * 9) == [bytes(1 << 20), None] * 9

    arun(main())


def test_put_many_says_for_each_key_what_happened(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with one_node(tmp_path, shards=4) as (node, client):

            async def put_many(items: Any, **settings: Any) -> list[int]:
                unknown = OutcomeUnknown("a shard was silent")
                raise BatchError("1 of 2", outcomes=[7, unknown, 8, unknown])

            monkeypatch.setattr(node.store, "put_many", put_many, raising=True)
            with pytest.raises(BatchError) as failed:
                await client.put_many([(b"k%d" % n, b"v") for n in range(4)])
            assert [type(one) for one in failed.value.outcomes] == [
                int,
                OutcomeUnknown,
                int,
                OutcomeUnknown,
            ]

    arun(main())


@pytest.mark.parametrize("error", [NoSpace("full"), Overloaded("full"), Quarantined("stopped")])
def test_what_waiting_does_not_help_is_said_at_once(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def main() -> None:
        async with one_node(tmp_path) as (node, client):
            asked = []

            def put(key: bytes, value: bytes, **settings: Any) -> Any:
                asked.append(key)
                raise error

            monkeypatch.setattr(node.store, "put", put)
            with pytest.raises(type(error), match=str(error)):
                await client.put(b"k", b"v", nowait=isinstance(error, Overloaded))
            assert asked == [b"k"]

    arun(main())


@pytest.mark.parametrize("settings", [{}, {"shards": 3}, {"borders": (b"k0500", b"k1000")}])
def test_scans_come_in_pages_and_in_order(
    arun: Run, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pairs = [(b"k%04d" % n, b"v%d" % n) for n in range(1500)]

    async def main() -> None:
        async with one_node(tmp_path, **settings) as (_, client):
            await client.put_many(pairs)
            assert [pair async for pair in client.scan()] == pairs
            assert [pair async for pair in client.scan(reverse=True, stale=True)] == pairs[::-1]
            assert [pair async for pair in client.scan(prefix=b"k07")] == pairs[700:800]
            some = client.scan(start=b"k0300", end=b"k1300", limit=900)
            assert [pair async for pair in some] == pairs[300:1200]
            assert [pair async for pair in client.scan(start=b"b", end=b"a")] == []
            assert [pair async for pair in client.scan(limit=0)] == []
            for _ in range(3 * CURSORS_MAX):  # each is given up, and its cursor with it
                async for pair in client.scan():
                    assert pair == pairs[0]
                    break
            assert [pair async for pair in client.scan()] == pairs

    arun(main())


# -- nodes that go and come ------------------------------------------------------------------------------------------------


def test_calls_go_on_at_the_next_node_when_one_closes(arun: Run, tmp_path: Path) -> None:
    """A node that closes in peace makes no outcome unknown."""

    async def main() -> None:
        async with three_nodes(tmp_path) as (nodes, at), Client(at) as client:
            done: list[bytes] = []
            stop = asyncio.Event()

            async def write(number: int) -> None:
                while not stop.is_set():
                    key = b"%d-%d" % (number, len(done))
                    await client.put(key, key)
                    done.append(key)

            writers = [asyncio.ensure_future(write(number)) for number in range(16)]
            await until(lambda: len(done) > 200)
            assert client.node == 1
            await nodes[0].aclose()
            before = len(done)
            await until(lambda: len(done) > before + 200 or any(one.done() for one in writers))
            stop.set()
            await asyncio.gather(*writers)
            assert client.node == 2
            assert await client.get_many(done) == done

    arun(main())


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_goes_on_at_the_next_node(arun: Run, tmp_path: Path, reverse: bool) -> None:
    pairs = [(b"k%04d" % n, b"v") for n in range(1400)]

    async def main() -> None:
        async with three_nodes(tmp_path, shards=2) as (nodes, at), Client(at) as client:
            await client.put_many(pairs)
            found = []
            async for pair in client.scan(reverse=reverse, limit=1399):
                found.append(pair)
                if len(found) == 600:
                    await nodes[0].aclose()
            assert found == (pairs[:0:-1] if reverse else pairs[:-1])
            assert client.node == 2

    arun(main())


def test_p93_a_connection_that_breaks_makes_a_write_unknown_and_a_read_again(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with one_node(tmp_path) as (node, direct):
            assert node.gateway is not None
            relay = Relay(node.gateway.address)
            try:
                async with Client([await relay.open(), node.gateway.address]) as client:
                    await client.put(b"k", b"v")
                    relay.running.clear()  # what is sent now arrives nowhere
                    write = asyncio.ensure_future(client.put(b"k", b"w"))
                    read = asyncio.ensure_future(client.get(b"k"))
                    await asyncio.sleep(0.05)
                    await relay.close()
                    with pytest.raises(LinkLost):
                        await write
                    assert await read in (b"v", b"w")
                    assert await client.put(b"k", b"x") > 0
                    assert await direct.get(b"k") == b"x"
            finally:
                await sweep()

    arun(main())


def test_endpoints_that_nobody_has_are_passed_over(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        nobody = free_addresses(2)
        async with one_node(tmp_path) as (node, _):
            assert node.gateway is not None
            async with Client([*nobody, node.gateway.address]) as client:
                assert await client.put(b"k", b"v") > 0
        with pytest.raises(Retryable, match="could be reached"):
            await Client(nobody).connect(0.2)
        alone = Client(nobody, timeout_s=0.2)
        with pytest.raises(DeadlineExceeded, match=nobody[1]):
            await alone.put(b"k", b"v")
        await alone.aclose()
        with pytest.raises(Closed):
            await alone.put(b"k", b"v")

    arun(main())


def test_a_client_waits_for_a_node_that_is_not_there_yet(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        address = free_addresses(1)[0]
        client = Client(address)
        write = asyncio.ensure_future(client.put(b"k", b"v"))
        await asyncio.sleep(0.1)
        async with Node(Config(data_dir=str(tmp_path), client_listen=address)):
            assert await write > 0
            await client.aclose()

    arun(main())


def test_a_client_stays_with_its_cluster(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with one_node(tmp_path / "a") as (one, client):
            async with one_node(tmp_path / "b") as (two, _):
                assert one.gateway is not None and two.gateway is not None
                wrong = Client(two.gateway.address, cluster_id=client.cluster_id, timeout_s=0.2)
                with pytest.raises(DeadlineExceeded, match="wants cluster"):
                    await wrong.get(b"k")
                await wrong.aclose()

    arun(main())


def test_what_makes_no_client_is_refused_at_once() -> None:
    for endpoints, settings in (([], {}), ("nonsense", {}), ("h:1", {"timeout_s": 0})):
        with pytest.raises(ConfigError):
            Client(endpoints, **settings)  # type: ignore[arg-type]


def test_a_closed_client_ends_what_waits(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with three_nodes(tmp_path, shards=1) as (nodes, at):
            await asyncio.gather(nodes[1].aclose(), nodes[2].aclose())
            client = Client(at[0])
            waiting = asyncio.ensure_future(client.put(b"k", b"v"))
            await until(lambda: nodes[0].status().waiting_calls > 0)
            await client.aclose()
            with pytest.raises(LinkLost):
                await waiting
            await client.aclose()

    arun(main())
