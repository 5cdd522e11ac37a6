"""What a simulation asks of running nodes that no client asks: to hand a leadership over, to flush, to change a membership.

These are no faults of the world around a node but rare things that it does by itself or on an operator's word; a run that does
them often meets what lies between them and the faults. Everything goes through the doors of the production code, and is done
on the node's own loop: a node that is stopped does it when it goes on.

A membership changes only in what part a replica has, voter or learner: replicas stay on their nodes.
"""

from __future__ import annotations

from collections.abc import Callable

from multiraft._core import MemberFlag
from multiraft.errors import MultiRaftError
from multiraft.raft.membership import ChangeOperation, MembershipChange, Transition
from multiraft.testing.cluster import Life, SimulatedCluster

VOTERS_MIN = 2


def flush(cluster: SimulatedCluster, number: int, _share: float = 0.0) -> None:
    """Let a node flush all its memtables now, and forget the log behind them."""

    def act(life: Life) -> None:
        for group in life.node.multi.groups():
            if group in life.node.machine.table.shards:
                life.node.keeper.freeze(group)

    _soon(cluster, number, act)


def hand_over(cluster: SimulatedCluster, number: int, share: float) -> None:
    """Let whoever leads some group hand it over to a node. ``share``, from 0 to 1, says which group."""

    def act(life: Life) -> None:
        multi = life.node.multi
        groups = multi.groups()
        group = groups[int(share * len(groups)) % len(groups)] if groups else None
        if group is None or not multi.leads(group):
            return
        for member in multi.replica(group).membership().members:
            if member.node == number:
                multi.transfer_leader(group, member.replica)
        life.node.turn.kick()

    for one in cluster.numbers:
        if one != number:
            _soon(cluster, one, act)


def change_membership(cluster: SimulatedCluster, number: int, share: float) -> None:
    """Make a node's replica of some group a learner, or a voter again; ``share`` says of which, and how."""
    transition = Transition(int(share * 7919) % 3)

    def act(life: Life) -> None:
        multi = life.node.multi
        groups = multi.groups()
        group = groups[int(share * len(groups)) % len(groups)] if groups else None
        if group is None or not multi.leads(group):
            return
        change = _change(life, group, number, transition)
        if change is not None:
            try:
                multi.propose_membership(group, change.encode())
            except MultiRaftError:
                return  # it leads no more, or hands over, or has no room: another time
            life.node.turn.kick()

    for one in cluster.numbers:
        _soon(cluster, one, act)


def _change(life: Life, group: int, number: int, transition: Transition) -> MembershipChange | None:
    """The next change for a node's replica: a joint membership is left, a voter made a learner, a learner a voter."""
    members = life.node.multi.replica(group).membership().members
    if any(member.flags & MemberFlag.MEMBER_OUTGOING for member in members):
        return MembershipChange()
    own = next((member for member in members if member.node == number), None)
    if own is None:
        return None
    voters = sum(bool(member.flags & MemberFlag.MEMBER_VOTER) for member in members)
    if own.flags & MemberFlag.MEMBER_LEARNER:
        kind = ChangeOperation.ADD_VOTER
    elif voters > VOTERS_MIN:
        kind = ChangeOperation.ADD_LEARNER
    else:
        return None
    return MembershipChange(((kind, own.replica, own.node),), transition)


def _soon(cluster: SimulatedCluster, number: int, act: Callable[[Life], None]) -> None:
    """Do it on the loop of a node, if that serves."""
    life = cluster.alive(number)
    if life is not None and life.serving:
        life.loop.call_soon(lambda: act(life) if life.serving else None)
