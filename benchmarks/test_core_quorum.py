"""What a commit index and a vote cost through the Python doors, by the size of the membership."""

from __future__ import annotations

from typing import Any

import pytest

from multiraft._core import VoteResult, committed_index, vote_result

OPERATIONS = 1000


def members(count: int, joint: bool) -> tuple[list[int], list[int]]:
    voters = list(range(1, count + 1))
    return voters, [voter + 1 for voter in voters] if joint else []


@pytest.mark.parametrize("joint", [False, True], ids=["simple", "joint"])
@pytest.mark.parametrize("count", [1, 3, 5, 7, 31])
@pytest.mark.benchmark(group="core: commit index", min_rounds=10)
def test_committed_index(benchmark: Any, count: int, joint: bool) -> None:
    voters, outgoing = members(count, joint)
    acks = {member: 100 + member for member in {*voters, *outgoing}}
    benchmark.extra_info.update(operations=OPERATIONS, members=count, joint=joint)

    def commit() -> int:
        index = 0
        for _ in range(OPERATIONS):
            index = committed_index(voters, outgoing, acks)
        return index

    assert benchmark(commit) == 100 + (count + 1) // 2


@pytest.mark.parametrize("joint", [False, True], ids=["simple", "joint"])
@pytest.mark.parametrize("count", [1, 3, 5, 7, 31])
@pytest.mark.benchmark(group="core: vote", min_rounds=10)
def test_vote_result(benchmark: Any, count: int, joint: bool) -> None:
    voters, outgoing = members(count, joint)
    votes = dict.fromkeys(voters[: count // 2 + 1], True)
    benchmark.extra_info.update(operations=OPERATIONS, members=count, joint=joint)

    def vote() -> VoteResult:
        result = VoteResult.VOTE_PENDING
        for _ in range(OPERATIONS):
            result = vote_result(voters, outgoing, votes)
        return result

    won = VoteResult.VOTE_PENDING if joint else VoteResult.VOTE_WON
    assert benchmark(vote) == won
