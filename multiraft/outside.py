"""What is outside of a node and may be replaced: its clock, its disk, and the threads that do what blocks.

These are Protocols and nothing else; ``interfaces`` offers them together with all others, and is where to import them from. The
real things are ``node.world``, ``disk`` and ``worker``; a simulator has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Time, asked by the turn and by nothing below it."""

    def now_ns(self) -> int:
        """Nanoseconds that never go back and go on while the machine is suspended (CLOCK_BOOTTIME)."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock: for expiry stamps that a leader writes, and for people."""


class Jobs(Protocol):
    """A place off the loop where blocking work is done in order: ``worker.Worker``, or a simulated one."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``job`` there, after all submitted before; then ``done(result, error)`` on the loop, one of them None."""

    def close(self) -> None:
        """Wait for what was submitted, then end. Idempotent."""


class DiskFile(Protocol):
    """An open file, read and written at offsets. What is written is seen at once, and durable after ``sync``."""

    def read(self, offset: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """All of it, or an OSError: then any part of it may be there."""

    def sync(self) -> None:
        """Make what was written durable - but not the name of the file. After an error nothing is known of it."""

    def size(self) -> int: ...

    def allocate(self, size: int) -> None:
        """Make the file ``size`` bytes long, with blocks of the disk for those that it gains. OSError: it has not gained all."""

    def allocated_bytes(self) -> int:
        """How much of the file, from its beginning, has blocks of the disk."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Everything that a node does to its disk; ``disk.RealDisk``, or a simulated one. Called on workers: anything may block.

    Errors are OSErrors with their errno; those of environments are py-lmdb's. A name is durable once its directory is synced.
    """

    def environment(self, path: Path, **settings: Any) -> Any:
        """``lmdb.open``: an ``lmdb.Environment``, or what behaves like one. NoSpace: there is no room for its first pages."""

    def open(self, path: Path, how: str = "r", *, private: bool = False) -> DiskFile:
        """A file, by ``how``: ``r`` to read, ``r+`` to write too, ``w`` to begin it anew; ``private`` to its owner."""

    def read(self, path: Path) -> bytes:
        """A whole file."""

    def write(self, path: Path, data: bytes) -> None:
        """A whole file, durably: whatever happens, it is there with this in it, or as it was before."""

    def size(self, path: Path) -> int | None:
        """Bytes of a file; None where there is none."""

    def free_bytes(self, path: Path) -> int:
        """What may still be written to the file system of a path."""

    def names(self, path: Path) -> list[str]:
        """What is in a directory, sorted."""

    def make_directory(self, path: Path) -> None:
        """Durably, with what is missing above it; durable afterwards even where it was there, made by one who was killed."""

    def rename(self, source: Path, target: Path) -> None:
        """In the place of what has that name already, if anything."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second, new name; a synced copy where the file system knows no links."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable: a synced file without its name is lost all the same."""

    def forget_cached(self, path: Path) -> None:
        """Let what is read of a file from now on be what is on the disk: nothing is left of it in the machine's memory.

        Nobody may have it open. An OSError: that failed, or cannot be known here; then anything may still be cached.
        """

    def boot_id(self) -> str:
        """A name of this run of the machine: another one, and its memory holds nothing of earlier runs. Empty: not known."""

    def hold(self, path: Path) -> Callable[[], None]:
        """Hold a directory; what lets go of it. BlockingIOError: somebody else has it. A process that ends lets go."""
