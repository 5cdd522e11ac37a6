"""Puts through three nodes, end to end: synced and applied on all three, the load inside the nodes' own processes.

The rows differ in what is put. ``led``: single awaited puts, each on the node that leads the key's shard. ``within``:
``put_many`` of 100 keys of one shard led there. ``forwarded``: single puts of keys that another node leads. ``scattered``:
``put_many`` of 100 keys of any shard. ``fresh``: single puts of keys never seen before, into a million that are there, two
thirds of them forwarded.

``writes_per_s`` and ``cpu_us_per_write`` (user and system time of all three processes, the load included) are medians over
segments of a second. Rates depend on the disk (``sync_ms``: one 4 KiB append with fdatasync, in the same run) and on what else the
machine does; the CPU time is what compares. Each row checks that what was acknowledged is there, on every node.

Untimed, in the tests, the same runs with little data for a fraction of a second.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device import device_bytes, sync_ms
from benchmarks.trio import Members, members, summary

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(300)]

SHARDS = 64
MEMTABLE_AGE_S = 20.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: so many calls in flight over all nodes, and the targets where there are any."""

    kind: str
    calls: int
    seconds: int
    writes_per_s: int | None = None
    cpu_us_per_write: float | None = None


ROWS = (
    Row("led", 1024, 60, writes_per_s=100_000, cpu_us_per_write=8.0),
    Row("within", 1024, 60, writes_per_s=500_000, cpu_us_per_write=2.5),
    Row("within", 64, 10),
    Row("forwarded", 1024, 10),
    Row("scattered", 64, 10),
)


@dataclass(slots=True)
class Cluster:
    """Three members, and the sizes to use: real ones, or as little as shows that it works."""

    members: Members
    folder: Path
    real: bool
    keys: int


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    real = request.config.getoption("benchmark_enable")
    folder = tmp_path_factory.mktemp("cluster")
    keys = 100_000 if real else 2_000
    with members(folder, SHARDS if real else 6, memtable_age_s=MEMTABLE_AGE_S) as found:
        found.ask(do="fill", first_only=True, keys=keys)
        yield Cluster(found, folder, bool(real), keys)


def flushes(found: Members) -> list[int]:
    return [status["flushes"] for status in found.ask(do="status")]


def measure(benchmark: Any, cluster: Cluster, row: Row) -> dict[str, Any]:
    """Run a row once, note what it gave, and look that everything acknowledged is there."""
    before = flushes(cluster.members)
    answers: list[dict[str, Any]] = []

    def run() -> None:
        answers.extend(
            cluster.members.ask(
                do="load",
                kind=row.kind,
                keys=cluster.keys,
                clients=max(1, row.calls // 3) if cluster.real else 4,
                segments=row.seconds if cluster.real else 1,
                segment_s=1.0 if cluster.real else 0.1,
            )
        )

    benchmark.pedantic(run, rounds=1)
    found = summary(answers)
    found |= {
        "calls_in_flight": row.calls,
        "value_bytes": 16,
        "shards": SHARDS,
        "targets": {"writes_per_s": row.writes_per_s, "cpu_us_per_write": row.cpu_us_per_write},
        "flushes": [
            after - first for after, first in zip(flushes(cluster.members), before, strict=True)
        ],
        "sync_ms": sync_ms(cluster.folder) if cluster.real else None,
    }
    benchmark.extra_info.update(found)
    if not cluster.real:
        assert found["unknown"] == 0
    check(cluster.members, answers)
    return found


def check(found: Members, answers: list[dict[str, Any]]) -> None:
    """The last writes that were acknowledged are what every node reads."""
    samples = [sample for answer in answers for sample in answer["samples"]]
    assert samples
    for answer in found.ask(do="read", keys_hex=samples):
        assert None not in answer["values_hex"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.calls}")
@pytest.mark.benchmark(group="puts end to end, three processes")
def test_put(benchmark: Any, cluster: Cluster, row: Row) -> None:
    measure(benchmark, cluster, row)


@pytest.mark.benchmark(group="puts end to end, three processes")
def test_put_fresh_into_a_million(benchmark: Any, cluster: Cluster) -> None:
    """Random keys that are new: memtables fill, are flushed, and the tree grows under them."""
    if cluster.real:
        cluster.members.ask(do="fill", first_only=True, keys=1_000_000)
    written = device_bytes(cluster.folder)
    before = written() if written else 0
    found = measure(benchmark, cluster, Row("fresh", 1024, 60, writes_per_s=50_000))
    if written and cluster.real:
        puts = found["writes_per_s"] * 60
        benchmark.extra_info["device_bytes_per_put"] = round((written() - before) / puts)
    benchmark.extra_info["memory_mib"] = [
        answer["memory_mib"] for answer in cluster.members.ask(do="memory")
    ]


@pytest.mark.benchmark(group="latency of one client, three processes")
def test_latency_of_one_client(benchmark: Any, cluster: Cluster) -> None:
    """One client on one node, beside the log's own commits in the same run: the ratio of their medians is the figure."""
    answers: list[dict[str, Any]] = []

    def run() -> None:
        answers.extend(
            cluster.members.ask(
                do="load",
                kind="timed",
                keys=cluster.keys,
                clients=1,
                segments=10 if cluster.real else 1,
                segment_s=1.0 if cluster.real else 0.1,
                first_only=True,
            )
        )

    benchmark.pedantic(run, rounds=1)
    (answer,) = answers
    put_ms, commit_ms = (statistics.median(answer[name]) * 1e3 for name in ("latencies", "commits"))
    benchmark.extra_info.update(
        put_p50_ms=round(put_ms, 3),
        commit_p50_ms=round(commit_ms, 3),
        ratio=round(put_ms / commit_ms, 2),
        target=3.0,
        sync_ms=sync_ms(cluster.folder) if cluster.real else None,
    )
    check(cluster.members, answers)
