"""Fakes for the parts of a simulation: processes that only note, an end of a link that hears, a node that shows what it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from multiraft.ids import NodeId
from multiraft.interfaces import FileMeta, Hello
from multiraft.testing.cluster import Life
from multiraft.testing.loop import ProcessLoop
from multiraft.testing.schedule import Schedule


def loop(schedule: Schedule, name: str = "p") -> ProcessLoop:
    return ProcessLoop(schedule, name)  # type: ignore[abstract]


class Events:
    """A node as its transport sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.frames: list[bytes] = []
        self.up: list[int] = []
        self.down: list[tuple[int, Exception | None]] = []
        self.files: list[tuple[int, int, str]] = []

    def hello(self) -> Hello:
        return Hello(
            cluster_id=cast(Any, 1),
            node=NodeId(self.number),
            store_id=cast(Any, self.number),
            boot_count=1,
            sequence=0,
            format_min=1,
            format_max=1,
            bootstrapped=True,
            config_digest=1,
        )

    def admit(self, hello: Hello) -> None: ...

    def frame(self, node: NodeId, view: memoryview) -> None:
        self.frames.append(bytes(view))

    def link_up(self, node: NodeId, link_epoch: int) -> None:
        self.up.append(node)

    def link_down(self, node: NodeId, error: Exception | None) -> None:
        self.down.append((node, error))

    def link_refused(self, node: NodeId, error: Exception) -> None:
        raise AssertionError(error)

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        self.files.append((node, transfer, path))


def life(number: int, multi: object, count: int = 1, machine: object = None) -> Life:
    """A life that shows no more than what the invariants look at."""
    node = SimpleNamespace(multi=multi, machine=machine)
    shown = SimpleNamespace(number=number, count=count, name=f"{number}.{count}", node=node)
    return cast(Life, shown)


class Groups:
    """The replicas of one node, as ``Multi`` shows them: set what you want to be seen."""

    def __init__(self, group: int = 1) -> None:
        self.group = group
        self.log: list[tuple[int, bytes]] = []
        """Term and payload, from index 1."""
        self.base = self.commit = self.applied = 0
        self.stable: int | None = None
        self.term = 1

    def groups(self) -> list[int]:
        return [self.group]

    def indexes(self, group: int) -> tuple[int, int, int, int, int]:
        last = len(self.log)
        stable = last if self.stable is None else self.stable
        return self.base, stable, self.commit, self.applied, last

    def replica(self, group: int) -> Groups:
        return self

    def status(self) -> Any:
        return SimpleNamespace(term=self.term, last_index=len(self.log), first_index=self.base + 1)

    def term_at(self, index: int) -> int:
        return self.log[index - 1][0] if index else 0

    def entries(self, first: int, last: int) -> list[Any]:
        return [
            SimpleNamespace(index=at, term=self.log[at - 1][0], payload=self.log[at - 1][1])
            for at in range(first, last + 1)
        ]
