"""Linearizable reads: a read waits for a round of heartbeats that began after it came, or for nothing under a lease.

Thesis 6.4 (read index, one round for all that wait) and 6.4.1 (leases). See ``raft.py``.
"""

from __future__ import annotations

from dataclasses import replace

from multiraft._core import MessageKind as K
from multiraft.raft import Message, Role
from tests.spec.state import Read, Replica, queue

ROUNDS_KEPT = 4



def answer_read(r: Replica, read: Read, index: int | None) -> Replica:
    if read.from_replica == 0:
        return replace(r, read_states=(*r.read_states, (read.context, index)))
    answer = Message(
        K.MSG_READ_INDEX_ACK,
        r.id,
        read.from_replica,
        term=r.term,
        index=index or 0,
        context=read.context,
        reject=index is None,
    )
    return queue(r, answer, waits=False)


def next_round(r: Replica) -> Replica:
    sent = (*r.rounds_sent, (r.round + 1, r.time))[-ROUNDS_KEPT:]
    return replace(r, round=r.round + 1, rounds_sent=sent, heartbeat_due=True)


def leads_safely(r: Replica) -> bool:
    """A new leader does not know what is committed before an entry of its own is (thesis 6.4, step 1)."""
    return r.role == Role.LEADER and r.log.commit >= r.term_start


def lease_runs(r: Replica) -> bool:
    return r.options.lease_reads and not r.lease_barred and leads_safely(r) and r.time < r.lease_until


def start_round(r: Replica) -> Replica:
    """One round of heartbeats for all reads that came since the last; the only voter, and a lease, need none."""
    if not r.reads or not leads_safely(r):
        return r
    if any(read.round == 0 for read in r.reads):
        r = next_round(r)
    asked = [read if read.round else replace(read, round=r.round, index=r.log.commit) for read in r.reads]
    r = replace(r, reads=tuple(asked))
    alone = not any(peer.votes for peer in r.peers if peer.replica != r.id)
    return answer_up_to(r, r.round) if alone or lease_runs(r) else r


def answer_confirmed(r: Replica) -> Replica:
    """A quorum has answered a round: the reads that waited for it, or an earlier one, know that we led after they came."""
    rounds = {peer.replica: 2**64 - 1 if peer.replica == r.id else peer.read_round for peer in r.peers}
    confirmed = r.quorum_index(rounds)
    if r.options.lease_reads:
        until = [sent + r.options.lease_ns for round, sent in r.rounds_sent if round <= confirmed]
        r = replace(r, lease_until=max([r.lease_until, *until]))
    return answer_up_to(r, confirmed)


def answer_up_to(r: Replica, round: int) -> Replica:
    ready = [read for read in r.reads if 0 < read.round <= round]
    r = replace(r, reads=tuple(read for read in r.reads if read not in ready))
    for read in ready:
        r = answer_read(r, read, read.index)
    return r
