"""Starting and closing a node, and giving up the wait for either, at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft import Config, Node
from multiraft.errors import SyncFailed
from multiraft.node import node as node_module
from multiraft.node.leaving import Leaving
from tests.unit.node.test_cluster import trio

Run = Callable[[Coroutine[Any, Any, None]], None]


def test_everybody_who_closes_waits_until_it_has_ended(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        node = Node(Config(data_dir=str(tmp_path)))
        await node.start()
        await node.store.put(b"k", b"v")
        given_up = asyncio.ensure_future(node.aclose())
        closers = [asyncio.ensure_future(node.aclose()) for _ in range(3)]
        await asyncio.sleep(0)
        given_up.cancel()
        for closer in asyncio.as_completed(closers):
            await closer
            assert node._ended.done(), "one came back before the end"
        await node.aclose()
        async with multiraft.open(tmp_path) as db:
            assert await db.get(b"k") == b"v"

    arun(main())


@pytest.mark.slow
def test_a_start_that_is_cancelled_leaves_the_directory_free(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            await db.put(b"k", b"v")
        for steps in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256):
            node = Node(Config(data_dir=str(tmp_path)))
            starting = asyncio.ensure_future(node.start())
            for _ in range(steps):
                await asyncio.sleep(0)
            if starting.done():
                await node.aclose()
                break
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            async with multiraft.open(tmp_path) as db:
                assert await db.get(b"k") == b"v"
        assert steps > 2, "it started before it could be cancelled"

    arun(main())


@pytest.mark.parametrize("where", ["hand_over", "_answer_all", "_close_links"])
def test_what_fails_while_a_node_ends_leaves_nothing_open_and_nobody_waiting(
    arun: Run, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is free, ``closed`` comes back and says what it was."""

    async def main() -> None:
        def fail() -> None:
            raise ValueError("a mistake of ours")

        async def fail_later(*_: object) -> None:
            await real_links()
            fail()

        node = Node(Config(data_dir=str(tmp_path)))
        await node.start()
        await node.store.put(b"k", b"v")
        real_links = node._close_links
        wrong = (lambda _: fail()) if where == "_answer_all" else fail_later
        monkeypatch.setattr(Leaving if where == "hand_over" else node, where, wrong)
        await node.aclose()
        with pytest.raises(ValueError, match="a mistake of ours"):
            await node.closed()
        async with multiraft.open(tmp_path) as db:
            assert await db.get(b"k") == b"v"

    arun(main())


def test_a_node_that_fails_while_it_answers_ends_all_the_same(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        node = Node(Config(data_dir=str(tmp_path)))
        await node.start()
        node._answer_all = None  # type: ignore[method-assign,assignment]
        with pytest.raises(TypeError):
            node.failed(SyncFailed("the disk is gone"))
        with pytest.raises(SyncFailed):
            await node.closed()
        async with multiraft.open(tmp_path) as db:
            assert await db.get(b"k") is None

    arun(main())


@pytest.mark.slow
@pytest.mark.loops("uvloop")
def test_calls_of_others_are_answered_by_a_node_that_closes(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on forwarding to it, and on handing leaderships back to it, for as long as they know of nothing."""
    monkeypatch.setattr(node_module, "SPREAD_EVERY_TICKS", 1)

    async def main() -> None:
        async with trio(tmp_path, shards=8) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            stop = asyncio.Event()
            done = 0

            async def write(node: Node, number: int) -> None:
                nonlocal done
                while not stop.is_set():
                    await node.store.put(b"%d-%d" % (number, done), b"v", timeout=20)
                    done += 1

            writers = [
                asyncio.ensure_future(write(cluster.nodes[1 + number % 2], number))
                for number in range(32)
            ]
            for _ in range(5):
                await cluster.until(lambda: cluster.nodes[3].status().led > 1)
                await cluster.stop(3)
                assert not [one for one in writers if one.done() and one.exception()]
                await cluster.start(3)
                await cluster.ready()
            stop.set()
            await asyncio.gather(*writers)

    arun(main())
