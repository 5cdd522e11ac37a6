"""Three nodes of replicas in one thread, with a prompt disk and no network between them: what benchmarks of ring 1 drive.

Node 1 leads every group. Each turn of the leader's log is cut into phases, in the order in which a real node goes through
them, so that a benchmark can time one phase of a cycle whose other phases really run: caches are then as cold, and commit
indexes as far, as they are in service. Nothing here is timed, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from multiraft._core import MemberFlag
from multiraft.interfaces import Member, Membership
from multiraft.raft import MultiRaft, Options
from multiraft.raft.multi import Ready

OPTIONS = Options(election_ticks=10, heartbeat_ticks=1)
NODES = (1, 2, 3)
VOTERS = Membership(
    tuple(Member(node, node, int(MemberFlag.MEMBER_VOTER)) for node in NODES)
)  # type: ignore[arg-type]


class Trio:
    """``groups`` groups on three nodes, led by node 1, each with an entry committed and everything delivered."""

    PHASES = (
        "propose",
        "leader_ready",
        "follower_step",
        "follower_ready",
        "follower_persisted",
        "follower_answers",
        "other_follower",
        "leader_persisted",
        "leader_step_commits",
        "leader_step_more",
        "leader_commit",
        "leader_applied",
        "rest",
    )

    def __init__(self, groups: int, payload: bytes = b"x" * 16) -> None:
        self.groups = range(1, groups + 1)
        self.payload = payload
        self.nodes = {
            node: MultiRaft(OPTIONS, store_id=node, seed=node) for node in NODES
        }
        self.leader, self.follower, self.other = self.nodes.values()
        for node, multi in self.nodes.items():
            for group in self.groups:
                multi.create(group, replica=node, membership=VOTERS)
        self.settle()
        while not all(self.leader.leads(group) for group in self.groups):
            self.leader.tick(0)              # nobody else's time passes, so nobody else campaigns
            self.settle()
        self.frames: dict[int, bytes] = {}
        self.answers: list[bytes] = []
        self.other_answers: list[bytes] = []
        self.committed: list[Ready] = []
        self.proposed = 0
        """Entries proposed to each group since the start."""

    def turn(self, node: int) -> list[tuple[int, bytes]]:
        """One turn of a node whose disk is prompt: what it sends."""
        multi = self.nodes[node]
        ready = multi.ready()
        frames: list[tuple[int, bytes]] = list(ready.frames)
        apply(multi, ready)
        multi.persisted(multi.sequence)
        return frames

    def settle(self) -> None:
        """Turn and deliver until nothing is pending anywhere."""
        while busy := [node for node, multi in self.nodes.items() if multi.pending()]:
            for node in busy:
                for to, frame in self.turn(node):
                    self.nodes[to].step_frame(node, frame)

    # -- the phases of one cycle: one entry in every group ---------------------------------------------------------------

    def phase(self, name: str) -> Callable[[], None]:
        found: Callable[[], None] = getattr(self, name)
        return found

    def run(self, first: str | None = None, end: str | None = None) -> None:
        """The phases from ``first`` on, up to and without ``end``."""
        start = self.PHASES.index(first) if first else 0
        stop = self.PHASES.index(end) if end else len(self.PHASES)
        for name in self.PHASES[start:stop]:
            self.phase(name)()

    def propose(self) -> None:
        propose, payload = self.leader.propose, self.payload
        for group in self.groups:
            propose(group, payload)

    def leader_ready(self) -> None:
        self.proposed += 1
        ready = self.leader.ready()
        self.frames = dict(ready.frames)
        self.committed = [ready]

    def follower_step(self) -> None:
        self.follower.step_frame(1, self.frames[2])

    def follower_ready(self) -> None:
        self.committed.append(self.follower.ready())

    def follower_persisted(self) -> None:
        self.follower.persisted(self.follower.sequence)

    def follower_answers(self) -> None:
        self.answers = [frame for _, frame in self.follower.ready().frames]

    def other_follower(self) -> None:
        """All that the second follower does, as the first did it."""
        apply(self.follower, self.committed.pop())
        apply(self.leader, self.committed.pop())
        self.other.step_frame(1, self.frames[3])
        self.turn(3)
        self.other_answers = [frame for _, frame in self.turn(3)]

    def leader_persisted(self) -> None:
        self.leader.persisted(self.leader.sequence)

    def leader_step_commits(self) -> None:
        for frame in self.answers:
            self.leader.step_frame(2, frame)

    def leader_step_more(self) -> None:
        for frame in self.other_answers:
            self.leader.step_frame(3, frame)

    def leader_commit(self) -> None:
        ready = self.leader.ready()
        self.frames = dict(ready.frames)
        self.committed = [ready]

    def leader_applied(self) -> None:
        apply(self.leader, self.committed.pop())

    def rest(self) -> None:
        """Tell the followers what is committed, and come to rest."""
        for node, frame in self.frames.items():
            self.nodes[node].step_frame(1, frame)
        self.settle()

    # -- a leader that never rests: the commit index travels with the next entry ------------------------------------------

    def busy_cycle(self) -> None:
        """One entry in every group: two appends and two answers each; the commit of it is told by the next cycle."""
        self.propose()
        self.proposed += 1
        ready = self.leader.ready()
        answers = []
        for node, frame in ready.frames:
            multi = self.nodes[node]
            multi.step_frame(1, frame)
            self.turn(node)
            answers += [(node, answer) for _, answer in self.turn(node)]
        apply(self.leader, ready)
        self.leader.persisted(self.leader.sequence)
        for node, answer in answers:
            self.leader.step_frame(node, answer)

    # -- was it right? ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every entry is applied in every group on every node, once each and in order."""
        self.settle()
        last = 1 + self.proposed  # the first entry of every log is that of the election
        for multi in self.nodes.values():
            for group in self.groups:
                _base, stable, commit, applied, end = multi.indexes(group)
                assert stable == commit == applied == end == last, (
                    group,
                    multi.indexes(group),
                )


def apply(multi: MultiRaft, ready: Ready) -> None:
    """Tell the core that the state machines applied what this ready handed out."""
    if ready.committed is not None:
        multi.applied(ready.committed, 0, len(ready.committed))
