"""Snapshots that come late: after what they hold was applied, or after the log went on without them."""

from __future__ import annotations

from multiraft._core import MessageKind as K
from multiraft.raft import Message, Snapshot

from .harness import Cluster, voters
from .test_pitfalls import learn
from .test_pitfalls_members import compacted_leader


def test_p45_a_snapshot_with_an_older_membership_changes_nothing() -> None:
    """Nor does one that holds the change make it happen once more, when its entry comes again."""
    cluster = Cluster()
    cluster.elect(1)
    cluster[1].propose(b"before")
    cluster[1].propose_membership(learn(4))
    cluster.settle()
    old, new = voters(1, 2, 3), voters(1, 2, 3, learners=[4])
    replica = cluster[3]
    assert replica.membership() == new
    changed, term = replica.status().applied_index, replica.status().term
    for index in (1, changed - 1):
        replica.step(Message(K.MSG_SNAPSHOT, 1, 3, term=term, index=index, log_term=term))
        assert replica.ready().snapshot is None
        replica.installed(Snapshot(index, term, old))  # an install that was under way ends now
        assert (replica.membership(), replica.status().applied_index) == (new, changed)
    appends = [message for message in cluster.seen if message.kind == K.MSG_APPEND]
    replica.step(Message(K.MSG_SNAPSHOT, 1, 3, term=term, index=changed + 4, log_term=term))
    offered = replica.ready().snapshot
    assert offered is not None
    replica.installed(Snapshot(offered.index, offered.term, new))
    cluster.deliver(message for message in appends if message.to_replica == 3)
    assert replica.ready().committed == ()
    assert (replica.membership(), replica.status().applied_index) == (new, changed + 4)


def test_p61_a_snapshot_that_the_log_has_left_behind_is_not_sent() -> None:
    """Entries after it are gone, too: a follower that took it would need another one at once. A newer one is made."""
    cluster = compacted_leader()
    leader = cluster[1]
    cluster.settle()  # it is wanted, and being made
    leader.propose(b"more")
    cluster.settle()
    leader.compact(6)
    leader.send_snapshot(3, Snapshot(5, 1, voters(1, 2, 3)))
    ready = leader.ready()
    assert not [message for message in ready.messages if message.kind == K.MSG_SNAPSHOT]
    assert ready.snapshots_wanted == (3,)
    leader.send_snapshot(3, Snapshot(6, 1, voters(1, 2, 3)))
    (sent,) = [message for message in leader.ready().messages if message.kind == K.MSG_SNAPSHOT]
    assert (sent.index, sent.log_term) == (6, 1)
