"""After a failed sync: what stays in the machine's memory is no longer taken for what is on the disk."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multiraft import disk as disk_module
from multiraft.disk import RealDisk
from multiraft.doubt import NOTE_FILE, forget_doubtful, note_failed_sync
from multiraft.errors import SyncFailed
from multiraft.ids import NodeId
from multiraft.log.schema import LogSettings
from multiraft.log.store import LmdbLogStore
from multiraft.machine.tree import Tree
from multiraft.testing.disk import SimulatedDisk
from multiraft.testing.faults import SYNC
from multiraft.transport import files
from multiraft.transport.files import IncomingFile
from multiraft.worker import InlineWorker
from tests.unit.disks import Home, home_on
from tests.unit.log import harness as h
from tests.unit.log.harness import Feeder, read_entries

DURABLE = LogSettings(reserve_bytes=0, ahead_bytes=1 << 16, map_bytes=1 << 20)
PAGES = 64


class Watching(RealDisk):
    """Says which files were forgotten instead of forgetting them."""

    def __init__(self, boot: str = "this run", error: OSError | None = None) -> None:
        self.boot = boot
        self.error = error
        self.forgotten: list[Path] = []

    def boot_id(self) -> str:
        return self.boot

    def forget_cached(self, path: Path) -> None:
        if self.error is not None:
            raise self.error
        self.forgotten.append(path)


# -- the note -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boot", ["this run", ""], ids=["known", "unknown"])
def test_in_the_same_run_of_the_machine_its_memory_is_forgotten(tmp_path: Path, boot: str) -> None:
    disk = Watching(boot)
    (tmp_path / "there").write_bytes(b"x")
    note_failed_sync(disk, tmp_path)
    forget_doubtful(disk, tmp_path, ("there", "not there"))
    assert disk.forgotten == [tmp_path / "there"]
    assert disk.names(tmp_path) == ["there"], "the note has served"


def test_after_a_restart_of_the_machine_there_is_nothing_to_forget(tmp_path: Path) -> None:
    note_failed_sync(Watching("an earlier run"), tmp_path)
    disk = Watching("this run")
    forget_doubtful(disk, tmp_path, (NOTE_FILE,))
    assert disk.forgotten == [] and disk.names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_note_that_is_damaged_counts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NOTE_FILE).write_bytes(content)
    disk = Watching("" if content else "this run")
    (tmp_path / "there").write_bytes(b"x")
    forget_doubtful(disk, tmp_path, ("there",))
    assert disk.forgotten == [tmp_path / "there"]


def test_without_a_note_nothing_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    disk = Watching()
    forget_doubtful(disk, tmp_path, ("there",))
    assert disk.forgotten == []


def test_what_cannot_be_forgotten_refuses_the_start_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    disk = Watching(error=OSError(errno.EOPNOTSUPP, "Operation not supported"))
    note_failed_sync(disk, tmp_path)
    for _ in range(2):
        with pytest.raises(SyncFailed, match=r"Restart the machine.*then remove.*sync-failed"):
            forget_doubtful(disk, tmp_path, ("there",))
    assert NOTE_FILE in disk.names(tmp_path)


def test_a_note_that_cannot_be_written_hides_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note_failed_sync(RealDisk(), tmp_path / "not there")
    assert "so did the note of it" in caplog.text


def test_a_failed_sync_of_the_note_does_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    home = home_on("simulated", Path("/"))
    disk = home.disk
    assert isinstance(disk, SimulatedDisk)
    disk.fail(SYNC, times=3)
    note_failed_sync(disk, home.path)
    assert "so did the note of it" in caplog.text
    disk.crash(power=False)
    assert disk.read(home.path / NOTE_FILE).decode() == disk.boot_id()


# -- the real disk ------------------------------------------------------------------------------------------------------


def cached_pages(path: Path) -> int:
    """How many pages of a file are in memory; the test is skipped where that cannot be known."""
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    count = 0
    try:
        for offset in range(0, os.fstat(handle).st_size, mmap.PAGESIZE):
            try:
                count += os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
            except OSError as error:
                pytest.skip(f"this file system does not say what is cached: {error}")
    finally:
        os.close(handle)
    return count


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A file of which all is in memory, and none of it was synced."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE - 100))
    assert cached_pages(path) == PAGES
    return path


def test_a_forgotten_file_has_no_page_in_memory_and_is_what_it_was(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask for a page begins to read it, from the disk: it may be back in a moment, so what counts is when it was asked for."""
    before, real, gone = cached.read_bytes(), os.preadv, []

    def ask(*arguments: Any) -> int:
        try:
            return real(*arguments)
        except BlockingIOError:
            gone.append(arguments[2])
            raise

    monkeypatch.setattr(os, "preadv", ask)
    RealDisk().forget_cached(cached)
    assert gone == [page * mmap.PAGESIZE for page in range(PAGES)]
    assert cached.read_bytes() == before


@pytest.mark.parametrize("hole", ["allocated", "not allocated"])
def test_what_was_never_written_of_a_file_does_not_seem_to_stay_in_memory(
    cached: Path, hole: str
) -> None:
    """The log allocates ahead. To read such a page nobody waits for the disk, however often it is forgotten."""
    before = cached.read_bytes()
    with cached.open("r+b") as file:
        if hole == "allocated":
            os.posix_fallocate(file.fileno(), len(before), 10 * mmap.PAGESIZE)
        else:
            file.truncate(len(before) + 10 * mmap.PAGESIZE)
        file.seek(len(before) + 20 * mmap.PAGESIZE)
        file.write(b"and data behind it")
    whole = cached.read_bytes()
    RealDisk().forget_cached(cached)
    assert cached.read_bytes() == whole


def test_a_page_in_a_hole_of_a_file_that_is_in_memory_and_not_empty_is_found_out(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = cached.stat().st_size
    monkeypatch.setattr(disk_module, "_drop", lambda *arguments: None)
    monkeypatch.setattr(disk_module, "_holes", lambda *arguments: iter([(0, size)]))
    with pytest.raises(OSError, match="stays in the machine's memory"):
        RealDisk().forget_cached(cached)


def test_a_page_that_somebody_maps_stays_and_is_found_out(cached: Path) -> None:
    with cached.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[10 * mmap.PAGESIZE] is not None
        with pytest.raises(OSError, match="stays in the machine's memory") as caught:
            RealDisk().forget_cached(cached)
    assert caught.value.errno == errno.EBUSY
    RealDisk().forget_cached(cached)


def test_advice_that_the_system_does_not_follow_is_found_out(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_drop", lambda *arguments: None)
    with pytest.raises(OSError, match="stays in the machine's memory"):
        RealDisk().forget_cached(cached)


def test_where_nobody_says_what_is_cached_nothing_is_taken_for_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "preadv", refuses)
    with pytest.raises(OSError, match="not supported"):
        RealDisk().forget_cached(tmp_path / "file")


def test_the_name_of_the_machines_run_stays_the_same() -> None:
    assert RealDisk().boot_id() == RealDisk().boot_id()


# -- the stores, on a disk whose failed syncs are as those of Linux -----------------------------------------------------


def after_a_failed_sync(
    begin: Callable[[Home], Any], fail: Callable[[Any], None], go_on: Callable[[Home], Any]
) -> None:
    """A sync fails; the node is started again on the same machine, acknowledges more, and the power goes."""
    for seed in range(20):
        home = home_on("simulated", Path("/"), seed)
        disk = home.disk
        assert isinstance(disk, SimulatedDisk)
        store = begin(home)
        disk.fail(SYNC)
        fail(store)
        disk.crash(power=False)
        promised = go_on(home)
        disk.crash()
        found = go_on(home)
        assert set(promised) <= set(found) and len(found) > len(promised), (seed, promised, found)


def open_log(home: Home) -> LmdbLogStore:
    worker = InlineWorker()
    return LmdbLogStore(
        home.path / "log", writer=worker, reader=worker, settings=DURABLE, disk=home.disk
    )


def test_p11_what_is_acknowledged_after_a_failed_sync_of_the_log_survives_the_next_power_cut() -> (
    None
):
    def begin(home: Home) -> Feeder:
        store = open_log(home)
        feeder = Feeder(store)
        h.one_group(feeder)
        return feeder

    def fail(feeder: Feeder) -> None:
        feeder.append(h.entries_run(1, 6, 1, [b"doubtful"], prev_term=1))
        assert isinstance(feeder.store._failed, SyncFailed)  # type: ignore[attr-defined]

    def go_on(home: Home) -> list[bytes]:
        store = open_log(home)
        entries = [payload for _, _, payload in read_entries(store, 1, 1).values()]
        feeder = Feeder(store)
        feeder.append(h.entries_run(1, len(entries) + 1, 1, [b"one more"], prev_term=1))
        assert store.synced_sequence == feeder.sequence
        return [*entries, b"one more"]

    after_a_failed_sync(begin, fail, go_on)


def test_p11_what_the_state_holds_after_a_failed_sync_survives_the_next_power_cut() -> None:
    def put(tree: Tree, key: bytes) -> None:
        with tree.writing() as transaction:
            transaction.put(key, b"value", db=tree.data)

    def begin(home: Home) -> Tree:
        tree = Tree(home.path / "state", store_id=5, disk=home.disk)
        put(tree, b"a")
        return tree

    def fail(tree: Tree) -> None:
        with pytest.raises(SyncFailed):
            put(tree, b"doubtful")

    def go_on(home: Home) -> list[bytes]:
        tree = Tree(home.path / "state", store_id=5, disk=home.disk)
        with tree.reading() as transaction:
            keys = [key for key, _ in transaction.cursor(tree.data)]
        put(tree, b"more-%d" % len(keys))
        return [*keys, b"more-%d" % len(keys)]

    after_a_failed_sync(begin, fail, go_on)


def test_a_file_whose_sync_failed_on_the_way_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later sync would succeed, and say nothing of what the first one had lost."""
    monkeypatch.setattr(files, "_SYNC_BYTES", 100)
    whole = random.Random(1).randbytes(300)
    for seed in range(20):
        home = home_on("simulated", Path("/"), seed)
        disk = home.disk
        assert isinstance(disk, SimulatedDisk)
        incoming = IncomingFile(disk, str(home.path), NodeId(2), 7, 300, files.crc32c(whole))
        assert incoming.resume() == 0
        disk.fail(SYNC)
        with pytest.raises(OSError, match="Input/output"):
            incoming.write(0, whole[:150], files.crc32c(whole[:150]))
        offset = incoming.resume()
        incoming.write(offset, whole[offset:], files.crc32c(whole[offset:]))
        path = Path(incoming.finish())
        disk.crash()
        assert disk.read(path) == whole, seed
