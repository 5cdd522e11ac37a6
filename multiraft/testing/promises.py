"""What nodes promise each other must be true when it leaves: looked at on the wire, against the disks and logs of both ends.

- An acknowledged entry is synced at whoever acknowledges it, and is the one that the leader of that term has there.
- A vote is synced before it is granted, and before a candidate asks others to join its own; a granted one is the only one of its
  replica in that term, and goes to a log that lacks nothing of the voter's.
- Who leads was granted the votes of a majority, in every half of its membership; what a leader commits is of its own term and
  synced by a majority (Raft paper, sections 5.2 to 5.4).
- What a replica takes for synced is; and a restarted one comes back with all that it had promised.

These find a broken promise when it is given, without the crash that would make somebody suffer from it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from multiraft._core import MemberFlag, MessageFlag, MessageKind
from multiraft.interfaces import Membership
from multiraft.log.lookup import find_runs, group_facts, place_key
from multiraft.raft.state import Role
from multiraft.testing.cluster import Life, SimulatedCluster

_HEAD = struct.Struct("<HHIQIIQQ")
_FRAME_HEADER_BYTES = 64
_ACK, _VOTE = int(MessageKind.MSG_APPEND_ACK), int(MessageKind.MSG_VOTE)
_VOTE_ACK = int(MessageKind.MSG_VOTE_ACK)
_REJECT = int(MessageFlag.FLAG_REJECT)


@dataclass(slots=True)
class Promised:
    """What a node's replica of a group has promised, over all its lives."""

    term: int = 0
    """The newest in which it granted a vote or acknowledged an entry."""
    acknowledged: int = 0
    """In that term."""
    stable: int = 0
    """As of its last turn."""


@dataclass(slots=True)
class Seen:
    """One life's replica, as of its last turn."""

    stable: int = 0
    commit: int = 0
    leads: int = 0
    """The term in which it was told to lead last."""
    membership: Membership | None = None
    vote: tuple[int, int] = (0, 0)
    """(term, vote) in the log's index."""
    vote_sequence: int = 0
    """The batch that brought it."""


@dataclass(slots=True)
class GroupPromises:
    votes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(term, voter) -> candidate, by replica ids."""
    leaders: dict[int, Life] = field(default_factory=dict)
    committed: int = 0


class Promises:
    """The checks of one run; ``violated`` is told what is wrong, in one line."""

    def __init__(self, cluster: SimulatedCluster, violated: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._violated = violated
        self._groups: dict[int, GroupPromises] = {}
        self._promised: dict[tuple[int, int], Promised] = {}
        self._seen: dict[tuple[str, int], Seen] = {}

    def _group(self, group: int) -> GroupPromises:
        return self._groups.setdefault(group, GroupPromises())

    def _of(self, number: int, group: int) -> Promised:
        return self._promised.setdefault((number, group), Promised())

    # -- lives and turns ------------------------------------------------------------------------------------------------

    def forget(self, number: int) -> None:
        """A node's directory is another than before: it promises nothing any more."""
        for key in [key for key in self._promised if key[0] == number]:
            del self._promised[key]

    def started(self, life: Life) -> None:
        """A node came back: does it know what it promised?"""
        multi = life.node.multi
        for group in multi.groups():
            promised = self._of(life.number, group)
            status = multi.replica(group).status()
            self._seen[life.name, group] = Seen(vote=(status.term, status.vote))
            if status.term < promised.term:
                self._violated(
                    f"node {life.name} comes back in term {status.term} of group {group}, after promises in term {promised.term}"
                )
            if status.term == promised.term and status.last_index < promised.acknowledged:
                self._violated(
                    f"node {life.name} comes back with {status.last_index} of group {group}; "
                    f"it acknowledged {promised.acknowledged}"
                )

    def leads(self, life: Life, group: int, term: int) -> None:
        """A replica leads: was it elected?"""
        seen = self._seen.setdefault((life.name, group), Seen())
        if seen.leads == term:
            return
        seen.leads = term
        its = self._group(group)
        its.leaders[term] = life
        replica = life.node.multi.replica(group)
        status = replica.status()
        if status.term != term:
            return
        for voters in _halves(status.membership):
            votes = sum(
                one == status.replica or its.votes.get((term, one)) == status.replica
                for one in voters
            )
            if votes <= len(voters) // 2:
                self._violated(
                    f"node {life.name} leads group {group} in term {term} by {votes} of {len(voters)} votes"
                )

    def turned(self, life: Life) -> None:
        """A turn of a node is over."""
        multi = life.node.multi
        for group in multi.groups():
            base, stable, commit, _, _ = multi.indexes(group)
            seen = self._seen.get((life.name, group))
            if seen is None:
                seen = self._seen[life.name, group] = Seen()
            facts = group_facts(life.node.log._index, group)
            if facts is not None and (facts.term, facts.vote) != seen.vote:
                seen.vote, seen.vote_sequence = (facts.term, facts.vote), multi.sequence
            if stable != seen.stable:
                seen.stable = self._of(life.number, group).stable = stable
                if stable > base and not _is_synced(life, group, stable):
                    self._violated(
                        f"node {life.name} takes entry {stable} of group {group} for synced, and it is not"
                    )
            if commit > seen.commit:
                if seen.leads and seen.commit:
                    self._committed(life, group, seen, commit)
                seen.commit = commit

    def _committed(self, life: Life, group: int, seen: Seen, commit: int) -> None:
        """A leader has committed more: may it?"""
        its = self._group(group)
        if commit <= its.committed:
            return
        replica = life.node.multi.replica(group)
        status = replica.status()
        if status.role != Role.LEADER or status.term != seen.leads:
            return
        its.committed = commit
        term = replica.term_at(commit)
        if term is not None and term != status.term:
            self._violated(
                f"node {life.name} leads group {group} in term {status.term} and commits entry {commit} of term {term}"
            )
        before, seen.membership = seen.membership, status.membership
        if before != status.membership:
            return  # it was committed under another
        nodes = {int(member.replica): int(member.node) for member in status.membership.members}
        for voters in _halves(status.membership):
            having = sum(self._has(nodes[one], group, commit, term) for one in voters)
            if having <= len(voters) // 2:
                self._violated(
                    f"entry {commit} of group {group} is committed by node {life.name}, "
                    f"and synced by {having} of {len(voters)} voters"
                )

    def _has(self, number: int, group: int, index: int, term: int | None) -> bool:
        """Has a node synced that entry, as far as is known?"""
        life = self._cluster.lives.get(number)
        if life is None or life.over or not life.serving or group not in life.node.multi:
            return self._of(number, group).stable >= index
        if life.node.multi.indexes(group)[1] < index:
            return False
        its = life.node.multi.replica(group).term_at(index)
        return its is None or term is None or its == term

    # -- the wire ---------------------------------------------------------------------------------------------------------

    def sent(self, source: int, target: int, frame: bytes) -> None:
        """A frame leaves a node."""
        life = self._cluster.lives.get(source)
        if life is None or life.over:
            return
        for kind, group, from_replica, to_replica, term, index in _promises(frame):
            if group not in life.node.multi:
                continue
            if kind == _ACK:
                self._acknowledged(life, group, term, index)
            elif kind == _VOTE:
                self._asked(life, group, from_replica, term)
            else:
                self._granted(life, target, group, from_replica, to_replica, term)

    def _acknowledged(self, life: Life, group: int, term: int, index: int) -> None:
        replica = life.node.multi.replica(group)
        own = replica.status()
        if own.term != term or not index:
            return  # of a term that is over, or a word to somebody who is behind
        promised = self._of(life.number, group)
        acknowledged = promised.acknowledged if promised.term == term else 0
        promised.term, promised.acknowledged = term, max(acknowledged, index)
        if index > own.stable_index:
            self._violated(
                f"node {life.name} acknowledges entry {index} of group {group}; it has synced {own.stable_index}"
            )
        leader = self._group(group).leaders.get(term)
        if leader is None or leader.over or group not in leader.node.multi:
            return
        theirs = leader.node.multi.replica(group)
        if theirs.status().term != term:
            return
        mine, its = replica.term_at(index), theirs.term_at(index)
        if mine is not None and its is not None and mine != its:
            self._violated(
                f"node {life.name} acknowledges entry {index} of group {group}, which has term {mine} there and {its} at its leader"
            )

    def _asked(self, life: Life, group: int, candidate: int, term: int) -> None:
        """A candidate asks for a vote: on the strength of its own, which no crash may take back."""
        if not self._voted_for_good(life, group, term, candidate):
            self._violated(
                f"node {life.name} asks for votes in term {term} of group {group} before its own is synced"
            )

    def _voted_for_good(self, life: Life, group: int, term: int, candidate: int) -> bool:
        if life.node.multi.replica(group).status().term != term:
            return True  # it has moved on since
        seen = self._seen.get((life.name, group), Seen())
        synced = life.node.log.synced_sequence
        return seen.vote == (term, candidate) and seen.vote_sequence <= synced

    def _granted(
        self, life: Life, target: int, group: int, voter: int, candidate: int, term: int
    ) -> None:
        own = life.node.multi.replica(group).status()
        before = self._group(group).votes.setdefault((term, voter), candidate)
        if before != candidate:
            self._violated(
                f"replica {voter} of group {group} votes for {before} and for {candidate} in term {term}"
            )
        promised = self._of(life.number, group)
        if term > promised.term:
            promised.term, promised.acknowledged = term, 0
        if own.term != term:
            return
        if not self._voted_for_good(life, group, term, candidate):
            self._violated(
                f"node {life.name} votes for replica {candidate} of group {group} in term {term} before that is synced"
            )
        other = self._cluster.lives.get(target)
        if other is None or other.over or group not in other.node.multi or own.leader:
            return
        theirs = other.node.multi.replica(group)
        status = theirs.status()
        if status.term != term or status.role not in (Role.CANDIDATE, Role.LEADER):
            return
        mine = life.node.multi.replica(group).term_at(own.last_index) or 0, own.last_index
        its = theirs.term_at(status.last_index) or 0, status.last_index
        if mine > its:
            self._violated(
                f"node {life.name} votes for node {other.name} in term {term} of group {group}, whose log lacks some of its own"
            )


def _halves(membership: Membership) -> list[list[int]]:
    """The replicas that vote, by half."""
    halves = [
        [one.replica for one in membership.members if one.flags & flag]
        for flag in (MemberFlag.MEMBER_VOTER, MemberFlag.MEMBER_OUTGOING)
    ]
    return [[int(one) for one in half] for half in halves if half]


def _promises(frame: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(kind, group, from, to, term, index) of the acknowledgements and granted votes in a frame."""
    at, size = _FRAME_HEADER_BYTES, len(frame)
    while at < size:
        kind, flags, length, group, source, target, term, index = _HEAD.unpack_from(frame, at)
        if kind in (_ACK, _VOTE, _VOTE_ACK) and not flags & _REJECT:
            yield kind, group, source, target, term, index
        at += length


def _is_synced(life: Life, group: int, index: int) -> bool:
    """Does the log have it on the disk?"""
    log = life.node.log
    pieces = find_runs(log._index, group, index, 1)
    if not pieces:
        return False
    rewritten, _ = place_key(pieces[0].place)
    return rewritten or pieces[0].place <= log.synced_sequence
