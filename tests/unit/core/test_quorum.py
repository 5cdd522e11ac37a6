"""Commit index and vote result against sort-and-pick and against the definition of a quorum."""

from __future__ import annotations

import random
from itertools import product

import pytest

from multiraft._core import REPLICAS_MAX, VoteResult, committed_index, vote_result
from multiraft.errors import TooLarge
from tests.spec import quorum
from tests.unit.core import capi

HIGHEST = 2**64 - 1
QUORUMS = 50_000


def drawn_members(chance: random.Random) -> tuple[list[int], list[int]]:
    """Voters and outgoing voters: mostly small, often overlapping, one time in three not joint."""
    ids = chance.sample(range(1, 50), 10)
    voters = ids[: chance.choice([0, 1, 2, 3, 3, 4, 5, 5, 6, 7])]
    outgoing = chance.sample(ids, chance.choice([0, 0, 0, 1, 2, 3, 4, 5]))
    return voters, outgoing


def drawn_index(chance: random.Random) -> int:
    return chance.choice([0, 1, 2, 3, 4, 5, chance.randrange(100), HIGHEST - chance.randrange(2)])


@pytest.mark.slow
def test_random_quorums_agree_with_the_definition() -> None:
    chance = random.Random(2014)
    for _ in range(QUORUMS):
        voters, outgoing = drawn_members(chance)
        everybody = sorted({*voters, *outgoing})
        heard = [member for member in everybody if chance.random() < 0.8] + [99]
        acks = {member: drawn_index(chance) for member in heard}
        expected = quorum.brute_committed_index(voters, outgoing, acks)
        assert quorum.committed_index(voters, outgoing, acks) == expected
        assert committed_index(voters, outgoing, acks) == expected, (voters, outgoing, acks)
        votes = {member: chance.random() < 0.5 for member in heard}
        result = quorum.brute_vote_result(voters, outgoing, votes)
        assert quorum.vote_result(voters, outgoing, votes) == result
        assert vote_result(voters, outgoing, votes) == result, (voters, outgoing, votes)


def test_all_small_quorums_agree_with_the_definition() -> None:
    for count in range(5):
        for acks in product(range(3), repeat=count):
            given = dict(enumerate(acks, 1))
            assert capi.majority_index(list(acks)) == quorum.brute_committed_index(given, (), given)
        for votes in product((-1, 0, 1), repeat=count):
            heard = {at: vote > 0 for at, vote in enumerate(votes, 1) if vote}
            expected = quorum.brute_vote_result(range(1, count + 1), (), heard)
            assert capi.majority_vote(list(votes)) == expected


def test_the_largest_membership_and_one_beyond_it() -> None:
    chance = random.Random(31)
    for _ in range(100):
        acks = [chance.randrange(1000) for _ in range(REPLICAS_MAX)]
        assert capi.majority_index(acks) == sorted(acks)[REPLICAS_MAX // 2]
    assert capi.majority_index([7] * (REPLICAS_MAX + 1)) == 0
    with pytest.raises(TooLarge):
        committed_index(range(REPLICAS_MAX + 1), (), {})
    with pytest.raises(TooLarge):
        vote_result((), range(REPLICAS_MAX + 1), {})


def test_nobody_holds_nobody_back() -> None:
    assert capi.majority_index([]) == HIGHEST
    assert capi.majority_vote([]) == VoteResult.VOTE_WON
    assert committed_index((), (), {}) == HIGHEST
    assert committed_index([1, 2, 3], (), {1: 5, 2: 6, 3: 7}) == 6
    assert vote_result((), (), {}) is VoteResult.VOTE_WON


def test_both_halves_of_a_joint_membership_must_agree() -> None:
    acks = {1: 10, 2: 10, 3: 10, 4: 2, 5: 2, 6: 9}
    assert committed_index([1, 2, 3], [3, 4, 5], acks) == 2
    assert committed_index([3, 4, 5], [1, 2, 3], acks) == 2
    assert vote_result([1, 2, 3], [3, 4, 5], {1: True, 2: True}) is VoteResult.VOTE_PENDING
    assert (
        vote_result([1, 2, 3], [3, 4, 5], {1: True, 2: True, 4: False, 5: False})
        is VoteResult.VOTE_LOST
    )


def test_a_member_that_is_named_twice_counts_once() -> None:
    """Votes are a set of ids: a duplicated message elects nobody and commits nothing."""
    assert committed_index([1, 1, 1, 2, 3], (), {1: 9}) == 0
    assert vote_result([1, 1, 1, 2, 3], (), {1: True}) is VoteResult.VOTE_PENDING


def test_who_is_no_member_does_not_count() -> None:
    assert committed_index([1, 2, 3], (), {4: 9, 5: 9, 6: 9}) == 0
    assert vote_result([1, 2, 3], (), {4: True, 5: True}) is VoteResult.VOTE_PENDING


@pytest.mark.parametrize("wrong", [-1, 2**64, "9", None])
def test_an_index_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises((TypeError, OverflowError)):
        committed_index([1], (), {1: wrong})  # type: ignore[dict-item]
