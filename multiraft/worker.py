"""Threads, all of them: the only module that imports ``threading``.

A worker is one named OS thread that runs the jobs handed to it, in order, and tells the loop what came of each. Jobs are
plain functions that may block (a commit, a sync, a file); they never touch what the loop owns. Nothing here holds a lock
while it runs a job or a callback. The other way round, a ``LoopThread`` runs a loop for threads that have none.

Invariants: ``done`` of each job is called exactly once, on the loop, in the order of the jobs - unless the loop is closed,
when nobody is left to tell. Whoever waits for a ``LoopThread`` is answered, by its end at the latest.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from multiraft.errors import Closed, ConfigError, OutcomeUnknown, WrongThread

T = TypeVar("T")

FREEZE_S = 1.0
"""How long the end of the interpreter waits for a loop to stand still."""

Done = Callable[[Any, BaseException | None], None]


class Worker:
    """One named OS thread behind a queue. Made on a running loop, or for the loop that is given.

    ``patience_s``: closing waits no longer than this. For jobs that may never come back - somebody else's code, a read of a disk
    that hangs; then the thread is left behind, which does not keep the process from ending.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop | None = None,
        patience_s: float | None = None,
    ):
        self._patience_s = patience_s
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Done] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"multiraft-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``job`` on the thread after all submitted before, then ``done(result, error)`` on the loop. Raises Closed."""
        if self._closed:
            raise Closed(f"{self._thread.name} is closed")
        self._jobs.put((job, done))

    def close(self) -> None:
        """Finish what was submitted, then end the thread. Idempotent; blocks the caller until then, or out of patience."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(self._patience_s)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except BaseException as caught:
                error = caught  # handed on to the loop, whatever it is: nothing is swallowed here
            try:
                self._loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise
            del item, job, done, result, error


class InlineWorker:
    """The same face without a thread: jobs run at once, in the caller. For tests, and for work that cannot block."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        try:
            result = job()
        except Exception as error:
            done(None, error)
        else:
            done(result, None)

    def close(self) -> None:
        """Nothing to wait for."""


async def aside(job: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Run one blocking job - opening or closing something - on a thread of its own, and wait for it.

    Nothing can stop such a job: a cancelled wait goes on until it has ended, and ``undo`` then takes back what it made.
    """
    work = asyncio.ensure_future(asyncio.to_thread(job))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        if undo is not None and work.exception() is None:
            await asyncio.to_thread(undo, work.result())
        raise


class Background:
    """A thread that writes away what it is given, one item after another; ``put`` never waits.

    When ``items_max`` wait already, an item is dropped; the next that is taken is handed over with the number of those lost
    before it: ``write(item, dropped)``. What ``write`` raises ends the process's interest in its output, not the process.
    """

    def __init__(self, name: str, write: Callable[[Any, int], None], items_max: int):
        self._write = write
        self._items: queue.Queue[Any] = queue.Queue(items_max)
        self._dropped = 0
        self._end = object()
        self._thread = threading.Thread(target=self._run, name=f"multiraft-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Any) -> bool:
        """Hand an item over; False if it was dropped."""
        try:
            self._items.put_nowait((item, self._dropped))
        except queue.Full:
            self._dropped += 1
            return False
        self._dropped = 0
        return True

    def close(self, timeout_s: float) -> None:
        """Write what waits, for so long at most. A writer that hangs is left behind: the thread does not hold the process."""
        try:
            self._items.put((self._end, 0), timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            item, dropped = self._items.get()
            if item is self._end:
                return
            self._write(item, dropped)


# -- a loop for threads that have none ----------------------------------------------------------------------------------


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes loops: ``uvloop``, ``asyncio``, or ``auto`` (uvloop where it is installed). Raises ConfigError."""
    if choice not in ("auto", "uvloop", "asyncio"):
        raise ConfigError(f"loop = {choice!r}: it is 'auto', 'uvloop' or 'asyncio'")
    if choice != "asyncio":
        try:
            import uvloop
        except ImportError:
            if choice == "uvloop":
                raise ConfigError("loop = 'uvloop': uvloop is not installed") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


class _Ask(Generic[T]):
    """What a thread asks of a loop, and waits for. Answered once: by the loop, or by whoever finds that it came too late."""

    __slots__ = ("_answered", "_done", "_ended", "_work", "error", "future", "given_up", "result")

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work: Callable[[], Awaitable[T]] | None = work
        self._answered = threading.Lock()
        self._answered.acquire()
        self._ended: Callable[[_Ask[T]], object]
        self._done = False
        self.given_up = False
        self.future: asyncio.Future[T] | None = None
        self.result: T | None = None
        self.error: BaseException | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, ended: Callable[[_Ask[T]], object]) -> None:
        """Start the work, on the loop; ``ended`` is called with this when it has ended."""
        work, self._work, self._ended = self._work, None, ended
        try:
            if work is None or self.given_up:
                raise asyncio.CancelledError
            self.future = asyncio.ensure_future(work(), loop=loop)
        except BaseException as error:
            self.answer(None, error)  # handed on to the thread that waits
            ended(self)
        else:
            self.future.add_done_callback(self._finish)

    def _finish(self, future: asyncio.Future[T]) -> None:
        if future.cancelled():
            self.answer(None, _unheard())
        elif (error := future.exception()) is not None:
            self.answer(None, error)
        else:
            self.answer(future.result(), None)
        self._ended(self)

    def answer(self, result: T | None, error: BaseException | None) -> None:
        """Let the thread that waits go on. What comes after the first answer counts for nothing."""
        if not self._done:
            self._done = True
            self.future = None
            self.result, self.error = result, error
            self._answered.release()

    def give_up(self) -> None:
        """Nobody waits any more: cancel the work, on the loop."""
        self.given_up = True
        if self.future is not None:
            self.future.cancel()

    def wait(self) -> None:
        """Until there is an answer; a signal's handler may raise out of it."""
        self._answered.acquire()


def _unheard() -> OutcomeUnknown:
    """For work that was begun and whose end nobody hears of: ``Closed`` would say that nothing happened."""
    return OutcomeUnknown("the loop ended before this did: a write may have happened, or may yet")


class LoopThread:
    """One named OS thread that runs an event loop, for programs without one: other threads ask it for work, and wait.

    Any number of threads may wait at once. An exception that ends a wait (Ctrl-C) gives up the wait: the work is cancelled.
    No lock is held between two steps, so that a signal may strike anywhere and its handler may ask, too. In a forked
    process there is no such thread, and on a thread that runs a loop nobody may wait: both are WrongThread.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: deque[_Ask[Any]] = deque()
        self._begun: set[_Ask[Any]] = set()
        self._stop = asyncio.Event()
        self._frozen = False
        self._process = os.getpid()
        self.over = False
        """Nothing more is begun here."""
        atexit.register(self._freeze)
        self._thread = threading.Thread(target=self._run, name=f"multiraft-{name}", daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """Is this another process than the one that has the thread?"""
        return os.getpid() != self._process

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call ``work`` on the loop, await what it gives, and return or raise what comes of it.

        Raises WrongThread, Closed where it was not begun, OutcomeUnknown where the loop ended before it did.
        """
        if self.forked:
            raise WrongThread(
                f"it was opened in process {self._process}, and its thread is not in this one: open it after the fork"
            )
        if asyncio._get_running_loop() is not None:
            raise WrongThread(
                "this thread runs an event loop, which must not wait: use the asynchronous face"
            )
        ask = _Ask(work)
        try:
            self._ask(ask)
            ask.wait()
        except BaseException:
            self._wake(ask.give_up)
            raise
        try:
            if ask.error is not None:
                raise ask.error
            return ask.result  # type: ignore[return-value]
        finally:
            del ask  # its error holds this frame

    def tell(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done that nobody waits for; nothing where it is too late. From any thread, this one too."""
        if not self.forked and not self.over:
            self._ask(_Ask(work))

    def close(self) -> None:
        """End the loop and the thread; what was given up may end first. Idempotent, and nothing in a forked process."""
        if self.forked or self._frozen:
            return
        self._wake(self._stop.set)
        self._thread.join()
        atexit.unregister(self._freeze)

    def _ask(self, ask: _Ask[Any]) -> None:
        self._asked.append(ask)
        self._wake(self._begin_asked)
        if self.over:
            self._refuse()

    def _wake(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _refuse(self) -> None:
        """Answer whoever came too late to be begun. On any thread: each is taken out by one."""
        while True:
            try:
                ask = self._asked.popleft()
            except IndexError:
                return
            ask.answer(None, Closed("the node was closed"))

    # -- on the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
                self.over = True
        finally:
            self.over = True
            for ask in self._begun:
                ask.answer(None, _unheard())
            self._refuse()

    async def _main(self) -> None:
        await self._stop.wait()
        left = [ask.future for ask in self._begun if ask.future is not None]
        if left:
            await asyncio.wait(left, timeout=FREEZE_S)
        while given_up := [ask.future for ask in self._begun if ask.given_up and ask.future]:
            await asyncio.wait(given_up)

    def _begin_asked(self) -> None:
        if self.over:
            self._refuse()
            return
        while self._asked:
            ask = self._asked.popleft()
            self._begun.add(ask)
            ask.begin(self._loop, self._begun.discard)

    def _freeze(self) -> None:
        """The interpreter ends and nobody closed this: let the loop stand still, so that it meets no half-gone interpreter."""
        if self.forked or self.over:
            return
        self._frozen = self.over = True
        still = threading.Event()

        def stand_still() -> None:
            still.set()
            threading.Event().wait()

        self._wake(stand_still)
        still.wait(FREEZE_S)
        self._refuse()
