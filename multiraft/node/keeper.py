"""Keeping: memtables are flushed, logs are compacted, nothing grows without bound.

One rule orders it all (architecture, "Two environments, one truth"): the state environment never gets ahead of the log. A
frozen memtable covers entries up to some applied index; before it is flushed, the log must have synced those entries, a commit
index that covers them, and every creation that they caused. So a flush goes through three steps here, each of which may wait:
freeze, a barrier (the sequence of a batch that must be synced), flush. When it is done, the log below may be forgotten.

Nothing here blocks: freezing is cheap, flushing runs on the store's own worker.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from multiraft.errors import NoSpace
from multiraft.interfaces import LogStore, Membership
from multiraft.machine.kv import KeyValueStore
from multiraft.raft import MultiRaft

logger = logging.getLogger("multiraft.node")

ACTS_MAX = 64
"""Of what waited for a sync, so much is done in one turn."""


class Keeper:
    """Flushes and compactions of one node. ``failed`` is told of an error that ends it."""

    def __init__(
        self,
        *,
        multi: MultiRaft,
        log: LogStore,
        store: KeyValueStore,
        kick: Callable[[], None],
        later: Callable[[Callable[[], None]], object],
        unblock: Callable[[int], None],
        failed: Callable[[BaseException], None],
        log_budget_bytes: int,
        log_kept_entries: int,
        tail_bytes_max: int,
    ) -> None:
        self._multi = multi
        self._log = log
        self._store = store
        self._kick = kick
        self._later = later
        self._unblock = unblock
        self._failed = failed
        self._log_budget_bytes = log_budget_bytes
        self._log_kept_entries = log_kept_entries
        self._tail_bytes_max = tail_bytes_max
        self._frozen: set[int] = set()
        self._short: set[int] = set()
        self._fresh: list[Callable[[], None]] = []
        self._barriers: deque[tuple[int, Callable[[], None]]] = deque()
        self._pinning: frozenset[int] = frozenset()
        self.flushes = 0

    def tick(self, now_ns: int) -> None:
        """Look for what is due. Called with the node's tick."""
        self._multi.trim_memory(self._tail_bytes_max)
        over = self._log.space().used_bytes - self._log_budget_bytes
        self._pinning = frozenset(self._log.pinning(over)) if over > 0 else frozenset()
        self._store.request_flush(sorted(self._pinning))
        for group in self._store.due(now_ns):
            self.freeze(group)

    @property
    def pinning(self) -> frozenset[int]:
        """The groups that keep the log from shrinking to its budget, as of the last tick."""
        return self._pinning

    def freeze(self, group: int) -> None:
        """Begin a flush of the group's memtable, unless one is under way."""
        if group in self._frozen or group not in self._multi:
            return
        self._frozen.add(group)
        self._store.freeze(group)
        self._multi.record_commit(group)
        self.after_sync(
            lambda: self._store.flush(
                group, lambda index, error: self._flushed(group, index, error)
            )
        )

    def after_sync(self, act: Callable[[], None]) -> None:
        """Call ``act`` once everything that is in the log's next batch, and all before it, is synced."""
        self._fresh.append(act)
        self._kick()

    def turned(self) -> None:
        """The turn has handed out its batches: what was asked for before waits for the newest of them, and goes when synced."""
        self._barriers.extend((self._multi.sequence, act) for act in self._fresh)
        self._fresh.clear()
        for _ in range(ACTS_MAX):
            if not self._barriers or self._barriers[0][0] > self._multi.persisted_sequence:
                return
            self._barriers.popleft()[1]()
        self._later(self._kick)  # the rest in the next turn: thousands of shards may begin at once

    def idle(self) -> bool:
        """Is no flush under way?"""
        return not self._frozen

    def _flushed(self, group: int, applied_index: int | None, error: BaseException | None) -> None:
        self._frozen.discard(group)
        if isinstance(error, NoSpace):
            if group not in self._short:
                self._short.add(group)  # said once, not with every try
                logger.warning("group %d is not flushed: %s", group, error, extra={"group": group})
            return  # nothing happened; it stays due and is tried with a later tick
        if error is not None:
            self._failed(error)
            return
        self._short.discard(group)
        self.flushes += 1
        if applied_index is not None and group in self._multi:
            self.compact(group, applied_index)
        self._unblock(group)

    def compact(self, group: int, flushed_index: int, membership: Membership | None = None) -> None:
        """Forget the log that is durable elsewhere now, but for what a slow follower may still want soon."""
        base_index = self._multi.indexes(group)[0]
        index = flushed_index
        if group not in self._pinning:
            index = min(index, self._multi.slowest_match(group))
            if index - base_index < self._log_kept_entries:
                return
        self._multi.compact(group, index, membership)
        self._kick()
