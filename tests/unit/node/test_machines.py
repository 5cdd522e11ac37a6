"""State machines of users, on one node and on three: results, errors, restarts, snapshots, quarantine, leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multiraft import CommandError, Config, Node

from .test_cluster import trio

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


class Counter:
    """Adds up; what its tests need besides is in its commands."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes, index: int, term: int) -> Any:
        if command == b"refuse":
            raise CommandError("as asked")
        if command == b"fail":
            raise RuntimeError("broken")
        if command.startswith(b"answer "):
            return eval(command[7:])
        self.total += int(command)
        return self.total

    def read(self, query: Any) -> Any:
        return self.total

    def snapshot(self) -> Iterator[bytes]:
        yield b"%d" % self.total

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.total = int(b"".join(chunks))


def test_a_machine_on_one_node(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for round in range(3):
            async with Node(Config(data_dir=str(tmp_path)), machines={"counter": Counter}) as node:
                group = await node.create_group("hits", Counter)
                assert await group.read() == 100 * round
                for n in range(100):
                    assert await group.propose(b"1") == 100 * round + n + 1
                assert await group.read() == 100 * round + 100
                with pytest.raises(CommandError, match="as asked"):
                    await group.propose(b"refuse")
                assert await group.propose_many([b"0", b"0"]) == [100 * round + 100] * 2
                print(node.status().machines)

    arun(main())


def test_three(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with trio(tmp_path, machines={"counter": Counter}) as cluster:
            await cluster.start(1, 2, 3)
            await cluster.ready()
            groups = await asyncio.gather(
                *(node.create_group("hits", Counter) for node in cluster.nodes.values())
            )
            assert len({group.id for group in groups}) == 1
            seen = []
            for n in range(10):
                for group in groups:
                    seen.append(await group.propose(b"1"))
            assert seen == list(range(1, 31))
            assert [await group.read() for group in groups] == [30] * 3

    arun(main())
