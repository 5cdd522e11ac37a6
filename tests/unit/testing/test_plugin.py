"""What users get for their own tests: the plugin's fixtures, clusters of theirs, and the guard; the example of docs/testing.md."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft.errors import CommandError, ConfigError
from multiraft.testing.crew import PACKAGE_FOLDER
from multiraft.testing.guard import NotDeterministic, guarded
from multiraft.testing.local import LocalCluster
from multiraft.testing.nemesis import Fault
from multiraft.testing.trial import Trial, TrialFailed

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "test_tickets.py"


class Total:
    """Adds up. Right."""

    total = 0

    def apply(self, command: bytes, index: int, term: int) -> Any:
        if command == b"refused":
            raise CommandError("no such number")
        self.total += int(command)
        return self.total

    def read(self, query: Any) -> Any:
        return self.total

    def snapshot(self) -> Iterable[bytes]:
        yield str(self.total).encode()

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.total = int(b"".join(chunks))


def applied(machine: Any, *commands: bytes) -> Any:
    made = guarded(machine)()
    return [made.apply(command, index, 1) for index, command in enumerate(commands, 1)]


# -- the guard ------------------------------------------------------------------------------------------------------------


def test_a_machine_that_is_right_is_left_as_it_is() -> None:
    made = guarded(Total)()
    assert made.apply(b"3", 1, 1) == 3 and made.apply(b"4", 2, 1) == 7
    assert made.read(None) == 7 and list(made.snapshot()) == [b"7"]
    with pytest.raises(CommandError, match="no such number"):
        made.apply(b"refused", 3, 1)
    with pytest.raises(ValueError, match="invalid literal"):  # the machine's own failure
        made.apply(b"x", 4, 1)


def test_an_answer_by_chance_is_named_with_its_command() -> None:
    class Chance(Total):
        def apply(self, command: bytes, index: int, term: int) -> Any:
            return random.random() if command == b"5" else super().apply(command, index, term)

    assert applied(Chance, b"1", b"2") == [1, 3]
    with pytest.raises(NotDeterministic, match=r"command b'5' at 2 twice .* answered 0\."):
        applied(Chance, b"1", b"5")


def test_a_clock_in_the_state_is_named_with_its_command_and_the_bytes() -> None:
    class Clocked(Total):
        def apply(self, command: bytes, index: int, term: int) -> Any:
            self.total = time.monotonic_ns()

    with pytest.raises(NotDeterministic, match=r"b'1' at 1 .* two states after it: from byte \d+ "):
        applied(Clocked, b"1")


def test_a_snapshot_that_forgets_is_found_by_the_command_that_needs_it() -> None:
    class Forgets(Total):
        seen = 0

        def apply(self, command: bytes, index: int, term: int) -> Any:
            self.seen += 1
            return self.seen

    with pytest.raises(NotDeterministic, match=r"command b'1' at 2 .* answered 2 and 1"):
        applied(Forgets, b"1", b"1")


def test_a_restore_that_is_not_the_snapshot_is_found() -> None:
    class Rounds(Total):
        def restore(self, chunks: Iterable[bytes]) -> None:
            self.total = int(b"".join(chunks)) // 10 * 10

    with pytest.raises(
        NotDeterministic, match="before command b'1' at 2: a machine that was restor"
    ):
        applied(Rounds, b"7", b"1")


def test_an_order_that_a_copy_does_not_keep_is_found() -> None:
    class Bag(Total):
        def __init__(self) -> None:
            self.items: set[int] = set()

        def apply(self, command: bytes, index: int, term: int) -> Any:
            self.items.add(int(command))
            return list(self.items)

        def snapshot(self) -> Iterable[bytes]:
            yield b",".join(b"%d" % item for item in sorted(self.items))

        def restore(self, chunks: Iterable[bytes]) -> None:
            self.items = {int(item) for item in b"".join(chunks).split(b",") if item}

    assert applied(Bag, b"1", b"2") == [[1], [1, 2]]
    with pytest.raises(NotDeterministic, match=r"answered \[8, 0.*\] and \[0, 8"):
        applied(Bag, b"8", b"0", b"1")


def test_errors_are_compared_too() -> None:
    class Refuses(Total):
        def apply(self, command: bytes, index: int, term: int) -> Any:
            raise CommandError(f"it is {time.monotonic_ns()}")

    with pytest.raises(NotDeterministic, match=r"answered CommandError\("):
        applied(Refuses, b"1")


def test_a_machine_on_its_own_disk_is_refused() -> None:
    class Own(Total):
        on_disk = True

    with pytest.raises(ConfigError, match="keeps its own disk"):
        guarded(Own)


# -- a simulated cluster of a user ----------------------------------------------------------------------------------------


async def adds(node: multiraft.Node, name: str) -> None:
    group = await node.create_group("sum", "total", timeout=60)
    while True:
        try:
            await group.propose_many([b"1"] * 3, timeout=2)
        except multiraft.MultiRaftError:
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.2)


async def total(node: multiraft.Node) -> int:
    group = await node.create_group("sum", "total", timeout=60)
    found: int = await group.read(timeout=10)
    return found


async def fails(node: multiraft.Node, name: str) -> None:
    await asyncio.sleep(1)
    raise ZeroDivisionError


@pytest.fixture
def trials() -> Any:
    made: list[Trial] = []

    def make(seed: int, **settings: Any) -> Trial:
        made.append(Trial(seed, machines={"total": Total}, **settings))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


@pytest.mark.slow
def test_a_machine_and_its_clients_live_through_faults_and_the_same_seed_is_the_same_run(
    trials: Any,
) -> None:
    traces = []
    for seed in (3, 3, 4):
        trial = trials(seed)
        trial.clients(adds, each=2)
        nemesis = trial.nemesis("crash", seconds=15)
        trial.run(15)
        trial.settle()
        found = trial.everywhere(total)
        assert sorted(found) == [1, 2, 3] and min(found.values()) > 20
        traces.append((trial.trace, found, nemesis.faults))
    assert traces[0] == traces[1] and traces[0][0] != traces[2][0] and traces[0][2]


@pytest.mark.slow
def test_no_real_clock_reaches_a_simulated_machine(
    trials: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    for step_ns in (0, 10**9):
        ticks = itertools.count(0, step_ns) if step_ns else itertools.repeat(0)
        for name in ("monotonic_ns", "perf_counter_ns", "time_ns"):
            monkeypatch.setattr(time, name, ticks.__next__)
        trial = trials(3)
        trial.clients(adds, each=2)
        trial.run(5)
        traces.append(trial.trace)
    assert traces[0] == traces[1]


@pytest.mark.slow
def test_what_a_client_raises_fails_the_trial_and_tells_the_seed(trials: Any) -> None:
    trial = trials(7)
    trial.clients(fails)
    with pytest.raises(TrialFailed, match=r"ZeroDivisionError.*\n\(seed 7, after "):
        trial.run(10)


@pytest.mark.slow
def test_what_is_asked_of_a_node_is_raised_in_the_test(trials: Any) -> None:
    trial = trials(7)
    trial.settle()

    async def asks(node: multiraft.Node) -> None:
        await node.create_group("sum", "nothing of the kind", timeout=5)

    with pytest.raises(multiraft.MultiRaftError):
        trial.everywhere(asks)


@pytest.mark.slow
def test_a_cluster_that_does_not_serve_again_fails_the_trial(trials: Any) -> None:
    trial = trials(7)
    trial.settle()
    trial._well = lambda: False
    with pytest.raises(TrialFailed, match="does not serve 20 s after the last fault"):
        trial.settle(20)


@pytest.mark.slow
def test_an_error_of_a_disk_ends_a_node_and_fails_no_trial(trials: Any) -> None:
    trial = trials(7)
    trial.clients(adds)
    trial.settle()
    trial.nemesis(faults=[Fault("error-of-a-sync", 100, 0, (2,), 1.0)], profile="none")
    trial.run(5)
    assert trial.cluster.lives[2].count == 2
    trial.settle()


# -- a real cluster of a user ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_local_cluster_serves_and_a_node_of_it_comes_back(arun: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalCluster(tmp_path, machines={"total": Total}) as cluster:
            assert sorted(cluster.nodes) == [1, 2, 3]
            group = await cluster.nodes[1].create_group("sum", Total, timeout=30)
            assert await group.propose(b"2", timeout=30) == 2
            await cluster.stop(2)
            assert await group.propose(b"3", timeout=30) == 5
            node = await cluster.start(2)
            again = await node.create_group("sum", Total, timeout=30)
            assert await again.read(timeout=30) == 5
        assert not cluster.nodes

    arun(main())


# -- the plugin -----------------------------------------------------------------------------------------------------------


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Somebody else's test run."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"]
    command += ["-p", "multiraft.testing.plugin", "--rootdir", str(folder), "-c", os.devnull]
    environment = {
        **os.environ,
        "PYTHONPATH": PACKAGE_FOLDER,
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_the_example_finds_the_bug_and_finds_nothing_when_it_is_mended(tmp_path: Path) -> None:
    code = EXAMPLE.read_text()
    (tmp_path / "test_tickets.py").write_text(code)
    for seed in (1, 2):
        found = pytest_run(tmp_path, f"--multiraft-seed={seed}")
        assert found.returncode == 1
        assert "command b'anna' at 3 twice to the same state and answered 1 and 3" in found.stdout
        assert re.search(r"by the model same-number; \d+ violated", found.stdout)
        assert f"--multiraft-seed={seed}" in found.stdout
    bug = "        yield str(self.next).encode()  # the bug: where are the numbers?\n"
    wrong = '        self.next = int(b"".join(chunks))\n'
    assert bug in code and wrong in code
    code = code.replace(bug, "        yield repr(self.numbers).encode()\n").replace(
        wrong,
        "        import ast\n\n"
        '        self.numbers = ast.literal_eval((b"".join(chunks) or b"{}").decode())\n'
        "        self.next = len(self.numbers) + 1\n",
    )
    (tmp_path / "test_tickets.py").write_text(code)
    mended = pytest_run(tmp_path, "--multiraft-seed=1")
    assert mended.returncode == 0, mended.stdout


FIXTURES = """
import asyncio

def test_real(multiraft_cluster):
    async def main():
        async with multiraft_cluster(count=3) as cluster:
            await cluster.nodes[2].store.put(b"k", b"v", timeout=30)
            assert await cluster.nodes[3].store.get(b"k", timeout=30) == b"v"
    asyncio.run(main())

def test_seed(multiraft_seed):
    assert multiraft_seed == 5, "another"

def test_history(multiraft_history):
    from multiraft.testing import Register
    recorder = multiraft_history(Register())
    with recorder.invoke(1, "write", "k", "a") as call:
        call.ok()
    with recorder.invoke(1, "read", "k") as call:
        call.ok("b")
"""


@pytest.mark.slow
def test_fixtures_say_their_seed_and_judge_their_history(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(FIXTURES)
    done = pytest_run(tmp_path, "--multiraft-seed=5")
    assert "3 passed, 1 error" in done.stdout
    assert "ERROR test_mine.py::test_history - Failed: not linearizable" in done.stdout
    fresh = pytest_run(tmp_path, "-k", "seed")
    assert "1 failed" in fresh.stdout and "--multiraft-seed=" in fresh.stdout


def test_the_plugin_imports_nothing_that_its_package_does_not() -> None:
    code = (
        "import sys, multiraft.testing; before = set(sys.modules); import multiraft.testing.plugin;"
        "print(sorted(n for n in set(sys.modules) - before if n.startswith(('multiraft', 'click', 'lmdb'))))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": PACKAGE_FOLDER},
    )
    assert run.stdout == "['multiraft.testing.plugin']\n"
