"""Clusters under faults, each from a seed: fresh ones in each run of the tests, and all that ever failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multiraft.testing.attempt import attempt
from multiraft.testing.commands import options_of
from multiraft.testing.corpus import Case, Report, read_corpus
from tests.simulation.seeds import BLOCKS, TwoProcesses, task_of

CORPUS = read_corpus(Path(__file__).parent / "corpus")


@pytest.fixture(scope="module")
def two_processes(request: pytest.FixtureRequest) -> Iterator[TwoProcesses]:
    """At work on the blocks that are asked for in this run."""
    asked = [
        item.callspec.params["block"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and item.originalname == "test_fresh_seeds"
    ]
    made = TwoProcesses(asked)
    yield made
    made.end()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]}-{block[-1]}")
def test_fresh_seeds(two_processes: TwoProcesses, block: range) -> None:
    failed = [report for report in two_processes.reports(block) if report.reason]
    if failed:
        pytest.fail("\n".join(map(told, failed)), pytrace=False)


def told(report: Report) -> str:
    options = options_of(task_of(report.seed).settings)
    replay = f"python -m multiraft.testing replay {report.seed} {options}"
    return f"seed {report.seed}: {report.reason}\n{report.where}    {replay}"


def marked(name: str, case: Case) -> object:
    waits = [pytest.mark.xfail(strict=True, reason=case.waits)] if case.waits else []
    return pytest.param(case, id=name, marks=waits)


@pytest.mark.slow
@pytest.mark.parametrize("case", [marked(name, case) for name, case in CORPUS])
def test_what_failed_once_does_not_fail_again(case: Case) -> None:
    report = attempt(case.task)
    assert not report.reason, f"{case.mended}; then it was: {case.reason}\n{report.where}"


def test_the_corpus_says_what_was_mended() -> None:
    assert CORPUS and all(case.reason and case.mended for _, case in CORPUS)
