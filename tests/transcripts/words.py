"""How a transcript shows things: one line each, short, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterable

from multiraft._core import MemberFlag, RunKind
from multiraft._core import MessageKind as K
from multiraft.interfaces import Membership
from multiraft.raft import (
    ChangeOperation,
    Entry,
    MembershipChange,
    Message,
    Ready,
    Role,
    Status,
    Transition,
)

ROLES = {
    Role.FOLLOWER: "follower",
    Role.PRE_CANDIDATE: "pre-candidate",
    Role.CANDIDATE: "candidate",
    Role.LEADER: "leader",
}
SIGNS = {
    ChangeOperation.ADD_VOTER: "+",
    ChangeOperation.ADD_LEARNER: "~",
    ChangeOperation.REMOVE: "-",
}
HOW = {
    Transition.AUTOMATIC: "",
    Transition.JOINT_IMPLICIT: " joint",
    Transition.JOINT_EXPLICIT: " explicit",
}


def change_of(words: Iterable[str]) -> MembershipChange:
    """``+4 -1 ~2 joint``, or ``leave``."""
    operations, transition = [], Transition.AUTOMATIC
    for word in words:
        if word in ("joint", "explicit"):
            transition = next(how for how, name in HOW.items() if name == f" {word}")
        elif word != "leave":
            operation = next(what for what, sign in SIGNS.items() if sign == word[0])
            operations.append((int(operation), int(word[1:]), int(word[1:])))
    return MembershipChange(tuple(operations), int(transition))


def show_change(change: MembershipChange) -> str:
    signs = [f"{SIGNS[ChangeOperation(what)]}{id}" for what, id, _ in change.operations]
    return (" ".join(signs) or "leave") + HOW[Transition(change.transition)]


def show_entry(entry: Entry) -> str:
    if entry.kind == RunKind.RUN_MEMBERSHIP:
        return f"{entry.index}/{entry.term} [{show_change(MembershipChange.decode(entry.payload))}]"
    return f"{entry.index}/{entry.term} {entry.payload.decode() or '-'}"


def show_entries(entries: Iterable[Entry]) -> str:
    return ", ".join(show_entry(entry) for entry in entries)


def show_members(membership: Membership) -> str:
    def having(flag: MemberFlag) -> str:
        return " ".join(str(one.replica) for one in membership.members if one.flags & flag)

    parts = [f"voters {having(MemberFlag.MEMBER_VOTER) or '-'}"]
    for name, flag in (
        ("outgoing", MemberFlag.MEMBER_OUTGOING),
        ("learners", MemberFlag.MEMBER_LEARNER),
        ("learners next", MemberFlag.MEMBER_LEARNER_NEXT),
    ):
        if ids := having(flag):
            parts.append(f"{name} {ids}")
    return ", ".join(parts) + (", left by itself" if membership.auto_leave else "")


def show_message(m: Message) -> str:
    name = K(m.kind).name.removeprefix("MSG_")
    return f"{m.from_replica}->{m.to_replica} {name} term {m.term}{details(m)}"


def details(m: Message) -> str:
    if m.kind == K.MSG_APPEND:
        return f" after {m.index}/{m.log_term} commit {m.commit}: {show_entries(m.entries) or 'nothing'}"
    if m.kind == K.MSG_APPEND_ACK:
        refused = f" refused at {m.index}, try {m.hint}/{m.log_term}"
        return refused if m.reject else f" index {m.index}"
    if m.kind == K.MSG_HEARTBEAT:
        return f" commit {m.commit}" + show_round(m)
    if m.kind == K.MSG_HEARTBEAT_ACK:
        return show_round(m)
    if m.kind in (K.MSG_VOTE, K.MSG_PRE_VOTE):
        return f" last {m.index}/{m.log_term}" + (" by transfer" if m.transfer else "")
    if m.kind in (K.MSG_VOTE_ACK, K.MSG_PRE_VOTE_ACK):
        return f" refused, committed {m.commit}/{m.log_term}" if m.reject else " granted"
    if m.kind == K.MSG_SNAPSHOT:
        return f" at {m.index}/{m.log_term}"
    if m.kind == K.MSG_READ_INDEX:
        return f" read {m.context}"
    if m.kind == K.MSG_READ_INDEX_ACK:
        return f" read {m.context} " + ("ask anew" if m.reject else f"at {m.index}")
    return f" to {m.hint}" if m.kind == K.MSG_TRANSFER_LEADER else ""


def show_round(m: Message) -> str:
    return f" round {m.context}" if m.context else ""


def show_ready(ready: Ready, last_ready: Ready | None) -> list[str]:
    """What changed and what is to be done, in the order in which it is to be done; nothing about what did not change."""
    lines = []
    if last_ready is None or soft(ready) != soft(last_ready):
        leader = f", leader {ready.leader}" if ready.leader else ", no leader"
        lines.append(f"{ROLES[Role(ready.role)]} in term {ready.term}{leader}")
    lines += [f"send {show_message(m)}" for m in ready.messages]
    if ready.hard_state is not None:
        hard = ready.hard_state
        lines.append(f"write term {hard.term} vote {hard.vote} commit {hard.commit}")
    if ready.entries:
        lines.append(f"write {show_entries(ready.entries)}")
    lines += [f"when synced {show_message(m)}" for m in ready.messages_after]
    if ready.committed:
        lines.append(f"apply {show_entries(ready.committed)}")
    for context, index in ready.read_states:
        lines.append(
            f"read {context} " + ("must be asked anew" if index is None else f"at {index}")
        )
    for peer, first, _bytes in ready.wanted:
        lines.append(f"wants entries from {first} on, " + (f"for {peer}" if peer else "to apply"))
    lines += [f"wants a snapshot for {peer}" for peer in ready.snapshots_wanted]
    if ready.snapshot is not None:
        lines.append(f"snapshot offered at {ready.snapshot.index}/{ready.snapshot.term}")
    return lines


def soft(ready: Ready) -> tuple[int, int, int]:
    return ready.role, ready.leader, ready.term


def show_status(status: Status) -> str:
    vote = f" vote {status.vote}" if status.vote else ""
    leader = f" leader {status.leader}" if status.leader else " no leader"
    transfer = f" handing over to {status.transfer_to}" if status.transfer_to else ""
    return (
        f"{status.replica}: {ROLES[Role(status.role)]} term {status.term}{vote}{leader}{transfer}, "
        f"log {status.first_index}..{status.last_index} stable {status.stable_index} "
        f"commit {status.commit_index} applied {status.applied_index}"
    )


def show_peers(status: Status) -> list[str]:
    """What a leader knows of the others."""
    lines = []
    for id, peer in status.peers.items():
        if id == status.replica:
            continue
        line = f"{id}: {peer.state} match {peer.match_index} next {peer.next_index}"
        if peer.inflight:
            line += f" inflight {peer.inflight}"
        if peer.pending_snapshot:
            line += f" snapshot {peer.pending_snapshot}"
        for shown, word in (
            (peer.paused, "paused"),
            (peer.learner, "learner"),
            (not peer.recently_active, "silent"),
        ):
            line += f" {word}" if shown else ""
        lines.append(line)
    return lines
