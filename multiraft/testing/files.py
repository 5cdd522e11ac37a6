"""Plain files and directories of a simulated disk: what is seen of them, and what a cut of the power may leave.

A file is written in sectors of 512 bytes. Of those that changed since its last sync, each is on the disk or not, and so is each
part of what it gained. A change of a name is on the disk when its directory was synced; until then it is or it is not, but a
rename within one directory never halfway.

Nothing here costs more than what is written, and nothing is copied by a sync.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

from multiraft.testing.environment import DataFile
from multiraft.testing.faults import READ, SYNC, WRITE, failure

if TYPE_CHECKING:
    from multiraft.testing.disk import SimulatedDisk

SECTOR_BYTES = 512
BLOCK_BYTES = 4096


def blocks_of(size: int) -> int:
    """What a file of that size takes of the disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class PlainFile:
    """What the names of a file stand for."""

    def __init__(self, data: bytes = b""):
        self.data = bytearray(data)
        self.synced_size = len(data)
        self.before: dict[int, bytes] = {}
        """Sectors that lie below ``synced_size`` and have changed since: as they were."""
        self.doubtful = False
        """A sync has failed: what the system still holds of it, no later one writes."""
        self.links = 0
        """How many names it has."""

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def blocks(self) -> int:
        return blocks_of(len(self.data))

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if not data:
            return
        for sector in range(offset // SECTOR_BYTES, -(-min(end, self.synced_size) // SECTOR_BYTES)):
            at = sector * SECTOR_BYTES
            self.before.setdefault(sector, bytes(self.data[at : at + SECTOR_BYTES]))
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset:end] = data

    def synced(self) -> None:
        self.before = {}
        self.synced_size = len(self.data)

    def lose(self, generator: random.Random) -> None:
        """The power was cut."""
        for sector, data in self.before.items():
            if generator.getrandbits(1):
                at = sector * SECTOR_BYTES
                self.data[at : at + len(data)] = data
        gained = len(self.data) - self.synced_size
        if gained > 0:
            del self.data[self.synced_size + generator.randint(0, gained) :]
            first = self.synced_size // SECTOR_BYTES
            count = -(-len(self.data) // SECTOR_BYTES) - first
            there = generator.getrandbits(count) if count > 0 else 0
            for sector in range(max(0, count)):
                if not there >> sector & 1:
                    at = max((first + sector) * SECTOR_BYTES, self.synced_size)
                    end = min((first + sector + 1) * SECTOR_BYTES, len(self.data))
                    self.data[at:end] = bytes(end - at)
        self.synced()
        self.doubtful = False

    def forget_cached(self, generator: random.Random) -> None:
        """See ``DataFile.forget_cached``."""
        if self.doubtful:
            self.lose(generator)
        self.synced()

    def copied(self) -> PlainFile:
        return PlainFile(bytes(self.data))


Inode = PlainFile | DataFile


class Change:
    """One name of a directory that was changed. Those of one ``operation`` are on the disk together, or not at all."""

    __slots__ = ("name", "new", "old", "operation")

    def __init__(self, operation: int, name: str, old: Inode | None, new: Inode | None):
        self.operation = operation
        self.name = name
        self.old = old
        self.new = new


class Directory:
    """Names of files, as they are seen, and what of them is not certain."""

    def __init__(self) -> None:
        self.entries: dict[str, Inode] = {}
        self.unsynced: list[Change] = []
        self.doubtful = False

    def change(self, operation: int, name: str, new: Inode | None) -> Change:
        made = Change(operation, name, self.entries.get(name), new)
        self.unsynced.append(made)
        self._set(name, new)
        return made

    def undo(self, change: Change) -> None:
        """As if it had not been: the newest change of its name."""
        self._set(change.name, change.old)
        self.unsynced = [one for one in self.unsynced if one is not change]

    def _set(self, name: str, inode: Inode | None) -> None:
        before = self.entries.pop(name, None)
        if before is not None:
            before.links -= 1
        if inode is not None:
            inode.links += 1
            self.entries[name] = inode

    def lose(self, kept: dict[int, bool], generator: random.Random) -> None:
        """The power was cut. ``kept`` holds what was drawn already for an operation."""
        for change in reversed(self.unsynced):
            self._set(change.name, change.old)
        for change in self.unsynced:
            if change.operation not in kept:
                kept[change.operation] = bool(generator.getrandbits(1))
            if kept[change.operation]:
                self._set(change.name, change.new)
        self.unsynced = []
        self.doubtful = False


class Handle:
    """See ``interfaces.DiskFile``: an open file."""

    def __init__(self, disk: SimulatedDisk, path: str, inode: Inode, how: str):
        self._disk = disk
        self._life = disk.life
        self._path = path
        self._inode: Inode | None = inode
        self._how = how

    def _opened(self, *, writes: bool = False) -> Inode:
        self._disk.require_life(self._life)
        if self._inode is None or (writes and self._how == "r"):
            raise failure(errno.EBADF, self._path)
        return self._inode

    def read(self, offset: int, count: int) -> bytes:
        inode = self._opened()
        if self._how == "w":
            raise failure(errno.EBADF, self._path)
        flip = self._disk.troubles.step(READ, self._path, count)
        if isinstance(inode, DataFile):
            data = inode.meta(offset, count)
        else:
            data = bytes(inode.data[offset : offset + count])
        return self._disk.troubles.flipped(data) if flip else data

    def write(self, offset: int, data: bytes) -> None:
        inode = self._opened(writes=True)
        if isinstance(inode, DataFile):
            raise AssertionError("only LMDB writes into its data file")
        size = inode.size
        missing = blocks_of(offset + len(data)) - inode.blocks
        room = missing <= 0 or self._disk.take_room(missing)
        if not room:  # some of it may still fit
            data = data[: max(0, inode.blocks - offset)]
        if self._disk.recording:
            before, there = inode.before.copy(), bytes(inode.data[offset : offset + len(data)])
            self._disk.note(lambda: _unwrite(inode, before, offset, there, size))
        try:
            self._disk.troubles.step(WRITE, self._path, len(data))
        finally:
            # Whatever ends it: some of it may be there.
            inode.write(offset, data)
        if not room:
            raise failure(errno.ENOSPC, self._path)

    def sync(self) -> None:
        inode = self._opened()
        try:
            self._disk.troubles.step(SYNC, self._path)
        except OSError:
            inode.doubtful = True
            raise
        if isinstance(inode, PlainFile) and not inode.doubtful:
            before, size = inode.before, inode.synced_size
            self._disk.note(lambda: _unsync(inode, before, size))
            inode.synced()

    def size(self) -> int:
        return self._opened().size

    def allocate(self, size: int) -> None:
        if size <= self.size():
            return
        inode = self._opened(writes=True)
        missing = blocks_of(size) - inode.blocks
        if missing > 0 and not self._disk.take_room(missing):
            raise failure(errno.ENOSPC, self._path)
        self._disk.troubles.step(WRITE, self._path)
        if isinstance(inode, DataFile):
            inode.size = size
        else:
            inode.write(inode.size, bytes(size - inode.size))

    def allocated_bytes(self) -> int:
        inode = self._opened()
        return min(inode.size, inode.blocks)

    def close(self) -> None:
        self._inode = None


def _unwrite(
    inode: PlainFile, before: dict[int, bytes], offset: int, overwritten: bytes, size: int
) -> None:
    inode.data[offset : offset + len(overwritten)] = overwritten
    del inode.data[size:]
    inode.before = before


def _unsync(inode: PlainFile, before: dict[int, bytes], size: int) -> None:
    inode.before, inode.synced_size = before, size
