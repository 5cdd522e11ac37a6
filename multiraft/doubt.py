"""What the system's memory may hold of a file that its disk does not: noted when a sync fails, forgotten at the next start.

Linux marks pages clean whose writing has failed. They stay in memory, where everybody reads them, and no later sync writes
them (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020). The process that saw the error ends.
The next one on the same machine must not read such pages: what it builds on them would fall with the next power cut,
acknowledged or not.

So whoever sees a commit or a sync of its environment fail calls ``note_failed_sync``, which leaves a file beside it; and whoever
opens one calls ``forget_doubtful`` first, before anything is read. The note has to survive the process and not the machine:
with the machine's memory all doubt is gone, too. A failed sync of the note therefore changes nothing.

Invariant: when ``forget_doubtful`` returns, what is read of these files is what is on the disk, as far as a note said that it may
not be; else it raises.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from multiraft.errors import SyncFailed
from multiraft.interfaces import Disk

logger = logging.getLogger("multiraft.disk")

NOTE_FILE = "sync-failed"
"""Holds the name of the machine's run (``Disk.boot_id``) in which a sync failed; nothing where that is not known."""


def note_failed_sync(disk: Disk, directory: Path) -> None:
    """Leave word that what is cached of this directory's files may not be on the disk. On a disk that fails: as well as may be."""
    try:
        file = disk.open(directory / NOTE_FILE, "w")
        try:
            file.write(0, disk.boot_id().encode())
            file.sync()
        finally:
            file.close()
        disk.sync_directory(directory)
    except OSError as error:
        logger.error("a sync failed, and so did the note of it in %s: %s", directory, error)


def forget_doubtful(disk: Disk, directory: Path, names: Iterable[str]) -> None:
    """See to it that the files of these names are read from the disk, if a sync has failed here. Raises SyncFailed."""
    note = directory / NOTE_FILE
    if disk.size(note) is None:
        return
    try:
        noted = disk.read(note).decode("ascii", "replace").strip()
        present = disk.boot_id()
        if not noted or not present or noted == present:
            for name in names:
                if disk.size(directory / name) is not None:
                    disk.forget_cached(directory / name)
            logger.warning("a sync failed in %s: its files are read from the disk anew", directory)
        disk.remove(note)
        disk.sync_directory(directory)
    except OSError as error:
        raise SyncFailed(
            f"a sync failed in {directory} before, so what this machine has in memory of its files may not be on the disk, "
            f"and it cannot be made to forget it: {error}. Restart the machine (or drop its caches: "
            f"sync; echo 3 > /proc/sys/vm/drop_caches), then remove {note} and start again"
        ) from error
