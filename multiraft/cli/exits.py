"""Exit codes: one per kind of ending, so that whoever supervises a node can tell them apart. They never change their meaning."""

from __future__ import annotations

import errno
from enum import IntEnum

from multiraft.errors import (
    ConfigError,
    DirectoryInUse,
    NoSpace,
    StorageError,
    SyncFailed,
    WrongCluster,
    WrongStore,
)


class Exit(IntEnum):
    """How a command ended."""

    CLOSED = 0
    FAILED = 1
    USAGE = 2
    OTHER_CLUSTER = 10
    DAMAGED = 11
    NO_SPACE = 12
    ADDRESS_IN_USE = 13
    DIRECTORY_IN_USE = 14


def exit_of(error: BaseException) -> tuple[Exit, str]:
    """The code for what ended a node, and one line that says what to do about it."""
    if isinstance(error, ConfigError):
        return Exit.USAGE, f"{error}"
    if isinstance(error, WrongCluster | WrongStore):
        return (
            Exit.OTHER_CLUSTER,
            f"{error}; give this node its own data directory, or a new node id",
        )
    if isinstance(error, DirectoryInUse):
        return (
            Exit.DIRECTORY_IN_USE,
            f"{error}; end the other process, or choose another --data-dir",
        )
    if isinstance(error, NoSpace) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return (
            Exit.NO_SPACE,
            f"{error}; free some space and start again: nothing acknowledged is lost",
        )
    if isinstance(error, SyncFailed):
        return Exit.DAMAGED, f"{error}; nothing acknowledged is lost, but see to the disk"
    if isinstance(error, StorageError):
        return (
            Exit.DAMAGED,
            f"{error}; keep the directory for a look, and restore this node from the others",
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Exit.ADDRESS_IN_USE, f"{error}; end the other process, or choose another address"
    return Exit.FAILED, f"{type(error).__name__}: {error}"
