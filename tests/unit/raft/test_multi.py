"""Many groups behind one face: frames between nodes, one batch a turn, and answers that wait for the sync."""

from __future__ import annotations

import random

import pytest

from multiraft._core import MessageFlag, MessageKind, RunKind, decode_batch, decode_run
from multiraft.errors import InvariantViolation, NoLeader, NotLeader, PeerProtocolError
from multiraft.ids import NodeId, ReplicaId
from multiraft.interfaces import Base, GroupLog, HardState
from multiraft.log.memory import MemoryLogStore
from multiraft.raft import ChangeOperation, MembershipChange, Message, MultiRaft, Options, Role
from multiraft.raft.messages import decode_messages
from multiraft.raft.multi import Ready
from multiraft.records import decode_membership

from .harness import PLAIN, voters

FRAME_HEADER = 64


class Process:
    """A node: its MultiRaft, its log as a list of batches, and what its groups applied."""

    def __init__(
        self, node: int, groups: int, options: Options = PLAIN, voting: tuple[int, ...] = (1, 2, 3)
    ) -> None:
        self.node = node
        self.multi = MultiRaft(options, store_id=node, seed=node)
        self.batches: list[bytes] = []
        self.applied: dict[int, list[bytes]] = {group: [] for group in range(1, groups + 1)}
        self.news: list[Ready] = []
        for group in self.applied:
            self.multi.create(group, replica=node, membership=voters(*voting))

    def turn(self) -> list[tuple[NodeId, bytes]]:
        """One turn with a prompt disk: frames that may go, in order."""
        ready = self.multi.ready()
        self.news.append(ready)
        self.batches += ready.batches
        frames = list(ready.frames)
        if ready.committed is not None:
            for group, _first, _term, _kind, payloads in ready.committed:
                self.applied[group] += [payload for payload in payloads if payload]
            self.multi.applied(ready.committed, 0, len(ready.committed))
        self.multi.persisted(self.multi.sequence)
        return frames


def run(processes: list[Process], rounds: int = 60) -> None:
    """Turn and deliver until nothing is pending."""
    by_node = {process.node: process for process in processes}
    for _ in range(rounds):
        busy = [process for process in processes if process.multi.pending()]
        if not busy:
            return
        for process in busy:
            for node, frame in process.turn():
                if node in by_node:
                    by_node[node].multi.step_frame(process.node, frame)
    raise AssertionError("the nodes do not come to rest")


def lead(process: Process, groups: range) -> None:
    for group in groups:
        process.multi.replica(group).campaign()


@pytest.fixture
def three() -> list[Process]:
    return [Process(node, 8) for node in (1, 2, 3)]


def test_groups_elect_and_replicate_each_for_itself(three: list[Process]) -> None:
    for process in three:
        run(three)
        lead(process, range(process.node, 9, 3))
    run(three)
    for group in range(1, 9):
        leader = three[(group - 1) % 3]
        assert leader.multi.leads(group)
        term, index = leader.multi.propose(group, b"%d" % group)
        assert (term, index) == (1, 2)
    run(three)
    three[0].multi.tick(0)
    three[1].multi.tick(0)
    three[2].multi.tick(0)
    run(three)
    for process in three:
        assert process.applied == {group: [b"%d" % group] for group in range(1, 9)}, (
            "pitfall 62: output never mixes groups"
        )


def test_one_turn_makes_one_batch_and_one_frame_a_node(three: list[Process]) -> None:
    run(three)
    lead(three[0], range(1, 9))
    run(three)
    for group in range(1, 9):
        three[0].multi.propose_many(group, [b"a", b"b", b"c"])
    ready = three[0].multi.ready()
    assert len(ready.batches) == 1
    assert sorted(node for node, _ in ready.frames) == [2, 3]
    runs = [decode_run(run) for run in decode_batch(ready.batches[0]).runs]
    assert [(r.group, r.entries) for r in runs if r.kind == RunKind.RUN_ENTRIES] == [
        (group, (b"a", b"b", b"c")) for group in range(1, 9)
    ]
    messages = decode_messages(ready.frames[0][1][FRAME_HEADER:])
    assert [(m.group, len(m.entries)) for m in messages] == [(group, 3) for group in range(1, 9)]


def test_heartbeats_of_all_groups_travel_in_one_frame(three: list[Process]) -> None:
    run(three)
    lead(three[0], range(1, 9))
    run(three)
    three[0].multi.tick(0)
    frames = three[0].multi.ready().frames
    assert sorted(node for node, _ in frames) == [2, 3]
    assert [m.group for m in decode_messages(frames[0][1][FRAME_HEADER:])] == list(range(1, 9))


def test_p03_answers_are_held_until_their_batch_is_synced(three: list[Process]) -> None:
    follower = three[1].multi
    follower.ready()
    follower.persisted(follower.sequence)
    ask = Message(MessageKind.MSG_VOTE, 1, 2, term=1, group=3).encode()
    follower.step_frame(1, b"\0" * FRAME_HEADER + ask)
    ready = follower.ready()
    assert ready.frames == [] and len(ready.batches) == 1
    follower.tick(0)
    assert follower.ready().frames == []
    follower.persisted(follower.sequence)
    ((node, frame),) = follower.ready().frames
    (vote,) = decode_messages(frame[FRAME_HEADER:])
    assert (node, vote.kind, vote.group, vote.reject) == (1, MessageKind.MSG_VOTE_ACK, 3, False)


def test_an_answer_that_needs_an_earlier_batch_waits_for_it_too(three: list[Process]) -> None:
    """A duplicate append writes nothing, but its answer may not overtake the sync of the first."""
    follower = three[1].multi
    follower.ready()
    follower.persisted(follower.sequence)
    from multiraft.raft import Entry

    append = Message(
        MessageKind.MSG_APPEND, 1, 2, term=1, group=3, entries=(Entry(1, 1, b"x"),)
    ).encode()
    follower.step_frame(1, b"\0" * FRAME_HEADER + append)
    assert len(follower.ready().batches) == 1
    follower.step_frame(1, b"\0" * FRAME_HEADER + append)
    again = follower.ready()
    assert again.batches == [] and again.frames == []
    follower.persisted(follower.sequence)
    assert [len(decode_messages(frame[FRAME_HEADER:])) for _, frame in follower.ready().frames] == [
        1,
        1,
    ]


def test_p67_messages_for_unknown_groups_make_no_replica(three: list[Process]) -> None:
    multi = three[0].multi
    for kind in MessageKind:
        if kind < MessageKind.MSG_FORWARD:
            multi.step_frame(
                2, b"\0" * FRAME_HEADER + Message(kind, 2, 1, term=3, group=999).encode()
            )
    assert 999 not in multi
    assert len(multi) == 8
    assert multi.unknown_group_messages == 13 - 0
    with pytest.raises(NoLeader):
        multi.propose(999, b"x")


@pytest.mark.parametrize("cut", [1, 40, 71, 73, 100, 135])
def test_p82_a_malformed_message_is_refused_whole(three: list[Process], cut: int) -> None:
    from multiraft.raft import Entry

    append = Message(
        MessageKind.MSG_APPEND, 1, 2, term=1, group=3, entries=(Entry(1, 1, b"x" * 16),)
    ).encode()
    with pytest.raises(PeerProtocolError):
        three[1].multi.step_frame(1, b"\0" * FRAME_HEADER + append[:cut])


def test_p82_damaged_messages_never_crash_the_node() -> None:
    from multiraft.raft import Entry

    draw = random.Random(5)
    append = Message(
        MessageKind.MSG_APPEND,
        1,
        2,
        term=1,
        group=3,
        entries=(Entry(1, 1, b"x" * 16), Entry(2, 1, b"y")),
    )
    good = append.encode()
    refused = 0
    for _ in range(3000):
        process = Process(2, 3)
        bad = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        try:
            process.multi.step_frame(1, b"\0" * FRAME_HEADER + bytes(bad))
        except PeerProtocolError:
            refused += 1
        process.multi.ready()
    assert refused > 1500


def test_forwarded_messages_come_out_as_posts(three: list[Process]) -> None:
    multi = three[0].multi
    multi.post(
        2,
        MessageKind.MSG_FORWARD,
        group=4,
        context=77,
        body=b"put",
        flags=int(MessageFlag.FLAG_REJECT),
    )
    frames = dict(multi.ready().frames)
    three[1].multi.step_frame(1, frames[NodeId(2)])
    posts = three[1].multi.ready().posts
    assert posts == [(1, MessageKind.MSG_FORWARD, 4, 77, 0, 0, MessageFlag.FLAG_REJECT, b"put")]


def test_a_removed_replica_leaves_a_tombstone_and_nothing_else(three: list[Process]) -> None:
    run(three)
    lead(three[0], range(1, 9))
    run(three)
    multi = three[0].multi
    door = multi.replica(5)
    multi.propose(5, b"x")
    multi.remove(5, "moved away")
    ready = multi.ready()
    runs = [decode_run(run) for run in decode_batch(ready.batches[0]).runs]
    assert [(r.kind, r.entries) for r in runs if r.group == 5][-1] == (
        RunKind.RUN_TOMBSTONE,
        (b"moved away",),
    )
    multi.persisted(multi.sequence)
    assert 5 not in multi and len(multi) == 7
    with pytest.raises(Exception, match="removed"):
        door.status()
    run(three)


def test_a_restart_restores_every_group(three: list[Process]) -> None:
    run(three)
    lead(three[0], range(1, 9))
    run(three)
    three[0].multi.propose(3, b"x")
    run(three)
    old = three[0].multi.replica(3).status()
    multi = MultiRaft(PLAIN, store_id=1, sequence=three[0].multi.sequence)
    log = GroupLog(
        group=3,  # type: ignore[arg-type]
        base=Base(0, 0, 1, voters(1, 2, 3)),  # type: ignore[arg-type]
        hard_state=HardState(old.term, ReplicaId(old.vote), commit=old.commit_index),
        last_index=2,
        terms=((1, 1),),
    )
    multi.restore(log, membership=voters(1, 2, 3), applied_index=1)
    status = multi.replica(3).status()
    assert (
        status.term,
        status.vote,
        status.last_index,
        status.commit_index,
        status.applied_index,
    ) == (1, 1, 2, 2, 1)
    assert status.role == Role.FOLLOWER
    ready = multi.ready()
    assert ready.committed is None and [w[:3] for w in ready.wanted] == [(3, 0, 2)]
    runs = [run for batch in three[0].batches for run in decode_batch(batch).runs]
    entries = [
        r for r in runs if decode_run(r).kind == RunKind.RUN_ENTRIES and decode_run(r).group == 3
    ]
    multi.fetched(3, 0, entries)
    committed = multi.ready().committed
    assert committed is not None
    ((group, first, term, kind, payloads),) = list(committed)
    assert (group, first, term, kind, payloads) == (3, 2, 1, RunKind.RUN_ENTRIES, [b"x"])


def test_p89_a_state_ahead_of_the_log_is_refused() -> None:
    multi = MultiRaft(PLAIN, store_id=1)
    log = GroupLog(3, Base(0, 0, 1, voters(1)), HardState(1), 4, ((1, 1),))  # type: ignore[arg-type]
    with pytest.raises(InvariantViolation, match="older copy"):
        multi.restore(log, membership=voters(1), applied_index=5)


def test_a_leaders_own_membership_change_travels_through_the_log(three: list[Process]) -> None:
    run(three)
    lead(three[0], range(1, 2))
    run(three)
    change = MembershipChange(((2, 4, 4),))
    (_ticket, accepted) = three[0].multi.propose_membership(1, change.encode())
    assert accepted
    ready = three[0].multi.ready()
    kinds = [decode_run(run).kind for run in decode_batch(ready.batches[0]).runs]
    assert RunKind.RUN_MEMBERSHIP in kinds


def test_persisted_never_goes_back_or_beyond(three: list[Process]) -> None:
    multi = three[0].multi
    multi.ready()
    with pytest.raises(InvariantViolation):
        multi.persisted(multi.sequence + 1)
    multi.persisted(multi.sequence)
    if multi.sequence:
        with pytest.raises(InvariantViolation):
            multi.persisted(multi.sequence - 1)


def test_a_follower_names_its_leaders_node(three: list[Process]) -> None:
    run(three)
    lead(three[2], range(1, 9))
    run(three)
    assert three[0].multi.leader_node(4) == 3
    with pytest.raises(NotLeader):
        three[0].multi.propose(4, b"x")


def test_p52_a_start_takes_the_membership_of_the_state_and_not_that_of_a_newer_base() -> None:
    """A compaction writes what is applied by then; changes behind the state are applied anew, and lead to the same."""
    alone = Process(1, 1, voting=(1,))
    alone.multi.replica(1).campaign()
    run([alone])
    change = MembershipChange(((ChangeOperation.ADD_LEARNER, 2, 2),)).encode()
    (_, at), accepted = alone.multi.propose_membership(1, change)
    assert accepted
    run([alone])
    changed = decode_membership(alone.multi.apply_membership(1, at, change))
    alone.multi.compact(1, at - 1)
    run([alone])
    batches = dict(enumerate(alone.batches, 1))
    (found,) = MemoryLogStore(store_id=1, batches=batches).groups()
    assert (found.base.index, found.base.membership) == (at - 1, changed)
    again = MultiRaft(PLAIN, store_id=1, sequence=len(batches))
    again.restore(found, membership=voters(1), applied_index=at - 1)
    assert again.replica(1).membership() == voters(1)
    assert decode_membership(again.apply_membership(1, at, change)) == changed
