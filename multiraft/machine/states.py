"""What is durable of users' machines: one file a group, named by group and index, each written whole before it has its name.

A machine in memory is written whole (kind BYTES, as snapshots travel). A machine that keeps its own disk needs a record only,
of how far it had applied when it last synced (kind APPLIED), with the term and the membership there. A snapshot that was
received becomes the group's file as it is, so that taking it over is one link in the directory, whatever the machine does with it.

The newest file of a group is its state; the log holds everything behind it. Nothing here knows of threads or of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack

from multiraft.disk import RealDisk
from multiraft.errors import MultiRaftError, PeerProtocolError
from multiraft.interfaces import Disk
from multiraft.machine.descriptors import ShardDescriptor, ShardRecord
from multiraft.machine.snapshot import Kind, SnapshotInfo, head_of_snapshot, write_snapshot

logger = logging.getLogger("multiraft.machine")

CHUNK_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class State:
    """The durable state of one machine on this node."""

    path: Path
    info: SnapshotInfo
    size: int


@dataclass(frozen=True, slots=True)
class At:
    """A place in a group's log: index, term of the entry there, membership from there on (encoded).

    ``told_index`` is that of the last command at or below it: entries of a leader's own and of memberships are no commands.
    """

    index: int = 0
    term: int = 0
    membership: bytes = b""
    told_index: int = 0


def encode_note(machine: str, told_index: int) -> bytes:
    """What a file says besides: the kind of the machine, and the last command that it holds."""
    return msgpack.packb([machine, told_index])


def decode_note(info: SnapshotInfo) -> tuple[str, int]:
    """(kind of machine, index of the last command) of a file. Raises PeerProtocolError."""
    try:
        machine, told_index = msgpack.unpackb(info.descriptor.extra, use_list=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PeerProtocolError(f"the file is of no user's machine: {error}") from error
    if not isinstance(machine, str) or type(told_index) is not int or told_index > info.index:
        raise PeerProtocolError("the file is of no user's machine")
    return machine, told_index


def bounded(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """A user's chunks, each of them bytes and within the limit. Raises TypeError or ValueError."""
    for chunk in chunks:
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise TypeError(f"a chunk of a snapshot is bytes, not {type(chunk).__name__}")
        if len(chunk) > CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(chunk)} bytes; the limit is {CHUNK_BYTES_MAX}")
        yield bytes(chunk), 0


def write_state(
    disk: Disk,
    path: Path,
    kind: Kind,
    group: int,
    machine: str,
    at: At,
    chunks: Iterable[bytes] = (),
) -> State:
    """Write the state of a machine as of an index; the kind's name goes with it."""
    descriptor = ShardDescriptor(extra=encode_note(machine, at.told_index))
    record = ShardRecord(group, at.index, at.term, at.membership, descriptor)  # type: ignore[arg-type]
    info = write_snapshot(disk, path, kind, record, bounded(chunks))
    return State(path, info, info.size)


class States:
    """The files of one node. Its methods block: call them on a worker, or before the node runs."""

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self.directory = directory
        self.disk: Disk = disk if disk is not None else RealDisk()

    def path(self, group: int, index: int) -> Path:
        return self.directory / f"{group}-{index:020d}.state"

    def own(self, group: int) -> Path:
        """Where a machine that keeps its own disk keeps it."""
        return self.directory / f"disk-{group}"

    def found(self) -> dict[int, State]:
        """The newest state of each group, by its head; older ones and what was never finished are removed."""
        states: dict[int, State] = {}
        self.disk.make_directory(self.directory)
        # Who wrote the newest one may have been killed before its name was synced: it must not go after the older one went.
        self.disk.sync_directory(self.directory)
        for name in self.disk.names(self.directory):
            path = self.directory / name
            if path.name.endswith(".part"):
                self.disk.remove(path)
            elif path.name.endswith(".state"):
                try:
                    state = State(
                        path, head_of_snapshot(self.disk, path), self.disk.size(path) or 0
                    )
                except MultiRaftError as error:
                    logger.error("%s is not sound and is left alone: %s", path.name, error)
                    continue
                before = states.get(state.info.group)
                states[state.info.group] = state
                if before is not None:  # names ascend with the index
                    self.disk.remove(before.path)
        return states

    def take(self, source: Path, group: int, machine: str, info: SnapshotInfo) -> State:
        """Make a received file the state of a group, durably. Raises PeerProtocolError where it is of another machine."""
        theirs, _ = decode_note(info)
        if info.kind != Kind.BYTES or theirs != machine:
            raise PeerProtocolError(f"the file holds a machine of kind {theirs!r}, not {machine!r}")
        path = self.path(group, info.index)
        self.disk.remove(path)
        self.disk.link(source, path)
        self.disk.sync_directory(self.directory)
        return State(path, info, info.size)
