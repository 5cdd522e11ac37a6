"""A log directory as files: who holds it, whose it is, and whether its data file is whole enough to be mapped.

LMDB would let a second process in, takes an emptied directory for a new one, and lets a file that was cut short kill the
process (SIGBUS) at the first read of what is missing. All three are refused here, before LMDB is asked to open anything.

Invariant: the superblock is written after the database was made and synced, and never changed; so a directory that has one
and no data lost its data.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path

from multiraft.errors import DirectoryInUse, LogCorrupt
from multiraft.ids import StoreId, random_id
from multiraft.log.schema import DATA_FILE, SUPERBLOCK_FILE, Superblock

_META_PAGE = struct.Struct("<16xIIQQ4x44x48xQQ")
"""Of a meta page: the page's header, then magic, version, address, map size, the two root records, last page, transaction."""
_META_PAGE_SIZE = struct.Struct("<40xI")
_META_MAGIC = 0xBEEFC0DE
_META_BYTES = 152


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a synced file without its name is lost all the same."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, whatever happens."""
    draft = path.with_name(path.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        written = 0
        while written < len(data):
            written += os.write(handle, data[written:])
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(draft, path)
    sync_directory(path.parent)


class LogDirectory:
    """Held by one process at a time, from the constructor to ``close``."""

    def __init__(self, path: Path, *, create: bool = True):
        self.path = path
        if create:
            self._make(path)
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise DirectoryInUse(f"another process holds the log directory {path}") from error

    @staticmethod
    def _make(path: Path) -> None:
        missing = [path, *path.parents]
        missing = missing[: next(at for at, each in enumerate(missing) if each.is_dir())]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                each.mkdir()
            sync_directory(each.parent)

    @property
    def data_path(self) -> Path:
        return self.path / DATA_FILE

    def superblock(self) -> Superblock | None:
        """Whose log this is; None where there is none yet. Raises where the data is not what belongs to it."""
        path = self.path / SUPERBLOCK_FILE
        size = self.data_path.stat().st_size if self.data_path.exists() else 0
        if not path.exists():
            return None
        found = Superblock.unpack(path.read_bytes())
        if size == 0:
            raise LogCorrupt(
                f"{self.path} belongs to store {found.store_id}, but its data file is gone or empty"
            )
        return found

    def new_superblock(self) -> Superblock:
        """Make this the directory of a store that never was before."""
        made = Superblock(store_id=StoreId(random_id()), created_ms=time.time_ns() // 1_000_000)
        write_synced(self.path / SUPERBLOCK_FILE, made.pack())
        return made

    def check_data(self) -> None:
        """Raise LogCorrupt for a data file whose meta pages are no such, or that is shorter than they say."""
        if not self.data_path.exists() or self.data_path.stat().st_size == 0:
            return
        with self.data_path.open("rb") as file:
            first = file.read(_META_BYTES)
            if len(first) < _META_BYTES:
                raise LogCorrupt(f"{self.data_path} is cut short: it has {len(first)} bytes")
            page_bytes = _META_PAGE_SIZE.unpack_from(first)[0]
            if not (512 <= page_bytes <= 65536 and page_bytes & (page_bytes - 1) == 0):
                raise LogCorrupt(
                    f"{self.data_path} is damaged: its pages would have {page_bytes} bytes"
                )
            file.seek(page_bytes)
            second = file.read(_META_BYTES)
            size = os.fstat(file.fileno()).st_size
        metas = [self._meta(each) for each in (first, second)]
        transaction, last_page = max(metas)
        if (last_page + 1) * page_bytes > size:
            raise LogCorrupt(
                f"{self.data_path} is cut short: it has {size} bytes, and transaction {transaction} "
                f"needs {(last_page + 1) * page_bytes}"
            )

    def _meta(self, page: bytes) -> tuple[int, int]:
        """(transaction, last page) of a meta page."""
        if len(page) < _META_BYTES:
            raise LogCorrupt(f"{self.data_path} is cut short: its second meta page is missing")
        magic, version, _, _, last_page, transaction = _META_PAGE.unpack(page)
        if magic != _META_MAGIC or version != 1:
            raise LogCorrupt(
                f"{self.data_path} is damaged: a meta page has magic {magic:#x}, version {version}"
            )
        return transaction, last_page

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
