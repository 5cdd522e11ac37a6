"""What a member serves, and leads, after a restart: nothing before its log is replayed, nothing while its disk fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import FAILED, CallFailed, cluster
from tests.cluster.history import load

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.loops("uvloop")]


def test_p38_a_restarted_node_serves_nothing_until_its_log_is_replayed(
    arun: Run, tmp_path: Path
) -> None:
    """Its links are up and its leaders known, and all that it has is the log: reads wait, and then they see everything."""

    async def main() -> None:
        async with cluster(tmp_path, memtable_age_s=0.2) as three:
            first, back = three.members[1], three.members[3]
            await first.call("put", key="k", value="flushed")

            async def flushed() -> bool:
                return all(index > 0 for index in await back.call("saved"))

            await three.until(flushed)
            await back.kill()
            await back.start(memtable_age_s=3600.0)
            await three.ready()
            keys = [f"key-{n}" for n in range(60)]
            await first.call("put_many", items=[[key, "in the log alone"] for key in keys])
            await three.settled()
            await back.kill()
            await back.start(hold_apply=True)
            await three.ready()
            status = await back.status()
            assert all(status["links"].values())
            assert any(one["applied"] < one["last"] for one in status["groups"].values())
            with pytest.raises(CallFailed, match="DeadlineExceeded"):
                await back.call("get", key=keys[0], timeout=0.5)
            reads = [asyncio.ensure_future(back.call("get", key=key)) for key in keys]
            for _ in range(5):
                await back.status()
            assert not any(read.done() for read in reads), "it read what it had not replayed"
            await back.call("release")
            assert [entry[0] for entry in await asyncio.gather(*reads)] == ["in the log alone"] * 60
            assert (await back.call("get", key="k"))[0] == "flushed"

    arun(main())


def test_p12_a_leader_that_cannot_write_its_log_leads_no_more(arun: Run, tmp_path: Path) -> None:
    """It ends, the others lead on; while the fault lasts it does not even start, and moves nobody."""

    async def main() -> None:
        async with cluster(tmp_path) as three, load(three) as work:
            await three.stay()
            broken = await three.busiest()
            others = three.others(broken)
            await broken.call("break_disk")
            assert (await broken.ended(), broken.reason[:10]) == (FAILED, "SyncFailed")
            await three.led(others)
            await work.history.more(60)
            before = await three.terms(others)
            with pytest.raises(CallFailed, match="Died"):
                await broken.start(broken_disk=True)
            assert await broken.ended() == FAILED
            await work.history.more(60)
            assert await three.terms(others) == before, (
                "it won, or raised terms, with a broken disk"
            )
            await broken.start()
            await work.history.more(60)

    arun(main())
