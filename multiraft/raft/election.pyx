"""Elections: pre-vote, vote, and becoming leader.

Paper section 5.2 and 5.4.1, thesis sections 3.4, 4.2.3 (disruptive servers) and 9.6 (pre-vote). What holds here, always:

- a vote is given once a term, to a candidate whose log is at least as up to date, and its answer waits for the sync;
- a candidate asks for votes when its term, its vote and its log are synced, and its own vote counts then, not before;
- votes are kept per voter, so that a duplicated answer elects nobody;
- nobody campaigns over a committed membership change that it has not applied (pitfall 29);
- who refuses a vote says what it knows to be committed, so that a candidate whose membership is out of date learns of the
  change that it lacks, instead of asking for ever for the vote of a replica that has left (pitfall 48).
"""

from libc.stdint cimport uint32_t, uint64_t

from multiraft._core cimport (
    FLAG_REJECT,
    FLAG_TRANSFER,
    MEMBER_OUTGOING,
    MEMBER_VOTER,
    MSG_PRE_VOTE,
    MSG_PRE_VOTE_ACK,
    MSG_VOTE,
    MSG_VOTE_ACK,
    RUN_ENTRIES,
    VOTE_LOST,
    VOTE_WON,
    MessageHeader,
)
from multiraft.raft.log cimport Log, log_change_between, log_last_term, log_matches, log_term
from multiraft.raft.progress cimport Peer
from multiraft.raft.replication cimport commit_to
from multiraft.raft.state cimport (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    PRE_CANDIDATE,
    Engine,
    Message,
    Replica,
    append_proposal,
    become_follower,
    draw_timeout,
    emit,
    engine_mark,
    enter_term,
    find_peer,
    is_promotable,
    quorum_vote,
)

from multiraft.errors import InvariantViolation


# -- standing for election ------------------------------------------------------------------------------------------------


cdef int hup(Engine engine, Replica* replica, Campaign how) except -1:
    cdef Log* log = &replica.log
    if replica.role == LEADER or not is_promotable(replica):
        return 0
    if replica.embargo_ticks and how != CAMPAIGN_TRANSFER:
        return 0                             # a lease may run on our word; the timer never comes so early, a command may
    if log_change_between(log, log.applied_index, log.commit_index):
        return 0
    if how == CAMPAIGN_PRE or (how == CAMPAIGN and engine.options.pre_vote):
        return campaign(engine, replica, CAMPAIGN_PRE)
    return campaign(engine, replica, how)


cdef int become_candidate(Engine engine, Replica* replica, Campaign how) except -1:
    cdef uint32_t at
    if how == CAMPAIGN_PRE:
        # Neither the term nor the vote changes: nothing is promised, and nothing is disturbed.
        replica.role = PRE_CANDIDATE
        replica.leader = 0
        replica.election_elapsed = 0
        draw_timeout(engine, replica)
        for at in range(replica.peers_count):
            replica.peers[at].vote = 0
        find_peer(replica, replica.id).vote = 1
    else:
        enter_term(engine, replica, replica.term + 1)
        replica.role = CANDIDATE
        replica.vote = replica.id
    engine_mark(engine, replica)
    return 0


cdef int campaign(Engine engine, Replica* replica, Campaign how) except -1:
    cdef MessageHeader* head
    cdef Peer* peer
    cdef uint32_t at
    become_candidate(engine, replica, how)
    for at in range(replica.peers_count):
        peer = &replica.peers[at]
        if peer.replica == replica.id or not peer.flags & (MEMBER_VOTER | MEMBER_OUTGOING):
            continue
        # A vote is asked for on the strength of what a crash cannot take away: if the log or the term were forgotten, a late
        # answer would elect us with another log in the same term. A pre-vote promises nothing and need not wait.
        if how == CAMPAIGN_PRE:
            head = emit(engine, replica, peer.outbox, MSG_PRE_VOTE, peer.replica, False)
        else:
            head = emit(engine, replica, peer.outbox, MSG_VOTE, peer.replica, True)
        head.index = replica.log.last_index
        head.log_term = log_last_term(&replica.log)
        if how == CAMPAIGN_PRE:
            head.term = replica.term + 1
        elif how == CAMPAIGN_TRANSFER:
            head.flags = FLAG_TRANSFER
    return tally(engine, replica)            # the only voter needs nobody's answer


cdef int own_vote_synced(Engine engine, Replica* replica, uint64_t term) except -1:
    cdef Peer* own
    if replica.role != CANDIDATE or replica.term != term or replica.vote != replica.id:
        return 0                             # it was for an election that is over (pitfall 6)
    replica.voted_durably = True
    own = find_peer(replica, replica.id)
    if own != NULL:
        own.vote = 1
    return tally(engine, replica)


cdef int handle_vote_ack(Engine engine, Replica* replica, const Message* message) except -1:
    cdef Peer* peer = find_peer(replica, message.head.from_replica)
    if peer == NULL:
        return 0
    if peer.vote == 0:                       # the first answer stands; a duplicate says nothing new
        peer.vote = -1 if message.head.flags & FLAG_REJECT else 1
    if message.head.flags & FLAG_REJECT and learns_of_change(engine, replica, message.head):
        return become_follower(engine, replica, replica.term, 0)
    return tally(engine, replica)


cdef bint learns_of_change(Engine engine, Replica* replica, const MessageHeader* head) except -1:
    """A refusal names an entry that is committed. If it stands in our log too, everything up to it is committed here as well,
    and with a membership change among it this candidacy, under the membership before, is void.
    """
    cdef Log* log = &replica.log
    if head.commit <= log.commit_index or not log_matches(log, head.commit, head.log_term):
        return False
    commit_to(engine, replica, head.commit)
    return log_change_between(log, log.applied_index, log.commit_index)


cdef int tally(Engine engine, Replica* replica) except -1:
    cdef int result = quorum_vote(replica)
    if result == VOTE_WON:
        if replica.role == PRE_CANDIDATE:
            return campaign(engine, replica, CAMPAIGN)
        return become_leader(engine, replica)
    if result == VOTE_LOST:
        # The term stays: a later answer may still carry a higher one, and only then does it rise.
        return become_follower(engine, replica, replica.term, 0)
    return 0


cdef int become_leader(Engine engine, Replica* replica) except -1:
    cdef uint64_t last = replica.log.last_index
    cdef uint32_t at
    if replica.role != CANDIDATE or replica.vote != replica.id:
        raise InvariantViolation(f"group {replica.group}: an election of term {replica.term} was won without being stood for")
    enter_term(engine, replica, replica.term)
    replica.role = LEADER
    replica.leader = replica.id
    for at in range(replica.peers_count):
        replica.peers[at].recently_active = replica.peers[at].replica == replica.id
    # Membership changes of earlier terms may lie in the log: none is proposed before all of it is applied (pitfalls 43, 44).
    replica.change_index = last
    replica.term_start = last + 1
    append_proposal(engine, replica, RUN_ENTRIES, "", 0)     # without it nothing of earlier terms could be committed
    replica.uncommitted_bytes = 0
    engine_mark(engine, replica)
    return 0


# -- voting ---------------------------------------------------------------------------------------------------------------


cdef bint ignores_vote(Engine engine, const Replica* replica, const Message* message) noexcept:
    """A replica that hears a leader, or whose word may still carry a lease, does not help to depose it."""
    if message.head.flags & FLAG_TRANSFER:
        return False
    if replica.embargo_ticks:
        return True
    return (
        message.head.term > replica.term
        and engine.options.check_quorum
        and replica.leader != 0
        and replica.election_elapsed < engine.options.election_ticks
    )


cdef bint up_to_date(const Log* log, const MessageHeader* head) noexcept nogil:
    cdef uint64_t own = log_last_term(log)
    return head.log_term > own or (head.log_term == own and head.index >= log.last_index)


cdef int handle_vote(Engine engine, Replica* replica, const Message* message) except -1:
    cdef const MessageHeader* head = message.head
    cdef bint pre = head.kind == MSG_PRE_VOTE
    cdef bint free_to_vote = (
        replica.vote == head.from_replica
        or (replica.vote == 0 and replica.leader == 0)
        or (pre and head.term > replica.term)
    )
    cdef bint grant = free_to_vote and up_to_date(&replica.log, head)
    cdef MessageHeader* answer = emit(
        engine, replica, message.origin, MSG_PRE_VOTE_ACK if pre else MSG_VOTE_ACK, head.from_replica, True
    )
    if grant:
        answer.term = head.term              # of the election, which for a pre-vote is not ours
        if not pre:
            replica.vote = head.from_replica
            replica.election_elapsed = 0
    else:
        answer.flags = FLAG_REJECT
        answer.commit = replica.log.commit_index
        answer.log_term = log_term(&replica.log, answer.commit)
    engine_mark(engine, replica)
    return 0
