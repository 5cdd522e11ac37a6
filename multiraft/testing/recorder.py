"""The recorder of histories: a workload tells it what begins and what came of it.

    recorder = Recorder(file)
    with recorder.invoke(process, "write", key, value) as call:
        await store.put(key, value)
        call.ok()

It never guesses: what was not said to have happened, or surely not to have, is of unknown outcome. One thread uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from multiraft.errors import CommandError, Rejected, Retryable
from multiraft.testing.history import (
    FAIL,
    INFO,
    INVOKE,
    OK,
    UNKNOWN,
    History,
    NoInvocation,
    Operation,
    Process,
    StillOpen,
    Value,
    event_line,
    freeze,
)


class Call:
    """One operation on its way: say ``ok(result)``, ``fail()`` or ``info()`` before the block ends.

    A block that ends without a word leaves it unknown. An error in it is passed on, and noted: nothing happened where the
    error's class says so (Retryable, Rejected), unknown for every other, cancellation among them. A CommandError says that
    a user's machine *did* apply the command, so it is unknown, too, unless the block says ``ok`` with what that means.
    """

    __slots__ = ("_operation", "_recorder")

    def __init__(self, recorder: Recorder, operation: Operation):
        self._recorder = recorder
        self._operation: Operation | None = operation

    def ok(self, result: Value = None) -> None:
        """It happened, and this is its answer."""
        self._end(OK, freeze(result))

    def fail(self) -> None:
        """It did not happen and never will. Say it only when that is sure."""
        self._end(FAIL, UNKNOWN)

    def info(self) -> None:
        """It may have happened, or may yet."""
        self._end(INFO, UNKNOWN)

    def _end(self, outcome: str, result: Value) -> None:
        operation, self._operation = self._operation, None
        if operation is None:
            raise NoInvocation("this call has been completed already")
        self._recorder._completed(operation, outcome, result)

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._operation is not None:
            sure = isinstance(error, Retryable | Rejected) and not isinstance(error, CommandError)
            self._end(FAIL if sure else INFO, UNKNOWN)


class Recorder:
    """Takes down what a workload does, from one thread, such as that of a loop.

    ``file`` gets each event as a line at once, so that a run that dies leaves its history. ``clock`` says the time of an
    event: nanoseconds by default, simulated time in a simulator.
    """

    def __init__(
        self, file: TextIO | None = None, clock: Callable[[], int | float] = time.monotonic_ns
    ):
        self._file = file
        self._clock = clock
        self._position = 0
        self._operations: dict[int, Operation] = {}
        """By the position of their invocation."""
        self._open: dict[Process, int] = {}

    def invoke(self, process: Process, f: str, key: Value, value: Value = None) -> Call:
        """Note that an operation begins now; what comes of it is said to the call."""
        if process in self._open:
            began = self._open[process]
            raise StillOpen(f"process {process!r} has not completed what it began at {began}")
        argument, key = freeze(value), freeze(key)
        self._position += 1
        operation = Operation(process, f, key, argument, self._position, self._clock())
        self._open[process] = self._position
        self._operations[self._position] = operation
        self._say(operation, INVOKE)
        return Call(self, operation)

    def history(self) -> History:
        """What is known so far; calls that have not ended are of unknown outcome."""
        return History(tuple(self._operations.values()))

    def _completed(self, began: Operation, outcome: str, result: Value) -> None:
        self._position += 1
        operation = Operation(
            began.process,
            began.f,
            began.key,
            began.argument,
            began.called,
            began.call_time,
            outcome,
            result,
            self._position,
            self._clock(),
        )
        self._operations[began.called] = operation
        del self._open[began.process]
        self._say(operation, outcome)

    def _say(self, operation: Operation, kind: str) -> None:
        if self._file is not None:
            self._file.write(event_line(operation, kind) + "\n")
