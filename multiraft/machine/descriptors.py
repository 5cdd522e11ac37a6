"""What a shard is, beside its keys: descriptor and durable record, as values and as bytes (docs/formats.md, "State store").

Pure functions and frozen values; no disk, no lmdb. Whatever is decoded here may come from a damaged disk or a hostile
peer: every length is checked before it is used, and nothing is left over.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, replace

from multiraft._core import crc32c
from multiraft.errors import FormatUnsupported, StorageError
from multiraft.ids import GroupId

VERSION = 1
KEY_BOUND_BYTES_MAX = 512
BLOB_BYTES_MAX = 64 * 1024 * 1024

_DESCRIPTOR = struct.Struct("<BBHQQQIHH")
_RECORD = struct.Struct("<IBBHQQQIII")


@dataclass(frozen=True, slots=True)
class ShardDescriptor:
    """What a shard's own group knows of it; replicated in its log and the authority over its range."""

    start: bytes = b""
    end: bytes = b""
    """The first physical key that is not in the shard; empty means that there is none."""
    range_epoch: int = 1
    """Rises whenever the range changes; every command names it and is refused under another."""
    membership_epoch: int = 0
    """Rises with every membership change; fails no command."""
    revision_base: int = 0
    """A key's revision is this plus the index of the entry that wrote it."""
    replica_next: int = 1
    """The next replica id to give away; ids are never used again."""
    space: int = 0
    extra: bytes = b""
    """For the layers above; carried along."""

    def __post_init__(self) -> None:
        if self.end and self.start >= self.end:
            raise ValueError("a shard must start before it ends")

    def overlaps(self, other: ShardDescriptor) -> bool:
        """Whether some key lies in both."""
        return (not other.end or self.start < other.end) and (
            not self.end or other.start < self.end
        )


class Ranges:
    """Descriptors of shards that do not overlap, in order, to tell at once whether another one would."""

    def __init__(self, descriptors: Iterable[tuple[int, ShardDescriptor]] = ()) -> None:
        self._ranges = sorted((one.start, group, one) for group, one in descriptors)

    def overlapped(self, descriptor: ShardDescriptor) -> int | None:
        """The group of a shard that has some key of this range, or None."""
        at = bisect_left(self._ranges, (descriptor.start,))
        for _, group, other in self._ranges[max(0, at - 1) : at + 1]:
            if other.overlaps(descriptor):
                return group
        return None

    def add(self, group: int, descriptor: ShardDescriptor) -> None:
        """One more, which overlaps none."""
        insort(self._ranges, (descriptor.start, group, descriptor))


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What the state store knows of one shard besides its keys, as of one applied index."""

    group: GroupId
    applied_index: int
    applied_term: int
    membership: bytes
    descriptor: ShardDescriptor
    sessions: bytes = b""
    flushes: int = 0
    """How often this shard's part of the tree was written; tells readers on other threads that it moved."""

    def advanced(self, index: int, term: int) -> ShardRecord:
        return replace(self, applied_index=index, applied_term=term)


def encode_descriptor(descriptor: ShardDescriptor) -> bytes:
    head = _DESCRIPTOR.pack(
        VERSION,
        0,
        descriptor.space,
        descriptor.range_epoch,
        descriptor.membership_epoch,
        descriptor.revision_base,
        descriptor.replica_next,
        len(descriptor.start),
        len(descriptor.end),
    )
    return head + descriptor.start + descriptor.end + descriptor.extra


def decode_descriptor(data: bytes) -> ShardDescriptor:
    """Raises FormatUnsupported for another version, StorageError for bytes that make no descriptor."""
    if len(data) < _DESCRIPTOR.size:
        raise StorageError("a shard's descriptor is cut short")
    fields = _DESCRIPTOR.unpack_from(data)
    version, zero, space, range_epoch, membership_epoch, base, replica_next = fields[:7]
    start_bytes, end_bytes = fields[7:]
    if version != VERSION or zero:
        raise FormatUnsupported(f"a shard's descriptor has version {version}")
    if max(start_bytes, end_bytes) > KEY_BOUND_BYTES_MAX:
        raise StorageError("a shard's descriptor names a key that is too long")
    at = _DESCRIPTOR.size
    if len(data) < at + start_bytes + end_bytes:
        raise StorageError("a shard's descriptor is cut short")
    start = data[at : at + start_bytes]
    end = data[at + start_bytes : at + start_bytes + end_bytes]
    if end and start >= end:
        raise StorageError("a shard's descriptor ends before it starts")
    extra = data[at + start_bytes + end_bytes :]
    return ShardDescriptor(
        start, end, range_epoch, membership_epoch, base, replica_next, space, extra
    )


def encode_record(record: ShardRecord) -> bytes:
    """The value of the shard's record; its crc covers the group, which is the record's key."""
    descriptor = encode_descriptor(record.descriptor)
    head = _RECORD.pack(
        0,
        VERSION,
        0,
        0,
        record.applied_index,
        record.applied_term,
        record.flushes,
        len(record.membership),
        len(descriptor),
        len(record.sessions),
    )
    body = head[4:] + record.membership + descriptor + record.sessions
    return struct.pack("<I", crc32c(record_key(record.group) + body)) + body


def decode_record(key: bytes, data: bytes) -> ShardRecord:
    """Raises StorageError, naming the group, where a bit of key or value is not as it was written."""
    if len(key) != 8 or len(data) < _RECORD.size:
        raise StorageError(f"a shard's record is cut short (key {key.hex()})")
    fields = _RECORD.unpack_from(data)
    crc, version, zero, zero2, index, term, flushes = fields[:7]
    membership_bytes, descriptor_bytes, sessions_bytes = fields[7:]
    group = GroupId(int.from_bytes(key, "big"))
    if crc32c(key + data[4:]) != crc:
        raise StorageError(f"the record of shard {group} is damaged: its checksum is wrong")
    if version != VERSION or zero or zero2:
        raise FormatUnsupported(f"the record of shard {group} has version {version}")
    if _RECORD.size + membership_bytes + descriptor_bytes + sessions_bytes != len(data):
        raise StorageError(f"the record of shard {group} contradicts its own lengths")
    at = _RECORD.size
    membership = data[at : at + membership_bytes]
    at += membership_bytes
    descriptor = decode_descriptor(data[at : at + descriptor_bytes])
    sessions = data[at + descriptor_bytes :]
    return ShardRecord(group, index, term, membership, descriptor, sessions, flushes)


def record_key(group: int) -> bytes:
    return group.to_bytes(8, "big")
