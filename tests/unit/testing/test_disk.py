"""The simulated disk itself: like the real one while nothing goes wrong, and as bad as it says when something does."""

from __future__ import annotations

import errno
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.disk import RealDisk
from multiraft.interfaces import Disk
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import READ, SYNC, WRITE, Latency, Odds, PowerCut

HOME = Path("/node")
A, B = HOME / "a", HOME / "b"
SETTINGS: dict[str, Any] = {"map_size": 1 << 24, "max_dbs": 2, "max_readers": 4}


def made(seed: int = 1, **options: Any) -> SimulatedDisk:
    disk = SimulatedDisk(random.Random(seed), **options)
    disk.make_directory(HOME)
    return disk


def write(disk: Disk, path: Path, data: bytes, *, sync: bool = False, name: bool = False) -> None:
    file = disk.open(path, "w")
    file.write(0, data)
    if sync:
        file.sync()
    file.close()
    if name:
        disk.sync_directory(path.parent)


def crashes(act: Callable[[SimulatedDisk], None], look: Callable[[SimulatedDisk], Any]) -> set[Any]:
    """What may be seen after a crash, over many seeds."""
    seen = set()
    for seed in range(200):
        disk = made(seed)
        act(disk)
        disk.crash()
        seen.add(look(disk))
    return seen


def content(path: Path) -> Callable[[SimulatedDisk], bytes | None]:
    return lambda disk: disk.read(path) if disk.size(path) is not None else None


# -- like the real one --------------------------------------------------------------------------------------------------

NAME = st.sampled_from(["a", "b", "dir/c"])
FILE_STEPS = st.one_of(
    st.tuples(st.just("open"), NAME, st.sampled_from(["r", "r+", "w"])),
    st.tuples(st.just("write"), st.integers(0, 3000), st.binary(max_size=40)),
    st.tuples(st.just("read"), st.integers(0, 3000), st.integers(0, 5000)),
    st.tuples(st.sampled_from(["sync", "size", "close"])),
    st.tuples(st.just("allocate"), st.integers(1, 10_000)),
    st.tuples(st.just("rename"), NAME, NAME),
    st.tuples(st.just("link"), NAME, NAME),
    st.tuples(st.just("remove"), NAME),
    st.tuples(st.just("whole"), NAME, st.binary(max_size=40)),
    st.tuples(st.sampled_from(["names", "make", "sync_directory"]), st.sampled_from(["", "dir"])),
    st.tuples(st.just("look"), NAME),
    st.tuples(st.sampled_from(["hold", "let go"])),
)


class Files:
    """Steps on one disk; what they return or raise is compared."""

    def __init__(self, disk: Disk, folder: Path):
        self.disk, self.folder = disk, folder
        self.file: Any = None
        self.held: Any = None
        self.linked = False
        disk.make_directory(folder)

    def step(self, what: str, *arguments: Any) -> Any:
        try:
            return getattr(self, what.replace(" ", "_"))(*arguments)
        except OSError as error:
            return error.errno

    def open(self, name: str, how: str) -> None:
        self.file = None
        if how == "w" and self.linked:
            self.disk.remove(self.folder / name)
        self.file = self.disk.open(self.folder / name, how)

    def write(self, offset: int, data: bytes) -> Any:
        return self.file and self.file.write(offset, data)

    def read(self, offset: int, count: int) -> Any:
        return self.file and self.file.read(offset, count)

    def sync(self) -> Any:
        return self.file and self.file.sync()

    def size(self) -> Any:
        return self.file and self.file.size()

    def close(self) -> None:
        file, self.file = self.file, None
        if file:
            file.close()

    def allocate(self, size: int) -> Any:
        return self.file and (self.file.allocate(size), self.file.allocated_bytes() >= size)

    def rename(self, source: str, target: str) -> None:
        self.disk.rename(self.folder / source, self.folder / target)

    def link(self, source: str, target: str) -> None:
        self.disk.link(self.folder / source, self.folder / target)
        self.linked = True

    def remove(self, name: str) -> None:
        self.disk.remove(self.folder / name)

    def whole(self, name: str, data: bytes) -> None:
        """Never through a draft that has another name: to empty both is not simulated."""
        self.disk.write(self.folder / name, data)

    def names(self, name: str) -> Any:
        return self.disk.names(self.folder / name)

    def make(self, name: str) -> None:
        self.disk.make_directory(self.folder / name)

    def sync_directory(self, name: str) -> None:
        self.disk.sync_directory(self.folder / name)

    def look(self, name: str) -> Any:
        size = self.disk.size(self.folder / name)
        return size, None if size is None else self.disk.read(self.folder / name)

    def hold(self) -> Any:
        let_go = self.disk.hold(self.folder)
        self.held = self.held or let_go

    def let_go(self) -> None:
        held, self.held = self.held, None
        if held:
            held()


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(FILE_STEPS, max_size=40))
def test_files_and_names_are_like_those_of_the_real_disk(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        real = Files(RealDisk(), Path(folder))
        simulated = Files(made(), HOME)
        for step in steps:
            assert simulated.step(*step) == real.step(*step), step
        real.close()
        real.let_go()


# -- what a crash leaves ------------------------------------------------------------------------------------------------


def test_what_was_synced_with_its_name_survives() -> None:
    seen = crashes(lambda disk: write(disk, A, b"sure", sync=True, name=True), content(A))
    assert seen == {b"sure"}


def test_a_name_that_was_not_synced_may_be_gone() -> None:
    seen = crashes(lambda disk: write(disk, A, b"sure", sync=True), content(A))
    assert seen == {b"sure", None}


def test_a_file_that_was_not_synced_is_there_in_part() -> None:
    seen = crashes(lambda disk: write(disk, A, b"x" * 1536, name=True), content(A))
    assert b"" in seen or any(len(data) < 512 for data in seen)
    assert len(seen) > 20
    for data in seen:
        for at in range(0, len(data), 512):
            assert len(set(data[at : at + 512])) <= 1, "a sector is there or not"


def test_sectors_written_over_come_back_one_by_one() -> None:
    def act(disk: SimulatedDisk) -> None:
        disk.write(A, b"o" * 1536)
        file = disk.open(A, "r+")
        file.write(0, b"n" * 1536)

    seen = crashes(act, content(A))
    assert {bytes(data[::512]) for data in seen} == {
        bytes([x, y, z]) for x in b"on" for y in b"on" for z in b"on"
    }


def test_a_rename_is_not_halfway_but_may_not_have_been() -> None:
    def act(disk: SimulatedDisk) -> None:
        disk.write(A, b"old")
        disk.write(B, b"new")
        disk.rename(B, A)

    assert crashes(act, lambda disk: (content(A)(disk), content(B)(disk))) == {
        (b"new", None),
        (b"old", b"new"),
    }


def test_a_process_that_dies_loses_nothing_that_it_wrote() -> None:
    disk = made()
    write(disk, A, b"written")
    let_go = disk.hold(HOME)
    disk.crash(power=False)
    assert disk.read(A) == b"written"
    disk.hold(HOME)
    let_go()
    with pytest.raises(BlockingIOError):
        disk.hold(HOME)


def test_what_was_open_before_a_crash_is_dead() -> None:
    disk = made()
    file = disk.open(A, "w")
    environment = disk.environment(HOME, **SETTINGS)
    reader = environment.begin()
    disk.crash()
    for use in (
        lambda: file.write(0, b"ghost"),
        lambda: environment.begin(),
        lambda: environment.info(),
    ):
        with pytest.raises(PowerCut):
            use()
    reader.abort()
    environment.close()
    disk.environment(HOME, **SETTINGS).close()


def test_of_an_environment_whole_transactions_survive_in_order() -> None:
    def act(disk: SimulatedDisk) -> None:
        environment = disk.environment(HOME, sync=False, **SETTINGS)
        environment.sync()
        disk.sync_directory(HOME)
        for number in range(3):
            with environment.begin(write=True) as transaction:
                transaction.put(b"a", b"%d" % number)
                transaction.put(b"b", b"%d" % number)

    def look(disk: SimulatedDisk) -> tuple[Any, Any]:
        with disk.environment(HOME, **SETTINGS).begin() as transaction:
            return transaction.get(b"a"), transaction.get(b"b")

    assert crashes(act, look) == {(None, None), (b"0", b"0"), (b"1", b"1"), (b"2", b"2")}


@pytest.mark.parametrize("told", [False, True])
def test_a_commit_counts_when_its_job_has_ended(told: bool) -> None:
    """Until then the power may have gone before it; the news has not arrived either way."""

    def act(disk: SimulatedDisk) -> None:
        environment = disk.environment(HOME, **SETTINGS)
        disk.sync_directory(HOME)
        with disk.job() as job:
            for key in (b"a", b"b"):
                with environment.begin(write=True) as transaction:
                    transaction.put(key, b"")
        assert job.cost_ns > 0
        if told:
            job.settle()

    def look(disk: SimulatedDisk) -> bytes:
        with disk.environment(HOME, **SETTINGS).begin() as transaction:
            return b"".join(key for key, _ in transaction.cursor())

    assert crashes(act, look) == ({b"ab"} if told else {b"", b"a", b"ab"})


# -- trouble ------------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_system_and_of_lmdb() -> None:
    disk = made()
    file = disk.open(A, "w")
    disk.fail(SYNC, "/a")
    with pytest.raises(OSError) as caught:
        file.sync()
    assert caught.value.errno == errno.EIO
    disk.fail(WRITE, "/a", number=errno.ENOSPC, skip=1)
    file.write(0, b"fits")
    with pytest.raises(OSError) as caught:
        file.write(4, b"does not")
    assert caught.value.errno == errno.ENOSPC
    environment = disk.environment(HOME, **SETTINGS)
    for number, expected in ((errno.EIO, lmdb.Error), (errno.ENOSPC, lmdb.DiskError)):
        disk.fail(SYNC, number=number)
        transaction = environment.begin(write=True)
        transaction.put(b"k", b"v")
        with pytest.raises(lmdb.Error) as failed:
            transaction.commit()
        assert type(failed.value) is expected
        with environment.begin() as reader:
            assert reader.get(b"k") is None
    with environment.begin(write=True) as transaction:
        transaction.put(b"k", b"v")
    disk.fail(READ, times=2)
    with environment.begin() as reader, pytest.raises(lmdb.CorruptedError):
        reader.get(b"k")


def test_after_a_failed_sync_no_later_one_helps() -> None:
    """The system has forgotten what it could not write: it takes it for written."""

    def act(disk: SimulatedDisk) -> None:
        file = disk.open(A, "w")
        disk.sync_directory(HOME)
        file.write(0, b"doubtful")
        disk.fail(SYNC)
        with pytest.raises(OSError):
            file.sync()
        file.sync()

    assert len(crashes(act, content(A))) > 1


def test_after_a_failed_commit_no_later_one_is_certain() -> None:
    """Which is why the first failure is the last that a store may write."""

    def act(disk: SimulatedDisk) -> None:
        environment = disk.environment(HOME, **SETTINGS)
        disk.sync_directory(HOME)
        disk.fail(SYNC)
        with pytest.raises(lmdb.Error), environment.begin(write=True) as transaction:
            transaction.put(b"k", b"failed")
        with environment.begin(write=True) as transaction:
            transaction.put(b"k", b"later")

    def look(disk: SimulatedDisk) -> Any:
        with disk.environment(HOME, **SETTINGS).begin() as transaction:
            return transaction.get(b"k")

    assert crashes(act, look) == {None, b"failed", b"later"}


def test_what_is_read_of_a_forgotten_file_is_on_the_disk() -> None:
    seen = set()
    for seed in range(50):
        disk = made(seed)
        file = disk.open(A, "w")
        disk.sync_directory(HOME)
        file.write(0, b"doubtful")
        disk.fail(SYNC)
        with pytest.raises(OSError):
            file.sync()
        disk.crash(power=False)
        assert disk.read(A) == b"doubtful", "the system still has it"
        disk.forget_cached(A)
        there = disk.read(A)
        disk.crash()
        assert disk.read(A) == there
        seen.add(there)
    assert len(seen) > 1


def test_to_forget_a_file_that_is_well_makes_it_durable() -> None:
    disk = made()
    write(disk, A, b"well", name=True)
    disk.forget_cached(A)
    disk.crash()
    assert disk.read(A) == b"well"
    with pytest.raises(FileNotFoundError):
        disk.forget_cached(B)


def test_only_a_cut_of_the_power_begins_another_run_of_the_machine() -> None:
    disk = made()
    first = disk.boot_id()
    disk.crash(power=False)
    assert disk.boot_id() == first
    disk.crash()
    assert disk.boot_id() != first


def test_a_failed_commit_may_be_there_after_a_crash() -> None:
    def act(disk: SimulatedDisk) -> None:
        environment = disk.environment(HOME, **SETTINGS)
        disk.sync_directory(HOME)
        disk.fail(SYNC)
        with pytest.raises(lmdb.Error), environment.begin(write=True) as transaction:
            transaction.put(b"k", b"v")

    def look(disk: SimulatedDisk) -> Any:
        with disk.environment(HOME, **SETTINGS).begin() as transaction:
            return transaction.get(b"k")

    assert crashes(act, look) == {None, b"v"}


def test_room_that_is_used_up_comes_back_with_what_is_removed() -> None:
    disk = made(capacity_bytes=20_000)
    write(disk, A, bytes(12_000))
    with pytest.raises(OSError, match="No space"):
        write(disk, B, bytes(12_000))
    assert disk.size(B) == 0
    disk.remove(A)
    write(disk, B, bytes(12_000))
    assert disk.used_bytes == 12_288
    disk.remove(B)
    disk.crash()
    assert disk.free_bytes(HOME) == disk.capacity_bytes - disk.used_bytes


def test_slowness_is_counted_and_not_waited_for() -> None:
    disk = made(latency=Latency(sync_ns=1000, write_ns=10, name_ns=10, byte_ns=0))
    with disk.job() as quick:
        write(disk, A, b"x", sync=True)
    disk.stall(10**9)
    with disk.job() as slow:
        write(disk, B, b"x", sync=True)
    assert 1000 < quick.cost_ns < 3000
    assert slow.cost_ns > 10**9


def test_a_wiped_disk_is_empty_and_an_older_copy_is_what_it_was() -> None:
    disk = made()
    disk.write(A, b"one")
    disk.link(A, B)
    environment = disk.environment(HOME, **SETTINGS)
    with environment.begin(write=True) as transaction:
        transaction.put(b"k", b"one")
    environment.close()
    image = disk.image()
    disk.write(A, b"two")
    disk.restore(image)
    assert (disk.read(A), disk.read(B)) == (b"one", b"one")
    with disk.environment(HOME, **SETTINGS).begin() as transaction:
        assert transaction.get(b"k") == b"one"
    disk.wipe()
    assert disk.names(Path("/")) == []
    disk.restore(image)
    assert disk.read(A) == b"one"


def test_the_same_seed_has_the_same_troubles() -> None:
    def trace(seed: int) -> list[Any]:
        disk, found = made(seed), []
        disk.draw(Odds(0.05, 0.05, 0.1, 0.05, 0.05, 1000, 0.02))
        for number in range(300):
            try:
                write(disk, HOME / f"{number % 5}", b"%d" % number * 300, sync=number % 2 == 0)
                found.append(disk.read(HOME / f"{number % 3}"))
            except OSError as error:
                found.append(error.errno)
            except PowerCut:
                disk.crash()
        return [*found, disk.troubles.cost_ns, disk.troubles.steps, disk.life]

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)
