"""A seeded workload for the store: two replicas follow one log, flush, crash, send each other snapshots.

Whatever happens, each shows what a plain dict says of its applied index. A failure names the seed; the same seed does the
same again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.options import StoreOptions
from multiraft.machine.shards import COLD, Cold
from tests.unit.disks import Home
from tests.unit.machine.harness import (
    DESCRIPTOR,
    EPOCH,
    GROUP,
    PREFIX,
    ManualJobs,
    Outcome,
    Replica,
    State,
    Step,
    apply_step,
    entries_of,
    snapshot_record,
)

NAMES = [
    bytes(name) for name in (b"a", b"b", b"c", b"\0", b"\xff", b"aa", b"ab", b"ab\0", b"b\xff")
]


class Workload:
    """`history[i]` is the state after entry i, by the model; `results[i]` its result."""

    def __init__(self, folder: Home, options: StoreOptions, seed: int):
        self.random = random.Random(seed)
        self.folder = folder
        self.replicas = [Replica(folder / name, options) for name in ("one", "two")]
        self.log: list[Step | None] = []
        self.history: list[State] = [{}]
        self.results: list[Any] = [None]
        self.snapshots = 0
        self.done: dict[str, int] = {}
        # Each seed draws how often it does what, so that seeds differ in kind and not in detail only.
        draw = self.random
        self.rules: list[tuple[Callable[[], None], float]] = [
            (self.propose_one, 8),
            (self.propose_batch, 4),
            (self.propose_many, draw.choice([0, 1])),
            (self.propose_nothing, 0.5),
            (self.propose_refused, 0.5),
            (self.apply, 8),
            (self.freeze, draw.choice([0, 1])),
            (self.begin_flush, draw.choice([1, 3])),
            (self.work, draw.choice([1, 4])),
            (self.tell, draw.choice([1, 4])),
            (self.flush, draw.choice([0.2, 2])),
            (self.crash, draw.choice([0, 0.5])),
            (self.end_turn, draw.choice([0.1, 2])),
            (self.send_snapshot, draw.choice([0, 1])),
            (self.get, 3),
            (self.scan, 3),
        ]
        self.delete_share = draw.choice([0.1, 0.5])
        self.range_share = draw.choice([0.0, 0.1, 0.3])

    def run(self, steps: int) -> None:
        rules = [rule for rule, _ in self.rules]
        weights = [weight for _, weight in self.rules]
        for rule in self.random.choices(rules, weights, k=steps):
            self.done[rule.__name__] = self.done.get(rule.__name__, 0) + 1
            rule()
            if self.random.random() < 0.1:
                self.check_all()
        self.check_all()

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()

    def replica(self) -> Replica:
        return self.random.choice(self.replicas)

    # -- commands -------------------------------------------------------------------------------------------------------

    def key(self) -> bytes:
        if self.random.random() < 0.5:
            return PREFIX + self.random.choice(NAMES)
        return PREFIX + b"%02d" % self.random.randrange(60)

    def bounds(self) -> tuple[bytes, bytes]:
        if self.random.random() < 0.1:
            return DESCRIPTOR.start, DESCRIPTOR.end
        start, end = sorted((self.key(), self.key()))
        return (start, end) if start < end else (start, start + b"\0")

    def value(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 5, 8, 9, 70, 300]))

    def operation(self) -> tuple[Any, ...]:
        draw = self.random.random()
        if draw < self.range_share:
            return (OperationKind.OPERATION_DELETE_RANGE, *self.bounds())
        if draw < self.range_share + self.delete_share:
            return OperationKind.OPERATION_DELETE, self.key()
        return OperationKind.OPERATION_PUT, self.key(), self.value()

    def append(self, step: Step | None) -> None:
        index = len(self.history)
        state, result = self.history[-1], DESCRIPTOR.revision_base + index
        if step is not None:
            state, result = apply_step(state, step, index)
        self.log.append(step)
        self.history.append(state)
        self.results.append(result)

    def propose_one(self) -> None:
        self.append(Step((self.operation(),), batch=False))

    def propose_many(self) -> None:
        for _ in range(self.random.choice([30, 300])):
            self.propose_one()

    def propose_batch(self) -> None:
        operations = tuple(self.operation() for _ in range(self.random.randint(1, 6)))
        conditions = tuple(self.condition() for _ in range(self.random.randint(0, 2)))
        self.append(Step(operations, conditions, expiry_ms=self.random.choice([0, 12345])))

    def condition(self) -> tuple[Any, ...]:
        key = self.key()
        kind = self.random.choice(list(ConditionKind))
        now = self.history[-1].get(key, (17, 0, b"nothing"))
        right = self.random.random() < 0.7
        if kind == ConditionKind.CONDITION_REVISION:
            return kind, key, now[0] if right else now[0] + 1
        if kind == ConditionKind.CONDITION_VALUE:
            return kind, key, now[2] if right else now[2] + b"!"
        return kind, key

    def propose_nothing(self) -> None:
        self.append(None)

    def propose_refused(self) -> None:
        delete = (OperationKind.OPERATION_DELETE, self.key())
        self.append(Step((delete,), epoch=EPOCH - 1))
        self.append(Step((delete, (OperationKind.OPERATION_PUT, b"\0\2" + self.key(), b""))))

    # -- what befalls a replica -----------------------------------------------------------------------------------------

    def apply(self) -> None:
        count = self.random.choice([1, 3, 1000])
        for index, result in self.replica().apply(self.log, count):
            assert result == self.results[index], index

    def freeze(self) -> None:
        replica = self.replica()
        before = replica.store.shard(GROUP).frozen
        assert replica.store.freeze(GROUP) == replica.index or before is not None

    def begin_flush(self) -> None:
        store = self.replica().store
        store.freeze(GROUP)
        if not store.shard(GROUP).flushing:
            store.flush(GROUP)

    def work(self) -> None:
        self.random.choice(self.replica().workers).work()

    def tell(self) -> None:
        self.random.choice(self.replica().workers).tell()

    def flush(self) -> None:
        replica = self.replica()
        replica.flush()
        replica.flush()
        assert replica.store.shard(GROUP).flushed_index == replica.index

    def crash(self) -> None:
        replica = self.replica()
        flushed = replica.store.shard(GROUP).flushed_index
        replica.crash()
        assert replica.index >= flushed

    def end_turn(self) -> None:
        self.replica().store.end_turn()

    def send_snapshot(self) -> None:
        sender, receiver = self.random.sample(self.replicas, 2)
        if receiver.store.shard(GROUP).installing:
            return
        self.snapshots += 1
        path = self.folder.path / f"snapshot-{self.snapshots}"
        written, installed = Outcome(), Outcome()
        flushed = sender.store.shard(GROUP).flushed_index
        sender.store.snapshot(GROUP, path, written)
        self.stall(sender, sender.files)
        while not written.calls:
            self.advance(sender)
            self.disturb(sender)
        info = written.result
        assert info.index >= flushed
        newer = info.index > receiver.index
        receiver.store.install(GROUP, path, snapshot_record(info), installed)
        while not installed.calls:
            self.check(receiver)
            self.advance(receiver)
            self.disturb(receiver)
        assert installed.result == newer
        if newer:
            assert receiver.index >= info.index
        self.folder.disk.remove(path)

    def advance(self, replica: Replica) -> None:
        """One step of one of a replica's workers."""
        assert not replica.idle
        worker = self.random.choice(replica.workers)
        if self.random.random() < 0.5:
            worker.work()
        else:
            worker.tell()

    def stall(self, replica: Replica, stalled: ManualJobs) -> None:
        """Now and then one worker stands still while the others get on."""
        if self.random.random() < 0.5:
            return
        others = [worker for worker in replica.workers if worker is not stalled]
        for _ in range(self.random.choice([5, 60])):
            self.disturb(replica)
            worker = self.random.choice(others)
            worker.work()
            worker.tell()

    def disturb(self, replica: Replica) -> None:
        """Other things go on while a worker is busy for somebody."""
        if self.random.random() < 0.3:
            self.propose_one()
            for index, result in replica.apply(self.log, self.random.choice([1, 5])):
                assert result == self.results[index], index
        if self.random.random() < 0.2:
            replica.store.freeze(GROUP)
            if not replica.store.shard(GROUP).flushing:
                replica.store.flush(GROUP)

    # -- what it shows --------------------------------------------------------------------------------------------------

    def get(self) -> None:
        replica, key = self.replica(), self.key()
        now = self.history[replica.index].get(key)
        expected = None if now is None else (now[0], now[2])
        before = replica.index
        found = replica.store.get(GROUP, key)
        if found is COLD:
            outcome = Outcome()
            replica.store.read_cold(GROUP, [key], outcome)
            self.stall(replica, replica.readers)
            while not outcome.calls:
                self.advance(replica)
            (found,) = outcome.result
            states = [self.history[index].get(key) for index in range(before, replica.index + 1)]
            assert found in [None if now is None else (now[0], now[2]) for now in states], key
            return
        assert found == expected, key

    def scan(self) -> None:
        self.check_scan(
            self.replica(),
            *self.bounds(),
            self.random.choice([1, 2, 5, 1000]),
            self.random.choice([1, 100, 1 << 20]),
            self.random.random() < 0.5,
        )

    def check_scan(
        self,
        replica: Replica,
        start: bytes,
        end: bytes,
        limit: int,
        bytes_max: int,
        reverse: bool,
        quiet: bool = False,
    ) -> None:
        expected = entries_of(self.history[replica.index], start, end)
        found: list[tuple[bytes, int, bytes]] = []
        resume: bytes | None = end if reverse else start
        while resume is not None:
            bounds = (start, resume) if reverse else (resume, end)
            page = replica.store.scan_page(GROUP, *bounds, limit, bytes_max, reverse)
            if page is COLD:
                outcome = Outcome()
                replica.store.scan_cold(GROUP, *bounds, limit, bytes_max, reverse, done=outcome)
                index = replica.index
                if not quiet:
                    self.stall(replica, replica.readers)
                while not outcome.calls:
                    self.advance(replica)
                    if not quiet and self.random.random() < 0.1:
                        self.disturb(replica)
                page = outcome.result
                if index != replica.index:
                    # It speaks of one index in between. The rest of the scan is made again in peace.
                    shown = page.entries[::-1] if reverse else page.entries
                    low = bounds[0] if page.resume is None or not reverse else page.resume
                    high = bounds[1] if page.resume is None or reverse else page.resume
                    assert shown in [
                        entries_of(self.history[i], low, high)
                        for i in range(index, replica.index + 1)
                    ]
                    self.check_scan(replica, start, end, limit, bytes_max, reverse, quiet=True)
                    return
            assert not isinstance(page, Cold)
            assert len(page.entries) <= limit
            assert page.entries or page.resume != resume
            found += page.entries
            resume = page.resume
        assert found == (expected[::-1] if reverse else expected)

    def check(self, replica: Replica) -> None:
        """Everything that it shows, without letting its workers do anything."""
        state = self.history[replica.index]
        if replica.store.shard(GROUP).replacing:
            return  # its pages wait for the snapshot to be told
        before = None
        while before is None or before.resume is not None:
            before = replica.store.state_hash(GROUP, before)
        assert before.keys == len(state)
        for key in [self.key() for _ in range(3)]:
            found = replica.store.get(GROUP, key)
            if found is not COLD:
                assert found == ((state[key][0], state[key][2]) if key in state else None)
        if not replica.store.table.cold:
            self.check_scan(replica, DESCRIPTOR.start, DESCRIPTOR.end, 1000, 1 << 20, False)

    def check_all(self) -> None:
        for replica in self.replicas:
            self.check(replica)
