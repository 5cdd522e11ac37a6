"""The blocks of a problem of cells: operations that stand together in every linearization, since a value is given once.

A block is a gift that needs nothing, all that need its value, the cas that replaces it, all that need the next value, and so
on. What the search may conclude from that is proved there. Made once, before the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from multiraft.testing.problem import NO_END, Problem


@dataclass(slots=True)
class Block:
    """Operations that stand together, in their order."""

    numbers: list[int]
    value: int
    """The state that they leave."""
    last_call: int
    first_end: int


def blocks_of(problem: Problem) -> tuple[dict[int, Block], list[int]]:
    """Each block by its first operation, and of each known operation the first of its block, or -1.

    Left out are those in which a value is given twice, or is replaced by two or by an operation that need not have happened,
    and those for which there is no order: the search finds out about these.
    """
    blocks: dict[int, Block] = {}
    block_of = [-1] * problem.known
    if problem.step is not None:
        return blocks, block_of
    readers: dict[int, list[int]] = {}
    takers: dict[int, list[int]] = {}
    for number, value in enumerate(problem.needs):
        if value >= 0:
            sort = readers if problem.gives[number] < 0 else takers
            sort.setdefault(value, []).append(number)
    for head in range(problem.known):
        if problem.needs[head] < 0 <= problem.gives[head]:
            block = block_at(problem, head, readers, takers)
            if block is not None:
                blocks[head] = block
                for number in block.numbers:
                    block_of[number] = head
    return blocks, block_of


def block_at(
    problem: Problem, head: int, readers: dict[int, list[int]], takers: dict[int, list[int]]
) -> Block | None:
    """The block that begins with a gift, if it is one."""
    numbers, at = [head], head
    while True:
        value = problem.gives[at]
        if not problem.unique[value]:
            return None
        numbers += readers.get(value, ())
        following = takers.get(value, ())
        if not following:
            return ordered_block(problem, numbers, value)
        at = following[0]
        if len(following) > 1 or at >= problem.known:
            return None
        numbers.append(at)


def ordered_block(problem: Problem, numbers: list[int], value: int) -> Block | None:
    """A block in this order, which is the only one but for those that need the same value."""
    begun, first_end = -1, NO_END
    for number in numbers:
        if problem.ends[number] < begun:
            return None  # it ended before one began that comes before it
        begun = max(begun, problem.call[number])
        first_end = min(first_end, problem.ends[number])
    return Block(numbers, value, begun, first_end)
