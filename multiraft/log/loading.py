"""Opening a log: from a directory to an index that is known to be sound, or to a refusal that names what is not.

Everything that is wrong is collected before anything is refused, so that the message names all groups and indexes. What is read
here is the format's headers and records; entries only where the settings ask for it.

Invariant: when ``open_store`` returns, the store id and the raised boot count are durable, names of files included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import lmdb

from multiraft.disk import DATA_FILE
from multiraft.doubt import forget_doubtful
from multiraft.errors import FormatUnsupported, LogCorrupt, MultiRaftError, WrongStore
from multiraft.ids import GroupId, NodeId, ReplicaId, StoreId, random_id
from multiraft.interfaces import Base, GroupLog, HardState, Membership, Pinned
from multiraft.log.carrying import copy_run
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import Change, DiskFull, LogEnvironment, Room, wrapped
from multiraft.log.index import LogIndex
from multiraft.log.lookup import group_facts, group_ids, pinned_stores, place_key, place_name
from multiraft.log.schema import (
    BATCHES,
    REWRITTEN,
    SUPERBLOCK_FILE,
    Finding,
    FindingKind,
    GroupFacts,
    LogSettings,
    Piece,
    Superblock,
)
from multiraft.records import decode_base, decode_snapshot_record


def wall_ms() -> int:
    """The wall clock of the machine."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Opened:
    """What ``open_store`` found and made."""

    environment: LogEnvironment
    index: LogIndex
    groups: list[GroupLog]
    store_id: StoreId
    boot_count: int
    room: Room


def open_store(
    directory: LogDirectory,
    settings: LogSettings,
    identity: Callable[[], int] = random_id,
    wall_ms: Callable[[], int] = wall_ms,
) -> Opened:
    """Open, check and take possession. Raises LogCorrupt, FormatUnsupported or WrongStore."""
    forget_doubtful(directory.disk, directory.path, (SUPERBLOCK_FILE, DATA_FILE))
    superblock = directory.superblock()
    environment = LogEnvironment(directory, settings, create=superblock is None)
    try:
        boot_count = _boot_count(environment, superblock)
        if superblock is None:
            directory.disk.sync_directory(directory.path)
            superblock = directory.new_superblock(StoreId(identity()), wall_ms())
        index = load_index(environment, superblock.store_id, bodies=settings.verify == "all")
        refuse_damage(index.finish(), index.findings_count)
        groups = found_groups(environment, index, {})
        environment.set_boot(boot_count + 1, superblock.store_id)
        with suppress(DiskFull):
            environment.make_room(Change(), settings)
        return Opened(
            environment, index, groups, superblock.store_id, boot_count + 1, environment.room()
        )
    except BaseException:
        environment.close()
        raise


def _boot_count(environment: LogEnvironment, superblock: Superblock | None) -> int:
    """How often the store was opened before."""
    boot = environment.boot()
    if superblock is None:
        if boot is not None or next(environment.scan(BATCHES), None) is not None:
            raise LogCorrupt("the superblock is gone, but the data file is that of a log in use")
        return 0
    if boot is None:
        if next(environment.scan(BATCHES), None) is not None:
            raise LogCorrupt("the boot record is gone")
        return 0
    if boot[1] != superblock.store_id:
        raise WrongStore(
            f"the data file belongs to store {boot[1]}, the superblock to store {superblock.store_id}"
        )
    return boot[0]


def load_index(environment: LogEnvironment, store_id: int, *, bodies: bool) -> LogIndex:
    """Scan everything, in order. The caller calls ``finish`` and judges the findings."""
    index = LogIndex(store_id)
    for number, batch in environment.scan(REWRITTEN):
        index.load_rewritten(number, batch, bodies)
    index.settle()
    for number, batch in environment.scan(BATCHES):
        index.load(number, batch, bodies)
    return index


def refuse_damage(findings: Sequence[Finding], count: int) -> None:
    """Raise what the findings call for, if any."""
    if not findings:
        return
    damage: dict[int, tuple[int, int]] = {}
    for finding in findings:
        if finding.group >= 0:
            first, last = damage.get(finding.group, (finding.first, finding.last))
            damage[finding.group] = (min(first, finding.first), max(last, finding.last))
    shown = "; ".join(finding.message for finding in findings[:10])
    message = f"the log cannot be opened: {shown}" + (
        f"; and {count - 10} more" if count > 10 else ""
    )
    kinds = {finding.kind for finding in findings}
    if FindingKind.STORE in kinds:
        raise WrongStore(message)
    if FindingKind.FORMAT in kinds:
        raise FormatUnsupported(message)
    raise LogCorrupt(message, damage=damage)


def found_groups(
    environment: LogEnvironment, index: LogIndex, unsynced: Mapping[int, bytes]
) -> list[GroupLog]:
    """All groups as the index knows them, with their records read and decoded."""
    found = []
    try:
        with environment.view() as view:

            def read(piece: Piece) -> bytes:
                batch: bytes | memoryview | None = unsynced.get(piece.place)
                if batch is None:
                    is_rewritten, key = place_key(piece.place)
                    batch = view.get(REWRITTEN if is_rewritten else BATCHES, key)
                if batch is None:
                    raise LogCorrupt(f"group {piece.group}: {place_name(piece.place)} is gone")
                return copy_run(
                    batch, piece.offset, piece.bytes, piece.group, piece.first, piece.entries
                )

            for group in group_ids(index):
                facts = group_facts(index, group)
                if facts is not None:
                    found.append(group_log(facts, read))
    except lmdb.Error as error:
        raise wrapped(error, "the records of the log cannot be read") from error
    return found


def group_log(facts: GroupFacts, read: Callable[[Piece], bytes]) -> GroupLog:
    """A group in the words of ``interfaces``."""
    replica = ReplicaId(facts.replica)
    base = Base(0, 0, replica, Membership())
    try:
        if facts.base is not None:
            base = decode_base(read(facts.base))
        pending = decode_snapshot_record(read(facts.pending)) if facts.pending is not None else None
    except MultiRaftError as error:
        raise LogCorrupt(
            f"group {facts.group}: a record is damaged: {error}",
            damage={facts.group: (facts.base_index, facts.last_index)},
        ) from error
    hard_state = HardState(
        term=facts.term,
        vote=ReplicaId(facts.vote),
        leader=ReplicaId(facts.leader),
        epoch=facts.epoch,
        commit=facts.commit_index,
    )
    return GroupLog(
        group=GroupId(facts.group),
        base=base,
        hard_state=hard_state,
        last_index=facts.last_index,
        terms=facts.terms,
        changes=facts.changes,
        pending=pending,
        tombstone=facts.tombstone,
    )


def pinned_of(index: LogIndex) -> dict[NodeId, Pinned]:
    """The newest record of each peer's store."""
    return {
        NodeId(node): Pinned(NodeId(node), StoreId(store_id), boot_count, sequence)
        for node, (boot_count, store_id, sequence) in sorted(pinned_stores(index).items())
    }
