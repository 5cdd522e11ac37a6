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
from multiraft.node.keeper import Keeper
from multiraft.node.reads import Reads
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft, Role
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
    """The users' groups of one node. ``linked`` says which nodes can be handed a leadership."""

    def __init__(
        self,
        *,
        multi: MultiRaft,
        machines: UserMachines,
        files: UserFiles,
        keeper: Keeper,
        waker: Waker,
        kick: Callable[[], None],
        linked: Callable[[int], bool],
        retry: Callable[[int], None],
        log_bytes_max: int,
    ) -> None:
        self._multi = multi
        self._machines = machines
        self._files = files
        self._keeper = keeper
        self._waker = waker
        self._kick = kick
        self._linked = linked
        self._retry = retry
        self._log_bytes_max = log_bytes_max
        self._held: set[int] = set()
        self._quarantined: set[int] = set()
        self._attempts: dict[int, int] = {}
        self._asked: list[tuple[int, Ticket[Any]]] = []
        self.applied_entries = 0
        self.saves = 0
        self.waiters: Waiters
        self.reads: Reads
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
        """Save what is due, end reads that are late, and go on handing over what a failed machine leads."""
        late = [ticket for deadline_ns, ticket in self._asked if deadline_ns <= now_ns]
        for ticket in late:
            self._waker.fail(
                ticket, DeadlineExceeded("the time was up before the machine answered the read")
            )
        self._asked = [one for one in self._asked if one[0] > now_ns and not one[1].done()]
        for group in sorted(self._quarantined):
            if group in self._multi:
                self._hand_over(group)
        for hosted in self._machines.all():
            pinned = hosted.group in self._keeper.pinning
            if self._files.due(hosted, 0 if pinned else self._log_bytes_max):
                self.save(hosted.group)

    def _hand_over(self, group: int) -> None:
        """As leader, to each of the others in turn, the most advanced first: its machine may have failed, too."""
        status = self._multi.replica(group).status()
        if status.role != Role.LEADER or status.transfer_to:
            return
        others = [
            peer
            for peer in status.peers.values()
            if peer.replica != status.replica and not peer.learner and self._linked(peer.node)
        ]
        if others:
            others.sort(key=lambda peer: (-peer.match_index, peer.replica))
            attempt = self._attempts.get(group, 0)
            self._attempts[group] = attempt + 1
            self._multi.transfer_leader(group, others[attempt % len(others)].replica)

    def save(self, group: int) -> None:
        """Make a machine's state durable and forget the log behind it. The log has synced a commit index before that covers it."""
        self._machines[group].saving = True
        self._multi.record_commit(group)

        def saved(at: At | None) -> None:
            if at is None or group not in self._multi:
                return
            self.saves += 1
            self._keeper.compact(group, at.index, decode_membership(at.membership))

        self._keeper.after_sync(lambda: self._files.save(group, saved))

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
        if group in self._held and self._machines[group].roomy:
            self._held.discard(group)
            self._multi.hold(group, False)
            self._retry(group)
        self.leaders.look(group)
        self._kick()

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
        if group in self._quarantined:
            logger.warning(
                "group %d (%s) applies again", group, hosted.name, extra={"group": group}
            )
            self._quarantined.discard(group)
            self._multi.quarantine(group, False)
        self.leaders.look(group)
        self._kick()

    def machine_stopped(self, group: int, cause: BaseException) -> None:
        hosted = self._machines[group]
        logger.error(
            "group %d (%s, kind %s) is quarantined after entry %d: %s: %s",
            group,
            hosted.name,
            hosted.kind,
            hosted.at.index,
            type(cause).__name__,
            cause,
            exc_info=None if isinstance(cause, MultiRaftError) else cause,
            extra={"group": group},
        )
        self._quarantined.add(group)
        self._held.discard(group)
        self._multi.hold(group, False)
        self._multi.quarantine(group)
        self._hand_over(group)
        self.waiters.forget(
            group, "the state machine failed where it led; the command may have happened"
        )
        self.reads.refuse(group, hosted.refusal)
        self.leaders.look(group)
        self._kick()

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

    def require_running(self, group: int) -> None:
        """Raise Quarantined where the machine does not run here."""
        hosted = self._machines[group]
        if hosted.life is Life.STOPPED:
            raise hosted.refusal

    def require_somebody(self, group: int) -> None:
        """Raise Quarantined where it runs nowhere: the only member of the group has failed."""
        if len(self._multi.replica(group).membership().members) == 1:
            self.require_running(group)

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
            quarantined=""
            if hosted.cause is None
            else f"{type(hosted.cause).__name__}: {hosted.cause}",
            alarm=hosted.alarm,
        )
