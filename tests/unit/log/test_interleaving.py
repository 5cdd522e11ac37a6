"""The store with workers that a test steps by hand: batches, reads, compaction and crashes in any order of threads."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multiraft._core import decode_run
from multiraft.errors import Closed
from multiraft.ids import GroupId
from multiraft.log.inspect import verify
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from tests.unit.disks import Home
from tests.unit.log.harness import RELAXED, opened, seal
from tests.unit.log.model import Entry, Model
from tests.unit.log.test_model import check

EAGER = replace(
    RELAXED, dead_batches_min=1, dead_batches_max=9, rewrite_share=0.5, rewrite_bytes_max=4096
)
Done = Callable[[Any, BaseException | None], None]


class SteppedJobs:
    """A worker whose two halves a test steps: doing the next job, and telling the loop what came of one."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[[], Any], Done]] = deque()
        self.news: deque[tuple[Done, Any, BaseException | None]] = deque()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        self.jobs.append((job, done))

    def work(self) -> None:
        job, done = self.jobs.popleft()
        try:
            self.news.append((done, job(), None))
        except Exception as error:
            self.news.append((done, None, error))

    def tell(self) -> None:
        done, result, error = self.news.popleft()
        done(result, error)

    def close(self) -> None:
        while self.jobs:
            self.work()


class Machine:
    """A store, a model, and a source of chance that steps both."""

    def __init__(self, home: Home, seed: int, settings: LogSettings):
        self.home = home
        self.settings = settings
        self.chance = random.Random(seed)
        self.model = Model(seed)
        self.past = {0: self.model.snapshot()}
        self.sequence = 0
        self.reads = 0
        self.open()

    def open(self) -> None:
        self.writer, self.reader = SteppedJobs(), SteppedJobs()
        self.store = LmdbLogStore(
            self.home.path,
            writer=self.writer,
            reader=self.reader,
            settings=self.settings,
            disk=self.home.disk,
        )
        self.told = self.store.synced_sequence
        self.store.on_synced = self.synced
        assert self.store.synced_sequence <= self.sequence
        self.sequence = self.store.synced_sequence

    def synced(self, sequence: int) -> None:
        assert self.told < sequence <= self.sequence
        self.told = sequence

    def step(self) -> None:
        able = [(4, self.append), (1, self.fetch)]
        for jobs in (self.writer, self.reader):
            able += [(5, jobs.work)] if jobs.jobs else []
            able += [(5, jobs.tell)] if jobs.news else []
        self.chance.choices([each for _, each in able], [weight for weight, _ in able])[0]()

    def append(self) -> None:
        self.sequence += 1
        self.store.append(seal(self.sequence, self.store.store_id, self.model.batch()))
        self.past[self.sequence] = self.model.snapshot()

    def fetch(self) -> None:
        """Ask for entries; what comes may be older than the present, but must have been true when it was asked for."""
        alive = [each for each in self.model.groups.values() if each.entries]
        if not alive:
            return
        group = self.chance.choice(alive)
        first = self.chance.randint(group.base.index + 1, group.last)
        entries = dict(group.entries)
        self.reads += 1
        asked = self.sequence

        def done(runs: list[bytes] | None, error: BaseException | None) -> None:
            self.reads -= 1
            if isinstance(error, Closed):
                return
            assert error is None, error
            assert runs is not None
            self.judge(group.group, first, runs, [entries], asked)

        self.store.fetch(GroupId(group.group), first, self.chance.choice([1, 500, 5000]), done)

    def judge(
        self, group: int, first: int, runs: list[bytes], pasts: list[dict[int, Entry]], asked: int
    ) -> None:
        for sequence in range(asked + 1, self.sequence + 1):
            found = self.past[sequence].groups.get(group)
            pasts.append(dict(found.entries) if found is not None else {})
        decoded = [decode_run(data) for data in runs]
        got = {
            run.first + at: (run.term, int(run.kind), bytes(payload))
            for run in decoded
            for at, payload in enumerate(run.entries)
            if run.first + at >= first
        }
        if not got:
            assert any(first not in past for past in pasts), (
                "nothing came, though it was there all the time"
            )
        for index, entry in got.items():
            assert any(past.get(index) == entry for past in pasts), (index, entry)

    def drain(self) -> None:
        """Let everything that is under way come to its end."""
        while self.writer.jobs or self.reader.jobs or self.writer.news or self.reader.news:
            for jobs in (self.writer, self.reader):
                if jobs.jobs:
                    jobs.work()
                if jobs.news:
                    jobs.tell()

    def crash(self) -> None:
        """The process is gone: what no job wrote is lost, what a job wrote is there, told or not."""
        acknowledged = self.told
        self.store._environment.close()
        self.store._directory.close()
        self.open()
        assert self.store.synced_sequence >= acknowledged
        self.model = self.past[self.sequence].snapshot()
        self.past = {
            sequence: past for sequence, past in self.past.items() if sequence <= self.sequence
        }


@pytest.mark.parametrize("map_bytes", [1 << 20, 64 << 20])
@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_loop_writer_and_reader(home: Home, seed: int, map_bytes: int) -> None:
    machine = Machine(home / "log", seed, replace(EAGER, map_bytes=map_bytes))
    for step in range(700):
        machine.step()
        if step % 150 == 149:
            machine.drain()
            assert machine.told == machine.sequence
            assert machine.reads == 0, "a fetch was never answered"
            check_drained(machine)
        if machine.chance.random() < 0.004:
            machine.crash()
            machine.reads = 0
            check_drained(machine)
    machine.store.close()
    machine.drain()
    assert machine.reads == 0
    assert verify(home.path / "log", disk=home.disk) == []
    with opened(home / "log", EAGER) as store:
        check(store, machine.model)


def check_drained(machine: Machine) -> None:
    """All of the model is in the store, read through stepped workers."""
    expected = {group: each.log() for group, each in sorted(machine.model.groups.items())}
    assert {log.group: log for log in machine.store.groups()} == expected
    for group, each in machine.model.groups.items():
        if each.entries:
            answers: list[Any] = []
            machine.store.fetch(
                GroupId(group),
                each.base.index + 1,
                1 << 24,
                lambda *answer, to=answers: to.append(answer),
            )
            machine.drain()
            ((runs, error),) = answers
            assert error is None
            got = {
                run.first + at: (run.term, int(run.kind), bytes(payload))
                for run in map(decode_run, runs)
                for at, payload in enumerate(run.entries)
                if run.first + at > each.base.index
            }
            assert got == each.entries
