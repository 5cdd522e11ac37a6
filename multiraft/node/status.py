"""A node at a moment, as plain values: what ``node.status()`` answers, and what programs and people read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiraft.node.hosting import GroupStatus

if TYPE_CHECKING:
    from multiraft.node.node import Node


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Counters since the start, and sizes now. Times are in nanoseconds, sizes in bytes."""

    node: int
    cluster_id: int
    store_id: int
    boot_count: int
    shards: int
    groups: int
    led: int
    leaderless: int
    synced_sequence: int
    turns: int
    batches: int
    batch_bytes: int
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
    applied_entries: int
    apply_lag_entries: int
    apply_ns: int
    flushes: int
    turn_ns_max: int
    loop_gap_ns_max: int
    log_used_bytes: int
    log_map_bytes: int
    log_free_bytes: int
    links: dict[int, bool]
    machines: tuple[GroupStatus, ...] = ()
    """The groups of users' machines, by group."""


def node_status(node: Node) -> NodeStatus:
    """Walks all groups once: for eyes and scrapes, not for hot paths."""
    multi, counters, space = node.multi, node.turn.counters, node.log.space()
    groups = multi.groups()
    indexes = [multi.indexes(group) for group in groups]
    shard_map = node.placing.map
    return NodeStatus(
        node=node.config.node_id,
        cluster_id=node.peers.cluster_id,
        store_id=node.log.store_id,
        boot_count=node.log.boot_count,
        shards=len(shard_map.shards) if shard_map is not None else 0,
        groups=len(groups),
        led=sum(multi.leads(group) for group in groups),
        leaderless=sum(multi.leader_node(group) is None for group in groups),
        synced_sequence=node.log.synced_sequence,
        turns=counters.turns,
        batches=counters.batches,
        batch_bytes=counters.batch_bytes,
        frames=counters.frames,
        frame_bytes=counters.frame_bytes,
        frames_dropped=counters.frames_dropped,
        messages_stepped=multi.messages_stepped,
        messages_sent=multi.messages_sent,
        proposed=node.waiters.proposed,
        forwarded=node.forwarding.forwarded,
        expired=node.waiters.expired,
        waiting_calls=node.waiters.waiting + len(node.forwarding),
        waiting_reads=len(node.reads),
        applied_entries=counters.applied_entries + node.users.hosting.applied_entries,
        apply_lag_entries=sum(commit - applied for _, _, commit, applied, _ in indexes),
        apply_ns=counters.apply_ns,
        flushes=node.keeper.flushes,
        turn_ns_max=counters.turn_ns_max,
        loop_gap_ns_max=node.loop_gap_ns_max,
        log_used_bytes=space.used_bytes,
        log_map_bytes=space.map_bytes,
        log_free_bytes=space.free_bytes,
        links={
            node_id: node.peers.linked(node_id)
            for node_id in node.config.voters
            if node_id != node.config.node_id
        },
        machines=node.users.hosting.status(),
    )
