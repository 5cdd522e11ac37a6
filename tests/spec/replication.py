"""Replication, commit, snapshots, reads, and ``ready``: the half of the rules that concerns entries on their way.

Paper 5.3, 5.4 and 7; thesis 6.4 (reads), 10.2 (sending ahead, and writing to the disk while sending). See ``raft.py``.
"""

from __future__ import annotations

from dataclasses import replace

from multiraft._core import MessageKind as K
from multiraft.errors import InvariantViolation, PeerProtocolError
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState, Membership
from multiraft.raft import Entry, Message, Ready, Role, Snapshot, Tag
from multiraft.records import encode_membership
from tests.spec import reads
from tests.spec.state import (
    HEADS_BYTES,
    Log,
    Peer,
    Replica,
    queue,
    run_bytes,
    with_log,
    with_members,
    with_peer,
)

# -- the disk ----------------------------------------------------------------------------------------------------------


def record(r: Replica) -> Replica:
    """The hard state goes to the disk as it is now."""
    written = HardState(r.term, ReplicaId(r.vote), commit=max(r.log.commit, r.written.commit))
    return replace(r, written=written, handout_due=True)


def seal(r: Replica) -> Replica:
    """Hand the proposals to the disk, behind the term they belong to."""
    fresh = r.log.entries[r.log.sealed - r.log.base_index :]
    if not fresh:
        return r
    return replace(record(r), log=r.log.sealed_all(), new_entries=r.new_entries + fresh)


def stabilize(r: Replica, index: int, generation: int) -> Replica:
    """Entries up to ``index`` are synced here, unless they were cut since."""
    if generation != r.log.generation or index <= r.log.stable:
        return r
    if index > r.log.sealed:
        raise InvariantViolation(f"{index} was synced before it was handed out")
    r = with_log(r, replace(r.log, stable=index))
    return commit_quorum(r) if r.role == Role.LEADER else r


# -- as follower -------------------------------------------------------------------------------------------------------


def commit_to(r: Replica, index: int) -> Replica:
    if index > r.log.last:
        raise InvariantViolation(f"{index} is beyond the log")
    return with_log(r, replace(r.log, commit=max(r.log.commit, index)))


def acknowledge(r: Replica, m: Message, index: int) -> Replica:
    return queue(
        r, Message(K.MSG_APPEND_ACK, r.id, m.from_replica, term=r.term, index=index), waits=True
    )


def take_append(r: Replica, m: Message) -> Replica:
    """5.3. The answer names the end of what matched, never more; a refusal tells where the logs may still agree."""
    if m.index < r.log.commit:
        return acknowledge(r, m, r.log.commit)
    if not r.log.matches(m.index, m.log_term):
        hint = r.log.conflict(min(m.index, r.log.last), m.log_term)
        refusal = Message(
            K.MSG_APPEND_ACK,
            r.id,
            m.from_replica,
            term=r.term,
            index=m.index,
            hint=hint,
            log_term=r.log.term(hint),
            reject=True,
        )
        return queue(r, refusal, waits=True)
    end = m.entries[-1].index if m.entries else m.index
    fresh = next(
        (i for i, entry in enumerate(m.entries) if not r.log.matches(entry.index, entry.term)), None
    )
    if fresh is not None:
        entries = m.entries[fresh:]
        if entries[0].index <= r.log.last:
            r = with_log(r, r.log.cut(entries[0].index))
        r = record(r)
        r = replace(r, log=r.log.appended(entries), new_entries=r.new_entries + entries)
    return acknowledge(commit_to(r, min(m.commit, end)), m, end)


def take_heartbeat(r: Replica, m: Message) -> Replica:
    r = commit_to(r, min(m.commit, r.log.last))
    answer = Message(K.MSG_HEARTBEAT_ACK, r.id, m.from_replica, term=r.term, context=m.context)
    return queue(r, answer, waits=False)


def take_snapshot(r: Replica, m: Message, membership: Membership) -> Replica:
    """7. One that tells nothing new is answered with what is committed here."""
    if m.index > r.log.commit and r.log.matches(m.index, m.log_term):
        r = commit_to(r, m.index)
    if m.index <= r.log.commit:
        return acknowledge(r, m, r.log.commit)
    offered = Snapshot(m.index, m.log_term, membership, m.context, m.from_replica)
    return replace(r, snapshot_pending=True, snapshots=(*r.snapshots, offered))


def installed(r: Replica, snapshot: Snapshot) -> Replica:
    """The log begins at the snapshot now; a tail that fits stays, for it was acknowledged."""
    r = replace(r, snapshot_pending=False)
    index, log = snapshot.index, r.log
    if index <= log.applied:
        return r
    if log.matches(index, snapshot.term):
        log = replace(
            log.compacted(index, snapshot.term),
            commit=max(log.commit, index),
            stable=max(log.stable, index),
            applying=max(log.applying, index),
            applied=index,
        )
    else:
        log = log.restored(index, snapshot.term)
    r = record(with_members(replace(r, log=log, waits_to_apply=False), snapshot.membership))
    if r.role == Role.FOLLOWER and r.peer(r.leader) is not None:
        answer = Message(K.MSG_APPEND_ACK, r.id, r.leader, term=r.term, index=index)
        return queue(r, answer, waits=True)
    return r


def snapshot_failed(r: Replica) -> Replica:
    return replace(r, snapshot_pending=False)


def compact(r: Replica, index: int) -> Replica:
    if index <= r.log.base_index:
        return r
    if index > r.log.applied:
        raise InvariantViolation(f"only {r.log.applied} is applied")
    term = r.log.term(index)
    r = seal(r)
    return replace(r, log=r.log.compacted(index, term), handout_due=True)


# -- as leader ---------------------------------------------------------------------------------------------------------


def commit_quorum(r: Replica) -> Replica:
    """5.4.2: commit what both halves have, if it is of our own term. Our own entries count when they are synced."""
    acks = {peer.replica: r.log.stable if peer.replica == r.id else peer.match for peer in r.peers}
    index = r.quorum_index(acks)
    if index > r.log.commit and r.log.knows(index) and r.log.term(index) == r.term:
        return commit_to(r, index)
    return r


def try_transfer(r: Replica, to: int) -> Replica:
    peer = r.peer(to)
    if r.transfer_to == to and peer is not None and peer.match == r.log.last:
        return queue(r, Message(K.MSG_TIMEOUT_NOW, r.id, to, term=r.term), waits=False)
    return r


def hear_append_ack(r: Replica, peer: Peer, m: Message) -> Replica:
    if m.index > r.log.last and not m.reject:
        raise PeerProtocolError(f"{peer.replica} acknowledges {m.index}, beyond the log")
    peer = replace(peer, recently_active=True)
    if m.reject:
        return with_peer(r, step_back(r.log, peer, m))
    if m.index <= peer.match and not (m.index == peer.match and peer.state == "probe"):
        return with_peer(r, peer)
    if m.index > peer.match:
        peer = replace(peer, match=m.index, next=max(peer.next, m.index + 1), paused=False)
    if peer.state == "probe" or (peer.state == "snapshot" and peer.match >= r.log.base_index):
        if peer.state == "snapshot":
            peer = peer.probe()
        peer = peer.replicate()
    elif peer.state == "replicate":
        peer = replace(
            peer, window=tuple(one for one in peer.window if one[0] > m.index), paused=False
        )
    return try_transfer(commit_quorum(with_peer(r, peer)), peer.replica)


def step_back(log: Log, peer: Peer, m: Message) -> Peer:
    """5.3: try an earlier place. Late refusals of what was acknowledged or tried again since say nothing."""
    if peer.state == "replicate":
        if m.index <= peer.match:
            return peer
        return replace(peer.probe(), must_send=True)
    if peer.next - 1 != m.index:
        return peer
    hint = log.conflict(m.hint, m.log_term) if m.log_term else m.hint
    next_index = max(min(m.index, hint + 1), peer.match + 1)
    sent_commit = min(peer.sent_commit, next_index - 1)
    return replace(peer, next=next_index, paused=False, must_send=True, sent_commit=sent_commit)


def hear_heartbeat_ack(r: Replica, peer: Peer, m: Message) -> Replica:
    """What was sent before may have been lost; an append, even an empty one, makes it say so."""
    read_round = max(peer.read_round, m.context) if m.context <= r.round else peer.read_round
    peer = replace(peer, recently_active=True, paused=False, read_round=read_round)
    if peer.match < r.log.last or peer.state == "probe":
        peer = replace(peer, must_send=peer.state != "snapshot")
    r = with_peer(r, peer)
    return reads.answer_confirmed(r) if m.context else r


def report_unreachable(r: Replica, id: int) -> Replica:
    peer = r.peer(id)
    if peer is not None and peer.state == "replicate":
        return with_peer(r, peer.probe())
    return r


def report_snapshot(r: Replica, id: int, ok: bool) -> Replica:
    peer = r.peer(id)
    if peer is None:
        return r
    peer = replace(peer, snapshot_wanted=False)
    if peer.state == "snapshot":
        peer = replace(peer, pending_snapshot=peer.pending_snapshot if ok else 0).probe()
        peer = replace(
            peer, paused=ok
        )  # a good one is acknowledged by itself; until then, or a heartbeat, wait
    return with_peer(r, peer)


def send_snapshot(r: Replica, id: int, snapshot: Snapshot) -> Replica:
    peer = r.peer(id)
    if peer is None or r.role != Role.LEADER:
        return r
    if snapshot.index <= peer.match:
        return report_snapshot(r, id, True)
    if snapshot.index < r.log.base_index:
        return report_snapshot(r, id, False)
    message = Message(
        K.MSG_SNAPSHOT,
        r.id,
        id,
        term=r.term,
        index=snapshot.index,
        log_term=snapshot.term,
        context=snapshot.context,
        body=encode_membership(snapshot.membership),
    )
    return queue(with_peer(r, peer.snapshot(snapshot.index)), message, waits=False)


# -- sending -----------------------------------------------------------------------------------------------------------


def send_append(r: Replica, peer: Peer, entries: tuple[Entry, ...]) -> Replica:
    before = peer.next - 1
    message = Message(
        K.MSG_APPEND,
        r.id,
        peer.replica,
        term=r.term,
        index=before,
        log_term=r.log.term(before),
        commit=r.log.commit,
        entries=entries,
    )
    if peer.state == "replicate":
        if entries:
            sent = (entries[-1].index, HEADS_BYTES + run_bytes(entries))
            peer = replace(peer, next=entries[-1].index + 1, window=(*peer.window, sent))
        paused = peer.full(r.options)
    else:
        paused = True  # one probe at a time
    peer = replace(peer, paused=paused, must_send=False, sent_commit=r.log.commit)
    return queue(with_peer(r, peer), message, waits=False)


def replicate(r: Replica, id: int) -> Replica:
    """Send the peer what it lacks, as far as its window allows; what is not in memory, or not in the log, is asked for."""
    while (peer := r.peer(id)) is not None and not peer.silent():
        if peer.next - 1 < r.log.base_index:
            if not peer.recently_active:
                return r  # nobody there to take it
            r = with_peer(r, replace(peer, snapshot_wanted=True))
            return replace(r, snapshots_wanted=(*r.snapshots_wanted, id))
        blocked = peer.state == "replicate" and peer.full(r.options)
        if blocked or peer.next > r.log.sealed:
            if peer.must_send or peer.state == "probe" or peer.sent_commit < r.log.commit:
                r = send_append(r, peer, ())
            return r
        if r.log.in_memory(peer.next):
            r = send_append(r, peer, r.log.stretch(peer.next, r.options.message_bytes_max))
        else:
            asked = (id, peer.next, r.options.message_bytes_max)
            r = replace(with_peer(r, replace(peer, wanted=True)), wanted=(*r.wanted, asked))
    return r


def fetched(r: Replica, id: int, runs: tuple[tuple[Entry, ...], ...]) -> Replica:
    """Entries that were asked for, each tuple of one term and kind: those that are still what is wanted are used."""
    peer = r.peer(id)
    if id and peer is None:
        return r
    r = (
        with_peer(r, replace(peer, wanted=False))
        if peer is not None
        else replace(r, waits_to_apply=False)
    )
    for entries in runs:
        peer = r.peer(id)
        if peer is not None and (r.role != Role.LEADER or peer.silent()):
            continue
        if peer is None and r.snapshot_pending:
            continue
        first = peer.next if peer is not None else r.log.applying + 1
        known = (
            entries[0].index <= first <= entries[-1].index and r.log.term(first) == entries[0].term
        )
        if known:
            rest = tuple(entry for entry in entries if entry.index >= first)
            r = send_append(r, peer, rest) if peer is not None else hand_out(r, rest)
    return r


# -- applying ----------------------------------------------------------------------------------------------------------


def hand_out(r: Replica, entries: tuple[Entry, ...]) -> Replica:
    """Those of the entries that are committed, and synced here, go to the state machine."""
    limit = min(r.log.commit, r.log.stable)
    entries = tuple(entry for entry in entries if entry.index <= limit)
    if not entries:
        return r
    size = sum(len(entry.payload) for entry in entries)
    return replace(
        r,
        log=replace(r.log, applying=entries[-1].index),
        committed=r.committed + entries,
        uncommitted_bytes=max(0, r.uncommitted_bytes - size),
    )


def hand_out_memory(r: Replica) -> Replica:
    """As much as fits into one ready, one entry at least; not while a snapshot is about to replace it all."""
    size = 0
    while (
        not r.waits_to_apply
        and not r.snapshot_pending
        and r.log.applying < min(r.log.commit, r.log.stable)
    ):
        first = r.log.applying + 1
        if not r.log.in_memory(first):
            asked = (0, first, r.options.committed_bytes_max)
            return replace(r, waits_to_apply=True, wanted=(*r.wanted, asked))
        last = next(last for low, last in r.log.runs if low <= first <= last)
        last = min(last, r.log.commit, r.log.stable)
        entries = tuple(r.log.at(index) for index in range(first, last + 1))
        room = max(0, r.options.committed_bytes_max - size)
        while run_bytes(entries) > room and (size or len(entries) > 1):
            entries = entries[:-1]
        if not entries:
            return r
        r = hand_out(r, entries)
        size += run_bytes(entries)
    return r


def heartbeat(r: Replica, peer: Peer) -> Replica:
    commit = min(peer.match, r.log.commit)
    message = Message(
        K.MSG_HEARTBEAT, r.id, peer.replica, term=r.term, commit=commit, context=r.round
    )
    return queue(r, message, waits=False)


def may_release(r: Replica) -> int:
    """Entries up to here need not stay in memory: they are applied, and acknowledged by all who are there to answer. When they
    are let go, run by run, is a matter of convenience."""
    if r.role != Role.LEADER:
        return r.log.applied
    others = [peer.match for peer in r.peers if peer.replica != r.id and peer.recently_active]
    return min([r.log.applied, *others])


def ready(r: Replica, time: int | None = None) -> tuple[Replica, Ready]:
    """Everything that has gathered, handed out once."""
    r = seal(r if time is None else replace(r, time=time))
    if (r.term, r.vote) != (r.written.term, r.written.vote) or r.log.changes(
        r.written.commit, r.log.commit
    ):
        r = record(r)
    if r.role == Role.LEADER:
        r = reads.start_round(r)
        others = [peer.replica for peer in r.peers if peer.replica != r.id]
        if r.heartbeat_due:
            r = replace(r, heartbeat_due=False)
            for peer in [peer for peer in r.peers if peer.replica != r.id]:
                r = heartbeat(r, peer)
        for id in others:
            r = replicate(r, id)
    r = hand_out_memory(r)
    tag = Tag(r.term, r.log.sealed, r.log.generation) if r.handout_due else None
    out = Ready(
        role=r.role,
        leader=r.leader,
        term=r.term,
        messages=r.now,
        messages_after=r.after,
        hard_state=r.written if r.written != r.told else None,
        entries=r.new_entries,
        must_sync=tag is not None,
        tag=tag,
        committed=r.committed,
        snapshot=max(r.snapshots, key=lambda one: one.index, default=None),
        read_states=r.read_states,
        wanted=r.wanted,
        snapshots_wanted=r.snapshots_wanted,
    )
    r = replace(
        r, told=r.written, handout_due=False, new_entries=(), now=(), after=(), committed=()
    )
    return replace(r, snapshots=(), read_states=(), wanted=(), snapshots_wanted=()), out
