"""Linearizable reads that need a word from a quorum: gathered per group, asked once a turn, served when applied.

A read joins the batch that its group's *next* round will confirm, never one that is on its way (pitfall 35). The answer is a
read index; the read runs here once this replica has applied that far. A leader that changes, or a node that does not
answer, puts the batch back; only its deadline ends a read without an answer. That holds for a read that was handed to another
thread, too: a disk that hangs keeps no caller, and what it answers at last is dropped.

It performs reads that are handed to it as functions and knows nothing of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from multiraft._ticket import Ticket, Waker
from multiraft.errors import DeadlineExceeded, MultiRaftError
from multiraft.raft import MultiRaft


@dataclass(slots=True)
class Read:
    """One read that waits: ``run`` settles its ticket, now or when the disk answered; ``deadline_ns`` ends the wait."""

    ticket: Ticket[Any]
    run: Callable[[Ticket[Any]], None]
    deadline_ns: int


@dataclass(slots=True)
class Round:
    """The reads of one group that one read index answers, and when it was asked for."""

    group: int
    reads: list[Read]
    asked_ns: int


class Reads:
    """All waiting reads of a node.

    ``retry_ns`` is how long a round may stay unanswered before it is asked anew; ``contexts`` are ``ids.message_ids``.
    """

    def __init__(
        self,
        multi: MultiRaft,
        waker: Waker,
        kick: Callable[[], None],
        *,
        retry_ns: int,
        contexts: Iterator[int],
    ) -> None:
        self._multi = multi
        self._waker = waker
        self.kick = kick
        self._retry_ns = retry_ns
        self._contexts = contexts
        self._gathering: dict[int, list[Read]] = {}
        self._rounds: dict[int, Round] = {}
        self._applying: dict[int, list[tuple[int, list[Read]]]] = {}
        self._late: list[tuple[int, Ticket[Any]]] = []
        """Deadlines and tickets of reads that another thread does."""
        self._stopped: dict[int, MultiRaftError] = {}

    def __len__(self) -> int:
        held = sum(len(reads) for reads in self._gathering.values())
        held += sum(len(one.reads) for one in self._rounds.values())
        held += sum(len(reads) for waits in self._applying.values() for _, reads in waits)
        return held + sum(not ticket.done() for _, ticket in self._late)

    def submit(
        self, group: int, run: Callable[[Ticket[Any]], None], deadline_ns: int
    ) -> Ticket[Any]:
        """A ticket that ``run`` settles once this replica is known to be as new as the call."""
        read = Read(self._waker.ticket(), run, deadline_ns)
        if self._stopped and group in self._stopped:
            self._waker.fail(read.ticket, self._stopped[group])
            return read.ticket
        self._gathering.setdefault(group, []).append(read)
        self.kick()
        return read.ticket

    def run(self, run: Callable[[Ticket[Any]], None], deadline_ns: int) -> Ticket[Any]:
        """The ticket of a read that may be done now, whatever it sees."""
        ticket: Ticket[Any] = self._waker.ticket()
        self._run(run, ticket, deadline_ns)
        return ticket

    def ask(self, now_ns: int) -> None:
        """Start a round for every group that has gathered reads; what finds no leader stays and is asked again."""
        for group in list(self._gathering):
            if group not in self._multi:
                continue
            context = next(self._contexts)
            if self._multi.read_index(group, context):
                self._rounds[context] = Round(group, self._gathering.pop(group), now_ns)

    def answered(self, read_states: Iterable[tuple[int, int, int | None]]) -> None:
        """Read indexes came: those that are applied already are served now."""
        for group, context, index in read_states:
            round = self._rounds.pop(context, None)
            if round is None:
                continue
            if index is None:
                self._gather_again(round)
            elif self._multi.indexes(group)[3] >= index:
                self._serve(round.reads)
            else:
                self._applying.setdefault(group, []).append((index, round.reads))

    def applied(self) -> None:
        """Groups have applied more: serve what waited for it. Called once a turn."""
        for group in list(self._applying):
            applied_index = self._multi.indexes(group)[3] if group in self._multi else 0
            waits = self._applying.pop(group)
            for index, reads in waits:
                if index <= applied_index:
                    self._serve(reads)
            if left := [wait for wait in waits if wait[0] > applied_index]:
                self._applying[group] = left

    def tick(self, now_ns: int) -> None:
        """End what is past its deadline, and ask anew what got no answer."""
        for context, round in list(self._rounds.items()):
            if now_ns - round.asked_ns >= self._retry_ns:
                del self._rounds[context]
                self._gather_again(round)
        for group, reads in list(self._gathering.items()):
            kept = [read for read in reads if not self._ended(read, now_ns)]
            if kept:
                self._gathering[group] = kept
                self.kick()
            else:
                del self._gathering[group]
        for waits in self._applying.values():
            for _, reads in waits:
                reads[:] = [read for read in reads if not self._ended(read, now_ns)]
        self._end_late(now_ns)

    def stop(self, group: int, error: MultiRaftError) -> None:
        """The replica here applies nothing more: no read of its group that waits, or comes, can be served."""
        self._stopped[group] = error
        reads = self._gathering.pop(group, [])
        for context in [context for context, one in self._rounds.items() if one.group == group]:
            reads += self._rounds.pop(context).reads
        for _, waiting in self._applying.pop(group, []):
            reads += waiting
        for read in reads:
            self._waker.fail(read.ticket, error)
        self.kick()

    def resume(self, group: int) -> None:
        """The replica here applies again."""
        self._stopped.pop(group, None)

    def close(self, error: MultiRaftError) -> None:
        """Answer everybody (pitfall 42)."""
        for reads in [
            *self._gathering.values(),
            *(round.reads for round in self._rounds.values()),
            *(reads for waits in self._applying.values() for _, reads in waits),
        ]:
            for read in reads:
                self._waker.fail(read.ticket, error)
        for _, ticket in self._late:
            self._waker.fail(ticket, error)
        self._late.clear()
        self._gathering.clear()
        self._rounds.clear()
        self._applying.clear()

    def _gather_again(self, round: Round) -> None:
        self._gathering.setdefault(round.group, []).extend(round.reads)
        self.kick()

    def _ended(self, read: Read, now_ns: int) -> bool:
        if read.ticket.done():
            return True
        if read.deadline_ns > now_ns:
            return False
        # A read changes nothing, but its deadline is reported as every other: the caller handles one kind of timeout.
        self._waker.fail(
            read.ticket, DeadlineExceeded("the time was up before the read could be confirmed")
        )
        return True

    def _serve(self, reads: list[Read]) -> None:
        for read in reads:
            if read.ticket.done():
                continue
            try:
                self._run(read.run, read.ticket, read.deadline_ns)
            except MultiRaftError as error:
                self._waker.fail(read.ticket, error)

    def _run(
        self, run: Callable[[Ticket[Any]], None], ticket: Ticket[Any], deadline_ns: int
    ) -> None:
        run(ticket)
        if not ticket.done():
            self._late.append((deadline_ns, ticket))

    def _end_late(self, now_ns: int) -> None:
        if not self._late:
            return
        for deadline_ns, ticket in self._late:
            if deadline_ns <= now_ns:
                self._waker.fail(
                    ticket, DeadlineExceeded("the time was up before the disk answered the read")
                )
        self._late = [one for one in self._late if not one[1].done()]
        self.kick()
