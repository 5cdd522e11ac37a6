"""What every test may lean on: event loops, golden files, and checks that nothing is stale and nothing is left behind.

- ``arun(coroutine)`` runs it on asyncio and then on uvloop, both in debug mode; ``@pytest.mark.loops("asyncio")``
  narrows it. A task left over, or an error that reached only the loop's exception handler, fails the test.
- ``golden(path, text)`` compares with a file under the tests; ``pytest --rewrite`` writes it, and the diff is the review.
- After each test no worker thread, socket or database file that it opened may still be open.
- The time limit ends a test that hangs on a loop, too, and shows what its tasks waited for.
- A compiled module older than its source stops the run, since its tests would say nothing about the code; so does a package
  that comes from another folder than it should (the release build in a run of the debug build). Where no sources lie beside
  the tests, they judge the package that is installed.

Property tests draw the same examples in each run; ``--hypothesis-profile=explore`` draws others, and more.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import io
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import hypothesis
import pytest
import uvloop

from tools.stale import missing_modules, stale_modules

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("repeatable")


# -- before the run -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write golden files anew instead of comparing with them",
    )


def folder_of_package() -> Path:
    """The folder that ``import multiraft`` takes it from: the root, or ``build/debug`` in a run of the debug build."""
    spec = importlib.util.find_spec("multiraft")
    if spec is None or spec.origin is None:
        raise pytest.UsageError("multiraft cannot be imported: run `make build`")
    return Path(spec.origin).resolve().parents[1]


def pytest_sessionstart(session: pytest.Session) -> None:
    if not (ROOT / "multiraft").is_dir():
        return  # tests without sources beside them judge whatever package is installed
    wanted = session.config.getini("pythonpath")[:1]
    if wanted and folder_of_package() != Path(wanted[0]).resolve():
        raise pytest.UsageError(f"multiraft comes from {folder_of_package()}, not from {wanted[0]}")
    stale = stale_modules(ROOT, folder_of_package())
    if stale:
        raise pytest.UsageError(
            "stale build, run `make build` (or `make debug`): " + "; ".join(stale)
        )


def pytest_report_header() -> list[str]:
    missing = missing_modules(ROOT, folder_of_package())
    return [f"not compiled, run `make build`: {', '.join(missing)}"] if missing else []


# -- event loops --------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loop_name" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("loops")
        metafunc.parametrize("loop_name", marker.args if marker else tuple(LOOPS))


if "MULTIRAFT_CRASH" not in os.environ:
    collect_ignore = [
        "crash"
    ]  # two of them fail today (docs/testing.md): MULTIRAFT_CRASH=1 runs them


@pytest.fixture
def loop_problems() -> list[dict[str, Any]]:
    """What reached the loop's exception handler. A test that provokes such an error looks at it here and clears it."""
    return []


@pytest.fixture
def loop_runner(loop_name: str, loop_problems: list[dict[str, Any]]) -> Iterator[asyncio.Runner]:
    """A runner in debug mode, once for each loop."""
    with asyncio.Runner(debug=True, loop_factory=LOOPS[loop_name]) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: loop_problems.append(context))
        yield runner
        left = [repr(task) for task in asyncio.all_tasks(loop) if not task.done()]
    assert not left, "tasks left behind"
    assert not loop_problems, "errors that only the loop's exception handler saw"


@pytest.fixture
def arun(loop_runner: asyncio.Runner) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine to its end and return what it returns."""
    return loop_runner.run


# -- time limits --------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Iterator[Any]:
    """Let the time limit end a test that hangs on a loop.

    The plugin raises from a signal handler. uvloop takes such an exception for that of a callback and goes on waiting, so
    a running loop is stopped instead, and what its tasks waited for is shown. Again ten seconds later, in case a task that
    is then cancelled hangs too.
    """
    result = yield
    usual = signal.getsignal(signal.SIGALRM)

    def time_is_up(number: int, frame: FrameType | None) -> None:
        loop = asyncio._get_running_loop()
        if loop is None:
            if callable(usual):
                usual(number, frame)
            return
        shown = io.StringIO()
        for task in asyncio.all_tasks(loop):
            task.print_stack(file=shown)
        item.add_report_section("call", "tasks when the time was up", shown.getvalue())
        signal.setitimer(signal.ITIMER_REAL, 10)
        loop.call_soon_threadsafe(loop.stop)

    if callable(usual):
        signal.signal(signal.SIGALRM, time_is_up)
    return result


# -- golden files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str | bytes], None]:
    """Compare with a file that is checked in, or write it where ``--rewrite`` is given."""

    def compare(path: Path, actual: str | bytes) -> None:
        data = actual.encode() if isinstance(actual, str) else actual
        if request.config.getoption("rewrite"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        assert path.exists(), f"{path} is missing: look at what --rewrite writes, and check it in"
        expected = path.read_bytes()
        if isinstance(actual, str):
            assert actual == expected.decode()
        else:
            assert actual.hex(" ", 8) == expected.hex(" ", 8)

    return compare


# -- nothing left behind ------------------------------------------------------------------------------------------------


def open_things() -> set[str]:
    """Our threads, and descriptors of sockets and databases. Cheap: a few dozen links to read."""
    found = {f"thread {t.name}" for t in threading.enumerate() if t.name.startswith("multiraft")}
    folder = Path("/proc/self/fd")
    for name in os.listdir(folder) if folder.is_dir() else ():
        try:
            target = os.readlink(folder / name)
        except FileNotFoundError:
            continue  # the descriptor of this very listing
        if target.startswith("socket:") or target.endswith((".mdb", ".lock")):
            found.add(f"descriptor {name} of {target}")
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = open_things()
    yield
    if request.node.get_closest_marker("leaves_threads") is None and open_things() - before:
        gc.collect()
        left = open_things() - before
        assert not left, f"left behind: {sorted(left)}"
