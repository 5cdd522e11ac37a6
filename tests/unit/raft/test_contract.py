"""The contract of ``multiraft.raft``: the loop in its docstring is run as it stands there, over three replicas."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import multiraft.raft
from multiraft.errors import InvariantViolation, PeerProtocolError
from multiraft.interfaces import HardState, Membership
from multiraft.raft import (
    Entry,
    MembershipChange,
    Message,
    Options,
    Replica,
    Role,
    RunKind,
    committed_index,
    vote_result,
)

from . import harness
from .harness import PLAIN, voters


def turn_of_the_contract() -> Callable[..., None]:
    """The function in the docstring."""
    found = re.search(r"::\n\n((?: {4}.*\n|\n)+)", multiraft.raft.__doc__ or "")
    assert found is not None
    lines = textwrap.dedent(found.group(1))
    assert len(lines.strip().splitlines()) <= 21
    names: dict[str, Any] = dict(vars(multiraft.raft))
    exec(compile(lines, "the contract", "exec"), names)  # noqa: S102  (our own docstring)
    turn: Callable[..., None] = names["turn"]
    return turn


class Disk(harness.Disk):
    def write(self, hard_state: HardState | None, entries: tuple[Entry, ...]) -> None:  # type: ignore[override]
        super().write(multiraft.raft.Ready(0, 0, 0, hard_state=hard_state, entries=entries))

    def read(self, first: int, bytes_max: int) -> list[bytes]:  # type: ignore[override]
        return super().read(1, first)


@dataclass
class Machine:
    membership: Membership
    applied: list[bytes] = field(default_factory=list)
    index: int = 0

    def apply(self, entry: Entry) -> None:
        if entry.kind == RunKind.RUN_ENTRIES:
            self.applied.append(entry.payload)
        self.index = entry.index


@dataclass
class Network:
    messages: list[Message] = field(default_factory=list)

    def send(self, messages: Iterable[Message]) -> None:
        self.messages += messages

    def take(self, id: int) -> list[Message]:
        mine = [m for m in self.messages if m.to_replica == id]
        self.messages = [m for m in self.messages if m.to_replica != id]
        return mine


def test_the_loop_of_the_contract_runs_as_it_stands() -> None:
    turn = turn_of_the_contract()
    members, network = voters(1, 2, 3), Network()
    disks = {id: Disk() for id in (1, 2, 3)}
    machines = {id: Machine(members) for id in (1, 2, 3)}
    replicas = {id: Replica(Options(), replica=id, membership=members, seed=id) for id in (1, 2, 3)}

    def turns(count: int) -> None:
        for _ in range(count):
            for id, replica in replicas.items():
                turn(replica, network.take(id), True, disks[id], network, machines[id])

    turns(60)
    leader = next(r for r in replicas.values() if r.status().role == Role.LEADER)
    for payload in (b"a", b"b"):
        leader.propose(payload)
    leader.propose_membership(
        MembershipChange(((3, 3, 0),))
        if leader is not replicas[3]
        else MembershipChange(((3, 2, 0),))
    )
    turns(10)
    assert all(machine.applied[-2:] == [b"a", b"b"] for machine in machines.values())
    gone = 3 if leader is not replicas[3] else 2
    stay = [id for id in replicas if id != gone]
    assert all([m.replica for m in machines[id].membership.members] == stay for id in stay)
    # One crashes: it starts from what is synced, and goes on.
    id = stay[0]
    entries = [disks[id].entries[at] for at in sorted(disks[id].entries)]
    replicas[id] = Replica(
        Options(),
        replica=id,
        membership=machines[id].membership,
        hard_state=disks[id].hard_state,
        entries=entries,
        applied_index=machines[id].index,
        seed=9,
    )
    turns(60)
    leader = next(r for r in replicas.values() if r.status().role == Role.LEADER)
    leader.propose(b"c")
    turns(10)
    assert all(machines[id].applied[-1] == b"c" for id in stay)


def test_p89_what_was_applied_is_committed_at_a_restart() -> None:
    """The commit index is written with other things, so that what is stored may lag behind what was applied."""
    entries = [Entry(index, 1, b"x") for index in (1, 2, 3)]
    start = {"replica": 1, "membership": voters(1, 2, 3), "entries": entries}
    hard = HardState(term=1, commit=1)
    status = Replica(PLAIN, hard_state=hard, applied_index=2, **start).status()
    assert (status.commit_index, status.applied_index) == (2, 2)
    for wrong in ({"applied_index": 4}, {"base_index": 4, "applied_index": 3}):
        with pytest.raises(InvariantViolation):
            Replica(PLAIN, hard_state=hard, **{**start, **wrong})
    with pytest.raises(InvariantViolation):
        Replica(PLAIN, hard_state=replace(hard, commit=4), **start)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 7, 9, 10])
@pytest.mark.parametrize("number", ["term", "index"])
def test_p82_a_number_that_could_wrap_round_is_no_message(kind: int, number: str) -> None:
    """After the term 2**64 - 1 would come 0: a peer that names such a term is not listened to."""
    replica = Replica(PLAIN, replica=1, membership=voters(1, 2, 3))
    before = replica.status()
    for value in (2**62, 2**64 - 1):
        with pytest.raises(PeerProtocolError):
            replica.step(Message(kind, 2, 1, **{number: value}))
    assert replica.status() == before
    replica.step(Message(kind, 2, 1, **{number: 2**62 - 1}))


def test_a_seed_draws_the_same_timeouts() -> None:
    def timeouts(seed: int) -> list[int]:
        replica = Replica(PLAIN, replica=1, membership=voters(1, 2, 3), seed=seed)
        found = []
        for _ in range(20):
            replica.campaign()
            found.append(replica.status().election_timeout)
        return found

    assert timeouts(7) == timeouts(7) != timeouts(8)
    assert set(timeouts(7)) <= set(range(10, 20))


def test_the_pure_functions_are_at_hand() -> None:
    assert committed_index((1, 2, 3), (), {1: 4, 2: 5}) == 4
    assert vote_result((1, 2, 3), (), {1: True, 2: True}).name == "VOTE_WON"


def test_a_leader_shows_itself_as_it_counts_itself() -> None:
    """Its own row is its own log as far as it is synced; a follower knows nothing of anybody."""
    cluster = harness.Cluster()
    cluster.elect(1)
    cluster[1].propose(b"xyz")
    status = cluster[1].status()
    assert (status.peers[1].match_index, status.peers[1].next_index) == (1, 3)
    assert (status.uncommitted_bytes, status.pending_change, status.applying_index) == (3, 0, 1)
    index, _ = cluster[1].propose_membership(MembershipChange(((1, 4, 4),)))
    assert cluster[1].status().pending_change == index
    cluster.settle()
    assert cluster[1].status().peers[1].match_index == index
    assert cluster[1].status().pending_change == 0
