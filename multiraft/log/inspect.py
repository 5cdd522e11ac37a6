"""Looking into a log directory that no node has open: what is in it, batch by batch, and whether all of it is sound.

Library functions that yield plain values; the command line is built upon them. They change nothing, and they hold the directory
meanwhile, so that no node starts on it. Unlike an open, they read every entry and go on after what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from multiraft._core import RunKind, decode_batch, decode_run
from multiraft.disk import RealDisk
from multiraft.errors import LogCorrupt, MultiRaftError, StorageError
from multiraft.ids import StoreId
from multiraft.interfaces import Disk
from multiraft.log.carrying import copy_run
from multiraft.log.directory import LogDirectory
from multiraft.log.environment import LogEnvironment
from multiraft.log.index import LogIndex
from multiraft.log.loading import load_index
from multiraft.log.lookup import figures, find_runs, group_facts, group_ids, place_key, place_name
from multiraft.log.schema import (
    BATCHES,
    REWRITTEN,
    Finding,
    FindingKind,
    GroupFacts,
    LogFigures,
    LogSettings,
    Superblock,
)


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """One batch. ``fault`` says what is wrong with it, empty where nothing is."""

    number: int
    rewritten: bool
    bytes: int
    runs: int
    groups: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, as its header says. Of a rewritten run: the run that it carries, and the sequence it counts as written at."""

    batch: int
    rewritten: bool
    sequence: int
    group: int
    kind: str
    first: int
    count: int
    term: int
    commit: int
    from_replica: int
    bytes: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class LogReport:
    """The whole log in one value."""

    path: Path
    superblock: Superblock
    boot_count: int
    figures: LogFigures
    groups: tuple[GroupFacts, ...]
    findings: tuple[Finding, ...]
    findings_count: int

    @property
    def sound(self) -> bool:
        return self.findings_count == 0


@contextmanager
def _opened(
    path: str | Path, disk: Disk | None
) -> Iterator[tuple[LogDirectory, Superblock, LogEnvironment]]:
    directory = LogDirectory(disk if disk is not None else RealDisk(), Path(path), create=False)
    try:
        superblock = directory.superblock()
        if superblock is None:
            raise LogCorrupt(f"{path} is no log directory: it has no superblock")
        environment = LogEnvironment(directory, LogSettings(), create=False, readonly=True)
        try:
            yield directory, superblock, environment
        finally:
            environment.close()
    finally:
        directory.close()


def batches(path: str | Path, *, disk: Disk | None = None) -> Iterator[BatchSummary]:
    """Every batch: first the rewritten ones, then those that were appended."""
    with _opened(path, disk) as (_, superblock, environment):
        for database in (REWRITTEN, BATCHES):
            for number, view in environment.scan(database):
                yield _batch_summary(
                    number, database == REWRITTEN, bytes(view), superblock.store_id
                )


def _batch_summary(number: int, rewritten: bool, data: bytes, store_id: StoreId) -> BatchSummary:
    try:
        batch = decode_batch(data)
        runs = [decode_run(run) for run in batch.runs]
    except MultiRaftError as error:
        return BatchSummary(number, rewritten, len(data), 0, 0, str(error))
    fault = ""
    if batch.sequence != number:
        fault = f"it says that it is batch {batch.sequence}"
    elif batch.store_id != store_id:
        fault = f"it was written by store {batch.store_id}"
    return BatchSummary(
        number, rewritten, len(data), len(runs), len({run.group for run in runs}), fault
    )


def runs(
    path: str | Path, group: int | None = None, *, disk: Disk | None = None
) -> Iterator[RunSummary]:
    """Every run, in the order of the batches; of one group only where one is given."""
    with _opened(path, disk) as (_, _, environment):
        for database in (REWRITTEN, BATCHES):
            for number, view in environment.scan(database):
                for summary in _run_summaries(number, database == REWRITTEN, bytes(view)):
                    if group is None or summary.group == group:
                        yield summary


def _run_summaries(number: int, rewritten: bool, data: bytes) -> Iterator[RunSummary]:
    try:
        encoded = decode_batch(data).runs
    except MultiRaftError as error:
        yield RunSummary(number, rewritten, 0, -1, "", 0, 0, 0, 0, 0, 0, str(error))
        return
    for data in encoded:
        try:
            yield _run_summary(number, rewritten, data)
        except MultiRaftError as error:
            yield RunSummary(number, rewritten, 0, -1, "", 0, 0, 0, 0, 0, len(data), str(error))


def _run_summary(number: int, rewritten: bool, data: bytes) -> RunSummary:
    run = decode_run(data)
    sequence = number
    if run.kind == RunKind.RUN_REWRITE:
        sequence, data = int.from_bytes(run.entries[0][:8], "little"), run.entries[0][8:]
        run = decode_run(data)
    return RunSummary(
        batch=number,
        rewritten=rewritten,
        sequence=sequence,
        group=run.group,
        kind=RunKind(run.kind).name.removeprefix("RUN_"),
        first=run.first,
        count=len(run.entries),
        term=run.term,
        commit=run.commit,
        from_replica=run.from_replica,
        bytes=len(data),
    )


def inspect_log(path: str | Path, *, entries: bool = True, disk: Disk | None = None) -> LogReport:
    """Check everything; ``entries=False`` leaves the bodies of entries unread, as an open does."""
    with _opened(path, disk) as (directory, superblock, environment):
        boot = environment.boot()
        index = load_index(environment, superblock.store_id, bodies=entries)
        index.finish()
        findings = list(index.findings)
        count = index.findings_count
        if boot is None or boot[1] != superblock.store_id:
            findings.append(Finding(FindingKind.STORE, "the boot record is not that of this store"))
            count += 1
        facts = [group_facts(index, group) for group in group_ids(index)]
        return LogReport(
            path=directory.path,
            superblock=superblock,
            boot_count=boot[0] if boot is not None else 0,
            figures=figures(index),
            groups=tuple(each for each in facts if each is not None),
            findings=tuple(findings),
            findings_count=count,
        )


def verify(path: str | Path, *, disk: Disk | None = None) -> list[Finding]:
    """Everything that is wrong, what cannot be opened at all included; empty where the log is sound."""
    try:
        return list(inspect_log(path, disk=disk).findings)
    except StorageError as error:
        return [Finding(FindingKind.DAMAGE, str(error))]


def entries(
    path: str | Path, group: int, first: int = 1, *, disk: Disk | None = None
) -> Iterator[tuple[int, int, str, bytes]]:
    """(index, term, kind, payload) of each entry of a group that is in the log, from ``first`` on."""
    with _opened(path, disk) as (_, superblock, environment):
        index = load_index(environment, superblock.store_id, bodies=False)
        index.finish()
        facts = group_facts(index, group)
        at = max(first, facts.base_index + 1) if facts is not None else first
        while run := _stored_run(environment, index, group, at):
            decoded = decode_run(run)
            for offset, payload in enumerate(decoded.entries):
                if decoded.first + offset >= at:
                    kind = RunKind(decoded.kind).name.removeprefix("RUN_")
                    yield decoded.first + offset, decoded.term, kind, payload
            at = decoded.first + len(decoded.entries)


def _stored_run(
    environment: LogEnvironment, index: LogIndex, group: int, first: int
) -> bytes | None:
    pieces = find_runs(index, group, first, 0)
    if not pieces:
        return None
    piece = pieces[0]
    rewritten, key = place_key(piece.place)
    with environment.view() as view:
        batch = view.get(REWRITTEN if rewritten else BATCHES, key)
        if batch is None:
            raise LogCorrupt(f"group {group}: {place_name(piece.place)} is gone")
        return copy_run(batch, piece.offset, piece.bytes, piece.group, piece.first, piece.entries)
