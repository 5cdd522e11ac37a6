"""The commands ``run``, ``replay`` and ``shrink``: what they print, where, and with which code they end."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from multiraft.errors import ConfigError
from multiraft.testing import attempt as attempt_module
from multiraft.testing import commands
from multiraft.testing.__main__ import main
from multiraft.testing.attempt import attempt
from multiraft.testing.corpus import (
    Case,
    Report,
    Task,
    read_case,
    read_corpus,
    settings_from_json,
    write_case,
)
from multiraft.testing.crew import compared, run_all, share_of
from multiraft.testing.nemesis import Fault
from multiraft.testing.progress import Progress
from multiraft.testing.replay import replay
from multiraft.testing.simulation import Settings, Simulation
from multiraft.testing.simulation import run as run_seed
from multiraft.testing.workload import Load

KEYS = {"seeds", "violations", "cluster_hours", "cpu_hours", "events", "failed"}
QUIET = Settings(nodes=3, groups=1, seconds=2.0, profile="none")
OPTIONS = ["--profile", "none", "--groups", "1", "--seconds", "2"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def broken(reason: str) -> Any:
    """A simulation in which something is wrong from the beginning."""

    def begin(self: Simulation) -> None:
        self._violated(reason)

    return begin


# -- run ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_json_is_one_object_with_these_keys_and_nothing_else() -> None:
    done = run("run", "--seeds", 3, "--first", 5, *OPTIONS, "--jobs", 2, "--twice", 0.4, "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 0 and done.stdout.count("\n") == 1
    assert set(said) == KEYS
    assert said["seeds"] == 3 and said["violations"] == 0 and said["failed"] == []
    assert said["events"] > 1000
    assert said["cluster_hours"] * 3600 > 4 * 2  # three seeds, one of them twice


def test_a_violation_ends_with_1_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def some(tasks: list[Task], jobs: int, twice: float, told: Any) -> None:
        for task in tasks:
            told(Report(task.seed, "two leaders" if task.seed == 7 else "", 3600 * 10**9, 10**9, 5))

    monkeypatch.setattr(commands, "run_seeds", some)
    done = run("run", "--seeds", 3, "--first", 6, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "seeds": 3,
        "violations": 1,
        "cluster_hours": 3.0,
        "cpu_hours": 0.000833,
        "events": 15,
        "failed": [{"seed": 7, "reason": "two leaders"}],
    }
    assert "seed 7: two leaders" in done.stderr
    told = run("run", "--seeds", 3, "--first", 6)
    assert told.exit_code == 1
    assert "         7  two leaders\n3 seeds, 1 violations; 3.000 cluster hours" in told.stdout
    assert "replay 7 --profile swarm --nodes 3 --groups 4 --seconds 60" in told.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--seeds", "0"],
        ["run", "--profile", "sunshine"],
        ["run", "--nodes", "1"],
        ["run", "--seconds", "0"],
        ["run", "--twice", "2"],
        ["replay"],
        ["replay", "one"],
        ["shrink"],
        ["shrink", "1", "--faults", "nowhere.json"],
    ],
)
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and not done.stdout and "Usage" in done.stderr


@pytest.mark.slow
def test_ctrl_c_prints_what_is_known_so_far(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "multiraft.testing", "run", "--seeds", "100000", *OPTIONS, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 40  # of the first line of progress
    with process:
        assert process.stderr is not None
        assert "of 100000 seeds" in process.stderr.readline() and time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    said = json.loads(out)
    assert set(said) == KEYS and 0 < said["seeds"] < 100000
    assert "interrupted: " in err and "Traceback" not in err
    assert process.returncode == 130


# -- what becomes of a run ------------------------------------------------------------------------------------------------


def test_an_exception_out_of_the_simulator_is_a_violation_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin(self: Simulation) -> None:
        raise ValueError("there is no\nsuch thing")

    monkeypatch.setattr(Simulation, "_run", begin)
    report = attempt(Task(3, QUIET))
    assert report.reason.endswith("the simulator raised ValueError: there is no such thing")
    assert "in begin" in report.where and report.seed == 3


@pytest.mark.slow
def test_a_node_that_spins_in_one_instant_ends_the_run_and_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spin(self: Simulation) -> None:
        life = self.cluster.start(1)

        def again() -> None:
            life.loop.call_soon(again)

        life.loop.call_soon(again)
        self._pass(1.0)

    monkeypatch.setattr(Simulation, "_run", spin)
    report = attempt(Task(3, QUIET), patience_s=0.3)
    assert "at 0.0000 s no end within 0 s of CPU time, in " in report.reason
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.slow
def test_a_process_that_dies_fails_its_seed_and_no_other() -> None:
    good = [Task(seed, QUIET) for seed in (1, 2)]
    bad = Task(9, Settings(nodes=3, groups=1, seconds=2.0, profile="nothing of the kind"))
    reports = asyncio.run(run_all([good[0], bad, good[1]], jobs=1))
    assert [report.seed for report in reports] == [1, 9, 2]
    assert [bool(report.reason) for report in reports] == [False, True, False]
    assert reports[1].reason == "its process ended with code 1"


def test_two_runs_that_differ_are_a_violation() -> None:
    one, other = Report(1, "", 5, 7, 9, trace=1), Report(1, "", 5, 8, 9, trace=2)
    assert compared(one, other).reason.startswith("two runs differ: trace ")
    assert not compared(one, one).reason
    assert compared(one, one).cpu_ns == 14
    failed = Report(1, "two leaders", 5, 7, 9, trace=1)
    assert "the second failed: two leaders" in compared(one, failed).reason
    assert compared(failed, failed).reason == "two leaders"


def test_a_share_of_seeds_is_even_and_always_the_same() -> None:
    assert len(share_of(range(300), 0.05)) == 15
    assert share_of(range(300), 0.05) == share_of(range(300), 0.05)
    assert not share_of(range(300), 0)
    assert share_of(range(9), 1) == frozenset(range(9))


# -- replay ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_replay_is_the_same_run() -> None:
    settings = Settings(nodes=3, groups=1, seconds=4.0, profile="all")
    plain, told = run_seed(11, settings), replay(Task(11, settings))
    assert (told.outcome.trace, told.outcome.events) == (plain.trace, plain.events)


def test_a_replay_tells_faults_story_events_and_the_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin(self: Simulation) -> None:
        self.cluster.start(1)
        self.cluster.schedule.at(
            10**9, lambda: logging.getLogger("multiraft.x").warning("it is late")
        )
        self.cluster.schedule.at(2 * 10**9, lambda: self._violated("a stale read"))
        self._pass(3.0)

    monkeypatch.setattr(Simulation, "_run", begin)
    done = run("replay", 1, "--profile", "crash", "--seconds", 30)
    assert done.exit_code == 1
    order = [
        "faults:",
        " ms  close of 3\n",
        "story:",
        "1.0000 s    warning: it is late",
        "2.0000 s  VIOLATION: a stale read",
        "the last ",
        "begin.<locals>.<lambda>()\n\n",
        "at 2.0000 s: a stale read",
        "shrink 1 --profile crash --nodes 3 --groups 4 --seconds 30",
    ]
    places = [done.stdout.find(words) for words in order]
    assert -1 not in places and places == sorted(places), done.stdout


@pytest.mark.slow
def test_a_history_that_is_wrong_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: Simulation) -> None:
        with self.recorder.invoke(1, "write", "x", b"1") as call:
            call.ok()
        with self.recorder.invoke(1, "read", "x") as call:
            call.ok(b"2")

    monkeypatch.setattr(Simulation, "_run", begin)
    page = tmp_path / "page.html"
    done = run("replay", 1, *OPTIONS, "--html", page)
    assert done.exit_code == 1 and "not linearizable" in done.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_a_seed_that_is_fine_ends_with_0() -> None:
    done = run("replay", 1, *OPTIONS)
    assert done.exit_code == 0 and "nothing was wrong" in done.stdout
    assert logging.getLogger("multiraft").handlers == []
    assert run("shrink", 1, *OPTIONS).exit_code == 0


# -- shrink and the corpus ------------------------------------------------------------------------------------------------


def test_a_shrunk_seed_is_saved_and_can_be_replayed_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(self: Simulation) -> None:
        if any(fault.kind == "close" for fault in self.outcome.faults):
            self._violated("somebody closed")

    monkeypatch.setattr(Simulation, "_run", begin)
    level = logging.getLogger("multiraft").level
    done = run("shrink", 1, "--profile", "crash", "--seconds", 200, "--save", tmp_path)
    logging.getLogger("multiraft").setLevel(level)
    assert done.exit_code == 1 and "1 faults: somebody closed" in done.stdout
    ((name, case),) = read_corpus(tmp_path)
    assert name == "crash-1-200s-3x4" and case.waits == "being mended"
    assert [fault.kind for fault in case.task.faults or ()] == ["close"]
    path = tmp_path / f"{name}.json"
    again = run("replay", "--faults", path)
    assert again.exit_code == 1 and "somebody closed" in again.stdout
    assert run("replay", 2, "--faults", path).exit_code == 2


def test_a_case_comes_back_from_its_file(tmp_path: Path) -> None:
    settings = Settings(5, 32, 7.5, "disk", Load(keys=2), (("timeout_s", 3.0),))
    fault = Fault("cut", 100, 20, (1, 2), 0.5)
    for faults in (None, (), (fault,)):
        case = Case(Task(3, settings, faults), "it failed", "it was mended", "something")
        assert read_case(write_case(case, tmp_path)) == case


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"seed": 1}',
        '{"seed": 1, "settings": {"profile": "rain"}, "reason": "", "mended": ""}',
        '{"seed": 1, "settings": {"nodes": 1}, "reason": "", "mended": ""}',
        '{"seed": 1, "settings": {"hosts": 3}, "reason": "", "mended": ""}',
        '{"seed": 1, "settings": {}, "reason": "", "mended": "",'
        ' "faults": [{"kind": "rain", "at_ms": 1, "for_ms": 1, "nodes": [1]}]}',
        '{"seed": 1, "settings": {}, "reason": "", "mended": "",'
        ' "faults": [{"kind": "stop", "at_ms": 1, "for_ms": 1, "nodes": [4]}]}',
    ],
)
def test_a_file_that_is_no_case_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_case(path)
    assert run("replay", "--faults", path).exit_code == 2


def test_settings_that_are_not_said_are_as_usual() -> None:
    assert settings_from_json({}) == Settings()


# -- progress -------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_on_a_terminal_and_is_sparse_elsewhere() -> None:
    now = 0.0
    for file, sparse in ((Terminal(), False), (io.StringIO(), True)):
        progress = Progress(file, lambda: now)
        for second in range(60):
            now = float(second)
            progress.update(f"{second} done")
        progress.say("and this stays")
        said = file.getvalue()
        assert said.endswith("and this stays\n")
        assert said.count("\n") == (4 if sparse else 1)
        assert ("\r" in said) is not sparse
        now = 0.0


def test_the_limit_of_a_run_grows_with_its_size() -> None:
    usual = attempt_module.patience_of(Task(1, Settings()))
    large = attempt_module.patience_of(Task(1, Settings(nodes=5, groups=32, seconds=120)))
    assert large == usual * 8
