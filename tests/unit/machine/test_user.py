"""The hosts of users' machines by themselves: jobs that run when the test says so, and what is told of them in which order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft._core import CommittedRuns
from multiraft.disk import RealDisk
from multiraft.errors import (
    Closed,
    CommandError,
    FormatUnsupported,
    InvalidResult,
    InvariantViolation,
    PeerProtocolError,
    Quarantined,
)
from multiraft.interfaces import Base, SnapshotRecord
from multiraft.machine import hosted, user
from multiraft.machine.hosted import Life
from multiraft.machine.plain import RESULT_BYTES_MAX, plain_result
from multiraft.machine.pool import LoopJobs, Pool
from multiraft.machine.running import encode_command, unreadable_by_users
from multiraft.machine.snapshot import Kind, SnapshotInfo
from multiraft.machine.states import At, States, decode_note, write_state
from multiraft.machine.user import UserMachines
from multiraft.machine.user_files import UserFiles
from multiraft.worker import InlineWorker
from tests.unit.disks import Home, placed

from .harness import ENTRIES, MEMBERSHIP, MEMBERSHIP_BYTES, MEMBERSHIP_RUN, Outcome

GROUP = 9


class Manual:
    """Jobs that wait until ``step``; at most one is ever submitted at a time by one machine."""

    def __init__(self) -> None:
        self.waiting: list[
            tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]
        ] = []

    def submit(self, job: Any, done: Any) -> None:
        self.waiting.append((job, done))

    def close(self) -> None: ...

    def step(self, report: bool = True) -> Callable[[], None]:
        """Run the oldest job; tell of it now, or let the test do it later."""
        job, done = self.waiting.pop(0)
        try:
            result, error = job(), None
        except Exception as caught:
            result, error = None, caught

        def tell() -> None:
            done(result, error)

        if report:
            tell()
        return tell

    def run(self) -> None:
        while self.waiting:
            self.step()


class Log:
    """A machine that keeps all it was given."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, command: bytes, index: int, term: int) -> Any:
        if command == b"raise":
            raise RuntimeError("broken")
        if command == b"refuse":
            raise CommandError("as asked")
        self.commands.append(command)
        return [index, term]

    def read(self, query: Any) -> Any:
        return list(self.commands)

    def snapshot(self) -> Iterator[bytes]:
        yield b",".join(self.commands)

    def restore(self, chunks: Iterable[bytes]) -> None:
        joined = b"".join(chunks)
        self.commands = joined.split(b",") if joined else []


def at_once(go_on: Callable[[], None]) -> None:
    """A log that covers everything already."""
    go_on()


class Host:
    """Machines over manual jobs, with everything that they tell."""

    def __init__(self, folder: Path | Home, kinds: dict[str, Any] | None = None) -> None:
        self.jobs = Manual()
        self.told: list[Any] = []
        home = placed(folder)
        self.states = States(home.path, home.disk)
        self.machines = UserMachines(
            self.states,
            self.states.found(),
            Pool(lambda _: self.jobs, 1),
            lambda act: act(),
            time.monotonic_ns,
        )
        self.machines.events = self
        for kind, factory in (kinds or {"log": Log}).items():
            self.machines.register(kind, factory)
        self.files = UserFiles(self.machines, InlineWorker())

    def begin(self, at: At | None = None, kind: str = "log") -> hosted.Hosted:
        self.machines.begin(GROUP, "name", kind, at or At(membership=MEMBERSHIP_BYTES))
        return self.machines[GROUP]

    def commit(self, first: int, *commands: bytes, term: int = 1, kind: int = ENTRIES) -> None:
        runs = CommittedRuns()
        payloads = [encode_command(c) for c in commands] if kind == ENTRIES else list(commands)
        runs.append(GROUP, first, term, kind, payloads)
        self.machines.queue(runs)

    def machine_wanted(self, group: int) -> bool:
        return True

    def machine_applied(
        self, group: int, term: int, first: int, count: int, results: list[Any] | None
    ) -> None:
        self.told.append(("applied", first, count, results))

    def machine_membership(self, group: int, index: int, payload: bytes) -> bytes:
        self.told.append(("membership", index, payload))
        return MEMBERSHIP_BYTES + payload

    def machine_opened(self, group: int) -> None:
        self.told.append("opened")

    def machine_stopped(self, group: int, cause: BaseException) -> None:
        self.told.append(("stopped", str(cause)))


def test_entries_memberships_and_reads_take_their_turns(home: Home) -> None:
    host = Host(home)
    one = host.begin()
    host.commit(1, b"a", b"refuse", b"b")
    host.commit(4, b"m", kind=MEMBERSHIP_RUN)
    host.commit(5, b"c", term=2)
    early = Outcome()
    host.machines.read(GROUP, None, early)
    assert len(host.jobs.waiting) == 1, "one job at a time"
    host.jobs.run()
    assert early.result == [], "a read waits for no entry that it need not see"
    first, member, changed, last = host.told[1:]
    assert host.told[0] == "opened"
    assert first[:3] == ("applied", 1, 3) and [first[3][0], first[3][2]] == [[1, 1], [3, 1]]
    assert type(first[3][1]) is CommandError
    assert member == ("membership", 4, b"m")
    assert changed == ("applied", 4, 1, None)
    assert last == ("applied", 5, 1, [[5, 2]]), "then what comes behind it"
    assert one.at == At(5, 2, MEMBERSHIP_BYTES + b"m", 5)
    late = Outcome()
    host.machines.read(GROUP, None, late)
    host.jobs.run()
    assert late.result == [b"a", b"b", b"c"]


def test_an_empty_entry_is_a_leaders_own_and_an_unknown_version_stops(home: Home) -> None:
    host = Host(home)
    one = host.begin()
    runs = CommittedRuns()
    runs.append(GROUP, 1, 1, ENTRIES, [b"", encode_command(b"a"), b"\x02new"])
    host.machines.queue(runs)
    host.jobs.run()
    assert host.told[1] == ("applied", 1, 2, [None, [2, 1]])
    assert one.life is Life.STOPPED and isinstance(one.cause, FormatUnsupported)
    assert (one.at.index, one.at.told_index) == (2, 2)


def test_p82_a_peer_cannot_ask_for_an_entry_that_would_stop_every_replica() -> None:
    assert unreadable_by_users(encode_command(b"")) is None
    for command in (b"", b"\x00", b"\x02new", b"\xff" * 20):
        assert isinstance(unreadable_by_users(command), FormatUnsupported)


def test_a_gap_or_an_entry_twice_is_our_own_mistake(home: Home) -> None:
    host = Host(home)
    host.begin()
    host.commit(1, b"a")
    for wrong in (1, 3):
        with pytest.raises(InvariantViolation):
            host.commit(wrong, b"x")


def test_after_a_failure_nothing_is_applied_and_everybody_is_answered(home: Home) -> None:
    host = Host(home)
    one = host.begin()
    host.jobs.run()
    host.commit(1, b"a", b"raise", b"b")
    tell = host.jobs.step(report=False)
    reads = [Outcome(), Outcome()]
    save: list[Any] = []
    host.files.save(GROUP, at_once, save.append)
    for read in reads:
        host.machines.read(GROUP, None, read)
    tell()
    assert host.told[1:] == [("applied", 1, 1, [[1, 1]]), ("stopped", "broken")]
    assert [type(read.error) for read in reads] == [Quarantined] * 2
    assert save == [None] and not one.saving
    host.commit(2, b"again")  # handed out anew by whoever takes it back
    assert not host.jobs.waiting and one.queued_entries == 0
    late = Outcome()
    host.machines.read(GROUP, None, late)
    assert "broken" in str(late.error)


def test_a_machine_that_fails_under_a_read_or_a_save_leaves_nobody_waiting(home: Home) -> None:
    for what in ("read", "save", "snapshot"):
        host = Host(home / what)
        host.begin()
        host.commit(1, b"a")
        host.jobs.run()
        outcome, saved = Outcome(), []  # type: ignore[var-annotated]
        if what == "read":
            host.machines.read(GROUP, None, outcome)
        elif what == "save":
            host.files.save(GROUP, at_once, saved.append)
        else:
            host.files.snapshot(GROUP, home.path / "out", outcome)
        tell = host.jobs.step(report=False)
        host.machines.fail(host.machines[GROUP], RuntimeError("elsewhere"))
        tell()
        assert saved == [None] if what == "save" else isinstance(outcome.error, Quarantined)


def file_of(
    folder: Path | Home, index: int, *commands: bytes, machine: str = "log"
) -> tuple[Path, Any]:
    """A snapshot as another node would send it, with its record."""
    home = placed(folder)
    home.disk.make_directory(home.path)
    path = home.path / f"sent-{index}"
    at = At(index, 7, MEMBERSHIP_BYTES, index)
    info = write_state(home.disk, path, Kind.BYTES, GROUP, machine, at, [b",".join(commands)]).info
    base = Base(index, 7, 1, MEMBERSHIP)  # type: ignore[arg-type]
    return path, SnapshotRecord(base, path.name, info.size, info.crc)


def test_p53_p60_a_snapshot_takes_the_place_of_what_is_older_and_of_nothing_else(
    home: Home,
) -> None:
    host = Host(home / "own")
    one = host.begin()
    host.commit(1, b"a", b"b", b"c", b"d")
    host.jobs.run()
    for index in (3, 4):
        outcome = Outcome()
        host.files.install(GROUP, *file_of(home / "in", index, b"x"), outcome)
        assert outcome.result is False
    newer, older = Outcome(), Outcome()
    host.files.install(GROUP, *file_of(home / "in", 20, b"y"), newer)
    host.files.install(GROUP, *file_of(home / "in", 10, b"x"), older)
    assert (newer.result, older.result) == (True, False)
    assert (one.at.index, one.at.term) == (20, 7)
    host.commit(21, b"z", term=7)
    host.jobs.run()
    read = Outcome()
    host.machines.read(GROUP, None, read)
    host.jobs.run()
    assert read.result == [b"y", b"z"]
    assert home.disk.names(home.path / "own") == [f"{GROUP}-{20:020d}.state"]


def test_a_snapshot_that_comes_under_a_job_loses_no_read_and_no_later_entry(home: Home) -> None:
    host = Host(home / "own")
    one = host.begin()
    host.jobs.run()
    host.commit(1, *[b"%d" % n for n in range(1, 13)])
    read = Outcome()
    host.machines.read(GROUP, None, read)
    tell = host.jobs.step(report=False)  # the entries, under the old machine
    installed = Outcome()
    host.files.install(GROUP, *file_of(home / "in", 10, b"s"), installed)
    assert installed.result is True and one.queued_entries == 2
    tell()
    host.jobs.run()
    again = Outcome()
    host.machines.read(GROUP, None, again)
    host.jobs.run()
    assert again.result == [b"s", b"11", b"12"]
    assert read.result in ([b"s"], [b"s", b"11", b"12"])
    assert [event[1:3] for event in host.told if event[0] == "applied"] == [(11, 2)]


def test_a_read_under_way_is_asked_again_of_what_took_its_place(home: Home) -> None:
    host = Host(home / "own")
    host.begin()
    host.jobs.run()
    read = Outcome()
    host.machines.read(GROUP, None, read)
    tell = host.jobs.step(report=False)
    host.files.install(GROUP, *file_of(home / "in", 10, b"s"), Outcome())
    tell()
    assert not read.calls
    host.jobs.run()
    assert read.result == [b"s"]


def test_p59_a_damaged_or_foreign_file_changes_nothing(home: Home) -> None:
    host = Host(home / "own")
    one = host.begin()
    host.commit(1, b"a")
    host.jobs.run()
    path, record = file_of(home / "in", 10, b"x" * 100)
    whole = home.disk.read(path)
    for at in range(0, len(whole), 7):
        home.disk.write(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        outcome = Outcome()
        host.files.install(GROUP, path, record, outcome)
        assert outcome.error is not None
    home.disk.write(path, whole)
    for claim in (
        replace(record, crc=record.crc ^ 1),
        replace(record, size=record.size + 1),
        replace(record, base=replace(record.base, term=8)),
        replace(record, base=replace(record.base, index=11)),
    ):
        outcome = Outcome()
        host.files.install(GROUP, path, claim, outcome)
        assert isinstance(outcome.error, PeerProtocolError)
    foreign = Outcome()
    host.files.install(GROUP, *file_of(home / "in", 10, b"x", machine="other"), foreign)
    assert isinstance(foreign.error, PeerProtocolError) and "'other'" in str(foreign.error)
    assert one.at.index == 1 and one.life is Life.RUNNING
    assert home.disk.names(home.path / "own") == []


@pytest.mark.parametrize("note", [b"", b"\xc1", b"\x91\x01", b"\x92\x01\x02", b"\x92\xa1x\x7f"])
def test_p82_a_note_of_anybody_is_refused(note: bytes) -> None:
    from multiraft.machine.descriptors import ShardDescriptor

    info = SnapshotInfo(
        Kind.BYTES,
        GROUP,
        5,
        1,
        b"",
        ShardDescriptor(extra=note),
        b"",
        0,
        0,
        0,  # type: ignore[arg-type]
    )
    with pytest.raises(PeerProtocolError):
        decode_note(info)


def test_the_newest_sound_state_is_found_and_what_was_never_finished_goes(tmp_path: Path) -> None:
    states = States(tmp_path)
    for index in (5, 60, 400):
        write_state(
            RealDisk(), states.path(GROUP, index), Kind.BYTES, GROUP, "log", At(index), [b"x"]
        )
    write_state(RealDisk(), states.path(4, 1), Kind.APPLIED, 4, "log", At(1))
    (tmp_path / "9-1.state.part").write_bytes(b"half")
    found = states.found()
    assert {group: state.info.index for group, state in found.items()} == {GROUP: 400, 4: 1}
    assert len(list(tmp_path.iterdir())) == 2
    write_state(RealDisk(), states.path(GROUP, 500), Kind.BYTES, GROUP, "log", At(500), [b"x"])
    path = states.path(GROUP, 500)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert states.found()[GROUP].info.index == 400, "a damaged one is left alone, and is no state"
    assert path.exists()


def test_without_links_a_received_file_is_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    host = Host(tmp_path / "own")
    host.begin()
    outcome = Outcome()
    host.files.install(GROUP, *file_of(tmp_path / "in", 10, b"x"), outcome)
    assert outcome.result is True
    assert host.states.found()[GROUP].info.index == 10


def test_p99_a_long_queue_is_applied_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user, "APPLY_NS_MAX", 0)  # the time is up after each entry
    host = Host(tmp_path)
    one = host.begin()
    host.jobs.run()
    host.commit(1, *[b"x"] * 3000)
    assert len(one.pieces) == 3 and one.full is False
    for done in range(1, 6):
        host.jobs.step()
        assert one.at.index == done and len(host.jobs.waiting) == 1
    host.commit(3001, *[b"x"] * 2000)
    assert one.full
    monkeypatch.setattr(user, "APPLY_NS_MAX", 10**9)
    host.jobs.run()
    assert one.at.index == 5000 and one.roomy and one.queued_entries == one.queued_bytes == 0


def test_jobs_go_to_whoever_is_free_and_no_more_workers_are_made_than_needed() -> None:
    workers: list[Manual] = []

    def make(_: int) -> Manual:
        workers.append(Manual())
        return workers[-1]

    pool = Pool(make, 2)
    outcomes = [Outcome() for _ in range(4)]
    for n, outcome in enumerate(outcomes):
        pool.submit(lambda n=n: n, outcome)  # type: ignore[misc]
    assert [len(worker.waiting) for worker in workers] == [1, 1]
    workers[1].step()
    workers[1].step()
    assert [bool(outcome.calls) for outcome in outcomes] == [False, True, True, False]
    workers[1].step()
    workers[0].step()
    assert [outcome.result for outcome in outcomes] == [0, 1, 2, 3]
    pool.submit(lambda: 4, outcomes[0])
    assert len(workers) == 2
    pool.submit(lambda: 5, Outcome())
    waits, late = Outcome(), Outcome()
    pool.submit(lambda: 6, waits)
    pool.stop()
    pool.submit(lambda: 7, late)
    assert sum(len(worker.waiting) for worker in workers) == 2
    assert [type(one.error) for one in (waits, late)] == [Closed, Closed]


def test_a_job_on_the_loop_reports_what_it_raises() -> None:
    acts: list[Callable[[], None]] = []
    jobs = LoopJobs(acts.append)
    good, bad, never = Outcome(), Outcome(), Outcome()
    jobs.submit(lambda: 1, good)
    jobs.submit(lambda: 1 // 0, bad)
    assert not good.calls
    for act in acts:
        act()
    assert good.result == 1 and isinstance(bad.error, ZeroDivisionError)
    jobs.submit(lambda: 2, never)
    jobs.stop()
    acts[-1]()
    assert not never.calls


@pytest.mark.parametrize(
    "value", [0, -1, 2**64 - 1, -(2**63), 1.5, True, None, b"x", "text", [], {}]
)
def test_plain_results_are_as_they_were(value: Any) -> None:
    assert plain_result(value) == value and type(plain_result(value)) is type(value)


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, object(), {1}, b"x" * (RESULT_BYTES_MAX + 1)]
)
def test_what_cannot_travel_is_said_so(value: Any) -> None:
    assert isinstance(plain_result(value), InvalidResult)
