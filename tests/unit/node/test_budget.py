"""What a turn may do at once, by a clock that the test holds: however much waits, the loop comes round."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Config, Node
from multiraft.node.turn import APPLY_ENTRIES_MAX, APPLY_NS_MAX

Run = Callable[[Coroutine[Any, Any, None]], None]

KEYS = 20_000
STEP_NS = APPLY_NS_MAX // 2


class Stepping:
    """Half of a turn's budget passes with each look at it."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        self._now_ns += STEP_NS
        return self._now_ns

    def wall_ms(self) -> int:
        return 0


@pytest.mark.slow
@pytest.mark.loops("uvloop")
def test_p99_a_turn_keeps_its_budget_and_the_loop_comes_round_between_two(
    arun: Run, tmp_path: Path
) -> None:
    """Twenty thousand entries are committed at once: each turn applies a few hundred of them."""

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path))) as node:
            loop, turn = asyncio.get_running_loop(), node.turn
            turn._clock = Stepping(node.clock.now_ns())
            rounds = 0
            applied: list[int] = []
            seen: list[int] = []

            def come_round() -> None:
                nonlocal rounds
                rounds += 1
                if rounds >= 0:
                    loop.call_soon(come_round)

            apply_pass = turn._apply

            def counted() -> bool:
                before = turn.counters.applied_entries
                more = apply_pass()
                applied.append(turn.counters.applied_entries - before)
                seen.append(rounds)
                return more

            turn._apply = counted  # type: ignore[method-assign]
            come_round()
            tickets = [node.store.put(b"%d" % n, b"v", timeout=1e6) for n in range(KEYS)]
            for ticket in tickets:
                await ticket
            rounds = -1  # the last
            assert sum(applied) >= KEYS
            assert max(applied) <= 3 * APPLY_ENTRIES_MAX
            assert all(now > before for before, now in itertools.pairwise(seen)), (
                "two turns followed each other, and nothing else of the loop ran between them"
            )

    arun(main())
