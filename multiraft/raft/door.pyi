"""The Python door of one replica; what its methods promise stands in ``door.pyx`` and in ``multiraft.raft``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from multiraft.interfaces import HardState, Membership
from multiraft.raft.membership import MembershipChange
from multiraft.raft.messages import Entry, Message

@dataclass(frozen=True, slots=True)
class Options:
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 0
    message_bytes_max: int = 1048576
    committed_bytes_max: int = 16777216
    uncommitted_bytes_max: int = 0
    pre_vote: bool = True
    check_quorum: bool = True
    lease_reads: bool = False
    lease_ns: int = 0
    validate_changes: bool = True
    step_down_on_removal: bool = True

    def __post_init__(self) -> None: ...

@dataclass(frozen=True, slots=True)
class Tag:
    term: int
    index: int
    generation: int

@dataclass(frozen=True, slots=True)
class Snapshot:
    index: int
    term: int
    membership: Membership
    context: int = 0
    from_replica: int = 0

@dataclass(frozen=True, slots=True)
class Ready:
    role: int
    leader: int
    term: int
    messages: tuple[Message, ...] = ()
    messages_after: tuple[Message, ...] = ()
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    must_sync: bool = False
    tag: Tag | None = None
    batches: tuple[bytes, ...] = ()
    committed: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    read_states: tuple[tuple[int, int | None], ...] = ()
    """(context, read index); None where the read must be asked anew."""
    wanted: tuple[tuple[int, int, int], ...] = ()
    """(replica id of the peer or 0 for applying, first index, bytes)."""
    snapshots_wanted: tuple[int, ...] = ()

@dataclass(frozen=True, slots=True)
class PeerStatus:
    replica: int
    node: int
    flags: int
    state: str
    match_index: int
    next_index: int
    paused: bool
    pending_snapshot: int
    recently_active: bool
    inflight: int
    inflight_bytes: int
    learner: bool

@dataclass(frozen=True, slots=True)
class Status:
    group: int
    replica: int
    role: int
    term: int
    vote: int
    leader: int
    transfer_to: int
    first_index: int
    last_index: int
    stable_index: int
    commit_index: int
    applied_index: int
    election_elapsed: int
    election_timeout: int
    promotable: bool
    lease: bool
    membership: Membership
    pending_change: int
    uncommitted_bytes: int
    applying_index: int
    peers: dict[int, PeerStatus] = field(default_factory=dict)

@final
class Replica:
    def __init__(
        self,
        options: Options | None = None,
        *,
        replica: int,
        membership: Membership,
        group: int = 1,
        hard_state: HardState | None = None,
        base_index: int = 0,
        base_term: int = 0,
        entries: Iterable[Entry] = (),
        applied_index: int | None = None,
        seed: int = 0,
        in_memory: bool = True,
    ) -> None: ...
    def tick(self, now_ns: int | None = None) -> None: ...
    def step(self, message: Message) -> None: ...
    def propose(self, payload: bytes) -> int: ...
    def propose_membership(self, change: MembershipChange) -> tuple[int, bool]: ...
    def apply_membership(self, index: int, change: MembershipChange | bytes) -> Membership: ...
    def read_index(self, context: int, now_ns: int | None = None) -> bool: ...
    def campaign(self) -> None: ...
    def transfer_leader(self, to: int) -> None: ...
    def forget_leader(self) -> None: ...
    def report_unreachable(self, replica: int) -> None: ...
    def report_snapshot(self, replica: int, ok: bool) -> None: ...
    def send_snapshot(self, to: int, snapshot: Snapshot) -> bool: ...
    def compact(self, index: int, membership: Membership | None = None) -> None: ...
    def installed(self, snapshot: Snapshot) -> None: ...
    def snapshot_failed(self) -> None: ...
    def applied(self, index: int) -> None: ...
    def fetched(self, replica: int, runs: Iterable[bytes] | None) -> None: ...
    def persisted(self, tag: Tag) -> None: ...
    def ready(self, now_ns: int | None = None) -> Ready: ...
    def has_ready(self) -> bool: ...
    def membership(self) -> Membership: ...
    def term_at(self, index: int) -> int | None: ...
    def entries(self, first: int | None = None, last: int | None = None) -> tuple[Entry, ...]: ...
    def status(self) -> Status: ...
