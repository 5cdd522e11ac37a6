"""Users' groups on a node: what their machines do is told to Raft, to the callers who wait, and to the log - and back.

The machines themselves (``machine/user``) know nothing of Raft. Here a machine that is behind holds its group back, one that
failed is quarantined and its leadership handed over (pitfall 97), one that applied enough is saved and its log compacted - in
that order, each step durable before the next (pitfalls 55, 86). No failure here ends the node, but one of the log's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from multiraft._core import CommittedRuns
from multiraft._ticket import Ticket, Waker
from multiraft.errors import DeadlineExceeded, LogCorrupt, MultiRaftError
from multiraft.machine.hosted import Life
from multiraft.machine.states import At
from multiraft.machine.user import UserMachines
from multiraft.machine.user_files import UserFiles
from multiraft.node.admission import Admission
from multiraft.node.keeper import Keeper
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft
from multiraft.records import decode_membership

logger = logging.getLogger("multiraft.node")


class Leaders(Protocol):
    """Whoever wants to know what may change the leadership of a user's group: ``leadership.Leadership``."""

    def look(self, group: int) -> None: ...


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One user's group on this node. ``lag_entries`` are committed and not applied here."""

    name: str
    kind: str
    group: int
    applied_index: int
    saved_index: int
    lag_entries: int
    queued_entries: int
    led: bool
    leader: int | None
    held: bool
    quarantined: str
    """Why it applies nothing; empty where it does."""
    alarm: str
    """What an operator should look at though it applies, as a state that cannot be saved; empty where there is nothing."""


class Hosting:
    """The users' groups of one node. ``retry`` tries calls of a group again that found no room."""

    def __init__(
        self,
        *,
        multi: MultiRaft,
        machines: UserMachines,
        files: UserFiles,
        keeper: Keeper,
        waker: Waker,
        kick: Callable[[], None],
        admission: Admission,
        retry: Callable[[int], None],
        log_bytes_max: int,
    ) -> None:
        self._multi = multi
        self._machines = machines
        self._files = files
        self._keeper = keeper
        self._waker = waker
        self._kick = kick
        self._admission = admission
        self._retry = retry
        self._log_bytes_max = log_bytes_max
        self._held: set[int] = set()
        self._asked: list[tuple[int, Ticket[Any]]] = []
        self.applied_entries = 0
        self.saves = 0
        self.waiters: Waiters
        self.leaders: Leaders
        machines.events = self

    def __contains__(self, group: int) -> bool:
        return group in self._machines

    # -- from the turn and the ticks --------------------------------------------------------------------------------------------

    def take(self, runs: CommittedRuns) -> None:
        """Committed entries of users' groups came: queue them, and hold back whoever has too many."""
        for group in self._machines.queue(runs):
            if self._machines[group].full and group not in self._held:
                self._held.add(group)
                self._multi.hold(group, True)

    def tick(self, now_ns: int) -> None:
        """Save what is due, and end reads that are late."""
        late = [ticket for deadline_ns, ticket in self._asked if deadline_ns <= now_ns]
        for ticket in late:
            self._waker.fail(
                ticket, DeadlineExceeded("the time was up before the machine answered the read")
            )
        self._asked = [one for one in self._asked if one[0] > now_ns and not one[1].done()]
        for hosted in self._machines.all():
            pinned = hosted.group in self._keeper.pinning
            if self._files.due(hosted, 0 if pinned else self._log_bytes_max):
                self.save(hosted.group)

    def save(self, group: int) -> None:
        """Make a machine's state durable and forget the log behind it.

        Before it is written, and while it stands still, the log syncs a commit index that covers all that it has applied.
        """

        def covered(go_on: Callable[[], None]) -> None:
            if group in self._multi:
                self._multi.record_commit(group)
            self._keeper.after_sync(go_on)

        def saved(at: At | None) -> None:
            if at is None or group not in self._multi:
                return
            self.saves += 1
            self._keeper.compact(group, at.index, decode_membership(at.membership))

        self._files.save(group, covered, saved)

    # -- what machines tell -----------------------------------------------------------------------------------------------------

    def machine_wanted(self, group: int) -> bool:
        return self.waiters.waits(group)

    def machine_applied(
        self, group: int, term: int, first: int, count: int, results: list[Any] | None
    ) -> None:
        self._multi.applied_to(group, first + count - 1)
        self.applied_entries += count
        self.waiters.settle_machine(
            group, term, first, results if results is not None else [None] * count
        )
        self._unhold(group)
        self.leaders.look(group)
        self._kick()

    def _unhold(self, group: int) -> None:
        """Hand out entries again where there is room for them, and take proposals."""
        if group in self._held and self._machines[group].roomy:
            self._held.discard(group)
            self._multi.hold(group, False)
            self._retry(group)

    def machine_membership(self, group: int, index: int, payload: bytes) -> bytes:
        return self._multi.apply_membership(group, index, payload)

    def machine_opened(self, group: int) -> None:
        hosted = self._machines[group]
        last_index = self._multi.indexes(group)[4]
        if hosted.at.told_index > last_index:
            cause = LogCorrupt(
                f"the machine of {hosted.name!r} holds commands up to {hosted.at.told_index}, but the log ends at {last_index}"
            )
            self._machines.fail(hosted, cause)
            return
        self._admission.release(group)
        self._unhold(group)  # a snapshot may have taken the place of all that was queued
        self.leaders.look(group)
        self._kick()

    def machine_stopped(self, group: int, cause: BaseException) -> None:
        if isinstance(cause, MultiRaftError):
            error = cause
        else:
            # Whose machine it is wants to see where it failed; the node's own words about it come from the admission.
            name = self._machines[group].name
            logger.error("the machine of %r failed", name, exc_info=cause, extra={"group": group})
            error = MultiRaftError(f"{type(cause).__name__}: {cause}")
            error.__cause__ = cause
        self._held.discard(group)
        self._multi.hold(group, False)
        self._admission.quarantine(group, error)
        self.leaders.look(group)

    def fail(self, group: int, cause: BaseException) -> None:
        """A machine failed in what it does besides applying: the same as if it had failed there."""
        hosted = self._machines[group]
        if hosted.life is not Life.STOPPED:
            self._machines.fail(hosted, cause)

    def machine(self, group: int) -> Any:
        """The machine of a group where it runs; None where it does not."""
        hosted = self._machines[group]
        return hosted.machine if hosted.life is Life.RUNNING else None

    # -- what callers ask ---------------------------------------------------------------------------------------------------------

    def read(self, group: int, query: Any, ticket: Ticket[Any], deadline_ns: int) -> None:
        """Ask the machine, and settle the ticket with what it answers, or when the time is up."""
        self._asked.append((deadline_ns, ticket))

        def done(answer: Any, error: BaseException | None) -> None:
            if error is not None:
                self._waker.fail(ticket, error)
            else:
                self._waker.settle(ticket, answer)
            self._kick()

        self._machines.read(group, query, done)

    def status(self) -> tuple[GroupStatus, ...]:
        """Every user's group on this node, by its id."""
        return tuple(self._status(hosted.group) for hosted in self._machines.all())

    def _status(self, group: int) -> GroupStatus:
        hosted = self._machines[group]
        _, _, commit_index, applied_index, _ = self._multi.indexes(group)
        stopped = self._admission.stopped.get(group)
        return GroupStatus(
            name=hosted.name,
            kind=hosted.kind,
            group=group,
            applied_index=applied_index,
            saved_index=hosted.state.info.index if hosted.state is not None else 0,
            lag_entries=commit_index - applied_index,
            queued_entries=hosted.queued_entries,
            led=self._multi.leads(group),
            leader=self._multi.leader_node(group),
            held=group in self._held,
            quarantined=str(stopped.error) if stopped is not None else "",
            alarm=hosted.alarm,
        )
