"""Real ``multiraft serve`` processes for tests: a cluster on this machine, and the way in which one of its nodes ended.

Whatever a test leaves running is killed at the end of its ``async with``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from multiraft import Client
from multiraft.cli.processes import NodeProcess, serve_arguments
from multiraft.transport.address import free_addresses

Run = Callable[[Coroutine[Any, Any, None]], None]

WAIT_S = 30.0
NODES = (1, 2, 3)


class Served:
    """Nodes as processes, each with a directory ``n<id>`` in ``folder``, and clients of them."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: tuple[int, ...] = NODES,
        shards: int = 4,
        like: Served | None = None,
    ) -> None:
        """``like`` is another cluster whose addresses and shards are used: to mix the two up."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if like is not None:
            self.addresses, self.clients_at, self.shards = (
                like.addresses,
                like.clients_at,
                like.shards,
            )
        else:
            free = free_addresses(2 * len(nodes))
            self.addresses = dict(zip(nodes, free[: len(nodes)], strict=True))
            self.clients_at = dict(zip(nodes, free[len(nodes) :], strict=True))
            self.shards = shards
        self.nodes = {node: self.process(node) for node in nodes}

    def process(self, node: int, *more: str, directory: Path | None = None) -> NodeProcess:
        """One node, yet to be started, with more flags or another directory."""
        arguments = serve_arguments(
            node,
            directory or self.directory(node),
            self.addresses,
            client_address=self.clients_at[node],
            shards=self.shards,
        )
        return NodeProcess(f"node {node}", [*arguments, *more], self.folder / f"n{node}.log")

    def directory(self, node: int) -> Path:
        return self.folder / f"n{node}"

    async def start(self, *nodes: int) -> None:
        for node in nodes or self.nodes:
            await self.nodes[node].start()

    async def ready(self, *nodes: int) -> None:
        async with asyncio.timeout(WAIT_S):
            for node in nodes or self.nodes:
                await self.nodes[node].ready()

    async def stop(self, *nodes: int) -> None:
        codes = await asyncio.gather(*(self.nodes[node].stop() for node in nodes or self.nodes))
        assert set(codes) == {0}

    def client(self, *nodes: int, **settings: Any) -> Client:
        return Client([self.clients_at[node] for node in nodes or self.nodes], **settings)

    async def write(self, count: int, *, name: bytes = b"k", via: tuple[int, ...] = ()) -> None:
        """Put so many keys; every one of them is acknowledged when this returns."""
        async with self.client(*via) as client:
            await client.put_many([(b"%b%d" % (name, n), b"v%d" % n) for n in range(count)])

    async def read(self, count: int, *, name: bytes = b"k", via: tuple[int, ...] = ()) -> None:
        """Nothing of what ``write`` put is lost."""
        async with self.client(*via) as client:
            found = await client.get_many(
                [b"%b%d" % (name, n) for n in range(count)], timeout=WAIT_S
            )
        assert found == [b"v%d" % n for n in range(count)]


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[Served]:
    cluster = Served(folder, **settings)
    try:
        yield cluster
    finally:
        for process in cluster.nodes.values():
            if process.running:
                await process.kill()


async def ending(process: NodeProcess) -> tuple[int, str]:
    """Wait for a process to end on its own: its exit code, and the one line in which it says why."""
    async with asyncio.timeout(WAIT_S):
        code = await process.ended()
    lines = process.last_lines()
    said = [line for line in lines if re.match(r"(multiraft serve|Error): ", line)]
    assert len(said) == 1 and said == lines[-1:], lines
    assert not any("Traceback" in line for line in lines), lines
    return code, said[0]
