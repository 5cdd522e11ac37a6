"""What both LMDB environments need of the disk before LMDB opens them, so that a full one is an error and no crash.

LMDB maps its lock file and writes to it through memory. Where the disk has no block for a page of it, that write ends the
process (SIGBUS); so every block is there before. Nothing here knows what is stored.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from multiraft.errors import NoSpace

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


def claim_room(directory: Path, *, readers_max: int, fresh: bool) -> None:
    """See to it that LMDB can open an environment here. Raises NoSpace, with nothing of ours left half made."""
    if fresh:
        state = os.statvfs(directory)
        if state.f_bavail * state.f_frsize < FIRST_BYTES:
            raise NoSpace(f"the disk of {directory} is full")
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(handle, 0, (readers_max + _HEAD_SLOTS) * _SLOT_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace(f"the disk of {directory} is full: no room for {LOCK_FILE}") from error
    finally:
        os.close(handle)
