"""The pitfalls that concern one replica, each with its number (docs/testing.md has the table)."""

from __future__ import annotations

import random

import pytest

from multiraft._core import MemberFlag, RunKind
from multiraft._core import MessageKind as K
from multiraft.errors import NoLeader
from multiraft.interfaces import HardState, Member, Membership
from multiraft.raft import (
    ChangeOperation,
    Entry,
    MembershipChange,
    Message,
    Options,
    Replica,
    Role,
    Transition,
)

from .harness import PLAIN, Cluster, Node, voters
from .test_paper import answers, log_of, make_leader, replica_with

GUARDED = Options(election_ticks=10, heartbeat_ticks=1, pre_vote=True, check_quorum=True)
LEASED = Options(
    election_ticks=10,
    heartbeat_ticks=1,
    pre_vote=True,
    check_quorum=True,
    lease_reads=True,
    lease_ns=9,
)


def add(*replicas: int, explicit: bool = False) -> MembershipChange:
    operations = tuple((ChangeOperation.ADD_VOTER, id, id) for id in replicas)
    return MembershipChange(
        operations, Transition.JOINT_EXPLICIT if explicit else Transition.AUTOMATIC
    )


def learn(replica: int) -> MembershipChange:
    return MembershipChange(((ChangeOperation.ADD_LEARNER, replica, replica),))


def drop(*replicas: int) -> MembershipChange:
    return MembershipChange(tuple((ChangeOperation.REMOVE, id, 0) for id in replicas))


def joint(
    incoming: tuple[int, ...], outgoing: tuple[int, ...], *, auto_leave: bool = True
) -> Membership:
    flags: dict[int, int] = {}
    for id in incoming:
        flags[id] = flags.get(id, 0) | MemberFlag.MEMBER_VOTER
    for id in outgoing:
        flags[id] = flags.get(id, 0) | MemberFlag.MEMBER_OUTGOING
    return Membership(tuple(Member(i, i, flags[i]) for i in sorted(flags)), auto_leave)  # type: ignore[arg-type]


# -- durable state -----------------------------------------------------------------------------------------------------


def test_p01_a_vote_waits_for_its_sync_and_outlives_a_crash() -> None:
    cluster = Cluster()
    node = cluster.nodes[1]
    node.replica.step(Message(K.MSG_VOTE, 2, 1, term=1))
    ready = node.collect()
    assert node.outbox == [] and [m.kind for m in ready.messages_after] == [K.MSG_VOTE_ACK]
    assert ready.must_sync and ready.hard_state is not None and ready.hard_state.vote == 2
    node.crash()  # before the sync: nothing was promised
    node.replica.step(Message(K.MSG_VOTE, 3, 1, term=1))
    node.collect()
    node.sync()
    assert [(m.to_replica, m.reject) for m in node.outbox] == [(3, False)]
    node.crash()  # after it: the promise holds
    node.replica.step(Message(K.MSG_VOTE, 2, 1, term=1))
    assert [(m.to_replica, m.reject) for m in answers(node.replica)] == [(2, True)]


def test_p02_term_and_vote_are_written_together() -> None:
    replica = replica_with()
    replica.step(Message(K.MSG_VOTE, 3, 1, term=7))
    ready = replica.ready()
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (7, 3)
    assert len(ready.batches) == 1


def test_p01_p02_a_vote_in_a_term_that_is_known_already_is_written_too() -> None:
    node = Node(1, voters(1, 2, 3), PLAIN)
    node.replica.step(Message(K.MSG_HEARTBEAT, 2, 1, term=7))
    node.collect()
    node.sync()
    node.crash()
    assert (node.replica.status().term, node.replica.status().vote) == (7, 0)
    node.replica.step(Message(K.MSG_VOTE, 3, 1, term=7))
    node.collect()
    node.sync()
    node.crash()
    assert (node.replica.status().term, node.replica.status().vote) == (7, 3)


def test_p03_an_acknowledgement_waits_for_the_sync_also_the_leaders_own() -> None:
    cluster = Cluster()
    cluster.elect(1)
    index = cluster[1].propose(b"x")
    leader, follower = cluster.nodes[1], cluster.nodes[2]
    leader.collect()  # sent, but not synced on the leader
    cluster.deliver(m for m in cluster.take() if m.to_replica == 2)
    ready = follower.collect()
    assert ready.messages == () and follower.outbox == []
    follower.sync()
    cluster.deliver(cluster.take())
    assert cluster[1].status().commit_index == index - 1, (
        "two of three have it, but only one has it on its disk"
    )
    leader.sync()
    assert cluster[1].status().commit_index == index


def test_p03_a_quorum_without_the_leader_commits_and_the_leader_applies_only_what_it_has_synced() -> (
    None
):
    cluster = Cluster()
    cluster.elect(1)
    index = cluster[1].propose(b"x")
    cluster.nodes[1].collect()
    for id in (2, 3):
        cluster[1].step(Message(K.MSG_APPEND_ACK, id, 1, term=1, index=index))
    assert cluster[1].status().commit_index == index
    assert cluster.nodes[1].collect().committed == ()
    cluster.nodes[1].sync()
    assert [e.payload for e in cluster.nodes[1].collect().committed] == [b"x"]


def test_p04_a_single_voter_waits_for_its_own_disk() -> None:
    node = Node(1, voters(1), PLAIN)
    node.replica.campaign()
    for _ in range(3):
        node.collect()
        node.sync()
    index = node.replica.propose(b"x")
    assert node.collect().committed == ()
    assert node.replica.status().commit_index == index - 1
    node.sync()
    assert [e.payload for e in node.collect().committed] == [b"x"]


def test_p05_a_late_sync_of_an_overwritten_entry_counts_for_nothing() -> None:
    """Index 2 is written under term 1, then 2, then 1 again (by a third leader): only the last write counts."""
    replica = replica_with(1, term=1)
    tags = []
    for sender, term, entry_term in ((2, 1, 1), (3, 2, 2), (2, 3, 1)):
        message = Message(
            K.MSG_APPEND,
            sender,
            1,
            term=term,
            index=1,
            log_term=1,
            entries=(Entry(2, entry_term, b"x"),),
        )
        if entry_term < term:
            # A leader of term 3 that holds an entry of term 1 at index 2 and has not seen the one of term 2.
            replica.step(Message(K.MSG_APPEND, sender, 1, term=term, index=1, log_term=1))
        replica.step(message)
        tag = replica.ready().tag
        assert tag is not None
        tags.append(tag)
    assert replica.term_at(2) == 1
    replica.persisted(tags[0])
    assert replica.status().stable_index == 1, "that write was overwritten since, whatever its term"
    replica.persisted(tags[1])
    assert replica.status().stable_index == 1
    replica.persisted(tags[2])
    assert replica.status().stable_index == 2


def test_p06_a_vote_for_itself_of_an_earlier_term_is_ignored() -> None:
    replica = replica_with()
    replica.campaign()
    old = replica.ready().tag
    replica.step(Message(K.MSG_VOTE_ACK, 2, 1, term=5, reject=True))  # somebody is far ahead
    replica.campaign()
    replica.ready()
    assert old is not None
    replica.persisted(old)
    assert replica.status().role == Role.CANDIDATE
    replica.step(Message(K.MSG_VOTE_ACK, 2, 1, term=6, reject=True))
    replica.step(Message(K.MSG_VOTE_ACK, 3, 1, term=6))
    assert replica.status().role == Role.CANDIDATE, (
        "one vote granted, one refused, and our own is not synced"
    )


def test_p06_an_own_acknowledgement_of_an_earlier_term_is_ignored() -> None:
    replica = replica_with(ids=(1, 2, 3))
    make_leader(replica)
    answers(replica)
    replica.propose(b"a")
    old = replica.ready().tag
    replica.step(
        Message(K.MSG_APPEND, 2, 1, term=2, index=1, log_term=1, entries=(Entry(2, 2, b"b"),))
    )
    replica.ready()
    assert old is not None
    replica.persisted(old)
    assert replica.status().stable_index == 1


@pytest.mark.parametrize("kind", [K.MSG_HEARTBEAT, K.MSG_APPEND])
def test_p09_a_commit_index_beyond_the_log_is_bounded(kind: int) -> None:
    replica = replica_with(1, 1, term=1)
    replica.step(
        Message(kind, 2, 1, term=1, index=1 if kind == K.MSG_APPEND else 0, log_term=1, commit=99)
    )
    assert replica.status().commit_index == (1 if kind == K.MSG_APPEND else 2)
    assert replica.status().last_index == 2
    assert all(m.index <= 2 for m in answers(replica))


def test_p09_a_leader_sends_no_commit_index_beyond_the_match() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    for _ in range(3):
        cluster[1].propose(b"x")
        cluster.settle()
    cluster[1].tick()
    cluster.nodes[1].collect()
    beats = {m.to_replica: m.commit for m in cluster.nodes[1].outbox if m.kind == K.MSG_HEARTBEAT}
    assert beats == {2: 4, 3: 1}


# -- elections ---------------------------------------------------------------------------------------------------------


def test_p24_one_leader_a_term_over_random_runs() -> None:
    for seed in range(25):
        draw = random.Random(seed)
        cluster = Cluster(5, seed=seed)
        leaders: dict[int, int] = {}
        for _ in range(120):
            cluster.tick()
            for node in cluster.nodes.values():
                node.collect()
                if draw.random() < 0.7:
                    node.sync()
            messages = [m for m in cluster.take() if draw.random() < 0.8]
            draw.shuffle(messages)
            cluster.deliver(messages)
            for message in messages:
                if message.kind == K.MSG_APPEND:
                    assert (
                        leaders.setdefault(message.term, message.from_replica)
                        == message.from_replica
                    )
            if draw.random() < 0.03:
                cluster.nodes[draw.randint(1, 5)].crash()
        assert leaders, "nobody was ever elected"


def test_p25_a_node_that_returns_from_isolation_does_not_depose_the_leader() -> None:
    cluster = Cluster(3, GUARDED)
    cluster.elect(1)
    term = cluster[1].status().term
    cluster.isolate(3)
    for _ in range(60):
        cluster.tick()
        cluster.settle()
    assert cluster[3].status().role == Role.PRE_CANDIDATE
    assert cluster[3].status().term == term
    cluster.heal()
    cluster[
        3
    ].campaign()  # before it hears of the leader, with a log that is as good as the others'
    cluster.settle()
    for _ in range(30):
        cluster.tick()
        cluster.settle()
    assert cluster.leaders() == [1]
    assert {cluster[id].status().term for id in (1, 2, 3)} == {term}


@pytest.mark.parametrize("kind", [K.MSG_VOTE, K.MSG_PRE_VOTE])
def test_p25_who_hears_a_leader_answers_no_election(kind: int) -> None:
    cluster = Cluster(3, GUARDED)
    cluster.elect(1)
    for id in (1, 2):
        before = cluster[id].status()
        cluster[id].step(Message(kind, 3, id, term=9, index=99, log_term=8))
        assert cluster[id].status() == before
        assert answers(cluster[id]) == []
    cluster.isolate(2)
    cluster.tick(GUARDED.election_ticks, 2)  # one election timeout without a word: it is free again
    cluster[2].step(Message(kind, 3, 2, term=9, index=99, log_term=8))
    assert [m.reject for m in answers(cluster[2]) if m.to_replica == 3] == [False]


def test_p26_a_removed_replica_raises_no_terms() -> None:
    cluster = Cluster(4, GUARDED)
    cluster.elect(1)
    cluster.isolate(4)
    cluster[1].propose_membership(drop(4))
    cluster.settle()
    assert [m.replica for m in cluster[1].membership().members] == [1, 2, 3]
    cluster.heal()
    cluster.cut = lambda m: m.to_replica == 4  # it never hears that it was removed
    for _ in range(60):
        cluster.tick()
        cluster.settle()
    assert cluster.leaders() == [1]
    assert cluster[1].status().term == 1


def test_p27_a_leader_with_a_reachable_majority_stays_when_some_links_are_cut() -> None:
    """Five nodes; 4 and 5 each reach only one follower, which both hear the leader."""
    cluster = Cluster(5, GUARDED)
    cluster.elect(1)
    reach = {(4, 2), (2, 4), (5, 3), (3, 5)}
    cluster.cut = lambda m: (
        bool({m.from_replica, m.to_replica} & {4, 5})
        and (m.from_replica, m.to_replica) not in reach
    )
    for _ in range(100):
        cluster.tick()
        cluster.settle()
    assert cluster.leaders() == [1]
    assert cluster[1].status().term == 1


def test_p28_a_leader_without_a_majority_steps_down_within_one_election_timeout() -> None:
    cluster = Cluster(3, GUARDED)
    cluster.elect(1)
    cluster.tick(GUARDED.election_ticks, 1)
    cluster.settle()
    cluster.isolate(1)
    cluster.tick(2 * GUARDED.election_ticks, 1)
    assert cluster[1].status().role == Role.FOLLOWER
    with pytest.raises(NoLeader):
        cluster[1].propose(b"x")


def test_p29_nobody_campaigns_over_a_committed_change_that_it_has_not_applied() -> None:
    entries = [*log_of(1), Entry(2, 1, learn(4).encode(), RunKind.RUN_MEMBERSHIP)]
    replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1, commit=2),
        entries=entries,
        applied_index=1,
    )
    replica.campaign()
    assert replica.status().role == Role.FOLLOWER
    (entry,) = replica.ready().committed
    replica.apply_membership(entry.index, entry.payload)
    replica.applied(entry.index)
    replica.campaign()
    assert replica.status().role == Role.CANDIDATE


def test_p30_a_replica_that_thinks_it_is_a_learner_still_votes() -> None:
    replica = Replica(PLAIN, replica=3, membership=voters(1, 2, learners=(3,)))
    replica.step(Message(K.MSG_VOTE, 1, 3, term=1))
    (answer,) = answers(replica)
    assert (answer.kind, answer.reject) == (K.MSG_VOTE_ACK, False)


def test_p31_a_transfer_hands_over_and_refuses_proposals_only_meanwhile() -> None:
    cluster = Cluster(3, GUARDED)
    cluster.elect(1)
    cluster[1].transfer_leader(2)
    with pytest.raises(NoLeader):
        cluster[1].propose(b"x")
    cluster.settle()
    assert cluster.leaders() == [2]
    cluster[2].propose(b"y")
    cluster.settle()
    assert cluster.payloads(3) == [b"y"]


def test_p31_a_transfer_to_one_who_is_behind_waits_until_it_caught_up() -> None:
    cluster = Cluster(3, PLAIN)
    cluster.elect(1)
    cluster.isolate(3)
    for payload in (b"a", b"b"):
        cluster[1].propose(payload)
        cluster.settle()
    cluster.heal()
    cluster[1].transfer_leader(3)
    cluster.settle()
    assert cluster.leaders() == [3]
    assert cluster.payloads(3) == [b"a", b"b"]


def test_p31_a_transfer_ends_after_one_timeout() -> None:
    cluster = Cluster(3, PLAIN)
    cluster.elect(1)
    cluster.isolate(3)
    cluster[1].transfer_leader(3)
    cluster.tick(PLAIN.election_ticks, 1)
    assert cluster[1].status().transfer_to == 0
    cluster[1].propose(b"x")


@pytest.mark.parametrize("change", [drop(3), learn(3)])
def test_p31_a_transfer_is_dropped_when_its_target_is_removed_or_demoted(
    change: MembershipChange,
) -> None:
    cluster = Cluster(3, PLAIN)
    cluster.elect(1)
    cluster.cut = lambda m: 3 in (m.from_replica, m.to_replica)
    _index, accepted = cluster[1].propose_membership(change)
    assert accepted
    cluster.nodes[1].collect()
    cluster[1].transfer_leader(3)
    cluster.settle()
    assert cluster[1].status().transfer_to == 0
    cluster[1].propose(b"x")


# -- reads -------------------------------------------------------------------------------------------------------------


def test_p34_a_new_leader_serves_no_read_before_it_committed_in_its_own_term() -> None:
    cluster = Cluster()
    cluster[1].campaign()
    cluster.nodes[1].collect()
    cluster.nodes[1].sync()
    cluster.deliver(cluster.take())
    for id in (2, 3):
        cluster.nodes[id].collect()
        cluster.nodes[id].sync()
    cluster.cut = lambda m: m.kind == K.MSG_APPEND_ACK
    cluster.deliver(cluster.take())
    assert cluster[1].status().role == Role.LEADER
    assert cluster[1].read_index(7)
    cluster.settle()
    assert cluster.nodes[1].reads == []
    cluster.heal()
    cluster.tick(1, 1)
    cluster.settle()
    assert cluster.nodes[1].reads == [(7, 1)]


def test_p35_a_round_that_began_before_the_read_confirms_nothing() -> None:
    cluster = Cluster()
    cluster.elect(1)
    assert cluster[1].read_index(1)
    cluster.nodes[1].collect()
    first = [m for m in cluster.take() if m.kind == K.MSG_HEARTBEAT]
    assert cluster[1].read_index(2)  # arrives while the first round is under way
    cluster.nodes[1].collect()
    second = [m for m in cluster.take() if m.kind == K.MSG_HEARTBEAT]
    cluster.deliver(first)
    cluster.nodes[2].collect()
    cluster.deliver(cluster.take())
    cluster.nodes[1].collect()
    assert [context for context, _ in cluster.nodes[1].reads] == [1]
    cluster.deliver(first)  # a duplicate of the old round changes nothing
    cluster.nodes[2].collect()
    cluster.deliver(cluster.take())
    cluster.nodes[1].collect()
    assert [context for context, _ in cluster.nodes[1].reads] == [1]
    cluster.deliver(second)
    cluster.nodes[3].collect()
    cluster.deliver(cluster.take())
    cluster.nodes[1].collect()
    assert [context for context, _ in cluster.nodes[1].reads] == [1, 2]


def test_p36_a_read_is_answered_with_the_commit_index_of_its_arrival_or_later() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose(b"x")
    cluster.settle()
    for id in (1, 2):
        assert cluster[id].read_index(5)
        cluster.settle()
        assert cluster.nodes[id].reads == [(5, 2)]


def test_p37_a_deposed_leader_answers_no_read() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.elect(2)
    cluster[2].propose(b"newer")
    cluster.settle()
    assert cluster[1].read_index(9)
    cluster.settle()
    assert cluster.nodes[1].reads == []
    cluster.heal()
    cluster.tick(1, 1, 2)
    cluster.settle()
    assert cluster.nodes[1].reads == [(9, None)], "it must be asked anew"


def test_p40_the_lease_ends_when_a_transfer_starts_for_the_whole_term() -> None:
    cluster = Cluster(3, LEASED)
    cluster.tick(LEASED.election_ticks)
    cluster.elect(1)
    cluster.tick()
    cluster.settle()
    assert cluster[1].status().lease
    assert cluster[1].read_index(1)
    cluster.nodes[1].collect()
    assert cluster.nodes[1].reads == [(1, 1)], "no round trip under the lease"
    cluster.isolate(3)
    cluster[1].transfer_leader(3)
    assert not cluster[1].status().lease
    cluster.tick(
        LEASED.election_ticks, 1
    )  # the transfer is given up, but its message may still arrive
    cluster.tick()
    cluster.settle()
    assert not cluster[1].status().lease


def test_p39_a_lease_runs_from_the_send_of_its_round_and_ends_by_itself() -> None:
    cluster = Cluster(3, LEASED)
    cluster.tick(LEASED.election_ticks)
    cluster.elect(1)
    cluster[1].tick()
    cluster.nodes[1].collect()
    beats = cluster.take()
    for _ in range(LEASED.lease_ns):  # the answers dawdle for a whole lease
        cluster[1].tick()
        cluster.nodes[1].collect()
    cluster.take()
    cluster.deliver(m for m in beats if m.context == min(b.context for b in beats if b.context))
    for id in (2, 3):
        cluster.nodes[id].collect()
    cluster.deliver(cluster.take())
    assert not cluster[1].status().lease


@pytest.mark.parametrize("late", [0, 2])
def test_p39_a_lease_is_not_longer_for_an_answer_that_came_late(late: int) -> None:
    cluster = Cluster(3, LEASED)
    cluster.tick(LEASED.election_ticks)
    cluster.elect(1)
    cluster[1].tick()
    cluster.nodes[1].collect()
    beats = cluster.take()
    for _ in range(late):
        cluster[1].tick()
        cluster.nodes[1].collect()
    cluster.take()  # the later rounds are lost
    cluster.deliver(beats)
    for id in (2, 3):
        cluster.nodes[id].collect()
    cluster.deliver(cluster.take())
    held = 0
    while cluster[1].status().lease:
        held += 1
        cluster[1].tick()
    assert late + held == LEASED.lease_ns


def test_p39_a_restarted_voter_refuses_votes_for_one_timeout_while_leases_are_on() -> None:
    replica = Replica(LEASED, replica=1, membership=voters(1, 2, 3))
    replica.step(Message(K.MSG_VOTE, 2, 1, term=1))
    assert answers(replica) == []
    for _ in range(LEASED.election_ticks):
        replica.tick()
    replica.step(Message(K.MSG_VOTE, 2, 1, term=1))
    assert [m.reject for m in answers(replica)] == [False]


def test_p42_every_waiting_read_is_answered_when_leadership_is_lost() -> None:
    cluster = Cluster()
    cluster.elect(1)
    for context in (1, 2, 3):
        cluster[1].read_index(context)
    cluster[1].step(Message(K.MSG_HEARTBEAT, 2, 1, term=9))
    assert cluster.nodes[1].collect().read_states == ((1, None), (2, None), (3, None))


# -- the wire ----------------------------------------------------------------------------------------------------------


def test_p83_logs_agree_whatever_is_lost_delayed_duplicated_or_reordered() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        cluster = Cluster(3, GUARDED if seed % 2 else PLAIN, seed=seed)
        late: list[Message] = []
        acknowledged: list[bytes] = []
        for step in range(300):
            cluster.tick()
            for id in cluster.leaders():
                if draw.random() < 0.5:
                    try:
                        cluster[id].propose(b"%d" % step)
                    except NoLeader:
                        continue
            for node in cluster.nodes.values():
                node.collect()
                if draw.random() < 0.8:
                    node.sync()
            late += cluster.take()
            draw.shuffle(late)
            now, late = late[: len(late) * 2 // 3], late[len(late) * 2 // 3 :]
            cluster.deliver(m for m in now if draw.random() < 0.9)
            cluster.deliver(m for m in now if draw.random() < 0.1)
            if draw.random() < 0.02:
                cluster.nodes[draw.randint(1, 3)].crash()
            acknowledged = max((cluster.payloads(id) for id in (1, 2, 3)), key=len)
        late.clear()
        for _ in range(60):
            cluster.tick()
            cluster.settle()
        final = [cluster.payloads(id) for id in (1, 2, 3)]
        assert final[0] == final[1] == final[2]
        assert final[0][: len(acknowledged)] == acknowledged
        assert acknowledged, seed


def test_p98_a_lost_window_is_noticed_and_sent_again() -> None:
    options = Options(pre_vote=False, check_quorum=False, inflight_messages_max=2)
    cluster = Cluster(3, options)
    cluster.elect(1)
    cluster.isolate(3)
    for n in range(6):
        cluster[1].propose(b"%d" % n)
        cluster.settle()
    assert cluster[1].status().peers[3].paused
    cluster.heal()
    cluster.tick(1, 1)
    cluster.settle()
    cluster.tick(1, 1)
    cluster.settle()
    assert cluster.payloads(3) == cluster.payloads(1)[: len(cluster.payloads(3))]
    assert cluster[1].status().peers[3].match_index == 7


def test_p98_a_report_of_loss_restarts_from_what_is_known() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(2)
    cluster[1].propose(b"x")
    cluster.settle()
    cluster.heal()
    cluster[1].report_unreachable(2)
    cluster.settle()
    assert cluster[1].status().peers[2].match_index == 2


def test_learner_flag_is_shown() -> None:
    replica = Replica(PLAIN, replica=1, membership=voters(1, learners=(2,)))
    assert replica.status().peers[2].learner
    assert replica.status().peers[2].flags == MemberFlag.MEMBER_LEARNER
