"""Figure 2 of the Raft paper, row by row, and figure 13 (snapshots): what ``test_paper`` does not hold already.

Each docstring names the box and the row. Where we do otherwise on purpose, docs/divergence.md says so.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from multiraft._core import MessageKind as K
from multiraft.raft import Entry, Message, Options, Replica, Role, Snapshot

from .harness import PLAIN, Cluster, voters
from .test_paper import answers, make_leader, replica_with

# -- state ---------------------------------------------------------------------------------------------------------------


def test_a_fresh_server_knows_nothing() -> None:
    """State: currentTerm, commitIndex and lastApplied begin at 0, with no vote given."""
    status = Replica(PLAIN, replica=1, membership=voters(1, 2, 3)).status()
    assert (status.term, status.vote, status.commit_index, status.applied_index) == (0, 0, 0, 0)


def test_a_new_leader_begins_behind_its_last_entry() -> None:
    """State, leaders: nextIndex begins at the last log index + 1, matchIndex at 0; both anew after each election."""
    replica = replica_with(1, 1, 2)
    for last in (3, 4):
        make_leader(replica)
        for id in (2, 3):
            peer = replica.status().peers[id]
            assert (peer.match_index, peer.next_index) == (0, last + 1)
        answers(replica)
        term = replica.status().term
        replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=term, index=last))
        assert replica.status().peers[2].match_index == last
        replica.step(Message(K.MSG_HEARTBEAT, 3, 1, term=term + 1))
        assert replica.status().role == Role.FOLLOWER


# -- AppendEntries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [PLAIN, Options(pre_vote=False)], ids=["plain", "quorum"])
def test_an_append_of_an_older_term_is_not_taken(options: Options) -> None:
    """AppendEntries 1: reply false if term < currentTerm. The reply is our term, where somebody could need it."""
    replica = Replica(options, replica=1, membership=voters(1, 2, 3))
    replica.step(Message(K.MSG_HEARTBEAT, 3, 1, term=5))
    answers(replica)
    replica.step(Message(K.MSG_APPEND, 2, 1, term=4, entries=(Entry(1, 4, b"x"),), commit=1))
    status = replica.status()
    assert (status.last_index, status.commit_index, status.leader) == (0, 0, 3)
    sent = answers(replica)
    assert [(m.kind, m.term, m.index) for m in sent] == (
        [(K.MSG_APPEND_ACK, 5, 0)] if options.check_quorum else []
    )


def test_new_entries_are_appended_and_old_ones_not_twice() -> None:
    """AppendEntries 4: append any new entries not already in the log."""
    replica = replica_with(1, 1)
    entries = tuple(Entry(index, 1, b"%d" % index) for index in (1, 2, 3, 4))
    replica.step(Message(K.MSG_APPEND, 2, 1, term=1, entries=entries))
    ready = replica.ready()
    assert [entry.index for entry in ready.entries] == [3, 4]
    assert replica.status().last_index == 4


@pytest.mark.parametrize(
    ("leader_commit", "index", "entries", "commit"),
    [(3, 1, 1, 2), (2, 1, 2, 2), (9, 3, 0, 3), (2, 3, 0, 2), (9, 1, 0, 1), (0, 3, 0, 0)],
)
def test_the_commit_index_is_that_of_the_leader_or_of_the_last_new_entry(
    leader_commit: int, index: int, entries: int, commit: int
) -> None:
    """AppendEntries 5: commitIndex = min(leaderCommit, index of last new entry): what lies behind is not vouched for."""
    replica = replica_with(1, 1, 1)
    new = tuple(Entry(index + at, 1, b"%d" % (index + at)) for at in range(1, entries + 1))
    message = Message(
        K.MSG_APPEND, 2, 1, term=1, index=index, log_term=1, commit=leader_commit, entries=new
    )
    replica.step(message)
    assert replica.status().commit_index == commit
    (ack,) = answers(replica)
    assert ack.index == index + entries, "it acknowledges what matched, not what it has"


# -- RequestVote ---------------------------------------------------------------------------------------------------------


def test_a_candidate_of_an_older_term_gets_no_vote() -> None:
    """RequestVote 1: no vote if term < currentTerm, however good its log."""
    replica = replica_with(1, term=5)
    replica.step(Message(K.MSG_VOTE, 2, 1, term=4, index=99, log_term=4))
    assert [m for m in answers(replica) if m.kind == K.MSG_VOTE_ACK and not m.reject] == []
    assert (replica.status().term, replica.status().vote) == (5, 0)


def test_the_same_candidate_gets_the_same_vote_again() -> None:
    """RequestVote 2: votedFor is null or candidateId."""
    replica = replica_with(1)
    for _ in range(2):
        replica.step(Message(K.MSG_VOTE, 2, 1, term=2, index=1, log_term=1))
        assert [m.reject for m in answers(replica)] == [False]


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
def test_a_vote_is_not_forgotten_when_the_role_changes(role: Role) -> None:
    """State, votedFor: it is for a term, not for a role. Who stood, and follows another in the same term, votes no more."""
    replica = replica_with(1)
    if role == Role.CANDIDATE:
        replica.campaign()
        replica.step(Message(K.MSG_HEARTBEAT, 2, 1, term=2))
    else:
        replica = Replica(Options(), replica=1, membership=voters(1, 2, 3))
        replica.campaign()
        for kind, term in ((K.MSG_PRE_VOTE_ACK, 1), (K.MSG_VOTE_ACK, 1)):
            answers(replica)
            replica.step(Message(kind, 2, 1, term=term))
        assert replica.status().role == Role.LEADER
        for _ in range(2 * PLAIN.election_ticks):  # nobody answers: it gives up
            replica.tick()
    answers(replica)
    before = replica.status()
    assert (before.role, before.vote) == (Role.FOLLOWER, 1)
    replica.step(Message(K.MSG_VOTE, 3, 1, term=before.term, index=9, log_term=before.term))
    assert [m for m in answers(replica) if m.to_replica == 3 and not m.reject] == []
    assert replica.status().vote == 1


# -- rules for followers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reset"),
    [
        (Message(K.MSG_HEARTBEAT, 2, 1, term=1), True),
        (Message(K.MSG_APPEND, 2, 1, term=1, index=1, log_term=1), True),
        (Message(K.MSG_APPEND, 2, 1, term=1, index=7, log_term=1), True),
        (Message(K.MSG_VOTE, 2, 1, term=1, index=1, log_term=1), True),
        (Message(K.MSG_VOTE, 2, 1, term=2, index=1, log_term=1), True),
        (Message(K.MSG_HEARTBEAT, 3, 1, term=0), False),
        (Message(K.MSG_PRE_VOTE, 3, 1, term=2, index=1, log_term=1), False),
        (Message(K.MSG_VOTE, 3, 1, term=1, index=0, log_term=0), False),
        (Message(K.MSG_APPEND_ACK, 3, 1, term=1, index=1), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else f"{value!r}",
)
def test_what_puts_off_an_election(message: Message, reset: bool) -> None:
    """Followers 2: silence is no append from the current leader and no vote granted; nothing else puts it off."""
    replica = replica_with(1, term=1)
    for _ in range(5):
        replica.tick()
    replica.step(message)
    assert replica.status().election_elapsed == (0 if reset else 5)


def test_a_vote_that_is_refused_in_a_new_term_does_not_stop_the_log_that_is_better() -> None:
    """Followers 2, all servers 2: a higher term is taken over, the vote is not given, and the own election comes in time."""
    replica = replica_with(1, 2, term=2)
    replica.step(Message(K.MSG_VOTE, 2, 1, term=3, index=9, log_term=1))
    assert (replica.status().term, replica.status().vote) == (3, 0)
    for _ in range(2 * PLAIN.election_ticks):
        replica.tick()
    assert replica.status().term == 4
    assert replica.status().role == Role.CANDIDATE


# -- rules for leaders ---------------------------------------------------------------------------------------------------


def test_a_leader_speaks_at_once() -> None:
    """Leaders 1: upon election, appends go to each server at once; here they carry the entry of the new term."""
    replica = replica_with(1)
    make_leader(replica)
    first = [m for m in answers(replica) if m.kind == K.MSG_APPEND]
    assert [(m.to_replica, m.index, m.log_term, len(m.entries)) for m in first] == [
        (2, 1, 1, 1),
        (3, 1, 1, 1),
    ]


def test_answers_move_next_and_match() -> None:
    """Leaders 3: on success nextIndex and matchIndex move; on a refusal nextIndex falls and the append is tried again."""
    replica = replica_with(1, 1, 1)
    make_leader(replica)
    answers(replica)
    refusal = Message(K.MSG_APPEND_ACK, 2, 1, term=2, index=3, hint=1, log_term=1, reject=True)
    before = replica.status().peers[2]
    replica.step(replace(refusal, index=2))  # it answers an earlier probe than the one under way
    assert replica.status().peers[2] == replace(before, recently_active=True)
    replica.step(refusal)
    assert replica.status().peers[2].next_index == 2
    (again,) = [m for m in answers(replica) if m.to_replica == 2]
    assert (again.index, again.log_term, [e.index for e in again.entries]) == (1, 1, [2, 3])
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=2, index=3))
    peer = replica.status().peers[2]
    assert (peer.match_index, peer.next_index) == (3, 4)
    answers(replica)  # the rest is sent ahead
    before = replica.status().peers[2]
    assert (before.state, before.next_index) == ("replicate", 5)
    replica.step(refusal)  # it was overtaken by an acknowledgement
    assert replica.status().peers[2] == before


def test_a_leader_never_touches_its_own_log() -> None:
    """Figure 3, leader append-only: nobody's refusal or append in its own term changes what a leader has."""
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose(b"mine")
    before = cluster.nodes[1].replica.status().last_index
    cluster[1].step(
        Message(K.MSG_APPEND_ACK, 2, 1, term=1, index=1, hint=0, log_term=0, reject=True)
    )
    cluster[1].step(Message(K.MSG_APPEND, 2, 1, term=0))
    assert cluster[1].status().last_index == before
    cluster.settle()
    assert cluster.payloads(3) == [b"mine"]


# -- snapshots (figure 13) -----------------------------------------------------------------------------------------------


def test_a_snapshot_of_an_older_term_is_not_taken() -> None:
    """InstallSnapshot 1: reply immediately if term < currentTerm; nothing is installed."""
    replica = replica_with(1, term=5)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=4, index=9, log_term=4))
    assert replica.ready().snapshot is None
    assert replica.status().last_index == 1


def test_after_a_snapshot_the_log_goes_on_behind_it() -> None:
    """InstallSnapshot 7 and 8: the whole log is discarded, state and configuration are those of the snapshot."""
    replica = replica_with(1, 1, commit=1)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=3, index=9, log_term=2))
    replica.ready()
    replica.installed(Snapshot(9, 2, voters(1, 2, 4)))
    status = replica.status()
    assert (status.first_index, status.last_index, status.commit_index) == (10, 9, 9)
    assert (status.applied_index, status.membership) == (9, voters(1, 2, 4))
    replica.step(
        Message(K.MSG_APPEND, 2, 1, term=3, index=9, log_term=2, entries=(Entry(10, 3, b"x"),))
    )
    assert [m.index for m in answers(replica) if m.kind == K.MSG_APPEND_ACK] == [9, 10]
