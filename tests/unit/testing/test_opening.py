"""A disk that fails or lies while a store opens: a typed error says so, and nothing is left open."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from multiraft.errors import StorageError
from multiraft.interfaces import Disk
from multiraft.log.store import LmdbLogStore
from multiraft.machine.tree import Tree
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import READ
from multiraft.worker import InlineWorker

HOME = Path("/node")


def log(disk: Disk) -> Any:
    return LmdbLogStore(
        HOME / "log", writer=InlineWorker(), reader=InlineWorker(), disk=disk, identity=lambda: 7
    )


def tree(disk: Disk) -> Any:
    return Tree(HOME / "state", disk=disk, store_id=7)


@pytest.mark.parametrize("open_store", [log, tree])
def test_an_error_of_a_read_while_a_store_opens_is_typed(open_store: Any) -> None:
    failures = 0
    for skip in range(40):
        disk = SimulatedDisk(random.Random(skip))
        open_store(disk).close()
        disk.fail(READ, skip=skip)
        try:
            open_store(disk).close()
        except (StorageError, OSError):
            failures += 1
            open_store(disk).close()
    assert failures > 0
