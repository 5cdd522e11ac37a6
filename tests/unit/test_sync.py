"""The synchronous face: what it shares with the asynchronous one, and what threads, signals, forks and endings do to it."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft import BatchError, Config, Entry, Put, sync
from multiraft.errors import (
    Closed,
    CommandError,
    ConfigError,
    DeadlineExceeded,
    DirectoryInUse,
    GroupUnknown,
    InvalidCommand,
    InvariantViolation,
    OutcomeUnknown,
    Overloaded,
    PreconditionFailed,
    Rejected,
    SyncFailed,
    WrongThread,
)
from multiraft.interfaces import TransportEvents
from multiraft.log.store import LmdbLogStore
from multiraft.node.turn import TurnEvents
from multiraft.worker import LoopThread
from tests.unit.node.machines import Counter

ROOT = Path(__file__).resolve().parents[2]

# What the asynchronous face has besides: its node closes the store, and `async with` has other words.
STORE_ALONE = {"close"}
NODE_SHARED = {"start", "ready", "closed", "status", "register", "create_group", "group"}


# -- one face -----------------------------------------------------------------------------------------------------------


def public(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if callable(value) and name[0] != "_"}


def returned(signature: inspect.Signature) -> str:
    """What a caller gets in the end, whether it awaits a ticket, a coroutine, or nothing."""
    said = str(signature.return_annotation)
    if said.startswith("Ticket["):
        return said.removeprefix("Ticket[").removesuffix("]")
    return said.replace("AsyncIterator", "Iterator")


def assert_alike(asynchronous: Any, synchronous: Any) -> None:
    wanted, given = inspect.signature(asynchronous), inspect.signature(synchronous)
    assert list(given.parameters.values()) == list(wanted.parameters.values())
    assert returned(given) == returned(wanted)


def test_every_call_of_the_store_is_there_with_the_same_signature() -> None:
    assert public(sync.Store) == public(multiraft.Store) - STORE_ALONE
    for name in public(sync.Store):
        assert_alike(getattr(multiraft.Store, name), getattr(sync.Store, name))


def test_the_calls_of_the_node_are_there_with_the_same_signature() -> None:
    for name in NODE_SHARED:
        assert_alike(getattr(multiraft.Node, name), getattr(sync.Node, name))
    assert_alike(multiraft.Node.aclose, sync.Node.close)
    assert public(sync.Node) == NODE_SHARED | {"close"}
    told = public(TransportEvents) | public(TurnEvents)  # what the node is for its own parts
    assert public(multiraft.Node) - told == NODE_SHARED | {"aclose"}, (
        "a call of the node that threads cannot make"
    )
    made, given = (dict(inspect.signature(kind).parameters) for kind in (multiraft.Node, sync.Node))
    assert given.pop("loop").default == "auto"
    made.pop("world")  # a simulated one has no threads
    assert given == made
    wanted = dict(inspect.signature(multiraft.open).parameters)
    given = dict(inspect.signature(sync.open).parameters)
    assert given.pop("loop").default == "auto"
    assert given == wanted


def test_every_call_of_a_group_is_there_with_the_same_signature() -> None:
    assert public(sync.Group) == public(multiraft.Group)
    for name in public(sync.Group):
        assert_alike(getattr(multiraft.Group, name), getattr(sync.Group, name))
    seen = {name for name, value in vars(multiraft.Group).items() if isinstance(value, property)}
    assert seen == {n for n, value in vars(sync.Group).items() if isinstance(value, property)}


def test_a_machine_of_the_users_own_is_called_from_threads(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path)), machines={"counter": Counter}) as node:
        group = node.create_group("hits", Counter)
        assert (group.name, group.kind) == ("hits", "counter")
        until(lambda: group.leads and group.leader == 1)
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: group.propose(b"1"), range(40)))
        assert sorted(results) == list(range(1, 41)), "each of another's"
        assert group.propose_many(iter([b"1", b"2"])) == [41, 43]  # type: ignore[arg-type]
        assert node.group("hits").read() == 43 and node.group("hits").id == group.id
        with pytest.raises(CommandError, match="as asked"):
            group.propose(b"refuse")
        with pytest.raises(KeyError, match="no such thing"):
            group.read("fail")
        with pytest.raises(GroupUnknown):
            node.group("misses")
        node.register("other", type("Other", (Counter,), {}))
        assert node.create_group("misses", "other").propose(b"7") == 7
    with pytest.raises(Closed):
        group.propose(b"1")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_call_does_what_it_says(tmp_path: Path, loop: str) -> None:
    with sync.open(tmp_path, loop=loop) as db:
        first = db.put(b"k1", b"a")
        second = db.put(b"k1", b"b")
        assert 0 < first < second
        assert db.get(b"k1") == b"b"
        assert db.get_entry(b"k1") == Entry(b"b", second)
        assert db.get(b"k2") is None and db.get_entry(b"k2") is None
        third = db.compare_and_set(b"k1", b"c", expected=b"b")
        with pytest.raises(PreconditionFailed) as failed:
            db.compare_and_set(b"k1", b"d", revision=first)
        assert failed.value.revision == third
        assert db.delete(b"k1") > third
        items = [(b"k%d" % n, b"v%d" % n) for n in (5, 1, 9, 3, 7)]
        assert len(db.put_many(item for item in items)) == 5
        assert db.get_many(key for key in (b"k9", b"k0", b"k5")) == [b"v9", None, b"v5"]
        assert list(db.scan()) == sorted(items)
        assert list(db.scan(reverse=True, limit=2)) == sorted(items, reverse=True)[:2]
        assert [key for key, _ in db.scan(start=b"k3", end=b"k9")] == [b"k3", b"k5", b"k7"]
        assert list(db.scan(prefix=b"x")) == []
        assert db.batch([Put(b"x", b"1"), Put(b"y", b"2")]) > 0
        assert db.delete_range(b"k", b"l") > 0
        assert list(db.scan()) == [(b"x", b"1"), (b"y", b"2")]
    with sync.open(tmp_path, loop=loop) as db:
        assert list(db.scan()) == list(db.scan(stale=True)) == [(b"x", b"1"), (b"y", b"2")]


def test_errors_are_those_of_the_asynchronous_face(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path), shards=4)) as node:
        for wrong in (b"", "text", None):
            with pytest.raises(InvalidCommand):
                node.store.put(wrong, b"x")  # type: ignore[arg-type]
        with pytest.raises(InvalidCommand):
            next(node.store.scan(prefix=b"a", end=b"b"))
        with hold_log(node):
            with pytest.raises(DeadlineExceeded):
                node.store.put(b"k", b"v", timeout=0.05)
            with pytest.raises(BatchError) as failed:
                node.store.put_many([(b"%d" % n, b"x") for n in range(9)], timeout=0.05)
            assert len(failed.value.outcomes) == 9
        with pytest.raises(InvariantViolation, match="once"):
            node.start()
        with pytest.raises(DirectoryInUse), sync.open(tmp_path, shards=4):
            pass
    for refused in ("trio", ""):
        with pytest.raises(ConfigError, match="loop"):
            sync.Node(Config(data_dir=str(tmp_path)), loop=refused)
    with pytest.raises(Closed):
        sync.Node(Config(data_dir=str(tmp_path))).ready()


def test_a_node_that_failed_says_so_to_every_thread(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path))) as node, ThreadPoolExecutor(2) as pool:
        inner = node._node
        inner.log.append = lambda batch: None  # type: ignore[method-assign]
        ended = pool.submit(node.closed)
        waiting = pool.submit(node.store.put, b"k", b"v")
        until(lambda: node.status().waiting_calls == 1)
        inner._loop.call_soon_threadsafe(inner.failed, SyncFailed("the disk said no"))
        unknown = waiting.exception()
        assert isinstance(unknown, OutcomeUnknown) and isinstance(unknown.__cause__, SyncFailed)
        assert isinstance(ended.exception(), SyncFailed)
        with pytest.raises(Closed):
            node.store.get(b"k")


class hold_log:
    """Nothing reaches the log inside the block, and all of it does after."""

    def __init__(self, node: sync.Node) -> None:
        self._node = node._node
        self._held: list[bytes] = []

    def __enter__(self) -> None:
        self._append = self._node.log.append
        self._node.log.append = self._held.append  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        async def release() -> None:
            self._node.log.append = self._append  # type: ignore[method-assign]
            for batch in self._held:
                self._append(batch)

        asyncio.run_coroutine_threadsafe(release(), self._node._loop).result(10)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the loop brings about: each question is answered there, so this takes no time of its own."""
    while not condition():
        pass


# -- threads ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_threads_call_at_once_and_share_syncs(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path), shards=4)) as node:
        before = node.status().batches

        def work(number: int) -> None:
            for n in range(40):
                key = b"%d-%d" % (number, n)
                revision = node.store.put(key, key)
                assert node.store.get_entry(key) == Entry(key, revision)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert len(list(node.store.scan())) == 16 * 40
        assert node.status().batches - before < 16 * 40, "each put had a sync of its own"


def test_a_thread_that_runs_a_loop_is_refused(tmp_path: Path) -> None:
    with sync.open(tmp_path) as db:

        async def inside() -> None:
            with pytest.raises(WrongThread, match="asynchronous"):
                db.put(b"k", b"v")
            with pytest.raises(Rejected):
                next(db.scan())
            await asyncio.to_thread(db.put, b"k", b"from a thread without one")

        asyncio.run(inside())
        assert db.get(b"k") == b"from a thread without one"


@pytest.mark.slow
def test_three_nodes_in_one_process(tmp_path: Path) -> None:
    from tests.unit.node.test_cluster import Trio

    trio = Trio(tmp_path)
    nodes = [sync.Node(trio.config(number)) for number in (1, 2, 3)]
    with nodes[0], nodes[1], nodes[2]:
        for node in nodes:
            node.ready(20)
        for number, node in enumerate(nodes):
            node.store.put_many((b"%d-%d" % (number, n), b"x") for n in range(20))
        for node in nodes:
            assert len(list(node.store.scan())) == 60


# -- scans --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scan_reads_as_it_is_advanced_and_may_be_left(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path))) as node:
        store, machine = node.store, node._node.machine
        store.put_many((b"%06d" % n, b"x" * 100) for n in range(20_000))
        pages: list[int] = []
        scan_page = machine.scan_page

        def counted(*args: Any) -> Any:
            pages.append(1)
            return scan_page(*args)

        machine.scan_page = counted  # type: ignore[method-assign, assignment]
        scan = store.scan()
        assert pages == [], "nothing is read before the first is asked for"
        assert next(scan)[0] == b"000000"
        assert len(pages) <= 2
        for _ in range(3000):
            next(scan)
        assert len(pages) <= 9
        del scan
        assert sum(1 for _ in store.scan()) == 20_000
        left: Iterator[Any] = store.scan(reverse=True)
        assert next(left)[0] == b"019999"
    with pytest.raises(Closed):
        for _ in left:
            pass
    with pytest.raises(Closed):
        next(store.scan())
    with pytest.raises(Closed):
        store.get(b"000000")


@pytest.mark.parametrize("pages", [0, 2])
def test_what_a_scan_has_read_is_given_out_before_its_error(tmp_path: Path, pages: int) -> None:
    """Pages are smaller than what crosses at once: those that came before the one that failed are not lost with it."""
    with sync.Node(Config(data_dir=str(tmp_path), cold_reads="loop")) as node:
        node.store.put_many((b"%04d" % n, bytes(100)) for n in range(2000))
        assert sum(1 for _ in node.store.scan()) == 2000, (
            "memory brings them into order for the first"
        )
        machine = node._node.machine
        whole, seen = machine.scan_page, 0

        def failing(
            group: int, start: bytes, end: bytes, keys: int, size: int, *given: Any, **more: Any
        ) -> Any:
            nonlocal seen
            seen += 1
            if seen > pages:
                raise Overloaded("as asked")
            return whole(group, start, end, 100, size, *given, **more)

        machine.scan_page = failing  # type: ignore[method-assign, assignment]
        found: list[bytes] = []
        with pytest.raises(Overloaded, match="as asked"):
            for key, _ in node.store.scan():
                found.append(key)
        assert found == [b"%04d" % n for n in range(100 * pages)]
        del machine.scan_page  # type: ignore[method-assign]
        assert sum(1 for _ in node.store.scan()) == 2000


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the loop ends", "the work is cancelled"])
def test_p93_work_that_was_begun_and_not_heard_of_is_unknown_and_not_closed(how: str) -> None:
    """``Closed`` promises that nothing happened; of a write that was on its way nobody can say that."""

    async def work() -> None:
        begun.set()
        if how == "the work is cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.Event().wait()

    begun = threading.Event()
    thread = LoopThread("test", asyncio.new_event_loop())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(thread.wait, work)
        begun.wait()
        if how == "the loop ends":
            thread.close()
        assert isinstance(waiting.exception(), OutcomeUnknown)
        thread.close()
    with pytest.raises(Closed):
        thread.wait(work)


def test_a_scan_that_is_left_ends_on_the_loop_too(tmp_path: Path) -> None:
    with sync.Node(Config(data_dir=str(tmp_path))) as node:
        node.store.put_many((b"%04d" % n, b"x") for n in range(2000))
        inner, made = node._node.store, []
        read = inner.scan

        def kept(**options: Any) -> Any:
            made.append(read(**options))
            return made[-1]

        inner.scan = kept  # type: ignore[method-assign]
        scan = node.store.scan()
        next(scan)
        assert made[0].ag_frame is not None
        del scan
        node.status()  # what was told before is done before
        node.status()
        assert made[0].ag_frame is None
        assert len(list(node.store.scan())) == 2000


# -- signals --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, also where a shell has started all of this in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    """Press Ctrl-C for the main thread, once something is so."""
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        until(ready)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_ctrl_c_gives_up_the_wait_and_nothing_else(tmp_path: Path, loop: str) -> None:
    with (
        sync.Node(Config(data_dir=str(tmp_path)), loop=loop) as node,
        ThreadPoolExecutor(1) as pool,
    ):
        with hold_log(node):
            other = pool.submit(node.store.put, b"other", b"1")
            thread = interrupt_when(lambda: node.status().waiting_calls == 2)
            with pytest.raises(KeyboardInterrupt):
                node.store.put(b"mine", b"1")
            thread.join()
        assert other.result() > 0
        assert node.store.get(b"mine") == b"1", "its command went its way"
        assert node.store.put(b"mine", b"2") > 0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_starting_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slowly(*args: Any, **options: Any) -> LmdbLogStore:
        opening.set()
        assert go_on.wait(30)
        return LmdbLogStore(*args, **options)

    slowly.close = LmdbLogStore.close  # type: ignore[attr-defined]
    monkeypatch.setattr("multiraft.node.wiring.LmdbLogStore", slowly)
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        opening.wait(30)
        signal.pthread_kill(main, signal.SIGINT)
        go_on.set()

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sync.Node(Config(data_dir=str(tmp_path))).start()
    thread.join()
    monkeypatch.undo()
    with sync.open(tmp_path) as db:
        assert db.put(b"k", b"v") > 0


# -- processes ------------------------------------------------------------------------------------------------------------

FORK = """
import os, sys, warnings
from multiraft import sync
from multiraft.errors import WrongThread
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is what this is about
with sync.open(sys.argv[1]) as db:
    db.put(b"k", b"v")
    child = os.fork()
    if child == 0:
        for call in (lambda: db.get(b"k"), lambda: next(db.scan()), lambda: db.put_many([(b"k", b"child")])):
            try:
                call()
            except WrongThread as error:
                print(str(os.getppid()) in str(error), flush=True)
        sys.exit(7)  # out of the block, which closes nothing here
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(db.get(b"k"), db.put(b"k", b"w") > 0)
"""

EXIT = """
import sys, threading
from multiraft import Closed, Config, sync
node = sync.Node(Config(data_dir=sys.argv[1]), loop=sys.argv[2])
node.start()
node.store.put(b"k", b"v")
scan = node.store.scan()
next(scan)
opened = sync.open(sys.argv[1] + "-too")
db = opened.__enter__()
db.put(b"k", b"v")

def wait():
    try:
        node.closed()
    except Closed:
        pass  # it came too late to be heard

if sys.argv[3] == "waits":
    threading.Thread(target=wait, daemon=True).start()
else:
    del wait  # then the end takes this module apart, and what it holds is closed by the garbage collector
print("ends")
"""


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A program of its own; one that hangs is killed, and fails the test."""
    return subprocess.run(
        [sys.executable, "-c", script, *args], cwd=ROOT, capture_output=True, text=True, timeout=40
    )


@pytest.mark.slow
def test_a_fork_is_noticed_and_harms_nobody(tmp_path: Path) -> None:
    done = run(FORK, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n")[:-1] == ["True"] * 3 + ["7", "b'v' True"]


@pytest.mark.slow
@pytest.mark.parametrize("thread", ["waits", "none"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_program_that_ends_without_closing_does_not_hang(
    tmp_path: Path, loop: str, thread: str
) -> None:
    done = run(EXIT, str(tmp_path / "data"), loop, thread)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
    with sync.open(tmp_path / "data") as db:
        assert list(db.scan()) == [(b"k", b"v")]
    assert os.path.isdir(tmp_path / "data-too")
