"""Machines for tests: one that adds up and does what its commands say, in memory or on its own disk, and ways to make them."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from multiraft import CommandError


class Counter:
    """Adds up numbers. Some commands are words: what a test needs a machine to do."""

    def __init__(self) -> None:
        self.total = 0
        self.applied: list[tuple[int, bytes]] = []
        self.broken = False
        self.gate: threading.Event | None = None
        """Where it is set, a command ``wait`` is applied only when the gate opens."""
        self.waiting = threading.Event()

    def apply(self, command: bytes, index: int, term: int) -> Any:
        assert not self.applied or self.applied[-1][0] < index, "applied twice or out of order"
        self.applied.append((index, command))
        word, _, rest = command.partition(b" ")
        if word == b"refuse":
            raise CommandError("as asked")
        if word == b"fail" or (word == b"break" and self.broken):
            raise RuntimeError("broken, as asked")
        if word == b"answer":
            return ANSWERS[rest.decode()]
        if word == b"wait" and self.gate is not None:
            self.waiting.set()
            assert self.gate.wait(20)
        if word.lstrip(b"-").isdigit():
            self.total += int(word)
        return self.total

    def read(self, query: Any) -> Any:
        if query == "fail":
            raise KeyError("no such thing")
        return list(self.applied) if query == "applied" else self.total

    def snapshot(self) -> Iterator[bytes]:
        yield b"%d " % self.total
        yield repr(self.applied).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        total, _, applied = b"".join(chunks).partition(b" ")
        self.total = int(total)
        self.applied = ast.literal_eval(applied.decode())


class DiskCounter(Counter):
    """The same, with its state in a file of its own; what is not synced is forgotten with the process."""

    on_disk = True

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "state"
        if self.path.exists():
            super().restore([self.path.read_bytes()])
        self.synced = self.applied[-1][0] if self.applied else 0

    def applied_index(self) -> int:
        return self.synced

    def sync(self) -> None:
        partial = self.path.with_suffix(".part")
        partial.write_bytes(b"".join(super().snapshot()))
        partial.rename(self.path)
        self.synced = self.applied[-1][0] if self.applied else 0


class LoopCounter(Counter):
    """The same, on the loop."""

    on_loop = True

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.current_thread()

    def apply(self, command: bytes, index: int, term: int) -> Any:
        assert threading.current_thread() is self.thread is threading.main_thread()
        return super().apply(command, index, term)


class Unplain:
    """A result that cannot travel."""

    def __repr__(self) -> str:
        return "<something>"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ANSWERS: dict[str, Any] = {
    "none": None,
    "true": True,
    "negative": -5,
    "large": 2**64 - 1,
    "float": 0.5,
    "bytes": b"\xff\x00",
    "text": "größe",
    "tuple": (1, (2, 3)),
    "dict": {"a": [1, b"x"], 2: None},
    "object": Unplain(),
    "error": ValueError("returned, not raised"),
    "too-large-int": 2**64,
    "set": {1, 2},
    "deep": nested(2000),
    "odd-keys": {(1, 2): 3},
    "surrogate": "\udc80",
    "huge": b"x" * (1024 * 1024 + 1),
    "huge-list": [b"x" * 1000] * 2000,
}

PLAIN = {"tuple": [1, [2, 3]]}
"""Where the answer that travels differs from what was returned."""

NOT_PLAIN = "object error too-large-int set deep odd-keys surrogate huge huge-list".split()
