"""Group 0: what all nodes of a cluster know alike - its id, its shards and groups, and where their replicas live.

Group 0 is a shard of the built-in store like any other, over the keys of space 0; this module only says what its keys and
values mean. Its first leader writes everything in one batch, on the condition that nobody did before, so an interrupted
bootstrap can be run again and makes no second cluster (pitfalls 22, 102).

Keys (space 0): ``cluster`` -> the cluster's own record; ``shard/`` and the group id in eight big-endian bytes -> one shard;
``group/`` and a name -> the group of a user's machine; ``next-group`` -> the id that the next group gets: none is used twice.
Values are msgpack maps, read strictly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from multiraft._core import MemberFlag
from multiraft.config import SLOTS, Config
from multiraft.errors import ConfigError, FormatUnsupported, LogCorrupt
from multiraft.ids import ClusterId, GroupId, NodeId, ReplicaId
from multiraft.interfaces import Member, Membership

META_SPACE = 0
DEFAULT_SPACE = 1
FEATURE_LEVEL = 1
CLUSTER_KEY = b"cluster"
SHARD_PREFIX = b"shard/"
GROUP_PREFIX = b"group/"
NEXT_GROUP_KEY = b"next-group"
GROUP_NAME_BYTES_MAX = 128
_SPACE = struct.Struct(">H")
_GROUP = struct.Struct(">Q")
_RECORD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """The cluster's own record."""

    cluster_id: ClusterId
    config_digest: int
    hashed: bool
    feature_level: int = FEATURE_LEVEL


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard: the physical keys in [start, end), its group, and its replicas as (replica id, node).

    ``end`` is b"" where the shard reaches to the end of its space. The first replica is where its leader should be.
    """

    group: GroupId
    start: bytes
    end: bytes
    replicas: tuple[tuple[ReplicaId, NodeId], ...]
    range_epoch: int = 1

    @property
    def membership(self) -> Membership:
        """The membership that the group begins with: all of them voters."""
        return _all_voters(self.replicas)

    def replica_on(self, node: NodeId) -> ReplicaId | None:
        return next((replica for replica, host in self.replicas if host == node), None)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """The group of a user's machine: its name, the kind of its machine, and its replicas as those of a shard."""

    group: GroupId
    name: str
    kind: str
    replicas: tuple[tuple[ReplicaId, NodeId], ...]

    @property
    def membership(self) -> Membership:
        """The membership that the group begins with: all of them voters."""
        return _all_voters(self.replicas)

    def replica_on(self, node: NodeId) -> ReplicaId | None:
        return next((replica for replica, host in self.replicas if host == node), None)


Replicas = tuple[tuple[ReplicaId, NodeId], ...]


def _all_voters(replicas: Replicas) -> Membership:
    return Membership(
        tuple(
            Member(replica, node, int(MemberFlag.MEMBER_VOTER))
            for replica, node in sorted(replicas)
        )
    )


def space_prefix(space: int) -> bytes:
    """What stands before every physical key of a space."""
    return _SPACE.pack(space)


def shard_key(group: GroupId) -> bytes:
    return SHARD_PREFIX + _GROUP.pack(group)


def meta_shard(config: Config) -> ShardRecord:
    """Group 0 itself, which static configuration builds alone: replica n lives on the n-th node."""
    replicas = tuple((ReplicaId(at), node) for at, node in enumerate(config.voters, 1))
    return ShardRecord(GroupId(0), space_prefix(META_SPACE), space_prefix(META_SPACE + 1), replicas)


def initial_shards(config: Config) -> Iterator[ShardRecord]:
    """The shards that a new cluster begins with: every node has a replica of each, the leaders go round."""
    prefix, end = space_prefix(DEFAULT_SPACE), space_prefix(DEFAULT_SPACE + 1)
    if config.hashed:
        count = config.shard_count
        starts = [
            prefix + _SPACE.pack(SLOTS * at // count) if at else prefix for at in range(count)
        ]
    else:
        starts = [prefix, *(prefix + border for border in config.borders)]
    for at, start in enumerate(starts):
        yield ShardRecord(
            GroupId(at + 1),
            start,
            starts[at + 1] if at + 1 < len(starts) else end,
            replicas_for(config, at),
        )


def replicas_for(config: Config, at: int) -> Replicas:
    """A replica on every node of the configuration; the first, which should lead, goes round with ``at``."""
    nodes = config.voters
    turned = [*nodes[at % len(nodes) :], *nodes[: at % len(nodes)]]
    return tuple((ReplicaId(nodes.index(node) + 1), node) for node in turned)


def group_key(name: str) -> bytes:
    return GROUP_PREFIX + name.encode()


def initial_records(config: Config, cluster_id: ClusterId) -> list[tuple[bytes, bytes]]:
    """Everything that the first leader of group 0 writes, as (key, value) of space 0."""
    cluster = ClusterRecord(cluster_id, config.digest(), config.hashed)
    return [
        (CLUSTER_KEY, encode_cluster(cluster)),
        *((shard_key(shard.group), encode_shard(shard)) for shard in initial_shards(config)),
        (NEXT_GROUP_KEY, encode_next_group(GroupId(config.shard_count + 1))),
    ]


def encode_cluster(record: ClusterRecord) -> bytes:
    return msgpack.packb(
        {
            "v": 1,
            "cluster_id": record.cluster_id,
            "config_digest": record.config_digest,
            "hashed": record.hashed,
            "feature_level": record.feature_level,
        }
    )


def encode_shard(record: ShardRecord) -> bytes:
    return msgpack.packb(
        {
            "v": 1,
            "group": record.group,
            "start": record.start,
            "end": record.end,
            "replicas": record.replicas,
            "range_epoch": record.range_epoch,
        }
    )


def encode_group(record: GroupRecord) -> bytes:
    return msgpack.packb(
        {
            "v": 1,
            "group": record.group,
            "name": record.name,
            "kind": record.kind,
            "replicas": record.replicas,
        }
    )


def encode_next_group(group: GroupId) -> bytes:
    return msgpack.packb({"v": 1, "group": group})


def _unpack(value: bytes) -> dict[str, Any]:
    if len(value) > _RECORD_BYTES_MAX:
        raise LogCorrupt(f"a record of group 0 with {len(value)} bytes")
    try:
        given = msgpack.unpackb(value, strict_map_key=True, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise LogCorrupt(f"a record of group 0 cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise LogCorrupt("a record of group 0 is no map")
    if given.get("v") != 1:
        raise FormatUnsupported(
            f"a record of group 0 has version {given.get('v')!r}; this version reads 1"
        )
    return given


def decode_cluster(value: bytes) -> ClusterRecord:
    """Raises LogCorrupt or FormatUnsupported."""
    given = _unpack(value)
    try:
        record = ClusterRecord(
            ClusterId(given["cluster_id"]),
            given["config_digest"],
            bool(given["hashed"]),
            given["feature_level"],
        )
    except KeyError as error:
        raise LogCorrupt(f"the cluster's record lacks {error}") from error
    if record.feature_level > FEATURE_LEVEL:
        raise FormatUnsupported(
            f"the cluster uses feature level {record.feature_level}; this version has {FEATURE_LEVEL}"
        )
    return record


def decode_shard(value: bytes) -> ShardRecord:
    """Raises LogCorrupt or FormatUnsupported."""
    given = _unpack(value)
    try:
        return ShardRecord(
            GroupId(given["group"]),
            given["start"],
            given["end"],
            tuple((ReplicaId(replica), NodeId(node)) for replica, node in given["replicas"]),
            given["range_epoch"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LogCorrupt(f"the record of a shard lacks or has the wrong {error}") from error


def decode_group(value: bytes) -> GroupRecord:
    """Raises LogCorrupt or FormatUnsupported."""
    given = _unpack(value)
    try:
        return GroupRecord(
            GroupId(given["group"]),
            str(given["name"]),
            str(given["kind"]),
            tuple((ReplicaId(replica), NodeId(node)) for replica, node in given["replicas"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LogCorrupt(f"the record of a group lacks or has the wrong {error}") from error


def decode_next_group(value: bytes) -> GroupId:
    """Raises LogCorrupt or FormatUnsupported."""
    group = _unpack(value).get("group")
    if type(group) is not int or group < 1:
        raise LogCorrupt("the counter of groups is no number")
    return GroupId(group)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """All of group 0 at a moment."""

    cluster: ClusterRecord
    shards: tuple[ShardRecord, ...]
    groups: tuple[GroupRecord, ...] = ()
    next_group: GroupId = GroupId(0)

    @classmethod
    def read(cls, records: Iterable[tuple[bytes, bytes]]) -> ShardMap | None:
        """From the (key, value) pairs of space 0, without its prefix; None while the cluster is not made yet."""
        cluster, next_group = None, GroupId(0)
        shards, groups = [], []
        for key, value in records:
            if key == CLUSTER_KEY:
                cluster = decode_cluster(value)
            elif key.startswith(SHARD_PREFIX):
                shards.append(decode_shard(value))
            elif key.startswith(GROUP_PREFIX):
                groups.append(decode_group(value))
            elif key == NEXT_GROUP_KEY:
                next_group = decode_next_group(value)
        if cluster is None:
            return None
        return cls(
            cluster,
            tuple(sorted(shards, key=lambda shard: shard.start)),
            tuple(sorted(groups, key=lambda group: group.group)),
            next_group,
        )

    def group_named(self, name: str) -> GroupRecord | None:
        return next((group for group in self.groups if group.name == name), None)

    def check(self, config: Config) -> None:
        """Raise ConfigError where this node was configured otherwise than the cluster was made."""
        if self.cluster.config_digest != config.digest():
            raise ConfigError(
                "this configuration (nodes, shards or borders) is not the one that the cluster was made with; "
                "start it with the same, or remove the data directory to make another cluster"
            )
