"""The real disk: the file system of the machine, and LMDB on it. See ``interfaces.Disk``; nothing here knows what is stored.

LMDB maps its lock file and writes to it through memory. Where the disk has no block for a page of it, that write ends the
process (SIGBUS); so every block is there before LMDB opens anything, and a full disk is an error and no crash.

Invariant: nothing is durable here that was not synced, names of files included; no error of a sync is swallowed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from multiraft.errors import NoSpace

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
_SLOT_BYTES = 64
_HEAD_SLOTS = 8
FIRST_BYTES = 1024 * 1024
"""What a new environment needs for its first pages, with room to spare."""
KEPT_BYTES = 8 * 1024 * 1024


def keep_freed_memory() -> None:
    """Have the C library keep what a write transaction frees, for the next one to use.

    LMDB takes memory for each large value and frees it at the commit. glibc gives that back to the system, and each page is
    faulted in anew: 260 faults and a quarter of a flush of 1.3 MB. Freeing one large block raises its own threshold for that
    (mallopt(3), M_MMAP_THRESHOLD: "adjusted dynamically"), unless the embedder has set it; other libraries do not care.
    """
    bytes(KEPT_BYTES)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where there is no room."""

_FLAGS = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}


class RealFile:
    """See ``interfaces.DiskFile``."""

    def __init__(self, path: Path, how: str, permissions: int):
        self._path = path
        self._descriptor = os.open(path, _FLAGS[how] | os.O_CLOEXEC, permissions)

    def read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._descriptor, count, offset)
        if len(data) == count or not data:
            return data
        parts = [data]  # a signal, or a file of more than the system reads at once
        while data and (offset := offset + len(data)) and (count := count - len(data)):
            data = os.pread(self._descriptor, count, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def allocate(self, size: int) -> None:
        before = self.size()
        if size > before:
            os.posix_fallocate(self._descriptor, before, size - before)

    def allocated_bytes(self) -> int:
        state = os.fstat(self._descriptor)
        return min(state.st_size, state.st_blocks * 512)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class RealDisk:
    """See ``interfaces.Disk``. It has no state: any number of them are the same."""

    def environment(self, path: Path, **settings: Any) -> lmdb.Environment:
        if not settings.get("readonly"):
            self._claim_room(path, settings["max_readers"])
            if not self.size(path / DATA_FILE):
                self._make_data(path)
            keep_freed_memory()
        return lmdb.open(str(path), lib_version=0, **settings)

    def _make_data(self, path: Path) -> None:
        """Make the first pages of an environment, whole before they have their name.

        LMDB writes both meta pages in place and syncs them with the first transaction only. A power cut before that may keep any
        part of them, and LMDB then refuses the file for ever (MDB_INVALID), although there was nothing in it to lose.
        """
        draft = path / (DATA_FILE + ".new")
        self.remove(draft)
        lmdb.open(str(draft), map_size=FIRST_BYTES, subdir=False, lock=False, lib_version=0).close()
        file = RealFile(draft, "r+", 0)
        try:
            file.sync()
        finally:
            file.close()
        os.replace(draft, path / DATA_FILE)
        self.sync_directory(path)

    def _claim_room(self, path: Path, readers_max: int) -> None:
        """See to it that LMDB can open an environment here. Raises NoSpace, with nothing of ours left half made."""
        if not self.size(path / DATA_FILE) and self.free_bytes(path) < FIRST_BYTES:
            raise NoSpace(f"the disk of {path} is full")
        handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(handle, 0, (readers_max + _HEAD_SLOTS) * _SLOT_BYTES)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoSpace(f"the disk of {path} is full: no room for {LOCK_FILE}") from error
        finally:
            os.close(handle)

    # -- files --------------------------------------------------------------------------------------------------------

    def open(self, path: Path, how: str = "r", *, private: bool = False) -> RealFile:
        return RealFile(path, how, 0o600 if private else 0o666)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, data: bytes) -> None:
        draft = path.with_name(path.name + ".new")
        file = RealFile(draft, "w", 0o644)
        try:
            file.write(0, data)
            file.sync()
        finally:
            file.close()
        os.replace(draft, path)
        self.sync_directory(path.parent)

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def free_bytes(self, path: Path) -> int:
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize

    # -- names --------------------------------------------------------------------------------------------------------

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def make_directory(self, path: Path) -> None:
        above = [path, *path.parents]
        missing = above[: next(at for at, each in enumerate(above) if each.is_dir())]
        if len(missing) + 1 < len(above):
            # Whoever made the last one that is there may have been killed before its name was synced. Where that is not allowed
            # it was not us.
            with contextlib.suppress(PermissionError):
                self.sync_directory(above[len(missing) + 1])
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                each.mkdir()
            self.sync_directory(each.parent)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: a copy, whole before it has its name
            partial = target.with_name(target.name + ".part")
            shutil.copyfile(source, partial)
            file = RealFile(partial, "r", 0)
            try:
                file.sync()
            finally:
                file.close()
            os.replace(partial, target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def hold(self, path: Path) -> Callable[[], None]:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return lambda: os.close(handle)
