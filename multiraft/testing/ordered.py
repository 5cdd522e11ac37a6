"""An ordered map of bytes to bytes that is copied where it is written: a B+ tree, as LMDB has one.

A ``Root`` never changes, so keeping one costs nothing: a read snapshot, what a crash falls back to and a copy of a whole disk are
each one reference. A ``Draft`` makes a new root from one; what it has copied once it changes in place. Nothing costs
more with the size of the map than its depth. Pages are counted, not stored: a node is a page, a large value some more.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import NamedTuple

PAGE_BYTES = 4096
_ROOM = PAGE_BYTES - 16
_ITEM_BYTES = 10
_INLINE_MAX = 2038
"""LMDB puts a value whose node would be larger than this into pages of its own."""


class Node:
    """A page: keys with values in a leaf; else with children, whose keys are at or above theirs (the first key is no bound)."""

    __slots__ = ("bytes", "items", "keys", "leaf", "token")

    def __init__(self, token: int, leaf: bool, keys: list[bytes], items: list[object], size: int):
        self.token = token
        self.leaf = leaf
        self.keys = keys
        self.items = items
        self.bytes = size


class Root(NamedTuple):
    """One state of a map. ``node`` is None where it is empty."""

    node: Node | None = None
    entries: int = 0
    depth: int = 0
    branch_pages: int = 0
    leaf_pages: int = 0
    overflow_pages: int = 0


Place = tuple[Node, int]
"""A leaf, and where in it."""


def overflow_pages(key: bytes, value: bytes) -> int:
    """How many pages of its own a value takes."""
    if len(key) + len(value) + 8 <= _INLINE_MAX:
        return 0
    return (len(value) + 16 + PAGE_BYTES - 1) // PAGE_BYTES


def _weight(key: bytes, value: bytes) -> int:
    size = len(key) + len(value)
    return size + _ITEM_BYTES if size + 8 <= _INLINE_MAX else len(key) + 8 + _ITEM_BYTES


# -- looking ------------------------------------------------------------------------------------------------------------


def find(node: Node | None, key: bytes) -> bytes | None:
    if node is None:
        return None
    while not node.leaf:
        node = node.items[bisect_right(node.keys, key, 1) - 1]  # type: ignore[assignment]
    keys = node.keys
    at = bisect_left(keys, key)
    return node.items[at] if at < len(keys) and keys[at] == key else None  # type: ignore[return-value]


def first_place(node: Node | None) -> Place | None:
    if node is None:
        return None
    while not node.leaf:
        node = node.items[0]  # type: ignore[assignment]
    return node, 0


def last_place(node: Node | None) -> Place | None:
    if node is None:
        return None
    while not node.leaf:
        node = node.items[-1]  # type: ignore[assignment]
    return node, len(node.keys) - 1


def place_from(node: Node | None, key: bytes, *, after: bool = False) -> Place | None:
    """The first key at or above ``key``, or above it."""
    if node is None:
        return None
    right = None
    while not node.leaf:
        at = bisect_right(node.keys, key, 1)
        if at < len(node.items):
            right = node.items[at]
        node = node.items[at - 1]  # type: ignore[assignment]
    at = (bisect_right if after else bisect_left)(node.keys, key)
    return (node, at) if at < len(node.keys) else first_place(right)  # type: ignore[arg-type]


def place_before(node: Node | None, key: bytes) -> Place | None:
    """The last key below ``key``."""
    if node is None:
        return None
    left = None
    while not node.leaf:
        at = bisect_left(node.keys, key, 1)
        if at > 1:
            left = node.items[at - 2]
        node = node.items[at - 1]  # type: ignore[assignment]
    at = bisect_left(node.keys, key) - 1
    return (node, at) if at >= 0 else last_place(left)  # type: ignore[arg-type]


def any_item(root: Root, generator: random.Random) -> tuple[bytes, bytes]:
    """Some key of a map that is not empty, with its value."""
    node = root.node
    if node is None:
        raise ValueError("the map is empty")
    while not node.leaf:
        node = generator.choice(node.items)  # type: ignore[assignment]
    at = generator.randrange(len(node.keys))
    return node.keys[at], node.items[at]  # type: ignore[return-value]


# -- changing -----------------------------------------------------------------------------------------------------------


class Draft:
    """A map being changed by one transaction, whose number is its token.

    ``take(pages)`` is asked for every page, and may raise: the draft is to be thrown away then. ``give(pages, fresh)`` hears of
    those that are free: ``fresh`` ones were taken by the same transaction.
    """

    __slots__ = (
        "branch_pages",
        "depth",
        "entries",
        "give",
        "leaf_pages",
        "node",
        "overflow",
        "take",
        "token",
    )

    def __init__(
        self,
        root: Root,
        token: int,
        take: Callable[[int], None],
        give: Callable[[int, bool], None],
    ):
        self.node, self.entries, self.depth = root.node, root.entries, root.depth
        self.branch_pages, self.leaf_pages = root.branch_pages, root.leaf_pages
        self.overflow = root.overflow_pages
        self.token = token
        self.take = take
        self.give = give

    def root(self) -> Root:
        return Root(
            self.node,
            self.entries,
            self.depth,
            self.branch_pages,
            self.leaf_pages,
            self.overflow,
        )

    def put(self, key: bytes, value: bytes) -> None:
        path, node = self._path(key)
        at = bisect_left(node.keys, key)
        if at < len(node.keys) and node.keys[at] == key:
            old: bytes = node.items[at]  # type: ignore[assignment]
            self._overflow(key, old, -1)
            node.items[at] = value
            node.bytes += _weight(key, value) - _weight(key, old)
        else:
            node.keys.insert(at, key)
            node.items.insert(at, value)
            node.bytes += _weight(key, value)
            self.entries += 1
        self._overflow(key, value, 1)
        while node.bytes > _ROOM:
            node, at = self._split(path, node, at)

    def delete(self, key: bytes) -> None:
        """Delete a key that is there."""
        path, node = self._path(key)
        at = bisect_left(node.keys, key)
        value: bytes = node.items.pop(at)  # type: ignore[assignment]
        del node.keys[at]
        node.bytes -= _weight(key, value)
        self.entries -= 1
        self._overflow(key, value, -1)
        while path and node.bytes < _ROOM // 4:
            parent, at = path.pop()
            self._join(parent, at, node)
            node = parent
        while self.node is not None and not self.node.leaf and len(self.node.items) == 1:
            self._drop(self.node)
            self.node = self.node.items[0]  # type: ignore[assignment]
            self.depth -= 1
        if self.node is not None and not self.node.keys:
            self._drop(self.node)
            self.node = None
            self.depth = 0

    # -- its own --------------------------------------------------------------------------------------------------------

    def _path(self, key: bytes) -> tuple[list[tuple[Node, int]], Node]:
        """The leaf of a key, and what is above it with the place of each below; all of them may be changed."""
        token = self.token
        node = self.node
        if node is None:
            self.node = self._made(True, [], [], 0)
            self.depth = 1
            return [], self.node
        if node.token != token:
            node = self.node = self._own(node)
        path = []
        while not node.leaf:
            at = bisect_right(node.keys, key, 1) - 1
            child: Node = node.items[at]  # type: ignore[assignment]
            if child.token != token:
                child = node.items[at] = self._own(child)
            path.append((node, at))
            node = child
        return path, node

    def _own(self, node: Node) -> Node:
        self.take(1)
        self.give(1, False)
        return Node(self.token, node.leaf, node.keys.copy(), node.items.copy(), node.bytes)

    def _made(self, leaf: bool, keys: list[bytes], items: list[object], size: int) -> Node:
        self.take(1)
        if leaf:
            self.leaf_pages += 1
        else:
            self.branch_pages += 1
        return Node(self.token, leaf, keys, items, size)

    def _drop(self, node: Node) -> None:
        self.give(1, node.token == self.token)
        if node.leaf:
            self.leaf_pages -= 1
        else:
            self.branch_pages -= 1

    def _overflow(self, key: bytes, value: bytes, sign: int) -> None:
        pages = overflow_pages(key, value)
        if pages:
            self.overflow += sign * pages
            if sign > 0:
                self.take(pages)
            else:
                self.give(pages, False)

    def _split(self, path: list[tuple[Node, int]], node: Node, at: int) -> tuple[Node, int]:
        """Cut a node that is too large in two; the parent, and where it got its new child."""
        count = len(node.keys)
        cut = count - 1 if at == count - 1 else _middle(node)
        right = self._made(node.leaf, node.keys[cut:], node.items[cut:], 0)
        del node.keys[cut:], node.items[cut:]
        node.bytes, right.bytes = _size(node), _size(right)
        if path:
            parent, below = path.pop()
        else:
            parent, below = self._made(False, [b""], [node], _ITEM_BYTES), 0
            self.node = parent
            self.depth += 1
        parent.keys.insert(below + 1, right.keys[0])
        parent.items.insert(below + 1, right)
        parent.bytes += len(right.keys[0]) + _ITEM_BYTES
        return parent, below + 1

    def _join(self, parent: Node, at: int, node: Node) -> None:
        """Let a node that became small go into its neighbour, where both fit into one."""
        if node.keys:
            if len(parent.items) == 1:
                return
            left_at = at if at + 1 < len(parent.items) else at - 1
            left: Node = parent.items[left_at]  # type: ignore[assignment]
            right: Node = parent.items[left_at + 1]  # type: ignore[assignment]
            if left.bytes + right.bytes + len(parent.keys[left_at + 1]) > _ROOM:
                return
            if left.token != self.token:
                left = parent.items[left_at] = self._own(left)
            keys = right.keys.copy()
            if not right.leaf:  # its first key was no bound where it was; here it is one
                keys[0] = parent.keys[left_at + 1]
            left.keys.extend(keys)
            left.items.extend(right.items)
            left.bytes = _size(left)
            at, node = left_at + 1, right
        self._drop(node)
        del parent.keys[at], parent.items[at]
        parent.bytes = _size(parent)


def _middle(node: Node) -> int:
    """Where to cut a node so that both halves are about as large."""
    sizes = list(accumulate(_sizes(node)))
    return min(range(1, len(sizes)), key=lambda at: abs(2 * sizes[at - 1] - sizes[-1]))


def _size(node: Node) -> int:
    return sum(_sizes(node))


def _sizes(node: Node) -> Iterable[int]:
    if node.leaf:
        return map(_weight, node.keys, node.items)  # type: ignore[arg-type]
    return (len(key) + _ITEM_BYTES for key in node.keys)
