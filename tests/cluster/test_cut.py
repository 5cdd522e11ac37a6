"""Links that carry nothing for a while: one of three, or all of a node. What was on its way arrives late."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Member, cluster
from tests.cluster.history import load

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.loops("uvloop")]


async def leaderless(three: Cluster, member: Member) -> None:
    """Wait until a member knows no leader for some group: it has waited for one, and stands for election in vain."""

    async def knows_none() -> bool:
        groups = (await member.status())["groups"].values()
        return any(one["leader"] is None and not one["leads"] for one in groups)

    await three.until(knows_none)


def test_p27_with_one_link_cut_every_leader_stays(arun: Run, tmp_path: Path) -> None:
    """Each of the two still reaches the third, which hears both leaders and lets neither be deposed."""

    async def main() -> None:
        async with cluster(tmp_path, election_ms=2000) as three, load(three) as work:
            await three.stay()
            one, other = three.members[1], three.members[2]
            before = await three.terms(three.members.values())
            three.cut(1, 2)
            await leaderless(three, one)
            await leaderless(three, other)
            await work.history.more(100)
            assert await three.terms([three.members[3]]) == before, "a leader was deposed"
            three.mend(1, 2)
            await work.history.more(50)

    arun(main())


def test_p25_p28_an_isolated_node_leads_nothing_and_deposes_nobody_when_it_returns(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with cluster(tmp_path, election_ms=1000) as three, load(three) as work:
            await three.stay()
            lonely = await three.busiest()
            others = three.others(lonely)
            three.isolate(lonely.number)
            await three.led(others)

            async def stands_alone() -> bool:
                groups = (await lonely.status())["groups"].values()
                return all(not one["leads"] and one["leader"] is None for one in groups)

            await three.until(stands_alone)
            await work.history.more(100)
            before = await three.terms(others)
            three.rejoin(lonely.number)

            async def follows() -> bool:
                groups = (await lonely.status())["groups"].values()
                return all(one["leader"] is not None for one in groups)

            await three.until(follows)
            await work.history.more(50)
            assert await three.terms(three.members.values()) == before, "a leader was deposed"

    arun(main())
