"""Looking into a log directory that no node has open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from multiraft.errors import DirectoryInUse, LogCorrupt
from multiraft.interfaces import HardState
from multiraft.log import inspect
from multiraft.log.schema import FindingKind
from tests.unit.log import harness as h
from tests.unit.log.harness import RELAXED, Feeder, opened


def filled(path: Path) -> None:
    """Two groups; so many batches that some were rewritten."""
    with opened(path, replace(RELAXED, dead_batches_min=1, rewrite_share=0.5)) as store:
        feeder = Feeder(store)
        feeder.append(h.created(1), h.created(2))
        feeder.append(h.entries_run(1, 1, 1, [b"a", b"bc"], prev_term=0, commit=1))
        feeder.append(h.entries_run(1, 3, 2, [b"change"], prev_term=1, kind=2))
        for index in range(1, 50):
            feeder.append(h.entries_run(2, index, 1, [bytes(500)], prev_term=int(index > 1)))
            feeder.append(h.hard(2, HardState(commit=index)), h.based(2, index, 1))


def test_a_report_of_a_sound_log(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    report = inspect.inspect_log(tmp_path / "log")
    assert report.sound
    assert report.findings == ()
    assert report.boot_count == 1
    assert [(group.group, group.last_index, group.commit_index) for group in report.groups] == [
        (1, 3, 1),
        (2, 49, 49),
    ]
    assert report.groups[0].terms == ((1, 1), (3, 2))
    assert report.groups[0].changes == (3,)
    assert inspect.verify(tmp_path / "log") == []


def test_batches_and_runs_are_listed(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    found = list(inspect.batches(tmp_path / "log"))
    assert all(each.fault == "" and each.runs >= 1 and each.bytes > 100 for each in found)
    rewritten = [each for each in found if each.rewritten]
    direct = [each.number for each in found if not each.rewritten]
    assert rewritten
    assert direct == list(range(direct[0], 102))
    runs = [
        run for run in inspect.runs(tmp_path / "log", 1) if run.kind in ("ENTRIES", "MEMBERSHIP")
    ]
    assert [(run.sequence, run.first, run.count, run.term, run.kind) for run in runs] == [
        (2, 1, 2, 1, "ENTRIES"),
        (3, 3, 1, 2, "MEMBERSHIP"),
    ]


def test_entries_of_a_group(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    assert list(inspect.entries(tmp_path / "log", 1)) == [
        (1, 1, "ENTRIES", b"a"),
        (2, 1, "ENTRIES", b"bc"),
        (3, 2, "MEMBERSHIP", b"change"),
    ]
    assert [index for index, *_ in inspect.entries(tmp_path / "log", 1, first=2)] == [2, 3]
    assert list(inspect.entries(tmp_path / "log", 2)) == []
    assert list(inspect.entries(tmp_path / "log", 3)) == []


def test_inspection_goes_on_after_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    filled(path)
    good = h.replace_batch(path, 100, b"")
    h.replace_batch(path, 100, h.flip(good, len(good) - 1))
    (finding,) = inspect.verify(path)
    assert (finding.kind, finding.group) == (FindingKind.DAMAGE, 2)
    assert inspect.inspect_log(path, entries=False).findings_count <= 1
    h.replace_batch(path, 100, h.flip(good, 20))
    faults = [each for each in inspect.batches(path) if each.fault]
    assert [each.number for each in faults] == [100]
    assert any(run.fault for run in inspect.runs(path))
    assert not inspect.inspect_log(path).sound


def test_inspection_holds_the_directory_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    filled(path)
    before = (path / "data.mdb").read_bytes()
    listing = inspect.batches(path)
    next(listing)
    with pytest.raises(DirectoryInUse):
        next(inspect.runs(path))
    listing.close()
    inspect.inspect_log(path)
    assert (path / "data.mdb").read_bytes() == before


def test_what_is_no_log_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(LogCorrupt, match="no log directory"):
        inspect.inspect_log(tmp_path)
    assert [each.kind for each in inspect.verify(tmp_path)] == [FindingKind.DAMAGE]
