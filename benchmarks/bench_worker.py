"""What a hand-over to a worker and back costs, by how many are on their way at once: the floor under every commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from multiraft.worker import Worker


async def hand_over(jobs: int, at_once: int) -> int:
    """Send `jobs` jobs to a worker, `at_once` at a time, and sum what comes back."""
    total, left = 0, 0
    all_back = asyncio.Event()

    def done(result: int | None, error: BaseException | None) -> None:
        nonlocal total, left
        if error is not None:
            raise error
        total += result or 0
        left -= 1
        if left == 0:
            all_back.set()

    worker = Worker("bench")
    for _ in range(jobs // at_once):
        left = at_once
        all_back.clear()
        for _ in range(at_once):
            worker.submit(lambda: 1, done)
        await all_back.wait()
    worker.close()
    return total


@pytest.mark.benchmark(group="worker")
@pytest.mark.parametrize("at_once", [1, 16, 256])
def bench_hand_over(benchmark: Any, bench_runner: asyncio.Runner, at_once: int) -> None:
    jobs = 1024
    benchmark.extra_info.update(operations=jobs, at_once=at_once)
    assert benchmark(lambda: bench_runner.run(hand_over(jobs, at_once))) == jobs
