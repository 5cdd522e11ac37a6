"""The real disk, where it does more than call the system. What it shares with the simulated one is in `tests/unit/testing`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from multiraft.disk import RealDisk


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced, in order."""
    found: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_p21_each_new_directory_is_synced_in_the_one_above(
    tmp_path: Path, synced: list[str]
) -> None:
    RealDisk().make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path.parent.name, tmp_path.name, "a"]


def test_p21_a_directory_that_is_there_may_not_be_synced_yet(
    tmp_path: Path, synced: list[str]
) -> None:
    """Whoever made it may have been killed before that."""
    (tmp_path / "a").mkdir()
    RealDisk().make_directory(tmp_path / "a")
    assert synced == [tmp_path.name]


def test_a_directory_above_that_may_not_be_read_is_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: RealDisk, path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(RealDisk, "sync_directory", refused)
    (tmp_path / "a").mkdir()
    RealDisk().make_directory(tmp_path / "a")
    with pytest.raises(PermissionError):
        RealDisk().make_directory(tmp_path / "a" / "b" / "c")


def test_a_whole_file_is_the_old_one_until_it_is_the_new_one(
    tmp_path: Path, synced: list[str]
) -> None:
    path = tmp_path / "file"
    RealDisk().write(path, b"one")
    RealDisk().write(path, b"two")
    assert RealDisk().read(path) == b"two"
    assert synced == ["file.new", tmp_path.name] * 2


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    RealDisk().open(tmp_path / "file", "w", private=True).close()
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0


FAULTS = """
import resource, sys
from multiraft.disk import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def transaction():
    values = [bytearray(b"x" * 262_144) for _ in range(5)]

if sys.argv[1] == "keep":
    keep_freed_memory()
transaction()
before = faults()
for _ in range(20):
    transaction()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc adjusts its threshold")
def test_memory_that_a_transaction_frees_is_there_for_the_next_one() -> None:
    def count(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert count("keep") * 10 < count("as it is")


def test_p17_the_first_pages_of_an_environment_are_there_whole_or_not_at_all(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB refuses for ever a file whose two first pages were torn, and syncs them only with the first transaction."""

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    settings = {"map_size": 1 << 20, "max_readers": 8}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            RealDisk().environment(tmp_path, **settings)
    assert synced == ["data.mdb.new"]
    assert not (tmp_path / "data.mdb").exists()
    (tmp_path / "data.mdb.new").write_bytes(bytes(5000))  # as a power cut may have left it
    with RealDisk().environment(tmp_path, **settings) as environment:
        assert environment.stat()["entries"] == 0
    assert synced[1:3] == ["data.mdb.new", tmp_path.name]
    assert sorted(os.listdir(tmp_path)) == ["data.mdb", "lock.mdb"]
