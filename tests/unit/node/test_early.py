"""Calls that are made before a node knows its shards: they wait, go on, end in time, and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import (
    BatchError,
    Client,
    Closed,
    DeadlineExceeded,
    Delete,
    Entry,
    InvalidCommand,
    Node,
    Put,
    TooLarge,
    ValueIs,
)
from multiraft._ticket import Waker
from multiraft.errors import NoLeader, Overloaded
from multiraft.node import early as early_module
from multiraft.node.early import MADE_AT_ONCE, Early
from tests.unit.node.test_cluster import Trio, trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


async def alone(cluster: Trio) -> Node:
    """One node of three: it cannot learn where the shards are."""
    await cluster.start(1)
    node = cluster.nodes[1]
    assert not node.routing.known
    return node


async def pairs_of(node: Node, **asked: Any) -> list[tuple[bytes, bytes]]:
    return [pair async for pair in node.store.scan(**asked)]


def calls(node: Node, timeout: float) -> dict[str, Awaitable[Any]]:
    """Every call of the store, made at once."""
    store = node.store
    return {
        "put": store.put(b"k1", b"v1", timeout=timeout),
        "delete": store.delete(b"k2", timeout=timeout),
        "put_many": store.put_many(((b"m%d" % n, b"v") for n in range(3)), timeout=timeout),
        "delete_range": store.delete_range(b"x", b"y", timeout=timeout),
        "batch": store.batch([Put(b"b1", b"v"), Delete(b"b2")], conditions=[], timeout=timeout),
        "compare_and_set": store.compare_and_set(b"c", b"v", revision=0, timeout=timeout),
        "get": store.get(b"k1", timeout=timeout),
        "get_entry": store.get_entry(b"none", timeout=timeout),
        "get_many": store.get_many([b"k1", b"none"], timeout=timeout),
        "stale": store.get(b"none", stale=True, timeout=timeout),
        "scan": pairs_of(node, start=b"k", timeout=timeout),
    }


@pytest.mark.slow
def test_a_call_made_before_the_shards_are_known_waits_and_goes_on(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=None) as cluster:
            node = await alone(cluster)
            value: Any = bytearray(b"as it was")
            conditions = [ValueIs(b"k0", value)]
            puts = [node.store.put(b"k0", value), node.store.put(b"k0", b"last")]
            made = calls(node, 20)
            running = {name: asyncio.ensure_future(call) for name, call in made.items()}
            late = node.store.batch([Put(b"k9", value)], conditions=conditions)
            value[:] = b"changed!!"
            conditions.clear()
            await asyncio.sleep(0)
            assert len(node.store.early) >= 10 and not any(one.done() for one in running.values())
            await cluster.start(2, 3)
            found = dict(zip(running, await asyncio.gather(*running.values()), strict=True))
            assert all(found[name] > 0 for name in ("put", "delete", "delete_range", "batch"))
            assert len(found["put_many"]) == 3 and found["compare_and_set"] > 0
            assert found["get"] in (None, b"v1") and found["get_entry"] is None
            assert found["stale"] is None
            first, second = [await put for put in puts]
            assert first < second, "they were not made in the order in which they came"
            assert await node.store.get_entry(b"k0") == Entry(b"last", second)
            with pytest.raises(Exception, match="condition"):
                await late
            assert len(node.store.early) == 0

    arun(main())


@pytest.mark.slow
def test_a_call_that_waits_for_the_shards_ends_at_its_deadline(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=None) as cluster:
            node = await alone(cluster)
            made = calls(node, 0.1)
            found = await asyncio.gather(*made.values(), return_exceptions=True)
            for name, error in zip(made, found, strict=True):
                if name == "put_many":
                    assert isinstance(error, BatchError), error
                    assert [type(one) for one in error.outcomes] == 3 * [DeadlineExceeded]
                else:
                    assert isinstance(error, DeadlineExceeded), (name, error)
            assert len(node.store.early) == 0
            for nowait in (node.store.put, node.store.delete):
                arguments = (b"k", b"v") if nowait == node.store.put else (b"k",)
                with pytest.raises(NoLeader):
                    nowait(*arguments, nowait=True)
            with pytest.raises(NoLeader):
                await node.store.put_many([(b"k", b"v")], nowait=True)
            with pytest.raises(InvalidCommand):
                node.store.put(b"", b"v")
            with pytest.raises(TooLarge):
                node.store.put(b"k", bytes(2 * 1024 * 1024))
            with pytest.raises(InvalidCommand):
                await node.store.put_many([(b"k", 7)])  # type: ignore[list-item]
            assert len(node.store.early) == 0

    arun(main())


@pytest.mark.slow
def test_closing_answers_what_waits_for_the_shards_and_cancelling_leaves_nothing(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with trio(tmp_path, shards=None) as cluster:
            node = await alone(cluster)
            given_up = [asyncio.ensure_future(call) for call in calls(node, 20).values()]
            await asyncio.sleep(0)
            for one in given_up:
                one.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            await cluster.until(lambda: len(node.store.early) == 0)
            made = calls(node, 20)
            running = [asyncio.ensure_future(call) for call in made.values()]
            await asyncio.sleep(0)
            await cluster.stop(1)
            for name, one in zip(made, running, strict=True):
                assert isinstance(one.exception(), Closed), (name, one)

    arun(main())


@pytest.mark.slow
def test_p100_a_client_that_goes_takes_its_calls_that_wait_with_it(
    arun: Run, tmp_path: Path
) -> None:
    """Or one that comes and goes would fill a node with calls that nobody waits for."""

    async def main() -> None:
        async with trio(tmp_path, shards=None, client_listen="127.0.0.1:0") as cluster:
            node = await alone(cluster)
            assert node.gateway is not None
            async with Client(node.gateway.address) as client:
                calls = [
                    asyncio.ensure_future(client.put(b"k", b"v", timeout=3600)),
                    asyncio.ensure_future(client.get_many([b"k", b"l"], timeout=3600)),
                ]
                await cluster.until(lambda: len(node.store.early) == 3)
            await asyncio.gather(*calls, return_exceptions=True)
            await cluster.until(lambda: len(node.store.early) == 0)

    arun(main())


@pytest.mark.loops("asyncio", "uvloop")
def test_p99_calls_that_waited_are_made_in_order_and_some_at_a_time(
    arun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        waker = Waker(asyncio.get_running_loop())
        early = Early(waker, lambda: 0, waker.drain)
        made: list[int] = []

        def make(number: int) -> Callable[[float], Any]:
            def made_now(left: float) -> Any:
                made.append(number)
                if number == 1:
                    raise InvalidCommand("not in one shard")
                return inner if number == 3 else waker.answered(left)

            return made_now

        inner = waker.ticket()
        count = 2 * MADE_AT_ONCE + 1
        tickets = [early.hold(make(number), 5_000_000_000) for number in range(count)]
        tickets[2].cancel()
        monkeypatch.setattr(early_module, "EARLY_MAX", count)
        with pytest.raises(Overloaded):
            early.hold(make(0), 1)
        early.learned()
        early.learned()
        assert made == [], "a call was made inside whatever learned the shards"
        await asyncio.sleep(0)
        assert made == [number for number in range(MADE_AT_ONCE) if number != 2]
        while len(early):
            await asyncio.sleep(0)
        assert made == [number for number in range(count) if number != 2]
        assert await tickets[0] == 5.0
        with pytest.raises(InvalidCommand):
            await tickets[1]
        tickets[3].cancel()
        await asyncio.sleep(0)
        assert inner.cancelled(), "whoever gives the call up gives up the wait for its answer"
        assert await tickets[count - 1] == 5.0

    arun(main())


@pytest.mark.loops("asyncio", "uvloop")
def test_whoever_has_an_answer_may_close_the_store_while_others_are_made(arun: Run) -> None:
    """An answer wakes its task at once, in the middle of the calls that are made."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waker = Waker(loop)
        early = Early(waker, lambda: 0, waker.drain)
        troubles: list[Any] = []
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        first, second = (early.hold(waker.answered, 5_000_000_000) for _ in range(2))

        async def close() -> None:
            await first
            early.close(Closed("closed"))

        closing = asyncio.create_task(close())
        await asyncio.sleep(0)
        early.learned()
        await closing
        with pytest.raises(Closed):
            await second
        await asyncio.sleep(0)
        assert troubles == []

    arun(main())
