"""What befalls a simulated cluster, and when: a list of faults, drawn from a seed before anything runs.

A fault is a plain value: a kind, when it begins, how long it lasts, whom it meets, how hard. The list is all that differs between
one run of a seed and a shrunk one, so a failing seed is made smaller by leaving faults out.

Profiles say which kinds may be drawn. ``swarm`` draws first which of all kinds are on in this seed, and how often; a seed with
few kinds goes deeper into them than one with all (Groce et al., "Swarm Testing", ISSTA 2012).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multiraft.errors import ConfigError
from multiraft.ids import NodeId
from multiraft.testing.cluster import SimulatedCluster
from multiraft.testing.network import Route
from multiraft.testing.schedule import NS
from multiraft.testing.steering import change_membership, flush, hand_over

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. ``nodes`` are those it is about: one, or two ends of a route, or one side of a cut."""

    kind: str
    at_ms: int
    for_ms: int
    nodes: tuple[int, ...]
    strength: float = 0.0

    def __str__(self) -> str:
        whom = ", ".join(map(str, self.nodes))
        lasts = f" for {self.for_ms} ms" if self.for_ms else ""
        hard = f", {self.strength:.3g}" if self.strength else ""
        return f"{self.at_ms:>7} ms  {self.kind} of {whom}{lasts}{hard}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fault:
        return cls(**{**data, "nodes": tuple(data["nodes"])})


@dataclass(frozen=True, slots=True)
class Kind:
    """How faults of a kind are drawn, begin and end."""

    begin: Callable[[Nemesis, Fault], None]
    end: Callable[[Nemesis, Fault], None] | None
    whom: str
    """``one`` node, ``pair`` (ordered), ``side`` (some nodes against the rest), ``all``."""
    for_ms: tuple[int, int] = (0, 0)
    strength: tuple[float, float] = (0.0, 0.0)
    every_s: float = 15.0
    """On the average, where it is on."""
    once: bool = False
    """At most once for a node, and for fewer than half of all."""


class Nemesis:
    """Lets the faults of a list happen to a cluster."""

    def __init__(self, cluster: SimulatedCluster, faults: Sequence[Fault]) -> None:
        self.cluster = cluster
        self.faults = tuple(faults)
        self.under_way: set[Fault] = set()
        self.lost: set[int] = set()
        """Nodes whose directory is not what it was: they must be refused, and stay away."""
        self.ill: set[int] = set()
        """Nodes whose disk was made to fail: they may end."""
        self._over = False

    def begin(self) -> None:
        """From now on."""
        start_ns = self.cluster.schedule.now_ns
        for fault in self.faults:
            self.cluster.schedule.at(start_ns + fault.at_ms * MS, self._beginning(fault))

    def _beginning(self, fault: Fault) -> Callable[[], None]:
        def begin() -> None:
            if self._over:
                return
            kind = KINDS[fault.kind]
            self.under_way.add(fault)
            kind.begin(self, fault)
            self.cluster.schedule.after(fault.for_ms * MS, end)

        def end() -> None:
            if self._over:
                return
            self._end(fault)

        return begin

    def _end(self, fault: Fault) -> None:
        self.under_way.discard(fault)
        end = KINDS[fault.kind].end
        if end is not None:
            end(self, fault)

    def heal(self) -> None:
        """No more faults, and none that lasts: what can be well again is."""
        self._over = True
        for fault in self.faults:
            if fault in self.under_way:
                self._end(fault)
        cluster = self.cluster
        for number in cluster.numbers:
            cluster.resume(number)
            cluster.disks[number].troubles.clear()
            cluster.disks[number].capacity_bytes = 1 << 40
            self.revive(number)
        for route in cluster.network.routes():
            calm(route)

    def revive(self, number: int) -> None:
        """Start a node that is down, unless it must stay away."""
        if number not in self.lost and self.cluster.alive(number) is None:
            self.cluster.start(number)

    def ended(self, number: int) -> None:
        """A node ended by itself: whoever supervises it starts it again, after a while."""
        self.cluster.schedule.after(NS // 2, lambda: self.revive(number))


def calm(route: Route) -> None:
    """Let a route do nothing but carry."""
    made = Route()
    for name in ("latency_ns", "jitter_ns", "loss", "duplication", "reordering", "damage", "cut"):
        setattr(route, name, getattr(made, name))
    route.clogged_until_ns = 0


# -- kinds ----------------------------------------------------------------------------------------------------------------


def _kill(nemesis: Nemesis, fault: Fault) -> None:
    for number in fault.nodes:
        nemesis.cluster.kill(number, power=fault.strength >= 0.5)


def _revive(nemesis: Nemesis, fault: Fault) -> None:
    for number in fault.nodes:
        if not any(
            number in other.nodes and KINDS[other.kind].begin is _kill
            for other in nemesis.under_way
        ):
            nemesis.revive(number)


def _cut_in(nemesis: Nemesis, fault: Fault) -> None:
    """The power goes in the middle of what the disk does next."""
    nemesis.cluster.disks[fault.nodes[0]].troubles.cut_in(1 + int(fault.strength))


def _stop(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.stop(fault.nodes[0])


def _resume(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.resume(fault.nodes[0])


def _close(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.close(fault.nodes[0])


def _pairs(nemesis: Nemesis, side: Sequence[int]) -> list[tuple[NodeId, NodeId]]:
    return [
        (NodeId(one), NodeId(other))
        for one in side
        for other in nemesis.cluster.numbers
        if other not in side
    ]


def _cut_side(nemesis: Nemesis, fault: Fault) -> None:
    for one, other in _pairs(nemesis, fault.nodes):
        nemesis.cluster.network.cut(one, other)
        nemesis.cluster.network.cut(other, one)


def _heal_side(nemesis: Nemesis, fault: Fault) -> None:
    for one, other in _pairs(nemesis, fault.nodes):
        nemesis.cluster.network.heal(one, other)
        nemesis.cluster.network.heal(other, one)


def _route(nemesis: Nemesis, fault: Fault) -> Route:
    return nemesis.cluster.network.route(NodeId(fault.nodes[0]), NodeId(fault.nodes[1]))


def _cut_way(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.network.cut(NodeId(fault.nodes[0]), NodeId(fault.nodes[1]))


def _heal_way(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.network.heal(NodeId(fault.nodes[0]), NodeId(fault.nodes[1]))


def _reset(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.network.reset(NodeId(fault.nodes[0]), NodeId(fault.nodes[1]))


def _clog(nemesis: Nemesis, fault: Fault) -> None:
    _route(nemesis, fault).clogged_until_ns = nemesis.cluster.schedule.now_ns + fault.for_ms * MS


def _setting(
    name: str,
) -> tuple[Callable[[Nemesis, Fault], None], Callable[[Nemesis, Fault], None]]:
    def begin(nemesis: Nemesis, fault: Fault) -> None:
        setattr(_route(nemesis, fault), name, fault.strength)

    def end(nemesis: Nemesis, fault: Fault) -> None:
        setattr(_route(nemesis, fault), name, 0.0)

    return begin, end


def _slow_link(nemesis: Nemesis, fault: Fault) -> None:
    _route(nemesis, fault).latency_ns = round(fault.strength * MS)


def _calm(nemesis: Nemesis, fault: Fault) -> None:
    _route(nemesis, fault).latency_ns = Route().latency_ns


def _stall(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.disks[fault.nodes[0]].stall(fault.for_ms * MS)


def _eio(operation: str) -> Callable[[Nemesis, Fault], None]:
    def begin(nemesis: Nemesis, fault: Fault) -> None:
        nemesis.ill.add(fault.nodes[0])
        nemesis.cluster.disks[fault.nodes[0]].fail(operation, skip=int(fault.strength))

    return begin


def _fill(nemesis: Nemesis, fault: Fault) -> None:
    disk = nemesis.cluster.disks[fault.nodes[0]]
    disk.capacity_bytes = disk.used_bytes + int(fault.strength)


def _empty(nemesis: Nemesis, fault: Fault) -> None:
    nemesis.cluster.disks[fault.nodes[0]].capacity_bytes = 1 << 40


def _rate(nemesis: Nemesis, fault: Fault) -> None:
    life = nemesis.cluster.alive(fault.nodes[0])
    if life is not None:
        life.loop.tick_at(fault.strength)


def _even(nemesis: Nemesis, fault: Fault) -> None:
    life = nemesis.cluster.alive(fault.nodes[0])
    if life is not None:
        life.loop.tick_at(1.0)


def _jump(nemesis: Nemesis, fault: Fault) -> None:
    life = nemesis.cluster.alive(fault.nodes[0])
    if life is not None:
        life.loop.jump(round(fault.strength * NS))


def _wipe(nemesis: Nemesis, fault: Fault) -> None:
    number = fault.nodes[0]
    if not nemesis.cluster.bootstrapped():
        return  # nobody would know it from a new one
    nemesis.cluster.kill(number)
    nemesis.cluster.disks[number].wipe()
    nemesis.lost.add(number)
    nemesis.cluster.start(number)  # it must find that the others know another store under its name


def _ask(act: Callable[[SimulatedCluster, int, float], None]) -> Callable[[Nemesis, Fault], None]:
    return lambda nemesis, fault: act(nemesis.cluster, fault.nodes[0], fault.strength)


KINDS: dict[str, Kind] = {
    "kill": Kind(_kill, _revive, "one", (200, 6_000), (0.0, 1.0), every_s=10),
    "kill-all": Kind(_kill, _revive, "all", (200, 4_000), (0.0, 1.0), every_s=40),
    "power-cut-in-a-write": Kind(_cut_in, None, "one", (0, 0), (0, 200), every_s=15),
    "close": Kind(_close, None, "one", (0, 0), every_s=30),
    "stop": Kind(_stop, _resume, "one", (50, 6_000), every_s=15),
    "cut": Kind(_cut_side, _heal_side, "side", (200, 9_000), every_s=12),
    "one-way-cut": Kind(_cut_way, _heal_way, "pair", (200, 9_000), every_s=12),
    "reset": Kind(_reset, None, "pair", every_s=10),
    "clog": Kind(_clog, None, "pair", (50, 3_000), every_s=10),
    "slow-link": Kind(_slow_link, _calm, "pair", (500, 9_000), (5, 300), every_s=15),
    "loss": Kind(*_setting("loss"), "pair", (500, 9_000), (0.01, 0.5), every_s=12),
    "duplication": Kind(*_setting("duplication"), "pair", (500, 9_000), (0.05, 0.6), every_s=12),
    "reordering": Kind(*_setting("reordering"), "pair", (500, 9_000), (0.05, 0.9), every_s=12),
    "damage": Kind(*_setting("damage"), "pair", (200, 4_000), (0.005, 0.1), every_s=25),
    "slow-sync": Kind(_stall, None, "one", (20, 8_000), every_s=12),
    "error-of-a-sync": Kind(_eio("sync"), None, "one", (0, 0), (0, 30), every_s=30),
    "error-of-a-write": Kind(_eio("write"), None, "one", (0, 0), (0, 50), every_s=40),
    "error-of-a-read": Kind(_eio("read"), None, "one", (0, 0), (0, 50), every_s=40),
    "full-disk": Kind(_fill, _empty, "one", (500, 8_000), (0, 2_000_000), every_s=25),
    "wrong-clock": Kind(_rate, _even, "one", (1_000, 15_000), (0.7, 1.4), every_s=25),
    "clock-jump": Kind(_jump, None, "one", (0, 0), (0.01, 20.0), every_s=30),
    "wiped-disk": Kind(_wipe, None, "one", (0, 0), every_s=200, once=True),
    "transfer": Kind(_ask(hand_over), None, "one", strength=(0.0, 1.0), every_s=8),
    "flush": Kind(_ask(flush), None, "one", every_s=8),
    "membership": Kind(_ask(change_membership), None, "one", strength=(0.0, 1.0), every_s=4),
}

_NETWORK = tuple("cut one-way-cut reset clog slow-link loss duplication reordering damage".split())
_DISK = tuple(
    "slow-sync error-of-a-sync error-of-a-write error-of-a-read full-disk power-cut-in-a-write".split()
)
_NOT_FOR_MUTANTS = ("damage", "error-of-a-sync", "error-of-a-write", "wiped-disk")
PROFILES: dict[str, tuple[str, ...]] = {
    "swarm": tuple(KINDS),
    "all": tuple(KINDS),
    "none": (),
    "crash": ("kill", "kill-all", "power-cut-in-a-write", "close"),
    "partition": ("cut", "one-way-cut", "reset", "clog"),
    "network": _NETWORK,
    "disk": _DISK,
    "clock": ("wrong-clock", "clock-jump", "stop"),
    "mutants": tuple(kind for kind in KINDS if kind not in _NOT_FOR_MUTANTS),
    "membership": ("membership", "transfer", "cut", "one-way-cut", "slow-sync", "kill", "loss"),
    "delivery": ("duplication", "reordering", "loss", "slow-link", "clog", "kill", "transfer"),
    "snapshots": ("cut", "kill", "power-cut-in-a-write", "slow-sync", "clog", "transfer", "reset"),
    "identity": ("wiped-disk", "kill", "cut", "transfer"),
}
SWARMS = frozenset({"swarm", "mutants"})  # they draw first which of their kinds are on


def draw_faults(
    generator: random.Random, profile: str, seconds: float, nodes: Sequence[int]
) -> tuple[Fault, ...]:
    """The faults of one run, by the time they begin. Raises ConfigError for a profile that is none."""
    try:
        kinds = PROFILES[profile]
    except KeyError:
        raise ConfigError(f"profile {profile!r}: one of {', '.join(PROFILES)}") from None
    share = generator.choice((0.1, 0.25, 0.5, 0.8)) if profile in SWARMS else 1.0
    faults: list[Fault] = []
    for name in kinds:
        on, pace = generator.random() < share, generator.choice((0.5, 1.0, 1.0, 3.0))
        if on:
            faults += _of_kind(generator, name, KINDS[name], pace, seconds, nodes)
    if any(fault.kind == "wiped-disk" for fault in faults):
        # It takes a voter away for good; one more that only learns, and those that are left may be no majority.
        faults = [fault for fault in faults if fault.kind != "membership"]
    return tuple(sorted(faults, key=lambda fault: (fault.at_ms, fault.kind, fault.nodes)))


def _of_kind(
    generator: random.Random,
    name: str,
    kind: Kind,
    pace: float,
    seconds: float,
    nodes: Sequence[int],
) -> list[Fault]:
    faults: list[Fault] = []
    at_s = generator.expovariate(pace / kind.every_s)
    most = (len(nodes) - 1) // 2 if kind.once else 1 << 30
    while at_s < seconds and len(faults) < most:
        low, high = kind.for_ms
        for_ms = round(low * (high / low) ** generator.random()) if low else 0
        strength = generator.uniform(*kind.strength)
        faults.append(
            Fault(name, round(at_s * 1000), for_ms, _whom(generator, kind.whom, nodes), strength)
        )
        at_s += generator.expovariate(pace / kind.every_s)
    return faults


def _whom(generator: random.Random, whom: str, nodes: Sequence[int]) -> tuple[int, ...]:
    if whom == "all":
        return tuple(nodes)
    count = {"one": 1, "pair": 2}.get(whom) or generator.randint(1, len(nodes) - 1)
    drawn = generator.sample(list(nodes), count)
    return tuple(drawn) if whom == "pair" else tuple(sorted(drawn))
