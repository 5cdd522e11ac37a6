# On the path of a put.
"""The turn: the one synchronous pass in which a node does everything it has to do.

Frames, syncs and ticks that come in only change replicas and mark them; nothing is sent, written or applied until the turn.
A turn is scheduled once when something is pending, never runs inside another, and is bounded: 2 ms of applying and a number
of wake-ups, the rest in the next. It is the only place that knows the log, the links and the state machines together.

Order within a turn: read rounds are started; one pass over the dirty replicas; frames leave; batches go to the log; committed
and locally synced entries are applied; whoever waited is woken.

Invariants: what is handed to the log is handed over in order; an entry is applied once; a state is flushed only after the log
has synced a commit index that covers it. Any storage error ends the node: nothing is acknowledged after it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from multiraft._core import CommittedRuns, RunKind
from multiraft._ticket import Waker
from multiraft.errors import LogCorrupt
from multiraft.histogram import Histogram
from multiraft.ids import NodeId
from multiraft.interfaces import Clock, LogStore, Transport
from multiraft.machine.kv import KeyValueStore
from multiraft.node.forwarding import calls_of
from multiraft.node.reads import Reads
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft
from multiraft.raft.multi import Ready

logger = logging.getLogger("multiraft.node")

APPLY_NS_MAX = 2_000_000
APPLY_ENTRIES_MAX = 256
WAKES_MAX = 2048


class TurnEvents(Protocol):
    """What the turn tells the node around it; none of these may block or call back into the turn."""

    def roles_changed(self, roles: list[tuple[int, int, int, int]]) -> None: ...

    def posts(self, posts: list[tuple[int, int, int, int, int, int, int, bytes]]) -> None: ...

    def meta_applied(self) -> None: ...

    def users_committed(self, runs: CommittedRuns) -> None: ...

    def snapshots(
        self,
        offered: list[tuple[int, int, int, int, int, bytes]],
        wanted: list[tuple[int, int, int]],
    ) -> None: ...

    def turned(self) -> None: ...

    def failed(self, error: BaseException) -> None: ...


@dataclass(slots=True)
class Counters:
    """What the turn has done since the start; times in nanoseconds."""

    turns: int = 0
    batches: int = 0
    batch_bytes: int = 0
    frames: int = 0
    frame_bytes: int = 0
    frames_dropped: int = 0
    applied_entries: int = 0
    apply_ns: int = 0
    elections: int = 0
    turn_ns: Histogram = field(default_factory=Histogram)
    apply_turn_ns: Histogram = field(default_factory=Histogram)
    apply_lag_ns: Histogram = field(default_factory=Histogram)
    batch_sizes: Histogram = field(default_factory=Histogram)


class Turn:
    """The heart of one node. ``schedule`` runs a function soon, once, on the node's loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        multi: MultiRaft,
        log: LogStore,
        store: KeyValueStore,
        transport: Transport,
        waker: Waker,
        events: TurnEvents,
        schedule: Callable[[Callable[[], None]], object],
    ) -> None:
        self._clock = clock
        self._multi = multi
        self._log = log
        self._store = store
        self._transport = transport
        self._waker = waker
        self._events = events
        self._schedule = schedule
        self._scheduled = False
        self._running = False
        self._stopped = False
        self._blocked = False
        self._now_ns = clock.now_ns()
        self._backlog: deque[CommittedRuns] = deque()
        self._behind_since_ns = (
            0  # since when committed entries have waited to be applied; 0: none does
        )
        self._held = CommittedRuns()
        self._meta_applied = 0
        self.counters = Counters()
        self.waiters: Waiters
        self.reads: Reads

    def now(self) -> int:
        """The time as of the last turn or tick: good enough for deadlines, and free."""
        return self._now_ns

    # -- what comes in ----------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something is pending: run a turn soon."""
        if not self._scheduled and not self._running and not self._stopped:
            self._scheduled = True
            self._schedule(self.run)

    def on_frame(self, node: int, view: memoryview) -> None:
        """A checked frame came. Raises PeerProtocolError, which costs the link; anything worse ends the node."""
        if not self._stopped:
            try:
                self._multi.step_frame(node, view)
            finally:
                self.kick()  # what stood before a message that is refused was taken

    def on_synced(self, sequence: int) -> None:
        """The log has synced every batch up to this one."""
        if not self._stopped:
            self._multi.persisted(sequence)
            self.kick()

    def on_tick(self) -> None:
        """One tick of the node."""
        if self._stopped:
            return
        now_ns = self._now_ns = self.waiters.now_ns = self._clock.now_ns()
        self._multi.tick(now_ns)
        self.waiters.expire(now_ns)
        self.reads.tick(now_ns)
        self.unblock()

    def unblock(self) -> None:
        """A state machine has room again, or may have: what was held back is tried before anything newer."""
        self._blocked = False
        if len(self._held):
            self._store.release()
            self._backlog.appendleft(self._held)
            self._held = CommittedRuns()
        self.kick()

    def stop(self) -> None:
        """No turn runs after this; idempotent."""
        self._stopped = True

    # -- the pass -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """One turn."""
        self._scheduled = False
        if self._stopped:
            return
        self._running = True
        started_ns = self._now_ns = self.waiters.now_ns = self._clock.now_ns()
        try:
            more = self._pass(started_ns)
        except BaseException as error:
            self._stopped = True
            self._events.failed(error)
            return
        finally:
            self._running = False
        self.counters.turns += 1
        self.counters.turn_ns.record(self._clock.now_ns() - started_ns)
        if more or self._multi.pending():
            self.kick()

    def _pass(self, now_ns: int) -> bool:
        self.reads.ask(now_ns)
        ready = self._multi.ready()
        self._send(ready)
        for batch in ready.batches:
            self._log.append(batch)
            self.counters.batches += 1
            self.counters.batch_bytes += len(batch)
            self.counters.batch_sizes.record(len(batch))
        self._events.turned()
        self._tell(ready)
        if ready.committed is not None:
            self._backlog.append(ready.committed)
            self._behind_since_ns = self._behind_since_ns or now_ns
        if ready.committed_users is not None:
            self._events.users_committed(ready.committed_users)
        behind = self._apply() if self._backlog and not self._blocked else False
        self._watch_meta()  # also when nothing is applied: a snapshot may have brought group 0
        if ready.read_states:
            self.reads.answered(ready.read_states)
        self.reads.applied()
        more = self._waker.drain(WAKES_MAX)
        self._store.end_turn()
        return behind or more

    def _send(self, ready: Ready) -> None:
        lost = set()
        for node, frame in ready.frames:
            self.counters.frames += 1
            self.counters.frame_bytes += len(frame)
            if not self._transport.send(node, frame):
                self.counters.frames_dropped += 1
                lost.add(node)
                self._send_calls(NodeId(node), frame)
        for node in sorted(lost):
            self._multi.unreachable(node)

    def _send_calls(self, node: NodeId, frame: bytes) -> None:
        """Of a frame that found no room, send the forwarded calls and the answers. Replicas say again what is lost, but whoever
        waits for a call would never hear: where they cannot be sent either, the link ends, and both sides know.
        """
        calls = calls_of(frame)
        if calls is None or self._transport.send(node, calls, calls=True):
            return
        if self._transport.connected(node):
            logger.warning(
                "the link to node %d is full of calls: it ends", node, extra={"node": node}
            )
            self._transport.drop(node)

    def _tell(self, ready: Ready) -> None:
        for group, peer, first, bytes_max in ready.wanted:
            self._fetch(group, peer, first, bytes_max)
        if ready.roles:
            self._events.roles_changed(ready.roles)
        if ready.posts:
            self._events.posts(ready.posts)
        if ready.snapshots or ready.snapshots_wanted:
            self._events.snapshots(ready.snapshots, ready.snapshots_wanted)

    def _fetch(self, group: int, peer: int, first: int, bytes_max: int) -> None:
        def done(runs: list[bytes] | None, error: BaseException | None) -> None:
            if isinstance(error, LogCorrupt):
                self._stopped = True
                self._events.failed(error)
                return
            if error is not None:
                logger.warning(
                    "reading the log failed: %s", error, extra={"group": group, "first": first}
                )
            if not self._stopped:
                self._multi.fetched(group, peer, runs)
                self.kick()

        self._log.fetch(group, first, bytes_max, done)  # type: ignore[arg-type]

    # -- applying -------------------------------------------------------------------------------------------------------------

    def _apply(self) -> bool:
        """Apply what is committed and synced here, for at most 2 ms; True if more could be applied at once."""
        began_ns = self._clock.now_ns()
        until_ns = began_ns + APPLY_NS_MAX
        while self._backlog:
            runs = self._backlog[0]
            start = runs.done
            entries = self._store.apply(runs, APPLY_ENTRIES_MAX, self._held)
            self._multi.applied(runs, start, runs.done)
            self.waiters.settle(runs, start, runs.done)
            self.counters.applied_entries += entries
            if runs.done == len(runs):
                self._backlog.popleft()
            elif entries == 0 and not self._apply_change(runs):
                self._blocked = True  # go on when a flush is done, or with the next tick
                break
            if self._clock.now_ns() >= until_ns:
                break
        ended_ns = self._clock.now_ns()
        self.counters.apply_ns += ended_ns - began_ns
        self.counters.apply_turn_ns.record(ended_ns - began_ns)
        if not self._backlog and not len(self._held):
            self.counters.apply_lag_ns.record(ended_ns - self._behind_since_ns)
            self._behind_since_ns = 0
        return bool(self._backlog) and not self._blocked

    def _apply_change(self, runs: CommittedRuns) -> bool:
        """If a membership change stands next: let it take effect here, in its place. False if something else does."""
        group, first, term, kind, payloads = runs.item(runs.done)
        if kind != RunKind.RUN_MEMBERSHIP:
            return False
        for offset, payload in enumerate(payloads):
            membership = self._multi.apply_membership(group, first + offset, payload)
            self._store.membership_applied(group, first + offset, term, membership)
        runs.done += 1
        self._multi.applied(runs, runs.done - 1, runs.done)
        self.waiters.settle(runs, runs.done - 1, runs.done)
        return True

    def _watch_meta(self) -> None:
        if 0 in self._multi:
            applied_index = self._multi.indexes(0)[3]
            if applied_index != self._meta_applied:
                self._meta_applied = applied_index
                self._events.meta_applied()
