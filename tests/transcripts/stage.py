"""The interpreter of the transcripts: a few replicas behind their Python door, their disks, and the messages between them.

Each command is a method ``do_...`` that returns lines. By themselves things happen only in ``settle``; all other commands do one
step, so that a transcript can put a crash, a loss or a late disk between any two. A replica's part is played as the contract
in ``multiraft.raft`` asks for it: messages that may go leave with ``ready``, the rest with ``sync``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from multiraft._core import MemberFlag, RunKind, committed_index, encode_run, vote_result
from multiraft._core import MessageKind as K
from multiraft.errors import MultiRaftError
from multiraft.ids import ReplicaId
from multiraft.interfaces import HardState, Member, Membership
from multiraft.raft import (
    Entry,
    Message,
    Options,
    Ready,
    Replica,
    Snapshot,
    Tag,
    membership_after,
)
from multiraft.records import encode_membership
from tests.spec.pair import Disk
from tests.transcripts.words import (
    change_of,
    show_entries,
    show_members,
    show_message,
    show_peers,
    show_ready,
    show_status,
)

SWITCHES = {
    "pre-vote": "pre_vote",
    "check-quorum": "check_quorum",
    "unvalidated": "validate_changes",
    "stay-on-removal": "step_down_on_removal",
}
SIZES = {
    "election": "election_ticks",
    "heartbeat": "heartbeat_ticks",
    "window": "inflight_messages_max",
    "window-bytes": "inflight_bytes_max",
    "message-bytes": "message_bytes_max",
    "commit-bytes": "committed_bytes_max",
    "uncommitted-bytes": "uncommitted_bytes_max",
    "lease": "lease_ns",
}


@dataclass
class Node:
    """One replica, its disk, and what waits between the two."""

    id: int
    options: Options
    members: Membership
    disk: Disk = field(default_factory=Disk)
    applied: int = 0
    unsynced: deque[Ready] = field(default_factory=deque)
    tags: deque[Tag] = field(default_factory=deque)
    to_apply: deque[Entry] = field(default_factory=deque)
    wanted: list[tuple[int, int, int]] = field(default_factory=list)
    offer: Snapshot | None = None
    last_ready: Ready | None = None

    def begin(self) -> None:
        """Start from what is synced. The state machine keeps what it applied, as one that is durable at once would."""
        for things in (self.unsynced, self.tags, self.to_apply, self.wanted):
            things.clear()
        self.offer = self.last_ready = None
        hard = self.disk.hard_state
        self.replica = Replica(
            self.options,
            replica=self.id,
            membership=self.members,
            hard_state=replace(hard, commit=max(hard.commit, self.applied)),
            base_index=self.disk.base[0],
            base_term=self.disk.base[1],
            entries=[self.disk.entries[index] for index in sorted(self.disk.entries)],
            applied_index=self.applied,
            seed=self.id,
        )


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def split_options(words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Plain words, and those that name a value."""
    plain = [word for word in words if "=" not in word]
    return plain, dict(word.split("=", 1) for word in words if "=" in word)


class Stage:
    """The nodes and their network: messages in the order in which they were sent."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.network: list[Message] = []
        self.cut: set[int] = set()

    def run(self, line: str) -> list[str]:
        """One command, and what it shows; an error shows its class."""
        name, *words = line.split()
        command: Callable[..., list[str]] = getattr(self, "do_" + name.replace("-", "_"))
        try:
            return command(*words)
        except MultiRaftError as error:
            return [type(error).__name__]

    # -- who is there --------------------------------------------------------------------------------------------------

    def do_nodes(self, count: str, *words: str) -> list[str]:
        """``nodes 3 pre-vote window=2 learners=3 log=1,1,2 commit=2``: replicas 1 to 3, all alike."""
        plain, named = split_options(words)
        options = Options(
            pre_vote="pre-vote" in plain,
            check_quorum="check-quorum" in plain or "lease" in named,
            validate_changes="unvalidated" not in plain,
            step_down_on_removal="stay-on-removal" not in plain,
            lease_reads="lease" in named,
            **{SIZES[name]: int(value) for name, value in named.items() if name in SIZES},
        )
        unknown = set(plain) - set(SWITCHES)
        assert not unknown, unknown
        learners = numbers(named.get("learners", ""))
        parts = dict.fromkeys(range(1, int(count) + 1), MemberFlag.MEMBER_VOTER)
        parts |= dict.fromkeys(learners, MemberFlag.MEMBER_LEARNER)
        members = Membership(tuple(Member(id, id, int(flags)) for id, flags in parts.items()))  # type: ignore[arg-type]
        for id in parts:
            self.nodes[id] = Node(id, options, members)
            self.restart_with(self.nodes[id], named)
        return [show_members(members)]

    def restart_with(self, node: Node, named: dict[str, str]) -> None:
        terms = numbers(named.get("log", ""))
        entries = [Entry(at, term, b"%d" % at) for at, term in enumerate(terms, 1)]
        node.disk = Disk(entries={entry.index: entry for entry in entries})
        node.disk.hard_state = HardState(
            term=int(named.get("term", max(terms, default=0))),
            vote=ReplicaId(int(named.get("vote", "0"))),
            commit=int(named.get("commit", "0")),
        )
        node.begin()

    def do_node(self, id: str, *words: str) -> list[str]:
        """``node 2 log=1,1 term=3 vote=1 commit=1``: one that is there gets that disk; a new one knows who is in the group
        from the first of those that are there."""
        _, named = split_options(words)
        if int(id) not in self.nodes:
            like = self.nodes[min(self.nodes)]
            self.nodes[int(id)] = Node(int(id), like.options, like.members)
        self.restart_with(self.nodes[int(id)], named)
        return self.do_status(id)

    def do_crash(self, *ids: str) -> list[str]:
        """What is not synced is lost; it starts again from its disk."""
        for id in ids:
            self.nodes[int(id)].begin()
        return self.do_status(*ids)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def replica(self, id: str) -> Replica:
        return self.nodes[int(id)].replica

    def do_tick(self, id: str, count: str = "1") -> list[str]:
        for _ in range(int(count)):
            self.replica(id).tick()
        return []

    def do_silence(self, *ids: str) -> list[str]:
        """Tick until it stands for election, or could have by now."""
        for id in ids:
            before = self.replica(id).status()
            for _ in range(2 * self.nodes[int(id)].options.election_ticks):
                self.replica(id).tick()
                now = self.replica(id).status()
                if (now.role, now.term) != (before.role, before.term) or now.election_elapsed == 0:
                    break
        return self.do_status(*ids)

    def do_campaign(self, *ids: str) -> list[str]:
        for id in ids:
            self.replica(id).campaign()
        return []

    def do_propose(self, id: str, *payloads: str) -> list[str]:
        found = []
        for payload in payloads or ("",):
            found.append(str(self.replica(id).propose(payload.encode())))
        return ["index " + " ".join(found)]

    def do_change(self, id: str, *words: str) -> list[str]:
        index, accepted = self.replica(id).propose_membership(change_of(words))
        return [f"index {index}" + ("" if accepted else ": refused, an empty entry stands there")]

    def do_read(self, id: str, context: str) -> list[str]:
        return [] if self.replica(id).read_index(int(context)) else ["no leader is known"]

    def do_transfer(self, id: str, to: str) -> list[str]:
        self.replica(id).transfer_leader(int(to))
        return []

    def do_forget(self, id: str) -> list[str]:
        self.replica(id).forget_leader()
        return []

    def do_unreachable(self, id: str, peer: str) -> list[str]:
        self.replica(id).report_unreachable(int(peer))
        return self.do_peers(id)

    def do_step(self, id: str, kind: str, *words: str) -> list[str]:
        """``step 2 APPEND from=1 term=1 index=1 log_term=1 commit=1 entries=2/1:a``: a message out of nowhere."""
        plain, named = split_options(words)
        entries, body = [], b""
        if voters := numbers(named.pop("voters", "")):
            parts = tuple(Member(id, id, int(MemberFlag.MEMBER_VOTER)) for id in voters)  # type: ignore[arg-type]
            body = encode_membership(Membership(parts))
        for word in filter(None, named.pop("entries", "").split(",")):
            place, _, payload = word.partition(":")
            index, term = place.split("/")
            entries.append(Entry(int(index), int(term), payload.encode()))
        message = Message(
            K["MSG_" + kind],
            int(named.pop("from")),
            int(id),
            entries=tuple(entries),
            body=body,
            reject="refused" in plain,
            transfer="by-transfer" in plain,
            **{name: int(value) for name, value in named.items()},  # type: ignore[arg-type]
        )
        self.replica(id).step(message)
        return []

    # -- output --------------------------------------------------------------------------------------------------------

    def do_ready(self, *ids: str) -> list[str]:
        return [line for id in ids for line in self.take(self.nodes[int(id)])]

    def take(self, node: Node) -> list[str]:
        ready = node.replica.ready()
        lines = show_ready(ready, node.last_ready)
        node.last_ready = ready
        self.send(ready.messages)
        node.unsynced.append(ready)
        node.to_apply.extend(ready.committed)
        node.wanted += ready.wanted
        node.offer = ready.snapshot or node.offer
        return [f"{node.id}: {line}" for line in lines] or [f"{node.id}: nothing"]

    def do_write(self, id: str, count: str = "") -> list[str]:
        """The oldest writes reach the disk and what waited for them leaves; the replica is not told yet (``tell``)."""
        node = self.nodes[int(id)]
        lines = []
        for _ in range(int(count or len(node.unsynced))):
            ready = node.unsynced.popleft()
            node.disk.write(ready)
            if ready.tag is not None:
                node.tags.append(ready.tag)
            self.send(ready.messages_after)
            lines += [f"{id}: send {show_message(m)}" for m in ready.messages_after]
        return lines

    def do_tell(self, id: str, which: str = "newest") -> list[str]:
        """``persisted`` with the newest tag, which covers all before it, or with the oldest."""
        node = self.nodes[int(id)]
        if node.tags:
            tag = node.tags.popleft() if which == "oldest" else node.tags.pop()
            if which == "newest":
                node.tags.clear()
            node.replica.persisted(tag)
        return self.do_status(id)

    def do_sync(self, id: str, count: str = "") -> list[str]:
        lines = self.do_write(id, count)
        node = self.nodes[int(id)]
        while node.tags:
            node.replica.persisted(node.tags.popleft())
        return lines

    def do_apply(self, id: str, count: str = "") -> list[str]:
        node = self.nodes[int(id)]
        lines = []
        for _ in range(int(count or len(node.to_apply))):
            entry = node.to_apply.popleft()
            if entry.kind == RunKind.RUN_MEMBERSHIP:
                node.members = node.replica.apply_membership(entry.index, entry.payload)
                lines.append(f"{id}: {show_members(node.members)}")
            node.applied = entry.index
            node.replica.applied(entry.index)
        return lines

    def do_fetch(self, id: str) -> list[str]:
        """Read what it wants from its disk."""
        node = self.nodes[int(id)]
        for peer, first, bytes_max in node.wanted:
            runs = [
                encode_run(
                    group=1,
                    first=run[0].index,
                    term=run[0].term,
                    kind=run[0].kind,
                    entries=[entry.payload for entry in run],
                )
                for run in node.disk.read(first, bytes_max)
            ]
            node.replica.fetched(peer, runs)
        node.wanted.clear()
        return []

    # -- the network ---------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[Message]) -> None:
        self.network += [m for m in messages if not self.is_cut(m)]

    def is_cut(self, m: Message) -> bool:
        return (m.from_replica in self.cut) != (
            m.to_replica in self.cut
        ) or m.to_replica not in self.nodes

    def pick(self, words: Iterable[str]) -> list[Message]:
        """``2 from=1 kind=APPEND first=1``: those to 2, of which the first one."""
        plain, named = split_options(words)
        found = [
            m
            for m in self.network
            if (not plain or str(m.to_replica) in plain)
            and named.get("from", str(m.from_replica)) == str(m.from_replica)
            and named.get("kind", K(m.kind).name[4:]) == K(m.kind).name[4:]
        ]
        return found[: int(named.get("first", len(found)))]

    def do_deliver(self, *words: str) -> list[str]:
        picked = self.pick(words)
        for message in picked:
            self.network.remove(message)
            self.nodes[message.to_replica].replica.step(message)
        return [show_message(m) for m in picked]

    def do_drop(self, *words: str) -> list[str]:
        picked = self.pick(words)
        for message in picked:
            self.network.remove(message)
        return [f"lost {show_message(m)}" for m in picked]

    def do_duplicate(self, *words: str) -> list[str]:
        picked = self.pick(words)
        self.network += picked
        return [f"twice {show_message(m)}" for m in picked]

    def do_reverse(self, *words: str) -> list[str]:
        """The last sent of these comes first."""
        picked = self.pick(words)
        self.network = [m for m in self.network if m not in picked] + picked[::-1]
        return [show_message(m) for m in picked[::-1]]

    def do_isolate(self, *ids: str) -> list[str]:
        """What passes between these and the others is lost, also what is on its way."""
        self.cut = {int(id) for id in ids}
        self.network = [m for m in self.network if not self.is_cut(m)]
        return []

    def do_heal(self) -> list[str]:
        self.cut = set()
        return []

    def do_settle(self, *words: str) -> list[str]:
        """Until nothing moves: ready, sync, apply, read and deliver, for these nodes or for all; ``quietly`` shows the end."""
        ids = [word for word in words if word != "quietly"] or [
            str(id) for id in sorted(self.nodes)
        ]
        lines: list[str] = []
        for _ in range(100):
            before = len(lines)
            for id in ids:
                lines += self.settle_one(id)
            moved = self.do_deliver(*ids)
            if len(lines) == before and not moved:
                return self.do_status(*ids) if "quietly" in words else lines
        raise AssertionError("the nodes do not come to rest")

    def settle_one(self, id: str) -> list[str]:
        node = self.nodes[int(id)]
        lines: list[str] = []
        while (
            node.replica.has_ready() or node.unsynced or node.tags or node.to_apply or node.wanted
        ):
            if node.replica.has_ready():
                lines += self.take(node)
            self.do_sync(id)
            lines += self.do_apply(id)
            self.do_fetch(id)
        return lines

    # -- snapshots and compaction --------------------------------------------------------------------------------------

    def do_snapshot(self, id: str, to: str) -> list[str]:
        """The leader's state machine as it is now is offered to that member."""
        status = self.replica(id).status()
        term = self.replica(id).term_at(status.applied_index)
        assert term is not None
        snapshot = Snapshot(status.applied_index, term, status.membership, context=7)
        self.replica(id).send_snapshot(int(to), snapshot)
        return [f"at {snapshot.index}/{snapshot.term}, {show_members(snapshot.membership)}"]

    def do_report(self, id: str, peer: str, how: str) -> list[str]:
        """``report 1 3 ok`` or ``report 1 3 failed``: how the transfer of a snapshot ended."""
        self.replica(id).report_snapshot(int(peer), how == "ok")
        return self.do_peers(id)

    def do_install(self, id: str) -> list[str]:
        """The snapshot that was offered came whole and is durable."""
        node = self.nodes[int(id)]
        assert node.offer is not None
        if node.offer.index > node.applied:
            node.applied, node.members = node.offer.index, node.offer.membership
            node.to_apply = deque(one for one in node.to_apply if one.index > node.applied)
        node.replica.installed(node.offer)
        node.offer = None
        return self.do_status(id)

    def do_lose_snapshot(self, id: str) -> list[str]:
        self.nodes[int(id)].offer = None
        self.replica(id).snapshot_failed()
        return []

    def do_compact(self, id: str, index: str) -> list[str]:
        self.replica(id).compact(int(index))
        return self.do_status(id)

    # -- looking -------------------------------------------------------------------------------------------------------

    def do_status(self, *ids: str) -> list[str]:
        return [
            show_status(self.replica(id).status()) for id in ids or map(str, sorted(self.nodes))
        ]

    def do_peers(self, id: str) -> list[str]:
        return show_peers(self.replica(id).status())

    def do_members(self, *ids: str) -> list[str]:
        return [f"{id}: {show_members(self.replica(id).membership())}" for id in ids]

    def do_log(self, *ids: str) -> list[str]:
        """The log as its replica sees it, in memory or read from its disk."""
        lines = []
        for id in ids:
            known = {one.index: one for one in self.replica(id).entries()}
            status = self.replica(id).status()
            entries = [
                known.get(at) or self.nodes[int(id)].disk.entries[at]
                for at in range(status.first_index, status.last_index + 1)
            ]
            base = f"after {status.first_index - 1}: " if status.first_index > 1 else ""
            lines.append(f"{id}: {base}{show_entries(entries) or 'empty'}")
        return lines

    def do_disk(self, *ids: str) -> list[str]:
        lines = []
        for id in ids:
            disk = self.nodes[int(id)].disk
            hard = f"term {disk.hard_state.term} vote {disk.hard_state.vote} commit {disk.hard_state.commit}"
            entries = show_entries(disk.entries[at] for at in sorted(disk.entries))
            lines.append(f"{id}: {hard}, {entries or 'no entries'}")
        return lines

    def do_network(self) -> list[str]:
        return [show_message(m) for m in self.network]

    # -- pure functions ------------------------------------------------------------------------------------------------

    def do_committed(self, *words: str) -> list[str]:
        """``committed voters=1,2,3 outgoing=3,4,5 acks=1:7,2:5``"""
        _, named = split_options(words)
        acks = dict(map(int, pair.split(":")) for pair in named["acks"].split(",") if pair)
        index = committed_index(
            numbers(named.get("voters", "")), numbers(named.get("outgoing", "")), acks
        )
        return ["no limit" if index == 2**64 - 1 else str(index)]

    def do_vote(self, *words: str) -> list[str]:
        """``vote voters=1,2,3 yes=1,2 no=3``"""
        _, named = split_options(words)
        votes = dict.fromkeys(numbers(named.get("yes", "")), True)
        votes |= dict.fromkeys(numbers(named.get("no", "")), False)
        result = vote_result(
            numbers(named.get("voters", "")), numbers(named.get("outgoing", "")), votes
        )
        return [result.name.removeprefix("VOTE_").lower()]

    def do_after(self, id: str, *words: str) -> list[str]:
        """What would follow from its membership by that change; nothing happens."""
        return [show_members(membership_after(self.replica(id).membership(), change_of(words)))]
