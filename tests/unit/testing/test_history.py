"""Histories as files, and the recorder: what goes in comes out, and what is no history is refused with its line."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft import PreconditionFailed
from multiraft.errors import CommandError, DeadlineExceeded, NotLeader
from multiraft.testing import (
    FAIL,
    INFO,
    OK,
    UNKNOWN,
    BadField,
    History,
    HistoryError,
    NoInvocation,
    NotJson,
    Recorder,
    Register,
    StillOpen,
    TimeWentBack,
    UnknownType,
)
from tests.unit.testing.histories import Recipe, history

Run = Callable[[Coroutine[Any, Any, None]], None]

BEGIN = '{"process": 1, "type": "invoke", "f": "read", "key": "x", "value": null, "time": 5}'
END = '{"process": 1, "type": "ok", "f": "read", "key": "x", "value": 3, "time": 6}'


def test_a_pair_of_lines_is_an_operation() -> None:
    (one,) = History.from_lines([BEGIN, "", END]).operations
    assert (one.process, one.f, one.key, one.argument) == (1, "read", "x", None)
    assert (one.outcome, one.result, one.called, one.ended) == (OK, 3, 1, 3)
    assert (one.call_time, one.return_time) == (5, 6)


def test_what_has_no_completion_or_info_is_unknown_and_never_ends() -> None:
    info = END.replace('"ok"', '"info"')
    for lines in ([BEGIN], [BEGIN, info]):
        (one,) = History.from_lines(lines).operations
        assert one.outcome == INFO and one.result is UNKNOWN and one.ended is None


def test_a_process_goes_on_after_info() -> None:
    info = END.replace('"ok"', '"info"')
    again = BEGIN.replace('"time": 5', '"time": 7')
    assert len(History.from_lines([BEGIN, info, again])) == 2


@pytest.mark.parametrize(
    ("lines", "error", "line"),
    [
        ([BEGIN, "{"], NotJson, 2),
        (["[" * 100_000], NotJson, 1),
        (["7"], NotJson, 1),
        ([BEGIN.replace("null", "NaN")], NotJson, 1),
        ([BEGIN.replace("null", '{"a": 1}')], BadField, 1),
        ([BEGIN.replace("null", '{"bytes": "0g"}')], BadField, 1),
        ([BEGIN.replace("null", "1e999")], BadField, 1),
        ([BEGIN.replace('"process": 1', '"process": null')], BadField, 1),
        ([BEGIN.replace('"time": 5', '"time": "5"')], BadField, 1),
        ([BEGIN.replace('"f": "read"', '"f": ""')], BadField, 1),
        ([BEGIN, END.replace('"ok"', '"done"')], UnknownType, 2),
        ([END], NoInvocation, 1),
        ([BEGIN, END, END.replace('"time": 6', '"time": 7')], NoInvocation, 3),
        ([BEGIN, END.replace('"read"', '"write"')], NoInvocation, 2),
        ([BEGIN, END.replace('"x"', '"y"')], NoInvocation, 2),
        ([BEGIN, BEGIN], StillOpen, 2),
        ([BEGIN, END.replace('"time": 6', '"time": 4')], TimeWentBack, 2),
    ],
)
def test_what_is_no_history_is_refused_with_its_line(
    lines: list[str], error: type[HistoryError], line: int
) -> None:
    with pytest.raises(error, match=f"^line {line}: ") as caught:
        History.from_lines(lines)
    assert caught.value.line == line
    assert isinstance(caught.value, HistoryError) and isinstance(caught.value, ValueError)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes(b"\xff\xfe")
    with pytest.raises(NotJson):
        History.read(tmp_path / "h")


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    recipe = Recipe(Register(), 300, unknown=0.2, weights={"read": 1, "write": 1, "cas": 1})
    before = History(tuple(history(recipe, 1)))
    before.write(tmp_path / "h.jsonl")
    assert History.read(tmp_path / "h.jsonl") == before


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(VALUES, VALUES, st.text(min_size=1) | st.integers())
def test_every_value_is_read_back(argument: Any, result: Any, process: int | str) -> None:
    file = io.StringIO()
    recorder = Recorder(file)
    with recorder.invoke(process, "f", argument, argument) as call:
        call.ok(result)
    assert History.from_lines(io.StringIO(file.getvalue())) == recorder.history()
    (one,) = recorder.history()
    assert one.result == result and type(one.result) is type(result)


# -- the recorder -------------------------------------------------------------------------------------------------------


def test_the_recorder_notes_what_it_is_told(arun: Run) -> None:
    async def main() -> None:
        recorder = Recorder()

        async def write(process: int, say: str) -> None:
            with recorder.invoke(process, "write", "x", process) as call:
                await asyncio.sleep(0)
                if say:
                    getattr(call, say)()

        await asyncio.gather(*(write(n, say) for n, say in enumerate(("ok", "fail", "info", ""))))
        assert [one.outcome for one in recorder.history()] == [OK, FAIL, INFO, INFO]
        assert [one.called for one in recorder.history()] == [1, 2, 3, 4]

    arun(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotLeader(), FAIL),
        (PreconditionFailed(), FAIL),
        (DeadlineExceeded(), INFO),
        (ValueError(), INFO),
        (KeyboardInterrupt(), INFO),
        (asyncio.CancelledError(), INFO),
        (CommandError("the machine applied it, and says no"), INFO),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_passed_on_and_says_what_happened(error: BaseException, outcome: str) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)):
        with recorder.invoke(1, "write", "x", 1):
            raise error
    (one,) = recorder.history()
    assert one.outcome == outcome


def test_what_was_said_before_an_error_stands() -> None:
    recorder = Recorder()
    with pytest.raises(NotLeader):
        with recorder.invoke(1, "write", "x", 1) as call:
            call.ok()
            raise NotLeader
    (one,) = recorder.history()
    assert one.outcome == OK


def test_nobody_says_two_things_or_begins_two() -> None:
    recorder = Recorder()
    call = recorder.invoke("a", "read", "x")
    with pytest.raises(StillOpen):
        recorder.invoke("a", "read", "x")
    call.ok(1)
    with pytest.raises(NoInvocation):
        call.fail()


def test_an_open_call_is_unknown() -> None:
    recorder = Recorder()
    recorder.invoke("a", "read", "x")
    (one,) = recorder.history()
    assert one.outcome == INFO and one.returned is None


def test_the_clock_is_the_callers() -> None:
    times = iter((3, 8))
    recorder = Recorder(clock=lambda: next(times))
    with recorder.invoke(1, "read", "x") as call:
        call.ok(None)
    (one,) = recorder.history()
    assert (one.call_time, one.return_time) == (3, 8)
