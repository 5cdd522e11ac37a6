"""State stores and files on a simulated disk whose power goes at any moment: what was promised is there, and is what it says."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from multiraft._core import crc32c
from multiraft.errors import MultiRaftError, StorageError
from multiraft.ids import NodeId
from multiraft.machine.descriptors import ShardRecord
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.snapshot import Kind, check_snapshot, read_chunks, write_snapshot
from multiraft.machine.states import At, States, write_state
from multiraft.node.snapshots import _move
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import SYNC, PowerCut
from multiraft.transport.files import IncomingFile, OutgoingFile, clear_directory
from tests.unit.disks import Home, home_on
from tests.unit.machine.harness import (
    DESCRIPTOR,
    GROUP,
    MEMBERSHIP_BYTES,
    SMALL,
    Outcome,
    apply_all,
    entries_of,
    open_with_shard,
    scan_all,
    snapshot_record,
)
from tests.unit.machine.test_crash import states, steps
from tests.unit.testing.jobs import CrashingJobs, at_every_cut

DURABLE = dataclasses.replace(SMALL, relaxed=False)
LOG = steps(5, 400)
MODEL = states(LOG)


class Tortured:
    """Two stores of one log on one disk that crashes: they apply, flush, and send each other snapshots."""

    def __init__(self, seed: int, options: Any = DURABLE):
        self.chance = random.Random(seed)
        self.home = home_on("simulated", Path("/"), seed)
        assert isinstance(self.home.disk, SimulatedDisk)
        self.disk = self.home.disk
        self.options = options
        self.promised = {"one": 0, "two": 0}
        self.crashes = self.installs = self.sent = 0
        self.reopen()

    def open(self, name: str) -> KeyValueStore:
        jobs = [CrashingJobs(self.disk) for _ in range(2)]
        self.jobs += jobs
        store = open_with_shard(self.home / name, self.options, jobs[0], jobs[0], jobs[1])
        jobs[0].run()
        index = store.shard(GROUP).applied_index
        assert self.promised[name] <= index
        assert scan_all(store) == entries_of(MODEL[index], DESCRIPTOR.start, DESCRIPTOR.end)
        self.promised[name] = index
        return store

    def reopen(self) -> None:
        while True:
            self.jobs: list[CrashingJobs] = []
            if self.chance.random() < 0.5:
                self.disk.troubles.cut_in(self.chance.randint(1, 20))
            try:
                self.stores = {name: self.open(name) for name in self.promised}
                break
            except PowerCut:
                self.disk.crash()
        self.disk.troubles.clear()

    def crash(self) -> None:
        self.crashes += 1
        self.disk.crash(power=self.chance.random() < 0.8)
        self.reopen()

    def step(self) -> None:
        name = self.chance.choice(["one", "two"])
        store = self.stores[name]
        shard = store.shard(GROUP)
        draw = self.chance.random()
        if draw < 0.3 and not shard.installing:
            index = shard.applied_index
            some = [one.encode() for one in LOG[index : index + self.chance.randint(1, 7)]]
            if some:
                apply_all(store, some, index + 1)
        elif draw < 0.45 and not shard.flushing:
            store.freeze(GROUP)
            store.flush(GROUP, lambda index, error: self.flushed(name, index, error))
        elif draw < 0.5:
            self.send(name)
        else:
            jobs = self.chance.choice(self.jobs)
            self.chance.choice([jobs.work, jobs.tell])()
        store.end_turn()

    def flushed(self, name: str, index: int | None, error: BaseException | None) -> None:
        assert error is None or isinstance(error, StorageError)
        if index is not None:
            self.promised[name] = max(self.promised[name], index)

    def send(self, name: str) -> None:
        other = "two" if name == "one" else "one"
        self.sent += 1
        path = self.home.path / f"sent-{self.sent}"
        written, installed = Outcome(), Outcome()
        self.stores[name].snapshot(GROUP, path, written)
        self.run()
        info = written.result
        assert check_snapshot(self.disk, path) == info
        receiver = self.stores[other]
        if receiver.shard(GROUP).installing or receiver.shard(GROUP).applied_index >= info.index:
            return
        receiver.install(GROUP, path, snapshot_record(info), installed)
        for _ in range(self.chance.randint(0, 12)):
            jobs = self.chance.choice(self.jobs)
            self.chance.choice([jobs.work, jobs.tell])()
        if installed.calls and installed.error is None:
            self.installs += 1
            self.promised[other] = info.index

    def run(self) -> None:
        while any(jobs.work() or jobs.tell() for jobs in self.jobs):
            pass

    def torture(self, count: int) -> None:
        for _ in range(count):
            draw = self.chance.random()
            if draw < 0.02:
                self.disk.troubles.cut_in(self.chance.randint(1, 30))
            elif draw < 0.023:
                self.disk.fail(SYNC, "/one", skip=self.chance.randint(0, 3))
            elif draw < 0.03:
                self.crash()
            try:
                self.step()
            except PowerCut:
                self.crash()
            except (StorageError, OSError):
                assert any(store.failed for store in self.stores.values())
                self.crash()
            if any(store.failed for store in self.stores.values()):
                self.crash()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_p07_a_store_whose_power_goes_has_applied_what_it_says_and_what_it_promised(
    seed: int,
) -> None:
    it = Tortured(seed)
    it.torture(1200)
    it.crash()
    assert it.crashes > 5
    assert min(it.promised.values()) > 50


@pytest.mark.slow
def test_a_state_store_that_does_not_sync_is_caught() -> None:
    """Else the test above would show less than it seems to."""
    caught = 0
    for seed in range(6):
        try:
            Tortured(seed, SMALL).torture(1200)
        except (AssertionError, StorageError):
            caught += 1
    assert caught >= 4


@pytest.mark.parametrize("power", [True, False])
def test_p21_a_first_start_that_ended_anywhere_is_made_again_for_good(power: bool) -> None:
    """By a cut of the power or a kill; what is flushed after the second start survives the next cut."""

    def check(disk: SimulatedDisk, home: Home, finished: bool) -> None:
        store = open_with_shard(home, DURABLE)
        apply_all(store, [one.encode() for one in LOG[:9]], 1)
        store.freeze(GROUP)
        flushed = Outcome()
        store.flush(GROUP, flushed)
        assert flushed.result == 9
        disk.crash()
        again = open_with_shard(home, DURABLE)
        assert again.shard(GROUP).applied_index == 9
        again.close()

    points = at_every_cut(
        lambda disk: Home(disk, Path("/node/state")),
        lambda disk, home: open_with_shard(home, DURABLE),
        check,
        power=power,
    )
    assert points >= 8


# -- files --------------------------------------------------------------------------------------------------------------

STATE = ShardRecord(GROUP, 40, 3, MEMBERSHIP_BYTES, DESCRIPTOR, b"sessions")  # type: ignore[arg-type]
BODY = random.Random(3).randbytes(9000)


def folder(disk: SimulatedDisk) -> Path:
    disk.make_directory(Path("/node/machines"))
    return Path("/node/machines")


def test_p21_a_snapshot_file_has_its_name_only_when_it_is_whole() -> None:
    def act(disk: SimulatedDisk, at: Path) -> None:
        write_snapshot(disk, at / "file", Kind.BYTES, STATE, [(BODY, 0), (b"end", 0)])

    def check(disk: SimulatedDisk, at: Path, finished: bool) -> None:
        there = "file" in disk.names(at)
        assert there or not finished
        if there:
            check_snapshot(disk, at / "file")
            assert list(read_chunks(disk, at / "file")) == [BODY, b"end"]

    assert at_every_cut(folder, act, check, seeds=32) >= 5


def test_p21_a_state_that_was_taken_over_is_found_after_any_cut() -> None:
    """And as long as it is not, the one before."""

    def prepare(disk: SimulatedDisk) -> States:
        states = States(folder(disk), disk)
        write_state(disk, states.path(GROUP, 5), Kind.BYTES, GROUP, "log", At(5), [b"old"])
        states.found()
        disk.make_directory(Path("/node/snapshots"))
        write_state(disk, Path("/node/snapshots/in"), Kind.BYTES, GROUP, "log", At(9), [b"new"])
        return states

    def act(disk: SimulatedDisk, states: States) -> None:
        info = check_snapshot(disk, Path("/node/snapshots/in"))
        states.take(Path("/node/snapshots/in"), GROUP, "log", info)
        disk.remove(states.path(GROUP, 5))
        disk.remove(Path("/node/snapshots/in"))

    def check(disk: SimulatedDisk, states: States, finished: bool) -> None:
        found = states.found()[GROUP]
        assert found.info.index == 9 if finished else found.info.index in (5, 9)
        check_snapshot(disk, found.path)

    assert at_every_cut(prepare, act, check, seeds=32) >= 5


def test_p21_a_state_that_was_found_outlives_the_one_that_it_replaces() -> None:
    """A process is killed while it writes one; the next finds what it wrote and removes the older; then the power goes."""

    def prepare(disk: SimulatedDisk) -> States:
        states = States(folder(disk), disk)
        write_state(disk, states.path(GROUP, 5), Kind.BYTES, GROUP, "log", At(5), [b"old"])
        return states

    def act(disk: SimulatedDisk, states: States) -> None:
        write_state(disk, states.path(GROUP, 9), Kind.BYTES, GROUP, "log", At(9), [b"new"])

    def check(disk: SimulatedDisk, states: States, finished: bool) -> None:
        index = states.found()[GROUP].info.index
        disk.crash()
        assert states.found()[GROUP].info.index == index

    assert at_every_cut(prepare, act, check, seeds=32, power=False) >= 5


@pytest.mark.parametrize("moved", [False, True])
def test_p21_a_file_that_arrived_is_there_and_nothing_unfinished_is_taken_for_one(
    moved: bool,
) -> None:
    def prepare(disk: SimulatedDisk) -> Path:
        disk.make_directory(Path("/node/snapshots"))
        disk.write(Path("/node/sent"), BODY)
        return Path("/node/incoming")

    def act(disk: SimulatedDisk, at: Path) -> None:
        clear_directory(disk, str(at))
        outgoing = OutgoingFile(disk, "/node/sent")
        outgoing.open()
        offset = 0
        while offset < outgoing.size:
            offset = outgoing.measure(offset)
        incoming = IncomingFile(disk, str(at), NodeId(2), 7, outgoing.size, outgoing.crc)
        offset = incoming.resume()
        while offset < outgoing.size:
            data, crc = outgoing.read(offset, min(4000, outgoing.size - offset))
            offset = incoming.write(offset, data, crc)
        whole = Path(incoming.finish())
        if moved:
            _move(disk, whole, Path("/node/snapshots/in"))

    def check(disk: SimulatedDisk, at: Path, finished: bool) -> None:
        if finished:
            (name,) = disk.names(Path("/node/snapshots") if moved else at)
            assert disk.read((Path("/node/snapshots") if moved else at) / name) == BODY
        clear_directory(disk, str(at))
        for name in disk.names(at):
            assert name.endswith(".file")
            assert crc32c(disk.read(at / name)) == crc32c(BODY)

    assert at_every_cut(prepare, act, check, seeds=32) >= 10


def test_p59_a_bit_that_flips_in_a_read_is_found_and_the_next_try_is_sound() -> None:
    home: Home = home_on("simulated", Path("/"))
    disk = home.disk
    assert isinstance(disk, SimulatedDisk)
    path = home.path / "file"
    write_snapshot(disk, path, Kind.BYTES, STATE, [(BODY, 0)])
    for _ in range(50):
        disk.flip("file")
        with pytest.raises(MultiRaftError):
            check_snapshot(disk, path)
        check_snapshot(disk, path)
