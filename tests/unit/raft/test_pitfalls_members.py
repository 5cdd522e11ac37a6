"""The pitfalls of memberships, snapshots and compaction that concern one replica, each with its number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multiraft._core import MemberFlag, RunKind
from multiraft._core import MessageKind as K
from multiraft.errors import MembershipRefused
from multiraft.interfaces import HardState
from multiraft.raft import (
    Entry,
    MembershipChange,
    Message,
    Options,
    Replica,
    Role,
    Snapshot,
    membership_after,
)

from .harness import PLAIN, Cluster, Node, voters
from .test_paper import answers, make_leader, replica_with
from .test_pitfalls import add, drop, joint, learn

# -- membership --------------------------------------------------------------------------------------------------------


def test_p43_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    replica = replica_with(1, 1)
    make_leader(replica)
    index, accepted = replica.propose_membership(learn(4))
    assert not accepted
    entry = next(e for e in replica.ready().entries if e.index == index)
    assert entry.payload == b"" and entry.kind != RunKind.RUN_MEMBERSHIP, (
        "an empty entry stands in its place"
    )


def test_p44_a_second_change_is_refused_until_the_first_is_applied() -> None:
    cluster = Cluster()
    cluster.elect(1)
    assert cluster[1].propose_membership(learn(4))[1]
    assert not cluster[1].propose_membership(learn(5))[1]
    cluster.settle()
    assert cluster[1].propose_membership(learn(5))[1]
    cluster.settle()
    assert [m.replica for m in cluster[2].membership().members] == [1, 2, 3, 4, 5]


def test_p44_also_right_after_a_leader_change() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose_membership(learn(4))
    cluster.settle()
    cluster.cut = lambda m: m.kind == K.MSG_APPEND_ACK
    cluster.elect(2)
    assert not cluster[2].propose_membership(learn(5))[1]


def test_p44_a_new_leader_takes_no_change_before_it_applied_those_of_before() -> None:
    """Its own entry is committed, and with it a change of the leader before, which is not applied here yet."""
    inherited = Entry(2, 1, add(4).encode(), int(RunKind.RUN_MEMBERSHIP))
    replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1),
        entries=[Entry(1, 1), inherited],
    )
    make_leader(replica)
    answers(replica)
    replica.step(Message(K.MSG_APPEND_ACK, 2, 1, term=2, index=3))
    assert replica.status().commit_index == 3
    assert not replica.propose_membership(add(5))[1]
    assert [entry.index for entry in replica.ready().committed] == [1, 2, 3]
    assert not replica.propose_membership(add(5))[1]
    replica.applied(1)
    replica.apply_membership(2, inherited.payload)
    replica.applied(2)
    assert replica.propose_membership(add(5))[1]


def test_p47_a_recovered_joint_membership_is_left_only_behind_an_entry_of_the_own_term() -> None:
    replica = Replica(
        PLAIN,
        replica=1,
        membership=joint((1, 2, 3), (3, 4, 5)),
        hard_state=HardState(term=1, commit=2),
        entries=[Entry(1, 1, b"a"), Entry(2, 1, b"b")],
    )
    make_leader(replica)  # entries 1 and 2 were handed out on the way
    replica.applied(2)  # all that came before is applied, and nothing of term 2 is committed
    assert replica.status().last_index == 3
    ready = replica.ready()
    if ready.tag is not None:
        replica.persisted(ready.tag)
    for id in (2, 3, 4):
        replica.step(Message(K.MSG_APPEND_ACK, id, 1, term=2, index=3))
    for entry in replica.ready().committed:
        replica.applied(entry.index)
    (leaving,) = replica.ready().entries
    assert (leaving.index, leaving.payload) == (4, MembershipChange().encode())


def test_p46_a_joint_membership_is_left_once_whatever_is_applied_before_that_is_committed() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    assert cluster[1].propose_membership(drop(4, 5))[1]
    for payload in (b"a", b"b", b"c"):  # they are applied behind the change, each by itself
        cluster[1].propose(payload)
    cluster.settle()
    leaving = [e for e in cluster.nodes[1].applied if e.payload == MembershipChange().encode()]
    assert len(leaving) == 1
    assert cluster[1].membership() == voters(1, 2, 3)


def test_p46_p47_a_joint_membership_is_left_by_whoever_leads_and_after_committing_under_both() -> (
    None
):
    cluster = Cluster(5)
    for node in cluster.nodes.values():
        node.first_membership = joint((1, 2, 3), (3, 4, 5))
        node.crash()
    cluster.cut = lambda m: m.from_replica in (4, 5) and m.kind == K.MSG_APPEND_ACK
    cluster.elect(1)
    cluster.settle()
    assert cluster[1].status().commit_index == 0, "the outgoing majority has not acknowledged"
    assert cluster[1].membership() == joint((1, 2, 3), (3, 4, 5))
    cluster.heal()
    cluster.tick(1, 1)
    cluster.settle()
    assert [(m.replica, m.flags) for m in cluster[1].membership().members] == [
        (1, 1),
        (2, 1),
        (3, 1),
    ]
    changes = [e for e in cluster.nodes[1].applied if e.kind == RunKind.RUN_MEMBERSHIP]
    assert len(changes) == 1, "left exactly once"


def test_p46_an_explicit_joint_membership_waits_for_its_own_change() -> None:
    cluster = Cluster(4)
    for node in cluster.nodes.values():
        node.first_membership = voters(1, 2, 3)
        node.crash()
    cluster.elect(1)
    assert cluster[1].propose_membership(add(4, explicit=True))[1]
    cluster.settle()
    assert any(m.flags & MemberFlag.MEMBER_OUTGOING for m in cluster[1].membership().members)
    cluster.tick(5)
    cluster.settle()
    assert any(m.flags & MemberFlag.MEMBER_OUTGOING for m in cluster[1].membership().members)
    assert cluster[1].propose_membership(MembershipChange())[1]
    cluster.settle()
    assert cluster[4].membership() == voters(1, 2, 3, 4)


def test_p48_a_removed_leader_steps_down_and_the_rest_elects() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose_membership(drop(1))
    cluster.settle()
    assert cluster[1].status().role == Role.FOLLOWER
    cluster.elect(2)
    cluster[2].propose(b"x")
    cluster.settle()
    assert cluster.payloads(3) == [b"x"]


def test_p48_removing_one_of_two_does_not_block_the_other() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    cluster[1].propose_membership(drop(2))
    cluster.settle()
    cluster.isolate(2)
    cluster[1].propose(b"alone")
    cluster.settle()
    assert cluster.payloads(1) == [b"alone"]


def test_p48_what_waited_for_a_removed_voter_is_committed_when_the_removal_is_applied() -> None:
    cluster = Cluster(2)
    cluster.elect(1)
    cluster[1].propose_membership(drop(2))
    cluster.nodes[1].collect()
    cluster.nodes[1].sync()
    cluster.deliver(cluster.take())
    cluster[1].propose(b"waits")
    cluster.nodes[1].collect()
    cluster.nodes[1].sync()
    cluster.nodes[2].collect()
    cluster.nodes[2].sync()
    cluster.deliver(m for m in cluster.take() if m.to_replica == 1)
    assert cluster[1].status().commit_index == 2
    cluster.nodes[1].collect()  # applies the removal; nobody says anything more
    assert cluster[1].status().commit_index == 3


@pytest.mark.parametrize("options", [PLAIN, Options()], ids=["plain", "pre-vote"])
def test_p48_a_refused_candidate_learns_of_the_change_that_it_lacks(options: Options) -> None:
    """The other of two has the removal in its log, and does not know that it is committed; the removed leader's log is longer,
    so that it refuses its vote for ever. Its refusal says what is committed."""
    cluster = Cluster(2, options)
    cluster.elect(2)
    cluster[2].propose_membership(drop(2))
    cluster.nodes[2].collect()
    cluster.nodes[2].sync()
    cluster.deliver(cluster.take())
    cluster.nodes[1].collect()
    cluster.nodes[1].sync()
    cluster.deliver(cluster.take())
    cluster[2].propose(b"never committed")
    cluster.isolate(2)
    cluster.settle()  # what tells of the commit is lost
    assert cluster[2].status().membership == voters(1)
    assert cluster[1].status().membership == voters(1, 2)
    assert cluster[2].status().last_index > cluster[1].status().last_index
    cluster.heal()
    cluster.tick(3 * options.election_ticks, 1)
    cluster.settle()
    assert cluster[1].status().membership == voters(1)
    cluster.tick(3 * options.election_ticks, 1)
    cluster.settle()
    assert cluster[1].status().role == Role.LEADER


def test_p49_removing_the_last_voter_is_refused_before_it_reaches_the_log() -> None:
    node = Cluster(1)
    node.elect(1)
    index, accepted = node[1].propose_membership(drop(1))
    assert not accepted
    assert next(e for e in node.nodes[1].collect().entries if e.index == index).payload == b""
    with pytest.raises(MembershipRefused):
        membership_after(voters(1), drop(1))


def test_p50_messages_for_another_replica_id_change_nothing() -> None:
    replica = replica_with(1)
    before = replica.status()
    for kind in (K.MSG_APPEND, K.MSG_VOTE, K.MSG_HEARTBEAT, K.MSG_TIMEOUT_NOW):
        replica.step(Message(kind, 2, 7, term=9))
    assert replica.status() == before
    assert not replica.has_ready()


def test_p51_a_change_during_a_partition_loses_nothing_acknowledged() -> None:
    """The majority changes the membership; who is cut off goes on campaigning and writing under the one before."""
    cluster = Cluster(5, Options(election_ticks=10, heartbeat_ticks=1))
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster[1].propose(b"kept")
    cluster.settle()
    cluster[1].propose_membership(drop(5))
    cluster.settle()
    cluster[1].propose(b"too")
    cluster.settle()
    cluster.tick(25, 4, 5)
    cluster.settle()
    assert Role.LEADER not in (cluster[id].status().role for id in (4, 5))
    cluster.heal()
    for _ in range(8):
        cluster.tick(5)
        cluster.settle()
    assert all(cluster.payloads(id) == [b"kept", b"too"] for id in (1, 2, 3, 4))


def test_p51_a_leader_that_is_cut_off_cannot_change_the_membership_to_its_own_majority() -> None:
    """Neither its changes nor its writes are committed; what the others acknowledged meanwhile stays."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(1, 2)
    _, accepted = cluster[1].propose_membership(drop(5))
    assert accepted
    cluster[1].propose_membership(drop(4))
    cluster[1].propose(b"never")
    cluster.settle()
    assert cluster[1].status().commit_index == 1
    assert len(cluster[1].status().membership.members) == 5
    cluster.elect(3)
    cluster[3].propose(b"kept")
    cluster.settle()
    assert cluster.payloads(4) == [b"kept"]
    cluster.heal()
    for _ in range(8):
        cluster.tick(5)
        cluster.settle()
    assert all(cluster.payloads(id) == [b"kept"] for id in (1, 2, 3, 4, 5))


# -- snapshots ---------------------------------------------------------------------------------------------------------


def compacted_leader() -> Cluster:
    """Node 3 slept while 1 and 2 went on and forgot the beginning of their logs."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    for n in range(5):
        cluster[1].propose(b"%d" % n)
        cluster.settle()
    cluster[1].compact(5)
    cluster.settle()
    cluster.heal()
    cluster.tick(1, 1)
    return cluster


def test_a_follower_behind_the_log_is_offered_a_snapshot_and_goes_on_from_there() -> None:
    cluster = compacted_leader()
    for _ in range(6):
        ready = cluster.nodes[1].collect()
        cluster.nodes[1].sync()
        if ready.snapshots_wanted:
            break
        cluster.deliver(cluster.take())
        cluster.nodes[3].collect()
        cluster.nodes[3].sync()
        cluster.deliver(cluster.take())
    assert ready.snapshots_wanted == (3,)
    cluster[1].send_snapshot(3, Snapshot(5, 1, voters(1, 2, 3), context=77))
    cluster.settle()
    (offered,) = cluster.nodes[3].snapshots
    assert (offered.index, offered.term, offered.context, offered.from_replica) == (5, 1, 77, 1)
    assert cluster[1].status().peers[3].state == "snapshot"
    cluster[3].installed(offered)
    cluster.settle()
    status = cluster[3].status()
    assert (status.first_index, status.last_index, status.commit_index) == (6, 6, 6)
    assert cluster[1].status().peers[3].state == "replicate"


def one_behind_the_log() -> Cluster:
    """Replica 3 has entry 1, the leader's log begins behind entry 2: a snapshot for 3 was asked for."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster[1].propose(b"a")
    cluster.settle()
    cluster[1].compact(2)
    cluster.heal()
    cluster.tick()
    cluster.settle()
    return cluster


def test_p61_a_snapshot_that_is_older_than_the_log_is_not_offered() -> None:
    """The log was cut beyond it while it was made: the follower would need another one at once."""
    cluster = one_behind_the_log()
    old = Snapshot(2, 1, voters(1, 2, 3))
    cluster[1].propose(b"b")
    cluster.settle()
    cluster[1].compact(3)
    assert cluster[1].send_snapshot(3, old) is False
    ready = cluster[1].ready()
    assert [m for m in ready.messages if m.kind == K.MSG_SNAPSHOT] == []
    assert ready.snapshots_wanted == (3,), "it is asked for again"
    assert cluster[1].send_snapshot(3, Snapshot(3, 1, voters(1, 2, 3))) is True
    assert cluster[1].status().peers[3].pending_snapshot == 3


def test_p45_an_older_snapshot_undoes_no_change_and_repeats_none() -> None:
    change = add(4)
    entries = (Entry(1, 1, b""), Entry(2, 1, change.encode(), int(RunKind.RUN_MEMBERSHIP)))
    replica = Replica(PLAIN, replica=2, membership=voters(1, 2, 3))
    for entry in entries:
        before = entry.index - 1
        message = Message(K.MSG_APPEND, 1, 2, term=1, index=before, log_term=min(before, 1))
        replica.step(replace(message, commit=2, entries=(entry,)))
    ready = replica.ready()
    assert ready.tag is not None
    replica.persisted(ready.tag)
    (_, applied) = replica.ready().committed
    replica.apply_membership(applied.index, applied.payload)
    replica.applied(2)
    assert replica.membership() == voters(1, 2, 3, 4)
    # A snapshot from before the change comes late, and is told to be installed, too.
    old = Snapshot(1, 1, voters(1, 2, 3))
    replica.step(Message(K.MSG_SNAPSHOT, 1, 2, term=1, index=1, log_term=1))
    assert replica.ready().snapshot is None
    replica.installed(old)
    assert replica.membership() == voters(1, 2, 3, 4)
    replica.step(Message(K.MSG_APPEND, 1, 2, term=1, commit=2, entries=entries[:1]))
    assert replica.ready().committed == ()
    assert replica.status().applied_index == 2


def test_p45_a_change_that_a_snapshot_holds_is_not_applied_again() -> None:
    change = add(4)
    entries = [Entry(1, 1, b""), Entry(2, 1, change.encode(), int(RunKind.RUN_MEMBERSHIP))]
    replica = Replica(
        PLAIN,
        replica=2,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1, commit=0),
        entries=entries,
    )
    replica.step(Message(K.MSG_SNAPSHOT, 1, 2, term=1, index=5, log_term=1))
    assert replica.ready().snapshot is not None
    replica.step(
        Message(K.MSG_HEARTBEAT, 1, 2, term=1, commit=2)
    )  # the entries turn out to be committed
    assert replica.ready().committed == ()
    replica.installed(Snapshot(5, 1, voters(1, 2, 3, 4)))
    assert replica.ready().committed == ()
    assert (replica.membership(), replica.status().applied_index) == (voters(1, 2, 3, 4), 5)


def test_p53_entries_read_while_a_snapshot_is_awaited_are_not_applied_after_it() -> None:
    """They were asked for before the snapshot was offered, and are read before it is installed."""
    node = Node(1, voters(1, 2, 3), PLAIN)
    node.disk.entries = {index: Entry(index, 1, b"x") for index in (1, 2, 3)}
    node.replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        hard_state=HardState(term=1, commit=3),
        entries=list(node.disk.entries.values()),
        in_memory=False,
    )
    assert [(peer, first) for peer, first, _ in node.replica.ready().wanted] == [(0, 1)]
    node.replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=7, log_term=1))
    assert node.replica.ready().snapshot is not None
    node.replica.fetched(0, node.disk.read(1, 1))
    node.replica.installed(Snapshot(7, 1, voters(1, 2, 3)))
    assert node.replica.ready().committed == ()
    assert node.replica.status().applied_index == 7


def test_p53_a_snapshot_at_or_below_the_commit_index_is_ignored_and_answered() -> None:
    replica = replica_with(1, 1, 1, term=1, commit=2)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=2, log_term=1))
    ready = replica.ready()
    assert ready.snapshot is None
    assert [(m.kind, m.index) for m in ready.messages_after] == [(K.MSG_APPEND_ACK, 2)]


def test_p53_a_snapshot_from_before_the_log_begins_is_ignored_and_answered() -> None:
    replica = Replica(
        PLAIN,
        replica=1,
        membership=voters(1, 2, 3),
        base_index=5,
        base_term=1,
        hard_state=HardState(1),
    )
    for index in (3, 5):
        replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=index, log_term=1))
        ready = replica.ready()
        assert ready.snapshot is None
        assert [(m.kind, m.index) for m in ready.messages_after] == [(K.MSG_APPEND_ACK, 5)]


def test_p53_a_snapshot_whose_entry_is_here_only_moves_the_commit_index() -> None:
    replica = replica_with(1, 1, 1, term=1, commit=1)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=3, log_term=1))
    assert replica.ready().snapshot is None
    assert replica.status().commit_index == 3


def test_p54_a_tail_that_conflicts_at_the_snapshot_is_dropped() -> None:
    replica = replica_with(1, 2, 2, 2, term=3)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=3, index=3, log_term=3))
    replica.installed(replica.ready().snapshot or pytest.fail("no snapshot"))
    assert replica.status().last_index == 3
    assert replica.term_at(3) == 3


def test_p54_a_tail_that_fits_and_was_acknowledged_stays() -> None:
    replica = replica_with(1, 2, 2, term=3)
    replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=3, index=2, log_term=3))
    offered = replica.ready().snapshot
    entries = (Entry(2, 3, b"a"), Entry(3, 3, b"b"))
    replica.step(Message(K.MSG_APPEND, 2, 1, term=3, index=1, log_term=1, entries=entries))
    assert [m.index for m in answers(replica) if not m.reject] == [3]
    assert offered is not None
    replica.installed(offered)
    status = replica.status()
    assert (status.first_index, status.last_index, status.applied_index) == (3, 3, 2)


def test_p56_a_snapshot_carries_the_term_of_its_last_entry() -> None:
    cluster = compacted_leader()
    assert cluster[1].term_at(5) == 1
    assert cluster[1].term_at(4) is None


def test_p58_a_failed_snapshot_does_not_leave_the_follower_waiting() -> None:
    cluster = compacted_leader()
    cluster[1].send_snapshot(3, Snapshot(5, 1, voters(1, 2, 3)))
    assert cluster[1].status().peers[3].state == "snapshot"
    cluster[1].report_snapshot(3, False)
    peer = cluster[1].status().peers[3]
    assert (peer.state, peer.next_index) == ("probe", 2)
    assert cluster[1].ready().snapshots_wanted == (3,)


def test_p58_a_snapshot_that_could_not_be_made_is_asked_for_again() -> None:
    cluster = one_behind_the_log()
    assert cluster[1].ready().snapshots_wanted == (), "it was asked for once, and is awaited"
    cluster[1].report_snapshot(3, False)
    assert cluster[1].ready().snapshots_wanted == (3,)


def test_p60_the_older_of_two_snapshots_changes_nothing() -> None:
    replica = replica_with()
    for index in (4, 9):
        replica.step(Message(K.MSG_SNAPSHOT, 2, 1, term=1, index=index, log_term=1))
    newest = replica.ready().snapshot
    assert newest is not None and newest.index == 9
    members = voters(1, 2, 3)
    replica.installed(Snapshot(9, 1, members))
    replica.installed(Snapshot(4, 1, members))
    assert replica.status().applied_index == 9
