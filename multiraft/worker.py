"""Threads, all of them: the only module that imports ``threading``.

A worker is one named OS thread that runs the jobs handed to it, in order, and tells the loop what came of each. Jobs are
plain functions that may block (a commit, a sync, a file); they never touch what the loop owns. Nothing here holds a lock
while it runs a job or a callback.

Invariant: ``done`` of each job is called exactly once, on the loop, in the order of the jobs - unless the loop is closed,
when nobody is left to tell.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from multiraft.errors import Closed

T = TypeVar("T")

Done = Callable[[Any, BaseException | None], None]


class Worker:
    """One named OS thread behind a queue. Made on a running loop, or for the loop that is given."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None):
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
        """Finish what was submitted, then end the thread. Idempotent; blocks the caller until then."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

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


async def aside(job: Callable[[], T]) -> T:
    """Run one blocking job - opening or closing something - on a thread of its own, and wait for it."""
    return await asyncio.to_thread(job)


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
