"""p84: who is refused, and that both sides say clearly why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multiraft.errors import (
    MultiRaftError,
    PeerProtocolError,
    Rejected,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.interfaces import Hello
from tests.unit.transport.harness import FAST, Arun, Recorder, cluster, make_frame

# -- refusals ------------------------------------------------------------------------------------------------------------


def refused_by(kind: type[MultiRaftError]) -> Callable[[Hello], MultiRaftError | None]:
    return lambda hello: kind(f"node {hello.node} is not the one I know")


@pytest.mark.parametrize(
    ("change", "refuser", "expected"),
    [
        ({"cluster_id": 0xBAD}, None, WrongCluster),
        ({"store_id": 0xBAD}, WrongStore, WrongStore),
        ({"format_min": 5, "format_max": 9}, None, MultiRaftError),
        ({}, Rejected, MultiRaftError),
    ],
    ids=["cluster", "store", "format", "other"],
)
@pytest.mark.parametrize("dialler", [1, 2])
def test_p84_a_refusal_is_told_clearly_on_both_sides(
    arun: Arun,
    change: dict[str, Any],
    refuser: type[MultiRaftError] | None,
    expected: type[MultiRaftError],
    dialler: int,
) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2, **change)
            if refuser is not None:
                one.refuse = refused_by(refuser)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(dialler, 3 - dialler)
            await one.until(lambda: len(one.refusals) >= 2, "two refusals at 1")
            await two.until(lambda: len(two.refusals) >= 2, "two refusals at 2")
            assert one.story == two.story == []
            for recorder, other in ((one, 2), (two, 1)):
                node, error = recorder.refusals[0]
                assert node == other
                assert isinstance(error, expected)
            told = str(one.refusals[0][1]), str(two.refusals[0][1])
            assert (
                told[0].removeprefix("the other side refused: ") in told[1]
                or told[1].removeprefix("the other side refused: ") in told[0]
            )

    arun(main())


def test_an_unknown_cluster_is_welcome_to_the_transport(arun: Arun) -> None:
    """While bootstrapping a node does not know its cluster yet; whether that is right, admit judges."""

    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2, cluster_id=0, bootstrapped=False)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await two.until_up(1)
            assert nodes.transports[2].send(NodeId(1), make_frame(b"hello"))
            await one.until(lambda: one.payloads() == [b"hello"], "frame")

    arun(main())


def test_an_address_that_leads_to_another_node_or_to_ourselves(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.transports[1].set_address(NodeId(3), nodes.addresses[2])
            await one.until(lambda: bool(one.refusals), "refusal")
            assert one.refusals[0][0] == 3
            assert isinstance(one.refusals[0][1], PeerProtocolError)
            nodes.transports[2].set_address(NodeId(3), nodes.addresses[2])
            await two.until(
                lambda: any("as we are" in str(error) for _, error in two.refusals), "itself"
            )
            assert one.story == two.story == []

    arun(main())


def test_refusals_do_not_become_a_storm(arun: Arun) -> None:
    async def main() -> None:
        options = replace(FAST, backoff_min_s=0.05, backoff_max_s=0.4)
        async with cluster(options) as nodes:
            one, two = Recorder(1), Recorder(2)
            one.refuse = refused_by(WrongStore)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(2, 1)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await two.until(lambda: len(two.refusals) >= 4, "refusals")
            # Each wait is at least half of 50, 100 and 200 ms.
            assert loop.time() - begin >= 0.17

    arun(main())
