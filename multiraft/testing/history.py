"""Histories: what was asked of a store, when, and what came of it. Written by a workload, judged by ``linearizability``.

A history is a list of events in the order in which they happened; on disk, JSON lines::

    {"process": 1, "type": "invoke", "f": "write", "key": "x", "value": 7, "time": 120}
    {"process": 1, "type": "ok", "f": "write", "key": "x", "value": null, "time": 250}

``value`` of an ``invoke`` is the argument, of an ``ok`` the result. ``fail`` is sure: it did not happen and never will.
``info`` is the other honest answer: nobody knows, or it may happen yet; an operation without any completion is the same.
The order of lines says what came first; times are for people, and only have to agree with it.

Invariants: a process has one open operation at most; time never goes back; a completion belongs to the open operation of
its process. Values are immutable (lists become tuples) and compared as Python does. This module judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from multiraft.errors import MultiRaftError

Value: TypeAlias = Any
"""None, bool, a finite number, text, bytes, or a tuple of such."""
Process: TypeAlias = int | str

OK: Final = "ok"
FAIL: Final = "fail"
INFO: Final = "info"
INVOKE: Final = "invoke"
BYTES: Final = "bytes"
"""The one key of an object that stands for bytes in JSON: ``{"bytes": "00ff"}``."""


class HistoryError(MultiRaftError, ValueError):
    """A history cannot be read, or is none; ``line`` is where (0 where it came from no file)."""

    def __init__(self, message: str, *, line: int = 0):
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class NotJson(HistoryError):
    """A line is no JSON object."""


class BadField(HistoryError):
    """A field is missing, or holds what it cannot hold."""


class UnknownType(HistoryError):
    """``type`` is none of invoke, ok, fail, info."""


class NoInvocation(HistoryError):
    """A completion whose process has no open operation, or another one."""


class StillOpen(HistoryError):
    """A process begins an operation while its last one is open."""


class TimeWentBack(HistoryError):
    """An event is earlier than the one before it."""


class Unknown:
    """The result that nobody knows. There is one, ``UNKNOWN``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "?"


UNKNOWN: Final = Unknown()


@dataclass(slots=True, frozen=True)
class Operation:
    """One operation from beginning to end."""

    process: Process
    f: str
    key: Value
    argument: Value
    called: int
    """Position of its invocation: the number of the line."""
    call_time: int | float = 0
    outcome: str = INFO
    result: Value = UNKNOWN
    """What an ``ok`` said; UNKNOWN otherwise."""
    returned: int | None = None
    """Position of its completion, of whatever type; None where there was none."""
    return_time: int | float | None = None

    @property
    def ended(self) -> int | None:
        """The position after which it can take effect no more; None where that is unknown."""
        return self.returned if self.outcome == OK else None


@dataclass(slots=True, frozen=True)
class History:
    """Operations in the order in which they were invoked."""

    operations: tuple[Operation, ...] = ()

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    @classmethod
    def read(cls, path: str | Path) -> History:
        """Read a file of JSON lines; raises HistoryError, or OSError."""
        try:
            with Path(path).open(encoding="utf-8") as file:
                return cls.from_lines(file)
        except UnicodeDecodeError as error:
            raise NotJson(f"{path} is not UTF-8: {error}") from error

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> History:
        """Read JSON lines; blank ones are skipped, and counted."""
        reading = Reading()
        for number, line in enumerate(lines, 1):
            if line.strip():
                reading.take(parse(line, number), number)
        return cls(reading.finish())

    def lines(self) -> Iterator[str]:
        """The events as JSON lines, without line ends."""
        events: list[tuple[int, Operation, str]] = []
        for one in self.operations:
            events.append((one.called, one, INVOKE))
            if one.returned is not None:
                events.append((one.returned, one, one.outcome))
        events.sort(key=lambda event: event[0])
        for _, one, kind in events:
            yield event_line(one, kind)

    def write(self, path: str | Path) -> None:
        """Write a file of JSON lines that ``read`` reads back as it was."""
        with Path(path).open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in self.lines())


# -- reading ------------------------------------------------------------------------------------------------------------


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value here: it does not equal itself, or has no end")


DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def parse(line: str, number: int) -> dict[str, Any]:
    """The object of one line."""
    try:
        event = DECODER.decode(line.strip())
    except (ValueError, RecursionError) as error:
        raise NotJson(f"no JSON: {error}", line=number) from error
    if not isinstance(event, dict):
        raise NotJson("an event is a JSON object", line=number)
    return event


def freeze(value: Any) -> Value:
    """A value that can be compared and hashed: lists become tuples; raises ValueError for what is none."""
    if value is None or isinstance(value, str | int | bytes):
        return value
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} is no finite number")
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return tuple(map(freeze, value))
    if isinstance(value, dict) and set(value) == {BYTES} and isinstance(value[BYTES], str):
        return bytes.fromhex(value[BYTES])
    raise ValueError(
        f"a {type(value).__name__} is no value: take null, numbers, text, bytes, lists"
    )


@dataclass(slots=True)
class Opened:
    """An operation whose completion has not come yet."""

    place: int
    f: str
    key: Value
    argument: Value
    called: int
    call_time: int | float


@dataclass(slots=True)
class Reading:
    """Events one after the other, held to the invariants."""

    operations: list[Operation | None] = field(default_factory=list)
    open: dict[Process, Opened] = field(default_factory=dict)
    time: int | float | None = None

    def take(self, event: dict[str, Any], line: int) -> None:
        """One event; ``line`` becomes its position."""
        kind = event.get("type")
        if kind not in (INVOKE, OK, FAIL, INFO):
            raise UnknownType(f"type is {kind!r}, and none of invoke, ok, fail, info", line=line)
        process, now = event.get("process"), event.get("time")
        if not isinstance(process, int | str) or isinstance(process, bool):
            raise BadField(f"process is {process!r}, and neither a number nor text", line=line)
        if not isinstance(now, int | float) or isinstance(now, bool):
            raise BadField(f"time is {now!r}, and no number", line=line)
        if self.time is not None and now < self.time:
            raise TimeWentBack(f"time goes back from {self.time} to {now}", line=line)
        self.time = now
        try:
            value, key = freeze(event.get("value")), freeze(event.get("key"))
        except (ValueError, RecursionError) as error:
            raise BadField(str(error), line=line) from error
        if kind == INVOKE:
            self._invoked(process, event.get("f"), key, value, line, now)
        else:
            self._completed(process, event, kind, key, value, line, now)

    def _invoked(
        self, process: Process, f: Any, key: Value, value: Value, line: int, now: int | float
    ) -> None:
        if not isinstance(f, str) or not f:
            raise BadField(f"f is {f!r}, and no name of an operation", line=line)
        if process in self.open:
            message = f"process {process!r} has not completed what it began in line {self.open[process].called}"
            raise StillOpen(message, line=line)
        self.open[process] = Opened(len(self.operations), f, key, value, line, now)
        self.operations.append(None)

    def _completed(
        self,
        process: Process,
        event: dict[str, Any],
        kind: str,
        key: Value,
        value: Value,
        line: int,
        now: int | float,
    ) -> None:
        began = self.open.pop(process, None)
        if began is None:
            raise NoInvocation(f"process {process!r} has nothing to complete", line=line)
        if event.get("f", began.f) != began.f or ("key" in event and key != began.key):
            message = f"process {process!r} began another operation, in line {began.called}"
            raise NoInvocation(message, line=line)
        self.operations[began.place] = Operation(
            process,
            began.f,
            began.key,
            began.argument,
            began.called,
            began.call_time,
            kind,
            value if kind == OK else UNKNOWN,
            line,
            now,
        )

    def finish(self) -> tuple[Operation, ...]:
        """All operations; the open ones are of unknown outcome."""
        done = list(self.operations)
        for process, one in self.open.items():
            done[one.place] = Operation(
                process, one.f, one.key, one.argument, one.called, one.call_time
            )
        return tuple(one for one in done if one is not None)


# -- writing ------------------------------------------------------------------------------------------------------------


def thaw(value: Value) -> Any:
    """What JSON can hold of a value."""
    if isinstance(value, bytes):
        return {BYTES: value.hex()}
    return list(map(thaw, value)) if isinstance(value, tuple) else value


def event_line(one: Operation, kind: str) -> str:
    """One event in JSON."""
    value = one.argument if kind == INVOKE else one.result if kind == OK else None
    event = {
        "process": one.process,
        "type": kind,
        "f": one.f,
        "key": thaw(one.key),
        "value": thaw(value),
        "time": one.call_time if kind == INVOKE else one.return_time,
    }
    return json.dumps(event, ensure_ascii=False)
