"""The configuration of a node: one frozen value, checked when it is made, with defaults that work.

``Config()`` with a data directory is an embedded node of its own. Everything that can be wrong is said at once, with the field,
its value and what would be right (ConfigError); timers are derived from each other, so that no two of them can livelock.
This module reads a TOML file when asked to and does nothing else with the world.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from multiraft.errors import ConfigError
from multiraft.ids import NODE_ID_MAX, NodeId

SLOTS = 16384
"""Hash slots of a hash space: those of Redis Cluster."""

KEY_BYTES_MAX = 480
"""What fits into one key of the state store beside the space and slot before it."""

TIMEOUT_S_MAX = 1_000_000_000
"""A call that is given longer, ``math.inf`` say, is given this: thirty years in nanoseconds are a number that fits."""

VALUE_BYTES_HARD_MAX = 8 * 1024 * 1024 - 4096
"""A value must fit into one entry of the log with its key and envelope."""

CLIENTS_BYTES_MIN = 64 * 1024 * 1024
"""Two calls as large as they may be."""


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Mutual TLS: this node's certificate chain and key, and the authorities whose certificates it accepts (PEM files)."""

    certificate: str
    key: str
    authorities: str


@dataclass(frozen=True, slots=True)
class Config:
    """One node. Sizes are in bytes, times in milliseconds or seconds as their names say.

    ``nodes`` names every node of the cluster with its address, this one included; empty means a cluster of one that listens
    nowhere. ``shards`` cuts the key space by hash slots, ``borders`` by the given keys (as many shards as borders, plus one);
    with neither there is one shard with its keys in order. Both count only when the cluster is made; later they must agree.
    """

    data_dir: str = "data"
    node_id: NodeId = NodeId(1)
    listen: str | None = None
    client_listen: str | None = None
    """Where programs that are no nodes may connect (``multiraft.Client``); None: nowhere. The rules of ``listen`` hold."""
    nodes: Mapping[int, str] = field(default_factory=dict)
    shards: int | None = None
    borders: tuple[bytes, ...] = ()

    # -- safety -------------------------------------------------------------------------------------------------------------
    durability: Literal["full", "relaxed"] = "full"
    """``full``: every acknowledged write is on the disk of a majority. ``relaxed``: nothing is synced; for tests and caches."""
    tls: TlsConfig | None = None
    insecure: bool = False
    """Listen beyond this machine without TLS. Whoever reaches the port can then read and change everything."""

    # -- time -----------------------------------------------------------------------------------------------------------------
    tick_ms: int = 50
    heartbeat_ms: int = 100
    election_ms: int = 1000
    """A follower stands for election after one to two of these without a word from its leader."""
    timeout_s: float = 10.0
    """What a call is given where it names no timeout of its own."""

    # -- limits -----------------------------------------------------------------------------------------------------------------
    value_bytes_max: int = 1024 * 1024
    inflight_bytes_max: int = 64 * 1024 * 1024
    """Proposals of one group that wait for their commit; beyond, callers wait."""
    group_inflight_messages_max: int = 256
    append_bytes_max: int = 1024 * 1024
    committed_bytes_max: int = 4 * 1024 * 1024
    link_queue_bytes_max: int = 64 * 1024 * 1024
    clients_max: int = 1024
    """Clients that may be connected at ``client_listen``."""
    clients_bytes_max: int = 512 * 1024 * 1024
    """What calls of all clients may take while they wait for their answers, and again what they were answered and have not read."""
    client_stall_s: float = 60.0
    """A client that has begun to send a call and has not finished it for this long is sent away; one that is silent may stay."""
    tail_bytes_max: int = 256 * 1024 * 1024
    """Entries kept in memory for followers that are a little behind, over all groups."""
    log_budget_bytes: int = 2 * 1024**3
    log_kept_entries: int = 1024
    """A group's log is not worth compacting for fewer entries than this."""
    memtable_bytes_max: int = 16 * 1024 * 1024
    memtables_bytes_max: int = 512 * 1024 * 1024
    memtable_age_s: float = 60.0
    machine_log_bytes_max: int = 4 * 1024 * 1024
    """After so much log - or as much as its state has, if that is more - a user's machine is saved, and the log forgotten."""
    reserve_bytes: int = 256 * 1024 * 1024
    """Free space below which proposals are refused, so that votes, deletes and compaction always have room."""
    cold_reads: str = "auto"
    """Where a read that may touch the disk runs: ``loop``, ``thread``, or ``auto`` (the loop while the data fits in memory)."""
    seed: int | None = None
    """Of the randomness in elections and backoff; None draws one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", dict(self.nodes))
        object.__setattr__(self, "borders", tuple(self.borders))
        for check in (
            self._check_identity,
            self._check_shards,
            self._check_times,
            self._check_limits,
        ):
            check()

    # -- derived --------------------------------------------------------------------------------------------------------------

    @property
    def election_ticks(self) -> int:
        return max(2, round(self.election_ms / self.tick_ms))

    @property
    def heartbeat_ticks(self) -> int:
        return max(1, round(self.heartbeat_ms / self.tick_ms))

    @property
    def hashed(self) -> bool:
        """Are keys spread by hash slot, rather than kept in order?"""
        return self.shards is not None and not self.borders

    @property
    def shard_count(self) -> int:
        return len(self.borders) + 1 if self.borders else self.shards or 1

    @property
    def voters(self) -> tuple[NodeId, ...]:
        """All nodes of the static configuration, ascending."""
        return tuple(NodeId(node) for node in sorted(self.nodes)) or (self.node_id,)

    def digest(self) -> int:
        """64 bits over what all nodes must have been given alike: the nodes, their addresses and the shards."""
        said = repr((sorted(self.nodes.items()), self.shard_count, self.hashed, self.borders))
        return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "little")

    # -- checks -----------------------------------------------------------------------------------------------------------------

    def _refuse(self, name: str, right: str) -> None:
        raise ConfigError(f"{name} = {getattr(self, name)!r}: {right}")

    def _check_identity(self) -> None:
        if not isinstance(self.node_id, int) or not 1 <= self.node_id <= NODE_ID_MAX:
            self._refuse("node_id", f"a node id is a number from 1 to {NODE_ID_MAX}")
        if not self.data_dir:
            self._refuse("data_dir", "a node needs a directory of its own")
        for node, address in self.nodes.items():
            if not isinstance(node, int) or not 1 <= node <= NODE_ID_MAX:
                self._refuse("nodes", f"{node!r} is no node id")
            if not isinstance(address, str) or ":" not in address:
                self._refuse(
                    "nodes", f"the address of node {node} must read host:port, not {address!r}"
                )
        if self.nodes and self.node_id not in self.nodes:
            self._refuse("nodes", f"this node ({self.node_id}) is not among them")
        if len(self.nodes) > 1 and self.listen is None:
            self._refuse("listen", "a node of several must listen somewhere")
        if len(self.nodes) > 31:
            self._refuse("nodes", "the meta group has at most 31 members")
        if len(set(self.nodes.values())) != len(self.nodes):
            self._refuse("nodes", "two nodes have the same address")
        if self.durability not in ("full", "relaxed"):
            self._refuse("durability", "it is 'full' or 'relaxed'")
        if self.cold_reads not in ("auto", "loop", "thread"):
            self._refuse("cold_reads", "it is 'auto', 'loop' or 'thread'")

    def _check_shards(self) -> None:
        if self.shards is not None and self.borders:
            self._refuse("shards", "give shards (by hash) or borders (by key), not both")
        if self.shards is not None and not 1 <= self.shards <= SLOTS:
            self._refuse("shards", f"a hash space has 1 to {SLOTS} shards")
        previous = b""
        for border in self.borders:
            if not isinstance(border, bytes) or not border or len(border) > KEY_BYTES_MAX:
                self._refuse("borders", f"a border is a key of 1 to {KEY_BYTES_MAX} bytes")
            if border <= previous:
                self._refuse("borders", f"borders ascend; {border!r} follows {previous!r}")
            previous = border

    def _check_times(self) -> None:
        if not 1 <= self.tick_ms <= 1000:
            self._refuse("tick_ms", "1 to 1000")
        if not self.tick_ms <= self.heartbeat_ms:
            self._refuse("heartbeat_ms", f"at least one tick ({self.tick_ms} ms)")
        if self.election_ms < 3 * self.heartbeat_ms:
            self._refuse(
                "election_ms",
                f"at least three heartbeats ({3 * self.heartbeat_ms} ms), or a late one elects",
            )
        if self.timeout_s <= 0:
            self._refuse("timeout_s", "above 0")
        if not self.client_stall_s > 0:
            self._refuse("client_stall_s", "above 0")

    def _check_limits(self) -> None:
        for name in (
            "value_bytes_max",
            "inflight_bytes_max",
            "group_inflight_messages_max",
            "append_bytes_max",
            "committed_bytes_max",
            "link_queue_bytes_max",
            "clients_max",
            "clients_bytes_max",
            "tail_bytes_max",
            "log_budget_bytes",
            "log_kept_entries",
            "memtable_bytes_max",
            "memtables_bytes_max",
            "machine_log_bytes_max",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                self._refuse(name, "a whole number from 1")
        if self.value_bytes_max > VALUE_BYTES_HARD_MAX:
            self._refuse("value_bytes_max", f"at most {VALUE_BYTES_HARD_MAX}")
        if self.memtables_bytes_max < self.memtable_bytes_max:
            self._refuse("memtables_bytes_max", "at least memtable_bytes_max")
        if self.clients_bytes_max < CLIENTS_BYTES_MIN:
            self._refuse("clients_bytes_max", f"at least {CLIENTS_BYTES_MIN}")
        if self.reserve_bytes < 0:
            self._refuse("reserve_bytes", "0 or more")

    # -- from elsewhere ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Config:
        """From plain values, as a TOML file or flags give them: node ids and borders as text, ``tls`` as a table."""
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - known):
            raise ConfigError(
                f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        values = dict(given)
        try:
            if "nodes" in values:
                values["nodes"] = {int(node): address for node, address in values["nodes"].items()}
            if "borders" in values:
                values["borders"] = tuple(
                    border.encode() if isinstance(border, str) else border
                    for border in values["borders"]
                )
            if isinstance(values.get("tls"), Mapping):
                values["tls"] = TlsConfig(**values["tls"])
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"nodes, borders or tls cannot be read: {error}") from error
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | Path, **overrides: Any) -> Config:
        """From a TOML file; what ``overrides`` names (and is not None) comes before it. Raises ConfigError."""
        try:
            with open(path, "rb") as file:
                given = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls.from_mapping(
            given | {name: value for name, value in overrides.items() if value is not None}
        )
