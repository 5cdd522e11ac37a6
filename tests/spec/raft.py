"""Raft as pure functions: what one replica does with each input.

``f(replica, input) -> replica``; what leaves comes out of ``ready``. Section numbers are those of the Raft paper (extended
version); "thesis" is Ongaro's. What differs from them stands in docs/divergence.md. The one thing that is not a function of
the inputs, the random election timeout, is set by whoever drives this (``Replica.election_timeout``).

Nothing is sent when something happens, but answers: appends, heartbeats and what is to be applied leave with ``ready``.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from multiraft._core import ENTRY_BYTES_MAX, MemberFlag, RunKind, VoteResult
from multiraft._core import MessageKind as K
from multiraft.errors import (
    InvariantViolation,
    MembershipRefused,
    NoLeader,
    NotLeader,
    Overloaded,
    PeerProtocolError,
    TooLarge,
)
from multiraft.interfaces import HardState, Member, Membership
from multiraft.raft import Entry, MembershipChange, Message, Options, Role
from multiraft.records import decode_membership
from tests.spec import reads, replication
from tests.spec.members import membership_after, vote_result
from tests.spec.state import Log, Peer, Read, Replica, queue, with_log, with_members, with_peer

FROM_LEADER = (K.MSG_APPEND, K.MSG_HEARTBEAT, K.MSG_SNAPSHOT)
LEAVE = MembershipChange().encode()


def start(
    options: Options,
    *,
    id: int,
    membership: Membership,
    hard_state: HardState = HardState(),  # noqa: B008  (frozen)
    base: tuple[int, int] = (0, 0),
    entries: tuple[Entry, ...] = (),
    applied: int | None = None,
    in_memory: bool = True,
) -> Replica:
    """A replica as its disk remembers it."""
    commit = max(hard_state.commit, base[0])
    applied = base[0] if applied is None else applied
    stretches = [
        list(same) for _, same in groupby(entries, key=lambda entry: (entry.term, entry.kind))
    ]
    log = Log(
        *base,
        entries=entries,
        sealed=base[0] + len(entries),
        stable=base[0] + len(entries),
        commit=commit,
        applying=applied,
        applied=applied,
        runs=tuple((same[0].index, same[-1].index) for same in stretches) if in_memory else (),
    )
    kept = HardState(hard_state.term, hard_state.vote, commit=commit)
    r = Replica(options, id, (), log, term=kept.term, vote=kept.vote, written=kept, told=kept)
    return with_members(
        replace(r, embargo=options.election_ticks if options.lease_reads else 0), membership
    )


# -- terms and roles (5.1) --------------------------------------------------------------------------------------------------


def enter_term(r: Replica, term: int) -> Replica:
    """Forget what belonged to the role or the term before; only a new term frees the vote."""
    r = replication.seal(r)
    return replace(
        r,
        term=term,
        vote=r.vote if term == r.term else 0,
        leader=0,
        election_elapsed=0,
        heartbeat_elapsed=0,
        transfer_to=0,
        change_index=0,
        uncommitted_bytes=0,
        heartbeat_due=False,
        lease_until=0,
        lease_barred=False,
        rounds_sent=(),
        peers=tuple(peer.reset(r.log.last) for peer in r.peers),
    )


def follow(r: Replica, term: int, leader: int) -> Replica:
    if term < r.term:
        raise InvariantViolation(f"the term would fall from {r.term} to {term}")
    r = replace(enter_term(r, term), role=Role.FOLLOWER, leader=leader)
    for read in r.reads:  # none is left without an answer
        r = reads.answer_read(r, read, None)
    return replace(r, reads=())


def tick(r: Replica, time: int | None = None) -> Replica:
    """5.2: silence makes a candidate; a leader sends heartbeats, and gives up when it hears no quorum (thesis 6.2)."""
    r = replace(
        r, time=r.time + 1 if time is None else time, election_elapsed=r.election_elapsed + 1
    )
    if r.role == Role.LEADER:
        return tick_leader(r)
    r = replace(r, embargo=max(0, r.embargo - 1))
    if r.election_elapsed >= r.election_timeout and r.promotable:
        return campaign(replace(r, election_elapsed=0))
    return r


def tick_leader(r: Replica) -> Replica:
    r = replace(r, heartbeat_elapsed=r.heartbeat_elapsed + 1)
    if r.election_elapsed >= r.options.election_ticks:
        r = replace(r, election_elapsed=0)
        heard = {peer.replica: peer.recently_active or peer.replica == r.id for peer in r.peers}
        if r.options.check_quorum and tally_of(r, heard) != VoteResult.VOTE_WON:
            return follow(r, r.term, 0)
        peers = tuple(replace(peer, recently_active=peer.replica == r.id) for peer in r.peers)
        r = replace(r, peers=peers, transfer_to=0)
    if r.heartbeat_elapsed >= r.options.heartbeat_ticks:
        r = replace(r, heartbeat_elapsed=0, heartbeat_due=True)
        if r.options.lease_reads:
            r = reads.next_round(r)
    return r


# -- elections (5.2, 5.4.1; thesis 9.6 pre-vote, 3.10 transfer) ---------------------------------------------------------------


def campaign(r: Replica, *, transfer: bool = False) -> Replica:
    """Stand for election, unless this replica must not: it has no part, its word carries a lease, or a membership that is
    committed is not applied here yet."""
    if r.role == Role.LEADER or not r.promotable or (r.embargo and not transfer):
        return r
    if r.log.changes(r.log.applied, r.log.commit):
        return r
    if r.options.pre_vote and not transfer:
        return ask_for_votes(r, pre=True)
    return ask_for_votes(r, transfer=transfer)


def ask_for_votes(r: Replica, *, pre: bool = False, transfer: bool = False) -> Replica:
    """A pre-vote changes nothing and promises nothing. For a real one, requests wait for the disk as our own vote does."""
    if pre:
        peers = tuple(replace(peer, vote=int(peer.replica == r.id)) for peer in r.peers)
        r = replace(r, role=Role.PRE_CANDIDATE, leader=0, election_elapsed=0, peers=peers)
    else:
        r = replace(enter_term(r, r.term + 1), role=Role.CANDIDATE, vote=r.id)
    for peer in r.peers:
        if peer.replica != r.id and peer.votes:
            request = Message(
                K.MSG_PRE_VOTE if pre else K.MSG_VOTE,
                r.id,
                peer.replica,
                term=r.term + 1 if pre else r.term,
                index=r.log.last,
                log_term=r.log.term(r.log.last),
                transfer=transfer,
            )
            r = queue(r, request, waits=not pre)
    return tally(r)


def tally_of(r: Replica, votes: dict[int, bool]) -> VoteResult:
    return vote_result(r.half(MemberFlag.MEMBER_VOTER), r.half(MemberFlag.MEMBER_OUTGOING), votes)


def tally(r: Replica) -> Replica:
    result = tally_of(r, {peer.replica: peer.vote > 0 for peer in r.peers if peer.vote})
    if result == VoteResult.VOTE_WON:
        return ask_for_votes(r) if r.role == Role.PRE_CANDIDATE else lead(r)
    return follow(r, r.term, 0) if result == VoteResult.VOTE_LOST else r


def lead(r: Replica) -> Replica:
    """5.4.2 and 8: an empty entry of the own term comes first. No membership change before all that came before is applied."""
    r = replace(enter_term(r, r.term), role=Role.LEADER, leader=r.id)
    peers = tuple(replace(peer, recently_active=peer.replica == r.id) for peer in r.peers)
    r = replace(r, peers=peers, change_index=r.log.last, term_start=r.log.last + 1)
    return replace(append(r, b""), uncommitted_bytes=0)


def ignores_vote(r: Replica, m: Message) -> bool:
    """Thesis 4.2.3 and 6.4.1: who hears a leader, or whose word may carry a lease, helps nobody else to lead."""
    if m.transfer:
        return False
    heard = (
        r.options.check_quorum and r.leader != 0 and r.election_elapsed < r.options.election_ticks
    )
    return r.embargo > 0 or (m.term > r.term and heard)


def answer_vote(r: Replica, m: Message) -> Replica:
    """5.2: one vote a term, first come first served; 5.4.1: to a log that is at least as up to date. A refusal says what is
    committed, for a candidate that stands under a membership of the past."""
    pre = m.kind == K.MSG_PRE_VOTE
    free = r.vote == m.from_replica or (r.vote == 0 and r.leader == 0) or (pre and m.term > r.term)
    grant = free and (m.log_term, m.index) >= (r.log.term(r.log.last), r.log.last)
    answer = Message(
        K.MSG_PRE_VOTE_ACK if pre else K.MSG_VOTE_ACK,
        r.id,
        m.from_replica,
        term=m.term if grant else r.term,
        reject=not grant,
        commit=0 if grant else r.log.commit,
        log_term=0 if grant else r.log.term(r.log.commit),
    )
    if grant and not pre:
        r = replace(r, vote=m.from_replica, election_elapsed=0)
    return queue(r, answer, waits=True)


def count_vote(r: Replica, m: Message) -> Replica:
    peer = r.peer(m.from_replica)
    if peer is None:
        return r
    if peer.vote == 0:  # a duplicate says nothing new
        r = with_peer(r, replace(peer, vote=-1 if m.reject else 1))
    if m.reject and m.commit > r.log.commit and r.log.matches(m.commit, m.log_term):
        r = replication.commit_to(r, m.commit)
        if r.log.changes(r.log.applied, r.log.commit):
            return follow(r, r.term, 0)  # another membership than the one that it stood under
    return tally(r)


# -- messages -------------------------------------------------------------------------------------------------------------------


def step(r: Replica, m: Message) -> Replica:
    """Take a message: the term rule first, then the role's part."""
    if m.to_replica != r.id or m.from_replica in (0, r.id):
        return r
    if m.kind == K.MSG_READ_INDEX:
        return asked_to_read(r, m)
    if m.kind == K.MSG_READ_INDEX_ACK:
        return replace(r, read_states=(*r.read_states, (m.context, None if m.reject else m.index)))
    if m.kind == K.MSG_TRANSFER_LEADER:
        return transfer_leader(r, m.hint) if r.role == Role.LEADER else r
    if m.kind in (K.MSG_VOTE, K.MSG_PRE_VOTE) and ignores_vote(r, m):
        return r
    if m.term < r.term:
        return answer_the_past(r, m)
    # A pre-vote, or a granted one, names a term that nobody has entered yet.
    names_a_term = m.kind == K.MSG_PRE_VOTE or (m.kind == K.MSG_PRE_VOTE_ACK and not m.reject)
    if m.term > r.term and not names_a_term:
        r = follow(r, m.term, m.from_replica if m.kind in FROM_LEADER else 0)
    if m.kind in (K.MSG_VOTE, K.MSG_PRE_VOTE):
        return answer_vote(r, m)
    if r.role == Role.LEADER:
        return step_leader(r, m)
    if m.kind in FROM_LEADER:
        return hear_leader(r if r.role == Role.FOLLOWER else follow(r, m.term, m.from_replica), m)
    if r.role == Role.FOLLOWER:
        return campaign(r, transfer=True) if m.kind == K.MSG_TIMEOUT_NOW else r
    if m.kind == (K.MSG_PRE_VOTE_ACK if r.role == Role.PRE_CANDIDATE else K.MSG_VOTE_ACK):
        return count_vote(r, m)
    return r


def answer_the_past(r: Replica, m: Message) -> Replica:
    """5.1, and so that a replica with a higher term is not locked out for ever where others ignore its elections."""
    if m.kind == K.MSG_PRE_VOTE:
        answer = Message(K.MSG_PRE_VOTE_ACK, r.id, m.from_replica, term=r.term, reject=True)
    elif m.kind in (K.MSG_APPEND, K.MSG_HEARTBEAT) and (
        r.options.check_quorum or r.options.pre_vote
    ):
        answer = Message(K.MSG_APPEND_ACK, r.id, m.from_replica, term=r.term)
    else:
        return r
    return queue(r, answer, waits=True)


def step_leader(r: Replica, m: Message) -> Replica:
    if m.kind in FROM_LEADER:
        raise PeerProtocolError(f"{r.id} and {m.from_replica} both lead in term {r.term}")
    peer = r.peer(m.from_replica)
    if peer is not None and m.kind == K.MSG_APPEND_ACK:
        return replication.hear_append_ack(r, peer, m)
    if peer is not None and m.kind == K.MSG_HEARTBEAT_ACK:
        return replication.hear_heartbeat_ack(r, peer, m)
    return r


def hear_leader(r: Replica, m: Message) -> Replica:
    if r.leader not in (0, m.from_replica):
        raise PeerProtocolError(f"{r.leader} and {m.from_replica} both lead in term {r.term}")
    embargo = r.options.election_ticks if r.options.lease_reads else r.embargo
    r = replace(r, leader=m.from_replica, election_elapsed=0, embargo=embargo)
    if m.kind == K.MSG_APPEND:
        return replication.take_append(r, m)
    if m.kind == K.MSG_HEARTBEAT:
        return replication.take_heartbeat(r, m)
    return replication.take_snapshot(r, m, decode_membership(m.body) if m.body else Membership())


# -- proposals (5.3, 8; thesis 4.1 one change at a time) ----------------------------------------------------------------------


def append(r: Replica, payload: bytes, kind: int = RunKind.RUN_ENTRIES) -> Replica:
    entry = Entry(r.log.last + 1, r.term, payload, int(kind))
    return replace(
        r, log=r.log.proposed(entry), uncommitted_bytes=r.uncommitted_bytes + len(payload)
    )


def check_proposal(r: Replica, size: int) -> None:
    if r.role != Role.LEADER:
        raise NoLeader if r.leader == 0 else NotLeader
    if r.transfer_to or r.peer(r.id) is None:
        raise NoLeader
    if size > ENTRY_BYTES_MAX:
        raise TooLarge
    if (
        size
        and 0 < r.options.uncommitted_bytes_max < r.uncommitted_bytes + size
        and r.uncommitted_bytes
    ):
        raise Overloaded


def propose(r: Replica, payload: bytes) -> Replica:
    check_proposal(r, len(payload))
    return append(r, payload)


def propose_membership(r: Replica, change: MembershipChange) -> tuple[Replica, bool]:
    """A change that may not be made now leaves an empty entry in its place."""
    payload = change.encode()
    check_proposal(r, len(payload))
    accepted = r.log.commit >= r.term_start and r.change_index <= r.log.applied
    if accepted and r.options.validate_changes:
        try:
            membership_after(membership(r), change)
        except MembershipRefused:
            accepted = False
    if not accepted:
        return append(r, b""), False
    r = append(r, payload, RunKind.RUN_MEMBERSHIP)
    return replace(r, change_index=r.log.last), True


def membership(r: Replica) -> Membership:
    members = tuple(Member(peer.replica, peer.node, peer.flags) for peer in r.peers)  # type: ignore[arg-type]
    return Membership(members, r.auto_leave)


# -- applying ---------------------------------------------------------------------------------------------------------------------


def applied(r: Replica, index: int) -> Replica:
    """A joint membership that asked for it is left as soon as it is applied, by whoever leads then."""
    if index > r.log.applying:
        raise InvariantViolation(f"{index} was never handed out")
    r = with_log(r, replace(r.log, applied=max(r.log.applied, index)))
    leads_joint = r.role == Role.LEADER and r.auto_leave and r.joint
    if not leads_joint or r.change_index > r.log.applied or r.log.applied < r.term_start:
        return r
    r = append(r, LEAVE, RunKind.RUN_MEMBERSHIP)
    return replace(r, change_index=r.log.last)


def apply_membership(r: Replica, change: MembershipChange) -> Replica:
    """The change takes effect; one that cannot follow changes nothing, on every replica alike."""
    try:
        r = with_members(r, membership_after(membership(r), change))
    except MembershipRefused:
        return r
    if r.role != Role.LEADER:
        return r
    own = r.peer(r.id)
    if own is None or own.learner:
        return follow(r, r.term, 0) if r.options.step_down_on_removal else r
    r = replication.commit_quorum(r)  # fewer may be needed now
    target = r.peer(r.transfer_to)
    if r.transfer_to and (target is None or not target.votes):
        r = replace(r, transfer_to=0)
    return reads.answer_confirmed(r)


def persisted(r: Replica, term: int, index: int, generation: int) -> Replica:
    """What was handed out up to there is synced: entries that were not cut since are stable, and our own vote counts."""
    r = replication.stabilize(r, index, generation)
    if r.role != Role.CANDIDATE or r.term != term:
        return r
    own = r.peer(r.id)
    return tally(with_peer(r, replace(own, vote=1)) if own is not None else r)


# -- commands -----------------------------------------------------------------------------------------------------------------


def read_index(r: Replica, context: int, time: int | None = None) -> tuple[Replica, bool]:
    """Thesis 6.4. On a follower the leader is asked."""
    r = r if time is None else replace(r, time=time)
    if r.role == Role.LEADER:
        return replace(r, reads=(*r.reads, Read(context, 0))), True
    if r.peer(r.leader) is None:
        return r, False
    return queue(
        r, Message(K.MSG_READ_INDEX, r.id, r.leader, term=r.term, context=context), waits=False
    ), True


def asked_to_read(r: Replica, m: Message) -> Replica:
    if r.role == Role.LEADER:
        return replace(r, reads=(*r.reads, Read(m.context, m.from_replica)))
    answer = Message(
        K.MSG_READ_INDEX_ACK, r.id, m.from_replica, term=r.term, context=m.context, reject=True
    )
    return queue(r, answer, waits=False)


def transfer_leader(r: Replica, to: int) -> Replica:
    """Thesis 3.10. From here on no lease of this term is worth anything."""
    if r.role != Role.LEADER:
        if r.peer(r.leader) is None:
            return r
        return queue(
            r, Message(K.MSG_TRANSFER_LEADER, r.id, r.leader, term=r.term, hint=to), waits=False
        )
    if to == r.id:
        return replace(r, transfer_to=0)
    peer = r.peer(to)
    if peer is None or peer.learner or to == r.transfer_to:
        return r
    r = replace(
        replication.seal(r), transfer_to=to, lease_barred=True, lease_until=0, election_elapsed=0
    )
    return replication.try_transfer(with_peer(r, replace(peer, must_send=True)), to)


def forget_leader(r: Replica) -> Replica:
    if r.role == Role.FOLLOWER and not r.options.lease_reads:
        return replace(r, leader=0)
    return r


def peers_of(r: Replica) -> dict[int, Peer]:
    return {peer.replica: peer for peer in r.peers}
