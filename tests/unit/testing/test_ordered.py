"""The ordered map below a simulated environment, against a dict; its pages against a walk over all of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from multiraft.testing.ordered import (
    PAGE_BYTES,
    Draft,
    Node,
    Place,
    Root,
    any_item,
    find,
    first_place,
    last_place,
    overflow_pages,
    place_before,
    place_from,
)


class Map:
    """A root and a dict that are changed alike, one transaction after the other."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.root = Root()
        self.expected: dict[bytes, bytes] = {}
        self.pages = 0

    def key(self) -> bytes:
        long = self.chance.choice([0, 300, 480])
        return b"%04d" % self.chance.randrange(800) + b"x" * long

    def transact(self, number: int, put_share: float) -> None:
        draft = Draft(self.root, number, self._take, self._give)
        for _ in range(self.chance.randint(1, 9)):
            key = self.key()
            if self.chance.random() < put_share:
                self.expected[key] = bytes(self.chance.choice([0, 5, 300, 1500, 9000]))
                draft.put(key, self.expected[key])
            elif self.expected:
                key = self.chance.choice(list(self.expected))
                del self.expected[key]
                draft.delete(key)
        self.root = draft.root()

    def _take(self, pages: int) -> None:
        self.pages += pages

    def _give(self, pages: int, fresh: bool) -> None:
        self.pages -= pages

    def check(self) -> None:
        node, keys = self.root.node, sorted(self.expected)
        assert self.root.entries == len(keys)
        assert walked(first_place(node), lambda key: place_from(node, key, after=True)) == keys
        assert walked(last_place(node), lambda key: place_before(node, key)) == keys[::-1]
        for key in (self.key() for _ in range(20)):
            assert find(node, key) == self.expected.get(key)
            above = [one for one in keys if one >= key]
            assert shown(place_from(node, key)) == (above[0] if above else None)
            below = [one for one in keys if one < key]
            assert shown(place_before(node, key)) == (below[-1] if below else None)
        leaves, branches, overflow = counted(node, self.root.depth)
        assert (leaves, branches) == (self.root.leaf_pages, self.root.branch_pages)
        assert overflow == self.root.overflow_pages
        assert self.pages == leaves + branches + overflow


def shown(place: Place | None) -> bytes | None:
    return None if place is None else place[0].keys[place[1]]


def walked(place: Place | None, on: Callable[[bytes], Place | None]) -> list[bytes]:
    found: list[bytes] = []
    while place is not None:
        found.append(place[0].keys[place[1]])
        place = on(found[-1])
    return found


def counted(node: Any, depth: int) -> tuple[int, int, int]:
    """(leaves, branches, overflow pages); every leaf lies equally deep, and no page is over its size."""
    if node is None:
        return 0, 0, 0
    assert isinstance(node, Node) and node.keys and node.bytes <= PAGE_BYTES
    if node.leaf:
        assert depth == 1
        return 1, 0, sum(map(overflow_pages, node.keys, node.items))
    below = [counted(child, depth - 1) for child in node.items]
    leaves, branches, overflow = map(sum, zip(*below, strict=True))
    return leaves, branches + 1, overflow


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_map_is_what_a_dict_would_be(seed: int) -> None:
    """... while it grows, while it shrinks to nothing, and of every state that somebody kept."""
    it = Map(seed)
    kept: list[tuple[Root, dict[bytes, bytes]]] = []
    for number in range(1, 1000):
        it.transact(number, 0.05 if number > 700 else 0.75 if number % 200 < 120 else 0.2)
        if number % 30 == 0:
            it.check()
            kept.append((it.root, it.expected.copy()))
    assert it.root.depth < max(root.depth for root, _ in kept)
    for root, expected in kept:
        found = walked(
            first_place(root.node), lambda key, node=root.node: place_from(node, key, after=True)
        )
        assert found == sorted(expected)
        assert all(find(root.node, key) == value for key, value in expected.items())
        if expected:
            key, value = any_item(root, it.chance)
            assert expected[key] == value
