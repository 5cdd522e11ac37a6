"""Fixtures for pytest: clusters, real and simulated, faults, and histories that are judged when the test ends.

Loaded by pytest wherever multiraft is installed. It only names fixtures and one option, all beginning with ``multiraft``; what they
need is imported by the tests that ask for them. ``docs/testing.md`` has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from multiraft.testing.local import LocalCluster
    from multiraft.testing.model import Model
    from multiraft.testing.nemesis import Nemesis
    from multiraft.testing.recorder import Recorder
    from multiraft.testing.trial import Trial

SEED_BITS = 32


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("multiraft").addoption(
        "--multiraft-seed",
        type=int,
        metavar="SEED",
        help="the seed of simulated clusters; a test that fails says which it had",
    )


@pytest.fixture
def multiraft_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: ``--multiraft-seed``, or a fresh one. Shown where the test fails."""
    given = request.config.getoption("multiraft_seed")
    seed = SystemRandom().getrandbits(SEED_BITS) if given is None else int(given)
    request.node.add_report_section("setup", "multiraft", f"--multiraft-seed={seed}")
    return seed


@pytest.fixture
def multiraft_cluster(tmp_path: Path) -> Callable[..., LocalCluster]:
    """Makes a cluster of three nodes on this process's loop: ``async with multiraft_cluster(machines=...) as cluster``."""
    from multiraft.testing.local import LocalCluster

    made = 0

    def make(**settings: Any) -> LocalCluster:
        nonlocal made
        made += 1
        return LocalCluster(tmp_path / f"cluster-{made}", **settings)

    return make


@pytest.fixture
def multiraft_simulation(multiraft_seed: int) -> Iterator[Callable[..., Trial]]:
    """Makes a simulated cluster from the seed: ``multiraft_simulation(nodes=3, machines=...)``."""
    from multiraft.testing.trial import Trial

    made: list[Trial] = []

    def make(**settings: Any) -> Trial:
        made.append(Trial(multiraft_seed, **settings))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


@pytest.fixture
def multiraft_nemesis() -> Iterator[Callable[..., Nemesis]]:
    """Begins faults in a simulated cluster: ``multiraft_nemesis(trial, "crash", seconds=20)``. They end with the test."""
    made: list[Nemesis] = []

    def begin(trial: Trial, profile: str = "swarm", seconds: float = 30.0) -> Nemesis:
        made.append(trial.nemesis(profile, seconds))
        return made[-1]

    yield begin
    for nemesis in made:
        nemesis.faults = ()


@pytest.fixture
def multiraft_history() -> Iterator[Callable[[Model], Recorder]]:
    """Makes a recorder for a model: ``multiraft_history(Register())``. When the test ends its history must be linearizable."""
    from multiraft.testing.linearizability import check
    from multiraft.testing.recorder import Recorder

    made: list[tuple[Recorder, Model]] = []

    def make(model: Model) -> Recorder:
        made.append((Recorder(), model))
        return made[-1][0]

    yield make
    for recorder, model in made:
        verdict = check(recorder.history(), model)
        if not verdict.ok:
            pytest.fail(str(verdict), pytrace=False)
