"""Messages that no honest peer would send: they cost their sender its link, and change nothing here.

Well-formed frames from a member of the group, drawn at random around what the replica holds: other leaders in its term,
acknowledgements of what it never had, runs that contradict themselves, snapshots of terms to come. Whatever comes, nothing but
PeerProtocolError is raised, then nothing has changed; the term and the commit index never fall; and what was written can be
read again by a start.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft._core import MessageFlag, RunKind, encode_run
from multiraft._core import MessageKind as K
from multiraft.errors import PeerProtocolError
from multiraft.log.memory import MemoryLogStore
from multiraft.raft import Entry, MembershipChange, Message, MultiRaft, Options, Role
from multiraft.raft.multi import Ready
from multiraft.records import decode_membership, encode_membership

from .harness import PLAIN, voters

FRAME_HEADER = bytes(64)
CAREFUL = Options(election_ticks=10, heartbeat_ticks=1)
NARROW = replace(PLAIN, inflight_messages_max=2, message_bytes_max=64)
FAR = 2**62 - 1
CHANGES = (
    MembershipChange(((1, 4, 4),)).encode(),
    MembershipChange(((1, 5, 0),)).encode(),
    MembershipChange(((3, 2, 0),)).encode(),
    MembershipChange(((1, 6, 6), (3, 3, 0))).encode(),
    MembershipChange().encode(),
    b"",
    b"\x01\x00\x01\x00 no change",
    b"\x09" + bytes(7),
)


class Victim:
    """Replica 1 of three on a prompt disk; the others are whoever sends."""

    def __init__(self, options: Options) -> None:
        self.multi = MultiRaft(options, store_id=1, seed=1)
        self.multi.create(1, replica=1, membership=voters(1, 2, 3))
        self.batches: list[bytes] = []
        self.term = self.commit_index = 0
        self.replica = self.multi.replica(1)
        self.turn()

    def hear(self, data: bytes) -> bool:
        """Step a message; True if it was refused."""
        before, pending = self.replica.status(), self.multi.pending()
        try:
            self.multi.step_frame(2, FRAME_HEADER + data)
        except PeerProtocolError:
            assert self.replica.status() == before
            assert self.multi.pending() == pending
            return True
        return False

    def turn(self, installs: bool = True) -> Ready:
        ready = self.multi.ready()
        self.batches += ready.batches
        self.multi.persisted(self.multi.sequence)
        for at, (group, first, _, kind, payloads) in enumerate(ready.committed or ()):
            if kind == RunKind.RUN_MEMBERSHIP:
                for offset, payload in enumerate(payloads):
                    self.multi.apply_membership(group, first + offset, payload)
            self.multi.applied(ready.committed, at, at + 1)
        for group, index, term, _, _, body in ready.snapshots:
            # What a node looks at before it fetches the file: see Snapshots.offered.
            if installs and body and 0 < term <= self.replica.status().term:
                self.multi.installed(group, index, term, decode_membership(body))
            else:
                self.multi.snapshot_failed(group)
        for group, peer, _, _ in ready.wanted:
            self.multi.fetched(group, peer, None)
        status = self.replica.status()
        assert status.term >= self.term
        assert status.commit_index >= self.commit_index
        assert status.commit_index <= status.last_index
        self.term, self.commit_index = status.term, status.commit_index
        return ready

    def lead(self) -> None:
        self.replica.campaign()
        for kind in (K.MSG_PRE_VOTE_ACK, K.MSG_VOTE_ACK):
            self.turn()
            term = self.replica.status().term + (kind == K.MSG_PRE_VOTE_ACK)
            self.hear(Message(kind, 2, 1, term=term).encode())
        assert self.replica.status().role == Role.LEADER

    def restart(self) -> None:
        """What is written here can be read by a start, and a replica made of it."""
        log = MemoryLogStore(store_id=1, batches=dict(enumerate(self.batches, 1)))
        (found,) = log.groups()
        again = MultiRaft(PLAIN, store_id=1, sequence=log.synced_sequence, seed=1)
        again.restore(found, membership=found.base.membership, applied_index=int(found.base.index))
        assert again.indexes(1)[4] == self.multi.indexes(1)[4]


@st.composite
def hostile(draw: st.DrawFn, victim: Victim) -> bytes:
    """A message around what the victim holds."""
    status = victim.replica.status()
    near = st.one_of(st.integers(-2, 3), st.sampled_from([FAR]))

    def around(value: int, top: int = FAR) -> int:
        return min(max(0, value + draw(near)), top)

    index = around(draw(st.sampled_from([status.last_index, status.commit_index, 0])))
    right = victim.replica.term_at(index)
    log_term = draw(st.sampled_from([right or 0, right or 0, 0, status.term, FAR]))
    message = Message(
        kind=draw(st.sampled_from([kind for kind in K if kind < K.MSG_FORWARD])),
        from_replica=draw(st.sampled_from([2, 2, 3, 3, 4, 9])),
        to_replica=draw(st.sampled_from([1, 1, 1, 1, 2])),
        term=draw(st.sampled_from([status.term, status.term, around(status.term)])),
        index=index,
        log_term=log_term,
        commit=around(status.commit_index, 2**64 - 1),
        hint=draw(st.sampled_from([0, 1, 2, index, 2**64 - 1])),
        context=draw(st.integers(0, 3)),
        reject=draw(st.booleans()),
        transfer=draw(st.booleans()),
        body=draw(st.sampled_from([b"", b"\xff?", encode_membership(voters(1, 2, 3))])),
    )
    if message.kind != K.MSG_APPEND or draw(st.booleans()):
        return message.encode()
    return with_run(draw, message)


def with_run(draw: st.DrawFn, message: Message) -> bytes:
    """The append with entries, which may lie about the term before them, their own, or what they are."""
    term = draw(st.sampled_from([message.term, message.log_term, 1]))
    kind = draw(st.sampled_from([RunKind.RUN_ENTRIES, RunKind.RUN_MEMBERSHIP]))
    payloads = st.sampled_from(CHANGES if kind == RunKind.RUN_MEMBERSHIP else (b"", b"x" * 40))
    run = encode_run(
        group=1,
        first=message.index + 1,
        term=max(term, 1),
        prev_term=min(draw(st.sampled_from([message.log_term, message.log_term, 0])), max(term, 1)),
        commit=message.commit,
        from_replica=2,
        kind=kind,
        entries=draw(st.lists(payloads, min_size=1, max_size=3)),
    )
    data = bytearray(replace(message, body=run).encode())
    flags = struct.unpack_from("<H", data, 2)[0]
    struct.pack_into("<H", data, 2, flags | MessageFlag.FLAG_RUN)
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("options", [PLAIN, CAREFUL, NARROW], ids=["plain", "careful", "narrow"])
@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
def test_p82_whatever_members_say_costs_them_their_link_at_most(
    options: Options, leads: bool
) -> None:
    refused = 0

    @settings(max_examples=150)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal refused
        victim = Victim(options)
        if leads:
            victim.lead()
        for _ in range(data.draw(st.integers(1, 12))):
            what = data.draw(
                st.sampled_from(["hear"] * 6 + ["turn", "fail", "tick", "write", "cut"])
            )
            status = victim.replica.status()
            if what == "hear":
                refused += victim.hear(data.draw(hostile(victim)))
            elif what == "tick":
                for tick in range(data.draw(st.sampled_from([1, 25]))):
                    victim.multi.tick(tick)
            elif what == "write" and victim.multi.leads(1):
                victim.multi.propose(1, b"ours")
            elif what == "cut" and status.applied_index >= status.first_index:
                victim.multi.compact(1, status.applied_index)
            victim.turn(what != "fail")
        victim.turn()
        victim.restart()

    run()
    assert refused > 50


def test_p24_a_second_leader_of_a_term_is_refused_and_changes_nothing() -> None:
    """By the leader and by its followers: which of the two lies, nobody here can know."""
    victim = Victim(PLAIN)
    victim.lead()
    term = victim.term
    for kind in (K.MSG_APPEND, K.MSG_HEARTBEAT, K.MSG_SNAPSHOT):
        body = encode_membership(voters(1, 2, 3))
        assert victim.hear(
            Message(kind, 2, 1, term=term, index=9, log_term=term, body=body).encode()
        )
    assert victim.replica.status().role == Role.LEADER
    victim.hear(Message(K.MSG_HEARTBEAT, 2, 1, term=term + 1).encode())
    assert victim.hear(Message(K.MSG_HEARTBEAT, 3, 1, term=term + 1).encode())
    assert victim.replica.status().leader == 2


def test_p05_an_acknowledgement_beyond_the_leaders_log_is_refused_and_changes_nothing() -> None:
    victim = Victim(PLAIN)
    victim.lead()
    last_index = victim.replica.status().last_index
    ack = Message(K.MSG_APPEND_ACK, 3, 1, term=victim.term, index=last_index + 1)
    victim.turn()
    assert victim.hear(ack.encode())
    assert victim.replica.status().peers[3].recently_active is False
    assert not victim.hear(replace(ack, index=last_index).encode())
    assert victim.replica.status().commit_index == last_index


@pytest.mark.parametrize("payload", CHANGES[5:])
def test_p82_a_membership_change_that_cannot_be_read_does_not_get_into_the_log(
    payload: bytes,
) -> None:
    """Once it was committed, every replica would have to stop before it."""
    victim = Victim(PLAIN)
    run = encode_run(
        group=1, first=1, term=1, from_replica=2, kind=RunKind.RUN_MEMBERSHIP, entries=[payload]
    )
    data = bytearray(Message(K.MSG_APPEND, 2, 1, term=1, body=run).encode())
    struct.pack_into("<H", data, 2, MessageFlag.FLAG_RUN)
    assert victim.hear(bytes(data))


def test_p82_a_run_that_lies_about_the_entry_before_it_does_not_get_into_the_log() -> None:
    """The log would be taken for damaged at the next start."""
    victim = Victim(PLAIN)
    for index, (log_term, prev_term) in enumerate([(0, 0), (1, 2)]):
        run = encode_run(
            group=1, first=index + 1, term=index + 1, prev_term=prev_term, entries=[b"x"]
        )
        head = Message(K.MSG_APPEND, 2, 1, term=2, index=index, log_term=log_term, body=run)
        data = bytearray(head.encode())
        struct.pack_into("<H", data, 2, MessageFlag.FLAG_RUN)
        assert victim.hear(bytes(data)) is bool(index)
        victim.turn()
    victim.restart()


def test_a_new_member_on_no_node_is_refused_by_all_replicas_alike() -> None:
    victim = Victim(PLAIN)
    victim.lead()
    victim.hear(Message(K.MSG_APPEND_ACK, 2, 1, term=victim.term, index=1).encode())
    victim.turn()
    change = MembershipChange(((1, 5, 0),)).encode()
    _, accepted = victim.multi.propose_membership(1, change)
    assert not accepted
    before = encode_membership(victim.replica.membership())
    assert victim.multi.apply_membership(1, 2, change) == before


@pytest.mark.parametrize(("index", "ours"), [(1, 1), (2, 3), (3, 3), (5, 3)])
def test_p54_a_snapshot_over_a_tail_that_conflicts_can_be_read_by_a_start(
    index: int, ours: int
) -> None:
    """Its mark stands in the log before anything that says that its index is committed: the entry there was another."""
    victim = Victim(PLAIN)
    old = tuple(Entry(at, 1, b"never committed") for at in range(1, ours + 1))
    victim.hear(Message(K.MSG_APPEND, 2, 1, term=1, entries=old).encode())
    victim.turn()
    body = encode_membership(voters(1, 2, 3))
    victim.hear(Message(K.MSG_SNAPSHOT, 3, 1, term=2, index=index, log_term=2, body=body).encode())
    victim.turn()
    victim.turn()
    assert victim.replica.status().last_index == index
    victim.restart()
