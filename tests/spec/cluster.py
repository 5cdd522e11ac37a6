"""A cluster of pairs under a random schedule: everything that may go wrong between replicas and with their disks.

One seed draws the options, the sizes and how strong each fault is; then the events. ``heal`` ends all faults and demands
that the cluster comes together again.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from multiraft._core import MemberFlag
from multiraft._core import MessageKind as K
from multiraft.errors import MultiRaftError
from multiraft.interfaces import Member, Membership
from multiraft.raft import (
    ChangeOperation,
    MembershipChange,
    Message,
    Options,
    Role,
    Snapshot,
    Transition,
)
from tests.spec.checkers import Safety
from tests.spec.pair import Image, Pair

REPLICAS_MAX = 9
OPERATIONS = (
    ChangeOperation.ADD_VOTER,
    ChangeOperation.ADD_VOTER,
    ChangeOperation.ADD_LEARNER,
    ChangeOperation.REMOVE,
)


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each is, at each opportunity."""

    loss: float
    duplicates: float
    reordering: float
    crash: float
    lazy_disk: float
    cut: float
    snapshot_failure: float


def draw_options(draw: random.Random) -> Options:
    lease = draw.random() < 0.25
    return Options(
        election_ticks=draw.choice((3, 5, 10)),
        heartbeat_ticks=draw.choice((1, 2)),
        inflight_messages_max=draw.choice((1, 2, 4, 256)),
        inflight_bytes_max=draw.choice((0, 0, 400)),
        message_bytes_max=draw.choice((1, 40, 100, 2**20)),
        committed_bytes_max=draw.choice((1, 60, 2**24)),
        uncommitted_bytes_max=draw.choice((0, 0, 200)),
        pre_vote=draw.random() < 0.5,
        check_quorum=lease or draw.random() < 0.5,
        lease_reads=lease,
        lease_ns=2 if lease else 0,
        validate_changes=draw.random() < 0.8,
        step_down_on_removal=draw.random() < 0.7,
    )


def draw_faults(draw: random.Random) -> Faults:
    def some(*choices: float) -> float:
        return draw.choice(choices)

    return Faults(
        loss=some(0, 0.02, 0.2),
        duplicates=some(0, 0.02, 0.1),
        reordering=some(0, 0.1, 0.5),
        crash=some(0, 0.002, 0.01),
        lazy_disk=some(0, 0.3, 0.8),
        cut=some(0, 0.003, 0.01),
        snapshot_failure=some(0, 0.3),
    )


class Cluster:
    """Pairs, the messages between them, and one generator that decides everything."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = random.Random(seed)
        self.options = draw_options(self.draw)
        self.faults = draw_faults(self.draw)
        size = self.draw.choice((1, 2, 3, 3, 3, 5))
        learners = self.draw.choice((0, 0, 1))
        flags = [int(MemberFlag.MEMBER_VOTER)] * size + [int(MemberFlag.MEMBER_LEARNER)] * learners
        self.first = Membership(tuple(Member(id, id, part) for id, part in enumerate(flags, 1)))  # type: ignore[arg-type]
        self.pairs: dict[int, Pair] = {}
        self.safety = Safety()
        self.network: list[Message] = []
        self.cut: set[int] = set()
        self.images: dict[int, Image] = {}
        self.making: list[tuple[int, int]] = []
        self.transfers: list[tuple[int, int, int]] = []
        self.contexts = 0
        self.counts: Counter[str] = Counter()
        for id in range(1, len(flags) + 1):
            self.add(id)

    def add(self, id: int) -> None:
        """A replica that begins with nothing knows the membership from which the log begins."""
        self.pairs[id] = Pair(id, self.options, self.first, seed=self.seed * 31 + id)

    # -- one replica's moves -------------------------------------------------------------------------------------------

    def look(self, pair: Pair) -> None:
        self.safety.after_input(pair)

    def ready(self, pair: Pair) -> None:
        ready = pair.ready()
        self.safety.after_ready(pair, ready)
        self.look(pair)
        self.making += [(pair.id, to) for to in ready.snapshots_wanted]
        self.send(pair)

    def sync(self, pair: Pair, count: int) -> None:
        pair.sync(count)
        self.send(pair)

    def persisted(self, pair: Pair, which: int = -1) -> None:
        pair.persisted(which)
        self.look(pair)

    def apply(self, pair: Pair) -> None:
        if pair.to_apply:
            self.safety.after_apply(pair, pair.apply_one())
            self.look(pair)

    def fetch(self, pair: Pair) -> None:
        if pair.wanted:
            id, first, bytes_max = pair.wanted.pop(0)
            failed = self.draw.random() < self.faults.loss
            pair.fetched(id, () if failed else pair.disk.read(first, bytes_max))
            self.look(pair)

    def checkpoint(self, pair: Pair) -> None:
        """The state machine makes durable what it applied; perhaps the log before it is forgotten."""
        pair.checkpoint = pair.image()
        floor = pair.compiled.status().first_index
        if pair.checkpoint.index >= floor and self.draw.random() < 0.7:
            pair.compact(self.draw.randint(floor, pair.checkpoint.index))

    def crash(self, pair: Pair) -> None:
        self.counts["crash"] += 1
        pair.crash(self.draw.randint(0, len(pair.unsynced)))
        self.safety.restarted(pair)
        self.making = [one for one in self.making if one[0] != pair.id]
        self.look(pair)

    # -- the network ---------------------------------------------------------------------------------------------------

    def send(self, pair: Pair) -> None:
        for message in pair.outbox:
            self.safety.sent(message)
            if message.to_replica not in self.pairs or self.draw.random() < self.faults.loss:
                self.counts["lost"] += 1
                continue
            self.network.append(message)
            if self.draw.random() < self.faults.duplicates:
                self.network.append(message)
        pair.outbox.clear()

    def deliver(self) -> None:
        if not self.network:
            return
        at = (
            self.draw.randrange(len(self.network))
            if self.draw.random() < self.faults.reordering
            else 0
        )
        message = self.network.pop(at)
        if (message.from_replica in self.cut) != (message.to_replica in self.cut):
            self.counts["cut"] += 1
            return
        pair = self.pairs[message.to_replica]
        pair.step(message)
        self.counts[K(message.kind).name] += 1
        self.look(pair)

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def make_snapshot(self) -> None:
        """A snapshot that was asked for is made and offered; its bytes travel by other means."""
        if not self.making:
            return
        id, to = self.making.pop(0)
        pair = self.pairs[id]
        if self.draw.random() < self.faults.snapshot_failure:
            pair.report_snapshot(to, False)
        else:
            context = len(self.images) + 1
            image = self.images[context] = pair.image()
            pair.send_snapshot(
                to, Snapshot(image.index, image.term, image.membership, context=context)
            )
            self.transfers.append((id, to, context))
        self.look(pair)

    def take_snapshot(self, pair: Pair) -> None:
        """One that was offered comes whole, or not."""
        if not pair.offers:
            return
        offered = pair.offers.pop(0)
        if pair.offers or self.draw.random() < self.faults.snapshot_failure:
            if not pair.offers:
                pair.snapshot_failed()
        else:
            pair.install(offered, self.images[offered.context])
            self.counts["installed"] += 1
        self.look(pair)

    def end_transfer(self) -> None:
        if self.transfers:
            id, to, _context = self.transfers.pop(self.draw.randrange(len(self.transfers)))
            self.pairs[id].report_snapshot(to, self.draw.random() >= self.faults.snapshot_failure)
            self.look(self.pairs[id])

    # -- commands ------------------------------------------------------------------------------------------------------

    def change(self) -> MembershipChange:
        if self.draw.random() < 0.25:
            return MembershipChange()
        operations = []
        for _ in range(self.draw.choice((1, 1, 1, 2, 3))):
            operation = self.draw.choice(OPERATIONS)
            id = self.draw.choice(sorted(self.pairs))
            if (
                operation != ChangeOperation.REMOVE
                and self.draw.random() < 0.4
                and len(self.pairs) < REPLICAS_MAX
            ):
                id = len(self.pairs) + 1
                self.add(id)
            operations.append((int(operation), id, id))
        return MembershipChange(tuple(operations), self.draw.choice(list(Transition)))

    def command(self, pair: Pair) -> None:
        """Somebody asks for something; whoever cannot do it says so and nothing happened."""
        what = self.draw.random()
        others = sorted(self.pairs)
        try:
            if what < 0.55:
                for _ in range(self.draw.choice((1, 1, 3))):
                    pair.propose(b"x" * self.draw.choice((0, 1, 30, 120)))
            elif what < 0.70:
                self.counts["changes"] += pair.propose_membership(self.change())
            elif what < 0.85:
                self.contexts += 1
                self.safety.asked(pair, self.contexts)
                pair.read_index(self.contexts)
            elif what < 0.90:
                pair.transfer_leader(self.draw.choice(others))
            elif what < 0.94:
                pair.campaign()
            elif what < 0.97:
                pair.forget_leader()
            else:
                pair.report_unreachable(self.draw.choice(others))
        except MultiRaftError as error:
            self.counts[type(error).__name__] += 1
        self.look(pair)

    def likely(self) -> Pair:
        """A replica for a command: mostly one that leads."""
        leaders = [pair for pair in self.pairs.values() if pair.spec.role == Role.LEADER]
        if leaders and self.draw.random() < 0.8:
            return self.draw.choice(leaders)
        return self.draw.choice(list(self.pairs.values()))

    # -- schedules -----------------------------------------------------------------------------------------------------

    def event(self) -> None:
        """One thing happens."""
        what = self.draw.random()
        pair = self.draw.choice(list(self.pairs.values()))
        if self.draw.random() < self.faults.crash:
            self.crash(pair)
        elif self.draw.random() < self.faults.cut:
            self.cut = (
                set()
                if self.cut
                else set(self.draw.sample(sorted(self.pairs), len(self.pairs) // 2))
            )
        elif what < 0.40:
            self.deliver()
        elif what < 0.62:
            self.work(pair)
        elif what < 0.70:
            self.command(self.likely())
        elif what < 0.82:
            pair.tick()
            self.look(pair)
        elif what < 0.92:
            self.apply(pair)
            self.fetch(pair)
        elif what < 0.94:
            self.checkpoint(pair)
        else:
            self.make_snapshot()
            self.take_snapshot(pair)
            self.end_transfer()

    def work(self, pair: Pair) -> None:
        """A turn: output, and whatever of the disk's work happens to be done."""
        self.ready(pair)
        if self.draw.random() >= self.faults.lazy_disk:
            self.sync(pair, self.draw.randint(1, 1 + len(pair.unsynced)))
        while pair.tags and self.draw.random() >= self.faults.lazy_disk:
            self.persisted(pair, self.draw.choice((-1, -1, -1, 0)))

    def heal(self, rounds: int = 400) -> None:
        """No faults any more: within a bound somebody leads, and all its members have applied the same."""
        self.faults = Faults(0, 0, 0, 0, 0, 0, 0)
        self.cut = set()
        for round in range(rounds):
            for pair in list(self.pairs.values()):
                self.settle(pair)
            for _ in range(len(self.network)):
                self.deliver()
            if round % 3 == 0:
                for pair in self.pairs.values():
                    pair.tick()
                    self.look(pair)
            if round % 20 == 19 and self.together():
                return
        raise AssertionError(
            f"the cluster does not come together: {[p.compiled.status() for p in self.pairs.values()]}"
        )

    def settle(self, pair: Pair) -> None:
        """Everything that one replica can do by itself."""
        self.ready(pair)
        self.sync(pair, len(pair.unsynced))
        while pair.tags:
            self.persisted(pair)
        while pair.wanted:
            self.fetch(pair)
        while pair.to_apply:
            self.apply(pair)
        while pair.offers:
            self.take_snapshot(pair)
        while self.making:
            self.make_snapshot()
        while self.transfers:
            self.end_transfer()

    def together(self) -> bool:
        """Does somebody lead, with an entry of its own term committed, and have all its members applied everything?"""
        leaders = [
            pair.compiled.status() for pair in self.pairs.values() if pair.spec.role == Role.LEADER
        ]
        if not leaders:
            return False
        newest = max(leaders, key=lambda status: status.term)
        if newest.commit_index != newest.last_index:
            return False
        members = [
            self.pairs[member.replica].compiled.status() for member in newest.membership.members
        ]
        return all(
            status.applied_index == newest.last_index and status.term == newest.term
            for status in members
        )
