"""Snapshot files: one shard, or one user machine, as of one index, whole and checked (docs/formats.md, "Snapshot file").

A file is written under another name, synced, renamed, and its directory synced: what has the final name is whole. A reader
trusts nothing: ``check`` reads all of it before anything is installed, and every chunk is checked again when it is used.
Damage raises PeerProtocolError: the file can be sent again; a version that is not known raises FormatUnsupported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path

from multiraft._core import crc32c
from multiraft.errors import FormatUnsupported, PeerProtocolError, StorageError
from multiraft.ids import GroupId
from multiraft.interfaces import Disk, DiskFile, SnapshotRecord
from multiraft.machine.chunks import Items, check_chunk
from multiraft.machine.descriptors import (
    ShardDescriptor,
    ShardRecord,
    decode_descriptor,
    encode_descriptor,
)
from multiraft.records import encode_membership

MAGIC = b"MRS1"
END_MAGIC = b"MRS2"
VERSION = 1
CHUNK_BYTES_MAX = 16 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024 * 1024
ENTRIES_MAX = 256
HEAD_PIECE_BYTES = 4096
PIECE_BYTES = 64 * 1024
"""A file is read and written in pieces of about this size."""

_HEAD = struct.Struct("<4sHHQQQIIII")
_CHUNK = struct.Struct("<III")
_END = struct.Struct("<4sIQQII")


class Kind(IntEnum):
    """What the chunks of a file hold."""

    KEYS = 1
    """Records of the built-in store, ascending by key."""
    BYTES = 2
    """Whatever a user's state machine gave."""
    APPLIED = 3
    """Nothing: it says how far a user's machine that keeps its own disk had applied when it last synced."""


class Outcome(Enum):
    """What to do at open about a snapshot that was received but is not marked as installed."""

    MARK = "mark"
    """The state is at or past it: write the mark."""
    FINISH = "finish"
    """The file is whole: install it."""
    DROP = "drop"
    """Neither: forget it, and let the leader send another."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a file says of itself. ``crc`` is over the whole file but its last four bytes."""

    kind: Kind
    group: GroupId
    index: int
    term: int
    membership: bytes
    descriptor: ShardDescriptor
    sessions: bytes
    records: int
    size: int
    crc: int

    def record(self, flushes: int = 0) -> ShardRecord:
        """The shard's record as of the snapshot."""
        return ShardRecord(
            self.group,
            self.index,
            self.term,
            self.membership,
            self.descriptor,
            self.sessions,
            flushes,
        )


# -- writing ------------------------------------------------------------------------------------------------------------


def write_snapshot(
    disk: Disk, path: Path, kind: Kind, state: ShardRecord, chunks: Iterable[tuple[bytes, int]]
) -> SnapshotInfo:
    """Write a file of ``chunks``, each (body, records in it), so that it appears under its name whole and synced."""
    partial = path.with_name(path.name + ".part")
    descriptor = encode_descriptor(state.descriptor)
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        kind,
        state.group,
        state.applied_index,
        state.applied_term,
        len(state.membership),
        len(descriptor),
        len(state.sessions),
        0,
    )
    head += state.membership + descriptor + state.sessions
    try:
        file = disk.open(partial, "w")
        try:
            crc, size, records = _write_body(_Writing(file), head, chunks)
            file.sync()
        finally:
            file.close()
        disk.rename(partial, path)
        disk.sync_directory(path.parent)
    except BaseException:
        disk.remove(partial)
        raise
    return SnapshotInfo(
        kind,
        state.group,
        state.applied_index,
        state.applied_term,
        state.membership,
        state.descriptor,
        state.sessions,
        records,
        size,
        crc,
    )


class _Writing:
    """A file that is written from its beginning on, in larger pieces than it is handed."""

    def __init__(self, file: DiskFile):
        self._file = file
        self._offset = 0
        self._parts: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes >= PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._offset, b"".join(self._parts))
        self._offset += self._bytes
        self._parts, self._bytes = [], 0


def _write_body(
    file: _Writing, head: bytes, chunks: Iterable[tuple[bytes, int]]
) -> tuple[int, int, int]:
    """Head, chunks and end; (crc of the whole, size, records)."""
    head += struct.pack("<I", crc32c(head))
    file.write(head)
    crc, size, records, count = crc32c(head), len(head), 0, 0
    for body, held in chunks:
        if len(body) > CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(body)} bytes is over the limit")
        chunk_head = _CHUNK.pack(len(body), held, crc32c(body))
        file.write(chunk_head)
        file.write(body)
        crc = crc32c(body, crc32c(chunk_head, crc))
        size += len(chunk_head) + len(body)
        records += held
        count += 1
    end = _END.pack(END_MAGIC, count, records, size + _END.size, 0, 0)[:-4]
    crc = crc32c(end, crc)
    file.write(end + struct.pack("<I", crc))
    file.flush()
    return crc, size + _END.size, records


# -- reading ------------------------------------------------------------------------------------------------------------


class _Reading:
    """A file that is read from its beginning on, in larger pieces than it is asked for."""

    def __init__(self, file: DiskFile, piece_bytes: int):
        self.size = file.size()
        self._file = file
        self._piece_bytes = piece_bytes
        self._offset = 0
        self._buffer = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end of the file."""
        missing = self._at + size - len(self._buffer)
        if missing > 0:
            more = self._file.read(self._offset, max(missing, self._piece_bytes))
            self._buffer = self._buffer[self._at :] + more
            self._offset += len(more)
            self._at = 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def back(self, size: int) -> None:
        """Be where one was before the last read, which was of so many bytes."""
        self._at -= size


@contextmanager
def _reading(disk: Disk, path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[_Reading]:
    file = disk.open(path)
    try:
        yield _Reading(file, piece_bytes)
    finally:
        file.close()


def check_snapshot(disk: Disk, path: Path) -> SnapshotInfo:
    """Read all of a file and check all of it. Raises PeerProtocolError where it is damaged or not whole."""
    with _reading(disk, path) as file:
        info, crc = _read_head(file)
        records = count = 0
        last = b""
        for head, body, held in _read_chunks(file):
            crc = crc32c(body, crc32c(head, crc))
            records += held
            count += 1
            if info.kind == Kind.KEYS:
                last = _check_keys(body, held, last, info)
        end = file.read(_END.size + 1)
    if len(end) != _END.size:
        raise PeerProtocolError("a snapshot file has no sound end")
    _, chunks, records_said, size, zero, crc_said = _END.unpack(end)
    crc = crc32c(end[:-4], crc)
    if crc != crc_said or zero:
        raise PeerProtocolError("a snapshot file is damaged: its checksum is wrong")
    if (chunks, records_said, size) != (count, records, file.size):
        raise PeerProtocolError("a snapshot file does not hold what its end says")
    return SnapshotInfo(
        info.kind,
        info.group,
        info.index,
        info.term,
        info.membership,
        info.descriptor,
        info.sessions,
        records,
        size,
        crc,
    )


def head_of_snapshot(disk: Disk, path: Path) -> SnapshotInfo:
    """What a file's head says, which is checked; nothing else of the file is read. Raises PeerProtocolError."""
    with _reading(disk, path, HEAD_PIECE_BYTES) as file:
        return _read_head(file)[0]


def read_chunks(disk: Disk, path: Path) -> Iterator[bytes]:
    """The bodies of a file's chunks, each checked by itself."""
    with _reading(disk, path) as file:
        _read_head(file)
        for _, body, _ in _read_chunks(file):
            yield body


def read_entries(disk: Disk, path: Path) -> Iterator[list[tuple[bytes, bytes]]]:
    """(key, record) pairs of a KEYS file, some at a time."""
    for body in read_chunks(disk, path):
        items = Items(body)
        while entries := items.take(ENTRIES_MAX):
            yield entries


def _check_keys(body: bytes, held: int, last: bytes, info: SnapshotInfo) -> bytes:
    return check_chunk(body, held, last, info.descriptor.start, info.descriptor.end)


def _read_head(file: _Reading) -> tuple[SnapshotInfo, int]:
    """The head without what only the end knows, and the crc up to here."""
    head = _exactly(file, _HEAD.size)
    magic, version, kind, group, index, term, *sizes, zero = _HEAD.unpack(head)
    if magic != MAGIC:
        raise PeerProtocolError("not a snapshot file")
    if version != VERSION or kind not in list(Kind) or zero:
        raise FormatUnsupported(f"a snapshot file of version {version}, kind {kind}")
    if sum(sizes) > HEAD_BYTES_MAX:
        raise PeerProtocolError("a snapshot's head is over its limit")
    rest = _exactly(file, sum(sizes) + 4)
    crc = crc32c(rest[:-4], crc32c(head))
    if crc != struct.unpack("<I", rest[-4:])[0]:
        raise PeerProtocolError("a snapshot's head is damaged: its checksum is wrong")
    membership_bytes, descriptor_bytes, _ = sizes
    membership = rest[:membership_bytes]
    try:
        descriptor = decode_descriptor(rest[membership_bytes : membership_bytes + descriptor_bytes])
    except FormatUnsupported:
        raise
    except StorageError as error:
        raise PeerProtocolError(f"a snapshot's descriptor is not sound: {error}") from error
    sessions = rest[membership_bytes + descriptor_bytes : -4]
    info = SnapshotInfo(
        Kind(kind), GroupId(group), index, term, membership, descriptor, sessions, 0, 0, 0
    )
    return info, crc32c(rest[-4:], crc)


def _read_chunks(file: _Reading) -> Iterator[tuple[bytes, bytes, int]]:
    """(head, body, records) of each chunk; leaves the file at its end part."""
    while True:
        head = _exactly(file, _CHUNK.size)
        if head[:4] == END_MAGIC:
            file.back(_CHUNK.size)
            return
        length, held, crc = _CHUNK.unpack(head)
        if length > CHUNK_BYTES_MAX:
            raise PeerProtocolError("a snapshot's chunk is over its limit")
        body = _exactly(file, length)
        if crc32c(body) != crc:
            raise PeerProtocolError("a snapshot's chunk is damaged: its checksum is wrong")
        yield head, body, held


def _exactly(file: _Reading, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise PeerProtocolError("a snapshot file is cut short")
    return data


# -- against what the log says ------------------------------------------------------------------------------------------


def require_match(info: SnapshotInfo, group: int, record: SnapshotRecord) -> None:
    """Raise PeerProtocolError unless the file is the one that the record speaks of."""
    base = record.base
    if (info.group, info.index, info.term) != (group, base.index, base.term):
        raise PeerProtocolError(
            f"the file holds group {info.group} at index {info.index}, term {info.term}; "
            f"group {group} at index {base.index}, term {base.term} was announced"
        )
    if info.membership != encode_membership(base.membership):
        raise PeerProtocolError("the file's membership is not the one that was announced")
    if (info.size, info.crc) != (record.size, record.crc):
        raise PeerProtocolError("the file is not the one that was received")


def outcome_at_open(
    disk: Disk, applied_index: int, group: int, record: SnapshotRecord, path: Path
) -> Outcome:
    """What to do with a snapshot whose pending record has no mark: the process ended somewhere in between."""
    if applied_index >= record.base.index:
        return Outcome.MARK
    try:
        require_match(check_snapshot(disk, path), group, record)
    except (OSError, PeerProtocolError, FormatUnsupported):
        return Outcome.DROP
    return Outcome.FINISH
