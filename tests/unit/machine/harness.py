"""What the tests of the state machines share: workers whose jobs run when a test says so, a plain model, and replicas."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiraft._core import CommittedRuns
from multiraft.errors import InvalidCommand, PreconditionFailed, ShardMoved
from multiraft.ids import NodeId, ReplicaId
from multiraft.interfaces import Base, HardState, Member, Membership, SnapshotRecord
from multiraft.machine import commands
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.descriptors import ShardDescriptor
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.options import StoreOptions
from multiraft.machine.scans import ScanPage
from multiraft.machine.shards import COLD
from multiraft.machine.snapshot import SnapshotInfo
from multiraft.records import decode_membership, encode_membership
from multiraft.worker import InlineWorker
from tests.unit.disks import Home, placed

SPACE = 1
PREFIX = b"\0\1"
EPOCH = 7
BASE = 1000
GROUP = 5
DESCRIPTOR = ShardDescriptor(PREFIX, b"\0\2", range_epoch=EPOCH, revision_base=BASE)
MEMBERSHIP = Membership((Member(ReplicaId(1), NodeId(1), 1), Member(ReplicaId(2), NodeId(2), 1)))
MEMBERSHIP_BYTES = encode_membership(MEMBERSHIP)
ENTRIES, MEMBERSHIP_RUN = 1, 2
SMALL = StoreOptions(map_bytes=1 << 26, relaxed=True, seed=1, reserve_bytes=0)


class Outcome:
    """A `done` that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, BaseException | None]] = []

    def __call__(self, result: Any, error: BaseException | None) -> None:
        self.calls.append((result, error))

    @property
    def result(self) -> Any:
        """What came, where it came once and well."""
        assert len(self.calls) == 1, self.calls
        result, error = self.calls[0]
        if error is not None:
            raise error
        return result

    @property
    def error(self) -> BaseException | None:
        assert len(self.calls) == 1, self.calls
        return self.calls[0][1]


class ManualJobs:
    """A worker whose jobs run, and report, when the test says so: two steps, so that things can happen in between."""

    def __init__(self) -> None:
        self.queued: deque[tuple[Callable[[], Any], Callable[..., None]]] = deque()
        self.ended: deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[..., None]) -> None:
        self.queued.append((job, done))

    def work(self) -> bool:
        """Run the oldest job, without telling anybody."""
        if not self.queued:
            return False
        job, done = self.queued.popleft()
        try:
            result = job()
        except Exception as caught:
            error = caught
            self.ended.append(lambda: done(None, error))
        else:
            self.ended.append(lambda: done(result, None))
        return True

    def tell(self) -> bool:
        """Report the oldest job that ran."""
        if not self.ended:
            return False
        self.ended.popleft()()
        return True

    def run(self) -> None:
        """Everything, to the end."""
        while self.work() or self.tell():
            pass

    def close(self) -> None:
        self.queued.clear()
        self.ended.clear()


# -- commands and what they mean ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One command as plain values; `operations` and `conditions` as `commands.encode_batch` takes them."""

    operations: tuple[tuple[Any, ...], ...]
    conditions: tuple[tuple[Any, ...], ...] = ()
    epoch: int = EPOCH
    expiry_ms: int = 0
    batch: bool = True

    def encode(self) -> bytes:
        if not self.batch:
            (operation,) = self.operations
            if operation[0] == OperationKind.OPERATION_PUT:
                return commands.encode_put(
                    SPACE, self.epoch, *operation[1:], expiry_ms=self.expiry_ms
                )
            if operation[0] == OperationKind.OPERATION_DELETE:
                return commands.encode_delete(SPACE, self.epoch, operation[1])
            return commands.encode_delete_range(SPACE, self.epoch, *operation[1:])
        return commands.encode_batch(
            SPACE, self.epoch, self.operations, self.conditions, expiry_ms=self.expiry_ms
        )


def put(key: bytes, value: bytes) -> Step:
    return Step(((OperationKind.OPERATION_PUT, key, value),), batch=False)


def delete(key: bytes) -> Step:
    return Step(((OperationKind.OPERATION_DELETE, key),), batch=False)


def delete_range(start: bytes, end: bytes) -> Step:
    return Step(((OperationKind.OPERATION_DELETE_RANGE, start, end),), batch=False)


State = dict[bytes, tuple[int, int, bytes]]
"""Key -> (revision, expiry, value)."""


def holds(state: State, condition: tuple[Any, ...]) -> bool:
    kind, key = condition[:2]
    now = state.get(key)
    if kind == ConditionKind.CONDITION_ABSENT:
        return now is None
    if now is None:
        return False
    if kind == ConditionKind.CONDITION_VALUE:
        return bool(now[2] == condition[2])
    if kind == ConditionKind.CONDITION_REVISION:
        return bool(now[0] == condition[2])
    return True


def apply_step(state: State, step: Step, index: int) -> tuple[State, Any]:
    """What a command makes of a state: the model that the store is held to. (state, result)"""
    if step.epoch != EPOCH:
        return state, ShardMoved
    for condition in step.conditions:
        if not holds(state, condition):
            return state, (PreconditionFailed, condition[1], state.get(condition[1], (0,))[0])
    for operation in step.operations:
        start = operation[1]
        end = (
            operation[2] if operation[0] == OperationKind.OPERATION_DELETE_RANGE else start + b"\0"
        )
        if start < DESCRIPTOR.start or not end or end > DESCRIPTOR.end:
            return state, InvalidCommand
    state = dict(state)
    for operation in step.operations:
        if operation[0] == OperationKind.OPERATION_PUT:
            state[operation[1]] = (BASE + index, step.expiry_ms, operation[2])
        elif operation[0] == OperationKind.OPERATION_DELETE:
            state.pop(operation[1], None)
        else:
            for key in [key for key in state if operation[1] <= key < operation[2]]:
                del state[key]
    return state, BASE + index


def plain_result(result: Any) -> Any:
    """A result of the store as the model says it."""
    if isinstance(result, PreconditionFailed):
        return PreconditionFailed, result.key, result.revision
    return type(result) if isinstance(result, Exception) else result


# -- runs ---------------------------------------------------------------------------------------------------------------


def runs_of(
    payloads: Sequence[bytes], first: int, *, term: int = 1, group: int = GROUP, kind: int = ENTRIES
) -> CommittedRuns:
    runs = CommittedRuns()
    runs.append(group, first, term, kind, payloads)
    return runs


def results_of(runs: CommittedRuns) -> list[tuple[int, int, Any]]:
    """(group, index, result) of everything that was applied."""
    found = []
    for at, (group, first, _, _, _) in enumerate(runs):
        for index in range(first, first + runs.skip(at)):
            result = runs.results.get((group, index), runs.result_base(at) + index)
            found.append((group, index, result))
    return found


def apply_all(
    store: KeyValueStore,
    payloads: Sequence[bytes],
    first: int,
    *,
    term: int = 1,
    group: int = GROUP,
) -> list[Any]:
    """Apply all of them, however many calls it takes; the results."""
    runs = runs_of(payloads, first, term=term, group=group)
    while runs.done < len(runs):
        assert store.apply(runs, 1000), store.stopped
    return [result for _, _, result in results_of(runs)]


def scan_all(
    store: KeyValueStore,
    start: bytes = DESCRIPTOR.start,
    end: bytes = DESCRIPTOR.end,
    *,
    group: int = GROUP,
    limit: int = 1000,
    bytes_max: int = 1 << 20,
    reverse: bool = False,
) -> list[tuple[bytes, int, bytes]]:
    """Page by page to the end. Pages keep their limits and get on."""
    found: list[tuple[bytes, int, bytes]] = []
    while True:
        page = store.scan_page(group, start, end, limit, bytes_max, reverse)
        if page is COLD:
            outcome = Outcome()
            store.scan_cold(group, start, end, limit, bytes_max, reverse, done=outcome)
            page = outcome.result
        assert isinstance(page, ScanPage)
        assert len(page.entries) <= limit
        found += page.entries
        if page.resume is None:
            return found
        if reverse:
            assert page.resume < end or not end or page.entries
            end = page.resume
        else:
            assert page.resume > start or page.entries
            start = page.resume


def entries_of(state: State, start: bytes, end: bytes) -> list[tuple[bytes, int, bytes]]:
    """What a scan of the model shows."""
    return [
        (key, revision, value)
        for key, (revision, _, value) in sorted(state.items())
        if start <= key and (not end or key < end)
    ]


def snapshot_record(info: SnapshotInfo, name: str = "snapshot") -> SnapshotRecord:
    """What the log would say of a received snapshot."""
    membership = decode_membership(info.membership)
    base = Base(info.index, info.term, ReplicaId(2), membership, HardState(term=info.term))
    return SnapshotRecord(base, name, info.size, info.crc)


def open_store(
    where: Path | Home,
    options: StoreOptions = SMALL,
    jobs: Any = None,
    readers: Any = None,
    files: Any = None,
) -> KeyValueStore:
    jobs = InlineWorker() if jobs is None else jobs
    home = placed(where)
    return KeyValueStore.open(home.path, options, jobs, readers or jobs, files, disk=home.disk)


def open_with_shard(
    where: Path | Home,
    options: StoreOptions = SMALL,
    jobs: Any = None,
    readers: Any = None,
    files: Any = None,
) -> KeyValueStore:
    """A store with the one shard of these tests, made where it is not there."""
    store = open_store(where, options, jobs, readers, files)
    if GROUP not in store.table.shards:
        store.create(GROUP, DESCRIPTOR, MEMBERSHIP_BYTES)
        if isinstance(jobs, ManualJobs):
            jobs.run()
    return store


# -- a replica ----------------------------------------------------------------------------------------------------------


class Replica:
    """A store that follows a shared log, with three workers that run when they are told to."""

    def __init__(self, directory: Path, options: StoreOptions):
        self.directory = directory
        self.options = options
        self._open()

    def _open(self) -> None:
        self.writes, self.readers, self.files = workers = ManualJobs(), ManualJobs(), ManualJobs()
        self.workers = workers
        self.store = open_with_shard(self.directory, self.options, *workers)

    @property
    def index(self) -> int:
        return self.store.shard(GROUP).applied_index

    @property
    def idle(self) -> bool:
        return not any(worker.queued or worker.ended for worker in self.workers)

    def run(self) -> None:
        """Let every worker do all it has."""
        while not self.idle:
            for worker in self.workers:
                worker.run()

    def apply(self, log: Sequence[Step | None], count: int) -> list[tuple[int, Any]]:
        """The next so many entries of the log; (index, result) of each. None is a leader's empty entry."""
        first = self.index + 1
        payloads = [b"" if step is None else step.encode() for step in log[first - 1 :][:count]]
        if not payloads:
            return []
        runs = runs_of(payloads, first)
        self.store.apply(runs, len(payloads))
        return [(index, plain_result(result)) for _, index, result in results_of(runs)]

    def flush(self) -> None:
        """Freeze and flush, to the end."""
        self.store.freeze(GROUP)
        if not self.store.shard(GROUP).flushing:
            self.store.flush(GROUP)
        self.run()

    def crash(self) -> None:
        """Lose everything in memory, and what was queued."""
        self.close()
        self._open()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.store.close()
