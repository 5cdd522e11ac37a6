"""A disk that hangs under a read: its caller hears in time, the node closes, and what comes at last is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft import Closed, Config, DeadlineExceeded, Node, StorageError
from multiraft.errors import Overloaded
from multiraft.node import store as store_module

Run = Callable[[Coroutine[Any, Any, None]], None]

SETTINGS: dict[str, dict[str, Any]] = {"keys": {}, "slots": {"shards": 2}}


@contextmanager
def hanging(node: Node) -> Iterator[Callable[[], None]]:
    """The node's reader thread is inside a read that does not come back before the block ends, or what is given is called."""
    gate, inside = threading.Event(), threading.Event()
    tree = node.machine._tree

    def hang() -> None:
        with tree.reading():
            inside.set()
            gate.wait()

    node.machine._reader_jobs.submit(hang, lambda result, error: None)
    inside.wait()
    try:
        yield gate.set
    finally:
        gate.set()


async def pairs_of(node: Node, timeout: float) -> list[tuple[bytes, bytes]]:
    return [pair async for pair in node.store.scan(timeout=timeout)]


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_read_ends_at_its_deadline_while_the_disk_hangs(
    arun: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        config = Config(data_dir=str(tmp_path), cold_reads="thread", tick_ms=10, **SETTINGS[kind])
        async with Node(config) as node:
            await node.store.put(b"k", b"v")
            with hanging(node) as go_on:
                reads: list[Awaitable[Any]] = [
                    node.store.get(b"none", timeout=0.05),
                    node.store.get(b"none", timeout=0.05, stale=True),
                    node.store.get_entry(b"none", timeout=0.05),
                    node.store.get_many([b"none", b"k"], timeout=0.05),
                    pairs_of(node, 0.05),
                ]
                lives = node.store.get(b"none", timeout=20)
                async with asyncio.timeout(5):
                    found = await asyncio.gather(*reads, return_exceptions=True)
                assert [type(one) for one in found] == 5 * [DeadlineExceeded]
                assert len(node.reads) == 1
                assert await node.store.get(b"k") == b"v", "what is in memory needs no disk"
                with monkeypatch.context() as patch:
                    patch.setattr(store_module, "COLD_MAX", node.store._cold)
                    with pytest.raises(Overloaded):
                        node.store.get(b"none")
                go_on()
                assert await lives is None
            assert await node.store.get(b"none") is None
            assert len(node.reads) == 0 == node.store._cold

    arun(main())


def test_a_node_closes_though_a_read_of_its_disk_hangs_and_says_what_stays_open(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        config = Config(
            data_dir=str(tmp_path), cold_reads="thread", timeout_s=0.2, tick_ms=10, election_ms=300
        )
        node = Node(config)
        await node.start()
        await node.store.put(b"k", b"v")
        with hanging(node):
            waiting = asyncio.ensure_future(node.store.get(b"none", timeout=20))
            async with asyncio.timeout(20):
                await node.aclose()
            with pytest.raises(Closed):
                await waiting
            with pytest.raises(StorageError, match="hangs"):
                await node.closed()
        node._workers[3].close()  # the reader: it comes back after all
        node.machine.close()
        async with multiraft.open(tmp_path) as db:
            assert await db.get(b"k") == b"v"

    arun(main())
