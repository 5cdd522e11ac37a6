"""Files on their way between nodes, as blocking work for a worker: one that is read, one that arrives.

An arriving file is written in order to ``incoming-<node>-<transfer>.part``; once whole, checked and synced it is renamed to
``.file`` and the directory is synced, so that whoever is told of it finds it after a power cut. Every function here may
block and none may run on the loop; the objects belong to one worker, which runs their calls in order.

Invariants: a ``.file`` has the size and the checksum that were announced; no more than the announced size is ever written.
"""

from __future__ import annotations

import errno
from pathlib import Path

from multiraft._core import crc32c
from multiraft.errors import InvariantViolation, MultiRaftError, PeerProtocolError
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, DiskFile

_READ_BYTES = 1024 * 1024
_SYNC_BYTES = 16 * 1024 * 1024
"""Synced at least this often, so that the last sync is short and memory holds little that is not on the disk."""


class FileDamaged(MultiRaftError):
    """What arrived is not what was sent. Sent again once; a second time is the sender's error."""


class OutgoingFile:
    """A file to be sent. It must not change meanwhile; if it does, the receiver's check tells."""

    def __init__(self, disk: Disk, path: str):
        self.size = 0
        self.crc = 0
        self._disk = disk
        self._path = path
        self._file: DiskFile | None = None

    def open(self) -> None:
        self._file = self._disk.open(Path(self._path))
        self.size = self._file.size()

    def measure(self, offset: int) -> int:
        """Take one stretch into ``crc``, from 0 on; returns where the next one begins."""
        data = _opened(self._file).read(offset, _READ_BYTES)
        if not data and offset < self.size:
            raise OSError(
                errno.EIO, f"{self._path} ends at {offset}, before its size of {self.size}"
            )
        self.crc = crc32c(data, self.crc if offset else 0)
        return offset + len(data)

    def read(self, offset: int, count: int) -> tuple[bytes, int]:
        """``count`` bytes and their checksum."""
        data = _opened(self._file).read(offset, count)
        if len(data) != count:
            raise OSError(errno.EIO, f"{self._path} has changed while it was sent")
        return data, crc32c(data)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class IncomingFile:
    """A file that arrives, perhaps over several connections."""

    def __init__(
        self, disk: Disk, directory: str, node: NodeId, transfer: int, size: int, crc: int
    ):
        self.size = size
        self.crc = crc
        self._disk = disk
        self._part = Path(directory, f"incoming-{node}-{transfer:016x}.part")
        self._file: DiskFile | None = None
        self._written = 0
        self._synced = 0
        self._running_crc = 0

    def resume(self) -> int:
        """Open it where that has not been done; returns how much of it is here."""
        if self._file is None:
            self._file = self._disk.open(self._part, "w", private=True)
            self._written = self._synced = self._running_crc = 0
        return self._written

    def write(self, offset: int, data: bytes, crc: int) -> int:
        """Append what arrived; returns how much is here. Raises FileDamaged, PeerProtocolError or OSError."""
        if offset != self._written or offset + len(data) > self.size:
            raise PeerProtocolError(
                f"a chunk at {offset} of {len(data)} bytes; the file of {self.size} is here up to {self._written}"
            )
        if crc32c(data) != crc:
            raise FileDamaged(f"the chunk at {offset} arrived damaged")
        file = _opened(self._file)
        file.write(offset, data)
        self._running_crc = crc32c(data, self._running_crc)
        self._written += len(data)
        if self._written - self._synced >= _SYNC_BYTES:
            self._sync(file)
            self._synced = self._written
        return self._written

    def _sync(self, file: DiskFile) -> None:
        """After an error begin anew: what was not written then, no later sync writes, though it says that all is well."""
        try:
            file.sync()
        except OSError:
            self.discard()
            raise

    def finish(self) -> str:
        """Check the whole, sync it, and give it its name. Raises FileDamaged, and then begins anew."""
        if self._written != self.size:
            raise InvariantViolation(f"a file of {self.size} bytes was finished at {self._written}")
        if self._running_crc != self.crc:
            self.discard()
            raise FileDamaged("the whole file does not match its checksum")
        file = _opened(self._file)
        self._sync(file)
        file.close()
        self._file = None
        whole = self._part.with_suffix(".file")
        self._disk.rename(self._part, whole)
        self._disk.sync_directory(whole.parent)
        return str(whole)

    def discard(self) -> None:
        """Forget what arrived. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            self._disk.remove(self._part)


def _opened(file: DiskFile | None) -> DiskFile:
    if file is None:
        raise OSError(errno.EBADF, "the file is not open")
    return file


def clear_directory(disk: Disk, directory: str) -> None:
    """Make the directory where there is none, and remove what transfers of an earlier life left unfinished."""
    path = Path(directory)
    disk.make_directory(path)
    for left in disk.names(path):
        if left.startswith("incoming-") and left.endswith(".part"):
            disk.remove(path / left)
