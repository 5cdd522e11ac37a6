"""What stands where in a log directory, and the limits and settings of the log store.

Names, layouts and values only: nothing here opens a file. ``docs/formats.md`` is the law for the bytes.

A log directory holds ``data.mdb`` (LMDB: three databases) and ``superblock``, a small file of its own that says whose log it
is. The superblock is written and synced after the database was made, so a directory with a superblock always had data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from multiraft.errors import ConfigError, FormatUnsupported, LogCorrupt
from multiraft.ids import StoreId
from multiraft.log.carrying import checksum

LOCK_FILE = "lock.mdb"
SUPERBLOCK_FILE = "superblock"

BATCHES = b"batches"
"""sequence (8 bytes, big endian) -> batch, as it was appended."""
REWRITTEN = b"rewritten"
"""number (8 bytes, big endian) -> batch of REWRITE runs that compaction wrote."""
META = b"meta"
BOOT_KEY = b"boot"

FORMAT_MIN = 1
FORMAT_MAX = 1

SUPERBLOCK_MAGIC = 0x3153524D
"""``MRS1``"""

_SUPERBLOCK = struct.Struct("<IHHHHIQQ")
_BOOT = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
SUPERBLOCK_BYTES = _SUPERBLOCK.size + _CRC.size
BOOT_BYTES = _BOOT.size + _CRC.size

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

REWRITE_BYTES_LIMIT = 4 * MIB
"""No setting lets compaction copy more in one transaction. What is larger is no straggler: its group should be flushed."""
FETCH_BYTES_MAX = 64 * MIB
FINDINGS_MAX = 1000


def batch_key(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class Superblock:
    """Whose log this is. Written once."""

    store_id: StoreId
    created_ms: int
    format_min: int = FORMAT_MIN
    format_max: int = FORMAT_MAX

    def pack(self) -> bytes:
        body = _SUPERBLOCK.pack(
            SUPERBLOCK_MAGIC,
            1,
            0,
            self.format_min,
            self.format_max,
            0,
            self.store_id,
            self.created_ms,
        )
        return body + _CRC.pack(checksum(body))

    @classmethod
    def unpack(cls, data: bytes) -> Superblock:
        if len(data) != SUPERBLOCK_BYTES:
            raise LogCorrupt(f"the superblock has {len(data)} bytes instead of {SUPERBLOCK_BYTES}")
        body = data[: _SUPERBLOCK.size]
        if checksum(body) != _CRC.unpack(data[_SUPERBLOCK.size :])[0]:
            raise LogCorrupt("the superblock is damaged: its checksum does not fit")
        magic, version, flags, low, high, zero, store_id, created_ms = _SUPERBLOCK.unpack(body)
        if magic != SUPERBLOCK_MAGIC or version != 1 or flags or zero:
            raise FormatUnsupported(
                f"a superblock of magic {magic:#x}, version {version}: not of this version of multiraft"
            )
        if low > FORMAT_MAX or high < FORMAT_MIN:
            raise FormatUnsupported(
                f"the log is in formats {low} to {high}; this version reads {FORMAT_MIN} to {FORMAT_MAX}"
            )
        return cls(
            store_id=StoreId(store_id), created_ms=created_ms, format_min=low, format_max=high
        )


def pack_boot(boot_count: int, store_id: StoreId) -> bytes:
    body = _BOOT.pack(boot_count, 0, store_id)
    return body + _CRC.pack(checksum(body))


def unpack_boot(data: bytes) -> tuple[int, StoreId]:
    """(boot count, store id)."""
    if (
        len(data) != BOOT_BYTES
        or checksum(data[: _BOOT.size]) != _CRC.unpack(data[_BOOT.size :])[0]
    ):
        raise LogCorrupt("the boot record is damaged: its checksum does not fit")
    boot_count, _, store_id = _BOOT.unpack(data[: _BOOT.size])
    return boot_count, StoreId(store_id)


class FindingKind(StrEnum):
    DAMAGE = "damage"
    """A checksum or a rule of the format fails."""
    GAP = "gap"
    """Batches or entries are missing between others that are there."""
    FORMAT = "format"
    """A version or kind that this code does not know."""
    STORE = "store"
    """Written by another store."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a log on disk; ``group`` is -1 and indexes are 0 where they are not known."""

    kind: FindingKind
    message: str
    group: int = -1
    first: int = 0
    last: int = 0


class Piece(NamedTuple):
    """One stored run, or its beginning: where it lies, and which entries of it are in the log."""

    place: int
    offset: int
    bytes: int
    group: int
    kind: int
    first: int
    entries: int
    term: int


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the index knows of a group, without its membership: that stands in the records named here."""

    group: int
    replica: int
    base_index: int
    base_term: int
    last_index: int
    commit_index: int
    term: int
    vote: int
    leader: int
    epoch: int
    terms: tuple[tuple[int, int], ...]
    changes: tuple[int, ...]
    tombstone: bool
    base: Piece | None
    pending: Piece | None
    runs: int


@dataclass(frozen=True, slots=True)
class LogFigures:
    """How much the log holds; ``live`` is what is still needed. ``direct`` are batches as appended."""

    first_sequence: int
    last_sequence: int
    direct_bytes: int
    direct_live_bytes: int
    rewritten_bytes: int
    rewritten_live_bytes: int


class LiveRun(NamedTuple):
    """A run that compaction must keep. ``part`` says what it is to its group; see ``moving.pyx``."""

    part: int
    group: int
    place: int
    offset: int
    bytes: int
    first: int
    entries: int


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a log store keeps its log. The defaults are durable; nothing here can make them less so but ``durability``."""

    durability: str = "full"
    """``full``, or ``relaxed``, which does not sync: a power cut may lose or damage everything. For tests and caches only."""
    verify: str = "headers"
    """What open checks: ``headers`` (and records); ``all`` reads the entries too. They are checked on every read anyway."""
    budget_bytes: int = 2 * GIB
    """Over this, ``pinning`` names the groups that keep the log from shrinking."""
    reserve_bytes: int = 64 * MIB
    """Below this much certain room ``space().scarce`` is true; votes and compaction live on it meanwhile."""
    ahead_bytes: int = 64 * MIB
    """So much of the file is allocated before it is needed, and the reserve too once the disk fills up: no commit meets it full."""
    map_bytes: int = 64 * GIB
    """Address space for the file. Grown when full; on Linux a large map costs nothing."""
    readers_max: int = 1024
    readahead: bool = True
    dead_batches_min: int = 64
    """Fewer dead batches than this are left for later."""
    dead_batches_max: int = 256
    """At most so many are deleted in one transaction."""
    rewrite_bytes_max: int = MIB
    """At most so much that is alive is copied in one transaction."""
    rewrite_share: float = 0.125
    """The oldest batches are rewritten when at most this share of them is alive."""

    def __post_init__(self) -> None:
        self._one_of("durability", self.durability, ("full", "relaxed"))
        self._one_of("verify", self.verify, ("headers", "all"))
        if not 0 <= self.rewrite_share <= 0.5:
            raise ConfigError(
                f"rewrite_share is {self.rewrite_share}; it must lie between 0 and 0.5"
            )
        if not 1 <= self.dead_batches_min <= self.dead_batches_max:
            raise ConfigError(
                f"dead_batches_min is {self.dead_batches_min} and dead_batches_max {self.dead_batches_max}; "
                "it must be 1 <= min <= max"
            )
        for name in ("budget_bytes", "reserve_bytes", "ahead_bytes", "rewrite_bytes_max"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.rewrite_bytes_max > REWRITE_BYTES_LIMIT:
            raise ConfigError(
                f"rewrite_bytes_max is {self.rewrite_bytes_max}; it must be at most {REWRITE_BYTES_LIMIT}"
            )
        if self.map_bytes < MIB:
            raise ConfigError(f"map_bytes is {self.map_bytes}; it must be at least {MIB}")
        if not 1 <= self.readers_max <= 65536:
            raise ConfigError(f"readers_max is {self.readers_max}; it must lie between 1 and 65536")

    @staticmethod
    def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
