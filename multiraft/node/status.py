"""A node at a moment, as plain values: what ``node.status()`` answers, and what programs and people read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multiraft.histogram import Distribution
from multiraft.node.hosting import GroupStatus

if TYPE_CHECKING:
    from multiraft.node.node import Node


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Counters and distributions since the start of this node, and sizes now. Times are in nanoseconds, sizes in bytes.

    Nothing is reset by reading: a maximum is that since the start. To learn of an interval take two states and subtract;
    distributions know how (``later.sync_ns.since(earlier.sync_ns)``). ``str`` gives a table for eyes.
    """

    node: int
    cluster_id: int
    store_id: int
    boot_count: int
    shards: int
    groups: int
    led: int
    leaderless: int
    elections: int
    """Terms that a replica of this node has won."""
    quarantined: dict[int, str]
    """Groups whose replica here applies nothing more, and why."""
    links: dict[int, bool]
    synced_sequence: int

    turns: int
    turn_ns: Distribution
    loop_gap_ns: Distribution
    """How late each tick came: what else held the loop."""
    batches: int
    batch_bytes: int
    batch_sizes: Distribution
    sync_ns: Distribution
    """Each transaction of the log with its sync, as the log worker took it."""
    frames: int
    frame_bytes: int
    frames_dropped: int
    messages_stepped: int
    messages_sent: int

    proposed: int
    forwarded: int
    expired: int
    waiting_calls: int
    waiting_reads: int
    refused_space: int
    """Proposals refused because a disk was below its reserve."""
    refused_full: int
    """Proposals that found their shard's memtables full."""
    refused_stopped: int
    """Proposals for groups that are quarantined."""
    applied_entries: int
    apply_lag_entries: int
    """Committed here as far as is known, and not applied yet."""
    apply_ns: int
    apply_turn_ns: Distribution
    """Applying, turn by turn."""
    apply_lag_ns: Distribution
    """From the first committed entry that waited until none did any more."""
    flushes: int
    snapshots_sent: int
    snapshots_taken: int
    """Those from others that were installed here."""
    snapshots_failed: int
    """Those for others that could not be made or sent, or that the other did not take."""
    commit_index_sum: int
    applied_index_sum: int
    """Over all groups: comparing nodes by them shows how far one is behind."""

    log_queue_bytes: int
    """Batches that wait for their sync."""
    link_queue_bytes: int
    """Frames that wait for their links."""
    memtable_bytes: int
    log_used_bytes: int
    log_map_bytes: int
    log_free_bytes: int
    state_used_bytes: int
    state_map_bytes: int
    state_free_bytes: int
    scarce: bool
    """A disk is below its reserve: writes are refused."""
    machines: tuple[GroupStatus, ...]
    """The groups of users' machines, by group."""

    @property
    def turn_ns_max(self) -> int:
        return self.turn_ns.max

    @property
    def loop_gap_ns_max(self) -> int:
        return self.loop_gap_ns.max

    def __str__(self) -> str:
        names = [field.name for field in dataclasses.fields(self)]
        width = max(map(len, names))
        return "\n".join(f"{name:<{width}}  {getattr(self, name)}" for name in names)


def node_status(node: Node) -> NodeStatus:
    """Walks all groups once: for eyes and scrapes, not for hot paths."""
    multi, shard_map = node.multi, node.placing.map
    groups = multi.groups()
    indexes = [multi.indexes(group) for group in groups]
    return NodeStatus(
        node=node.config.node_id,
        cluster_id=node.peers.cluster_id,
        store_id=node.log.store_id,
        boot_count=node.log.boot_count,
        shards=len(shard_map.shards) if shard_map is not None else 0,
        groups=len(groups),
        led=sum(multi.leads(group) for group in groups),
        leaderless=sum(multi.leader_node(group) is None for group in groups),
        quarantined={
            group: str(one.error) for group, one in sorted(node.admission.stopped.items())
        },
        links={
            other: node.peers.linked(other)
            for other in node.config.voters
            if other != node.config.node_id
        },
        synced_sequence=node.log.synced_sequence,
        apply_lag_entries=sum(commit - applied for _, _, commit, applied, _ in indexes),
        commit_index_sum=sum(commit for _, _, commit, _, _ in indexes),
        applied_index_sum=sum(applied for _, _, _, applied, _ in indexes),
        machines=node.users.hosting.status(),
        **_work(node),
        **_calls(node),
        **_room(node),
    )


def _work(node: Node) -> dict[str, Any]:
    counters = node.turn.counters
    return {
        "elections": counters.elections,
        "turns": counters.turns,
        "turn_ns": counters.turn_ns.seen(),
        "loop_gap_ns": node.loop_gap_ns.seen(),
        "batches": counters.batches,
        "batch_bytes": counters.batch_bytes,
        "batch_sizes": counters.batch_sizes.seen(),
        "sync_ns": node.log.sync_ns.seen(),
        "frames": counters.frames,
        "frame_bytes": counters.frame_bytes,
        "frames_dropped": counters.frames_dropped,
        "messages_stepped": node.multi.messages_stepped,
        "messages_sent": node.multi.messages_sent,
        "applied_entries": counters.applied_entries + node.users.hosting.applied_entries,
        "apply_ns": counters.apply_ns,
        "apply_turn_ns": counters.apply_turn_ns.seen(),
        "apply_lag_ns": counters.apply_lag_ns.seen(),
        "flushes": node.keeper.flushes,
        "snapshots_sent": node.transfers.sent,
        "snapshots_taken": node.transfers.installed,
        "snapshots_failed": node.transfers.failed_count,
    }


def _calls(node: Node) -> dict[str, Any]:
    refused = node.admission.refused
    return {
        "proposed": node.waiters.proposed,
        "forwarded": node.forwarding.forwarded,
        "expired": node.waiters.expired,
        "waiting_calls": node.waiters.waiting + len(node.forwarding),
        "waiting_reads": len(node.reads),
        "refused_space": refused.space,
        "refused_full": refused.full,
        "refused_stopped": refused.stopped,
    }


def _room(node: Node) -> dict[str, Any]:
    log, state = node.log.space(), node.machine.space()
    return {
        "log_queue_bytes": node.log.queue_bytes,
        "link_queue_bytes": sum(map(node.transport.queued_bytes, node.config.voters)),
        "memtable_bytes": node.machine.table.count_bytes(),
        "log_used_bytes": log.used_bytes,
        "log_map_bytes": log.map_bytes,
        "log_free_bytes": log.free_bytes,
        "state_used_bytes": state.used_bytes,
        "state_map_bytes": state.map_bytes,
        "state_free_bytes": state.free_bytes,
        "scarce": node.admission.scarce,
    }
