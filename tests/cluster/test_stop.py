"""Processes that stand still for a while and go on, as if nothing had happened (SIGSTOP, SIGCONT)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import cluster
from tests.cluster.history import load

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.loops("uvloop")]


@pytest.mark.parametrize("heard", ["news", "nothing"])
def test_p37_a_leader_that_stood_still_reads_no_old_value(
    arun: Run, tmp_path: Path, heard: str
) -> None:
    """Longer than an election takes; reads wait in its pipe when it goes on, and it has heard of the new leader, or not."""

    async def main() -> None:
        async with cluster(tmp_path) as three, load(three) as work:
            await three.stay()
            register = work.registers[0]
            group = await three.members[1].call("group_of", key=register)
            leader = await three.leader(group)
            term = (await leader.status())["groups"][str(group)]["term"]
            if heard == "nothing":
                three.isolate(leader.number)
            leader.signal(signal.SIGSTOP)
            await three.leader(group, three.others(leader))
            await work.raised(register, by=3)
            looks = [asyncio.ensure_future(work.look(leader, register)) for _ in range(20)]
            await asyncio.sleep(0)  # the lines are in the pipe
            leader.signal(signal.SIGCONT)
            if heard == "nothing":
                await leader.status()  # it runs again, and has taken the reads in
                await leader.status()
                three.rejoin(leader.number)
            await asyncio.gather(*looks)

            async def follows() -> bool:
                one = (await leader.status())["groups"][str(group)]
                return one["term"] > term and not one["leads"]

            await three.until(follows)

    arun(main())


def test_p79_every_node_in_turn_stands_still_while_writes_are_in_flight(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as three, load(three) as work:
            for member in three.members.values():
                member.signal(signal.SIGSTOP)
                await work.history.more(40)
                member.signal(signal.SIGCONT)
                await member.status()
            await work.history.more(40)

    arun(main())
