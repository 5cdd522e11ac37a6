"""Quorums and memberships, by definition: sets, counting, nothing clever.

Sources: Ongaro's thesis, chapter 4 and section 4.3; docs/divergence.md for learners. No index arithmetic, no flags: the
compiled code works on sorted arrays with bits, this works on sets, and a property test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from multiraft._core import MemberFlag, VoteResult
from multiraft.errors import MembershipRefused
from multiraft.ids import NodeId, ReplicaId
from multiraft.interfaces import Member, Membership
from multiraft.raft import ChangeOperation, MembershipChange, Transition

REPLICAS_MAX = 31
INDEX_MAX = 2**64 - 1


# -- quorums ------------------------------------------------------------------------------------------------------------------


def majority_index(voters: Iterable[int], acks: Mapping[int, int]) -> int:
    """The highest index that more than half of ``voters`` have acknowledged; no limit where there are no voters."""
    group = set(voters)
    if not group:
        return INDEX_MAX
    reached = {acks.get(id, 0) for id in group} | {0}
    return max(
        index for index in reached if 2 * sum(acks.get(id, 0) >= index for id in group) > len(group)
    )


def committed_index(voters: Iterable[int], outgoing: Iterable[int], acks: Mapping[int, int]) -> int:
    """Both halves of a joint membership must have it."""
    return min(majority_index(voters, acks), majority_index(outgoing, acks))


def majority_vote(voters: Iterable[int], votes: Mapping[int, bool]) -> VoteResult:
    """Won or lost as soon as the votes that are still out cannot change it."""
    group = set(voters)
    granted = sum(votes.get(id) is True for id in group)
    refused = sum(votes.get(id) is False for id in group)
    if not group or 2 * granted > len(group):
        return VoteResult.VOTE_WON
    if 2 * (len(group) - refused) <= len(group):
        return VoteResult.VOTE_LOST
    return VoteResult.VOTE_PENDING


def vote_result(
    voters: Iterable[int], outgoing: Iterable[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Both halves must be won; one that is lost loses all."""
    halves = {majority_vote(voters, votes), majority_vote(outgoing, votes)}
    if VoteResult.VOTE_LOST in halves:
        return VoteResult.VOTE_LOST
    return VoteResult.VOTE_WON if halves == {VoteResult.VOTE_WON} else VoteResult.VOTE_PENDING


# -- memberships ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """A membership as sets. ``nodes`` says where each lives; who is in none of the sets is on the way out."""

    nodes: Mapping[int, int]
    voters: frozenset[int]
    outgoing: frozenset[int]
    learners: frozenset[int]
    learners_next: frozenset[int]

    @property
    def everybody(self) -> frozenset[int]:
        return self.voters | self.outgoing | self.learners | self.learners_next


def parts_of(membership: Membership) -> Parts:
    def having(flag: MemberFlag) -> frozenset[int]:
        return frozenset(
            int(member.replica) for member in membership.members if member.flags & flag
        )

    return Parts(
        {int(member.replica): int(member.node) for member in membership.members},
        having(MemberFlag.MEMBER_VOTER),
        having(MemberFlag.MEMBER_OUTGOING),
        having(MemberFlag.MEMBER_LEARNER),
        having(MemberFlag.MEMBER_LEARNER_NEXT),
    )


def membership_of(parts: Parts, auto_leave: bool) -> Membership:
    def flags(id: int) -> int:
        return (
            (id in parts.voters) * MemberFlag.MEMBER_VOTER
            + (id in parts.outgoing) * MemberFlag.MEMBER_OUTGOING
            + (id in parts.learners) * MemberFlag.MEMBER_LEARNER
            + (id in parts.learners_next) * MemberFlag.MEMBER_LEARNER_NEXT
        )

    members = [
        Member(ReplicaId(id), NodeId(parts.nodes[id]), int(flags(id)))
        for id in sorted(parts.everybody)
    ]
    return Membership(tuple(members), auto_leave)


def with_operation(parts: Parts, operation: int, id: int, node: int) -> Parts:
    """One operation of a change. A voter of the outgoing half keeps its vote there, whatever becomes of it."""
    nodes = dict(parts.nodes)
    voters, learners, learners_next = (
        parts.voters - {id},
        parts.learners - {id},
        parts.learners_next - {id},
    )
    if operation == ChangeOperation.REMOVE:
        return replace(parts, voters=voters, learners=learners, learners_next=learners_next)
    if id not in nodes and not node:
        raise MembershipRefused(f"{id} would join on no node")
    if id not in nodes and len(nodes) >= REPLICAS_MAX:
        raise MembershipRefused(f"a group has at most {REPLICAS_MAX} members")
    if node or id not in nodes:
        nodes[id] = node
    if operation == ChangeOperation.ADD_VOTER:
        voters |= {id}
    elif id in parts.outgoing:
        learners_next |= {id}
    else:
        learners |= {id}
    return Parts(nodes, voters, parts.outgoing, learners, learners_next)


def membership_after(membership: Membership, change: MembershipChange) -> Membership:
    """The membership that follows, or MembershipRefused."""
    before = parts_of(membership)
    joint = bool(before.outgoing)
    if not change.operations and change.transition == Transition.AUTOMATIC:
        if not joint:
            raise MembershipRefused("there is nothing to leave")
        left = replace(
            before,
            outgoing=frozenset(),
            learners=before.learners | before.learners_next,
            learners_next=frozenset(),
        )
        return checked(left, auto_leave=False)
    if joint:
        raise MembershipRefused("the joint membership must be left first")
    simple = change.transition == Transition.AUTOMATIC and len(change.operations) == 1
    after = before if simple else replace(before, outgoing=before.voters)
    for operation, id, node in change.operations:
        after = with_operation(after, operation, id, node)
    if simple and len(before.voters ^ after.voters) > 1:
        raise MembershipRefused("two majorities need not meet")
    auto_leave = membership.auto_leave if simple else change.transition != Transition.JOINT_EXPLICIT
    return checked(after, auto_leave=auto_leave)


def checked(parts: Parts, *, auto_leave: bool) -> Membership:
    if not parts.voters:
        raise MembershipRefused("nobody would vote")
    return membership_of(parts, auto_leave)
