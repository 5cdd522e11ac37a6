"""The real disk: the file system of the machine, and LMDB on it. See ``interfaces.Disk``; nothing here knows what is stored.

LMDB maps its lock file and writes to it through memory. Where the disk has no block for a page of it, that write ends the
process (SIGBUS); so every block is there before LMDB opens anything, and a full disk is an error and no crash.

Invariant: nothing is durable here that was not synced, names of files included; no error of a sync is swallowed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
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


BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
DROPS_MAX = 8
"""Times to ask for a page to be forgotten."""

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


def _drop(handle: int, offset: int, count: int) -> None:
    """Advise the system to forget pages; it keeps those that somebody maps, and may keep others."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is None:
        raise OSError(errno.ENOTSUP, "this system cannot be told to forget a file")
    advise(handle, offset, count, os.POSIX_FADV_DONTNEED)


def _holes(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Stretches of a file that are empty on the disk, whether it has blocks for them or not.

    Of one that has, nothing is cached: Linux takes what is for data, dirty or not (lseek(2); its iomap_seek_hole).
    """
    at = 0
    while at < size and (start := os.lseek(handle, at, os.SEEK_HOLE)) < size:
        try:
            at = os.lseek(handle, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            at = size  # no data behind it
        yield start, at


def _require_dropped(handle: int, offset: int, empty: bool, path: Path) -> None:
    """Raise OSError where the page at an offset is still cached; also where this file system does not say.

    One that is ``empty`` on the disk is made in memory for whoever asks for it, at once: it may be there, with nothing in it.
    """
    page = bytearray(mmap.PAGESIZE)
    for _ in range(DROPS_MAX):
        try:
            count = os.preadv(handle, [page], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return  # to read it, somebody would have to wait for the disk
        if not count or (empty and page.count(0) == len(page)):
            return
        _drop(handle, offset, mmap.PAGESIZE)
    raise OSError(errno.EBUSY, f"the page at {offset} stays in the machine's memory", str(path))


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

    # -- the machine's memory -----------------------------------------------------------------------------------------

    def forget_cached(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
            _drop(handle, 0, 0)
            # Asking for a page begins to read it, and with readahead its neighbours, which would then seem never to have gone.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
            size = os.fstat(handle).st_size
            holes = list(_holes(handle, size))  # before anything is read, and so cached
            for offset in range(0, size, mmap.PAGESIZE):
                while holes and holes[0][1] <= offset:
                    del holes[0]
                end = min(offset + mmap.PAGESIZE, size)
                empty = bool(holes) and holes[0][0] <= offset and end <= holes[0][1]
                _require_dropped(handle, offset, empty, path)
        finally:
            os.close(handle)

    def boot_id(self) -> str:
        try:
            return BOOT_ID_FILE.read_text().strip()
        except OSError:
            return ""

    # -- directories --------------------------------------------------------------------------------------------------

    def hold(self, path: Path) -> Callable[[], None]:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return lambda: os.close(handle)
