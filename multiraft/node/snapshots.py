"""Snapshots for replicas that are too far behind: made, sent, received, installed - one group at a time, each resumable.

Whose state it is - a shard of the built-in store, or a machine of a user - only its host knows (``interfaces.SnapshotHost``).

Out: the host writes a file, the group's leader announces it (index, term, membership, transfer id), the file travels on a
connection of its own. In: announcement and file meet here, in either order. Then, each step durable before the next
(architecture, "Two environments, one truth"): the file is moved and synced under its own name; SNAPSHOT_PENDING is synced; the
host replaces its state, all or nothing; the replica's log begins behind it (SNAPSHOT_MARK); when that is synced the
leader is answered, and the file goes. What a crash leaves in between is finished or dropped at the next start.

Nothing here holds up a heartbeat: files are a worker's work.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiraft.disk import RealDisk
from multiraft.errors import FormatUnsupported, LogCorrupt, MultiRaftError, StorageError
from multiraft.ids import GroupId, NodeId, ReplicaId
from multiraft.interfaces import (
    Base,
    Disk,
    FileMeta,
    GroupLog,
    HardState,
    Jobs,
    SnapshotHost,
    SnapshotRecord,
    Transport,
)
from multiraft.machine.snapshot import Outcome, SnapshotInfo, outcome_at_open
from multiraft.node.retries import Retries
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft, Snapshot
from multiraft.records import decode_membership, encode_snapshot_record

logger = logging.getLogger("multiraft.node")

_NOTE = struct.Struct("<I")
OUTGOING_MAX = 4
ARRIVAL_TICKS = 600
"""A file that nobody announced is kept for so long: the announcement left before it."""


@dataclass(slots=True)
class Offer:
    """A snapshot that a leader announced."""

    group: int
    index: int
    term: int
    membership: bytes
    node: NodeId
    commit_index: int
    """What was committed here when it was announced."""


@dataclass(slots=True)
class Arrival:
    """A file that came."""

    path: str
    meta: FileMeta
    ticks: int = 0


class Snapshots:
    """Snapshots of one node, out and in.

    ``host_of`` says whose state a group has; ``spawn`` starts a task that the node owns; ``transfers`` are ``ids.message_ids``.
    """

    def __init__(
        self,
        *,
        directory: Path,
        multi: MultiRaft,
        host_of: Callable[[int], SnapshotHost],
        waiters: Waiters,
        transport: Transport,
        jobs: Jobs,
        transfers: Iterator[int],
        after_sync: Callable[[Callable[[], None]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        kick: Callable[[], None],
        failed: Callable[[BaseException], None],
        disk: Disk | None = None,
    ) -> None:
        self._disk: Disk = disk if disk is not None else RealDisk()
        self._directory = directory
        self._multi = multi
        self._host_of = host_of
        self._waiters = waiters
        self._transport = transport
        self._jobs = jobs
        self._after_sync = after_sync
        self._spawn = spawn
        self._kick = kick
        self._failed = failed
        self._transfers = transfers
        self._outgoing: set[tuple[int, int]] = set()
        self._offers: dict[tuple[int, int], Offer] = {}
        self._arrivals: dict[tuple[int, int], Arrival] = {}
        self._installing: set[int] = set()
        self._retries = Retries(multi)
        self._awaited: set[int] = set()
        """Groups that apply nothing and do not campaign, since a snapshot of theirs was announced."""
        self.sent = 0
        self.installed = 0

    def tick(self) -> None:
        """Let whoever waits for what may never come go on, and ask again for what failed."""
        for key in self._retries.tick():
            self._report(*key, False)
        for group in [group for group in self._awaited if not self._comes(group)]:
            self._awaited.discard(group)
            if group in self._multi:
                self._multi.snapshot_failed(group)
        for key, arrival in list(self._arrivals.items()):
            arrival.ticks += 1
            if arrival.ticks > ARRIVAL_TICKS:
                del self._arrivals[key]
                self._remove(Path(arrival.path))

    def _comes(self, group: int) -> bool:
        """Is an announced snapshot still to be waited for? Its leader may be gone; or the entries come instead (pitfall 58)."""
        if group in self._installing:
            return True
        offer = next((one for one in self._offers.values() if one.group == group), None)
        if offer is None or group not in self._multi or not self._transport.connected(offer.node):
            return False
        leader, commit_index = self._multi.leader_node(group), self._multi.indexes(group)[2]
        return leader in (None, offer.node) and commit_index == offer.commit_index

    # -- out ------------------------------------------------------------------------------------------------------------------

    def wanted(self, group: int, peer: int, node: int) -> None:
        """A member is too far behind for the log: make it a snapshot, unless enough are on their way."""
        key = (group, peer)
        if (
            key in self._outgoing
            or len(self._outgoing) >= OUTGOING_MAX
            or not self._transport.connected(NodeId(node))
        ):
            self._retries.later(key)
            return
        if self._retries.must_wait(key, node):
            return
        self._outgoing.add(key)
        transfer = next(self._transfers)
        path = self._directory / f"out-{group}-{transfer}.snapshot"

        def written(info: SnapshotInfo | None, error: BaseException | None) -> None:
            if info is None:
                self._outgoing.discard(key)
                self._retries.failed(key, node, error)
            else:
                self._spawn(self._send(key, NodeId(node), transfer, path, info))

        self._host_of(group).snapshot(group, path, written)

    async def _send(
        self, key: tuple[int, int], node: NodeId, transfer: int, path: Path, info: SnapshotInfo
    ) -> None:
        group, peer = key
        trouble: BaseException | None = None
        sent = False
        try:
            if group in self._multi:
                membership = decode_membership(info.membership)
                offer = Snapshot(info.index, info.term, membership, context=transfer)
                if not self._multi.replica(group).send_snapshot(peer, offer):
                    return  # it came too late; if another is needed it will be asked for
                self._kick()
                await self._transport.send_file(node, transfer, str(path), _NOTE.pack(info.crc))
                sent = True
                self.sent += 1
        except (MultiRaftError, OSError) as error:
            trouble = error
        finally:
            self._outgoing.discard(key)
            self._remove(path)
            if sent:
                self._retries.sent(key, node, info.index)
                self._report(group, peer, True)
            elif trouble is not None:
                self._retries.failed(key, node, f"it did not reach it: {trouble}")
            else:
                self._retries.later(key)

    @property
    def failed_count(self) -> int:
        """Snapshots for others that could not be made or sent, or were not taken."""
        return self._retries.failures

    def link_up(self, node: NodeId) -> None:
        """Whoever could take no snapshot before may be able to now."""
        self._retries.link_up(node)

    def _report(self, group: int, peer: int, ok: bool) -> None:
        if group in self._multi:
            self._multi.replica(group).report_snapshot(peer, ok)

    # -- in -------------------------------------------------------------------------------------------------------------------

    def offered(
        self, group: int, index: int, term: int, context: int, sender: int, membership: bytes
    ) -> None:
        """A leader announces a snapshot; its file is on its way, or here already."""
        self._awaited.add(group)
        try:
            members = decode_membership(membership).members
        except LogCorrupt as error:
            # It came from another node: nothing of ours is corrupt, and nobody here may end for it (pitfall 82).
            logger.warning("an announced snapshot of group %d: %s", group, error)
            return
        node = next((m.node for m in members if m.replica == sender), None)
        if node is None or group in self._installing or group not in self._multi:
            return
        if not 0 < term <= self._multi.replica(group).status().term:
            logger.warning(
                "a snapshot of group %d was announced under a term to come: %d", group, term
            )
            return
        stale = [key for key, offer in self._offers.items() if offer.group == group]
        for old in stale:
            del self._offers[old]
        commit_index = self._multi.indexes(group)[2]
        self._offers[int(node), context] = Offer(group, index, term, membership, node, commit_index)
        self._meet((int(node), context))

    def arrived(self, node: int, transfer: int, path: str, meta: FileMeta) -> None:
        """A file is here, whole and synced."""
        self._arrivals[node, transfer] = Arrival(path, meta)
        self._meet((node, transfer))

    def _meet(self, key: tuple[int, int]) -> None:
        offer, arrival = self._offers.get(key), self._arrivals.get(key)
        if offer is None or arrival is None:
            return
        del self._offers[key], self._arrivals[key]
        if (
            offer.group not in self._multi
            or offer.group in self._installing
            or len(arrival.meta.note) != _NOTE.size
            or self._multi.leads(offer.group)
        ):
            self._remove(Path(arrival.path))
            return
        self._installing.add(offer.group)
        path = self._directory / f"in-{offer.group}-{offer.index}.snapshot"
        base = Base(
            offer.index,
            offer.term,
            ReplicaId(self._multi.replica(offer.group).status().replica),
            decode_membership(offer.membership),
            self._hard_state(offer.group),
        )
        record = SnapshotRecord(
            base, path.name, arrival.meta.size, _NOTE.unpack(arrival.meta.note)[0]
        )

        def moved(_: object, error: BaseException | None) -> None:
            if error is not None:
                self._ended(offer.group, path, error)
                return
            self._multi.record_pending_snapshot(
                offer.group, offer.index, offer.term, encode_snapshot_record(record)
            )
            self._after_sync(lambda: self._install(offer.group, path, record))

        self._jobs.submit(lambda: _move(self._disk, Path(arrival.path), path), moved)

    def _hard_state(self, group: int) -> HardState:
        status = self._multi.replica(group).status()
        return HardState(status.term, status.vote, commit=status.commit_index)  # type: ignore[arg-type]

    def _install(self, group: int, path: Path, record: SnapshotRecord) -> None:
        self._installing.add(group)

        def done(installed: bool | None, error: BaseException | None) -> None:
            if error is not None or group not in self._multi:
                self._ended(group, path, error)
                return
            base = record.base
            self._multi.installed(group, base.index, base.term, base.membership)
            self._waiters.jumped(group, base.index)
            self.installed += bool(installed)
            self._after_sync(lambda: self._ended(group, path, None))

        self._host_of(group).install(group, path, record, done)

    def _ended(self, group: int, path: Path, error: BaseException | None) -> None:
        self._installing.discard(group)
        self._remove(path)
        if error is None:
            return
        # A file that this version cannot read is whoever sent it's: the disk here is sound, and the old state is whole.
        if isinstance(error, StorageError) and not isinstance(error, FormatUnsupported):
            self._failed(error)
            return
        logger.warning(
            "the snapshot of group %d is not installed: %s", group, error, extra={"group": group}
        )
        if group in self._multi:
            self._multi.snapshot_failed(group)

    # -- at the start ---------------------------------------------------------------------------------------------------------

    def resume(self, group_log: GroupLog, applied_index: int) -> None:
        """A snapshot was pending when the process ended: finish it, mark it, or forget it."""
        record = group_log.pending
        if record is None:
            return
        group, path = int(group_log.group), self._directory / record.name
        outcome = outcome_at_open(self._disk, applied_index, group, record, path)
        if outcome is Outcome.FINISH:
            self._install(group, path, record)
        elif outcome is Outcome.MARK:
            self._multi.installed(
                group, record.base.index, record.base.term, record.base.membership
            )
            self._after_sync(lambda: self._ended(group, path, None))
        else:
            dropped = SnapshotRecord(record.base, "", 0, 0)
            self._multi.record_pending_snapshot(
                group, record.base.index, record.base.term, encode_snapshot_record(dropped)
            )
            self._ended(group, path, None)

    def _remove(self, path: Path) -> None:
        self._jobs.submit(lambda: self._disk.remove(path), self._done)

    def _done(self, _: object, error: BaseException | None) -> None:
        if error is not None:
            logger.warning("a snapshot file could not be removed: %s", error)


def sweep(directory: Path, kept: Collection[str], disk: Disk | None = None) -> None:
    """Remove what an earlier process left in a directory, but for the names that are ``kept``."""
    disk = disk if disk is not None else RealDisk()
    for name in disk.names(directory):
        if name not in kept:
            disk.remove(directory / name)


def _move(disk: Disk, source: Path, target: Path) -> None:
    """Under its own name, synced, so that a start after a power cut finds it."""
    disk.rename(source, target)
    disk.sync_directory(target.parent)
    disk.sync_directory(source.parent)


def check_base(group: GroupId, base_index: int, applied_index: int) -> None:
    """Raise LogCorrupt where the log begins after what the state holds: a gap that nothing here can fill."""
    if applied_index < base_index:
        raise LogCorrupt(
            f"the log of group {group} begins after entry {base_index}, but the state holds only {applied_index}",
            damage={group: (applied_index + 1, base_index)},
        )
