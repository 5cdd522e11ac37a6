"""The seams: what an embedder, a test or the simulator may replace.

These are Protocols and plain values, nothing else; the real things live in ``log/``, ``transport/``, ``machine/``, ``disk.py``
and ``worker.py``. All callbacks run on the node's loop (in the simulator: in its one thread), never on a worker.
This module imports our vocabulary (``ids``, ``errors``) only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from multiraft.errors import MultiRaftError, StorageError
from multiraft.histogram import Histogram
from multiraft.ids import ClusterId, GroupId, NodeId, ReplicaId, StoreId

T = TypeVar("T")


class Clock(Protocol):
    """Time, asked by the turn and by nothing below it."""

    def now_ns(self) -> int:
        """Nanoseconds that never go back and go on while the machine is suspended (CLOCK_BOOTTIME)."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by the wall clock: for expiry stamps that a leader writes, and for people."""


class Jobs(Protocol):
    """A place off the loop where blocking work is done in order: ``worker.Worker``, or a simulated one."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``job`` there, after all submitted before; then ``done(result, error)`` on the loop, one of them None."""

    def close(self) -> None:
        """Wait for what was submitted, then end. Idempotent."""


# -- the disk -----------------------------------------------------------------------------------------------------------


class DiskFile(Protocol):
    """An open file, read and written at offsets. What is written is seen at once, and durable after ``sync``."""

    def read(self, offset: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """All of it, or an OSError: then any part of it may be there."""

    def sync(self) -> None:
        """Make what was written durable - but not the name of the file. After an error nothing is known of it."""

    def size(self) -> int: ...

    def allocate(self, size: int) -> None:
        """Make the file ``size`` bytes long, with blocks of the disk for those that it gains. OSError: it has not gained all."""

    def allocated_bytes(self) -> int:
        """How much of the file, from its beginning, has blocks of the disk."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Everything that a node does to its disk; ``disk.RealDisk``, or a simulated one. Called on workers: anything may block.

    Errors are OSErrors with their errno; those of environments are py-lmdb's. A name is durable once its directory is synced.
    """

    def environment(self, path: Path, **settings: Any) -> Any:
        """``lmdb.open``: an ``lmdb.Environment``, or what behaves like one. NoSpace: there is no room for its first pages."""

    def open(self, path: Path, how: str = "r", *, private: bool = False) -> DiskFile:
        """A file, by ``how``: ``r`` to read, ``r+`` to write too, ``w`` to begin it anew; ``private`` to its owner."""

    def read(self, path: Path) -> bytes:
        """A whole file."""

    def write(self, path: Path, data: bytes) -> None:
        """A whole file, durably: whatever happens, it is there with this in it, or as it was before."""

    def size(self, path: Path) -> int | None:
        """Bytes of a file; None where there is none."""

    def free_bytes(self, path: Path) -> int:
        """What may still be written to the file system of a path."""

    def names(self, path: Path) -> list[str]:
        """What is in a directory, sorted."""

    def make_directory(self, path: Path) -> None:
        """Durably, with what is missing above it; durable afterwards even where it was there, made by one who was killed."""

    def rename(self, source: Path, target: Path) -> None:
        """In the place of what has that name already, if anything."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second, new name; a synced copy where the file system knows no links."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable: a synced file without its name is lost all the same."""

    def hold(self, path: Path) -> Callable[[], None]:
        """Hold a directory; what lets go of it. BlockingIOError: somebody else has it. A process that ends lets go."""


# -- the log store ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One replica of a group: its id, the node that hosts it, and its part (``_core.MemberFlag`` bits)."""

    replica: ReplicaId
    node: NodeId
    flags: int


@dataclass(frozen=True, slots=True)
class Membership:
    """The members of a group, by ascending replica id. Joint while any member is an outgoing voter."""

    members: tuple[Member, ...] = ()
    auto_leave: bool = False


@dataclass(frozen=True, slots=True)
class HardState:
    """What a replica must never forget: written before any answer that depends on it leaves."""

    term: int = 0
    vote: ReplicaId = ReplicaId(0)
    leader: ReplicaId = ReplicaId(0)
    epoch: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """Where a group's log begins: everything at and below ``index`` lives in the state machine or a snapshot."""

    index: int
    term: int
    replica: ReplicaId
    membership: Membership
    hard_state: HardState = field(default_factory=HardState)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot file that was received whole and synced, but perhaps not yet installed."""

    base: Base
    name: str
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class GroupLog:
    """What the log store knows of one group at open."""

    group: GroupId
    base: Base
    hard_state: HardState
    last_index: int
    terms: tuple[tuple[int, int], ...]
    """(first index, term) of each stretch of one term after the base, ascending; empty where the log is."""
    changes: tuple[int, ...] = ()
    """Indexes of the entries after the base that change the membership, ascending."""
    pending: SnapshotRecord | None = None
    tombstone: bool = False


@dataclass(frozen=True, slots=True)
class Pinned:
    """What this node remembers of a peer's store: a store that comes back below it is an old copy, and refused."""

    node: NodeId
    store_id: StoreId
    boot_count: int
    sequence: int


@dataclass(frozen=True, slots=True)
class LogSpace:
    """How full the log is. Below ``reserve_bytes`` of free space proposals are refused; votes and compaction go on."""

    used_bytes: int
    free_bytes: int
    reserve_bytes: int
    map_bytes: int

    @property
    def scarce(self) -> bool:
        return self.free_bytes < self.reserve_bytes


class LogStore(Protocol):
    """The durable Raft log of all groups of a node. Batches go in; runs come out. It decides nothing about Raft."""

    store_id: StoreId
    boot_count: int
    """How often this store was opened, this time included; synced before anything else is answered."""
    synced_sequence: int
    """Sequence of the newest batch known to be on the disk; the next one appended must be the one after the last appended."""
    on_synced: Callable[[int], None]
    """Called on the loop: every batch up to this sequence is durable. May cover several."""
    on_failed: Callable[[StorageError], None]
    """Called on the loop, once: nothing more will ever be durable here."""
    sync_ns: Histogram
    """How long each commit took with its sync, measured where it ran, recorded on the loop."""

    @property
    def queue_bytes(self) -> int:
        """Batches that were appended and are not synced."""

    def groups(self) -> Iterator[GroupLog]:
        """What open found, by ascending group. Raises LogCorrupt (with groups and indexes) at open, not here."""

    def pinned(self) -> Mapping[NodeId, Pinned]:
        """The newest record of each peer's store."""

    def append(self, batch: bytes) -> None:
        """Queue a sealed batch. All that is queued goes in one transaction with one sync. Never dropped or reordered."""

    def fetch(
        self,
        group: GroupId,
        first: int,
        bytes_max: int,
        done: Callable[[list[bytes] | None, BaseException | None], None],
    ) -> None:
        """Read whole runs, checked, that hold entries from ``first`` on, up to about ``bytes_max`` but at least one run."""

    def pinning(self, bytes_over: int) -> Sequence[GroupId]:
        """The groups whose oldest entries keep the log from shrinking by ``bytes_over``; empty when nothing is over budget."""

    def space(self) -> LogSpace:
        """How full it is, from figures kept in memory: cheap enough for every turn."""

    def close(self) -> None:
        """Finish what is queued, then release the directory. Idempotent."""


# -- the transport ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks, and what it can read: the first frame in both directions of every link."""

    cluster_id: ClusterId
    node: NodeId
    store_id: StoreId
    boot_count: int
    sequence: int
    """Newest synced batch of the sender's log: a peer refuses a store that comes back below what it had."""
    format_min: int
    format_max: int
    bootstrapped: bool
    config_digest: int
    """Over the static configuration, so that nodes started with different ones notice before they share data."""


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What is known of a file that arrived: its size, its CRC-32C, and the note that its sender attached."""

    size: int
    crc: int
    note: bytes = b""


class TransportEvents(Protocol):
    """What a transport tells its node. A call may come from inside one of the transport's own methods."""

    def hello(self) -> Hello:
        """What to say of ourselves, asked anew for each connection."""

    def admit(self, hello: Hello) -> None:
        """Raise PeerProtocolError, WrongCluster or WrongStore to refuse the other side; the link is closed with the reason."""

    def frame(self, node: NodeId, view: memoryview) -> None:
        """One whole, checked frame of messages; ``view`` is valid during the call only."""

    def link_up(self, node: NodeId, link_epoch: int) -> None:
        """A link to the node stands, in both directions."""

    def link_down(self, node: NodeId, error: Exception | None) -> None:
        """It is gone; frames that were queued for it are dropped. No error: one of the two sides wanted it so."""

    def link_refused(self, node: NodeId, error: MultiRaftError) -> None:
        """A connection came to nothing because one of the two sides said no, and why. Called for each attempt."""

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        """A file is here: whole, checked, and synced together with its directory. From now on it is the node's."""


class Transport(Protocol):
    """Links to the other nodes: ordered while they last, lossy across reconnects, bounded in memory."""

    def send(self, node: NodeId, frame: bytes) -> bool:
        """Seal ``frame`` (fresh, seen by nobody else) and write it. False: no link or a full queue, so it was dropped."""

    def connected(self, node: NodeId) -> bool: ...

    def set_address(self, node: NodeId, address: str) -> None:
        """Learn or change where a node listens; a link is dialled and kept up until ``remove``."""

    def remove(self, node: NodeId) -> None:
        """Forget where a node listens, and end the link to it."""

    def drop(self, node: NodeId) -> None:
        """End the link to a node that is not heard any more; it is dialled again where its address is known."""

    async def send_file(self, node: NodeId, transfer: int, path: str, note: bytes = b"") -> None:
        """Stream a snapshot file in checksummed chunks on a connection of its own. Raises on any failure."""

    async def close(self) -> None:
        """Say goodbye on every link and end all that was started. Idempotent."""


# -- state machines -----------------------------------------------------------------------------------------------------


class SnapshotHost(Protocol):
    """Whoever holds the state of groups, as snapshots see it: the built-in store, or the machines of users."""

    def snapshot(
        self, group: int, path: Path, done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Write the whole state to a file; then ``done(machine.snapshot.SnapshotInfo, error)``."""

    def install(
        self,
        group: int,
        path: Path,
        record: SnapshotRecord,
        done: Callable[[bool | None, BaseException | None], None],
    ) -> None:
        """Replace the state by a received file, durably; then ``done(installed, error)``.

        False: it is not newer than what is applied here, and was ignored. An error: nothing has changed.
        """


class StateMachine(Protocol):
    """A user's own replicated machine. Deterministic: the same commands in the same order give the same state and results.

    No clock, no randomness, no order of sets in ``apply``. Runs on a worker, in order, unless its class says ``on_loop = True``.
    ``docs/machines.md`` is the contract.
    """

    def apply(self, command: bytes, index: int, term: int) -> Any:
        """Apply one committed command; the result goes to whoever proposed it.

        Raise ``CommandError`` for an answer that is an error. Anything else that is raised quarantines this replica.
        """

    def read(self, query: Any) -> Any:
        """Answer a query from the present state, changing nothing."""

    def snapshot(self) -> Iterable[bytes]:
        """The whole state, in chunks of at most 1 MiB, as of the last command applied."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by a snapshot's."""


class DiskStateMachine(StateMachine, Protocol):
    """One that keeps its own disk: its class says ``on_disk = True`` and is called with a directory of its own."""

    def applied_index(self) -> int:
        """Index of the last command that its disk holds: commands up to it are not applied again after a start.

        Right after ``sync``, that of the last command that it was given. While a ``restore`` is unfinished, what it was before.
        """

    def sync(self) -> None:
        """Make everything applied so far durable. The log behind it is forgotten afterwards."""


class LeadershipEvents(Protocol):
    """What a state machine may offer besides, to run work on the leader alone."""

    async def on_leader_start(self, term: int) -> None:
        """This replica leads, and has applied everything committed before its term."""

    async def on_leader_stop(self) -> None:
        """It leads no more. Awaited before this replica starts to lead again."""
