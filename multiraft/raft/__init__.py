"""Raft, sans I/O: one replica, and all replicas of a node. This page is the contract.

Nothing here reads a clock, a disk or a socket, draws an unseeded random number, or logs. A replica is fed inputs and asked
what it wants done. The caller owes, in this order:

1. **Messages may go first.** ``ready().messages`` (for a node: ``frames``) may leave at once, before anything is written.
2. **Write and sync together.** ``hard_state`` and ``entries`` (``batches``) of one ready are made durable in the order they
   were handed out, a later ready never before an earlier one. An entry replaces all from its index on whose terms differ.
3. **Then say so.** ``persisted(tag)`` - for a node ``persisted(sequence)`` - when all of it, and all before it, is synced.
   It may come late and cover several; one for entries that were cut since counts for nothing. Only then may
   ``messages_after`` leave (a ``MultiRaft`` holds them back by itself): votes, requests for votes and acknowledgements are
   promises, and a promise that a crash forgets elects two leaders. A ready without a tag has nothing to sync; its
   ``messages_after`` wait for the readies before it.
4. **Apply in order.** ``committed`` holds entries that are committed *and* synced here. Apply them in order; give membership
   entries to ``apply_membership`` at their place; then call ``applied(index)``.
5. **Read for it.** ``wanted`` names entries that are no longer in memory: read them and call ``fetched``, with None where
   that failed. The peer, or the applying, that waits for them pauses meanwhile.
6. **Snapshots.** ``snapshots_wanted`` names members that are too far behind: make a snapshot, send its bytes by other means,
   and call ``send_snapshot``, later ``report_snapshot``. A ``snapshot`` that was offered is received, checked, made durable
   and then reported by ``installed`` - or ``snapshot_failed``.
7. **Tick.** ``tick(now)`` at a steady pace. Leases are the only thing that looks at ``now``. A read under a lease needs more:
   a node passes the time, read after the last read came in, to ``ready(now)``; without it no lease is used.
8. **Start again** from what is synced: hard state, entries above the base, and the applied index of the state machine with
   the membership as of there. A snapshot that was installed but not marked in the log is the base then.

``ready`` hands out each thing once and may be called again before earlier output is dealt with; inputs may come between any
two steps. One thread at a time. The whole of it, for one replica over some storage and some network, as a test runs it::

    def turn(replica, received, ticked, disk, network, machine):
        for message in received:
            replica.step(message)
        if ticked:
            replica.tick()
        ready = replica.ready()
        network.send(ready.messages)
        disk.write(ready.hard_state, ready.entries)             # one transaction, one sync
        if ready.tag is not None:
            replica.persisted(ready.tag)
        network.send(ready.messages_after)
        for peer, first, bytes_max in ready.wanted:
            replica.fetched(peer, disk.read(first, bytes_max))
        for entry in ready.committed:
            if entry.kind == RunKind.RUN_MEMBERSHIP:
                machine.membership = replica.apply_membership(entry.index, entry.payload)
            machine.apply(entry)                                # remembers its index, whatever its kind
            replica.applied(entry.index)

A proposal that was taken got an index; it happened when an entry is applied there whose term is that of the proposal, and
did not when the term is another. ``NotLeader``, ``NoLeader``, ``Overloaded`` and ``TooLarge`` say that it did not even begin.

**Invariants**, each checked where it could break, whatever the build: the term and the commit index never fall; a vote is
given once a term; nothing committed is cut; a leader counts its own log only as far as it is synced, and commits by counting
only entries of its own term; two replicas never lead in one term. What breaks one raises ``InvariantViolation``: that replica
must not go on.

**Where this differs** from the paper, the thesis and other implementations: ``docs/divergence.md``.
"""

from __future__ import annotations

from multiraft._core import MemberFlag as MemberFlag
from multiraft._core import MessageKind as MessageKind
from multiraft._core import RunKind as RunKind
from multiraft._core import VoteResult as VoteResult
from multiraft._core import committed_index as committed_index
from multiraft._core import vote_result as vote_result
from multiraft.raft.door import Options as Options
from multiraft.raft.door import PeerStatus as PeerStatus
from multiraft.raft.door import Ready as Ready
from multiraft.raft.door import Replica as Replica
from multiraft.raft.door import Snapshot as Snapshot
from multiraft.raft.door import Status as Status
from multiraft.raft.door import Tag as Tag
from multiraft.raft.election import Campaign as Campaign
from multiraft.raft.membership import ChangeOperation as ChangeOperation
from multiraft.raft.membership import MembershipChange as MembershipChange
from multiraft.raft.membership import Transition as Transition
from multiraft.raft.membership import membership_after as membership_after
from multiraft.raft.messages import Entry as Entry
from multiraft.raft.messages import Message as Message
from multiraft.raft.multi import MultiRaft as MultiRaft
from multiraft.raft.state import Role as Role
