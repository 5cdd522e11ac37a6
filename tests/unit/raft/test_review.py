"""What a review of the replica found: each test tells the schedule of events that broke it.

None of these is exotic: each needs a crash, a delay or a duplicate at an unlucky moment, and nothing else.
"""

from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from multiraft._core import MessageKind as K
from multiraft._core import RunKind, encode_run
from multiraft.errors import Overloaded
from multiraft.interfaces import HardState
from multiraft.raft import (
    ChangeOperation,
    Entry,
    MembershipChange,
    Message,
    MultiRaft,
    Options,
    Replica,
    Role,
    Snapshot,
)
from multiraft.raft.messages import decode_messages

from .harness import PLAIN, Cluster, voters
from .test_paper import answers, log_of, make_leader, replica_with
from .test_pitfalls import LEASED


def add(replica: int) -> MembershipChange:
    return MembershipChange(((ChangeOperation.ADD_VOTER, replica, replica),))


# -- safety -------------------------------------------------------------------------------------------------------------------


def test_p01_a_vote_is_asked_for_only_with_a_log_and_a_term_that_are_synced() -> None:
    """Replica 3 holds two committed entries in memory only, asks for votes on their strength, loses them in a crash, and
    is elected by the answer to its first request when it stands again in the same term with a shorter log."""
    cluster = Cluster()
    cluster.elect(1)
    for payload in (b"a", b"b"):
        cluster[1].propose(payload)
    cluster.nodes[1].collect()
    cluster.nodes[1].sync()
    appends = [m for m in cluster.take() if m.kind == K.MSG_APPEND]
    cluster.deliver(m for m in appends if m.to_replica == 2)
    cluster.nodes[2].collect()
    cluster.nodes[2].sync()
    cluster.deliver(cluster.take())
    assert cluster[1].status().commit_index == 3, "1 and 2 have both entries"
    cluster.deliver(m for m in appends if m.to_replica == 3)
    cluster[3].campaign()
    cluster.nodes[3].collect()  # not synced yet
    cluster.deliver(m for m in cluster.nodes[3].outbox if m.to_replica == 2)
    cluster.nodes[3].crash()
    cluster.nodes[2].collect()
    cluster.nodes[2].sync()
    late = [m for m in cluster.nodes[2].outbox if m.kind == K.MSG_VOTE_ACK]
    assert cluster[3].status().last_index == 1
    cluster[3].campaign()
    cluster.nodes[3].collect()
    cluster.nodes[3].sync()
    cluster.deliver(late)
    assert cluster[3].status().role == Role.CANDIDATE, (
        "it leads without the entries that are committed"
    )


def test_p29_a_committed_change_is_remembered_before_the_next_one_is_acknowledged() -> None:
    """Voters 1, 2, 3; 1 leads and adds 4, then 5. Replica 2 acknowledges the second change; it must not forget that the
    first one is committed, or it could be elected by 3 alone, as one of three, while 1, 4 and 5 are a majority of five."""
    replica = Replica(
        PLAIN,
        replica=2,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1),
        entries=log_of(1),
    )
    first = Entry(2, 1, add(4).encode(), RunKind.RUN_MEMBERSHIP)
    second = Entry(3, 1, add(5).encode(), RunKind.RUN_MEMBERSHIP)
    replica.step(
        Message(K.MSG_APPEND, 1, 2, term=1, index=1, log_term=1, commit=1, entries=(first,))
    )
    ready = replica.ready()
    assert ready.tag is not None
    replica.persisted(ready.tag)
    replica.step(
        Message(K.MSG_APPEND, 1, 2, term=1, index=2, log_term=1, commit=2, entries=(second,))
    )
    ready = replica.ready()
    assert [m.index for m in ready.messages_after] == [3]
    assert ready.hard_state is not None and ready.hard_state.commit >= 2
    assert ready.tag is not None
    replica.persisted(ready.tag)  # ... and a crash: the state machine had applied nothing durably
    again = Replica(
        PLAIN,
        replica=2,
        membership=voters(1, 2, 3),
        hard_state=ready.hard_state,
        entries=[*log_of(1), first, second],
        applied_index=0,
    )
    again.campaign()
    assert again.status().role == Role.FOLLOWER, (
        "it knows of a committed change that it has not applied"
    )


def test_p24_entries_read_for_a_peer_are_not_sent_by_a_follower() -> None:
    """A leader asks for entries to be read for a peer; when they come it follows another leader, in another term."""
    replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1, commit=3),
        entries=log_of(1, 1, 1),
        applied_index=3,
        in_memory=False,
    )
    make_leader(replica)
    answers(replica)
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=2, index=3, hint=1, log_term=1, reject=True))
    assert replica.ready().wanted == ((2, 2, PLAIN.message_bytes_max),)
    replica.step(Message(K.MSG_HEARTBEAT, 3, 1, term=3))
    last = replica.status().last_index
    replica.step(
        Message(
            K.MSG_APPEND, 3, 1, term=3, index=last, log_term=2, entries=(Entry(last + 1, 3, b"z"),)
        )
    )
    answers(replica)
    runs = [
        encode_run(group=1, first=2, term=1, entries=[b"2", b"3"]),
        encode_run(group=1, first=4, term=2, entries=[b""]),
        encode_run(group=1, first=last + 1, term=3, entries=[b"z"]),
    ]
    replica.fetched(2, runs)
    assert [m for m in answers(replica) if m.kind == K.MSG_APPEND] == []


def test_p53_nothing_is_handed_out_twice_when_entries_overtake_a_snapshot() -> None:
    """A snapshot is on its way; meanwhile the entries themselves come, are committed and handed out to be applied."""
    replica = replica_with(1, term=1, commit=1)
    ready = replica.ready()
    assert [e.index for e in ready.committed] == [1]
    replica.applied(1)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=4, log_term=1))
    offered = replica.ready().snapshot
    entries = tuple(Entry(i, 1, b"%d" % i) for i in range(2, 7))
    replica.step(
        Message(K.MSG_APPEND, 2, 1, term=1, index=1, log_term=1, commit=6, entries=entries)
    )
    ready = replica.ready()
    assert ready.tag is not None
    replica.persisted(ready.tag)
    handed = [e.index for e in replica.ready().committed]
    assert offered is not None
    replica.installed(offered)
    handed += [e.index for e in replica.ready().committed]
    assert handed == [5, 6], (
        "4 and what is before it lie in the snapshot; 5 and 6 are applied once, after it"
    )
    replica.applied(6)


def test_p53_what_waited_for_a_snapshot_that_failed_is_applied_all_the_same() -> None:
    replica = replica_with(1, term=1, commit=1)
    assert len(replica.ready().committed) == 1
    replica.applied(1)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=4, log_term=1))
    replica.ready()
    entries = tuple(Entry(i, 1, b"%d" % i) for i in range(2, 7))
    replica.step(
        Message(K.MSG_APPEND, 2, 1, term=1, index=1, log_term=1, commit=6, entries=entries)
    )
    answers(replica)
    replica.ready()
    replica.snapshot_failed()
    assert [e.index for e in replica.ready().committed] == [2, 3, 4, 5, 6]


# -- leases -------------------------------------------------------------------------------------------------------------------


def lease_follower() -> Replica:
    """Replica 2 of three, long after its start."""
    replica = Replica(LEASED, replica=2, membership=voters(1, 2, 3), hard_state=HardState(term=5))
    for _ in range(LEASED.election_ticks):
        replica.tick()
    return replica


def test_p39_a_follower_that_answered_a_round_votes_for_nobody_whatever_terms_it_hears_of() -> None:
    """Replica 2 answers a round of leader 1, which then has a lease; a late refusal of a pre-vote, with a higher term, makes it
    forget its leader. It must not forget its word as well: 3 would win with its vote while 1 still reads locally."""
    replica = lease_follower()
    replica.step(Message(K.MSG_HEARTBEAT, 1, 2, term=5, context=9))
    assert [m.context for m in answers(replica)] == [9]
    replica.step(Message(K.MSG_PRE_VOTE_ACK, 3, 2, term=6, reject=True))
    assert (replica.status().term, replica.status().leader) == (6, 0)
    for term in (6, 7):
        replica.step(Message(K.MSG_VOTE, 3, 2, term=term, index=9, log_term=5))
        assert answers(replica) == []
    for _ in range(LEASED.election_ticks):
        replica.tick()
    answers(replica)
    replica.step(Message(K.MSG_VOTE, 3, 2, term=7, index=9, log_term=5))
    assert [m.reject for m in answers(replica)] == [False]


def test_p39_nobody_campaigns_on_command_while_its_own_word_carries_a_lease() -> None:
    replica = lease_follower()
    replica.step(Message(K.MSG_HEARTBEAT, 1, 2, term=5, context=9))
    replica.campaign()
    assert replica.status().role == Role.FOLLOWER
    replica.step(Message(K.MSG_TIMEOUT_NOW, 1, 2, term=5))
    assert replica.status().role == Role.CANDIDATE, "the leader itself gave its lease up"


def leased_leader() -> tuple[MultiRaft, int]:
    """A node that leads group 1 under a lease, and the time it was last told."""
    multi = MultiRaft(replace(LEASED, lease_ns=900), store_id=1)
    multi.create(1, replica=1, membership=voters(1, 2, 3))
    multi.replica(1).campaign()

    def turn() -> None:
        multi.ready()
        multi.persisted(multi.sequence)

    def hear(*messages: Message) -> None:
        multi.step_frame(2, b"\0" * 64 + b"".join(message.encode() for message in messages))

    turn()
    hear(Message(K.MSG_PRE_VOTE_ACK, 2, 1, term=1))
    turn()
    hear(Message(K.MSG_VOTE_ACK, 2, 1, term=1))
    turn()
    hear(Message(K.MSG_APPEND_ACK, 2, 1, term=1, index=1))
    multi.tick(1_000)
    turn()
    hear(Message(K.MSG_HEARTBEAT_ACK, 2, 1, term=1, context=1))
    turn()
    assert multi.replica(1).status().lease
    return multi, 1_000


def test_p37_a_lease_is_judged_by_the_time_when_the_read_is_answered() -> None:
    """A node is stopped for longer than its lease and goes on with a read, before any tick tells it how late it is."""
    multi, now = leased_leader()
    assert multi.read_index(1, 7)
    assert multi.ready(now + 800).read_states == [(1, 7, 1)]
    assert multi.read_index(1, 8)
    assert multi.ready(now + 5_000).read_states == []
    assert not multi.reads_at_once(1)


def test_p37_without_the_time_nothing_is_read_under_a_lease() -> None:
    multi, _ = leased_leader()
    assert multi.read_index(1, 7)
    assert multi.ready().read_states == []


# -- liveness -----------------------------------------------------------------------------------------------------------------


def test_p42_a_read_that_another_replica_asked_for_is_answered_when_leadership_is_lost() -> None:
    replica = replica_with(1)
    make_leader(replica)
    answers(replica)
    replica.step(Message(K.MSG_READ_INDEX, 3, 1, context=77))
    replica.step(Message(K.MSG_HEARTBEAT, 2, 1, term=9))
    answered = [m for m in answers(replica) if m.kind == K.MSG_READ_INDEX_ACK]
    assert [(m.to_replica, m.context, m.reject) for m in answered] == [(3, 77, True)]


def test_entries_of_many_terms_read_for_a_peer_keep_to_its_window() -> None:
    replica = Replica(
        Options(pre_vote=False, check_quorum=False, inflight_messages_max=1),
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=3, commit=3),
        entries=log_of(1, 2, 3),
        applied_index=3,
        in_memory=False,
    )
    make_leader(replica)
    answers(replica)
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=4, index=3, hint=0, reject=True))
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=4, index=0))
    assert [peer for peer, _, _ in replica.ready().wanted] == [2]
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=4, index=0))
    replica.fetched(
        2, [encode_run(group=1, first=n, term=n, entries=[b"%d" % n]) for n in (1, 2, 3)]
    )
    sent = [m.index for m in answers(replica) if m.kind == K.MSG_APPEND]
    assert sent == [0]


def test_p58_a_snapshot_that_its_peer_no_longer_needs_is_not_sent() -> None:
    """The snapshot was asked for, and while it was made an old acknowledgement arrived: the peer has all of it."""
    cluster = Cluster()
    cluster.elect(1)
    for n in range(5):
        cluster[1].propose(b"%d" % n)
        cluster.settle()
    cluster[1].compact(5)
    cluster[1].send_snapshot(3, Snapshot(5, 1, voters(1, 2, 3)))
    assert cluster[1].status().peers[3].state != "snapshot"
    cluster[1].propose(b"x")
    cluster.settle()
    assert cluster[1].status().peers[3].match_index == 7


@pytest.mark.parametrize("sizes", [(50, 1, 1), (50, 50, 50), (1, 50, 1)])
def test_an_entry_above_the_limit_of_a_message_travels_alone(sizes: tuple[int, ...]) -> None:
    """What follows it was sent along in the same message, however much that was: no peer takes more than 16 MiB."""
    replica = Replica(replace(PLAIN, message_bytes_max=20), replica=1, membership=voters(1, 2))
    make_leader(replica)
    answers(replica)
    for size in sizes:
        replica.propose(b"x" * size)
        answers(replica)  # a run each
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=1, index=1))
    sent = [[len(e.payload) for e in m.entries] for m in answers(replica) if m.kind == K.MSG_APPEND]
    assert all(
        len(payloads) == 1 or sum(payloads) + 4 * len(payloads) <= 20 for payloads in sent
    ), sent
    assert functools.reduce(operator.iadd, sent, []) == list(sizes)


def test_p24_a_snapshot_that_is_ready_too_late_is_not_sent_by_a_follower() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.elect(2)
    assert cluster[1].status().leader == 2
    cluster[1].send_snapshot(3, Snapshot(2, 2, voters(1, 2, 3)))
    assert [m for m in cluster.nodes[1].collect().messages if m.kind == K.MSG_SNAPSHOT] == []


def test_p98_no_frame_is_larger_than_its_receiver_takes() -> None:
    """A node comes back; the probes of 40 groups with an entry of 1 MiB each make one frame, which it refuses, again and again."""
    multi = MultiRaft(PLAIN, store_id=1)
    for group in range(1, 41):
        multi.create(group, replica=1, membership=voters(1, learners=(2,)))
        multi.replica(group).campaign()
    multi.ready()
    multi.persisted(multi.sequence)
    for group in range(1, 41):
        multi.propose(group, b"x" * 2**20)
        answer = Message(K.MSG_APPEND_ACK, 2, 1, term=1, index=1, group=group)
        multi.step_frame(2, b"\0" * 64 + answer.encode())
    frames = multi.ready().frames
    assert sum(len(frame) for _, frame in frames) > 40 * 2**20
    assert sum(len(decode_messages(frame[64:])) for _, frame in frames) >= 40
    assert max(len(frame) for _, frame in frames) <= 32 * 2**20


# -- promises to the caller -----------------------------------------------------------------------------------------------------


def test_p93_of_many_proposals_all_are_taken_or_none() -> None:
    multi = MultiRaft(replace(PLAIN, uncommitted_bytes_max=100), store_id=1)
    multi.create(1, replica=1, membership=voters(1))
    multi.replica(1).campaign()
    multi.ready()
    multi.persisted(multi.sequence)
    multi.propose(1, b"x")
    before = multi.indexes(1)[-1]
    with pytest.raises(Overloaded):
        multi.propose_many(1, [b"x" * 60, b"y" * 60])
    assert multi.indexes(1)[-1] == before
    assert multi.propose_many(1, [b"x" * 59, b"y" * 40]) == (1, before + 1, before + 2)


@pytest.mark.parametrize("terms", [(1, 1, 1, 1, 1), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [1] * 5), (207, [1] * 5), (208, [2, 2, 1]), (520, [5])]
)
def test_one_ready_hands_out_no_more_than_its_limit(
    terms: tuple[int, ...], limit: int, expected: list[int]
) -> None:
    """Whether the entries lie in one run or in five; an entry takes four bytes more than its payload."""
    entries = [Entry(index, term, b"x" * 100) for index, term in enumerate(terms, 1)]
    again = Replica(
        replace(PLAIN, committed_bytes_max=limit),
        replica=1,
        membership=voters(1),
        hard_state=HardState(term=5, commit=5),
        entries=entries,
    )
    counts = []
    while again.has_ready():
        counts.append(len(again.ready().committed))
    assert counts == expected


DOOR_OUTLIVES_ITS_NODE = """
import gc
from multiraft.raft import MultiRaft
from tests.unit.raft.harness import PLAIN, voters

def door():
    multi = MultiRaft(PLAIN, store_id=1)
    multi.create(77, replica=1, membership=voters(1, 2, 3))
    return multi.replica(77)

kept = door()
gc.collect()
status = kept.status()
assert (status.group, status.replica, status.term) == (77, 1, 0), status
"""


def test_a_door_keeps_its_node_alive() -> None:
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}  # freed memory is overwritten at once
    subprocess.run(
        [sys.executable, "-c", DOOR_OUTLIVES_ITS_NODE], env=environment, check=True, timeout=60
    )


def test_an_append_is_never_larger_than_a_peer_takes() -> None:
    with pytest.raises(ValueError, match="message_bytes_max"):
        Options(message_bytes_max=16 * 2**20)
