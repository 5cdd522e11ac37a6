"""The machinery below a simulated disk: what lies on it, what of that is certain, jobs that have not ended, and its end.

``Platter`` knows nothing of what a node asks; ``disk.SimulatedDisk`` does. Whoever simulates calls what is here: let the power go,
let a disk fail or fill up, take a copy of it and put it back. Everything is in memory and in one thread, and nothing depends
on anything but the generator and the order of calls.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multiraft.testing.environment import DataFile
from multiraft.testing.faults import (
    READ,
    SYNC,
    Job,
    Latency,
    Odds,
    Plan,
    PowerCut,
    Troubles,
    failure,
)
from multiraft.testing.files import Change, Directory, Inode, PlainFile


class Platter:
    """All that lies on one disk. It begins empty, but for its root."""

    def __init__(
        self,
        generator: random.Random,
        *,
        capacity_bytes: int = 1 << 40,
        latency: Latency | None = None,
    ):
        self.generator = generator
        self.troubles = Troubles(generator, latency if latency is not None else Latency())
        self.capacity_bytes = capacity_bytes
        """May be changed at any time: somebody else fills the disk, or makes room."""
        self.used_bytes = 0
        self.life = 1
        """Counted up with each crash: what is open belongs to one life."""
        self.boots = 1
        """Counted up with each cut of the power."""
        self._directories: dict[str, Directory] = {"/": Directory()}
        self._unnamed_directories: dict[str, None] = {}
        """Those whose own names are not certain."""
        self._held: set[str] = set()
        self._environments: set[str] = set()
        self._operations = 0
        self._job: Job | None = None
        self._jobs: list[Job] = []
        self._order = 0

    # -- what a simulation does ---------------------------------------------------------------------------------------

    def fail(
        self,
        kind: str,
        path: str = "",
        *,
        number: int = errno.EIO,
        skip: int = 0,
        times: int = 1,
    ) -> None:
        """Let the next operation of a kind (``faults.KINDS``) fail, on any path with ``path`` in it."""
        self.troubles.plan(Plan(kind, path, skip, times, number))

    def flip(self, path: str = "", *, skip: int = 0, times: int = 1) -> None:
        """Let the next read return one bit that was not written."""
        self.troubles.plan(Plan(READ, path, skip, times, 0, flip=True))

    def stall(self, slow_ns: int, kind: str = SYNC, path: str = "", *, times: int = 1) -> None:
        """Let the next operation of a kind take so much longer."""
        self.troubles.plan(Plan(kind, path, 0, times, 0, slow_ns=slow_ns))

    def draw(self, odds: Odds) -> None:
        """From now on, leave trouble to chance; ``troubles.clear`` ends it."""
        self.troubles.draw(odds)

    @contextmanager
    def job(self) -> Iterator[Job]:
        """The operations inside belong to one job, which takes ``cost_ns``; ``settle`` it when it has ended."""
        if self._job is not None:
            raise AssertionError("jobs run one after the other, in one thread")
        job = self._job = Job()
        job.settle = lambda: self._settle(job)
        self._jobs.append(job)
        begun_ns = self.troubles.cost_ns
        try:
            yield job
        finally:
            self._job = None
            job.cost_ns = self.troubles.cost_ns - begun_ns

    def crash(self, *, power: bool = True) -> None:
        """The node is gone, and the disk may be opened again. ``power=False``: only its process; what it wrote is there."""
        self._end_jobs()
        if power:
            self._lose()
            self.boots += 1
        self.used_bytes = sum(inode.blocks for inode in self._inodes())
        self.life += 1
        self._held.clear()
        self._environments.clear()
        self.troubles.power_on()

    def wipe(self) -> None:
        """Another, empty disk in its place. The node must be gone, as after ``crash``."""
        self.crash()
        self._directories = {"/": Directory()}
        self.used_bytes = 0

    def image(self) -> dict[str, Directory]:
        """A copy of all that is seen now, for ``restore``. No node may be writing."""
        return _copied(self._directories)

    def restore(self, image: dict[str, Directory]) -> None:
        """An older copy in the place of what is there."""
        self.crash()
        self._directories = _copied(image)
        self.used_bytes = sum(inode.blocks for inode in self._inodes())

    def damage(self, path: Path) -> bool:
        """Flip a bit of a plain file, or of some value in an environment's data file, for good. False: there is none."""
        inode = self._directory(path.parent).entries.get(path.name)
        if isinstance(inode, PlainFile) and inode.data:
            at = self.generator.randrange(len(inode.data) * 8)
            inode.data[at // 8] ^= 1 << at % 8
            return True
        return isinstance(inode, DataFile) and inode.damage(self.troubles.flipped, self.generator)

    def cut_short(self, path: Path, size: int) -> None:
        """Let a file lose its end, for good."""
        inode = self._directory(path.parent).entries[path.name]
        if isinstance(inode, DataFile):
            inode.size, inode.cut = size, True
        else:
            del inode.data[size:]
            inode.synced()

    # -- what its parts ask -------------------------------------------------------------------------------------------

    def require_life(self, life: int) -> None:
        if self.life != life or self.troubles.off:
            raise PowerCut

    def take_room(self, count: int) -> bool:
        """Take so many bytes of the disk, if they are there."""
        if self.used_bytes + count > self.capacity_bytes:
            return False
        self.used_bytes += count
        return True

    @property
    def recording(self) -> bool:
        """Is a job under way, whose operations may have to be undone?"""
        return self._job is not None

    def note(self, undo: Callable[[], Any]) -> None:
        """Something took effect. If the power goes before its job's time has come, it has not."""
        if self._job is not None:
            self._order += 1
            self._job.undo.append((self._order, undo))

    def closed_environment(self, path: str) -> None:
        self._environments.discard(path)

    # -- its own ------------------------------------------------------------------------------------------------------

    def _require_power(self) -> None:
        if self.troubles.off:
            raise PowerCut

    def _directory(self, path: Path) -> Directory:
        found = self._directories.get(str(path))
        if found is None:
            raise failure(errno.ENOENT, str(path))
        return found

    def _change(self, names: list[tuple[Directory, str, Inode | None]]) -> None:
        """Change names, all in one operation."""
        self._operations += 1
        made: list[tuple[Directory, Change]] = [
            (directory, directory.change(self._operations, name, inode))
            for directory, name, inode in names
        ]

        def undo() -> None:
            for directory, change in reversed(made):
                directory.undo(change)

        self.note(undo)

    def _unnamed(self, inode: Inode | None) -> None:
        """A name of it is gone: so is its room, if that was the last."""
        if inode is not None and not inode.links:
            self.used_bytes -= inode.blocks

    def _inodes(self) -> list[Inode]:
        """Every file once, in the order of their names' making."""
        found: dict[int, Inode] = {}
        for directory in self._directories.values():
            for inode in directory.entries.values():
                found[id(inode)] = inode
        return list(found.values())

    def _settle(self, job: Job) -> None:
        job.undo.clear()
        self._jobs = [one for one in self._jobs if one is not job]

    def _end_jobs(self) -> None:
        """Of each job that had not ended, draw how far it was; what came after that has not happened."""
        late: list[tuple[int, Callable[[], None]]] = []
        for job in self._jobs:
            late += job.undo[self.generator.randint(0, len(job.undo)) :]
        for _, undo in sorted(late, key=_order, reverse=True):
            undo()
        self._job, self._jobs = None, []

    def _lose(self) -> None:
        for where in list(self._unnamed_directories):
            if self.generator.getrandbits(1):
                gone = [one for one in self._directories if f"{one}/".startswith(f"{where}/")]
                for one in gone:
                    del self._directories[one]
        self._unnamed_directories.clear()
        kept: dict[int, bool] = {}
        for directory in self._directories.values():
            directory.lose(kept, self.generator)
        for inode in self._inodes():
            inode.lose(self.generator)


def parent_of(where: str) -> str:
    """The directory that a path's name is in."""
    return where.rpartition("/")[0] or "/"


def _order(entry: tuple[int, Callable[[], None]]) -> int:
    return entry[0]


def _copied(directories: dict[str, Directory]) -> dict[str, Directory]:
    made: dict[str, Directory] = {}
    known: dict[int, Inode] = {}
    for where, directory in directories.items():
        copy = made[where] = Directory()
        for name, inode in directory.entries.items():
            if id(inode) not in known:
                known[id(inode)] = inode.copied()
            copy.entries[name] = known[id(inode)]
            known[id(inode)].links += 1
    return made
