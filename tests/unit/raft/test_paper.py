"""One test per rule of the Raft paper ("In Search of an Understandable Consensus Algorithm", extended version); the rows of its
figure 2 that are not among them stand in ``test_figure2``.

The section that states the rule stands in each docstring. Everything goes through the Python door of single replicas.
"""

from __future__ import annotations

import dataclasses

import pytest

from multiraft._core import MessageKind as K
from multiraft.errors import NoLeader, NotLeader
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState
from multiraft.raft import Entry, Message, Options, Replica, Role

from .harness import PLAIN, Cluster, Node, voters


def log_of(*terms: int) -> list[Entry]:
    """A log whose entry i has the i-th of these terms."""
    return [Entry(index, term, b"%d" % index) for index, term in enumerate(terms, 1)]


def replica_with(
    *terms: int,
    term: int | None = None,
    commit: int = 0,
    ids: tuple[int, ...] = (1, 2, 3),
    vote: int = 0,
) -> Replica:
    hard = HardState(
        term=term if term is not None else (terms[-1] if terms else 0),
        vote=ReplicaId(vote),
        commit=commit,
    )
    return Replica(
        PLAIN,
        replica=1,
        membership=voters(*ids),
        hard_state=hard,
        entries=log_of(*terms),
        applied_index=0,
    )


def answers(replica: Replica) -> list[Message]:
    """Sync whatever there is and take all messages."""
    ready = replica.ready()
    if ready.tag is not None:
        replica.persisted(ready.tag)
    return [*ready.messages, *ready.messages_after]


def make_leader(replica: Replica) -> None:
    """Let the replica win the next term with the votes of everybody."""
    replica.campaign()
    for message in answers(replica):
        if message.kind == K.MSG_VOTE:
            replica.step(
                Message(K.MSG_VOTE_ACK, message.to_replica, message.from_replica, term=message.term)
            )
    assert replica.status().role == Role.LEADER


# -- 5.1 terms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_a_higher_term_makes_a_follower(role: Role) -> None:
    """5.1: if one server's term is smaller than the other's, it updates; candidates and leaders revert to follower."""
    replica = replica_with(1)
    if role == Role.CANDIDATE:
        replica.campaign()
    elif role == Role.LEADER:
        make_leader(replica)
    assert replica.status().role == role
    replica.step(Message(K.MSG_APPEND, 2, 1, term=7, index=1, log_term=1))
    status = replica.status()
    assert (status.role, status.term, status.leader) == (Role.FOLLOWER, 7, 2)


def test_a_lower_term_is_rejected() -> None:
    """5.1: a server that receives a request with a stale term rejects it."""
    replica = replica_with(1, term=5)
    replica.step(
        Message(K.MSG_APPEND, 2, 1, term=4, index=1, log_term=1, entries=(Entry(2, 4, b"x"),))
    )
    assert replica.status().last_index == 1
    assert replica.status().term == 5


# -- 5.2 elections ------------------------------------------------------------------------------------------------------------


def test_starts_as_follower() -> None:
    """5.2: when servers start up, they begin as followers."""
    assert replica_with().status().role == Role.FOLLOWER


def test_leader_sends_heartbeats() -> None:
    """5.2: leaders send periodic heartbeats to all followers."""
    replica = replica_with()
    make_leader(replica)
    answers(replica)
    replica.tick()
    beats = [m for m in answers(replica) if m.kind == K.MSG_HEARTBEAT]
    assert [m.to_replica for m in beats] == [2, 3]


@pytest.mark.parametrize("again", [False, True])
def test_silence_starts_an_election(again: bool) -> None:
    """5.2: a follower (or a candidate) that hears nothing over the election timeout begins an election:
    it increments its term, votes for itself and asks all others."""
    replica = replica_with()
    if again:
        replica.campaign()
        answers(replica)
    before = replica.status().term
    for _ in range(2 * PLAIN.election_ticks):
        replica.tick()
        if replica.status().term > before:
            break
    status = replica.status()
    assert (status.role, status.term, status.vote) == (Role.CANDIDATE, before + 1, 1)
    asked = [m for m in answers(replica) if m.kind == K.MSG_VOTE and m.term == status.term]
    assert [m.to_replica for m in asked] == [2, 3]


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, (), (), Role.LEADER),
        (3, (2, 3), (), Role.LEADER),
        (3, (2,), (), Role.LEADER),
        (5, (2, 3), (), Role.LEADER),
        (5, (2, 3, 4, 5), (), Role.LEADER),
        (3, (), (2, 3), Role.FOLLOWER),
        (5, (), (2, 3, 4, 5), Role.FOLLOWER),
        (5, (2,), (3, 4, 5), Role.FOLLOWER),
        (3, (), (), Role.CANDIDATE),
        (5, (2,), (), Role.CANDIDATE),
        (5, (), (2, 3), Role.CANDIDATE),
    ],
)
def test_a_majority_of_votes_elects(
    size: int, granted: tuple[int, ...], refused: tuple[int, ...], role: Role
) -> None:
    """5.2: a candidate wins with votes from a majority of the full cluster in the same term; else it goes on or gives up."""
    replica = replica_with(ids=tuple(range(1, size + 1)))
    replica.campaign()
    answers(replica)
    for id in granted:
        replica.step(Message(K.MSG_VOTE_ACK, id, 1, term=1))
    for id in refused:
        replica.step(Message(K.MSG_VOTE_ACK, id, 1, term=1, reject=True))
    assert replica.status().role == role
    assert replica.status().term == 1


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"), [(0, 2, True), (0, 3, True), (2, 2, True), (3, 2, False)]
)
def test_one_vote_a_term_first_come_first_served(vote: int, candidate: int, granted: bool) -> None:
    """5.2: each server votes for at most one candidate in a given term."""
    replica = replica_with(term=1, vote=vote)
    replica.step(Message(K.MSG_VOTE, candidate, 1, term=1))
    (answer,) = answers(replica)
    assert (answer.kind, answer.to_replica, answer.reject) == (
        K.MSG_VOTE_ACK,
        candidate,
        not granted,
    )
    assert replica.status().vote == (candidate if granted else vote)


@pytest.mark.parametrize("kind", [K.MSG_APPEND, K.MSG_HEARTBEAT])
@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_follows_a_legitimate_leader(kind: int, term: int) -> None:
    """5.2: a candidate that hears of a leader whose term is at least its own returns to follower."""
    replica = replica_with()
    replica.campaign()
    replica.step(Message(kind, 2, 1, term=term))
    status = replica.status()
    assert (status.role, status.term, status.leader) == (Role.FOLLOWER, term, 2)


def test_election_timeouts_are_random_and_bounded() -> None:
    """5.2: timeouts are chosen randomly from a fixed interval, anew for each election."""
    drawn = set()
    for seed in range(60):
        replica = Replica(PLAIN, replica=1, membership=voters(1, 2, 3), seed=seed)
        drawn.add(replica.status().election_timeout)
        replica.campaign()
        drawn.add(replica.status().election_timeout)
    assert drawn == set(range(PLAIN.election_ticks, 2 * PLAIN.election_ticks))


def test_split_votes_are_rare() -> None:
    """5.2: randomized timeouts let a single server time out first in most cases."""
    alone = 0
    for seed in range(300):
        timeouts = [
            Replica(PLAIN, replica=id, membership=voters(1, 2, 3, 4, 5), seed=seed * 10 + id)
            .status()
            .election_timeout
            for id in range(1, 6)
        ]
        alone += timeouts.count(min(timeouts)) == 1
    assert alone > 180


# -- 5.3 replication ----------------------------------------------------------------------------------------------------------


def test_leader_appends_and_replicates() -> None:
    """5.3: the leader appends the command to its log as a new entry, then sends it to each of the others."""
    cluster = Cluster()
    leader = cluster.elect(1)
    index = leader.propose(b"x")
    ready = cluster.nodes[1].collect()
    assert [(e.index, e.payload) for e in ready.entries] == [(index, b"x")]
    sent = [m for m in cluster.nodes[1].outbox if m.kind == K.MSG_APPEND]
    assert [(m.to_replica, m.index, m.entries[0].payload) for m in sent] == [
        (2, index - 1, b"x"),
        (3, index - 1, b"x"),
    ]
    assert leader.status().commit_index == index - 1


def test_leader_commits_when_a_majority_has_it() -> None:
    """5.3: an entry is committed once the leader that created it has replicated it on a majority."""
    cluster = Cluster()
    leader = cluster.elect(1)
    index = leader.propose(b"x")
    cluster.settle()
    assert leader.status().commit_index == index
    assert all(cluster.payloads(id) == [b"x"] for id in (1, 2, 3))


@pytest.mark.parametrize(
    ("size", "acks", "committed"),
    [
        (1, (), True),
        (3, (), False),
        (3, (2,), True),
        (3, (2, 3), True),
        (5, (2,), False),
        (5, (2, 3), True),
    ],
)
def test_acknowledgements_that_commit(size: int, acks: tuple[int, ...], committed: bool) -> None:
    """5.3: a majority, the leader included, decides."""
    replica = replica_with(ids=tuple(range(1, size + 1)))
    make_leader(replica)
    answers(replica)
    for id in range(2, size + 1):
        replica.step(Message(K.MSG_APPEND_ACK, id, 1, term=1, index=1))
    index = replica.propose(b"x")
    answers(replica)
    for id in acks:
        replica.step(Message(K.MSG_APPEND_ACK, id, 1, term=1, index=index))
    assert replica.status().commit_index == (index if committed else index - 1)


@pytest.mark.parametrize("before", [(), (2,), (1, 2), (1,)])
def test_committing_commits_everything_before(before: tuple[int, ...]) -> None:
    """5.3: this also commits all preceding entries in the leader's log, those of previous leaders included."""
    replica = replica_with(*before)
    make_leader(replica)
    answers(replica)
    term = replica.status().term
    index = replica.propose(b"x")
    answers(replica)
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=term, index=index))
    ready = replica.ready()
    assert [e.index for e in ready.committed] == list(range(1, index + 1))
    assert replica.status().commit_index == index


def test_followers_apply_what_they_learn_is_committed() -> None:
    """5.3: once a follower learns that a log entry is committed, it applies the entry, in log order."""
    replica = replica_with()
    entries = (Entry(1, 1, b"a"), Entry(2, 1, b"b"))
    replica.step(Message(K.MSG_APPEND, 2, 1, term=1, commit=1, entries=entries))
    assert replica.ready().committed == ()  # not synced here yet
    replica = replica_with()
    replica.step(Message(K.MSG_APPEND, 2, 1, term=1, commit=1, entries=entries))
    answers(replica)
    assert [e.payload for e in replica.ready().committed] == [b"a"]
    replica.step(Message(K.MSG_HEARTBEAT, 2, 1, term=1, commit=2))
    assert [e.payload for e in replica.ready().committed] == [b"b"]


@pytest.mark.parametrize(
    ("index", "log_term", "accepted", "hint"),
    [
        (0, 0, True, 0),
        (1, 1, True, 0),
        (2, 2, True, 0),
        (1, 2, False, 1),
        (2, 1, False, 1),
        (3, 3, False, 2),
    ],
)
def test_consistency_check(index: int, log_term: int, accepted: bool, hint: int) -> None:
    """5.3: if the follower finds no entry with the index and term that precede the new ones, it refuses them."""
    replica = replica_with(1, 2, commit=0)
    replica.step(Message(K.MSG_APPEND, 2, 1, term=2, index=index, log_term=log_term))
    (answer,) = answers(replica)
    assert answer.kind == K.MSG_APPEND_ACK
    assert answer.reject is not accepted
    assert answer.index == index
    if not accepted:
        assert answer.hint == hint


@pytest.mark.parametrize(
    ("index", "log_term", "sent", "log", "unstable"),
    [
        (2, 2, (3,), (1, 2, 3), (3,)),
        (1, 1, (3, 4), (1, 3, 4), (2, 3)),
        (0, 0, (1,), (1, 2), ()),
        (0, 0, (3,), (3,), (1,)),
    ],
)
def test_conflicts_are_overwritten(
    index: int,
    log_term: int,
    sent: tuple[int, ...],
    log: tuple[int, ...],
    unstable: tuple[int, ...],
) -> None:
    """5.3: conflicting entries in follower logs are overwritten; existing ones that do not conflict stay."""
    replica = replica_with(1, 2)
    prev, term = index, log_term
    for offset, entry_term in enumerate(sent):
        message = Message(
            K.MSG_APPEND,
            2,
            1,
            term=9,
            index=prev,
            log_term=term,
            entries=(Entry(index + 1 + offset, entry_term, b"n"),),
        )
        replica.step(message)
        prev, term = index + 1 + offset, entry_term
    ready = replica.ready()
    assert tuple(replica.term_at(i) for i in range(1, replica.status().last_index + 1)) == log
    assert tuple(entry.index for entry in ready.entries) == unstable


FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


@pytest.mark.parametrize("case", sorted(FIGURE_7))
def test_leader_brings_logs_together(case: str) -> None:
    """5.3, figure 7: the leader finds the latest entry where the logs agree and sends everything after it."""
    leader_log = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    cluster = Cluster(3)
    for id, log, term in ((1, leader_log, 8), (2, FIGURE_7[case], 7), (3, leader_log, 8)):
        node = cluster.nodes[id]
        node.disk.entries = {e.index: e for e in log_of(*log)}
        node.disk.hard_state = HardState(term=max(term, log[-1]))
        node.crash()
    cluster.cut = lambda m: m.from_replica == 2 and m.kind == K.MSG_VOTE_ACK  # it votes for nobody
    cluster.elect(1)
    cluster[1].propose(b"new")
    cluster.settle()
    logs = [
        [(e.index, e.term, e.payload) for e in node.disk.entries.values()]
        for node in cluster.nodes.values()
    ]
    want = [(i, t, b"%d" % i) for i, t in enumerate(leader_log, 1)] + [
        (11, 9, b""),
        (12, 9, b"new"),
    ]
    assert sorted(logs[0]) == sorted(logs[1]) == want


def test_a_rejection_skips_a_whole_term() -> None:
    """5.3, end: the leader may bypass all conflicting entries of a term in one round."""
    cluster = Cluster(3)
    for id, log in ((1, (1,) + (5,) * 30), (2, (1,) + (2,) * 20), (3, (1,) + (5,) * 30)):
        cluster.nodes[id].disk.entries = {e.index: e for e in log_of(*log)}
        cluster.nodes[id].disk.hard_state = HardState(term=5)
        cluster.nodes[id].crash()
    cluster.elect(1)
    probes = [
        m for m in cluster.seen if m.kind == K.MSG_APPEND and m.to_replica == 2 and not m.reject
    ]
    refused = [
        m for m in cluster.seen if m.kind == K.MSG_APPEND_ACK and m.from_replica == 2 and m.reject
    ]
    assert len(refused) <= 2, refused
    assert len(probes) < 12
    assert len(cluster.nodes[2].disk.entries) == 32


# -- 5.4 safety ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "candidate", "granted"),
    [
        ((1,), (1, 1), True),
        ((1,), (2, 1), True),
        ((1, 1), (1, 1), False),
        ((1,), (1, 2), True),
        ((1,), (2, 2), True),
        ((1, 1), (1, 2), True),
        ((2,), (1, 1), False),
        ((2,), (2, 1), False),
        ((2, 1), (1, 1), False),
    ],
)
def test_voters_deny_candidates_with_older_logs(
    own: tuple[int, ...], candidate: tuple[int, ...], granted: bool
) -> None:
    """5.4.1: the voter denies its vote if its own log is more up to date: a later last term, or the longer log."""
    terms = tuple(sorted(own))
    replica = replica_with(*terms, term=3)
    last_index, last_term = candidate
    replica.step(Message(K.MSG_VOTE, 2, 1, term=4, index=last_index, log_term=last_term))
    (answer,) = answers(replica)
    assert answer.reject is not granted


def test_candidates_name_their_last_entry() -> None:
    """5.4.1: the request includes information about the candidate's log."""
    replica = replica_with(1, 2, 2)
    replica.campaign()
    asked = [m for m in answers(replica) if m.kind == K.MSG_VOTE]
    assert {(m.index, m.log_term, m.term) for m in asked} == {(3, 2, 3)}


@pytest.mark.parametrize(("acknowledged", "commit"), [(1, 0), (2, 0), (3, 3)])
def test_p23_only_own_term_commits_by_counting(acknowledged: int, commit: int) -> None:
    """5.4.2: only log entries from the leader's current term are committed by counting replicas."""
    replica = replica_with(1, 2)
    make_leader(replica)  # term 3; its empty entry is index 3
    answers(replica)
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=3, index=acknowledged))
    assert replica.status().commit_index == commit


def test_a_new_leader_appends_an_entry_of_its_own_term() -> None:
    """5.4.2 and 8: a leader commits a blank no-op entry at the start of its term."""
    replica = replica_with(1, 1)
    make_leader(replica)
    assert [(e.index, e.term, e.payload) for e in replica.ready().entries] == [(3, 2, b"")]


def test_leader_completeness() -> None:
    """5.4.3: an entry that is committed is in the logs of all later leaders, whoever can win."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster[1].propose(b"kept")
    cluster.settle()
    assert cluster[1].status().commit_index == 2
    cluster.heal()
    for id in (4, 5):
        cluster[id].campaign()
        cluster.settle()
        assert cluster[id].status().role == Role.FOLLOWER
    for id in (2, 3):
        cluster.elect(id)
        assert b"kept" in [e.payload for e in cluster.nodes[id].disk.entries.values()]


# -- 5.5 and 6: crashes, members ------------------------------------------------------------------------------------------------


def test_append_is_idempotent() -> None:
    """5.5: Raft RPCs are idempotent: the same append again does no harm and is acknowledged again."""
    replica = replica_with()
    message = Message(K.MSG_APPEND, 2, 1, term=1, entries=(Entry(1, 1, b"a"), Entry(2, 1, b"b")))
    replica.step(message)
    first = answers(replica)
    replica.step(message)
    again = replica.ready()
    assert again.entries == ()
    assert [m.index for m in first] == [m.index for m in again.messages_after] == [2]


def test_a_replica_keeps_its_promises_over_a_crash() -> None:
    """5.2, figure 2: currentTerm, votedFor and log[] are persistent state on all servers."""
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose(b"x")
    cluster.settle()
    for id in (1, 2, 3):
        before = dataclasses.astuple(cluster.nodes[id].disk.hard_state)[:2]
        cluster.nodes[id].crash()
        status = cluster[id].status()
        assert (status.term, status.vote) == before
        assert status.last_index == 2


def test_proposals_go_to_leaders_only() -> None:
    """8: clients send all of their requests to the leader; another replica names it."""
    cluster = Cluster()
    with pytest.raises(NoLeader):
        cluster[2].propose(b"x")
    cluster.elect(1)
    with pytest.raises(NotLeader):
        cluster[2].propose(b"x")
    assert cluster[2].status().leader == 1


def test_members_with_the_lead_only_vote_in_their_configuration() -> None:
    """6: a removed server must not disrupt: a learner neither stands for election nor counts in one."""
    cluster = Cluster(3, learners=(3,))
    cluster[3].campaign()
    cluster.settle()
    assert cluster[3].status().role == Role.FOLLOWER
    cluster.isolate(2)
    cluster[1].campaign()
    cluster.settle()
    assert cluster[1].status().role == Role.CANDIDATE, "a learner's vote is no quorum of two voters"


def test_a_node_alone_leads_itself() -> None:
    """A cluster of one needs nobody, but its own disk (pitfall 4)."""
    node = Node(1, voters(1), Options())
    node.replica.campaign()
    node.collect()
    assert node.replica.status().role == Role.CANDIDATE, "its own vote is not synced yet"
    node.sync()
    assert node.replica.status().role == Role.LEADER
