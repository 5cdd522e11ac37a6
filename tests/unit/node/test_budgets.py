"""Budgets of the loop, by counts and never by time: however much waits, other callbacks come in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Config, Node
from multiraft._core import CommittedRuns
from multiraft.node import hash_scan, scanning, store
from multiraft.node.turn import APPLY_ENTRIES_MAX

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")


class Rounds:
    """Counts how often the loop comes round."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._round)

    def _round(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._round)

    def stop(self) -> int:
        self._handle.cancel()
        return self.count


@pytest.mark.parametrize("shards", [None, 4], ids=["range", "hash"])
def test_p99_a_scan_lets_the_loop_round_with_every_page(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int | None
) -> None:
    monkeypatch.setattr(scanning, "PAGE_KEYS", 50)
    monkeypatch.setattr(hash_scan, "EMITTED_AT_ONCE", 50)
    monkeypatch.setattr(hash_scan, "PAGE_SLOTS", 1024)
    monkeypatch.setattr(store, "GET_MANY_AT_ONCE", 50)
    keys = [b"k%05d" % n for n in range(5000)]

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), shards=shards)) as node:
            await node.store.put_many((key, b"v") for key in keys)
            rounds = Rounds()
            assert [key async for key, _ in node.store.scan()] == keys
            assert rounds.stop() >= 100
            rounds = Rounds()
            assert await node.store.get_many(keys) == [b"v"] * 5000
            assert rounds.stop() >= 99

    arun(main())


class Jumping:
    """A clock for which a millisecond has passed whenever it is asked: half of what a turn may apply."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        self._now_ns += 1_000_000
        return self._now_ns

    def wall_ms(self) -> int:
        return 0


def test_p99_a_backlog_is_applied_in_as_many_turns_as_its_budget_asks_for(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path))) as node:
            await node.store.put(b"first", b"v")  # what came with the start is behind us
            apply, applied = node.machine.apply, dict[int, int]()

            def counted(
                runs: CommittedRuns, entries_max: int, held: CommittedRuns | None = None
            ) -> int:
                entries = apply(runs, entries_max, held)
                turn = node.turn.counters.turns
                applied[turn] = applied.get(turn, 0) + entries
                return entries

            node.machine.apply = counted  # type: ignore[method-assign]
            node.turn._clock = Jumping(node.clock.now_ns())
            tickets = [node.store.put(b"k%05d" % n, b"v", timeout=1e6) for n in range(5000)]
            for ticket in tickets:
                await ticket
            assert sum(applied.values()) == 5000
            assert APPLY_ENTRIES_MAX <= max(applied.values()) <= 2 * APPLY_ENTRIES_MAX

    arun(main())
