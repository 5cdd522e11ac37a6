"""What must never happen, whatever the schedule: looked for after every ready and every entry applied.

The five properties of the paper's figure 3, and what follows from them for a state machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from multiraft._core import MessageKind as K
from multiraft._core import RunKind
from multiraft.interfaces import Membership
from multiraft.raft import Entry, Message, Ready, Role
from tests.spec.pair import Pair

FROM_LEADER = (K.MSG_APPEND, K.MSG_HEARTBEAT, K.MSG_SNAPSHOT)


@dataclass
class Safety:
    """Everything that is known of a run, over all replicas and all their lives."""

    leaders: dict[int, int] = field(default_factory=dict)
    """term -> who leads it."""
    entries: dict[tuple[int, int], tuple[bytes, int, int]] = field(default_factory=dict)
    """(index, term) -> payload, kind, term of the entry before."""
    committed: list[tuple[int, bytes]] = field(default_factory=lambda: [(0, b"")])
    """index -> term and payload of what is committed there."""
    committed_in: list[int] = field(default_factory=lambda: [0])
    """index -> the lowest term of a leader that knew it committed."""
    memberships: dict[int, Membership] = field(default_factory=dict)
    """index of a change -> what followed from it."""
    seen_commit: dict[int, int] = field(default_factory=dict)
    reads: dict[tuple[int, int], int] = field(default_factory=dict)
    """(replica, context) -> what was committed somewhere when it was asked."""
    answered_reads: int = 0
    votes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(replica, term) -> whom it gave its vote, in an answer that left."""

    def after_input(self, pair: Pair) -> None:
        """Election safety, leader completeness, a committed prefix that never changes, and one pending change at most."""
        status = pair.compiled.status()
        if status.role == Role.LEADER:
            known = status.term in self.leaders
            leader = self.leaders.setdefault(status.term, pair.id)
            assert leader == pair.id, f"{leader} and {pair.id} both lead in term {status.term}"
            if not known:
                self._complete(pair, status.term)
        self._commit(pair, status.commit_index, status.term)
        self._pending(pair)

    def _pending(self, pair: Pair) -> None:
        """Of what nobody knows to be committed, no log holds two changes of the membership."""
        log, known = pair.spec.log, len(self.committed)
        above = range(max(known, log.base_index + 1), log.last + 1)
        changes = [index for index in above if log.at(index).kind == RunKind.RUN_MEMBERSHIP]
        assert len(changes) <= 1, f"{pair.id} holds changes at {changes}, committed is {known - 1}"

    def sent(self, message: Message) -> None:
        """One vote a term, over all lives of a replica."""
        if message.kind == K.MSG_VOTE_ACK and not message.reject:
            ours = (message.from_replica, message.term)
            given = self.votes.setdefault(ours, message.to_replica)
            assert given == message.to_replica, (
                f"{ours[0]} votes for {given} and for {message.to_replica} in term {ours[1]}"
            )

    def _complete(self, pair: Pair, term: int) -> None:
        """A leader has everything that was committed in earlier terms."""
        base = pair.spec.log.base_index
        for index in range(base, len(self.committed)):
            if index and self.committed_in[index] < term:
                have, need = pair.compiled.term_at(index), self.committed[index][0]
                assert have == need, (
                    f"{pair.id} leads term {term} without entry {index} of term {need} (it has {have})"
                )

    def _commit(self, pair: Pair, commit: int, term: int) -> None:
        log = pair.spec.log  # equal to the compiled one, which was just compared
        seen = self.seen_commit.get(pair.id, 0)
        for index in range(max(min(seen, commit), log.base_index) + 1, commit + 1):
            entry = log.at(index)
            if index == len(self.committed):
                self.committed.append((entry.term, entry.payload))
                self.committed_in.append(term)
            assert self.committed[index] == (entry.term, entry.payload), (
                f"{pair.id} commits another entry at {index}"
            )
            self.committed_in[index] = min(self.committed_in[index], term)
        self.seen_commit[pair.id] = commit

    def restarted(self, pair: Pair) -> None:
        self.seen_commit[pair.id] = 0

    def after_ready(self, pair: Pair, ready: Ready) -> None:
        """Log matching: an (index, term) names one entry, and everything before it."""
        before = 0
        for entry in ready.entries:
            if (prev := pair.spec.log).knows(entry.index - 1) and prev.matches(
                entry.index, entry.term
            ):
                before = prev.term(entry.index - 1)
                made = (entry.payload, entry.kind, before)
                known = self.entries.setdefault((entry.index, entry.term), made)
                assert known == made, (
                    f"entry {entry.index} of term {entry.term} is {known} and {made}"
                )
        for message in (*ready.messages, *ready.messages_after):
            if message.kind in FROM_LEADER:
                leader = self.leaders.get(message.term)
                assert leader == pair.id, f"{pair.id} sends {message}, but {leader} leads that term"
        for context, index in ready.read_states:
            self._read(pair, context, index)

    def asked(self, pair: Pair, context: int) -> None:
        self.reads[pair.id, context] = len(self.committed) - 1

    def _read(self, pair: Pair, context: int, index: int | None) -> None:
        floor = self.reads.get((pair.id, context))
        if floor is not None and index is not None:
            self.answered_reads += 1
            assert index >= floor, (
                f"{pair.id} may read at {index}, but {floor} was committed when it asked"
            )

    def after_apply(self, pair: Pair, entry: Entry) -> None:
        """All state machines apply the same entries, in the same order, each once."""
        index = entry.index
        assert (
            pair.applied[-1][0]
            == index
            == (pair.applied[-2][0] if len(pair.applied) > 1 else 0) + 1
        )
        assert self.committed[index] == (entry.term, entry.payload), (
            f"{pair.id} applies another entry at {index}"
        )
        membership = pair.compiled.membership()
        assert self.memberships.setdefault(index, membership) == membership, (
            f"two memberships follow from {index}"
        )
