"""The store against a plain dict, over seeded workloads of everything that may befall a replica."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.unit.disks import Home, placed
from tests.unit.machine.harness import SMALL
from tests.unit.machine.workload import Workload

pytestmark = pytest.mark.slow

SEEDS = range(40)
STEPS = 500


@pytest.mark.parametrize("seed", SEEDS)
def test_replicas_show_what_a_dict_would(seed: int, home: Home) -> None:
    options = dataclasses.replace(
        SMALL,
        cold_reads=("loop", "thread")[seed % 2],
        memtable_bytes_max=(1 << 14, 1 << 24)[seed // 2 % 2],
    )
    workload = Workload(home, options, seed)
    try:
        workload.run(STEPS)
    finally:
        workload.close()


def test_the_workload_does_everything(tmp_path: Path) -> None:
    """Else the test above would show less than it seems to."""
    done: dict[str, int] = {}
    for seed in range(6):
        workload = Workload(placed(tmp_path) / str(seed), SMALL, seed)
        try:
            workload.run(STEPS)
        finally:
            workload.close()
        for name, count in workload.done.items():
            done[name] = done.get(name, 0) + count
    assert min(done.get(rule.__name__, 0) for rule, _ in workload.rules) >= 5, done
