"""The shared fixtures are the guard of all other tests, so they are shown to bite: one run of pytest over planted cases."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

CASES = """
import asyncio, socket, threading
import pytest

def test_both_loops(arun, loop_name):
    async def main():
        assert asyncio.get_running_loop().get_debug()
        return type(asyncio.get_running_loop()).__module__
    assert arun(main()).startswith(loop_name)

@pytest.mark.loops("asyncio")
def test_one_loop(arun, loop_name):
    arun(asyncio.sleep(0))

@pytest.mark.loops("asyncio")
def test_bad_task_left(arun):
    async def main():
        main.task = asyncio.ensure_future(asyncio.Event().wait())
    arun(main())

@pytest.mark.loops("uvloop")
def test_bad_unseen_error(arun):
    async def main():
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)
    arun(main())

@pytest.mark.loops("uvloop")
def test_seen_error(arun, loop_problems):
    async def main():
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)
    arun(main())
    assert isinstance(loop_problems.pop()["exception"], ZeroDivisionError)

@pytest.mark.timeout(1)
def test_bad_hang(arun):
    arun(asyncio.Event().wait())

@pytest.mark.timeout(1)
def test_bad_hang_off_loops():
    threading.Event().wait()

KEPT = []

def test_bad_socket_left():
    KEPT.append(socket.socket())

def test_bad_thread_left():
    go_on = threading.Event()
    KEPT.append(go_on)
    threading.Thread(target=go_on.wait, args=(5,), name="multiraft-log", daemon=True).start()

@pytest.mark.leaves_threads
def test_thread_left_on_purpose():
    go_on = threading.Event()
    threading.Thread(target=go_on.wait, args=(5,), name="multiraft-on-purpose", daemon=True).start()

def test_golden_same(golden, tmp_path):
    (tmp_path / "x").write_text("a")
    golden(tmp_path / "x", "a")

def test_golden_bad_text(golden, tmp_path, request):
    (tmp_path / "x").write_text("a")
    golden(tmp_path / "x", "b")

def test_golden_bad_bytes(golden, tmp_path):
    (tmp_path / "x").write_bytes(b"a")
    golden(tmp_path / "x", b"ab")

def test_golden_bad_missing(golden, tmp_path):
    golden(tmp_path / "x", b"ab")

def test_bad_warning():
    import warnings
    warnings.warn("any warning is an error")

"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the planted cases under our own conftest and settings, beside a package that is empty."""
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "tests" / "test_planted.py").write_text(CASES)
    (folder / "multiraft").mkdir(exist_ok=True)
    (folder / "multiraft" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "tests", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def outcomes_of(run: subprocess.CompletedProcess[str]) -> dict[str, set[str]]:
    """Outcome -> names of the tests."""
    outcomes: dict[str, set[str]] = {}
    for line in run.stdout.splitlines():
        outcome, _, rest = line.partition(" tests/test_planted.py::")
        if rest:
            outcomes.setdefault(outcome, set()).add(rest.split(" - ")[0])
    assert outcomes, run.stdout + run.stderr
    return outcomes


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_shared_fixtures_bite(tmp_path: Path) -> None:
    outcomes = outcomes_of(run_pytest(tmp_path))
    bad = {
        name.split("[")[0] for name in outcomes.get("FAILED", set()) | outcomes.get("ERROR", set())
    }
    assert bad == {
        "test_bad_task_left",
        "test_bad_hang",
        "test_bad_hang_off_loops",
        "test_bad_unseen_error",
        "test_bad_socket_left",
        "test_bad_thread_left",
        "test_golden_bad_text",
        "test_golden_bad_bytes",
        "test_golden_bad_missing",
        "test_bad_warning",
    }
    assert {"test_bad_hang[asyncio]", "test_bad_hang[uvloop]"} <= outcomes["FAILED"]
    good = {name for name in outcomes["PASSED"] if name.split("[")[0] not in bad}
    assert good == {
        "test_both_loops[asyncio]",
        "test_both_loops[uvloop]",
        "test_one_loop[asyncio]",
        "test_seen_error[uvloop]",
        "test_thread_left_on_purpose",
        "test_golden_same",
    }
    rewritten = outcomes_of(run_pytest(tmp_path, "--rewrite", "-k", "golden"))
    assert len(rewritten["PASSED"]) == 4


@pytest.mark.slow
def test_a_stale_module_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "multiraft").mkdir()
    (tmp_path / "multiraft" / ("a" + EXTENSION_SUFFIXES[0])).touch()
    run = run_pytest(tmp_path)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run `make build`" in run.stderr
    assert "passed" not in run.stdout
