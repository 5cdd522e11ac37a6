"""What a majority has reached, and who wins a vote, in plain Python: once by sorting, and once from the definition.

Both are slow and short; the compiled ones are held to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations

from multiraft._core import VoteResult

NOTHING_HELD_BACK = 2**64 - 1


def majority(count: int) -> int:
    return count // 2 + 1


def majority_index(members: Collection[int], acks: Mapping[int, int]) -> int:
    """Sort and pick: the lowest of the highest majority."""
    if not members:
        return NOTHING_HELD_BACK
    ranked = sorted((acks.get(member, 0) for member in set(members)), reverse=True)
    return ranked[majority(len(ranked)) - 1]


def committed_index(
    voters: Collection[int], outgoing: Collection[int], acks: Mapping[int, int]
) -> int:
    return min(majority_index(voters, acks), majority_index(outgoing, acks))


def majority_vote(members: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    members = set(members)
    granted = sum(votes.get(member, False) for member in members)
    unheard = sum(member not in votes for member in members)
    if not members or granted >= majority(len(members)):
        return VoteResult.VOTE_WON
    if granted + unheard >= majority(len(members)):
        return VoteResult.VOTE_PENDING
    return VoteResult.VOTE_LOST


def vote_result(
    voters: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    results = {majority_vote(voters, votes), majority_vote(outgoing, votes)}
    for result in (VoteResult.VOTE_LOST, VoteResult.VOTE_PENDING):
        if result in results:
            return result
    return VoteResult.VOTE_WON


# -- from the definition -------------------------------------------------------------------------------------------------


def is_quorum(some: Collection[int], voters: Collection[int], outgoing: Collection[int]) -> bool:
    """More than half of each half that has any members."""
    return all(
        not half or 2 * len(set(some) & set(half)) > len(set(half)) for half in (voters, outgoing)
    )


def brute_committed_index(
    voters: Collection[int], outgoing: Collection[int], acks: Mapping[int, int]
) -> int:
    """The highest index that all members of some quorum have reached."""
    everybody = sorted(set(voters) | set(outgoing))
    if not everybody:
        return NOTHING_HELD_BACK
    indexes = {acks.get(member, 0) for member in everybody} | {0}
    return max(
        index
        for index in indexes
        if is_quorum([m for m in everybody if acks.get(m, 0) >= index], voters, outgoing)
        or index == 0
    )


def brute_vote_result(
    voters: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Won when those who granted are a quorum; lost when no way that the rest may vote makes one."""
    everybody = sorted(set(voters) | set(outgoing))
    granted = [member for member in everybody if votes.get(member)]
    unheard = [member for member in everybody if member not in votes]
    if is_quorum(granted, voters, outgoing):
        return VoteResult.VOTE_WON
    for more in range(1, len(unheard) + 1):
        for grants in combinations(unheard, more):
            if is_quorum([*granted, *grants], voters, outgoing):
                return VoteResult.VOTE_PENDING
    return VoteResult.VOTE_LOST
