"""Which replicas live here: built from group 0 alone, when a cluster is made and at every start.

Static configuration builds group 0 and nothing else. Its first leader writes the cluster's record and the shard map in one
conditional batch; every other replica is created here from what was applied. So all nodes make the same groups, in whatever
order they start, and an interrupted bootstrap goes on where it stopped (pitfalls 22, 102).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from multiraft.config import Config
from multiraft.errors import LogCorrupt, WrongStore
from multiraft.ids import META_GROUP, ClusterId, GroupId
from multiraft.interfaces import GroupLog, LogStore, Membership
from multiraft.machine import commands
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.descriptors import ShardDescriptor
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.shards import Cold
from multiraft.machine.states import At
from multiraft.machine.user import UserMachines
from multiraft.machine.user_files import at_of
from multiraft.node.meta import (
    CLUSTER_KEY,
    META_SPACE,
    GroupRecord,
    ShardMap,
    ShardRecord,
    initial_records,
    meta_shard,
    space_prefix,
)
from multiraft.node.routing import Routing
from multiraft.node.snapshots import check_base
from multiraft.raft import MultiRaft
from multiraft.records import decode_membership, encode_membership

logger = logging.getLogger("multiraft.node")

PAGE_KEYS = 1024
PAGE_BYTES = 4 * 1024 * 1024
PAUSE_SPREADS_MAX = 256


class Placing:
    """The replicas of this node. ``learned`` is called once the map is known, or has changed."""

    def __init__(
        self,
        config: Config,
        multi: MultiRaft,
        log: LogStore,
        machine: KeyValueStore,
        routing: Routing,
        learned: Callable[[ShardMap], None],
        after_sync: Callable[[Callable[[], None]], None],
        restored: Callable[[GroupLog, int], None],
        machines: UserMachines,
        identity: Callable[[], int],
    ) -> None:
        self._config = config
        self._multi = multi
        self._machine = machine
        self._routing = routing
        self._learned = learned
        self._after_sync = after_sync
        self._restored = restored
        self._machines = machines
        self._identity = identity
        self._found: dict[GroupId, GroupLog] = {}
        self._flushed = {shard.group: shard for shard in machine.shards()}
        self._bootstrapping = False
        self._unread = False
        self._spreads = 0
        self._asked: dict[GroupId, tuple[int, int]] = {}
        self.map: ShardMap | None = None
        for group_log in log.groups():
            if not group_log.tombstone:
                self._found[group_log.group] = group_log

    @property
    def bootstrapped(self) -> bool:
        """Does this directory hold group 0?"""
        return META_GROUP in self._multi

    def restore(self) -> None:
        """Bring group 0 back, and all others as far as the map is on the disk already."""
        if META_GROUP in self._found:
            self._restore(meta_shard(self._config))
            self.refresh()
        elif self._found:
            raise LogCorrupt(f"the log knows {len(self._found)} groups, but not group 0")

    def begin(self) -> None:
        """Make group 0 here: the directory is empty, and every node of the configuration has agreed."""
        if not self.bootstrapped:
            self._create(meta_shard(self._config))

    # -- group 0 --------------------------------------------------------------------------------------------------------------

    def write_map(self, propose: Callable[[GroupId, bytes], object]) -> None:
        """As the leader of group 0: write the map, unless somebody did."""
        if self.map is not None or self._bootstrapping or not self._multi.leads(META_GROUP):
            return
        self._bootstrapping = True
        prefix = space_prefix(META_SPACE)
        records = initial_records(self._config, ClusterId(self._identity()))
        operations = [(OperationKind.OPERATION_PUT, prefix + key, value) for key, value in records]
        conditions = [(ConditionKind.CONDITION_ABSENT, prefix + CLUSTER_KEY)]
        propose(META_GROUP, commands.encode_batch(META_SPACE, 1, operations, conditions))

    def refresh(self) -> None:
        """Group 0 has applied something: read the map, and make the replicas that are missing here."""
        records = self._meta_records()
        self._unread = records is None
        if records is None:
            return
        shard_map = ShardMap.read(records)
        self._bootstrapping = False
        if shard_map is None or shard_map == self.map:
            return
        shard_map.check(self._config)
        self.map = shard_map
        self._routing.set(shard_map)
        for shard in shard_map.shards:
            if (
                shard.replica_on(self._config.node_id) is not None
                and shard.group not in self._multi
            ):
                if shard.group in self._found:
                    self._restore(shard)
                else:
                    self._create(shard)
        for record in shard_map.groups:
            self._host(record)
        self._learned(shard_map)

    def retry(self) -> None:
        """Read the map now where it could not be read when group 0 applied something; every tick."""
        if self._unread:
            self.refresh()

    def _meta_records(self) -> list[tuple[bytes, bytes]] | None:
        """All records of group 0; None where they cannot be read just now (a snapshot is being installed)."""
        start, end = space_prefix(META_SPACE), space_prefix(META_SPACE + 1)
        records: list[tuple[bytes, bytes]] = []
        resume: bytes | None = start
        while resume is not None:
            page = self._machine.scan_page(
                META_GROUP, resume, end, PAGE_KEYS, PAGE_BYTES, on_loop=True
            )
            if isinstance(page, Cold):
                return None
            resume = page.resume
            records += [(key[2:], value) for key, _revision, value in page.entries]
        return records

    # -- replicas ---------------------------------------------------------------------------------------------------------------

    def _create(self, shard: ShardRecord) -> None:
        """A replica that begins. Its record is in the log before the state environment hears of it (the flush waits for it)."""
        replica = shard.replica_on(self._config.node_id)
        if replica is None:
            return  # group 0 as the configuration has it, and this node has no part in it
        self._multi.create(shard.group, replica=replica, membership=shard.membership)
        if self._flushed.pop(shard.group, None) is None:
            self._after_sync(lambda: self._begin_state(shard))
        if shard.replicas[0][1] == self._config.node_id:
            self._multi.replica(shard.group).campaign()

    def _restore(self, shard: ShardRecord) -> None:
        group_log = self._found.pop(shard.group)
        if group_log.base.replica != shard.replica_on(self._config.node_id):
            raise WrongStore(
                f"the data directory belongs to replica {group_log.base.replica} of group {shard.group}, "
                f"which is not that of node {self._config.node_id}"
            )
        flushed = self._flushed.pop(shard.group, None)
        if flushed is not None:
            membership = decode_membership(flushed.membership)
            applied_index = flushed.applied_index
            if group_log.pending is None:
                check_base(shard.group, group_log.base.index, applied_index)
        elif group_log.base.index == 0:
            membership, applied_index = group_log.base.membership, 0
            self._begin_state(shard)
        else:
            raise LogCorrupt(
                f"the log of group {shard.group} begins after entry {group_log.base.index}, but the state below is gone",
                damage={shard.group: (1, group_log.base.index)},
            )
        start = raft_start(group_log, membership, applied_index)
        self._multi.restore(group_log, membership=start[0], applied_index=start[1])
        self._restored(group_log, applied_index)
        if len(membership.members) == 1:
            self._multi.replica(shard.group).campaign()

    def _host(self, record: GroupRecord) -> None:
        """Bring the replica of a user's group here, and its machine, unless it is here or has no part here."""
        group, replica = record.group, record.replica_on(self._config.node_id)
        if replica is None or group in self._multi:
            return
        group_log = self._found.pop(group, None)
        if group_log is None:
            self._multi.create(group, replica=replica, membership=record.membership, sink=1)
            at = At(membership=encode_membership(record.membership))
            self._machines.begin(group, record.name, record.kind, at)
            if record.replicas[0][1] == self._config.node_id:
                self._multi.replica(group).campaign()
            return
        self._host_again(record, group_log)
        if len(record.replicas) == 1:
            self._multi.replica(group).campaign()

    def _host_again(self, record: GroupRecord, group_log: GroupLog) -> None:
        """A user's group as it was: its log, and the state of its machine that is durable here."""
        group, base = record.group, group_log.base
        state = self._machines.found(group)
        at = At(membership=encode_membership(base.membership))
        if state is not None:
            at = at_of(state.info)
        gap = at.index < base.index and group_log.pending is None
        membership, applied_index = raft_start(
            group_log, decode_membership(at.membership), at.index
        )
        self._multi.restore(group_log, membership=membership, applied_index=applied_index, sink=1)
        self._machines.begin(group, record.name, record.kind, at)
        if gap:
            cause = LogCorrupt(
                f"the log of {record.name!r} begins after entry {base.index}, but its state here ends at {at.index}",
                damage={group: (at.index + 1, base.index)},
            )
            self._machines.fail(self._machines[group], cause)
        self._restored(group_log, at.index)

    def _begin_state(self, shard: ShardRecord) -> None:
        self._machine.create(shard.group, descriptor_of(shard), encode_membership(shard.membership))

    def spread(self, linked: Callable[[int], bool], moves_max: int) -> int:
        """Hand leaderships to the nodes where the map wants them, a few at a time; how many were begun.

        A replica that does not take one - its machine failed - is asked again after ever longer pauses: while it is asked, the
        group takes no proposals.
        """
        if self.map is None:
            return 0
        begun = 0
        self._spreads += 1
        records: tuple[ShardRecord | GroupRecord, ...] = (*self.map.shards, *self.map.groups)
        for record in records:
            group, (replica, node) = record.group, record.replicas[0]
            if begun == moves_max:
                break
            if node == self._config.node_id or not self._multi.leads(group):
                self._asked.pop(group, None)
                continue
            again, pause = self._asked.get(group, (0, 1))
            if self._spreads >= again and linked(node) and self._multi.caught_up(group, replica):
                self._multi.transfer_leader(group, replica)
                self._asked[group] = self._spreads + pause, min(2 * pause, PAUSE_SPREADS_MAX)
                begun += 1
        return begun


def raft_start(
    group_log: GroupLog, membership: Membership, applied_index: int
) -> tuple[Membership, int]:
    """The membership and applied index that a replica is restored with.

    They are those of the state; but where the process ended after a snapshot was installed and before the log was marked
    with it, the log still ends before the state. Then the replica begins where its log does, and the mark is written next.
    Else a log that ends before the state has lost its end: LogCorrupt.
    """
    if group_log.pending is not None and applied_index > group_log.last_index:
        return group_log.base.membership, group_log.base.index
    if applied_index > group_log.last_index:
        raise LogCorrupt(
            f"the state of group {group_log.group} holds entry {applied_index}, but its log ends at {group_log.last_index}: "
            "the log is damaged, or an older copy",
            damage={group_log.group: (group_log.last_index + 1, applied_index)},
        )
    return membership, applied_index


def descriptor_of(shard: ShardRecord) -> ShardDescriptor:
    """What the state store is told of a shard when it begins."""
    return ShardDescriptor(
        start=shard.start,
        end=shard.end,
        range_epoch=shard.range_epoch,
        replica_next=max(replica for replica, _ in shard.replicas) + 1,
        space=int.from_bytes(shard.start[:2], "big"),
    )
