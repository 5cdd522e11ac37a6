"""Saves of users' machines: what the log must cover first, and what overtakes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multiraft.disk import RealDisk
from multiraft.errors import Closed
from multiraft.machine.hosted import Life
from multiraft.machine.snapshot import head_of_snapshot
from multiraft.machine.user_files import UserFiles

from .harness import Outcome
from .test_user import GROUP, Host, Log, Manual, at_once, file_of


class Tiny(Log):
    """One that is called on the loop: its file is written elsewhere."""

    on_loop = True


def indexes(folder: Path) -> list[int]:
    return sorted(int(head_of_snapshot(RealDisk(), path).index) for path in folder.glob("*.state"))


def test_p86_a_save_holds_what_the_log_was_asked_to_cover_and_nothing_that_came_later(
    tmp_path: Path,
) -> None:
    """The machine stands still from the question to the file: what it applied after it would not be covered."""
    host = Host(tmp_path)
    one = host.begin()
    host.jobs.run()
    host.commit(1, b"a", b"b")
    tell = host.jobs.step(report=False)  # busy when the save is asked for
    asked: list[tuple[int, Callable[[], None]]] = []
    saved: list[Any] = []
    host.files.save(GROUP, lambda go_on: asked.append((one.at.index, go_on)), saved.append)
    assert not asked
    tell()
    ((index, go_on),) = asked
    assert index == one.at.index == 2
    host.commit(3, b"c", b"d")
    read = Outcome()
    host.machines.read(GROUP, None, read)
    assert not host.jobs.waiting, "it stands still"
    assert indexes(tmp_path) == [] and not saved
    go_on()
    host.jobs.run()
    assert indexes(tmp_path) == [2] and saved[0].index == 2
    assert one.at.index == 4 and not one.saving
    assert read.result[:2] == [b"a", b"b"]


def test_a_save_that_a_snapshot_overtakes_raises_no_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the barrier, under the write, and with an alarm of before: the snapshot is durable, there is nothing to look at."""
    for when in ("covered", "written", "alarmed"):
        host = Host(tmp_path / when)
        one = host.begin()
        host.commit(1, b"a")
        host.jobs.run()
        waiting: list[Callable[[], None]] = []
        saved: list[Any] = []
        if when == "alarmed":
            one.alarm = "its state could not be saved: before"
        host.files.save(GROUP, waiting.append if when == "covered" else at_once, saved.append)
        tell = host.jobs.step(report=False) if when != "covered" else waiting[0]
        host.files.install(GROUP, *file_of(tmp_path / "in", 10, b"s"), Outcome())
        tell()
        assert saved == [None]
        host.jobs.run()
        assert one.life is Life.RUNNING and one.at.index == 10
        assert one.alarm == "" and not one.saving
        assert one.state is not None and one.state.info.index == 10
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_save_that_was_written_after_a_snapshot_took_its_place_is_dropped(tmp_path: Path) -> None:
    """It is older than what the log begins with now: taken for the state, it would be all that a start looks at."""
    host = Host(tmp_path / "own", {"log": Tiny})
    writes = Manual()
    one = host.begin()
    host.commit(1, b"a")
    host.files = UserFiles(host.machines, writes)
    installed, saved = Outcome(), []  # type: ignore[var-annotated]
    host.files.install(GROUP, *file_of(tmp_path / "in", 10, b"s"), installed)
    take = writes.step(report=False)
    host.files.save(GROUP, at_once, saved.append)
    written = writes.step(report=False)
    take()
    written()
    writes.run()
    assert installed.result is True and saved == [None]
    assert one.state is not None and one.state.info.index == 10
    assert indexes(tmp_path / "own") == [10]


def test_a_machine_that_fails_while_it_stands_still_raises_no_alarm_besides(tmp_path: Path) -> None:
    host = Host(tmp_path)
    one = host.begin()
    host.jobs.run()
    waiting: list[Callable[[], None]] = []
    saved: list[Any] = []
    host.files.save(GROUP, waiting.append, saved.append)
    host.machines.fail(one, RuntimeError("elsewhere"))
    host.files.save(GROUP, at_once, saved.append)
    waiting[0]()
    assert saved == [None, None]
    assert one.alarm == "" and not one.saving and not one.busy


def test_a_machine_that_stands_still_for_a_sync_that_never_comes_is_closed_with_its_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No job of it runs: nothing that it holds needs to be left behind."""
    host = Host(tmp_path)
    one = host.begin()
    host.jobs.run()
    closed: list[str] = []
    one.machine.close = lambda: closed.append("closed")
    host.files.save(GROUP, lambda go_on: None, lambda at: None)
    host.machines.stop(Closed("the node was closed"))
    host.machines.close()
    assert closed == ["closed"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
