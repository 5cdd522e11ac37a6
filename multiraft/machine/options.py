"""The settings of the state store: one frozen value, made from the node's configuration or by hand in a test."""

from __future__ import annotations

from dataclasses import dataclass

from multiraft.config import Config
from multiraft.errors import ConfigError
from multiraft.machine.tree import MAP_BYTES

COLD_READS = ("auto", "loop", "thread")


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes in bytes, ages in nanoseconds."""

    memtable_bytes_max: int = 16 * 1024 * 1024
    memtables_bytes_max: int = 512 * 1024 * 1024
    memtable_age_ns: int = 60 * 10**9
    reserve_bytes: int = 256 * 1024 * 1024
    map_bytes: int = MAP_BYTES
    cold_reads: str = "auto"
    """Where a read that may touch the disk runs: ``loop``, ``thread``, or ``auto``: the loop while the data fits in memory."""
    warm_bytes_max: int | None = None
    """With ``auto``: how much data still counts as fitting in memory. None: a quarter of the machine's."""
    store_id: int = 0
    """Of the log store beside it; 0 takes what is there."""
    relaxed: bool = False
    """Nothing is synced: for tests and caches."""
    seed: int | None = None
    """Of the hash tables; None draws one."""

    def __post_init__(self) -> None:
        if self.cold_reads not in COLD_READS:
            raise ConfigError(f"cold_reads = {self.cold_reads!r}: one of {', '.join(COLD_READS)}")
        if not 0 < self.memtable_bytes_max <= self.memtables_bytes_max:
            raise ConfigError(
                f"memtable_bytes_max = {self.memtable_bytes_max}: "
                f"more than 0, and at most memtables_bytes_max = {self.memtables_bytes_max}"
            )

    @classmethod
    def of(cls, config: Config, *, store_id: int = 0, seed: int | None = None) -> StoreOptions:
        """What a node's configuration says of its state store."""
        return cls(
            memtable_bytes_max=config.memtable_bytes_max,
            memtables_bytes_max=config.memtables_bytes_max,
            memtable_age_ns=round(config.memtable_age_s * 10**9),
            reserve_bytes=config.reserve_bytes,
            cold_reads=config.cold_reads,
            store_id=store_id,
            seed=seed,
            relaxed=config.durability == "relaxed",
        )
