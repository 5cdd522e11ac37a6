"""The compiled replica against its specification, and both against what must never happen, over random schedules.

``MULTIRAFT_SPEC_SEEDS`` says how many seeds are run (few by default, many before a release); ``MULTIRAFT_SPEC_FIRST`` where they
begin, ``MULTIRAFT_SPEC_EVENTS`` how long each is. A failure names its seed: ``Cluster(seed)`` and its events replay it.
"""

from __future__ import annotations

import os

import pytest

from tests.spec.cluster import Cluster

SEEDS = int(os.environ.get("MULTIRAFT_SPEC_SEEDS", "60"))
FIRST = int(os.environ.get("MULTIRAFT_SPEC_FIRST", "0"))
EVENTS = int(os.environ.get("MULTIRAFT_SPEC_EVENTS", "1200"))
# Seeds that failed once; what was wrong has tests of its own, these are run for company.
FAILED_ONCE = (50019, 60029, 60536, 61099, 70557, 400925)


def run(seed: int) -> Cluster:
    cluster = Cluster(seed)
    for _ in range(EVENTS):
        cluster.event()
    cluster.heal(rounds=EVENTS // 3)
    return cluster


@pytest.mark.parametrize("seed", [*FAILED_ONCE, *range(FIRST, FIRST + SEEDS)])
def test_p83_random_schedules(seed: int) -> None:
    run(seed)
