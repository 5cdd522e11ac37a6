"""A simulated disk: the real stores run on it, and it crashes, forgets, fails, fills up, hangs and lies - all from one seed.

``SimulatedDisk`` is an ``interfaces.Disk``. What is written is seen at once. What was not synced is lost by ``crash``, or not,
as its generator draws: of an environment whole transactions in order, of a file sectors, of a directory changes of names.
Everything is in memory and in one thread, and nothing depends on anything but the generator and the order of calls.

Invariants: what was synced, in a directory that was synced, is there after ``crash``; a transaction is there whole or not at all;
whatever was opened before a crash is dead after it, and says so by ``PowerCut``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb

from multiraft.disk import DATA_FILE, FIRST_BYTES
from multiraft.errors import NoSpace
from multiraft.testing.environment import DataFile, Environment
from multiraft.testing.faults import NAME, SYNC, failure
from multiraft.testing.files import Change, Directory, Handle, PlainFile
from multiraft.testing.platter import Platter, parent_of


class SimulatedDisk(Platter):
    """See ``interfaces.Disk``; what a simulation does to it is in ``Platter``."""

    # -- what a node asks: environments and files ---------------------------------------------------------------------

    def environment(self, path: Path, **settings: Any) -> Environment:
        self._require_power()
        where, data_path = str(path), str(path / DATA_FILE)
        directory = self._directories.get(where)
        inode = directory.entries.get(DATA_FILE) if directory is not None else None
        readonly = settings.get("readonly", False)
        if directory is None or (inode is None and (readonly or not settings.get("create", True))):
            raise lmdb.Error(f"{where}: No such file or directory")
        if where in self._environments:
            raise lmdb.Error(f"The environment '{where}' is already open in this process.")
        if inode is None or not inode.size:
            if not readonly and self.free_bytes(path) < FIRST_BYTES:
                raise NoSpace(f"the disk of {where} is full")
            inode = DataFile()
            self.add_data_file(where, inode)
        if not isinstance(inode, DataFile):
            raise lmdb.InvalidError(f"{data_path}: MDB_INVALID: File is not an LMDB file")
        self._environments.add(where)
        return Environment(self, where, inode, settings)

    def open(self, path: Path, how: str = "r", *, private: bool = False) -> Handle:
        self._require_power()
        directory = self._directory(path.parent)
        inode = directory.entries.get(path.name)
        if how != "w":
            if inode is None:
                raise failure(errno.ENOENT, str(path))
            return Handle(self, str(path), inode, how)
        self.troubles.step(NAME, str(path))
        if inode is not None and inode.links > 1:
            raise AssertionError(f"{path} has another name, and to empty both is not simulated")
        made = PlainFile()
        self._change([(directory, path.name, made)])
        self._unnamed(inode)
        return Handle(self, str(path), made, how)

    def read(self, path: Path) -> bytes:
        file = self.open(path)
        return file.read(0, file.size())

    def write(self, path: Path, data: bytes) -> None:
        draft = path.with_name(path.name + ".new")
        file = self.open(draft, "w")
        file.write(0, data)
        file.sync()
        self.rename(draft, path)
        self.sync_directory(path.parent)

    def size(self, path: Path) -> int | None:
        self._require_power()
        directory = self._directories.get(str(path.parent))
        inode = directory.entries.get(path.name) if directory is not None else None
        return None if inode is None else inode.size

    def free_bytes(self, path: Path) -> int:
        self._require_power()
        return max(0, self.capacity_bytes - self.used_bytes)

    # -- what a node asks: names --------------------------------------------------------------------------------------

    def names(self, path: Path) -> list[str]:
        self._require_power()
        entries = self._directory(path).entries
        below = str(path).rstrip("/") + "/"
        inner = {
            one[len(below) :].split("/")[0] for one in self._directories if one.startswith(below)
        }
        return sorted({*entries, *inner} - {""})

    def make_directory(self, path: Path) -> None:
        self._require_power()
        for each in reversed((path, *path.parents)):
            where = str(each)
            if where not in self._directories:
                self.troubles.step(NAME, where)
                self._directories[where] = Directory()
                self._unnamed_directories[where] = None
                self.note(partial(self._directories.pop, where))
            if where in self._unnamed_directories:
                self.troubles.step(SYNC, str(each.parent))
                self._name_directory(where)

    def _name_directory(self, where: str) -> None:
        del self._unnamed_directories[where]
        self.note(lambda: self._unnamed_directories.update({where: None}))

    def rename(self, source: Path, target: Path) -> None:
        self._require_power()
        directory, other = self._directory(source.parent), self._directory(target.parent)
        inode = directory.entries.get(source.name)
        if inode is None:
            raise failure(errno.ENOENT, str(source))
        self.troubles.step(NAME, str(target))
        replaced = other.entries.get(target.name)
        if replaced is inode:
            return
        self._change([(other, target.name, inode), (directory, source.name, None)])
        self._unnamed(replaced)

    def link(self, source: Path, target: Path) -> None:
        self._require_power()
        inode = self._directory(source.parent).entries.get(source.name)
        directory = self._directory(target.parent)
        if inode is None:
            raise failure(errno.ENOENT, str(source))
        if target.name in directory.entries:
            raise failure(errno.EEXIST, str(target))
        self.troubles.step(NAME, str(target))
        self._change([(directory, target.name, inode)])

    def remove(self, path: Path) -> None:
        self._require_power()
        directory = self._directories.get(str(path.parent))
        inode = directory.entries.get(path.name) if directory is not None else None
        if directory is not None and inode is not None:
            self.troubles.step(NAME, str(path))
            self._change([(directory, path.name, None)])
            self._unnamed(inode)

    def sync_directory(self, path: Path) -> None:
        self._require_power()
        directory = self._directory(path)
        try:
            self.troubles.step(SYNC, str(path))
        except OSError:
            directory.doubtful = True
            raise
        if not directory.doubtful:
            for where in [one for one in self._unnamed_directories if parent_of(one) == str(path)]:
                self._name_directory(where)
            before, directory.unsynced = directory.unsynced, []
            self.note(lambda: _unsync(directory, before))

    def forget_cached(self, path: Path) -> None:
        self._require_power()
        inode = self._directory(path.parent).entries.get(path.name)
        if inode is None:
            raise failure(errno.ENOENT, str(path))
        if str(path.parent) in self._environments and isinstance(inode, DataFile):
            raise failure(errno.EBUSY, str(path))
        self.troubles.step(SYNC, str(path), inode.size)
        inode.forget_cached(self.generator)

    def boot_id(self) -> str:
        self._require_power()
        return f"run {self.boots}"

    def hold(self, path: Path) -> Callable[[], None]:
        self._require_power()
        where, life = str(path), self.life
        self._directory(path)
        if where in self._held:
            raise BlockingIOError(errno.EWOULDBLOCK, "Resource temporarily unavailable", where)
        self._held.add(where)

        def let_go() -> None:
            if self.life == life:
                self._held.discard(where)

        return let_go

    def add_data_file(self, path: str, inode: DataFile) -> None:
        """A new environment begins, in a directory that has none."""
        directory = self._directories.get(path)
        if directory is None:
            raise lmdb.Error("mdb_env_copy3: No such file or directory")
        old = directory.entries.get(DATA_FILE)
        if old is not None and old.size:
            raise lmdb.Error("mdb_env_copy3: File exists")
        if not self.take_room(inode.blocks):
            raise lmdb.DiskError("mdb_env_copy3: No space left on device")
        self._change([(directory, DATA_FILE, inode)])


def _unsync(directory: Directory, before: list[Change]) -> None:
    directory.unsynced = before + directory.unsynced
