"""A cluster in one process, on real sockets of the loopback and in real directories, for tests of users.

    async with LocalCluster(folder, machines={"counter": Counter}) as cluster:
        group = await cluster.nodes[1].create_group("hits", Counter)

Everything runs on the loop of the caller. Nodes can be closed and started again; for kill -9, use processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from multiraft.config import Config
from multiraft.ids import NodeId
from multiraft.interfaces import StateMachine
from multiraft.node.node import Node
from multiraft.transport.address import free_addresses


class LocalCluster:
    """``count`` nodes, numbered from 1. ``settings`` are fields of ``Config`` for every node."""

    def __init__(
        self,
        folder: str | Path,
        *,
        count: int = 3,
        machines: Mapping[str, Callable[..., StateMachine]] | None = None,
        **settings: Any,
    ) -> None:
        self.nodes: dict[int, Node] = {}
        """Those that run."""
        self.addresses = dict(enumerate(free_addresses(count), 1))
        self._folder = Path(folder)
        self._machines = dict(machines or {})
        self._settings = settings

    async def start(self, number: int) -> Node:
        """Start a node that does not run, on what its directory has."""
        if number in self.nodes:
            raise AssertionError(f"node {number} runs")
        config = Config(
            node_id=NodeId(number),
            data_dir=str(self._folder / f"node-{number}"),
            listen=self.addresses[number],
            nodes=self.addresses,
            **self._settings,
        )
        node = Node(config, machines=self._machines)
        await node.start()
        self.nodes[number] = node
        return node

    async def stop(self, number: int) -> None:
        """Close a node, as a user does."""
        await self.nodes.pop(number).aclose()

    async def __aenter__(self) -> LocalCluster:
        try:
            for number in self.addresses:
                await self.start(number)
            await asyncio.gather(*(node.ready() for node in self.nodes.values()))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        nodes, self.nodes = list(self.nodes.values()), {}
        await asyncio.gather(*(node.aclose() for node in nodes))
