"""Processes killed with -9 under load, one or all: what was acknowledged is there, what failed is not."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import cluster
from tests.cluster.history import load

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.loops("uvloop")]


def test_p81_a_node_is_killed_under_load_and_comes_back(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as three, load(three) as work:
            victim = await three.busiest()
            await victim.kill()
            await work.history.more(100)
            await victim.start()
            await work.history.more(100)
            assert (await victim.status())["boots"] == 2

    arun(main())


def test_p08_p20_all_nodes_are_killed_at_once_and_forget_nothing(arun: Run, tmp_path: Path) -> None:
    """The first thing that each is asked after its return is a read, which must not see less than was told before."""

    async def main() -> None:
        async with cluster(tmp_path) as three, load(three) as work:
            for _ in range(2):
                await three.each(lambda member: member.kill())
                await three.each(lambda member: member.start())
                await three.each(lambda member: work.look(member, work.registers[0]))
                await work.history.more(60)

    arun(main())
