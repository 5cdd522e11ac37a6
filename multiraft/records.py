"""Records about one group or one peer, as bytes: the payloads that docs/formats.md defines, from and to plain values.

Each ``decode_*`` takes what a disk or a peer gave and believes none of it: a wrong version, a count over its limit, members
out of order, a part that no membership knows, bytes that are left over, all raise LogCorrupt, and nothing is skipped. Each
``encode_*`` makes only what its ``decode_*`` would take, and raises InvariantViolation where the values cannot be written.

The decoders of whole records take the run, since half of a record stands in the run's header (its index, its term and who
wrote it). This module never touches a file and knows nothing of when a record is written.
"""

from __future__ import annotations

import struct

from multiraft._core import REPLICAS_MAX, MemberFlag, Run, RunKind, decode_run
from multiraft.errors import InvariantViolation, LogCorrupt
from multiraft.ids import NodeId, ReplicaId, StoreId
from multiraft.interfaces import (
    Base,
    HardState,
    Member,
    Membership,
    Pinned,
    SnapshotRecord,
)

Buffer = bytes | bytearray | memoryview

MEMBERSHIP_VERSION = 1
SNAPSHOT_NAME_BYTES_MAX = 255

_HARD_STATE = struct.Struct("<IIQQ")
_BASE = struct.Struct("<IIQQQ")
_MEMBERSHIP = struct.Struct("<BBH")
_MEMBER = struct.Struct("<III")
_NAME = struct.Struct("<I")
_FILE = struct.Struct("<QI")
_PINNED = struct.Struct("<IIQQ")

_BASE_KINDS = (RunKind.RUN_BASE, RunKind.RUN_SNAPSHOT_MARK, RunKind.RUN_REPLICA_CREATED)

# What a member can be. A learner is nothing else; one that becomes a learner later still votes in the outgoing half.
_PARTS = frozenset(
    {
        int(MemberFlag.MEMBER_VOTER),
        int(MemberFlag.MEMBER_OUTGOING),
        MemberFlag.MEMBER_VOTER | MemberFlag.MEMBER_OUTGOING,
        int(MemberFlag.MEMBER_LEARNER),
        MemberFlag.MEMBER_LEARNER_NEXT | MemberFlag.MEMBER_OUTGOING,
    }
)


class _Reader:
    """Takes fixed layouts off the front of a payload, and refuses to read past its end or to leave anything."""

    def __init__(self, what: str, payload: Buffer):
        self._what = what
        self._payload = memoryview(payload)

    def corrupt(self, why: str) -> LogCorrupt:
        return LogCorrupt(f"{self._what}: {why}")

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self._payload) < layout.size:
            raise self.corrupt(f"{len(self._payload)} bytes left where {layout.size} are needed")
        values = layout.unpack_from(self._payload)
        self._payload = self._payload[layout.size :]
        return values

    def take_bytes(self, count: int) -> bytes:
        if len(self._payload) < count:
            raise self.corrupt(f"{len(self._payload)} bytes left where {count} are needed")
        taken = bytes(self._payload[:count])
        self._payload = self._payload[count:]
        return taken

    def end(self) -> None:
        if len(self._payload):
            raise self.corrupt(f"{len(self._payload)} bytes left over")


def _pack(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise InvariantViolation(f"a record of {values} cannot be written: {error}") from error


def _record(run: Buffer, kinds: tuple[RunKind, ...], what: str) -> tuple[Run, _Reader]:
    """The checked run of one of these kinds, and a reader of its one payload."""
    decoded = decode_run(run)
    if decoded.kind not in kinds:
        raise LogCorrupt(f"{what}: it is a run of kind {decoded.kind}")
    return decoded, _Reader(what, decoded.entries[0])


# -- memberships --------------------------------------------------------------------------------------------------------


def _wrong_members(members: tuple[Member, ...]) -> str:
    """Why these cannot be the members of a group; empty where they can."""
    if len(members) > REPLICAS_MAX:
        return f"{len(members)} members, over the limit of {REPLICAS_MAX}"
    before = 0
    for member in members:
        if member.replica <= before:
            return f"replica {member.replica} after replica {before}"
        if not member.node:
            return f"replica {member.replica} is on no node"
        if member.flags not in _PARTS:
            return f"replica {member.replica} has part {member.flags:#x}"
        before = member.replica
    return ""


def encode_membership(membership: Membership) -> bytes:
    """A membership as bytes: the end of a BASE payload, and the body of a SNAPSHOT message."""
    if why := _wrong_members(membership.members):
        raise InvariantViolation(f"a membership cannot be written: {why}")
    head = _pack(
        _MEMBERSHIP, MEMBERSHIP_VERSION, bool(membership.auto_leave), len(membership.members)
    )
    return head + b"".join(
        _pack(_MEMBER, member.replica, member.node, member.flags) for member in membership.members
    )


def decode_membership(payload: Buffer) -> Membership:
    """The membership that these bytes are, all of them. Raises LogCorrupt."""
    reader = _Reader("membership", payload)
    membership = _take_membership(reader)
    reader.end()
    return membership


def _take_membership(reader: _Reader) -> Membership:
    version, auto_leave, count = reader.take(_MEMBERSHIP)
    if version != MEMBERSHIP_VERSION:
        raise reader.corrupt(f"a membership of version {version}")
    if auto_leave > 1:
        raise reader.corrupt(f"auto_leave is {auto_leave}")
    if count > REPLICAS_MAX:
        raise reader.corrupt(f"{count} members, over the limit of {REPLICAS_MAX}")
    taken = (reader.take(_MEMBER) for _ in range(count))
    members = tuple(
        Member(ReplicaId(replica), NodeId(node), flags) for replica, node, flags in taken
    )
    if why := _wrong_members(members):
        raise reader.corrupt(why)
    return Membership(members, bool(auto_leave))


# -- what a replica must never forget ------------------------------------------------------------------------------------


def encode_hard_state(state: HardState) -> bytes:
    """The payload of a HARD_STATE run, whose ``term`` is the replica's."""
    return _pack(_HARD_STATE, state.vote, state.leader, state.epoch, state.commit)


def decode_hard_state(run: Buffer) -> HardState:
    """The hard state that a whole HARD_STATE run holds. Raises LogCorrupt."""
    decoded, reader = _record(run, (RunKind.RUN_HARD_STATE,), "hard state")
    vote, leader, epoch, commit = reader.take(_HARD_STATE)
    reader.end()
    if decoded.first:
        raise reader.corrupt(f"it stands at index {decoded.first}")
    return HardState(decoded.term, ReplicaId(vote), ReplicaId(leader), epoch, commit)


def encode_base(base: Base) -> bytes:
    """The payload of a BASE, SNAPSHOT_MARK or REPLICA_CREATED run; ``index``, ``term`` and ``replica`` stand in its header."""
    state = base.hard_state
    head = _pack(_BASE, state.vote, state.leader, state.epoch, state.term, state.commit)
    return head + encode_membership(base.membership)


def decode_base(run: Buffer) -> Base:
    """The base that a whole BASE, SNAPSHOT_MARK or REPLICA_CREATED run holds. Raises LogCorrupt."""
    decoded, reader = _record(run, _BASE_KINDS, "base")
    base = _take_base(decoded, reader)
    reader.end()
    return base


def _take_base(decoded: Run, reader: _Reader) -> Base:
    vote, leader, epoch, term, commit = reader.take(_BASE)
    return Base(
        index=decoded.first,
        term=decoded.term,
        replica=ReplicaId(decoded.from_replica),
        membership=_take_membership(reader),
        hard_state=HardState(term, ReplicaId(vote), ReplicaId(leader), epoch, commit),
    )


# -- snapshots and peers -------------------------------------------------------------------------------------------------


def _wrong_name(name: str) -> str:
    """Why this cannot be the name of a file in the snapshot directory; empty where it can, or where no file is named."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return f"{name!r} is no text"
    if size > SNAPSHOT_NAME_BYTES_MAX:
        return f"a file name of {size} bytes"
    if name in (".", "..") or "/" in name or "\0" in name:
        return f"{name!r} is no plain file name"
    return ""


def encode_snapshot_record(record: SnapshotRecord) -> bytes:
    """The payload of a SNAPSHOT_PENDING run. Without a name it says that no snapshot is pending any more."""
    if why := _wrong_name(record.name):
        raise InvariantViolation(f"a snapshot record cannot be written: {why}")
    name = record.name.encode()
    return b"".join(
        (
            encode_base(record.base),
            _pack(_NAME, len(name)),
            name,
            _pack(_FILE, record.size, record.crc),
        )
    )


def decode_snapshot_record(run: Buffer) -> SnapshotRecord:
    """The record that a whole SNAPSHOT_PENDING run holds. Raises LogCorrupt."""
    decoded, reader = _record(run, (RunKind.RUN_SNAPSHOT_PENDING,), "snapshot record")
    base = _take_base(decoded, reader)
    (length,) = reader.take(_NAME)
    if length > SNAPSHOT_NAME_BYTES_MAX:
        raise reader.corrupt(f"a file name of {length} bytes")
    try:
        name = reader.take_bytes(length).decode()
    except UnicodeDecodeError as error:
        raise reader.corrupt("a file name that is not utf-8") from error
    size, crc = reader.take(_FILE)
    reader.end()
    if why := _wrong_name(name):
        raise reader.corrupt(why)
    return SnapshotRecord(base, name, size, crc)


def encode_pinned(pinned: Pinned) -> bytes:
    """The payload of a PINNED run, which belongs to group 0 and to no index."""
    return _pack(_PINNED, pinned.node, pinned.boot_count, pinned.store_id, pinned.sequence)


def decode_pinned(run: Buffer) -> Pinned:
    """What a whole PINNED run remembers of a peer. Raises LogCorrupt."""
    decoded, reader = _record(run, (RunKind.RUN_PINNED,), "pinned store")
    node, boot_count, store_id, sequence = reader.take(_PINNED)
    reader.end()
    if decoded.group or not node:
        raise reader.corrupt(f"group {decoded.group}, node {node}")
    return Pinned(NodeId(node), StoreId(store_id), boot_count, sequence)
