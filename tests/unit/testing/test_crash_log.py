"""The real log store on a simulated disk whose power goes at any moment: nothing acknowledged is ever missing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft.errors import StorageError, SyncFailed
from multiraft.log.inspect import verify
from multiraft.log.schema import BATCHES, SUPERBLOCK_FILE, LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import SYNC, PowerCut
from multiraft.worker import InlineWorker
from tests.unit.disks import Home, home_on
from tests.unit.log import harness as h
from tests.unit.log.harness import Feeder, open_inline, read_entries
from tests.unit.log.test_interleaving import EAGER, Machine, check_drained
from tests.unit.testing.jobs import CrashingJobs, at_every_cut

DURABLE = replace(EAGER, durability="full", ahead_bytes=1 << 16, map_bytes=1 << 20)


class Tortured(Machine):
    """The machine of the interleaving test, on a disk that crashes."""

    disk: SimulatedDisk
    writer: Any
    reader: Any

    def open(self) -> None:
        assert isinstance(self.home.disk, SimulatedDisk)
        self.disk = self.home.disk
        self.writer, self.reader = CrashingJobs(self.disk), CrashingJobs(self.disk)
        self.failures: list[StorageError] = []
        self.store = LmdbLogStore(
            self.home.path,
            writer=self.writer,
            reader=self.reader,
            settings=self.settings,
            disk=self.disk,
        )
        self.store.on_synced = self.synced
        self.store.on_failed = self.failures.append
        assert getattr(self, "told", 0) <= self.store.synced_sequence <= self.sequence
        self.told = self.sequence = self.store.synced_sequence

    def crash(self, *, power: bool = True) -> None:
        self.disk.capacity_bytes = 1 << 40
        while True:
            self.disk.crash(power=power)
            if self.chance.random() < 0.5:
                self.disk.troubles.cut_in(self.chance.randint(1, 30))
            try:
                self.open()
                break
            except PowerCut:
                power = True
        self.disk.troubles.clear()
        self.reads = 0
        self.model = self.past[self.sequence].snapshot()
        self.past = {at: past for at, past in self.past.items() if at <= self.sequence}
        check_drained(self)

    def trouble(self) -> None:
        """Something may befall the disk."""
        draw = self.chance.random()
        if draw < 0.004:
            self.crash(power=draw < 0.003)
        elif draw < 0.012:
            self.disk.troubles.cut_in(self.chance.randint(1, 60))
        elif draw < 0.014:
            self.disk.fail(SYNC, skip=self.chance.randint(0, 5))
        elif draw < 0.03:
            room = self.chance.choice([0, 5_000, 100_000, 1 << 30])
            self.disk.capacity_bytes = self.disk.used_bytes + room
            if not self.failures:
                self.store.space()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            try:
                self.step()
            except PowerCut:
                self.crash()
            if self.failures or self.store._failed is not None:
                assert isinstance(self.failures[0], SyncFailed)
                self.crash(power=self.chance.random() < 0.5)  # else it is started again at once
            self.trouble()
        self.crash()

    def append(self) -> None:
        if self.store._failed is None:
            super().append()


def tortured(seed: int, settings: LogSettings, steps: int) -> Tortured:
    machine = Tortured(home_on("simulated", Path("/"), seed) / "log", seed, settings)
    machine.run(steps)
    return machine


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_p03_p20_nothing_acknowledged_is_lost_when_the_power_goes(seed: int) -> None:
    machine = tortured(seed, DURABLE, 900)
    machine.store.close()
    machine.drain()
    assert verify(machine.home.path, disk=machine.disk) == []
    assert machine.store.boot_count > 3, "it hardly ever crashed, so this proves too little"


@pytest.mark.slow
def test_a_log_that_does_not_sync_is_caught() -> None:
    """Else the test above would show less than it seems to."""
    caught = 0
    for seed in range(6):
        try:
            tortured(seed, replace(DURABLE, durability="relaxed"), 900)
        except (AssertionError, StorageError):
            caught += 1
    assert caught >= 4


def filled(disk: SimulatedDisk) -> Home:
    home = Home(disk, Path("/node/log"))
    store = open_inline(home, DURABLE)
    h.one_group(Feeder(store))
    store.close()
    return home


def test_a_first_start_that_is_cut_off_anywhere_can_be_made_again() -> None:
    def check(disk: SimulatedDisk, made: object, finished: bool) -> None:
        store = open_inline(Home(disk, Path("/node/log")), DURABLE)
        assert store.boot_count == (2 if finished else store.boot_count)
        h.one_group(Feeder(store))
        assert len(read_entries(store, 1, 1)) == 5
        store.close()

    points = at_every_cut(
        lambda disk: None,
        lambda disk, _: open_inline(Home(disk, Path("/node/log")), DURABLE),
        check,
    )
    assert points > 10


@pytest.mark.slow
def test_p21_a_first_start_that_was_killed_anywhere_is_made_again_for_good() -> None:
    """The second start must not take names for synced because they are there."""

    def check(disk: SimulatedDisk, made: object, finished: bool) -> None:
        home = Home(disk, Path("/node/log"))
        store = open_inline(home, DURABLE)
        h.one_group(Feeder(store))
        assert store.synced_sequence == 6
        disk.crash()
        store = open_inline(home, DURABLE)
        assert len(read_entries(store, 1, 1)) == 5
        store.close()

    at_every_cut(
        lambda disk: None,
        lambda disk, _: open_inline(Home(disk, Path("/node/log")), DURABLE),
        check,
        power=False,
    )


def test_a_start_that_is_cut_off_anywhere_raises_the_boot_count_for_good() -> None:
    """... once it has answered, and loses nothing before."""

    def act(disk: SimulatedDisk, home: Home) -> None:
        assert open_inline(home, DURABLE).boot_count == 2

    def check(disk: SimulatedDisk, home: Home, finished: bool) -> None:
        store = open_inline(home, DURABLE)
        assert store.boot_count in ((3,) if finished else (2, 3))
        assert len(read_entries(store, 1, 1)) == 5
        store.close()

    assert at_every_cut(filled, act, check) >= 3


def test_a_compacted_copy_that_was_promised_is_there_whole() -> None:
    told: list[BaseException | None] = []

    def act(disk: SimulatedDisk, home: Home) -> None:
        store = open_inline(home, DURABLE)
        told.clear()
        store.compact_copy(Path("/node/copy"), told.append)
        assert told == [None]

    def check(disk: SimulatedDisk, home: Home, finished: bool) -> None:
        if finished:
            store = open_inline(Home(disk, Path("/node/copy")), DURABLE)
            assert len(read_entries(store, 1, 1)) == 5
            store.close()

    assert at_every_cut(filled, act, check) >= 8


def test_a_data_file_that_lost_its_end_is_refused_before_it_is_read() -> None:
    home = home_on("simulated", Path("/"))
    assert isinstance(home.disk, SimulatedDisk)
    store = open_inline(home / "log", DURABLE)
    h.one_group(Feeder(store))
    store.close()
    home.disk.cut_short(home.path / "log" / "data.mdb", 12288)
    with pytest.raises(StorageError, match="cut short"):
        open_inline(home / "log", DURABLE)


def test_a_bit_that_flips_in_a_batch_is_found() -> None:
    home = home_on("simulated", Path("/"))
    assert isinstance(home.disk, SimulatedDisk)
    for _ in range(20):
        store = open_inline(home / "log", DURABLE)
        h.one_group(Feeder(store)) if store.boot_count == 1 else None
        store.close()
        image = home.disk.image()
        assert home.disk.damage(home.path / "log" / "data.mdb")
        assert verify(home.path / "log", disk=home.disk) != []
        home.disk.restore(image)


def test_the_same_seed_writes_the_same_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # the superblock says when it was made

    def log(seed: int) -> list[bytes]:
        home = home_on("simulated", Path("/"), seed)
        store = LmdbLogStore(
            home.path / "log",
            writer=InlineWorker(),
            reader=InlineWorker(),
            settings=DURABLE,
            disk=home.disk,
            identity=lambda: seed,
            wall_ms=lambda: 5,
        )
        h.one_group(Feeder(store))
        found = [bytes(batch) for _, batch in store._environment.scan(BATCHES)]
        store.close()
        return [*found, home.disk.read(home.path / "log" / SUPERBLOCK_FILE)]

    assert log(3) == log(3)
    assert log(3) != log(4)
