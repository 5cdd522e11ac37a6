"""A node of its own inside another program: ``multiraft.open``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from multiraft.config import Config
from multiraft.node.node import Node
from multiraft.node.store import Store


@asynccontextmanager
async def open(data_dir: str | Path, **settings: Any) -> AsyncIterator[Store]:
    """One embedded node, durable, with its keys in order; ``settings`` are fields of ``Config``.

    The store is open inside the ``async with`` block and closed, with everything on the disk, after it. Raises
    DirectoryInUse, LogCorrupt and their kin for a directory that cannot be used.
    """
    async with Node(Config(data_dir=str(data_dir), **settings)) as node:
        yield node.store
