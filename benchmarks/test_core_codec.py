"""What ring 0 costs through its Python doors: checksums, checks, batches, frames, routes, by the size that matters.

Every figure holds one crossing into C; the loops of `operations` stand around it, so that small things are timed at all.
"""

from __future__ import annotations

import random
from typing import Any

import google_crc32c
import pytest

from multiraft import _core
from multiraft._batch import BatchBuilder
from multiraft._core import Fault, crc32c, crc32c_table
from multiraft._frames import encode_frame, encode_message
from multiraft._routes import RouteTable, physical_key

SEED = 20
ENTRY_BYTES = 128
SUMS = {"core": crc32c, "table": crc32c_table, "google_crc32c": google_crc32c.extend}


def note(benchmark: Any, **facts: Any) -> None:
    benchmark.extra_info.update(facts)


@pytest.mark.parametrize("size", [64, 1024, 16 * 1024, 256 * 1024])
@pytest.mark.parametrize("way", SUMS)
@pytest.mark.benchmark(group="core: crc32c", min_rounds=20)
def test_crc32c(benchmark: Any, way: str, size: int) -> None:
    data = random.Random(SEED).randbytes(size)
    operations = max(1, 64 * 1024 // size)
    note(benchmark, operations=operations, bytes=operations * size)

    def sum_all() -> int:
        result = 0
        for _ in range(operations):
            result = crc32c(data) if way == "core" else SUMS[way](*arguments)
        return result

    arguments: tuple[Any, ...] = (0, data) if way == "google_crc32c" else (data,)
    assert benchmark(sum_all) == google_crc32c.value(data)


def run_of(entries: int, group: int = 1) -> bytes:
    payloads = [bytes([at % 251]) * ENTRY_BYTES for at in range(entries)]
    return _core.encode_run(group=group, first=1, term=1, entries=payloads)


@pytest.mark.parametrize("entries", [1, 16, 256, 4096])
@pytest.mark.benchmark(group="core: check a run with its body", min_rounds=20)
def test_check_run(benchmark: Any, entries: int) -> None:
    run = run_of(entries)
    operations = max(1, 4096 // entries)
    note(benchmark, operations=operations, entries=operations * entries, bytes=len(run))

    def check_all() -> Fault:
        found = Fault.FAULT_NONE
        for _ in range(operations):
            found = _core.check_run(run)
        return found

    assert benchmark(check_all) == Fault.FAULT_NONE


@pytest.mark.parametrize("groups", [1, 16, 256, 4096])
@pytest.mark.benchmark(group="core: build and seal a batch of one run a group", min_rounds=10)
def test_build_batches(benchmark: Any, groups: int) -> None:
    runs = [run_of(1, group) for group in range(groups)]
    note(benchmark, operations=groups, bytes=sum(map(len, runs)))

    def build() -> list[bytes]:
        builder = BatchBuilder()
        for run in runs:
            builder.add_run(run)
        return builder.seal(1, 1)

    batches = benchmark(build)
    assert [run for batch in batches for run in _core.decode_batch(batch).runs] == runs


@pytest.mark.parametrize("messages", [1, 16, 256, 4096])
@pytest.mark.benchmark(group="core: check a frame of appends", min_rounds=20)
def test_check_frame(benchmark: Any, messages: int) -> None:
    parts = [
        encode_message(kind=1, flags=4, group=group, term=1, body=run_of(1, group))
        for group in range(messages)
    ]
    frame = encode_frame(parts, store_id=1, sequence=1)
    note(benchmark, operations=messages, bytes=len(frame))
    assert benchmark(_core.check_frame, frame) == Fault.FAULT_NONE


@pytest.mark.parametrize("ranges", [1, 16, 1024, 16384])
@pytest.mark.benchmark(group="core: route a key", min_rounds=20)
def test_route(benchmark: Any, ranges: int) -> None:
    slots = [slot * 16384 // ranges for slot in range(ranges)]
    starts = [b"" if slot == 0 else b"\0\1" + slot.to_bytes(2, "big") for slot in slots]
    table = RouteTable([(start, at, 1) for at, start in enumerate(starts)])
    keys = [b"user:%d" % at for at in range(1000)]
    note(benchmark, operations=len(keys), ranges=ranges)

    def find_all() -> set[int]:
        return {table.find(physical_key(1, key, True))[0] for key in keys}

    found = benchmark(find_all)
    assert len(found) == ranges if ranges <= 16 else len(found) > 500
