"""A simulated process: an asyncio loop whose time is simulated, and which can be stopped, resumed and killed.

All loops of a simulation share one ``Schedule`` and one thread. While a callback of a process runs, its loop is the running
loop, as asyncio means it. A process that was killed runs nothing any more, not even the ``finally`` of its coroutines: they
are kept, unrun, until the simulation is over. A process that is stopped (SIGSTOP) keeps what is due until it is resumed.

A process has a clock of its own, which may run at a wrong rate or jump. Timers go by it.

Never done here: files, sockets, threads. What a callback raises, or a task that nobody asks, is kept in ``troubles``.
"""

from __future__ import annotations

import asyncio
from asyncio import _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, NoReturn

from multiraft.testing.schedule import NS, Due, Schedule


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a callback or a task raised that nobody took."""

    message: str
    error: BaseException | None


class Callback(Due):
    """What asyncio calls a handle."""

    __slots__ = ("_arguments", "_callback", "_context", "_loop")

    def __init__(
        self,
        loop: ProcessLoop,
        at_ns: int,
        callback: Callable[..., object] | None,
        arguments: tuple[Any, ...],
        context: Context,
    ):
        self.at_ns = at_ns
        self._loop = loop
        self._callback = callback
        self._arguments = arguments
        self._context = context

    def run(self) -> None:
        loop, callback = self._loop, self._callback
        if callback is None:
            return
        if not loop.runs:
            if loop.stopped:
                loop.held.append(self)
            return
        _set_running_loop(loop)
        try:
            self._context.run(callback, *self._arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            loop.call_exception_handler({"message": f"{callback!r} raised", "exception": error})
        finally:
            _set_running_loop(None)

    def cancel(self) -> None:
        self._callback = None

    def cancelled(self) -> bool:
        return self._callback is None

    def when(self) -> float:
        return self._loop.local_ns(self.at_ns) / NS


class ProcessLoop(asyncio.AbstractEventLoop):
    """The loop of one life of one process. A restarted process has a new one."""

    def __init__(self, schedule: Schedule, name: str = "") -> None:
        self.schedule = schedule
        self.name = name
        self.runs = True
        self.stopped = False
        self.killed = False
        self.held: deque[Due] = deque()
        self.troubles: list[Trouble] = []
        self.takes: Callable[[BaseException], bool] = lambda error: self.killed
        """Is an error that nobody took none of the process's own? Asked of each, before it becomes a trouble."""
        self._rate = 1.0
        self._context = copy_context()
        self._offset_ns = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- the process ----------------------------------------------------------------------------------------------------

    def stop_process(self) -> None:
        """SIGSTOP: nothing runs until ``resume_process``; what arrives waits."""
        if not self.killed:
            self.runs, self.stopped = False, True

    def resume_process(self) -> None:
        """SIGCONT: everything that was due meanwhile happens now, in its order."""
        if self.stopped and not self.killed:
            self.runs, self.stopped = True, False
            held, self.held = self.held, deque()
            for due in held:
                self.schedule.add(due)

    def kill_process(self) -> None:
        """SIGKILL: nothing of it ever runs again."""
        self.runs = self.stopped = False
        self.killed = True
        self.held.clear()
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def discard(self) -> None:
        """The simulation is over: let the coroutines of a dead process end, with nobody there to hear of it."""
        self.kill_process()
        while self._tasks:  # one that ends may begin another
            coroutine = self._tasks.pop().get_coro()
            if coroutine is not None:
                try:
                    coroutine.close()
                except BaseException as error:  # of a process that is dead: it is nobody's trouble
                    self.troubles.append(Trouble("closing a coroutine of a dead process", error))

    def tick_at(self, rate: float) -> None:
        """Let its clock go faster or slower from here on. Timers that are set already keep their true time."""
        self._offset_ns = self.local_ns(self.schedule.now_ns) - round(self.schedule.now_ns * rate)
        self._rate = rate

    def jump(self, by_ns: int) -> None:
        """Let its clock have gone on by so much."""
        self._offset_ns += by_ns

    def local_ns(self, true_ns: int) -> int:
        """What its clock says at a true time."""
        return (
            round(true_ns * self._rate) + self._offset_ns
            if self._rate != 1.0
            else true_ns + self._offset_ns
        )

    def now_ns(self) -> int:
        return self.local_ns(self.schedule.now_ns)

    # -- what asyncio asks ----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.local_ns(self.schedule.now_ns) / NS

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        made = Callback(self, self.schedule.now_ns, callback, args, context or self._context)
        self.schedule.add(made)
        return made

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Any:
        at_ns = round((when * NS - self._offset_ns) / self._rate)
        made = Callback(self, at_ns, callback, args, context or self._context)
        self.schedule.add(made)
        return made

    def call_later_ns(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Callback:
        """After so much true time."""
        made = Callback(self, self.schedule.now_ns + delay_ns, callback, args, self._context)
        self.schedule.add(made)
        return made

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def is_running(self) -> bool:
        return not self.killed

    def is_closed(self) -> bool:
        return self.killed

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and self.takes(error):
            return
        self.troubles.append(Trouble(f"{self.name}: {context.get('message')}", error))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """Nothing is kept of them."""

    def close(self) -> None:
        self.kill_process()

    def run_forever(self) -> NoReturn:
        raise NotImplementedError("the schedule runs; a process does not run by itself")
