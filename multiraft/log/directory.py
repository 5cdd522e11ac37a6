"""A log directory as files: who holds it, whose it is, and whether its data file is whole enough to be mapped.

LMDB would let a second process in, takes an emptied directory for a new one, and lets a file that was cut short kill the
process (SIGBUS) at the first read of what is missing. All three are refused here, before LMDB is asked to open anything.

Invariant: the superblock is written after the database was made and synced, and never changed; so a directory that has one
and no data lost its data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from multiraft.disk import DATA_FILE
from multiraft.errors import DirectoryInUse, LogCorrupt
from multiraft.ids import StoreId
from multiraft.interfaces import Disk
from multiraft.log.schema import SUPERBLOCK_FILE, Superblock

_META_PAGE = struct.Struct("<16xIIQQ4x44x48xQQ")
"""Of a meta page: the page's header, then magic, version, address, map size, the two root records, last page, transaction."""
_META_PAGE_SIZE = struct.Struct("<40xI")
_META_MAGIC = 0xBEEFC0DE
_META_BYTES = 152


class LogDirectory:
    """Held by one process at a time, from the constructor to ``close``."""

    def __init__(self, disk: Disk, path: Path, *, create: bool = True):
        self.disk = disk
        self.path = path
        if create:
            disk.make_directory(path)
        try:
            self._let_go: Callable[[], None] | None = disk.hold(path)
        except BlockingIOError as error:
            raise DirectoryInUse(f"another process holds the log directory {path}") from error

    @property
    def data_path(self) -> Path:
        return self.path / DATA_FILE

    def superblock(self) -> Superblock | None:
        """Whose log this is; None where there is none yet. Raises where the data is not what belongs to it."""
        path = self.path / SUPERBLOCK_FILE
        if self.disk.size(path) is None:
            return None
        found = Superblock.unpack(self.disk.read(path))
        if not self.disk.size(self.data_path):
            raise LogCorrupt(
                f"{self.path} belongs to store {found.store_id}, but its data file is gone or empty"
            )
        return found

    def new_superblock(self, store_id: StoreId, created_ms: int) -> Superblock:
        """Make this the directory of a store that never was before."""
        made = Superblock(store_id=store_id, created_ms=created_ms)
        self.disk.write(self.path / SUPERBLOCK_FILE, made.pack())
        return made

    def check_data(self) -> None:
        """Raise LogCorrupt for a data file whose meta pages are no such, or that is shorter than they say."""
        if not self.disk.size(self.data_path):
            return
        file = self.disk.open(self.data_path)
        try:
            first = file.read(0, _META_BYTES)
            if len(first) < _META_BYTES:
                raise LogCorrupt(f"{self.data_path} is cut short: it has {len(first)} bytes")
            page_bytes = _META_PAGE_SIZE.unpack_from(first)[0]
            if not (512 <= page_bytes <= 65536 and page_bytes & (page_bytes - 1) == 0):
                raise LogCorrupt(
                    f"{self.data_path} is damaged: its pages would have {page_bytes} bytes"
                )
            second = file.read(page_bytes, _META_BYTES)
            size = file.size()
        finally:
            file.close()
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
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()
