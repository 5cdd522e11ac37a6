"""Membership changes against the definition by sets, and what must hold for every one that is not refused.

Random chains of changes, so that joint memberships, learners that wait and memberships at their limit come up.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from multiraft._core import REPLICAS_MAX, MemberFlag, VoteResult, committed_index, vote_result
from multiraft.errors import InvalidCommand, MembershipRefused
from multiraft.interfaces import Membership
from multiraft.raft import ChangeOperation, MembershipChange, Transition, membership_after
from tests.spec import members as spec

from .harness import voters

CHANGES = 50_000
ADD, LEARN, REMOVE = (
    ChangeOperation.ADD_VOTER,
    ChangeOperation.ADD_LEARNER,
    ChangeOperation.REMOVE,
)


def having(membership: Membership, flag: MemberFlag) -> set[int]:
    return {int(member.replica) for member in membership.members if member.flags & flag}


def drawn_change(chance: random.Random, highest: int) -> MembershipChange:
    if chance.random() < 0.3:
        return MembershipChange()
    operations = tuple(
        (
            int(chance.choice((ADD, ADD, LEARN, REMOVE))),
            chance.randint(1, highest),
            chance.randrange(9),
        )
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6)))
    )
    return MembershipChange(operations, int(chance.choice(list(Transition))), b"context")


def after(membership: Membership, change: MembershipChange) -> Membership | None:
    """What follows, by the compiled code and by the definition; None where both refuse it."""
    found: list[Membership | None] = []
    for function in (membership_after, spec.membership_after):
        try:
            found.append(function(membership, change))
        except MembershipRefused:
            found.append(None)
    assert found[0] == found[1], (membership, change)
    return found[0]


def quorums(ids: set[int]) -> list[set[int]]:
    return [set(some) for some in combinations(sorted(ids), len(ids) // 2 + 1)]


def check_rules(before: Membership, change: MembershipChange, result: Membership) -> None:
    """No replica is voter and learner, a voter is left, and a joint membership has the old voters as its other half."""
    old, new = having(before, MemberFlag.MEMBER_VOTER), having(result, MemberFlag.MEMBER_VOTER)
    outgoing = having(result, MemberFlag.MEMBER_OUTGOING)
    assert new
    assert not new & having(result, MemberFlag.MEMBER_LEARNER)
    assert having(result, MemberFlag.MEMBER_LEARNER_NEXT) <= outgoing - new
    assert [int(m.replica) for m in result.members] == sorted(
        {int(m.replica) for m in result.members}
    )
    if having(before, MemberFlag.MEMBER_OUTGOING):  # it was left
        assert (outgoing, new, result.auto_leave) == (set(), old, False)
    elif outgoing:
        assert outgoing == old
        assert result.auto_leave == (change.transition != Transition.JOINT_EXPLICIT)
    elif (
        max(len(old), len(new)) <= 5
    ):  # one step: whoever decides before and after have somebody in common
        assert all(a & b for a in quorums(old) for b in quorums(new))


@pytest.mark.slow
def test_random_changes_agree_with_the_definition() -> None:
    chance = random.Random(2014)
    done = refused = joint = 0
    membership, highest = voters(1, 2, 3), 6
    for _ in range(CHANGES):
        if chance.random() < 0.01:
            highest = chance.choice((4, 6, 40))
            membership = voters(*range(1, chance.randint(2, 6)))
        change = drawn_change(chance, highest)
        assert MembershipChange.decode(change.encode()) == change
        result = after(membership, change)
        if result is None:
            refused += 1
            continue
        check_rules(membership, change, result)
        done += 1
        joint += bool(having(result, MemberFlag.MEMBER_OUTGOING))
        membership = result
    assert min(done, refused, joint) > CHANGES // 10, (done, refused, joint)


def test_both_halves_decide_while_it_is_joint() -> None:
    both = membership_after(voters(1, 2, 3), MembershipChange(((REMOVE, 3, 0), (ADD, 4, 4))))
    half = having(both, MemberFlag.MEMBER_VOTER), having(both, MemberFlag.MEMBER_OUTGOING)
    assert half == ({1, 2, 4}, {1, 2, 3})
    assert committed_index(*half, {1: 9, 4: 9, 3: 1, 2: 1}) == 1
    assert vote_result(*half, {1: True, 4: True, 3: False, 2: False}) is VoteResult.VOTE_LOST


def test_a_membership_has_a_limit() -> None:
    full = voters(*range(1, REPLICAS_MAX + 1))
    with pytest.raises(MembershipRefused):
        membership_after(full, MembershipChange(((int(LEARN), REPLICAS_MAX + 1, 9),)))
    assert membership_after(full, MembershipChange(((int(REMOVE), 1, 0),)))


@pytest.mark.parametrize(
    "operation", [(0, 1, 1), (4, 1, 1), (1, 0, 1), (1, 2**32, 1), (1, 1, 2**32)]
)
def test_an_operation_that_is_none_is_refused_before_it_is_encoded(
    operation: tuple[int, int, int],
) -> None:
    with pytest.raises(InvalidCommand):
        MembershipChange((operation,)).encode()
    with pytest.raises(InvalidCommand):
        MembershipChange(((1, 1, 1),), transition=3).encode()
