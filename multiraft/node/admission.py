"""Admission: whether a command may be proposed here now, for reasons that are the node's and not the group's.

Three things close the door, each with an answer of its own. A disk below its reserve (``NoSpace``): what is left is for
votes, deletes and compaction. A shard whose memtables are full until a flush is done (``Overloaded``). A replica that applies
nothing more (``Quarantined``). Where another node can lead instead, leadership is handed over and the call waits for that;
where none can, the caller hears it at once, since waiting would mend nothing and end in an outcome that is not known.

Asked once a turn and once a tick whether any of it is so; only while it is, each proposal is judged. It refuses nothing that a
replica does by itself: votes, appends of other leaders, reads, transfers, membership changes, group 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from multiraft._core import MessageKind
from multiraft.errors import (
    LeadershipLost,
    MultiRaftError,
    NoLeader,
    NoSpace,
    Overloaded,
    Quarantined,
    Retryable,
)
from multiraft.ids import META_GROUP, NodeId
from multiraft.interfaces import LogStore
from multiraft.machine.commands import only_deletes
from multiraft.machine.kv import KeyValueStore
from multiraft.node.peers import Peers
from multiraft.node.reads import Reads
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft, Role

logger = logging.getLogger("multiraft.node")

LOOK_EVERY_TICKS = 20
"""How often the state's disk is looked at anew, and the others are told that this node has no room."""

HAND_OVERS_MAX = 64
"""Leaderships that are handed over at once."""


@dataclass(slots=True)
class Stopped:
    """A group whose replica here applies nothing more."""

    error: MultiRaftError
    alone_ticks: int = 0
    """For how long nobody else has led it."""
    attempts: int = 0
    """How often its leadership was offered to another."""


@dataclass(slots=True)
class Refusals:
    """How many proposals were refused, by reason."""

    space: int = 0
    full: int = 0
    stopped: int = 0


@dataclass(slots=True)
class Admission:
    """The door of one node. ``kick`` asks for a turn."""

    node: NodeId
    multi: MultiRaft
    log: LogStore
    machine: KeyValueStore
    peers: Peers
    waiters: Waiters
    reads: Reads
    kick: Callable[[], None]
    others: Iterable[NodeId]
    boot_count: int
    election_ticks: int
    scarce: bool = False
    """Below the reserve of a disk, and not yet well above it again."""
    leaving: bool = False
    """The node closes: the others hand it no leadership any more."""
    stopped: dict[int, Stopped] = field(default_factory=dict)
    refused: Refusals = field(default_factory=Refusals)
    _handing: dict[int, int] = field(default_factory=dict)
    _alarmed: set[int] = field(default_factory=set)
    """Shards that are quarantined for what the store says of them."""
    _ticks: int = 0

    # -- looking --------------------------------------------------------------------------------------------------------------

    def turned(self) -> None:
        """A turn has applied what it could."""
        alarms = self.machine.alarms()
        if alarms.keys() != self._alarmed:
            self._look_at(alarms)
        shut = self.scarce or bool(self.stopped) or self.machine.table.pressed
        self.waiters.gate = self.judge if shut else None

    def _look_at(self, alarms: Mapping[int, MultiRaftError]) -> None:
        """A shard stopped before a command that it cannot read, or goes on behind a snapshot that holds what it did."""
        for group in sorted(alarms.keys() - self._alarmed):
            self.quarantine(group, alarms[group])
        for group in sorted(self._alarmed - alarms.keys()):
            self.release(group)
        self._alarmed = set(alarms)

    def tick(self) -> None:
        """Look at the room on the disks, and let time pass for what waits for another leader."""
        self._ticks += 1
        self._look()
        for group in [group for group, left in self._handing.items() if left <= 1]:
            del self._handing[group]
        for group in self._handing:
            self._handing[group] -= 1
        for group, one in self.stopped.items():
            led = self.multi.leader_node(group) if group in self.multi else None
            one.alone_ticks = one.alone_ticks + 1 if led in (None, self.node) else 0
            if led == self.node:
                self._pass_on(group, one)
        if self._ticks % LOOK_EVERY_TICKS == 0:
            self.machine.look_at_space()
            if self.scarce:
                self._tell_others()
                self._hand_all_over()

    def _look(self) -> None:
        for space in (self.log.space(), self.machine.space()):
            # Well above the reserve before it opens again, so that leaderships do not swing with every batch.
            needed = space.reserve_bytes + (space.reserve_bytes // 8 if self.scarce else 0)
            if space.free_bytes < needed:
                if not self.scarce:
                    self._shut(space.free_bytes, space.reserve_bytes)
                return
        if self.scarce:
            self.scarce = False
            logger.warning(
                "node %d has room on its disk again", self.node, extra={"node": self.node}
            )
            self._tell_others()

    def _shut(self, free_bytes: int, reserve_bytes: int) -> None:
        self.scarce = True
        self.waiters.gate = self.judge
        logger.error(
            "node %d takes no more writes: %d bytes are free on its disk, and its reserve is %d",
            self.node,
            free_bytes,
            reserve_bytes,
            extra={"node": self.node},
        )
        self._tell_others()
        self._hand_all_over()

    def greet(self, node: NodeId) -> None:
        """A link stands: its node must know where not to hand leaderships."""
        if self.scarce or self.leaving:
            self._tell(node)

    def leave(self) -> None:
        """Tell the others that this node is no place for leaderships, whatever its disk says."""
        self.leaving = True
        self._tell_others()

    def _tell_others(self) -> None:
        for node in self.others:
            if self.peers.linked(node):
                self._tell(node)
        self.kick()

    def _tell(self, node: NodeId) -> None:
        self.multi.post(
            node,
            MessageKind.MSG_NODE_STATUS,
            context=self.boot_count,
            index=self.multi.persisted_sequence,
            body=b"\x01" if self.scarce or self.leaving else b"\x00",
        )

    # -- leaders go elsewhere -------------------------------------------------------------------------------------------------

    def roomy(self, node: int) -> bool:
        """Is there a link to the node, and has it room on its disk as far as it told?"""
        return self.peers.linked(node) and not self.peers.scarce(node)

    def _hand_all_over(self) -> None:
        """Give leaderships to nodes with room, some at a time."""
        begun = 0
        for group in self.multi.groups():
            if begun < HAND_OVERS_MAX and self.multi.leads(group) and group not in self._handing:
                begun += self._hand_over(group, self.roomy)

    def _hand_over(self, group: int, takes: Callable[[int], bool]) -> bool:
        """Is the leadership of a group on its way to another node? One try takes an election timeout, then there is a pause."""
        left = self._handing.get(group)
        if left is not None:
            return left > 3 * self.election_ticks
        if not self.multi.hand_over(group, takes):
            return False
        self._handing[group] = 4 * self.election_ticks
        self.kick()
        return True

    def _pass_on(self, group: int, one: Stopped) -> bool:
        """Is the leadership of a replica that applies nothing on its way? To each of the others in turn, the most advanced first:
        one whose replica has stopped, too, does not take it."""
        status = self.multi.replica(group).status()
        if status.role != Role.LEADER or status.transfer_to:
            return status.role == Role.LEADER
        others = [
            peer
            for peer in status.peers.values()
            if peer.replica != status.replica and not peer.learner and self.peers.linked(peer.node)
        ]
        if not others:
            return False
        others.sort(key=lambda peer: (-peer.match_index, peer.replica))
        self.multi.transfer_leader(group, others[one.attempts % len(others)].replica)
        one.attempts += 1
        self.kick()
        return True

    # -- a replica that stops -------------------------------------------------------------------------------------------------

    def quarantine(self, group: int, error: MultiRaftError) -> None:
        """The replica here applies nothing more: say so, once and loudly, and let another one lead."""
        if group in self.stopped:
            self.stopped[group].error = error  # it failed once more, perhaps for another reason
            self.reads.stop(group, _quarantined(group, error))
            return
        self.stopped[group] = Stopped(error)
        self.waiters.gate = self.judge
        logger.critical(
            "node %d: group %d is quarantined here and applies nothing more: %s",
            self.node,
            group,
            error,
            extra={"node": self.node, "group": group},
        )
        if group in self.multi:
            self.multi.quarantine(group)
            self._pass_on(group, self.stopped[group])
        unknown = LeadershipLost(f"group {group} is quarantined here; this may have happened")
        unknown.__cause__ = error
        self.waiters.abandon(group, unknown)
        self.reads.stop(group, _quarantined(group, error))
        self.kick()

    def release(self, group: int) -> None:
        """The replica here applies again, from where it stopped."""
        if self.stopped.pop(group, None) is not None:
            logger.warning(
                "node %d: group %d applies again",
                self.node,
                group,
                extra={"node": self.node, "group": group},
            )
            if group in self.multi:
                self.multi.quarantine(group, False)
            self.reads.resume(group)
            self.kick()

    # -- proposals ------------------------------------------------------------------------------------------------------------

    def judge(self, group: int, payload: bytes | list[bytes]) -> Retryable | None:
        """Why a command is not proposed here now; None where it may be, or where another node leads."""
        leader = self.multi.leader_node(group) if group in self.multi else None
        stopped = self.stopped.get(group)
        if stopped is not None:
            return self._judge_stopped(group, leader, stopped)
        if leader != self.node or group == META_GROUP:
            return None
        here = group in self.machine.table.shards
        if self.scarce and not (here and _only_deletes(payload)):
            if self._hand_over(group, self.roomy):
                return NoLeader("leadership goes to a node that has room on its disk")
            self.refused.space += 1
            return NoSpace(
                f"the disk of node {self.node} is below its reserve; nothing was written. Reads and deletes go on"
            )
        if here and self.machine.full(group):
            self.refused.full += 1
            return Overloaded(f"group {group}: its memtables are full until a flush is done")
        return None

    def _judge_stopped(self, group: int, leader: int | None, stopped: Stopped) -> Retryable | None:
        alone = stopped.alone_ticks >= 4 * self.election_ticks
        if leader == self.node and not alone and self._pass_on(group, stopped):
            return NoLeader("leadership goes to a node whose replica still applies")
        if leader is not None and leader != self.node:
            return None
        others = any(self.peers.linked(node) for node in self.others)
        if others and not alone:
            return None  # somebody else may win an election yet
        self.refused.stopped += 1
        return _quarantined(group, stopped.error)


def _only_deletes(payload: bytes | list[bytes]) -> bool:
    if isinstance(payload, bytes):
        return only_deletes(payload)
    return all(only_deletes(one) for one in payload)


def _quarantined(group: int, error: MultiRaftError) -> Quarantined:
    found = Quarantined(f"group {group} is quarantined on this node: {error}")
    found.__cause__ = error
    return found
