"""A state store whose process is killed at any moment: what it finds again is exactly the state of its applied index."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from multiraft.machine.commands import ConditionKind, OperationKind
from tests.unit.machine.harness import (
    DESCRIPTOR,
    GROUP,
    PREFIX,
    SMALL,
    State,
    Step,
    apply_all,
    apply_step,
    entries_of,
    open_with_shard,
    scan_all,
)

ROOT = Path(__file__).resolve().parents[3]
DURABLE = dataclasses.replace(SMALL, relaxed=False)

WRITER = """
import sys
from pathlib import Path
from tests.unit.machine.harness import GROUP, apply_all, open_with_shard
from tests.unit.machine.test_crash import DURABLE, steps

store = open_with_shard(Path(sys.argv[1]), DURABLE)
log = steps(int(sys.argv[2]))
index = store.shard(GROUP).applied_index
while index < len(log):
    some = [step.encode() for step in log[index : index + 1 + index % 7]]
    apply_all(store, some, index + 1)
    index += len(some)
    store.freeze(GROUP)
    if not store.shard(GROUP).flushing:
        store.flush(GROUP)
    print(store.shard(GROUP).flushed_index, flush=True)
"""


def steps(seed: int, count: int = 3000) -> list[Step]:
    """Commands of which none may be skipped or run twice unseen: most do something else the second time, and each key's
    revision names the entry that wrote it."""
    chance = random.Random(seed)
    found: list[Step] = []
    for number in range(count):
        key = PREFIX + b"%02d" % chance.randrange(20)
        operation: tuple[Any, ...] = (OperationKind.OPERATION_PUT, key, b"%d" % number)
        if chance.random() < 0.3:
            operation = (OperationKind.OPERATION_DELETE, key)
        other = PREFIX + b"%02d" % chance.randrange(20)
        kinds = (ConditionKind.CONDITION_ABSENT, ConditionKind.CONDITION_PRESENT)
        conditions = ((chance.choice(kinds), other),) if chance.random() < 0.5 else ()
        found.append(Step((operation,), conditions))
    return found


def states(log: list[Step]) -> list[State]:
    """By the model: the state after each index."""
    found: list[State] = [{}]
    for index, step in enumerate(log, 1):
        found.append(apply_step(found[-1], step, index)[0])
    return found


@pytest.mark.slow
def test_p07_a_killed_store_has_applied_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    """Killed again and again on one directory; then the rest of the log is applied, and the end is the model's end."""
    path, seed = tmp_path / "state", 11
    log = steps(seed)
    model = states(log)
    chance = random.Random(seed)
    flushed = 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert writer.stdout is not None
        enough = flushed + chance.randint(1, 60)
        while flushed < enough:
            flushed = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.004)  # into the middle of what it does next
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        flushed = int(rest[-1]) if rest else flushed
        store = open_with_shard(path, DURABLE)
        try:
            index = store.shard(GROUP).applied_index
            assert flushed <= index <= flushed + 7
            assert scan_all(store) == entries_of(model[index], DESCRIPTOR.start, DESCRIPTOR.end)
        finally:
            store.close()
    store = open_with_shard(path, DURABLE)
    try:
        index = store.shard(GROUP).applied_index
        apply_all(store, [step.encode() for step in log[index:]], index + 1)
        assert scan_all(store) == entries_of(model[-1], DESCRIPTOR.start, DESCRIPTOR.end)
    finally:
        store.close()
