# On the path of a put.
"""From a key to its shard: the node's cached copy of group 0's map, compiled into a table.

The map may be behind; a command carries the epoch that it was routed by and is checked again when it is applied.
"""

from __future__ import annotations

from collections.abc import Callable

from multiraft._routes import RouteTable, physical_key
from multiraft.config import KEY_BYTES_MAX, SLOTS
from multiraft.errors import InvalidCommand, NoLeader, TooLarge
from multiraft.node.meta import DEFAULT_SPACE, ShardMap, ShardRecord, space_prefix

SLOT_BYTES = 2


class Routing:
    """Where the keys of the default space live. Empty until group 0 is applied here."""

    def __init__(self) -> None:
        self.space = DEFAULT_SPACE
        self.hashed = False
        self.shards: tuple[ShardRecord, ...] = ()
        self._table: RouteTable | None = None
        self.on_change: Callable[[RouteTable, bool], None] = lambda table, hashed: None
        """Called with each newer table, and whether keys are hashed."""

    def set(self, shard_map: ShardMap) -> None:
        """Take a newer map."""
        self.hashed = shard_map.cluster.hashed
        self.shards = shard_map.shards
        prefix = space_prefix(self.space)
        routes = [
            (shard.start if shard.start > prefix else b"", shard.group, shard.range_epoch)
            for shard in self.shards
        ]
        self._table = RouteTable(routes)
        self.on_change(self._table, self.hashed)

    def physical(self, key: bytes) -> bytes:
        """The key as it stands on the disk. Raises InvalidCommand or TooLarge."""
        if type(key) is not bytes or not key:
            raise InvalidCommand(f"a key is bytes, one at least, and not {key!r:.50}")
        if len(key) > KEY_BYTES_MAX:
            raise TooLarge(f"a key has {len(key)} bytes; {KEY_BYTES_MAX} are the limit")
        return physical_key(self.space, key, self.hashed)

    def user_key(self, physical: bytes) -> bytes:
        """The key as its user has it; one of another space as it is."""
        prefix = space_prefix(self.space)
        if not physical.startswith(prefix):
            return physical
        return physical[len(prefix) + (SLOT_BYTES if self.hashed else 0) :]

    @property
    def known(self) -> bool:
        """Is the map known here? No keys, and keys that nobody knows of yet, are not the same."""
        return self._table is not None

    def find(self, physical: bytes) -> tuple[int, int]:
        """(group, range epoch) of a physical key. Raises NoLeader while the map is not known here."""
        if self._table is None:
            raise NoLeader("this node does not know the shards yet")
        return self._table.find(physical)

    def physical_range(self, start: bytes, end: bytes) -> tuple[bytes, bytes]:
        """The physical keys of a range of keys that are in order. Raises InvalidCommand."""
        if self.hashed:
            raise InvalidCommand(
                "keys of a hash space are in no order: a range of them cannot be deleted at once"
            )
        if not isinstance(start, bytes) or not isinstance(end, bytes) or (end and start >= end):
            raise InvalidCommand("a range of keys begins before it ends")
        if max(len(start), len(end)) > KEY_BYTES_MAX:
            raise InvalidCommand(f"the ends of a range have at most {KEY_BYTES_MAX} bytes")
        prefix = space_prefix(self.space)
        return prefix + start, prefix + end if end else space_prefix(self.space + 1)

    def find_range(self, start: bytes, end: bytes) -> tuple[int, int]:
        """(group, range epoch) of the one shard that holds a physical range. Raises InvalidCommand for a range over two."""
        group, epoch = self.find(start)
        shard = next(shard for shard in self.shards if shard.group == group)
        if end > shard.end:
            raise InvalidCommand("the range lies in two shards; delete its parts one by one")
        return group, epoch

    def ranges(self, low: bytes, high: bytes) -> list[tuple[ShardRecord, bytes, bytes]]:
        """The shards that may hold keys from ``low`` up to ``high`` (b"": the end), each with the physical range there.

        In a hash space every shard may; its parts are then taken slot by slot (``slots_of``).
        """
        prefix, end = space_prefix(self.space), space_prefix(self.space + 1)
        if self.hashed:
            return [(shard, shard.start, shard.end) for shard in self.shards]
        first, last = prefix + low, prefix + high if high else end
        found = []
        for shard in self.shards:
            start, stop = max(first, shard.start), min(last, shard.end)
            if start < stop:
                found.append((shard, start, stop))
        return found

    def slots_of(self, shard: ShardRecord) -> range:
        """The hash slots of a shard of a hash space."""
        prefix, end = space_prefix(self.space), space_prefix(self.space + 1)
        first = 0 if shard.start <= prefix else int.from_bytes(shard.start[2:4], "big")
        last = SLOTS if shard.end >= end else int.from_bytes(shard.end[2:4], "big")
        return range(first, last)
